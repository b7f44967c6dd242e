"""Writes gpt2.npz, gpt1.npz and llama.npz: small models of transformers with random weights, computed in float64.

    PYTHONPATH=. python tests/gpt/golden/make_golden.py          needs the extra `oracle`

Each file holds `config` (JSON), `ids`, `targets` (-100 does not count), `weight/NAME` in our names and shapes,
`logits`, `loss`, `gradient/NAME`; all but gpt1.npz also `greedy` and `penalized`, with which transformers continues
`ids`. GPT-1 is the post-norm model. The Llama has two heads of queries to one of keys and values.
"""

import json
from pathlib import Path

import numpy as np

from gpt import GPT, GPTConfig, Llama, LlamaConfig
from scripts.compare_torch import carried_over, in_other_layout, our_name
from tests.gpt import small
from tests.gpt.golden.reference import continuation, ids_and_targets, logits_and_loss, show_sizes, with_random_weights

FOLDER = Path(__file__).resolve().parent
SHAPES = {
    "gpt2": {**small.SHAPE, "norm": "pre"},
    "gpt1": {**small.SHAPE, "norm": "post"},
    "llama": {**small.LLAMA, "rms_norm_epsilon": 1e-3, "tied": True},
}


def compute(kind):
    """Everything that a file holds."""
    shape = SHAPES[kind]
    ours = Llama(LlamaConfig(**shape)) if kind == "llama" else GPT(GPTConfig(**shape))
    model = with_random_weights(carried_over(ours.to("float64")))
    model.generation_config.eos_token_id = None
    ids, targets = ids_and_targets(np.random.default_rng(0), shape["vocab_size"], 7)
    arrays = {"config": json.dumps(shape), **logits_and_loss(model, ids, targets)}
    for name, parameter in model.named_parameters():
        arrays[f"weight/{our_name(name)}"] = in_other_layout(name, parameter.detach().numpy()).astype(np.float32)
        arrays[f"gradient/{our_name(name)}"] = in_other_layout(name, parameter.grad.numpy())
    if kind != "gpt1":
        arrays["greedy"] = continuation(model, ids, 5)
        arrays["penalized"] = continuation(model, ids, 5, repetition_penalty=1.3)
    return arrays


if __name__ == "__main__":
    for kind in SHAPES:
        np.savez_compressed(FOLDER / f"{kind}.npz", **compute(kind))
        show_sizes(FOLDER / f"{kind}.npz")
