"""A check must be able to fail: each op below is broken in one way, and gradcheck has to say which.

The axes have distinct lengths, so that a factor has one name, except where a test is about lengths that coincide.
"""

import re

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Function, autograd, switches, use_kernels
from minigrad.functional.activation import Relu, Sigmoid, Softmax, Tanh
from minigrad.functional.attention import ScaledDotProductAttention
from minigrad.functional.elementwise import Add, Div, Exp, Mul, Pow, Sub, Where
from minigrad.functional.indexing import Embedding, Getitem
from minigrad.functional.linalg import Matmul
from minigrad.functional.normalization import LayerNorm
from minigrad.functional.reduction import Amax, Mean, Sum, Var
from minigrad.functional.shape import Cat, Permute
from minigrad.gradcheck.check import GradcheckError, gradcheck
from minigrad.gradcheck.shape_diagnosis import numpy_in_words


def with_backward(op, backward):
    """The choice of kernels in which the Function `op` has another backward."""
    return use_kernels({op: type(op.__name__, (op,), {"backward": staticmethod(backward)})})


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


def diamond(x):
    y = x + 0
    return F.exp(y) * y + F.neg(y) + (F.exp(x) + x)


def many_ops(x, w, b):
    return F.sum(F.tanh(F.tanh(x @ w + b) @ F.exp(w) + b) ** 2)


def dot(x, y):
    return F.sum(x * y)


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


def attention_without_scale(ctx, dout):
    dq, dk, dv, dmask = ScaledDotProductAttention.backward(ctx, dout)
    return dq, dk / ctx.scale, dv, dmask


def repeated(value, ctx):
    return np.broadcast_to(value, ctx.shape)


# Backwards whose source can be read and repaired


def changes_dout(ctx, dout):
    dout *= ctx.out
    return (dout,)


def changes_what_was_saved(ctx, dout):
    slope = ctx.out
    slope *= 1 - slope
    return (dout * slope,)


def softmax_along_another_axis(ctx, dout):
    return (ctx.out * (dout - (dout * ctx.out).sum(axis=0, keepdims=True)),)


def relu_turned_round(ctx, dout):
    return (dout * (ctx.x < 0),)


def tanh_forgotten(ctx, dout):
    return (dout * (1 - ctx.x**2),)


def square_near_0(ctx, dout):
    return np.where(np.abs(ctx.x) < 0.01, 0, dout * (ctx.x + ctx.x)), None


def sums_for_means(ctx, dout):  # a root of a negative number would give nan everywhere, which is no repair
    both = dout.sum(-1, keepdims=True) + ctx.normalized * (dout * ctx.normalized).sum(-1, keepdims=True)
    return (dout - both) / np.sqrt(ctx.std * ctx.std), None, None


def another_mask(ctx, dout):
    return dout * (np.random.random(dout.shape) > 0.5), None  # noqa: NPY002


class Weighted(Function):
    forward = staticmethod(lambda ctx, features, weight: features * weight)
    backward = staticmethod(lambda ctx, dout: (None, None))


X = random(3, 5)
Y = random(3, 5) + 4
ROW = random(5)
COLUMN = random(3, 1)
LN, QKV = [X, random(5) + 3, random(5)], [random(3, 5), random(4, 5), random(4, 2)]
DEEP, LARGE = [random(3, 4), random(4, 4), random(4)], [random(60, 60), random(60, 60) * 2 + 1]

