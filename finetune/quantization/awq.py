"""AWQ: weights that meet large inputs matter more; scale them up before rounding, and their inputs down.

Lin et al. 2023, "AWQ: Activation-aware weight quantization for LLM compression and acceleration", section 3.

    x Wᵀ = (x / s) (W diag(s))ᵀ        exactly, for any s > 0 per input (I)

A weight's rounding error depends on the step of its group, not on the weight; so a column that is scaled up by s and
whose input is scaled down by s has an error s times smaller in the output. Scaling all columns up would only widen the
steps. The paper takes s from how large the inputs are, s = mean |x|^α, and tries α from 0 (no scaling) to 1 [equations
4 and 5]. No arithmetic is added, because the division is folded into whatever made the input: a norm's weight and bias,
or the rows of a linear layer.

The second half of the method is clipping: in each group the largest weight sets the step, and it may pay to cut it off
for finer steps for all others. How far is searched for as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minigrad import Tensor, nn

from ..architectures import Architecture
from .array import QuantizedArray
from .calibration import InputMoments
from .gptq import output_error

STEPS = 20  # of the search for α
SHRINK = np.linspace(1, 0.5, 11)  # of the search for the clipping

Rounding = Callable[[np.ndarray], QuantizedArray]


def search_scales(
    weight: np.ndarray, gram: np.ndarray, magnitude: np.ndarray, rounding: Rounding
) -> tuple[np.ndarray, float]:
    """The scales s (I) with which `rounding` disturbs the outputs of a weight (O, I) least, and their α.

    gram: Σ x xᵀ (I, I) over the layer's inputs. magnitude: mean |x| (I). α = 0 is among the candidates, so that the
    error is never larger than that of rounding the weight as it is.

    >>> from finetune.quantization import absmax
    >>> weight, gram = np.array([[1.0, 0.4]], np.float32), np.diag([0.01, 4.0])
    >>> scales, alpha = search_scales(weight, gram, np.array([0.1, 2.0]), lambda w: absmax(w, bits=4))
    >>> print((absmax(weight * scales, bits=4).dequantize() / scales).round(2), alpha > 0)  # 0.43 without
    [[0.98 0.4 ]] True
    """
    best_error, best_scales, best_alpha = np.inf, np.ones_like(magnitude), 0.0
    magnitude = np.maximum(magnitude, 1e-4 * magnitude.max()) if magnitude.max() > 0 else np.ones_like(magnitude)
    for alpha in np.linspace(0, 1, STEPS + 1):
        scales = magnitude**alpha
        scales = scales / np.sqrt(scales.max() * scales.min())
        error = output_error(weight, rounding(weight * scales).dequantize() / scales, gram)
        if error < best_error:
            best_error, best_scales, best_alpha = error, scales, float(alpha)
    return best_scales.astype(weight.dtype), best_alpha


def clipped(weight: np.ndarray, gram: np.ndarray, rounding: Rounding, groups: int) -> np.ndarray:
    """The weight (O, I) with each group cut off at that share of its largest magnitude which disturbs outputs least.

    A group is judged by its own part of the output: its rounding error d gives d G dᵀ, with G the gram of its inputs.
    """
    rows, columns = weight.shape
    parts = weight.reshape(rows, groups, -1)  # (O, G, I/G)
    own = np.arange(columns).reshape(groups, -1)
    grams = gram[own[:, :, None], own[:, None, :]]  # (G, I/G, I/G)
    largest = np.abs(parts).max(axis=-1, keepdims=True)
    best_error, best = np.full((rows, groups), np.inf), parts
    for share in SHRINK:
        candidate = np.clip(parts, -share * largest, share * largest)
        difference = rounding(candidate.reshape(weight.shape)).dequantize().reshape(parts.shape) - parts
        per_group = difference.transpose(1, 0, 2)  # (G, O, I/G)
        error = np.einsum("goi,goi->og", per_group @ grams, per_group)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best = np.where(better[:, :, None], candidate, best)
    return best.reshape(weight.shape)


# --- in a block -------------------------------------------------------------------------------------------------------


def scale_block(
    block: nn.Module, parts: Architecture, moments: Mapping[str, InputMoments], rounding: Rounding
) -> dict[str, float]:
    """Scale the layers of a pre-norm block for rounding, without changing what the block computes; returns each α.

    `moments` of the layers' inputs are scaled along. `parts.inputs` says which layers share their input, and so their
    scales, and where the division by s goes: into the weight and bias of a norm, or into the rows of a linear layer.
    From back to front, so that a layer is divided before its own scales are looked for. Where there is nothing to
    divide (behind GPT-2's GELU; where heads of values are shared) the weights are clipped only.
    """
    alphas = {}
    for shared in reversed(parts.inputs):
        layers: list[Any] = [block.get_submodule(name) for name in shared.layers]
        before: Any = None if shared.source is None else block.get_submodule(shared.source)
        inputs = layers[0].in_features
        if before is None or len(before.weight.data) < inputs:
            continue
        its = moments[shared.layers[0]]
        together = np.concatenate([layer.weight.data for layer in layers])  # (outputs of all, I)
        scales, alpha = search_scales(together, its.gram, its.mean_magnitude, rounding)
        for name, layer in zip(shared.layers, layers):
            _set(layer.weight, layer.weight.data * scales)
            alphas[name] = alpha
        for parameter in (before.weight, getattr(before, "bias", None)):
            if parameter is not None:
                divided = parameter.data.copy()
                divided[-inputs:] = (divided[-inputs:].T / scales).T  # of a matrix the rows, of a vector the elements
                _set(parameter, divided)
        its.gram /= np.outer(scales, scales)
        its.magnitude /= scales
    return alphas


def _set(parameter: Tensor, data: np.ndarray) -> None:
    parameter.data = data
    parameter.version += 1
