"""Where PyTorch's own samples do not look: ties, nan, infinities, masks, ignored targets, indexing; and result dtypes.

One function runs in both libraries, with `f` as torch (and torch.nn.functional) or as F; results and gradients must
agree.
"""

import functools
import itertools
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minigrad.functional as F
from minigrad import Tensor
from minigrad.backend import to_numpy
from tests.minigrad.kernel_checks import randn

pytestmark = pytest.mark.oracle("torch")

INF, NAN = np.inf, np.nan


class Torch:
    """torch under the names of F."""

    def __getattr__(self, name):
        import torch

        if name == "getitem":
            return lambda x, index: x[index]
        for module in (torch.nn.functional, torch):
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(name)


def dtype(f, name):
    """The dtype of this name in torch or in NumPy."""
    return getattr(f, name) if isinstance(f, Torch) else np.dtype(name)


def integers(high, *shape):
    return np.random.default_rng([high, *shape]).integers(0, high, shape)


def booleans(*shape):
    return np.random.default_rng(shape).random(shape) < 0.5


def causal(t, s):
    return np.tri(t, s, dtype=bool)


def complex_rotation(x, angle):
    """(x₁ + i x₂) e^(i angle), with the real and imaginary parts in the two halves of the last axis."""
    import torch

    real, imaginary = x.chunk(2, dim=-1)
    turned = torch.complex(real, imaginary) * torch.exp(1j * angle.detach())
    return torch.cat([turned.real, turned.imag], dim=-1)


class Fixed(np.ndarray):
    """An input of which no gradient is asked."""


def fixed(array):
    return array.view(Fixed)


def arrays_in(value):
    """The arrays among the elements of tuples and lists, in their order."""
    if isinstance(value, tuple | list):
        return [array for part in value for array in arrays_in(part)]
    return [value] if isinstance(value, np.ndarray) else []


def call(op, *arguments, **options):
    """A case of one op. The arrays among its arguments are its inputs, and the function gets a tensor for each."""

    def function(f, *tensors):
        left = iter(tensors)

        def filled(value):
            if isinstance(value, tuple | list):
                return type(value)(map(filled, value))
            if not isinstance(value, np.ndarray):
                return value
            return next(left).detach() if isinstance(value, Fixed) else next(left)

        filled_arguments = list(map(filled, arguments))
        return getattr(f, op)(*filled_arguments, **{name: filled(value) for name, value in options.items()})

    return [np.asarray(array) for array in arrays_in((*arguments, *options.values()))], function


attention = functools.partial(call, "scaled_dot_product_attention")
bce = functools.partial(call, "binary_cross_entropy_with_logits")
A = np.array
TIES = [A([1.0, 2.0, 2.0, NAN, 0.0, -INF]), A([1.0, 3.0, 2.0, 1.0, -0.0, INF])]
POWERS = [A([0.0, 0.0, 0.0, 2.0, -2.0, -2.0, 5.0]), A([0.0, 1.0, 2.0, 0.0, 2.0, 3.0, -1.5])]
EXTREMES = A([-INF, -1e4, -800.0, -90.0, -20.0, -1.0, 0.0, 1.0, 20.0, 90.0, 800.0, 1e4])
MASKED_SCORES = A([[0.0, -INF, 1.0], [-INF, -INF, 3.0], [1e4, -1e4, 0.0]])
LOGITS = A([[2.0, -1.0, 0.5], [-INF, 0.0, 1.0], [0.1, 0.2, 0.3], [1e4, 0.0, -1e4]])
IMPOSSIBLE = A([[0.0, 1.0], [-INF, 1.0]])
PROBABILITIES = A([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.1, 0.1, 0.8]])
QKV = [randn(2, 3, 4, 5, seed=i) for i in range(3)]
CROSS = [randn(2, 3, 4, 5), randn(2, 3, 6, 5), randn(2, 3, 6, 7)]
GROUPED = [randn(2, 6, 4, 5), randn(2, 3, 4, 5), randn(2, 3, 4, 7)]  # two heads of queries to one of keys

