"""A check must be able to fail: each op below is broken in one way, and gradcheck has to say which.

The axes have distinct lengths, so that a factor has one name, except where a test is about lengths that coincide.
"""

import re

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Function, autograd, use_kernels
from minigrad.functional.activation import Relu, Sigmoid, Softmax, Tanh
from minigrad.functional.attention import ScaledDotProductAttention
from minigrad.functional.elementwise import Add, Div, Exp, Mul, Pow, Sub, Where
from minigrad.functional.indexing import Embedding, Gather, Getitem
from minigrad.functional.linalg import Matmul
from minigrad.functional.loss import CrossEntropy
from minigrad.functional.normalization import LayerNorm
from minigrad.functional.reduction import Cumsum, Mean, Sum, Var
from minigrad.functional.shape import Cat, Permute
from minigrad.gradcheck.check import GradcheckError, gradcheck
from minigrad.gradcheck.shape_diagnosis import numpy_in_words


def failure(fn, inputs, op=None, backward=None):
    """The GradcheckError for `fn`, while the Function `op` has the given backward in place of its own."""
    kernels = {}
    if op is not None:
        kernels = {op: type(op.__name__, (op,), {"backward": staticmethod(backward)})}
    with use_kernels(kernels), pytest.raises(GradcheckError) as caught:
        gradcheck(fn, inputs)
    return caught.value


def random(*shape):
    return np.random.default_rng(shape[0] if shape else 0).standard_normal(shape)


def sum_last(x):
    return F.sum(x, 1)


def softmax_last(x):
    return F.softmax(x, 1)


def layer_norm(x, weight, bias):
    return F.layer_norm(x, 5, weight, bias)


def embed(weight):
    return F.embedding(np.array([2, 0, 2, 1, 2]), weight)


def cross_entropy(logits):
    return F.cross_entropy(logits, np.array([4, 0, 2]))


def wrong_layer_norm(mean=True, variance=True):
    def backward(ctx, dout):
        dnormalized = dout * ctx.weight
        dx = dnormalized
        if mean:
            dx = dx - dnormalized.mean(axis=-1, keepdims=True)
        if variance:
            dx = dx - ctx.normalized * (dnormalized * ctx.normalized).mean(axis=-1, keepdims=True)
        _, dweight, dbias = LayerNorm.backward(ctx, dout)
        return dx / ctx.std, dweight, dbias

    return backward


def overwriting_embedding(ctx, dout):
    dweight = np.zeros(ctx.shape)
    dweight[ctx.ids] = dout
    return None, dweight


def overwriting_gather(ctx, dout):
    dx = np.zeros(ctx.shape)
    dx[ctx.places] += dout  # NumPy: of a repeated index only the last is kept
    return dx, None


def attention_without_scale(ctx, dout):
    dq, dk, dv, dmask = ScaledDotProductAttention.backward(ctx, dout)
    return dq, dk / ctx.scale, dv, dmask


def repeated(value, ctx):
    return np.broadcast_to(value, ctx.shape)


X, Y, ROW, COLUMN = random(3, 5), random(3, 5) + 4, random(5), random(3, 1)
LN, QKV = [X, random(5) + 3, random(5)], [random(3, 5), random(4, 5), random(4, 2)]
IDS = np.array([[0, 0, 1, 2, 2]])

