"""Every op's backward against differences of its forward, in float64, on shapes and memory that hurt.

CASES holds, for every name in F, how an example is drawn: a function of Tensors, and the arrays to call it with.
gradcheck moves each element of each input and looks whether all outputs move as backward says; the complex step does
the same without rounding error. The same example then shows what two uses of a tensor give.
"""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad
import minigrad.functional as F
from minigrad import Tensor
from minigrad.gradcheck.check import gradcheck
from tests.minigrad.strategies import arrays, axes, axis, broadcast_shapes, integers, masks, shapes, side
from tests.minigrad.test_ops_torch import EQUATIONS, INDICES, as_tuple


def pick(draw, *options):
    return draw(st.sampled_from(options))


def of_array(op, *parameters, low=-2.0, high=2.0, **limits):
    """`op` of an array and of further arguments: each of `parameters` sees the array, and makes a strategy for one."""

    def example(draw):
        x = draw(arrays(draw(shapes(**limits)), low, high))
        drawn = [draw(parameter(x)) for parameter in parameters]
        return lambda x: op(x, *drawn), [x]

    return example


def an_axis(x):
    return axis(x.ndim)


def some_axes(x):
    return axes(x.ndim)


def one_axis_or_all(x):
    return st.none() | axis(x.ndim)


def flag(x):
    return st.booleans()


def one_of(*values):
    return lambda x: st.sampled_from(values)


def binary(op, low=-2.0, high=2.0):
    """Two arrays that broadcast, one array twice, or an array and a number."""

    def example(draw):
        first, second = draw(broadcast_shapes(2))
        x, y = draw(arrays(first, low, high)), draw(arrays(second, low + 0.1, high))
        number = pick(draw, 0.5, 1.0, 2)
        return pick(draw, (op, [x, y]), (op, [x, x]), (lambda x: op(x, number), [x]), (lambda x: op(number, x), [x]))

    return example


def reduction(op):
    return of_array(op, some_axes, flag, min_side=1)


def extreme(op):
    """A maximum or minimum of all elements, or along an axis."""
    return of_array(lambda x, whole, *how: op(x) if whole else op(x, *how), flag, an_axis, flag, min_side=1)


def prod(draw):
    """Some of the factors are 0."""
    fn, (x,) = of_array(F.prod, one_axis_or_all, flag, min_side=1)(draw)
    return fn, [np.where(draw(masks(x.shape, 0.3)), 0, x)]


def times_constant(op):
    """x times numbers that do not change where x changes a little, such as the index of the largest element."""

    def example(draw):
        fn, inputs = op(draw)
        return lambda x: x * fn(x), inputs

    return example


def one_hot(draw):
    ids = draw(integers(3, draw(shapes(max_dims=2))))
    return lambda x: x * F.one_hot(Tensor(ids), 3), [draw(arrays((*ids.shape, 3)))]


def topk(draw):
    x = draw(arrays(draw(shapes())))
    dim, largest = draw(axis(x.ndim)), draw(st.booleans())
    k = draw(st.integers(0, x.shape[dim])) if x.ndim else 1
    return lambda x: F.topk(x, k, dim, largest).values, [x]


def index_select(draw):
    x = draw(arrays(draw(shapes(min_dims=1, min_side=1))))
    dim = draw(axis(x.ndim))
    index = draw(integers(x.shape[dim], draw(side)))
    return lambda x: F.index_select(x, dim, index), [x]


def variance(op, **limits):
    """The correction may be no integer; of a number without dimensions it is 0."""

    def corrections(x):
        return st.sampled_from([0, 1, 0.5] if x.ndim else [0])

    def with_names(x, dim, correction, keepdim):
        return op(x, dim, correction=correction, keepdim=keepdim)

    return of_array(with_names, some_axes, corrections, flag, min_side=2, **limits)


def where(draw):
    first, second, third = draw(broadcast_shapes(3))
    return F.where, [draw(masks(first)), draw(arrays(second)), draw(arrays(third))]


def masked_fill(draw):
    first, second = draw(broadcast_shapes(2))
    mask = draw(masks(second))
    return lambda x, value: F.masked_fill(x, Tensor(mask), value), [draw(arrays(first)), draw(arrays(()))]