# fn, inputs, the op that is broken, its wrong backward, and kind and words of the error
MUTANTS = {
    "sign of sub": (F.sub, [X, Y], Sub, lambda c, d: (d, d), "sign", "the sign is flipped"),
    "sum gets mean's": (sum_last, X, Sum, lambda c, d: (np.repeat(d[:, None] / 5, 5, 1),),
        "factor", r"5x too small: this is the gradient of a mean over axis 1 .* \(length 5\), not of a sum"),
    "mean gets sum's": (lambda x: F.mean(x, 0), X, Mean, lambda c, d: (repeated(d, c),),
        "factor", r"3x too large: a sum over axis 0 of input 0 \(x\) \(length 3\) is counted per element, or a mean"),
    "mean of all gets sum's": (F.mean, X, Mean, lambda c, d: (repeated(d, c),),
        "factor", "15x too large: a sum over all elements"),
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
    "softmax's diagonal": (softmax_last, X, Softmax, lambda c, d: (d * c.out * (1 - c.out),),
        "diagonal", "only the diagonal of the Jacobian"),
    "softmax without the sum": (softmax_last, X, Softmax, lambda c, d: (d * c.out,),
        "missing term", "treats each element on its own"),
    "layer norm without the mean": (layer_norm, LN, LayerNorm, wrong_layer_norm(mean=False),
        "missing term", "along axis 1 of .* the error is the same for all elements, as the gradient through a mean"),
    "layer norm without the variance": (layer_norm, LN, LayerNorm, wrong_layer_norm(variance=False),
        "missing term", "proportional to the input minus its mean, as the gradient through a variance"),
    "exchanged": (F.mul, [X, Y], Mul, lambda c, d: (d * c.x, d * c.y), "exchanged", "input 0 .* and input 1"),
    "exchanged by shape": (F.matmul, [X, random(5, 4)], Matmul, lambda c, d: (c.x.T @ d, d @ c.y.T),
        "exchanged", "the gradients of inputs 0 and 1 of Matmul are exchanged"),
    "one gradient twice": (F.mul, [X, Y], Mul, lambda c, d: (d * c.x, d * c.x),
        "exchanged", "input 0 .* gets the gradient of input 1"),
    "embedding overwrites": (embed, random(3, 2), Embedding, overwriting_embedding,
        "overwritten", "are used several times"),
    "None": (F.mul, [X, Y], Mul, lambda c, d: (None, d * c.x), "cut off", "backward returns None for it"),
    "zeros": (F.exp, X, Exp, lambda c, d: (0 * d,), "cut off", "backward returns zeros"),
    "exp forgets the outer derivative": (F.exp, X, Exp, lambda c, d: (d,),
        "missing factor", "multiplied by the output it is right"),
    "mul forgets the other factor": (F.mul, [X, Y], Mul, lambda c, d: (d, d * c.x),
        "missing factor", "multiplied by input 1"),
    "div multiplies": (F.div, [X, Y], Div, lambda c, d: (d, -d * c.out / c.y), "missing factor", "divided by input 1"),
    "relu lets all through": (F.relu, X, Relu, lambda c, d: (d,),
        "partial", r"elements of input 0 \(x\) are wrong, exactly those that are negative"),
    "tril keeps the diagonal": (F.tril, random(4, 4), Where, lambda c, d: (None, d * np.eye(4), None),
        "incomplete", "of the 10 derivatives that are not 0, 4 are right and the others are 0"),
    "cat forgets the last row": (lambda x: F.cat([x, x * 2]), X, Cat,
        lambda c, d: (d[:3] * [[1], [1], [0]], d[3:] * [[1], [1], [0]]),
        "incomplete", "20 are right and the others are 0, exactly those at index 2 of axis 0"),
    "no tuple": (F.exp, X, Exp, lambda c, d: d * c.out, "shape", "must return a tuple"),
    "writes to dout": (F.exp, X, Exp, changes_dout,  # here the numbers are right
        "in place", "Exp.backward changes dout in place, which others hold too"),
    "writes to dout that others hold": (diamond, X, Exp, changes_dout,
        "in place", "Exp.backward changes dout in place, which others hold too"),
    "writes to what forward saved": (F.sigmoid, X, Sigmoid, changes_what_was_saved,
        "in place", "Sigmoid.backward changes ctx.out in place"),
    "nan for some douts": (F.exp, X, Exp, lambda c, d: (c.out * np.where(d < 0, np.nan, d),), "upstream", ""),
    # several reasons, or none
    "lengths that coincide": (F.mean, random(3, 3), Mean, lambda c, d: (repeated(d / 3, c),),
        "factor", r"3x too large: a sum over axis 0 or axis 1 of input 0 \(x\) \(length 3\) is counted per element"),
    "a length of 2 or a factor of 2": (sum_last, random(3, 2), Sum, lambda c, d: (repeated(d[:, None] / 2, c),),
        "factor", "2x too small: this is the gradient of a mean over axis 1.*or: 2x too small: a factor 2 is missing"),
    "sign or exchange": (F.sub, [X, Y], Sub, lambda c, d: (-d, d), "sign", "; or: the gradients .* are exchanged"),
    "one number proves no factor": (F.tanh, np.array([0.3]), Tanh, lambda c, d: (1.37 * d,), "unknown", ""),
    "a small error that the differences do not have": (F.exp, X, Exp, lambda c, d: (d * (c.out + 5e-5),),
        "partial", "13 of 15 elements of input 0"),
    # many ops, and large inputs, of which only directions are known
    "a wrong shape amid many ops": (many_ops, DEEP, Add, lambda c, d: (d, d), "missing sum", "is missing"),
    "a wrong shape and wrong values": (many_ops, DEEP, Add, lambda c, d: (d, -d), "shape",
        "it looks as if the sum over axis 0 .* but even with the right shape the values are wrong"),
    "large, factor": (dot, LARGE, Mul, lambda c, d: (d * c.y / 60, d * c.x), "factor", ""),
    "large, exchanged": (dot, LARGE, Mul, lambda c, d: (d * c.x, d * c.y), "exchanged", ""),
    # a source that can be read
    "softmax along another axis": (softmax_last, X, Softmax, softmax_along_another_axis,
        "source", r"sum\(axis=1\)` in place of .*sum\(axis=0\)`"),
    "random mask": (lambda x: x * np.array([1.0, 0, 1, 0, 1]), X, Mul, another_mask,
        "non-deterministic", "draws new random numbers"),
    "max gives to all": (lambda x: F.amax(x, 1), X, Amax, lambda c, d: (np.broadcast_to(d[:, None], c.x.shape),),
        "partial", "12 of 15 elements .* outputs that do not depend on them"),
    "a repair that changes nothing is none": (lambda x: x**2, np.array([0.003, -0.007, 1, 100]), Pow, square_near_0,
        "source", r"`dout \* \(x \+ x\)` in place of `where"),
    "a repair that gives nan is none": (lambda x: F.layer_norm(x, 4), random(3, 4), LayerNorm, sums_for_means,
        "source", r"`dout.mean\(-1\)` in place of `dout.sum\(-1\)`"),
    "nothing simple": (F.tanh, X, Tanh, lambda c, d: (d * np.cos(3 * c.out),), "unknown", "no single slip explains it"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_mutant_is_named(name):
    fn, inputs, op, backward, kind, words = MUTANTS[name]
    gradcheck(fn, inputs)  # unbroken, it passes
    with with_backward(op, backward), pytest.raises(GradcheckError) as caught:
        gradcheck(fn, inputs)
    assert caught.value.diagnosis.kind == kind, str(caught.value)
    assert re.search(words, str(caught.value)), str(caught.value)


def overwrite(sums, edges, gradients):
    """autograd.add_up with = for +."""
    if switches.accumulate is not None:
        return switches.accumulate(sums, edges, gradients)
    for edge, gradient in zip(edges, gradients):
        if edge is not None and edge[0].is_leaf:
            edge[0].grad = np.array(gradient)
        elif edge is not None:
            sums[edge] = gradient


def used_twice(x):
    y = F.exp(x)
    return y * F.tanh(y)


@pytest.mark.parametrize(
    "fn, words",
    [
        (lambda x: x * F.tanh(x), r"input 0 \(x\) is used 2 times, and the gradients of all uses must be added"),
        (used_twice, r"a result between input 0 \(x\) and the output is used more than once"),
    ],
)
def test_overwritten_accumulation(monkeypatch, fn, words):
    gradcheck(fn, X)
    monkeypatch.setattr(autograd, "add_up", overwrite)
    with pytest.raises(GradcheckError, match="accumulation overwritten: .*" + words) as caught:
        gradcheck(fn, X)
    assert caught.value.diagnosis.kind == "overwritten"


@pytest.mark.parametrize(
    "fn, inputs, words",
    [
        (lambda x: F.layer_norm(x, 5), 1e6 + random(2, 5), "choose inputs between 0.1 and 10"),
        (Weighted.apply, [X, Y], r"no gradient reaches input 0 \(features\)"),
    ],
    ids=["an error of the differences", "the name of forward's argument"],
)
def test_what_is_wrong_as_it_stands(fn, inputs, words):
    with pytest.raises(GradcheckError, match=words):
        gradcheck(fn, inputs)


@pytest.mark.parametrize(
    "f, backward, words",
    [
        (lambda x: x * (x > 0), relu_turned_round, "`x > 0` in place of `x < 0`"),
        (np.tanh, tanh_forgotten, r"`tanh\(x\)` in place of `x`"),
    ],
)
def test_an_op_of_ones_own_is_repaired(f, backward, words):
    forward = staticmethod(lambda ctx, x: (setattr(ctx, "x", x), f(x))[1])
    op = type("Own", (Function,), {"forward": forward, "backward": staticmethod(backward)})
    with pytest.raises(GradcheckError, match=words):
        gradcheck(op.apply, X)


def test_rounding_noise_where_the_derivative_is_0_is_no_error():
    gradcheck(lambda x: F.sum(x - F.mean(x)), 1000 * X)


def test_numpys_message_about_shapes_is_explained():
    def without_keepdims(ctx, dout):
        return (ctx.out * (dout - (dout * ctx.out).sum(axis=1)),)

    with with_backward(Softmax, without_keepdims), pytest.raises(ValueError, match="broadcast") as caught:
        gradcheck(softmax_last, X)
    assert "keepdims=True keeps them" in "".join(caught.value.__notes__)


RULE = ": NumPy aligns the last axes of two shapes, and lengths must be equal or 1"
ADVICE = RULE + "; (3,) would fit with axes of length 1: keepdims=True keeps them, np.expand_dims adds them"


@pytest.mark.parametrize(
    "work, words",
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