# what it is: (inputs, of which the floating-point ones are differentiated; the function)
CASES = {
    "maximum at ties and nan": call("maximum", *TIES),
    "minimum at ties and nan": call("minimum", *TIES),
    "max of all, with nan": call("max", A([3.0, NAN, NAN])),
    "max along an axis, tied": call("max", A([[3.0, 3.0, 1.0], [NAN, 3.0, NAN]]), 1),
    "amax, tied": call("amax", A([[3.0, 3.0, 1.0], [-INF, 3.0, INF]]), 1),
    "amin over two axes, tied": call("amin", A([[[1.0, 2.0]], [[1.0, 0.5]]]), (0, 2), True),
    "argmax and argmin, tied": (
        [A([[3.0, 3.0, 1.0], [NAN, 1.0, 1.0]])],
        lambda f, x: (f.argmax(x), f.argmax(x, 1), f.argmin(x, -1, True), f.argmin(x, 0)),
    ),
    "prod with zeros": (
        [A([[2.0, 0.0, 3.0], [0.0, 0.0, 5.0], [1.0, -2.0, 4.0]])],
        lambda f, x: (f.prod(x), f.prod(x, 1), f.prod(x, 0, True)),
    ),
    "sort downwards, tied": call("sort", A([[2.0, 1.0, 2.0, NAN, 1.0]]), stable=True, dim=1, descending=True),
    "topk of the smallest": call("topk", randn(3, 4), 2, 0, False),
    "softplus of extremes": call("softplus", EXTREMES),
    "std of a constant": call("std", A([[2.0, 2.0], [1.0, 3.0]]), 1),
    "std of one": ([A([[1.0], [2.0]])], lambda f, x: (f.std(x, 1), f.std(x, 1, False))),
    "std of all": ([randn(3, 4)], lambda f, x: (f.std(x), f.std(x, False), f.var(x, 0, False, True))),
    "min along an axis, kept": call("min", randn(3, 4), -2, True),
    "clip at its bounds": call("clip", A([-2.0, -1.0, 0.0, 1.0, 2.0, NAN]), -1, 1),
    "clip with bounds that cross": call("clip", A([-2.0, 0.0, 2.0]), A([1.0]), A([-1.0])),
    "relu at 0 and nan": call("relu", A([-1.0, -0.0, 0.0, 1.0, NAN, INF])),
    "abs at 0 and nan": call("abs", A([-1.0, -0.0, 0.0, 1.0, NAN, -INF])),
    "sqrt at 0": call("sqrt", A([0.0, 4.0])),
    "exp": call("exp", randn(2, 3)),
    "log": call("log", randn(2, 3) ** 2),
    "tanh of extremes": call("tanh", EXTREMES),
    "erf": call("erf", A([-INF, -1e4, -6.0, -0.7, -0.0, 0.3, 1.5, 800.0, INF, NAN])),
    "arithmetic": (
        [randn(2, 3), randn(3), randn(2, 1)],
        lambda f, x, y, z: f.div(f.sub(f.add(f.mul(x, y), z), f.neg(x)), z),
    ),
    "shapes": (
        [randn(2, 1, 3)],
        lambda f, x: f.permute(f.transpose(f.unsqueeze(f.squeeze(f.reshape(x, (3, 1, 2)), 1), 0), 1, -1), (2, 0, 1)),
    ),
    "pow of special numbers": call("pow", *POWERS),
    "pow 0": call("pow", A([0.0, 1.0, -3.0, NAN]), 0),
    "pow -1": call("pow", A([0.5, -3.0]), -1),
    "2 to the power": call("pow", 2, A([0.0, 1.0, -3.0])),
    "0 to the power": call("pow", 0.0, A([0.0, 1.0, 3.0])),
    "where, with nan where it is not looked": call("where", booleans(2, 3), A([[NAN, 1.0, 2.0]]), A([[1.0], [INF]])),
    "masked_fill": call("masked_fill", randn(2, 3), booleans(3), -INF),
    "masked_fill with a tensor": call("masked_fill", randn(2, 3), booleans(2, 1), A(0.5)),
    "masked_fill of integers": call("masked_fill", integers(9, 2, 3), booleans(2, 3), 2.9),
    "sigmoid of extremes": call("sigmoid", EXTREMES),
    "logsigmoid of extremes": call("logsigmoid", EXTREMES),
    "silu of extremes": call("silu", EXTREMES[1:]),
    "gelu of extremes": call("gelu", EXTREMES[1:-1]),
    "gelu tanh of extremes": call("gelu", EXTREMES[1:-1], approximate="tanh"),
    "softmax of masked scores": call("softmax", MASKED_SCORES, -1),
    "log_softmax of masked scores": call("log_softmax", MASKED_SCORES, -1),
    "logsumexp with -inf": call("logsumexp", IMPOSSIBLE, 0),
    "logsumexp of -inf only": call("logsumexp", fixed(A([[-INF, -INF], [0.0, -INF]])), 1),
    "logsumexp of +inf": call("logsumexp", A([INF, 0.0]), 0),
    "logsumexp over two axes": call("logsumexp", randn(2, 3, 4), (0, -1), True),
    "sum of nothing": call("sum", np.zeros((2, 0)), 1),
    "cumsum from behind": call("cumsum", randn(2, 3, 4), -2),
    "layer_norm over two axes": call("layer_norm", randn(2, 3, 4), (3, 4), randn(3, 4), randn(3, 4, seed=1), 1e-3),
    "layer_norm of a constant": call("layer_norm", np.ones((2, 3)), (3,)),
    "swiglu": ([EXTREMES[1:], randn(11)], lambda f, x, y: f.silu(x) * y if isinstance(f, Torch) else f.swiglu(x, y)),
    "rotary_embedding is a complex product": (
        [randn(2, 3, 4, 6), randn(4, 3)],
        lambda f, x, angle: (
            complex_rotation(x, angle)
            if isinstance(f, Torch)
            else f.rotary_embedding(x, np.cos(angle.data), np.sin(angle.data))
        ),
    ),
    "rms_norm": call("rms_norm", randn(2, 3), (3,), randn(3)),
    "linear of a vector": call("linear", randn(3), randn(2, 3)),
    "matmul of broadcast batches": call("matmul", randn(2, 1, 3, 4), randn(5, 4, 2)),
    "matmul of vector and batch": call("matmul", randn(4), randn(5, 4, 2)),
    "matmul of batch and matrix": call("matmul", randn(5, 2, 4), randn(4, 3)),
    "embedding, counted from behind": call("embedding", integers(5, 2, 3), randn(5, 4), padding_idx=-3),
    "gather with repeats": call("gather", randn(3, 4), 0, integers(3, 5, 2)),
    "gather, shorter than x": call("gather", randn(3, 4, 2), 1, integers(4, 2, 6, 1)),
    "index_select with repeats": call("index_select", randn(3, 4), 0, A([2, 0, 2])),
    "flatten in the middle": call("flatten", randn(2, 3, 4, 5), 1, -2),
    "chunk into fewer": call("chunk", randn(2, 9), 4, 1),
    "sums in another dtype": (
        [randn(2, 3), integers(9, 2, 3)],
        lambda f, x, i: (
            f.sum(x, dtype=dtype(f, "float32")),
            f.sum(i, 0, dtype=dtype(f, "float64")),
            f.mean(i, dtype=dtype(f, "float64")),
            f.prod(i, 0, dtype=dtype(f, "float64")),
            f.cumsum(i, 1, dtype=dtype(f, "int32")),
        ),
    ),
    "gather of a number": call("gather", A(3.0), 0, A(0)),
    "expand": (
        [randn(3, 1)],
        lambda f, x: f.broadcast_to(x, (2, 3, 4)) if isinstance(f, Torch) else f.expand(x, (2, -1, 4)),
    ),
    "split, some pieces unused": ([randn(7, 2)], lambda f, x: f.split(x, 3)[1:]),
    "pad that cuts": call("pad", randn(3, 4), (-1, 2, 1, -1), value=7.0),
    "pad without a value": call("pad", randn(3, 4), (1, 2), "constant", None),
    "flip": call("flip", randn(2, 3, 4), (0, -1)),
    "tril": call("tril", randn(2, 3, 4), -1),
    "triu": call("triu", randn(2, 3, 4), 1),
    "cat of two dtypes": call("cat", (randn(2, 3), integers(9, 1, 3))),
    "cat with an empty vector": call("cat", [np.zeros(0), randn(2, 3)], 1),
    "stack at the end": call("stack", [randn(2, 3), randn(2, 3, seed=1)], -1),
    # --- losses ---
    "cross_entropy of one row": call("cross_entropy", randn(5), A(3)),
    "cross_entropy of extreme logits": call("cross_entropy", LOGITS, A([0, 2, 1, 2]), reduction="none"),
    "cross_entropy of extreme logits, smoothed": call("cross_entropy", EXTREMES[1:], A(3), label_smoothing=0.1),
    "cross_entropy of ignored rows": call("cross_entropy", LOGITS, A([0, -100, 1, -100])),
    "cross_entropy, ignored are impossible": call("cross_entropy", IMPOSSIBLE, A([1, 0]), ignore_index=0),
    "cross_entropy, all ignored": call("cross_entropy", randn(2, 3), A([-100, -100])),
    "cross_entropy, all ignored, sum": call(
        "cross_entropy", randn(2, 3), A([1, 1]), None, ignore_index=1, reduction="sum"
    ),
    "nll_loss of ignored rows": call("nll_loss", randn(4, 3), A([0, -100, 1, -100])),
    "nll_loss, ignored are impossible": call("nll_loss", IMPOSSIBLE, A([1, 0]), ignore_index=0),
    "nll_loss of one row": call("nll_loss", randn(5), A(3), fixed(randn(5) ** 2), reduction="none"),
    "kl_div": call("kl_div", randn(4, 3), fixed(PROBABILITIES), reduction="batchmean"),
    "kl_div of logarithms": call("kl_div", randn(4, 3), randn(4, 3, seed=1), reduction="sum", log_target=True),
    "mse_loss": call("mse_loss", randn(4, 3), randn(4, 3, seed=1)),
    "bce of extreme logits": bce(EXTREMES[1:], A([0.0, 1.0] * 5 + [0.5]), reduction="none"),
    "bce with weights": bce(
        randn(4, 3), PROBABILITIES, fixed(randn(3) ** 2), reduction="sum", pos_weight=fixed(A([1.0, 2.0, 3.0]))
    ),
    # --- attention ---
    "attention": attention(*QKV),
    "attention, causal, more keys": attention(*CROSS, is_causal=True),
    "attention, causal, fewer keys": attention(
        randn(2, 6, 5), randn(2, 3, 5), randn(2, 3, 4), is_causal=True, scale=0.3
    ),
    "attention, rows that see nothing": attention(*CROSS, causal(4, 6) & (np.arange(4) != 2)[:, None]),
    "attention, a mask that learns": attention(*CROSS, randn(3, 1, 6)),
    "attention, -inf in the mask": attention(*CROSS, fixed(np.where(causal(4, 6), 0, -INF))),
    "attention, grouped and causal": attention(*GROUPED, is_causal=True, scale=0.3, enable_gqa=True),
    "attention, grouped, a mask per head that learns": attention(*GROUPED, randn(6, 4, 4), enable_gqa=True),
}
for reduction, smoothing, weighted in itertools.product(("mean", "sum", "none"), (0.0, 0.1), (False, True)):
    options = {"reduction": reduction, "label_smoothing": smoothing}
    name = f"{reduction}, smoothing {smoothing}{', weighted' if weighted else ''}"
    weight = fixed(A([0.5, 2.0, 0.0, 1.0]))
    for ignore in (-100, 2):
        CASES[f"cross_entropy, {name}, ignoring {ignore}"] = call(
            *("cross_entropy", randn(2, 4, 3, 2), integers(4, 2, 3, 2), weight if weighted else None),
            **{"ignore_index": ignore, **options},
        )
    CASES[f"cross_entropy of probabilities, {name}"] = call(
        "cross_entropy", randn(4, 3), PROBABILITIES, weight[:3] if weighted else None, **options
    )