def clip(draw):
    first, second, third = draw(broadcast_shapes(3))
    x, low, high = draw(arrays(first)), draw(arrays(second, -1.5)), draw(arrays(third, -1))
    return pick(
        draw,
        (F.clip, [x, low, high]),
        (lambda x: F.clip(x, -0.5, 0.5), [x]),
        (lambda x, high: F.clip(x, max=high), [x, high]),
        (lambda x: F.clip(x, min=0.0), [x]),
    )


def normalized_rows(draw):
    """An array, and the shape of its last axes over which it is normalized."""
    x = draw(arrays(draw(shapes(min_dims=1, min_side=1))))
    return x, x.shape[draw(st.integers(0, x.ndim - 1)) :]


def layer_norm(draw):
    x, normalized = normalized_rows(draw)
    weight, bias = draw(arrays(normalized)), draw(arrays(normalized))
    return pick(
        draw,
        (lambda x, w, b: F.layer_norm(x, normalized, w, b, 0.1), [x, weight, bias]),
        (lambda x, w: F.layer_norm(x, normalized, w, eps=0.1), [x, weight]),
        (lambda x, b: F.layer_norm(x, normalized, None, b, 0.1), [x, bias]),
        (lambda x: F.layer_norm(x, normalized, eps=0.1), [x]),
    )


def rms_norm(draw):
    x, normalized = normalized_rows(draw)
    inputs = [x, draw(arrays(normalized))]
    return lambda x, w=None: F.rms_norm(x, normalized, w, 0.1), pick(draw, inputs, inputs[:1])


def rotary_embedding(draw):
    lead, other = draw(broadcast_shapes(2, max_dims=2))
    lead = np.broadcast_shapes(lead, other)
    half = draw(side)
    angles = draw(arrays(pick(draw, (*other, half), (*lead, half), (half,)), -7, 7))

    def rotated(x):  # complex for the complex step
        return F.rotary_embedding(x, np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype))

    return rotated, [draw(arrays((*lead, 2 * half)))]


def swiglu(draw):
    shape = draw(shapes())
    gate, up = draw(arrays(shape, -5, 5)), draw(arrays(shape))
    return F.swiglu, pick(draw, [gate, up], [gate, gate])


def matmul(draw):
    batch, other_batch = draw(broadcast_shapes(2, max_dims=2))
    m, k, n = draw(side), draw(side), draw(side)
    first = draw(arrays(pick(draw, (*batch, m, k), (m, k), (k,))))
    second = draw(arrays(pick(draw, (*other_batch, k, n), (k, n), (k,))))
    square = draw(arrays((k, k)))
    return F.matmul, pick(draw, [first, second], [square, square])


def linear(op=F.linear, largest=2.0):
    def example(draw):
        lead = draw(shapes(max_dims=2))
        features, outputs = draw(side), draw(side)
        weight = draw(arrays((outputs, features), -largest, largest))
        x, bias = draw(arrays((*lead, features))), draw(arrays((outputs,)))
        return op, pick(draw, [x, weight, bias], [x, weight])

    return example


def einsum(draw):
    equation = pick(draw, *EQUATIONS)
    return lambda *xs: F.einsum(equation, *xs), [draw(arrays(shape)) for shape in EQUATIONS[equation]]


def embedding(draw):
    ids = draw(integers(3, draw(shapes(max_dims=2))))
    return lambda weight: F.embedding(ids, weight), [draw(arrays((3, draw(side))))]


def gather(draw):
    shape = draw(shapes(min_dims=1, min_side=1))
    dim = draw(axis(len(shape)))
    index_shape = list(shape)
    index_shape[dim] = draw(st.sampled_from([2, 4, 1, 0]))
    index = draw(integers(shape[dim], index_shape))
    return lambda x: F.gather(x, dim, index), [draw(arrays(shape))]


def getitem(draw):
    index = pick(draw, slice(None, None, -1), slice(2, None, -2), ([0, 0], [1, 1]), *INDICES.values())
    return lambda x: F.getitem(x, index), [draw(arrays((4, 3, 5)))]


