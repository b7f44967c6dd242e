"""Shared by the tests of fast kernels: samples of each op, and one way to run and compare them."""

from typing import NamedTuple

import numpy as np

import minigrad.functional as F
from minigrad import Tensor, manual_seed, use_kernels
from minigrad.backend import module_of, to_device, to_numpy


def randn(*shape, seed=0):
    return np.asarray(np.random.default_rng([seed, *shape]).normal(size=shape))


def labels(classes, *shape, ignored=False):
    """Random classes; with `ignored`, every third is -100."""
    targets = np.random.default_rng([classes, *shape]).integers(0, classes, shape)
    if ignored:
        targets[::3] = -100
    return targets


# --- samples ---


def affine(op, rows, size, **options):
    """Rows far from 0, which shows whether the mean is taken out before squares are."""
    parameters = [randn(size, seed=1), randn(size, seed=2)][: 1 if op == "rms_norm" else 2]
    return op, [randn(rows, size) + 10, size, *parameters], options


def linear(op, x, features, bias=True, **options):
    """`op` of an x of this shape, a weight (features, last axis of x) and a bias."""
    return op, [randn(*x), randn(features, x[-1], seed=1), randn(features, seed=2) if bias else None], options


def cross_entropy(logits, ignored=False, **options):
    """cross_entropy of these logits and random targets."""
    n, classes = logits.shape
    return "cross_entropy", [logits, labels(classes, n, ignored=ignored)], options


def losses(n, features, classes, ignored=False, **options):
    """linear_cross_entropy of n rows."""
    inputs = [randn(n, features), randn(classes, features, seed=1), labels(classes, n, ignored=ignored)]
    return "linear_cross_entropy", inputs, options