# fn, inputs, the op that is broken, its wrong backward, and kind and words of the diagnosis
MUTANTS = {
    "sign of sub": (F.sub, [X, Y], Sub, lambda c, d: (d, d), "sign", "the sign is flipped"),
    "sign of sigmoid": (F.sigmoid, X, Sigmoid, lambda c, d: (d * c.out * (c.out - 1),),
        "sign", "the negative is right"),
    "sum gets mean's": (sum_last, X, Sum, lambda c, d: (np.repeat(d[:, None] / 5, 5, 1),),
        "factor", r"5x too small: this is the gradient of a mean over axis 1 .* \(length 5\), not of a sum"),
    "mean gets sum's": (lambda x: F.mean(x, 0), X, Mean, lambda c, d: (repeated(d, c),),
        "factor", r"3x too large: a sum over axis 0 of input 0 \(x\) \(length 3\) is counted per element, or a mean"),
    "mean of all gets sum's": (F.mean, X, Mean, lambda c, d: (repeated(d, c),),
        "factor", "15x too large: a sum over all elements"),
    "cross-entropy's mean is not divided": (cross_entropy, X, CrossEntropy,
        lambda c, d: CrossEntropy.backward(c, d * c.n),
        "factor", r"3x too large: .* axis 0 of input 0 \(logits\) \(length 3\)"),
    "bias gets the mean over the batch": (F.add, [X, ROW], Add, lambda c, d: (d, d.mean(0)),
        "factor", "3x too small: .* mean over axis 0"),
    "square without its 2": (lambda x: x**2, X, Pow, lambda c, d: (d * c.x, None),
        "factor", "2x too small: a factor 2 is missing"),
    "var with n for n - 1": (lambda x: F.var(x, 1), X, Var, lambda c, d: (d[:, None] * 2 * c.centered / 5,),
        "factor", "off by the factor 5/4: n and n - 1 are confused"),
    "attention without scale": (F.scaled_dot_product_attention, QKV, ScaledDotProductAttention, attention_without_scale,
        "factor", r"√5 times too large: the scale 1/√n is missing"),
    "sign and length": (sum_last, X, Sum, lambda c, d: (np.repeat(d[:, None] * -5, 5, 1),),
        "factor", "the sign is flipped, and it is 5x too large"),
    "some other factor": (F.tanh, X, Tanh, lambda c, d: (1.7 * d * (1 - c.out**2),),
        "factor", "1.7x too large: a constant factor"),
    "transposed by shape": (F.matmul, [X, random(5, 4)], Matmul, lambda c, d: (c.y @ d.T, c.x.T @ d),
        "transposed", "input 0 of Matmul is transposed: with axes 0 and 1 exchanged"),
    "transposed in a square": (lambda x: x.T, random(4, 4), Permute, lambda c, d: (d,),
        "transposed", "axes 0 and 1 exchanged it is right"),
    "operand transposed": (F.matmul, [random(3, 4), random(4, 4)], Matmul, lambda c, d: (d @ c.y, c.x.T @ d),
        "transposed", "is transposed \\(y for y.T\\?\\): axis 1 of the output and axis 1 of input 0"),
    "permute back in the same order": (lambda x: x.permute(1, 2, 0), random(2, 3, 4), Permute,
        lambda c, d: (d.transpose(c.dims),), "transposed", r"its axes in the order"),
    "cumsum forwards": (lambda x: F.cumsum(x, 0), ROW, Cumsum, lambda c, d: (d.cumsum(0),),
        "transposed", "axis 0 of the output"),
    "flip not flipped": (lambda x: F.flip(x, 1), X, Getitem, lambda c, d: (d,),
        "reversed", "backwards along axis 1: flipped there"),
    "missing sum in front": (F.mul, [X, ROW], Mul, lambda c, d: (d * c.y, d * c.x),
        "missing sum", r"the sum over axis 0 \(length 3\) is missing: .* input 1 of Mul from shape \(5,\) to \(3, 5\)"),
    "missing sum on both sides": (F.add, [COLUMN, ROW], Add, lambda c, d: (d, d),
        "missing sum", r"the sum over axis 1 \(length 5\) is missing"),
    "one row for the sum": (F.add, [X, ROW], Add, lambda c, d: (d, d[1]),
        "missing sum", r"the sum over axis 0 of the output \(length 3\) is missing: only index 1 of dout"),
    "missing repeat": (sum_last, X, Sum, lambda c, d: (d,),
        "missing repeat", r"forward reduced input 0 of Sum from shape \(3, 5\) to \(3,\), so backward must repeat"),
    "dout ignored": (F.mul, [X, Y], Mul, lambda c, d: (c.y, d * c.x),
        "upstream", "backward ignores the upstream gradient dout"),
    "dout ignored by a loss": (cross_entropy, X, CrossEntropy, lambda c, d: CrossEntropy.backward(c, np.ones(())),
        "upstream", "backward ignores the upstream gradient"),
    "dout squared": (F.mean, X, Mean, lambda c, d: (repeated(d * d / 15, c),),
        "upstream", "twice the dout must give twice"),
    "softmax's diagonal": (softmax_last, X, Softmax, lambda c, d: (d * c.out * (1 - c.out),),
        "diagonal", "only the diagonal of the Jacobian"),
    "softmax without the sum": (softmax_last, X, Softmax, lambda c, d: (d * c.out,),
        "missing term", "treats each element on its own"),
    "layer norm without the mean": (layer_norm, LN, LayerNorm, wrong_layer_norm(mean=False),
        "missing term", "along axis 1 of .* the error is the same for all elements, as the gradient through a mean"),
    "layer norm without the variance": (layer_norm, LN, LayerNorm, wrong_layer_norm(variance=False),
        "missing term", "proportional to the input minus its mean, as the gradient through a variance"),
    "layer norm without both": (layer_norm, LN, LayerNorm, wrong_layer_norm(mean=False, variance=False),
        "missing term", "on its own"),
    "layer norm's weight without the sum": (layer_norm, LN, LayerNorm,
        lambda c, d: (LayerNorm.backward(c, d)[0], d * c.normalized, d.sum(0)),
        "missing sum", r"the sum over axis 0 \(length 3\) is missing: forward repeated input 1"),
    "exchanged": (F.mul, [X, Y], Mul, lambda c, d: (d * c.x, d * c.y), "exchanged", "input 0 .* and input 1"),
    "exchanged by shape": (F.matmul, [X, random(5, 4)], Matmul, lambda c, d: (c.x.T @ d, d @ c.y.T),
        "exchanged", "the gradients of inputs 0 and 1 of Matmul are exchanged"),
    "one gradient twice": (F.mul, [X, Y], Mul, lambda c, d: (d * c.x, d * c.x),
        "exchanged", "input 0 .* gets the gradient of input 1"),
    "embedding overwrites": (embed, random(3, 2), Embedding, overwriting_embedding,
        "overwritten", "are used several times"),
    "repeated index with +=": (lambda x: F.gather(x, 1, IDS), random(1, 5), Gather, overwriting_gather,
        "overwritten", r"x\[index\] \+= \.\.\."),
    "None": (F.mul, [X, Y], Mul, lambda c, d: (None, d * c.x), "cut off", "backward returns None for it"),
    "zeros": (F.exp, X, Exp, lambda c, d: (0 * d,), "cut off", "backward returns zeros"),
    "exp forgets the outer derivative": (F.exp, X, Exp, lambda c, d: (d,),
        "missing factor", "multiplied by the output it is right"),
    "mul forgets the other factor": (F.mul, [X, Y], Mul, lambda c, d: (d, d * c.x),
        "missing factor", "multiplied by input 1"),
    "div multiplies": (F.div, [X, Y], Div, lambda c, d: (d, -d * c.out / c.y), "missing factor", "divided by input 1"),
    "relu lets all through": (F.relu, X, Relu, lambda c, d: (d,),
        "partial", r"elements of input 0 \(x\) are wrong, exactly those that are negative"),
    "tril lets all through": (F.tril, random(4, 4), Where, lambda c, d: (None, d, None),
        "partial", r"6 of 16 elements of input 0 .* are wrong"),
    "tril keeps the diagonal": (F.tril, random(4, 4), Where, lambda c, d: (None, d * np.eye(4), None),
        "incomplete", "of the 10 derivatives that are not 0, 4 are right and the others are 0"),
    "cat forgets the last row": (lambda x: F.cat([x, x * 2]), X, Cat,
        lambda c, d: (d[:3] * [[1], [1], [0]], d[3:] * [[1], [1], [0]]),
        "incomplete", "20 are right and the others are 0, exactly those at index 2 of axis 0"),
    "no tuple": (F.exp, X, Exp, lambda c, d: d * c.out, "shape", "must return a tuple"),
    "nothing simple": (F.tanh, X, Tanh, lambda c, d: (d * np.cos(3 * c.out),), "unknown", "no single slip explains it"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_mutant_is_named(name):
    fn, inputs, op, backward, kind, words = MUTANTS[name]
    gradcheck(fn, inputs)  # unbroken, it passes
    error = failure(fn, inputs, op, backward)
    assert error.diagnosis.kind == kind, str(error)
    assert re.search(words, str(error)), str(error)


def test_every_kind_has_a_mutant():
    kinds = {kind for *_, kind, _ in MUTANTS.values()}
    shapes = {"transposed", "reversed", "exchanged", "missing sum", "missing repeat", "shape"}
    values = {"sign", "factor", "upstream", "diagonal", "missing term", "missing factor", "unknown"}
    # and "in place" below, "non-finite" and "non-deterministic" in test_gradcheck.py
    assert kinds == shapes | values | {"incomplete", "partial", "overwritten", "cut off"}


# The engine


def overwrite(sums, edges, gradients):
    """autograd.add_up with = for +."""
    for edge, gradient in zip(edges, gradients):
        if edge is not None and edge[0].is_leaf:
            edge[0].grad = np.array(gradient)
        elif edge is not None:
            sums[edge] = gradient


def diamond(x):
    y = F.exp(x)
    return y * F.tanh(y)


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (
            lambda x: x * F.tanh(x),
            r"input 0 \(x\) is used 2 times, and the gradients of all uses must be added \(\+=\)",
        ),
        (diamond, r"a result between input 0 \(x\) and the output is used more than once"),
    ],
)
def test_overwritten_accumulation(monkeypatch, fn, words):
    gradcheck(fn, X)
    monkeypatch.setattr(autograd, "add_up", overwrite)
    error = failure(fn, X)
    assert error.diagnosis.kind == "overwritten"
    assert re.search("accumulation overwritten: .*" + words, str(error))


