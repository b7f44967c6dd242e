"""How do we find out what a model has learned? By looking into its activations, and by changing them.

Everything attaches from outside, with forward hooks and an observer of attention: the models have no line for it.

    activations.py   record what modules compute, and replace it while the model runs
    heads.py         attention patterns, and ablation: switching heads and layers off
    lens.py          the logit lens: what the model would say after each layer
    patching.py      activation patching: which activation carries the answer?
    induction.py     induction heads: finding what copies a repeated text
"""

from .activations import patched, record_activations
from .heads import ablated, attention_patterns
from .induction import induction_scores, repeated_tokens
from .lens import logit_lens
from .patching import patch_effects

__all__ = [
    "ablated", "attention_patterns", "induction_scores", "logit_lens", "patch_effects", "patched", "record_activations",
    "repeated_tokens",
]  # fmt: skip