def new_shapes(x):
    """Shapes that have room for as many elements, some with -1."""
    options = [(x.size,), x.shape[::-1], (*x.shape, 1), (1, *x.shape)]
    return st.sampled_from(options + ([(-1,), (x.shape[0], -1)] if x.size and x.ndim else []))


def expand(draw):
    small, large = draw(broadcast_shapes(2))
    full = np.broadcast_shapes(small, large)
    return lambda x: F.expand(x, full), [draw(arrays(small))]


def cat(draw):
    shape = list(draw(shapes(min_dims=1)))
    dim = draw(axis(len(shape)))
    parts = []
    for _ in range(pick(draw, 2, 3, 1)):
        shape[dim] = draw(side)
        parts.append(draw(arrays(tuple(shape))))
    return lambda *xs: F.cat(xs, dim), pick(draw, parts, [parts[0], parts[0]])


def stack(draw):
    shape = draw(shapes())
    dim = draw(axis(len(shape) + 1))
    x, y = draw(arrays(shape)), draw(arrays(shape))
    return lambda *xs: F.stack(xs, dim), pick(draw, [x, y], [x, y, x], [x])


def split(draw):
    x = draw(arrays(draw(shapes(min_dims=1, min_side=1))))
    dim = draw(axis(x.ndim))
    n = x.shape[dim]
    sizes = pick(draw, 1, 2, n, [n], [0, n], [1, n - 1])
    return lambda x: F.split(x, sizes, dim), [x]


def split_heads(draw):
    parts, n_head, size = pick(draw, 3, 2, 1), pick(draw, 2, 3, 1), draw(side)
    x = draw(arrays((*draw(shapes(2, 2)), parts * n_head * size)))
    return lambda x: F.split_heads(x, n_head, parts), [x]


def pad(draw):
    x = draw(arrays(draw(shapes())))
    widths = draw(st.lists(st.integers(0, 2), min_size=0, max_size=2 * x.ndim).filter(lambda w: len(w) % 2 == 0))
    if x.ndim and x.shape[-1] and widths:
        widths[0] = pick(draw, -1, 0, 1)
    return lambda x: F.pad(x, widths, value=0.5), [x]


def dropout(x, p):
    minigrad.manual_seed(0)
    return F.dropout(x, p)


def scaled_dot_product_attention(draw):
    """Leading axes that broadcast, or G heads of queries to each of K heads of keys; some rows see nothing."""
    t, s, d, dv = draw(st.tuples(*[st.sampled_from([2, 3, 1])] * 4))
    grouped, causal, p = draw(st.booleans()), draw(st.booleans()), pick(draw, 0.5, 0.0)
    lead, key_lead = draw(broadcast_shapes(2, max_dims=2))
    mask_shapes = [(t, s), (s,)]
    if grouped:
        batch, keys, groups = draw(st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3)))
        lead, key_lead = (batch, keys * groups), (batch, keys)
        mask_shapes += [(batch, 1, t, s), (keys * groups, t, s), (batch, keys * groups, 1, s)]
    q, k, v = draw(arrays((*lead, t, d))), draw(arrays((*key_lead, s, d))), draw(arrays((*key_lead, s, dv)))
    shape = pick(draw, *mask_shapes)
    mask = pick(draw, [], [draw(masks(shape, 0.6))], [draw(arrays(shape))])

    def attention(q, k, v, mask=None):
        minigrad.manual_seed(0)
        causal_here = causal and mask is None
        return F.scaled_dot_product_attention(q, k, v, mask, p, causal_here, scale=0.7, enable_gqa=grouped)

    return attention, pick(draw, [q, k, v, *mask], *([] if grouped else [[q, q, q]]))


def classes(draw, rows):
    """Targets for `rows`, out of three classes, some of them ignored."""
    return np.where(draw(masks(rows, 0.3)), -100, draw(integers(3, rows)))


def reductions(draw, targets):
    """Of a mean over no rows, nan, there is no gradient to check."""
    return pick(draw, *(["mean"] if (targets != -100).any() else []), "sum", "none")


