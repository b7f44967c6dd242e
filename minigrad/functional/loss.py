"""Losses: how wrong a prediction is, as one number to minimize."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..autograd import Function
from ..backend import Array, array_of, is_array, module_of, wider
from ..dtypes import is_floating
from ..fused import FusedFunction
from .activation import log_softmax, log_softmax_of_array, logsigmoid
from .argument_checks import Indices, check_floating, check_fraction, check_tensor
from .elementwise import cast, exp, log, where
from .indexing import check_indices, check_integers, gather
from .linalg import check_linear, linear
from .reduction import mean as mean_of
from .reduction import sum as sum_of
from .shape import permute, reshape

if TYPE_CHECKING:
    from ..tensor import Tensor


class CrossEntropy(Function):
    """loss = -ln softmax(logits)[target] for each row, then the mean or the sum over the rows.

    softmax(logits)[target] is the probability of the right class. Its -ln is 0 where the model was certain and right,
    and grows without bound the less probable it thought the truth. For one row,

        loss = ln Σ_c e^(logits_c) - logits_target

    By logits_i, the first term's derivative is e^(logits_i) / Σ_c e^(logits_c), which is softmax(logits)_i. That of
    logits_target is onehot(target), which is 1 at the target and 0 elsewhere. So

        dlogits = dloss * (softmax(logits) - onehot(target))

    which is what the model believed minus what was true. (A mean over n rows divides it by n.)

    Rows whose target is `ignore_index` do not count (padding, or a prompt that the model should not learn to write):
    their loss and their gradient are 0, and the mean is over the other rows.
    """

    widens_float16 = True

    @staticmethod
    def forward(ctx, logits, targets, ignore_index, reduction):  # logits (N, C), targets (N)
        xp = module_of(logits)
        ctx.kept = targets != ignore_index  # (N): True for the rows that count
        ctx.rows = xp.arange(len(targets))
        ctx.targets = xp.where(ctx.kept, targets, 0)  # ignore_index is not a class: look up class 0 in its place
        ctx.log_probs = log_softmax_of_array(logits, dim=1)  # (N, C)
        # (N): -ln of the probability of the target
        losses = xp.where(ctx.kept, -ctx.log_probs[ctx.rows, ctx.targets], 0)
        ctx.n = 1
        if reduction == "mean":
            ctx.n = nan_if_0(ctx.kept.sum(dtype=logits.dtype))  # over the rows that count; of no rows, the mean is nan
        return losses if reduction == "none" else losses.sum() / ctx.n

    @staticmethod
    def backward(ctx, dout):
        xp = module_of(dout)
        # loss = losses.sum() / n; with "none", dout has a number for each row, and n is 1
        dlosses = xp.where(ctx.kept, dout / ctx.n, 0)  # (N)
        # losses = logsumexp(logits) - logits[target]:  dlogits = dlosses * (probs - onehot(target))
        probs = xp.exp(ctx.log_probs)  # softmax(logits), (N, C)
        dlogits = dlosses[:, None] * probs
        dlogits[ctx.rows, ctx.targets] -= dlosses  # onehot(target) is 1 at these places and 0 elsewhere
        return dlogits, None  # targets have no gradient


def cross_entropy(
    logits: Tensor,
    targets: Tensor | Array,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The mean of -ln softmax(logits)[target]: logits (N, C), targets (N), the number of each row's right class.

    With two equally likely classes, either one is a surprise of ln 2:

    >>> import numpy as np
    >>> from minigrad import Tensor
    >>> logits = Tensor(np.array([[0.0, 0.0]]), requires_grad=True)  # softmax is (0.5, 0.5)
    >>> loss = cross_entropy(logits, np.array([1]))
    >>> loss.backward()
    >>> loss.item() == math.log(2), logits.grad  # (0.5, 0.5) - (0, 1)
    (True, array([[ 0.5, -0.5]]))

    Rows whose target is `ignore_index` do not count (-100 is PyTorch's default: no class has this number). reduction:
    "mean", "sum", or "none" for a loss per row. For other shapes, class weights, probabilities as targets and label
    smoothing, see `general_cross_entropy`. Raises IndexError for a target outside 0..C-1 that is not `ignore_index`,
    ValueError for shapes that do not fit, TypeError for logits that are integers.
    """
    check_reduction("cross_entropy", reduction)
    check_floating("cross_entropy", logits)
    has_extras = weight is not None or label_smoothing != 0 or are_probabilities(targets)
    if has_extras or logits.ndim != 2:
        return general_cross_entropy(logits, targets, weight, ignore_index, reduction, label_smoothing)
    targets = array_of(targets)
    check_targets("cross_entropy", targets, logits.shape, 1, ignore_index)
    return CrossEntropy.apply(logits, targets, ignore_index=ignore_index, reduction=reduction)