def test_backward_that_writes_to_dout():
    def in_place(ctx, dout):
        dout *= ctx.out
        return (dout,)

    def fn(x):
        y = x + 0
        return F.exp(y) * y + F.neg(y) + (F.exp(x) + x)

    gradcheck(F.exp, X)
    error = failure(fn, X, Exp, in_place)
    assert error.diagnosis.kind == "in place"
    assert "Exp.backward changes dout in place, which others hold too" in str(error)
    assert failure(F.exp, X, Exp, in_place).diagnosis.kind == "in place"  # here the numbers are right


@pytest.mark.parametrize("fn", [F.sigmoid, lambda x: F.sum(F.sigmoid(x))])
def test_backward_that_writes_to_what_forward_saved(fn):
    def in_place(ctx, dout):
        slope = ctx.out
        slope *= 1 - slope
        return (dout * slope,)

    error = failure(fn, X, Sigmoid, in_place)
    assert error.diagnosis.kind == "in place" and "Sigmoid.backward changes ctx.out in place" in str(error)


def test_what_is_as_small_as_an_error_of_the_differences_is_no_slip():
    error = failure(lambda x: F.layer_norm(x, 5), 1e6 + random(2, 5))
    assert error.diagnosis.kind == "unknown" and "choose inputs between 0.1 and 10" in str(error)
    error = failure(F.exp, X, Exp, lambda ctx, dout: (dout * (ctx.out + 5e-5),))  # but this one is
    assert "from the differences themselves" not in str(error)