def class_loss(op, **options):
    def example(draw):
        rows = pick(draw, (4,), (2,), (2, 2), (2, 1, 2), (), (0,))
        targets = classes(draw, rows)
        scores = draw(arrays(rows[:1] + (3,) + rows[1:]))
        reduction, weight = reductions(draw, targets), pick(draw, None, np.array([0.5, 2.0, 1.0]))
        extra = {name: draw(values) for name, values in options.items()}

        def loss(scores):  # complex for the complex step
            own_weight = None if weight is None else Tensor(weight.astype(scores.dtype))
            return op(scores, Tensor(targets), own_weight, reduction=reduction, **extra)

        return loss, [scores]

    return example


def linear_cross_entropy(draw):
    n, features = draw(side), draw(side)
    targets = classes(draw, n)
    reduction = reductions(draw, targets)
    inputs = [draw(arrays((n, features))), draw(arrays((3, features)))]
    return lambda x, w: F.linear_cross_entropy(x, w, Tensor(targets), reduction=reduction), inputs


def pairwise_loss(op, *reductions, low=-2.0, **options):
    def example(draw):
        shape = draw(shapes(min_side=1))
        x, y = draw(arrays(shape)), draw(arrays(shape, low))
        reduction = pick(draw, "mean", "sum", "none", *reductions)
        extra = {name: draw(values) for name, values in options.items()}
        return lambda x, y: op(x, y, reduction=reduction, **extra), [x, y]

    return example


def kl_div(draw):
    if draw(st.booleans()):
        return pairwise_loss(F.kl_div, "batchmean", log_target=st.just(True))(draw)
    return pairwise_loss(F.kl_div, "batchmean", low=0.1)(draw)


def binary_cross_entropy_with_logits(draw):
    shape = draw(shapes(min_side=1))
    logits, target, weight, pos_weight = (draw(arrays(shape, low)) for low in (-2, 0, 0, 0))
    reduction = pick(draw, "mean", "sum", "none")

    def loss(logits, target, weight=None, pos_weight=None):
        return F.binary_cross_entropy_with_logits(logits, target, weight, reduction, pos_weight)

    return loss, pick(draw, [logits, target], [logits, target, weight], [logits, target, weight, pos_weight])