EQUATIONS = {
    "bthd,bshd->bhts": [(2, 3, 2, 4), (2, 5, 2, 4)],
    "ii": [(3, 3)],
    "iij->ji": [(3, 3, 2)],
    "ij->": [(2, 3)],
    "i,j,k->kij": [(2,), (3,), (4,)],
    "ij,jk,kl->il": [(2, 3), (3, 4), (4, 2)],
    "...ij,...jk->...ik": [(2, 1, 3, 4), (5, 4, 2)],
    "...,...": [(2, 3), (3,)],
    "b...->...": [(2, 3, 4)],
    "ij,jk->ik ": [(2, 1), (3, 4)],
    "iij,j->": [(2, 2, 3), (1,)],
    "ij,jk->k": [(0, 3), (3, 4)],
    ",i->i": [(), (3,)],
    "Ba,aB->aB": [(2, 3), (3, 2)],
}
for equation, shapes in EQUATIONS.items():
    operands = [randn(*shape, seed=i) for i, shape in enumerate(shapes)]
    CASES[f"einsum {equation!r} {shapes}"] = call("einsum", equation, *operands)
INDICES = {
    "a number": 1,
    "from behind": (-1, -2),
    "slices": (slice(1, 3), slice(None, None, 2)),
    "ellipsis": (..., 0),
    "new axes": (None, slice(0, 1), None, ...),
    "nothing": (),
    "a list": [2, 0, 0],
    "two lists": ([0, 1, 1], [2, 2, 2]),
    "a nested list": ([[0, 1], [1, 1]],),
    "lists apart": ([0, 1, 1], slice(None), [2, 0, 2]),
    "tuples": (((0, 0), (1, 1)),),
    "an empty list": ([],),
    "a list of booleans": ([True, False, True, False],),
    "a number beside a list": (slice(None), 1, [0, 0]),
    "True": True,
    "a tensor": integers(4, 2, 2),
    "a number in a tensor": A(2),
    "negative numbers": A([-1, 3, -4]),
    "a mask": booleans(4),
    "a mask of two axes": booleans(4, 3),
    "int32": A([1, 1], np.int32),
}
for name, index in INDICES.items():
    CASES[f"getitem {name}"] = call("getitem", randn(4, 3, 5), index)
    if isinstance(index, np.ndarray):
        CASES[f"getitem {name} behind a slice"] = call("getitem", randn(2, 4, 3), (slice(None), index))


