"""How wrong a prediction is, as one number to make smaller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..autograd import Function
from ..backend import module_of
from ..dtypes import is_floating
from .activation import log_softmax, log_softmax_of_array, logsigmoid
from .broadcasting import array_of
from .elementwise import exp, log, where
from .indexing import check_indices, gather
from .linalg import linear
from .reduction import mean as mean_of
from .reduction import sum as sum_of
from .shape import reshape

if TYPE_CHECKING:
    from ..tensor import Tensor


class CrossEntropy(Function):
    """loss = -ln softmax(logits)[target] per row, times the class weight.

    The gradient is what the model believed minus what was true:  dlogits = dloss * (softmax(logits) - onehot(target)).
    Label smoothing e puts e/C of the truth on each of the C classes: q = (1 - e) onehot + e/C, loss = -Σ_c q_c weight_c ln p_c, and
    dlogits = dloss * (p Σ_c q_c weight_c - q weight).  Rows whose target is `ignore_index` give loss 0 and gradient 0.
    """

    dtype_rule = "any"

    @staticmethod
    def forward(ctx, logits, targets, weight, ignore_index, reduction, label_smoothing):  # logits (N, C), targets (N)
        xp = module_of(logits)
        n, classes = logits.shape
        kept = targets != ignore_index
        rows, safe = xp.arange(n), xp.where(kept, targets, 0)
        log_probs = log_softmax_of_array(logits, dim=1)
        row_weight = kept.astype(logits.dtype) if weight is None else xp.where(kept, weight[safe], 0)
        loss = -(1 - label_smoothing) * row_weight * log_probs[rows, safe]
        if label_smoothing > 0:
            spread = log_probs.sum(axis=1) if weight is None else log_probs @ weight
            loss = loss - label_smoothing / classes * xp.where(kept, spread, 0)

        ctx.rows, ctx.safe, ctx.kept, ctx.row_weight, ctx.weight = rows, safe, kept, row_weight, weight
        ctx.smoothing, ctx.reduction = label_smoothing, reduction
        ctx.probs = xp.exp(log_probs)
        if reduction == "none":
            return xp.where(kept, loss, 0)
        ctx.total = row_weight.sum() if reduction == "mean" else None
        return loss.sum() if reduction == "sum" else loss.sum() / ctx.total

    @staticmethod
    def backward(ctx, dout):
        xp = module_of(dout)
        classes = ctx.probs.shape[1]
        if ctx.reduction == "mean":
            dout = dout / ctx.total
        dloss = xp.where(ctx.kept, dout, 0)[:, None]  # (N, 1): dloss of each row
        true_mass = (1 - ctx.smoothing) * ctx.row_weight[:, None]
        if ctx.smoothing == 0:
            dlogits = ctx.probs * (dloss * true_mass)
        else:
            class_weight = xp.ones(classes, ctx.probs.dtype) if ctx.weight is None else ctx.weight
            spread = ctx.smoothing / classes * class_weight
            dlogits = dloss * (ctx.probs * (true_mass + spread.sum()) - spread)
        dlogits[ctx.rows, ctx.safe] -= (dloss * true_mass)[:, 0]
        return dlogits, None, None


class LinearCrossEntropy(Function):
    """The output projection and the cross-entropy as one op, so that a fast kernel need never hold all logits (N, V) at once."""

    @staticmethod
    def compose(x, weight, targets, ignore_index, reduction):
        return cross_entropy(linear(x, weight), targets, ignore_index=ignore_index, reduction=reduction)


def cross_entropy(
    logits: Tensor,
    targets: Any,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-ln softmax(logits)[target], of logits (N, C) and class numbers (N); or (C), (); or (N, C, d1, ...), (N, d1, ...).

    Targets of floating dtype in the logits' shape are probabilities. reduction: "mean" (over the class weights of the rows that count),
    "sum", "none". All rows ignored: the mean is nan, as in PyTorch. Raises IndexError for a target outside 0..C-1 that is not
    `ignore_index`, ValueError for shapes that do not fit.
    """
    _check_reduction("cross_entropy", reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be in 0..1, got {label_smoothing}")
    class_dim = 1 if logits.ndim > 1 else 0
    if is_floating(targets.dtype):
        return _soft_cross_entropy(logits, targets, weight, reduction, label_smoothing, class_dim)
    target_array = array_of(targets)
    rows, flat = _rows_of_classes("cross_entropy", logits, target_array, ignore_index)
    loss = CrossEntropy.apply(
        rows, flat, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )
    return reshape(loss, target_array.shape) if reduction == "none" else loss


def _rows_of_classes(op: str, scores: Tensor, targets: Any, ignore_index: int) -> tuple[Tensor, Any]:
    """Scores (N, C, d1, ...) as (N * d1 * ..., C), targets (N, d1, ...) as (N * d1 * ...); checks both."""
    class_dim = 1 if scores.ndim > 1 else 0
    if scores.ndim == 0 or targets.shape != scores.shape[:class_dim] + scores.shape[class_dim + 1 :]:
        raise ValueError(f"{op}: targets of shape {targets.shape} do not fit scores of shape {scores.shape} with classes on axis {class_dim}")
    classes = scores.shape[class_dim]
    check_indices(op, targets[targets != ignore_index], classes, f"the {classes} classes")
    last = scores.permute(*(axis for axis in range(scores.ndim) if axis != class_dim), class_dim)
    return reshape(last, (targets.size, classes)), targets.reshape(-1)


def _soft_cross_entropy(logits, targets, weight, reduction, label_smoothing, class_dim):
    """Cross-entropy against probabilities: -Σ_c target_c weight_c ln p_c."""
    if targets.shape != logits.shape:
        raise ValueError(f"cross_entropy: probabilities of shape {targets.shape} do not fit logits of shape {logits.shape}")
    classes = logits.shape[class_dim]
    if label_smoothing > 0:
        targets = targets * (1 - label_smoothing) + label_smoothing / classes
    log_probs = log_softmax(logits, class_dim)
    if weight is not None:
        log_probs = log_probs * reshape(weight, [classes if axis == class_dim else 1 for axis in range(logits.ndim)])
    loss = -sum_of(log_probs * targets, class_dim)
    return sum_of(loss) / (logits.data.size // classes if classes else 0) if reduction == "mean" else _reduced(loss, reduction)


def nll_loss(
    log_probs: Tensor, targets: Any, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """-log_probs[target]: cross-entropy after the log-softmax. Shapes, weights and errors as `cross_entropy`."""
    _check_reduction("nll_loss", reduction)
    target_array = array_of(targets)
    rows, flat = _rows_of_classes("nll_loss", log_probs, target_array, ignore_index)
    xp = module_of(flat)
    kept = flat != ignore_index
    safe = xp.where(kept, flat, 0)
    row_weight = kept.astype(rows.dtype) if weight is None else xp.where(kept, weight.data[safe], 0)
    picked = reshape(gather(rows, 1, safe[:, None]), (flat.size,))
    loss = where(kept, -picked * row_weight, 0.0)  # where, as -inf * 0 would be nan
    if reduction == "none":
        return reshape(loss, target_array.shape)
    return sum_of(loss) / row_weight.sum() if reduction == "mean" else sum_of(loss)


def mse_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(x - target)²."""
    difference = x - target
    return _reduced(difference * difference, reduction)


def binary_cross_entropy_with_logits(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-(pos_weight * target * ln σ(logits) + (1 - target) * ln(1 - σ(logits))), σ the sigmoid; exact for large logits."""
    if target.shape != logits.shape:
        raise ValueError(f"binary_cross_entropy_with_logits: target {target.shape} does not fit logits {logits.shape}")
    positive = target * logsigmoid(logits)
    if pos_weight is not None:
        positive = positive * pos_weight
    loss = -(positive + (1 - target) * logsigmoid(-logits))  # ln(1 - σ(x)) = ln σ(-x)
    return _reduced(loss if weight is None else loss * weight, reduction)


def kl_div(log_probs: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """KL(target || probs) elementwise: target * (ln target - log_probs), where 0 ln 0 = 0.

    reduction "batchmean" divides the sum by the first axis, which is the mathematical KL of a batch; "mean" divides by all elements.
    """
    if log_target:
        loss = exp(target) * (target - log_probs)
    else:
        positive = target > 0
        loss = where(positive, target * log(where(positive, target, 1.0)), 0.0) - target * log_probs
    if reduction == "batchmean":
        return sum_of(loss) / (loss.shape[0] if loss.ndim else 1)
    return _reduced(loss, reduction)


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Any, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """cross_entropy(x @ weightᵀ, targets), with x (N, C), weight (V, C), targets (N)."""
    _check_reduction("linear_cross_entropy", reduction)
    return LinearCrossEntropy.apply(x, weight, targets, ignore_index=ignore_index, reduction=reduction)


def _check_reduction(op: str, reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{op}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    _check_reduction("loss", reduction)
    return mean_of(loss) if reduction == "mean" else sum_of(loss) if reduction == "sum" else loss