CASES = {
    # one array
    **{name: of_array(getattr(F, name)) for name in ("abs", "exp", "neg", "relu", "tanh")},
    **{name: of_array(getattr(F, name), low=0.1) for name in ("log", "sqrt")},
    **{name: of_array(getattr(F, name), low=-5, high=5) for name in ("sigmoid", "silu")},
    "erf": of_array(F.erf, low=-7, high=7),
    "gelu": of_array(F.gelu, one_of("none", "tanh")),
    "logsigmoid": of_array(F.logsigmoid, low=-20, high=20),
    "softplus": of_array(lambda x, curve: F.softplus(x, *curve), one_of((1, 20), (0.5, 0.2), (3, 1)), low=-5, high=5),
    "dropout": of_array(dropout, one_of(0.3, 0.0, 1.0)),
    "to": of_array(lambda x: F.to(x, "cpu", x.dtype)),
    # two or three arrays that broadcast
    **{name: binary(getattr(F, name)) for name in ("add", "maximum", "minimum", "mul", "sub")},
    "clip": clip,
    "div": binary(F.div, low=0.5),
    "masked_fill": masked_fill,
    "pow": binary(F.pow, low=0.1),
    "where": where,
    # along axes
    **{name: reduction(getattr(F, name)) for name in ("amax", "amin", "logsumexp", "mean", "sum")},
    **{name: extreme(getattr(F, name)) for name in ("max", "min")},
    "argmax": times_constant(of_array(lambda x, dim: F.argmax(x, dim, True), one_axis_or_all, min_side=1)),
    "argmin": times_constant(of_array(lambda x, dim: F.argmin(x, dim, True), one_axis_or_all, min_side=1)),
    "cumsum": of_array(F.cumsum, an_axis),
    "prod": prod,
    "sort": of_array(lambda x, dim, descending: F.sort(x, dim, descending).values, an_axis, flag),
    "std": variance(F.std, min_dims=1),
    "topk": topk,
    "var": variance(F.var),
    **{name: of_array(getattr(F, name), an_axis) for name in ("log_softmax", "softmax")},
    **{"layer_norm": layer_norm, "rms_norm": rms_norm},
    # shapes and places
    **{name: of_array(getattr(F, name), new_shapes) for name in ("reshape", "view")},
    **{name: of_array(getattr(F, name), one_of(*range(-3, 4)), min_dims=2) for name in ("tril", "triu")},
    "cat": cat,
    "chunk": of_array(F.chunk, one_of(2, 1, 3, 4, 5), an_axis, min_dims=1),
    "expand": expand,
    "flatten": of_array(
        lambda x, ends: F.flatten(x, *sorted(ends)), lambda x: st.tuples(*[st.integers(0, max(x.ndim - 1, 0))] * 2)
    ),
    "flip": of_array(F.flip, lambda x: axes(x.ndim).filter(lambda dims: dims is not None)),
    **{"embedding": embedding, "gather": gather, "getitem": getitem, "index_select": index_select, "one_hot": one_hot},
    "merge_heads": of_array(F.merge_heads, min_dims=4, max_dims=4),
    "pad": pad,
    "permute": of_array(F.permute, lambda x: st.permutations(range(x.ndim))),
    "rotary_embedding": rotary_embedding,
    **{"split": split, "split_heads": split_heads, "stack": stack},
    "squeeze": of_array(F.squeeze, some_axes, max_side=2),
    "transpose": of_array(F.transpose, an_axis, an_axis),
    "unsqueeze": of_array(F.unsqueeze, lambda x: axis(x.ndim + 1)),
    # products
    **{"einsum": einsum, "matmul": matmul, "linear": linear(), "swiglu": swiglu},
    "linear_gelu": linear(F.linear_gelu, 0.3),  # far below 0, GELU's slope drowns in its rounding
    "scaled_dot_product_attention": scaled_dot_product_attention,
    # losses
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits,
    "cross_entropy": class_loss(F.cross_entropy, label_smoothing=st.sampled_from([0.0, 0.2])),
    "kl_div": kl_div,
    "linear_cross_entropy": linear_cross_entropy,
    "mse_loss": pairwise_loss(F.mse_loss),
    "nll_loss": class_loss(F.nll_loss),
}
# abs of a complex number, its largest element, and a cast to x's dtype are something else
NOT_ANALYTIC = {"abs", "amax", "amin", "max", "min", "to"}


def test_no_op_is_left_out():
    public = {name for name, value in vars(F).items() if inspect.isfunction(value) and name[0] != "_"}
    assert set(CASES) == set(F.__all__) == public


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_gradients(name, data):
    fn, inputs = CASES[name](data.draw)
    before = [np.array(x) for x in inputs]
    gradcheck(fn, inputs)
    if name not in NOT_ANALYTIC:
        report = gradcheck(fn, inputs, method="complex")
        assert report.method == "complex", report
    check_two_uses(fn, inputs)
    for x, kept in zip(inputs, before):
        np.testing.assert_array_equal(x, kept)


def check_two_uses(fn, inputs):
    """A tensor that goes through an op twice gets both gradients; neither is written into the other, or into dout."""
    uses = []
    for factors in ((1, 3), (4,)):
        tensors = [Tensor(x, requires_grad=x.dtype == np.float64) for x in inputs]
        for outputs in zip(*(as_tuple(fn(*tensors)) for _ in factors)):
            if outputs[0].requires_grad:
                total = sum(factor * output for factor, output in zip(factors, outputs))
                total.backward(read_only(1.0, total.shape), retain_graph=True)
        uses.append(tensors)
    for twice, once in zip(*uses):
        assert (twice.grad is None) == (once.grad is None)
        if once.grad is not None:
            np.testing.assert_allclose(twice.grad, once.grad, rtol=1e-12, atol=1e-12)


def read_only(value, shape):
    array = np.full(shape, value)
    array.flags.writeable = False
    return array
