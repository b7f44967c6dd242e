"""AWQ: weights with large inputs matter more, so scale them up before rounding and their inputs down.

    x Wᵀ = (x / s) (W diag(s))ᵀ        exactly, for any s (I) of positive numbers, one per input

A weight is rounded to the nearest multiple of its group's step size, so its error does not depend on how large the
weight is. Multiply a column of W (O, I) by s = 2, and divide its input by 2: the weight's error is the same as before,
and what it adds to the output is half as large. But a column that grows beyond the others makes the step size larger,
for all of its group. So only columns with large inputs should grow. The paper takes s = (mean |x|)^α, tries values of α
from 0 (no scaling) to 1, and keeps the one with the smallest error in the output [equations 4 and 5].

*The method* for one output and two inputs, of which the second is 20 times as large. With 4 bits the levels are -7/7,
-6/7, ... 7/7 of the group's largest weight, here 1; the second weight, 0.4, is between 2/7 and 3/7. A good α makes it
exact, and leaves the other weight nearly exact:

    >>> from finetune.quantization import absmax
    >>> W = np.array([[1.0, 0.4]])                             # (O, I)
    >>> x = np.array([[0.1, 2.0], [-0.1, 2.0]])                # (N, I): two inputs of the layer
    >>> for alpha in (0, 0.5, 1):
    ...     s = np.abs(x).mean(axis=0) ** alpha                # (I): the second one is the larger
    ...     rounded = absmax(W * s, bits=4).dequantize() / s   # round W diag(s); / s, as if x were divided
    ...     error = ((x @ (rounded - W).T) ** 2).sum()         # in the output
    ...     print(alpha, rounded.round(2), error.round(4))
    0 [[1.   0.43]] 0.0065
    0.5 [[1.02 0.4 ]] 0.0
    1 [[1.14 0.4 ]] 0.0004

`search_scales` is this loop. The division costs nothing at run time, because it is folded into the module that produces
the input: the weight and bias of a norm, or the rows of a linear layer (`scale_block`).

The second half of the method is clipping (`clipped`). The largest weight of a group determines the step size, and
cutting it off gives finer steps to all others. The best cut is also found by search.

Lin et al. 2023, "AWQ: Activation-aware weight quantization for LLM compression and acceleration", section 3.
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
    """
    if not magnitude.any():  # all inputs are 0, and no scales are better than others
        magnitude = np.ones_like(magnitude)
    magnitude = np.maximum(magnitude, 1e-4 * magnitude.max())  # one input that is always 0 still needs an s > 0
    best_error = np.inf
    best_scales = np.ones_like(magnitude)
    best_alpha = 0.0
    for alpha in np.linspace(0, 1, STEPS + 1):
        scales = magnitude**alpha  # (I)
        scales = scales / np.sqrt(scales.max() * scales.min())  # a common factor would cancel: center the range on 1
        rounded = rounding(weight * scales).dequantize() / scales  # (O, I)
        error = output_error(weight, rounded, hessian)
        if error < best_error:
            best_error = error
            best_scales = scales
            best_alpha = float(alpha)
    return best_scales.astype(weight.dtype), best_alpha


def clipped(weight: np.ndarray, hessian: np.ndarray, rounding: Rounding, groups: int) -> np.ndarray:
    """The weight (O, I) with each group clipped at the share of its largest magnitude that minimizes the output error.

    Each group is judged by its own part of the output: rounding errors d (1, I/G) of its weights cost d H dᵀ (gptq.py),
    where H (I/G, I/G) is the Hessian of its inputs. convert.py calls it for each weight before rounding.
    """
    rows, columns = weight.shape
    # G groups of I/G neighboring inputs. Of the Hessian, only the G blocks on its diagonal count.
    parts = weight.reshape(rows, groups, -1)  # (O, G, I/G)
    inputs_of_group = np.arange(columns).reshape(groups, -1)  # (G, I/G)
    hessians = hessian[inputs_of_group[:, :, None], inputs_of_group[:, None, :]]  # (G, I/G, I/G)
    largest = np.abs(parts).max(axis=-1, keepdims=True)  # (O, G, 1)
    best_error = np.full((rows, groups), np.inf)
    best = parts
    for share in SHRINK:
        candidate = np.clip(parts, -share * largest, share * largest)
        rounded = rounding(candidate.reshape(weight.shape)).dequantize().reshape(parts.shape)
        d = (rounded - parts).transpose(1, 0, 2)  # (G, O, I/G)
        error = np.einsum("goi,goi->og", d @ hessians, d)  # d H dᵀ of each row and group, (O, G)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best = np.where(better[:, :, None], candidate, best)
    return best.reshape(weight.shape)


# --- in a block -------------------------------------------------------------------------------------------------------


def scale_block(
    block: nn.Module, inputs: Sequence[SharedInput], moments: Mapping[str, InputMoments], rounding: Rounding
) -> dict[str, float]:
    """Scale the layers of a pre-norm block for rounding, without changing what the block computes. Returns each α.

    `inputs` lists which layers share their input, and therefore their scales, and the module (`source`) it comes from.
    The source is divided by s: the weight and bias of a norm, or the rows of a linear layer. We go from back to front,
    so a layer has been divided before its own scales are searched for: c_proj divides c_attn's rows, then c_attn gets
    its scales. The `moments` of the layers' inputs are scaled too.
    """
    alphas = {}
    for shared in reversed(inputs):
        layers: list[Any] = [block.get_submodule(name) for name in shared.layers]
        size = layers[0].in_features
        source: Any = None if shared.source is None else block.get_submodule(shared.source)
        # No source: a GELU lies between, and GELU(x / s) is not GELU(x) / s. Too few rows: the heads of values are
        # shared, and one value feeds several inputs, which may need different s.
        if source is None or len(source.weight.data) < size:
            continue
        # One s for all layers that share this input, as if they were one layer.
        weights = np.concatenate([layer.weight.data for layer in layers])  # (outputs of all, I)
        sums = moments[shared.layers[0]]
        scales, alpha = search_scales(weights, sums.hessian, sums.magnitude / sums.count, rounding)
        # W diag(s) in these layers,
        for name, layer in zip(shared.layers, layers):
            layer.weight.data = layer.weight.data * scales
            alphas[name] = alpha
        # and x / s from the source: row i by s[i]. Of c_attn's rows, q, k and v, only the last, v, feed c_proj.
        for parameter in (source.weight, getattr(source, "bias", None)):
            if parameter is not None:
                divided = parameter.data.copy()  # (I) of a norm or of a bias; (I, ...) of a linear layer
                divided[-size:] = (divided[-size:].T / scales).T
                parameter.data = divided
        sums.hessian /= np.outer(scales, scales)
        sums.magnitude /= scales
    return alphas