def seed_of(result):
    """The gradient with which backward starts at `result`: never all ones, which would hide a wrong order."""
    return np.random.default_rng(0).normal(size=tuple(result.shape))


def as_tuple(result):
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def assert_equal(got, expected):
    """Shapes, dtypes and numbers. Floats are compared in units of the largest element, as sums cancel."""
    assert got.shape == expected.shape and got.dtype == expected.dtype
    if got.dtype.kind not in "fc":
        assert_array_equal(got, expected)
        return
    rtol = 1e-10 if got.dtype == np.float64 else 1e-4
    scale = abs(expected[np.isfinite(expected)]).max(initial=1)
    assert_allclose(got, expected, rtol=rtol, atol=rtol / 10 * scale)


def record(name, dtype=np.float64):
    """PyTorch's arrays of a case by their names: "input 0", "result 0", "gradient 0" (of input 0), ..."""
    import torch

    inputs, function = CASES[name]
    inputs = [x.astype(dtype) if x.dtype == np.float64 else x for x in inputs]
    tensors = [torch.tensor(x, requires_grad=x.dtype == dtype) for x in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = as_tuple(function(Torch(), *tensors))
    for result in results:
        if result.requires_grad:
            result.backward(torch.tensor(seed_of(result).astype(dtype)), retain_graph=True)
    arrays = {f"input {i}": x for i, x in enumerate(inputs)}
    arrays |= {f"result {i}": result.detach().numpy() for i, result in enumerate(results)}
    return arrays | {f"gradient {i}": x.grad.numpy() for i, x in enumerate(tensors) if x.grad is not None}


def compute(name, expected, dtype=np.float64, device=None):
    """The inputs and results of F, as tensors, for a case of which PyTorch's arrays are `expected`; and backward."""
    inputs = [array for what, array in expected.items() if what.startswith("input")]
    tensors = [Tensor(x.copy(), requires_grad=x.dtype == dtype, device=device) for x in inputs]
    results = as_tuple(CASES[name][1](F, *tensors))
    for result in results:
        if result.requires_grad:
            result.backward(Tensor(seed_of(result).astype(dtype), device=device), retain_graph=True)
    return tensors, results


def compare(tensors, results, expected):
    """Results and gradients are PyTorch's, and the inputs are as they were."""
    assert len(results) == sum(what.startswith("result") for what in expected)
    for i, result in enumerate(results):
        assert_equal(to_numpy(result.data), expected[f"result {i}"])
    for i, tensor in enumerate(tensors):
        x = expected[f"input {i}"]
        assert_array_equal(to_numpy(tensor.data), x)
        if tensor.grad is not None or f"gradient {i}" in expected:
            zeros = np.zeros_like(x)
            assert_equal(zeros if tensor.grad is None else to_numpy(tensor.grad), expected.get(f"gradient {i}", zeros))


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    """In float32: test_ops_golden.py compares in float64."""
    expected = record(name, np.float32)
    with np.errstate(all="ignore"):
        compare(*compute(name, expected, np.float32), expected)


# op -> how many operands it has
PROMOTING = dict.fromkeys(["add", "sub", "mul", "div", "pow", "maximum", "where", "clip"], 2)
PROMOTING |= dict.fromkeys(["exp", "log", "sqrt", "tanh", "sigmoid", "erf", "abs", "neg", "relu", "sum", "max"], 1)
PROMOTING |= {"cumsum": 1}


def operands(torch):
    """Pairs (theirs, ours): of every dtype with and without dimensions, and Python numbers."""
    dtypes = ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"]
    for dtype, shape in itertools.product(dtypes, [(2,), ()]):
        array = np.ones(shape, dtype)
        yield torch.tensor(array), Tensor(array)
    for number in (True, 2, 0.5):
        yield number, number


@pytest.mark.parametrize("op", PROMOTING)
def test_dtypes_of_results(op):
    import torch

    wrong = []
    for pairs in itertools.product(operands(torch), repeat=PROMOTING[op]):
        theirs, ours = zip(*pairs)
        if not any(map(torch.is_tensor, theirs)):
            continue
        if op == "where":
            theirs, ours = (torch.tensor([True, False]), *theirs), (Tensor(np.array([True, False])), *ours)
        if op == "cumsum":
            theirs, ours = (*theirs, 0), (*ours, 0)
        try:
            expected = getattr(torch, op)(*theirs).dtype
        except (RuntimeError, TypeError):  # PyTorch has no such combination, such as bool - bool
            continue
        if expected == torch.bool and op in ("pow", "abs", "relu"):
            continue  # NumPy's pow is int8
        got = getattr(F, op)(*ours).dtype
        if str(got) != str(expected).removeprefix("torch."):
            wrong.append(f"{op}{theirs!r} is {got}, in PyTorch {expected}")
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("size", [0, 2])
def test_dtypes_of_cat(size):
    import torch

    several = [pair for pair in operands(torch) if getattr(pair[1], "shape", ()) == (2,)]
    for (a, ours_a), (b, ours_b) in itertools.product(several, repeat=2):
        expected = torch.cat([a[:size], b]).dtype
        assert str(F.cat([ours_a[:size], ours_b]).dtype) == str(expected).removeprefix("torch."), (a, b)
    assert F.cat([Tensor(np.zeros(0))] * 2).shape == (0,)
