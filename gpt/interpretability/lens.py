"""The logit lens: read the residual stream after each layer as if the model ended there.

All layers add to one stream, and the head reads it. So the head can also read what is there after layer 1, 2, ...: how
the prediction comes about. nostalgebraist 2020, "Interpreting GPT: the logit lens".
"""

from __future__ import annotations

import numpy as np

from minigrad import Tensor, no_grad
from minigrad.backend import Array, to_numpy
from minigrad.nn.module import evaluating

from ..model.language_model import Ids, LanguageModel
from .activations import record_activations


def logit_lens(model: LanguageModel, ids: Ids) -> np.ndarray:
    """Logits after each layer: ids (B, T) -> (L, B, T, V). Those of the last layer are the model's own."""
    names = model.part_names()
    with no_grad(), evaluating(model), record_activations(model, names) as found:
        model.hidden_states(ids)
    return np.array([read_stream(model, found[name]) for name in names])


def read_stream(model: LanguageModel, stream: Array) -> np.ndarray:
    """The logits that the last norm and the head make of a residual stream: (..., C) -> (..., V)."""
    with no_grad():
        return to_numpy(model.lm_head(model.final_norm(Tensor(stream))).data)
