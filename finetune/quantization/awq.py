"""AWQ: weights with large inputs matter more, so scale them up before rounding and their inputs down.

Lin et al. 2023, "AWQ: Activation-aware weight quantization for LLM compression and acceleration", section 3.

    x Wᵀ = (x / s) (W diag(s))ᵀ        exactly, for any s > 0 per input (I)

The rounding error of a weight depends on the step size of its group, not on the weight. If a column is scaled up by s
and its input down by s, its error in the output becomes s times smaller. Scaling up all columns would only increase the
step size, so the paper derives s from the size of the inputs, s = mean |x|^α, and tries values of α from 0 (no scaling)
to 1 [equations 4 and 5]. The division costs nothing at run time, because it is folded into the module that produces the
input: the weight and bias of a norm, or the rows of a linear layer.

The second half of the method is clipping. The largest weight of a group determines the step size, and cutting it off
gives finer steps to all others. The best cut is also found by search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpt.model.structure import SharedInput
from minigrad import nn

from .array import QuantizedArray
from .calibration import InputMoments
from .gptq import output_error

STEPS = 20  # the search tries α = 0, 1/20, ..., 1
SHRINK = np.linspace(1, 0.5, 11)  # the search clips at these shares of a group's largest magnitude

Rounding = Callable[[np.ndarray], QuantizedArray]


def search_scales(
    weight: np.ndarray, hessian: np.ndarray, magnitude: np.ndarray, rounding: Rounding
) -> tuple[np.ndarray, float]:
    """The scales s (I) that minimize the output error of a rounded weight (O, I), and their α.

    hessian: Σ x xᵀ (I, I) over the layer's inputs (see gptq.py). magnitude: mean |x| (I). α = 0 is one of the
    candidates, so the error is never larger than without scaling.

    >>> from finetune.quantization import absmax
    >>> weight, hessian = np.array([[1.0, 0.4]], np.float32), np.diag([0.01, 4.0])
    >>> scales, alpha = search_scales(weight, hessian, np.array([0.1, 2.0]), lambda w: absmax(w, bits=4))
    >>> print((absmax(weight * scales, bits=4).dequantize() / scales).round(2), alpha > 0)  # 0.43 without
    [[0.98 0.4 ]] True
    """
    best_error, best_scales, best_alpha = np.inf, np.ones_like(magnitude), 0.0
    magnitude = np.maximum(magnitude, 1e-4 * magnitude.max()) if magnitude.max() > 0 else np.ones_like(magnitude)
    for alpha in np.linspace(0, 1, STEPS + 1):
        scales = magnitude**alpha
        scales = scales / np.sqrt(scales.max() * scales.min())  # a common factor would cancel: center the range on 1
        # round what the layer would hold, and undo the scaling to compare it with the weight
        error = output_error(weight, rounding(weight * scales).dequantize() / scales, hessian)
        if error < best_error:
            best_error, best_scales, best_alpha = error, scales, float(alpha)
    return best_scales.astype(weight.dtype), best_alpha


def clipped(weight: np.ndarray, hessian: np.ndarray, rounding: Rounding, groups: int) -> np.ndarray:
    """The weight (O, I) with each group clipped at the share of its largest magnitude that minimizes the output error.

    Each group is judged by its own part of the output: a rounding error d costs d H dᵀ, where H is the Hessian of its
    inputs.
    """
    rows, columns = weight.shape
    parts = weight.reshape(rows, groups, -1)  # (O, G, I/G)
    own = np.arange(columns).reshape(groups, -1)  # the columns of each group
    hessians = hessian[own[:, :, None], own[:, None, :]]  # (G, I/G, I/G)
    largest = np.abs(parts).max(axis=-1, keepdims=True)
    best_error, best = np.full((rows, groups), np.inf), parts
    for share in SHRINK:
        candidate = np.clip(parts, -share * largest, share * largest)
        difference = rounding(candidate.reshape(weight.shape)).dequantize().reshape(parts.shape) - parts
        per_group = difference.transpose(1, 0, 2)  # (G, O, I/G)
        error = np.einsum("goi,goi->og", per_group @ hessians, per_group)  # d H dᵀ of each row and group, (O, G)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best = np.where(better[:, :, None], candidate, best)
    return best.reshape(weight.shape)


# --- in a block -------------------------------------------------------------------------------------------------------


def scale_block(
    block: nn.Module, inputs: Sequence[SharedInput], moments: Mapping[str, InputMoments], rounding: Rounding
) -> dict[str, float]:
    """Scale the layers of a pre-norm block for rounding, without changing what the block computes. Returns each α.

    The `moments` of the layers' inputs are scaled too. `inputs` lists which layers share their input, and
    therefore their scales, and which module takes the division by s: the weight and bias of a norm, or the rows of a
    linear layer. We go from back to front, so a layer has been divided before its own scales are searched for. Without
    such a module (behind GPT-2's GELU, or with shared value heads) the weights are only clipped.
    """
    alphas = {}
    for shared in reversed(inputs):
        layers: list[Any] = [block.get_submodule(name) for name in shared.layers]
        before: Any = None if shared.source is None else block.get_submodule(shared.source)
        size = layers[0].in_features
        if before is None or len(before.weight.data) < size:
            continue
        measured = moments[shared.layers[0]]
        together = np.concatenate([layer.weight.data for layer in layers])  # (outputs of all, I)
        scales, alpha = search_scales(together, measured.hessian, measured.magnitude / measured.count, rounding)
        for name, layer in zip(shared.layers, layers):
            layer.weight.data = layer.weight.data * scales
            alphas[name] = alpha
        for parameter in (before.weight, getattr(before, "bias", None)):
            if parameter is not None:
                divided = parameter.data.copy()
                # The last rows of a matrix or elements of a vector, where c_attn computes the values.
                divided[-size:] = (divided[-size:].T / scales).T
                parameter.data = divided
        measured.hessian /= np.outer(scales, scales)
        measured.magnitude /= scales
    return alphas