NORMS = ("layer_norm", "rms_norm")
REDUCTIONS = ("sum", "mean", "none")
EXACT = "none"
TANH = "tanh"
LARGE_NUMBERS = np.array([-1e4, -800.0, -40.0, -6.0, -1e-9, 0.0, 1e-9, 6.0, 40.0, 1e4])
HIDDEN = np.where(np.arange(700) % 3 == 0, -np.inf, randn(2, 700))
LARGE_LOGITS = [1e3 * randn(4, 3), randn(5, 3), labels(5, 4)]
FAR_BELOW_0 = [np.full((3, 2), 1000.0), -2 - np.abs(randn(33, 2)), labels(33, 3)]
# Around the size of a warp (32 threads) and of a block of threads (1024).
SIZES = (0, 1, 31, 32, 33, 1023, 1025)
# name -> (op, inputs, options). "large" ones are shared out among threads, by rows or by columns, or cut into chunks.
SAMPLES = {
    "linear": linear("linear", (2, 3, 5), 7),
    "linear without bias": linear("linear", (4, 5), 7, bias=False),
    "linear of a vector": linear("linear", (5,), 3),
    "linear of no rows": linear("linear", (0, 5), 3),
    "linear without inputs": linear("linear", (4, 0), 3),
    "linear without outputs": linear("linear", (2, 1), 0),
    "linear, large, by rows": linear("linear", (257, 131), 67),
    "linear, large, by columns": linear("linear", (33, 200), 311),
    "linear, large, to few": linear("linear", (1000, 150), 3),
    **{f"linear_gelu {n}": linear("linear_gelu", (2, 3, 7), n) for n in SIZES},
    **{f"linear_gelu rows {n}": linear("linear_gelu", (n, 7), 5, bias=False) for n in SIZES[:5]},
    "linear_gelu exact": linear("linear_gelu", (7,), 33, approximate=EXACT),
    "linear_gelu, large": linear("linear_gelu", (700, 21), 211, approximate=TANH),
    "linear_gelu exact, large": linear("linear_gelu", (700, 21), 211, bias=False, approximate=EXACT),
    **{f"gelu {form} {n}": ("gelu", [3 * randn(n)], {"approximate": form}) for n in SIZES for form in (EXACT, TANH)},
    **{f"gelu {form} of large numbers": ("gelu", [LARGE_NUMBERS], {"approximate": form}) for form in (EXACT, TANH)},
    **{f"gelu {form}, large": ("gelu", [randn(300, 501)], {"approximate": form}) for form in (EXACT, TANH)},
    "gelu of a number": ("gelu", [randn()], {}),
    **{f"{op} {n}": affine(op, 5, n) for n in SIZES[1:] for op in NORMS},
    **{f"{op} rows {n}": affine(op, n, 33) for n in SIZES for op in NORMS},
    **{f"{op}, large": affine(op, 701, 211) for op in NORMS},
    **{f"{op} eps": affine(op, 3, 5, eps=0.5) for op in NORMS},
    "layer_norm of equal numbers": ("layer_norm", [np.ones((3, 5)), 5, randn(5), randn(5)], {}),
    "layer_norm without weights": ("layer_norm", [randn(2, 3, 5), (3, 5), None, None], {}),
    "layer_norm with a bias alone": ("layer_norm", [randn(2, 3, 5), (3, 5), None, randn(3, 5)], {"eps": 0.1}),
    "layer_norm without bias": ("layer_norm", [randn(5), 5, randn(5), None], {}),
    "rms_norm without weight": ("rms_norm", [randn(2, 3, 5), (3, 5), None], {}),
    "rms_norm of zeros": ("rms_norm", [np.zeros((3, 5)), 5, randn(5)], {"eps": 1e-5}),
    **{f"swiglu {n}": ("swiglu", [5 * randn(n), randn(n, seed=1)], {}) for n in SIZES},
    "swiglu of a number": ("swiglu", [randn(), randn(seed=1)], {}),
    "swiglu of large numbers": ("swiglu", [LARGE_NUMBERS, randn(10)], {}),
    "swiglu, large": ("swiglu", [randn(300, 1001), randn(300, 1001, seed=1)], {}),
    **{f"embedding {n}": ("embedding", [labels(7, n), randn(7, 5)], {}) for n in (0, 1, 2, 31, 33, 300)},
    "embedding of 300": ("embedding", [labels(40, 3, 4), randn(40, 300)], {}),
    "embedding of one row": ("embedding", [np.zeros((2, 40), np.uint16), randn(1, 3)], {}),
    "embedding of few of the rows": ("embedding", [labels(2, 4, 6), randn(7, 3)], {}),
    "embedding with padding": ("embedding", [labels(4, 30), randn(4, 5)], {"padding_idx": -2}),
    "embedding of padding alone": ("embedding", [np.array([1, 1]), randn(4, 3)], {"padding_idx": 1}),
    "embedding of a number": ("embedding", [np.array(2), randn(4, 5)], {}),
    "embedding without features": ("embedding", [labels(4, 3), randn(4, 0)], {}),
    "embedding, large": ("embedding", [labels(50, 40, 60).astype(np.uint16), randn(60, 7)], {}),
    **{f"cross_entropy {n}": cross_entropy(5 * randn(4, n)) for n in SIZES[1:]},
    **{f"cross_entropy {how}": cross_entropy(randn(33, 5), ignored=True, reduction=how) for how in REDUCTIONS},
    "cross_entropy 3000 classes": cross_entropy(5 * randn(3, 3000), reduction="none"),
    "cross_entropy of no rows": cross_entropy(randn(0, 5), reduction="sum"),
    "cross_entropy of large logits": cross_entropy(1e3 * randn(3, 40)),
    "cross_entropy with hidden classes": ("cross_entropy", [HIDDEN, np.array([1, 698])], {}),
    **{f"linear_cross_entropy {n}": losses(4, 3, n) for n in SIZES[1:]},
    **{f"linear_cross_entropy {how}": losses(33, 3, 5, ignored=True, reduction=how) for how in REDUCTIONS},
    **{f"linear_cross_entropy of no rows {how}": losses(0, 3, 5, reduction=how) for how in ("sum", "none")},
    **{f"linear_cross_entropy {how}, large": losses(2100, 5, 131, ignored=True, reduction=how) for how in REDUCTIONS},
    "linear_cross_entropy of large logits": ("linear_cross_entropy", LARGE_LOGITS, {}),
    "linear_cross_entropy with logits far below 0": ("linear_cross_entropy", FAR_BELOW_0, {}),
}


def attention(lead, T, S=None, D=4, Dv=None, key_lead=None, **options):
    """Query (..., T, D), key (..., S, D), value (..., S, Dv)."""
    S, Dv, key_lead = T if S is None else S, D if Dv is None else Dv, lead if key_lead is None else key_lead
    inputs = [randn(*lead, T, D), randn(*key_lead, S, D, seed=1), randn(*key_lead, S, Dv, seed=2)]
    return "scaled_dot_product_attention", inputs, options


def leading(q, k, v, **options):
    """attention with these leading axes of query, key and value."""
    inputs = [randn(*q, 5, 4), randn(*k, 6, 4, seed=1), randn(*v, 6, 3, seed=2)]
    return "scaled_dot_product_attention", inputs, options