# Ambiguity


def test_lengths_that_coincide_are_all_named():
    error = failure(F.mean, random(3, 3), Mean, lambda c, d: (repeated(d / 3, c),))
    assert "3x too large: a sum over axis 0 or axis 1 of input 0 (x) (length 3) is counted per element" in str(error)
    assert error.diagnosis.factor == pytest.approx(3)


def test_a_length_of_2_may_be_a_factor_of_2():
    error = failure(sum_last, random(3, 2), Sum, lambda c, d: (repeated(d[:, None] / 2, c),))
    assert "2x too small: this is the gradient of a mean over axis 1" in str(error)
    assert "or: 2x too small: a factor 2 is missing" in str(error)


def test_explanations_that_fit_alike_are_all_given():
    error = failure(F.sub, [X, Y], Sub, lambda c, d: (-d, d))
    assert error.diagnosis.kind == "sign"
    assert [other.kind for other in error.diagnosis.others] == ["exchanged"]


def test_one_number_proves_no_factor():
    error = failure(F.tanh, np.array([0.3]), Tanh, lambda c, d: (1.37 * d,))
    assert error.diagnosis.kind == "unknown"


# Functions of many ops, and large ones


def test_a_wrong_shape_inside_a_larger_function():
    def fn(x, w, b):
        return F.sum(F.tanh(F.tanh(x @ w + b) @ F.exp(w) + b) ** 2)

    inputs = [random(3, 4), random(4, 4), random(4)]
    gradcheck(fn, inputs)
    error = failure(fn, inputs, Add, lambda c, d: (d, d))
    assert error.diagnosis.kind == "missing sum"
    error = failure(fn, inputs, Add, lambda c, d: (d, -d))
    assert "it looks as if the sum over axis 0" in str(error)
    assert "even with the right shape the values are wrong" in str(error)


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda dx, dy: (-dx, dy), "sign"),
        (lambda dx, dy: (dx / 60, dy), "factor"),
        (lambda dx, dy: (dx.T, dy), "transposed"),
        (lambda dx, dy: (dy, dx), "exchanged"),
        (lambda dx, dy: (0 * dx, dy), "cut off"),
    ],
)
def test_large_inputs_are_diagnosed_from_directions(spoil, kind):
    class Product(Function):
        forward = staticmethod(lambda ctx, x, y: (setattr(ctx, "xy", (x, y)), (x * y).sum())[1])
        backward = staticmethod(lambda ctx, dout: spoil(dout * ctx.xy[1], dout * ctx.xy[0]))

    assert failure(Product.apply, [random(60, 60), random(60, 60) * 2 + 1]).diagnosis.kind == kind


