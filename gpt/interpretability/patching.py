"""Activation patching: which activation carries the answer?

Run the model on two texts that differ in one place, so that its answers differ: a clean one and a corrupted one. Then
run it on the corrupted text again, but with one activation taken from the clean run. Where this brings the clean answer
back, that activation carries the information. Vig et al. 2020, "Investigating gender bias in language models using
causal mediation analysis"; Meng et al. 2022 (ROME), section 2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minigrad import Tensor, no_grad
from minigrad.backend import to_numpy
from minigrad.nn.module import evaluating

from ..model.language_model import Ids, LanguageModel
from .activations import patched, record_activations


def patch_effects(
    model: LanguageModel, clean: Ids, corrupted: Ids, score: Callable[[np.ndarray], float], part: str = "block"
) -> np.ndarray:
    """How much of the clean answer returns with one activation from the clean run: (L, T).

    clean, corrupted (T): texts of one length. score: maps the logits (T, V) to a number, such as logits[-1, right] -
    logits[-1, wrong]. The result is 0 for the corrupted score and 1 for the clean one. part: "block" patches the
    residual stream after a layer, "attention" or "mlp" what that sub-layer adds. Raises ValueError for texts of
    different lengths and for a score that is the same on both.
    """
    clean, corrupted = np.asarray(clean), np.asarray(corrupted)
    if clean.shape != corrupted.shape or clean.ndim != 1:
        raise ValueError(f"the two texts must have one length, got {clean.shape} and {corrupted.shape}")
    names = model.part_names(part)
    with no_grad(), evaluating(model):
        with record_activations(model, names) as found:
            clean_score = score(to_numpy(model(clean[None]).data)[0])
        corrupted_score = score(to_numpy(model(corrupted[None]).data)[0])
        if clean_score == corrupted_score:
            raise ValueError("the score is the same on both texts, so there is nothing to bring back")
        effects = np.zeros((len(names), len(clean)))
        for layer, name in enumerate(names):
            for place in range(len(clean)):

                def with_clean(output: Tensor, name: str = name, place: int = place) -> Tensor:
                    changed = output.data.copy()
                    changed[:, place] = found[name][:, place]
                    return Tensor(changed)

                with patched(model, {name: with_clean}):
                    effects[layer, place] = score(to_numpy(model(corrupted[None]).data)[0])
    return (effects - corrupted_score) / (clean_score - corrupted_score)