class LinearCrossEntropy(FusedFunction):
    """cross_entropy(x @ weightᵀ, targets): a language model's head and its loss as one fused op: see minigrad/fused.py.

    Its kernel, in kernels/cpu/cross_entropy.py, never holds all logits (N, V).
    """

    widens_float16 = True

    @staticmethod
    def compose(x, weight, targets, ignore_index, reduction):
        return cross_entropy(linear(x, weight), targets, ignore_index=ignore_index, reduction=reduction)


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Indices, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """cross_entropy(x @ weightᵀ, targets), with x (N, C), weight (V, C), targets (N).

    Errors as in `cross_entropy`, and ValueError for an x that is not a matrix.
    """
    op = "linear_cross_entropy"
    targets = array_of(targets)
    check_reduction(op, reduction)
    check_linear(op, x, weight, None)
    check_floating(op, x)
    if x.dtype != weight.dtype:
        raise TypeError(f"{op}: cannot mix {x.dtype} and {weight.dtype}; convert one of them with .to(dtype)")
    if x.ndim != 2:
        raise ValueError(f"{op}: x must be (N, C), got shape {x.shape}; reshape it")
    check_targets(op, targets, (x.shape[0], weight.shape[0]), 1, ignore_index)
    return LinearCrossEntropy.apply(x, weight, targets, ignore_index=ignore_index, reduction=reduction)


def mse_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(x - target)², then the mean or the sum; "none" keeps the shape. Backward: dx = dloss * 2 (x - target).

    Raises ValueError if the shapes differ, because broadcasting would compare all pairs.
    """
    check_reduction("mse_loss", reduction)
    check_tensor("mse_loss", x, target)
    if x.shape != target.shape:
        raise ValueError(f"mse_loss: shapes {x.shape} and {target.shape} differ; reshape or expand one of them")
    difference = x - target
    return _reduced(difference * difference, reduction)


def binary_cross_entropy_with_logits(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-(pos_weight target ln σ(logits) + (1 - target) ln(1 - σ(logits))), σ the sigmoid; exact for large logits.

    Backward, without weights: dlogits = dloss * (σ(logits) - target). `weight` multiplies each loss. Raises ValueError
    if target and logits differ in shape, or for an unknown reduction.
    """
    check_reduction("binary_cross_entropy_with_logits", reduction)
    check_tensor("binary_cross_entropy_with_logits", logits, target)
    if target.shape != logits.shape:
        raise ValueError(f"binary_cross_entropy_with_logits: target {target.shape} does not fit logits {logits.shape}")
    positive = target * logsigmoid(logits)
    if pos_weight is not None:
        positive = positive * pos_weight
    loss = -(positive + (1 - target) * logsigmoid(-logits))  # ln(1 - σ(x)) = ln σ(-x)
    return _reduced(loss if weight is None else loss * weight, reduction)