def grouped(T, S, **options):
    """Six heads of queries, three to each of two heads of keys and values."""
    return attention((2, 6), T, S, Dv=5, key_lead=(2, 2), enable_gqa=True, **options)


def mask(*shape):
    """Random booleans. Of more than two queries, the third sees nothing."""
    seen = np.random.default_rng(shape).random(shape) < 0.6
    if len(shape) > 1 and shape[-2] > 2:
        seen[..., 2, :] = False
    return seen


EQUAL = [1e5 * randn(2, 3, 4), np.ones((2, 5, 4)), randn(2, 5, 4, seed=2)]  # all keys are the same
PADDING = mask(3, 1, 7, 35)  # what a batch of texts of different lengths may see
ATTENTION = {
    "no leading axes": attention((), 5),
    "one of everything": attention((1, 1), 1, D=1),
    "rows of 31, 32 and 33 keys": attention((2, 3), 33, D=8, is_causal=True),
    "tiles of queries": attention((1, 2), 130, D=5, Dv=3, is_causal=True),
    "heads of 64": attention((1, 2), 65, D=64, is_causal=True),
    "heads of 80": attention((2, 1), 9, D=80, Dv=33, scale=0.3),
    "more keys than queries": attention((2, 2), 9, 40),
    "more keys than queries, causal": attention((2, 2), 9, 40, is_causal=True),
    "more queries than keys, causal": attention((2, 2), 70, 9, is_causal=True),
    "one query, causal": attention((1,), 1, 9, is_causal=True),
    "padding": attention((3, 2), 7, 35, attn_mask=PADDING),
    "padding of keys": attention((3, 2), 7, 35, attn_mask=PADDING[:, :, 1:2]),
    "one query, padding": attention((3, 2), 1, 35, attn_mask=PADDING[:, :, 1:2]),
    "a mask for all": attention((3, 2), 7, 35, attn_mask=mask(7, 35)),
    "everything hidden": attention((2, 3), 5, attn_mask=np.zeros((5, 5), bool)),
    "everything dropped": attention((2,), 4, dropout_p=1.0),
    "9 heads share 3": attention((2, 9), 33, key_lead=(2, 3), is_causal=True, enable_gqa=True),
    "9 heads share 3, padding": attention((2, 9), 7, 8, key_lead=(2, 3), attn_mask=mask(2, 1, 7, 8), enable_gqa=True),
    "2 heads share 1, tiles": attention((1, 2), 70, key_lead=(1, 1), is_causal=True, enable_gqa=True),
    "6 heads share 2, one query": grouped(1, 9),
    "6 heads share 2, one query, causal": grouped(1, 9, is_causal=True),
    "6 heads share 2, one query, mask": grouped(1, 9, attn_mask=mask(1, 9)),
    "6 heads share 2, one query, a mask for each head": grouped(1, 9, attn_mask=randn(2, 6, 1, 9)),
    "6 heads share 2, a mask of floats for each head": grouped(5, 9, attn_mask=randn(6, 1, 9)),
    "6 heads share 2, dropout": grouped(5, 9, dropout_p=0.4),
    "keys broadcast": attention((2, 3), 5, 6, key_lead=(3,)),
    "keys shared by all": attention((2, 3), 4, 6, key_lead=(1, 1)),
    "keys shared by all, causal": attention((3,), 4, 6, Dv=2, key_lead=(1,), is_causal=True),
    "keys shared by 3, own masks": attention((2, 2, 3), 5, 9, key_lead=(2, 2, 1), attn_mask=randn(2, 2, 1, 5, 9)),
    "three leading axes": attention((2, 2, 3), 5, 6),
    "a mask with another axis": leading((2,), (2,), (2,), attn_mask=mask(3, 2, 5, 6)),
    "a mask with two more axes": leading((), (), (), attn_mask=mask(3, 2, 5, 6)),
    "a mask for more sequences": leading((1, 2), (2,), (1, 1), attn_mask=mask(3, 1, 5, 6)),
    "equal scores far from 0": ("scaled_dot_product_attention", EQUAL, {}),
    "no keys": attention((2,), 3, 0, Dv=5),
    "no queries": attention((2,), 0, 3, Dv=5),
    "no heads": attention((0, 3), 4),
    "no features": attention((2,), 4, D=0, Dv=3),
    # what the kernels for GPUs leave to the textbook form
    "a mask of floats": attention((3, 2), 7, 35, attn_mask=randn(7, 35)),
    "a mask of floats with -inf": attention((2, 3), 5, attn_mask=np.where(mask(5, 5), 0.5, -np.inf)),
    "another mask for each head": attention((3, 2), 7, 35, attn_mask=mask(3, 2, 7, 35)),
    "another mask for each head of all sequences": attention((3, 2), 7, 35, attn_mask=mask(2, 1, 1)),
}
# Values that share the weights of one head, and so its dropout.
SHARED_DROPOUT = {
    "dropout shared by values of another axis": leading((2,), (2,), (3, 2), dropout_p=0.4),
    "dropout shared by values of more heads": leading((2, 1), (2, 1), (2, 3), dropout_p=0.4, is_causal=True),
    "dropout shared by values, keys of more heads": leading((), (2,), (3, 2), dropout_p=0.4, is_causal=True),
    "dropout of a mask with another axis": leading((2,), (), (2,), attn_mask=randn(3, 1, 5, 6), dropout_p=0.4),
}