def test_names_come_from_forward_for_a_bare_function():
    class Weighted(Function):
        forward = staticmethod(lambda ctx, features, weight: features * weight)
        backward = staticmethod(lambda ctx, dout: (None, None))

    assert "no gradient reaches input 0 (features)" in str(failure(Weighted.apply, [X, Y]))


# An op of one's own, whose source can be read


class OwnSoftmax(Function):
    @staticmethod
    def forward(ctx, x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        ctx.out = e / e.sum(axis=1, keepdims=True)
        return ctx.out

    @staticmethod
    def backward(ctx, dout):
        return (ctx.out * (dout - (dout * ctx.out).sum(axis=0, keepdims=True)),)


class OwnRelu(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return np.maximum(x, 0)

    @staticmethod
    def backward(ctx, dout):
        return (dout * (ctx.x < 0),)


class OwnTanh(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return np.tanh(x)

    @staticmethod
    def backward(ctx, dout):
        return (dout * (1 - ctx.x**2),)


class OwnDropout(Function):
    @staticmethod
    def forward(ctx, x):
        return x * np.array([[1, 0, 1, 0, 1]])

    @staticmethod
    def backward(ctx, dout):
        return (dout * (np.random.random(dout.shape) > 0.5),)  # noqa: NPY002


class OwnMax(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return x.max(axis=1)

    @staticmethod
    def backward(ctx, dout):
        return (np.broadcast_to(dout[:, None], ctx.shape),)


class OwnSquare(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return x * x

    @staticmethod
    def backward(ctx, dout):
        return (np.where(np.abs(ctx.x) < 0.01, 0, dout * (ctx.x + ctx.x)),)


class OwnLayerNorm(Function):  # two sums where means belong; a root of a negative number would give nan everywhere
    @staticmethod
    def forward(ctx, x):
        centered = x - x.mean(-1, keepdims=True)
        ctx.var = (centered * centered).mean(-1, keepdims=True)
        ctx.out = centered / np.sqrt(ctx.var + 1e-5)
        return ctx.out

    @staticmethod
    def backward(ctx, dout):
        both = dout.sum(-1, keepdims=True) + ctx.out * (dout * ctx.out).sum(-1, keepdims=True)
        return ((dout - both) / np.sqrt(ctx.var + 1e-5),)


@pytest.mark.parametrize(
    ("op", "x", "words"),
    [
        (OwnSquare, np.array([0.003, -0.007, 1, 100]), r"`dout \* \(x \+ x\)` in place of `where"),
        pytest.param(
            OwnLayerNorm,
            random(3, 4),
            r"`dout.mean\(-1\)` in place of `dout.sum\(-1\)`",
        ),
    ],
)
def test_no_repair_that_changes_nothing_or_gives_nan(op, x, words):
    assert re.search(words, str(failure(op.apply, x).diagnosis))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_backward_that_is_not_finite_for_some_douts(bad):
    error = failure(F.exp, X, Exp, lambda ctx, dout: (ctx.out * np.where(dout < 0, bad, dout),))
    assert error.diagnosis.kind == "upstream"


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (OwnSoftmax, r"sum\(axis=1\)` in place of .*sum\(axis=0\)`"),
        (OwnRelu, "`x > 0` in place of `x < 0`"),
        (OwnTanh, r"`tanh\(x\)` in place of `x`"),
        (OwnDropout, "draws new random numbers"),
        (OwnMax, "12 of 15 elements .* outputs that do not depend on them"),
    ],
)
def test_the_repair_of_an_op_of_ones_own(op, words):
    with pytest.raises(GradcheckError, match=words):
        gradcheck(op.apply, X)


def test_rounding_noise_where_the_derivative_is_0_is_no_error():
    gradcheck(lambda x: F.sum(x - F.mean(x)), 1000 * X)


def test_numpys_message_about_shapes_is_explained():
    def backward(ctx, dout):
        return (ctx.out * (dout - (dout * ctx.out).sum(axis=1)),)

    op = type("OwnSoftmax", (OwnSoftmax,), {"backward": staticmethod(backward)})
    with pytest.raises(ValueError, match="broadcast") as caught:
        gradcheck(op.apply, X)
    assert "keepdims=True keeps them" in "".join(caught.value.__notes__)


RULE = ": NumPy aligns the last axes of two shapes, and lengths must be equal or 1"
ADVICE = RULE + "; (3,) would fit with axes of length 1: keepdims=True keeps them, np.expand_dims adds them"


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: np.ones((3, 2)) * np.ones(3), ADVICE),
        (lambda: np.broadcast_to(np.ones(3), (3, 2)), ADVICE),
        (lambda: np.ones((3, 2)).__setitem__(..., np.ones(3)), ADVICE),
        (lambda: np.ones((3, 2)) * np.ones((2, 3)), RULE),
        (lambda: np.ones((3, 2)) * np.ones(4), RULE),
        (lambda: np.repeat(np.ones(1), (1, 2)), ""),  # which has another rule
    ],
)
def test_axes_of_length_1_are_advised_only_where_they_help(work, words):
    with pytest.raises(ValueError) as caught:
        work()
    assert numpy_in_words(str(caught.value)) == words
