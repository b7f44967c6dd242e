"""What the tests of fast kernels share: samples of each op, one way to run and compare them, and planted mistakes."""

import contextlib
from typing import NamedTuple

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, manual_seed, use_kernels
from minigrad.backend import module_of, to_device, to_numpy
from minigrad.kernels.cuda import launch
from tests.cuda_emulation.run import KernelError


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


def rotary(shape, angles):
    return "rotary_embedding", [randn(*shape), np.cos(randn(*angles)), np.sin(randn(*angles))], {}


def linear(op, x, features, bias=True, **options):
    """`op` of an x of this shape, a weight (features, last axis of x) and a bias."""
    return op, [randn(*x), randn(features, x[-1], seed=1), randn(features, seed=2) if bias else None], options


def losses(n, features, classes, ignored=False, **options):
    """linear_cross_entropy of n rows."""
    inputs = [randn(n, features), randn(classes, features, seed=1), labels(classes, n, ignored=ignored)]
    return "linear_cross_entropy", inputs, options


NORMS, REDUCTIONS, EXACT, TANH = ("layer_norm", "rms_norm"), ("sum", "mean", "none"), "none", "tanh"
LARGE_NUMBERS = np.array([-1e4, -800.0, -40.0, -6.0, -1e-9, 0.0, 1e-9, 6.0, 40.0, 1e4])
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
    "rotary_embedding": rotary((2, 3, 5, 8), (5, 4)),
    "rotary_embedding of one row": rotary((1, 2), (1, 1)),
    "rotary_embedding of 66": rotary((3, 2, 66), (2, 33)),
    "rotary_embedding by sequence": rotary((2, 3, 5, 8), (2, 1, 5, 4)),
    "rotary_embedding by sequence alone": rotary((5, 2, 5, 8), (5, 1, 1, 4)),
    "rotary_embedding one angle": rotary((2, 3, 8), (4,)),
    "rotary_embedding in five axes": rotary((2, 1, 2, 3, 4), (3, 2)),
    "rotary_embedding of no rows": rotary((2, 0, 4), (0, 2)),
    **{f"embedding {n}": ("embedding", [labels(7, n), randn(7, 5)], {}) for n in (0, 1, 2, 31, 33, 300)},
    "embedding of 300": ("embedding", [labels(40, 3, 4), randn(40, 300)], {}),
    "embedding of one row": ("embedding", [np.zeros((2, 40), np.uint16), randn(1, 3)], {}),
    "embedding of few of the rows": ("embedding", [labels(2, 4, 6), randn(7, 3)], {}),
    "embedding with padding": ("embedding", [labels(4, 30), randn(4, 5)], {"padding_idx": -2}),
    "embedding of padding alone": ("embedding", [np.array([1, 1]), randn(4, 3)], {"padding_idx": 1}),
    "embedding of a number": ("embedding", [np.array(2), randn(4, 5)], {}),
    "embedding without features": ("embedding", [labels(4, 3), randn(4, 0)], {}),
    "embedding, large": ("embedding", [labels(50, 40, 60).astype(np.uint16), randn(60, 7)], {}),
    **{f"cross_entropy {n}": ("cross_entropy", [5 * randn(4, n), labels(n, 4)], {}) for n in SIZES[1:]},
    "cross_entropy 3000 classes": ("cross_entropy", [5 * randn(3, 3000), labels(3000, 3)], {"reduction": "none"}),
    **{
        f"cross_entropy {reduction}": (
            *("cross_entropy", [randn(33, 5), labels(5, 33, ignored=True)]),
            {"reduction": reduction},
        )
        for reduction in REDUCTIONS
    },
    "cross_entropy of no rows": ("cross_entropy", [randn(0, 5), labels(5, 0)], {"reduction": "sum"}),
    "cross_entropy of large logits": ("cross_entropy", [1e3 * randn(3, 40), labels(40, 3)], {}),
    "cross_entropy with hidden classes": (
        *("cross_entropy", [np.where(np.arange(700) % 3 == 0, -np.inf, randn(2, 700)), np.array([1, 698])]),
        {},
    ),
    **{f"linear_cross_entropy {n}": losses(4, 3, n) for n in SIZES[1:]},
    **{f"linear_cross_entropy {how}": losses(33, 3, 5, ignored=True, reduction=how) for how in REDUCTIONS},
    **{f"linear_cross_entropy of no rows {how}": losses(0, 3, 5, reduction=how) for how in ("sum", "none")},
    **{f"linear_cross_entropy {how}, large": losses(2100, 5, 131, ignored=True, reduction=how) for how in REDUCTIONS},
    "linear_cross_entropy of large logits": (
        *("linear_cross_entropy", [1e3 * randn(4, 3), randn(5, 3), labels(5, 4)]),
        {},
    ),
    "linear_cross_entropy with logits far below 0": (
        *("linear_cross_entropy", [np.full((3, 2), 1000.0), -2 - np.abs(randn(33, 2)), labels(33, 3)]),
        {},
    ),
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


@contextlib.contextmanager
def mistake_is_found(module, right, wrong, source="SOURCE"):
    """Put `wrong` in the place of `right` in a module's CUDA source: what is then checked in the block has to fail."""
    text = getattr(module, source)
    assert right in text
    launch.compiled.cache_clear()
    with pytest.MonkeyPatch.context() as patch, pytest.raises((AssertionError, KernelError)), np.errstate(all="ignore"):
        patch.setattr(module, source, text.replace(right, wrong))
        yield
    launch.compiled.cache_clear()