# --- running them ---


class Run(NamedTuple):
    function: type | None  # that ran; None where no gradient is wanted
    arrays: list  # NumPy's: the output, and the gradients of the inputs (None for what has none)


def run(sample, kernels="fast", device="cpu", dtype=np.float64, wanted=None, layout=None, times=1):
    """One call of an op and `times` backward passes. `wanted` are the inputs whose gradients are asked for."""
    op, inputs, options = sample

    def prepared(value, needs_grad=False):
        if not isinstance(value, np.ndarray):
            return value
        is_float = value.dtype.kind == "f"
        tensor = Tensor(value.astype(dtype) if is_float else value, is_float and needs_grad, device=device)
        if layout is not None and is_float:
            tensor.data = layout(tensor.data)
        return tensor

    arguments = [prepared(value, wanted is None or i in wanted) for i, value in enumerate(inputs)]
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    options = {name: prepared(value) for name, value in options.items()}
    manual_seed(0)
    with use_kernels(kernels), np.errstate(invalid="ignore", divide="ignore"):
        out = getattr(F, op)(*arguments, **options)
        given = [x.data for x in tensors]
        if out.requires_grad:
            dout = to_device(randn(*out.shape, seed=9).astype(dtype), device)
            given.append(dout if layout is None else layout(dout))
        before = [to_numpy(x).copy() for x in given]
        for _ in range(times if out.requires_grad else 0):
            out.backward(given[-1], retain_graph=True)
    for x, kept in zip(given, before):
        np.testing.assert_array_equal(to_numpy(x), kept)  # a kernel does not write to its inputs
    grads = [x.grad if isinstance(x, Tensor) else None for x in arguments]
    arrays = [None if x is None else to_numpy(x) for x in (out.data, *grads)]
    return Run(None if out.grad_fn is None else out.grad_fn.function, arrays)


def assert_close(found, expected, dtype):
    """To rounding, relative to the largest number: sums are taken in another order."""
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape and a.dtype == dtype
            size = np.abs(b[np.isfinite(b)]).max(initial=0.1)
            np.testing.assert_allclose(a, b, rtol=0, atol=(2e-5 if dtype == np.float32 else 1e-12) * size)


def check(sample, device, dtype=np.float64, **how):
    """A fast kernel gives what the textbook form gives on the CPU in float64. Returns the Function that ran."""
    ran = run(sample, "fast", device, dtype, **how)
    assert_close(ran.arrays, run(sample, "textbook", "cpu", **how).arrays, dtype)
    return ran.function


def check_each_gradient_alone(sample, device):
    """Only the gradients that are wanted are computed."""
    expected = run(sample, "textbook").arrays
    for i, gradient in enumerate(expected[1:]):
        if gradient is not None:
            alone = [expected[0], *[gradient if j == i else None for j in range(len(expected) - 1)]]
            assert_close(run(sample, "fast", device, wanted={i}).arrays, alone, np.float64)


# Other places in memory: each makes, of an array on any device, one whose numbers lie otherwise.


def backwards(array):
    return array[(slice(None, None, -1),) * array.ndim] if array.ndim else array


def transposed(array):
    return array.T.copy().T


def like_a_head(array):
    """(..., A, B, C) in the order of (..., B, A, C), as split_heads leaves it."""
    return array if array.ndim < 3 else array.swapaxes(-3, -2).copy().swapaxes(-3, -2)


def one_row(array):
    """A broadcast view of the first row (or matrix)."""
    return array if array.ndim < 2 else module_of(array).broadcast_to(array[:1], array.shape)


LAYOUTS = [backwards, transposed, like_a_head, one_row]