def kl_div(log_probs: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """KL(target || probs) elementwise: target * (ln target - log_probs), where 0 ln 0 = 0.

    Backward: dlog_probs = -dloss * target. log_target: `target` holds logarithms. The reduction "batchmean" divides the
    sum by the size of the first axis and gives the mean KL divergence of a batch; "mean" divides by the number of all
    elements. Raises ValueError for an unknown reduction.
    """
    check_reduction("kl_div", reduction, "batchmean")
    check_tensor("kl_div", log_probs, target)
    if log_target:
        loss = exp(target) * (target - log_probs)
    else:
        nonzero = where(target == 0, 1.0, target)  # 0 ln 0 counts as 0 ln 1
        loss = target * log(nonzero) - target * log_probs
    if reduction == "batchmean":
        rows = loss.shape[0] if loss.ndim else 1
        return _divided(loss, rows or math.nan)
    return _reduced(loss, reduction)


# --- cross-entropy beyond logits (N, C) and class numbers (N): other shapes, weights, smoothing, probabilities ---


def general_cross_entropy(
    logits: Tensor, targets: Any, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor:
    """Cross-entropy of any shape, with class weights, probabilities as targets, or label smoothing.

    Shapes: logits (C) and a target (); or (N, C, d1, ...) and (N, d1, ...), as for the pixels of N images. Targets may
    also be probabilities: floats in the shape of the logits. weight (C) multiplies the loss of each class; for class
    numbers, the mean is then divided by the sum of the rows' weights. Label smoothing ε moves ε of the probability from
    the target to all classes, ε/C to each. If no row counts, the mean is nan, as in PyTorch.

    Who computes it:
    * probabilities: `_soft_cross_entropy`
    * class numbers, with class weights or label smoothing: `_nll_loss`
    * class numbers, where only the shape is unusual: `CrossEntropy`, with logits (N, C) after a reshape
    """
    check_fraction("cross_entropy: label_smoothing", label_smoothing)
    class_dim = 1 if logits.ndim > 1 else 0
    check_class_weight("cross_entropy", weight, logits, class_dim)
    if are_probabilities(targets):
        if ignore_index != -100:
            raise ValueError("cross_entropy: ignore_index is for class numbers, but the targets are probabilities")
        return _soft_cross_entropy(logits, targets, weight, reduction, label_smoothing, class_dim)
    targets = array_of(targets)
    check_targets("cross_entropy", targets, logits.shape, class_dim, ignore_index)
    if weight is not None or label_smoothing > 0:
        log_probs = log_softmax(logits, class_dim)
        return _nll_loss(log_probs, targets, weight, ignore_index, reduction, label_smoothing, class_dim)
    # only the shape is unusual: the classes go last, and all other axes become rows
    others = [axis for axis in range(logits.ndim) if axis != class_dim]
    rows = reshape(permute(logits, (*others, class_dim)), (targets.size, logits.shape[class_dim]))
    loss = CrossEntropy.apply(rows, targets.reshape(-1), ignore_index=ignore_index, reduction=reduction)
    return reshape(loss, targets.shape) if reduction == "none" else loss


def are_probabilities(targets: Any) -> bool:
    """True for floats; class numbers are integers."""
    array = array_of(targets)
    return is_array(array) and is_floating(array.dtype)


def _soft_cross_entropy(logits, targets, weight, reduction, label_smoothing, class_dim):
    """Cross-entropy with probabilities as targets: -Σ_c target_c weight_c ln p_c."""
    if targets.shape != logits.shape:
        raise ValueError(f"cross_entropy: probabilities {targets.shape} do not fit logits {logits.shape}")
    if label_smoothing > 0:
        targets = targets * (1 - label_smoothing) + label_smoothing / logits.shape[class_dim]
    log_probs = _times_class_weight(log_softmax(logits, class_dim), weight, class_dim)
    return _reduced(-sum_of(log_probs * targets, class_dim), reduction)


def nll_loss(
    log_probs: Tensor, targets: Indices, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """-log_probs[target] for each row: cross-entropy after the log-softmax.

    Backward: dlog_probs = -dloss at the target, 0 elsewhere. Shapes, weights, reduction and errors as in
    `cross_entropy`.
    """
    check_reduction("nll_loss", reduction)
    check_floating("nll_loss", log_probs)
    class_dim = 1 if log_probs.ndim > 1 else 0
    targets = array_of(targets)
    check_class_weight("nll_loss", weight, log_probs, class_dim)
    check_targets("nll_loss", targets, log_probs.shape, class_dim, ignore_index)
    return _nll_loss(log_probs, targets, weight, ignore_index, reduction, 0.0, class_dim)


def _nll_loss(log_probs, targets, weight, ignore_index, reduction, label_smoothing, class_dim):
    """loss = -(1 - ε) weight_target ln p_target - ε/C Σ_c weight_c ln p_c, where ε is the label smoothing."""
    xp = module_of(targets)
    weight = array_of(weight)
    kept = xp.asarray(targets != ignore_index)
    safe = xp.where(kept, targets, 0)  # ignore_index is not a class
    row_weight = kept.astype(log_probs.dtype) if weight is None else xp.where(kept, weight[safe], 0)
    # ln p of each target, in the targets' shape
    picked = reshape(gather(log_probs, class_dim, xp.expand_dims(safe, class_dim)), safe.shape)
    loss = where(kept, -picked, 0.0) * row_weight  # where, as -inf * 0 would be nan
    if label_smoothing > 0:
        of_all = sum_of(_times_class_weight(log_probs, weight, class_dim), class_dim)
        uniform = label_smoothing / log_probs.shape[class_dim]  # ε/C, the share of each class
        loss = loss * (1 - label_smoothing) - where(kept, of_all, 0.0) * uniform
    if reduction == "mean":
        # wider: the dtype to add up in, here float32 for float16, and that of the result.
        total_weight = row_weight.sum(dtype=wider(loss.dtype, 1)[0])
        return _divided(loss, nan_if_0(total_weight))
    return _reduced(loss, reduction)


def _times_class_weight(log_probs, weight, class_dim):
    if weight is None:
        return log_probs
    return log_probs * reshape(weight, [-1 if axis == class_dim else 1 for axis in range(log_probs.ndim)])


# --- what the losses share ---


def check_targets(op: str, targets: Indices, shape: tuple[int, ...], class_dim: int, ignore_index: int) -> None:
    """Raise TypeError, ValueError or IndexError unless `targets` has one class number for each row of scores."""
    check_integers(op, targets)
    if not shape or targets.shape != shape[:class_dim] + shape[class_dim + 1 :]:
        raise ValueError(
            f"{op}: targets of shape {targets.shape} do not fit scores of shape {shape}, whose classes are on axis "
            f"{class_dim}; if yours are on the last axis, use scores.reshape(-1, classes) and targets.reshape(-1)"
        )
    labels = module_of(targets).where(targets == ignore_index, 0, targets)
    check_indices(op, labels, shape[class_dim], f"the {shape[class_dim]} classes")


def check_class_weight(op: str, weight: Any, scores: Tensor, class_dim: int) -> None:
    if weight is None:
        return
    check_tensor(op, weight)
    if scores.ndim == 0 or weight.shape != scores.shape[class_dim : class_dim + 1]:
        raise ValueError(f"{op}: weight of shape {weight.shape} does not fit scores of shape {scores.shape}")
    if weight.dtype != scores.dtype:
        raise TypeError(f"{op}: cannot mix {scores.dtype} scores and {weight.dtype} weights; convert with .to(dtype)")


def check_reduction(op: str, reduction: str, *others: str) -> None:
    """Raise ValueError for an unknown reduction."""
    if reduction not in ("mean", "sum", "none", *others):
        names = ", ".join([repr(name) for name in ("mean", "sum", "none", *others)])
        raise ValueError(f"{op}: reduction must be one of {names}, got {reduction!r}")


def nan_if_0(total: Array) -> Array:
    """The divisor of a mean: nan instead of 0, because the mean over no rows is nan. (At 0 / 0, NumPy would warn.)"""
    return module_of(total).where(total == 0, math.nan, total)


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    return mean_of(loss) if reduction == "mean" else sum_of(loss)


def _divided(loss: Tensor, divisor: Any) -> Tensor:
    """The sum of `loss`, divided; in float32 for float16, whose largest number, 65504, a sum soon exceeds."""
    computed, result = wider(loss.dtype, 1)
    return cast(sum_of(loss, dtype=computed) / divisor, result)
