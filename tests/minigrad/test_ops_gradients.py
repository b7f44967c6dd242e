"""Every op's backward against differences of its forward, in float64, on shapes and memory that hurt.

CASES holds, for every name in F, how an example is drawn: a function of Tensors, and the arrays to call it with.
gradcheck moves each element of each input and looks whether all outputs move as backward says; the complex step does
the same without rounding error.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad
import minigrad.functional as F
from minigrad import Tensor
from minigrad.gradcheck.check import gradcheck
from tests.minigrad.strategies import arrays, axes, axis, broadcast_shapes, shapes


def unary(op, low=-2.0, high=2.0):
    def example(draw):
        return op, [draw(arrays(draw(shapes()), low, high))]

    return example


def binary(op, low=-2.0, high=2.0):
    """Two arrays that broadcast, one array twice, or an array and a number."""

    def example(draw):
        first, second = draw(broadcast_shapes(2))
        x, y = draw(arrays(first, low, high)), draw(arrays(second, low + 0.1, high))
        number = draw(st.sampled_from([0.5, 1.0, 2]))
        return draw(
            st.sampled_from(
                [(op, [x, y]), (op, [x, x]), (lambda x: op(x, number), [x]), (lambda x: op(number, x), [x])]
            )
        )

    return example


def reduction(op, low=-2.0, high=2.0):
    def example(draw):
        x = draw(arrays(draw(shapes(min_side=1)), low, high))
        dim, keepdim = draw(axes(x.ndim)), draw(st.booleans())
        return lambda x: op(x, dim, keepdim=keepdim), [x]

    return example


def along(op):
    """An op with an argument `dim`, and no other."""

    def example(draw):
        x = draw(arrays(draw(shapes())))
        dim = draw(axis(x.ndim))
        return lambda x: op(x, dim), [x]

    return example


def along_or_all(op, low=-2.0, high=2.0):
    """A reduction along one axis or over all elements."""

    def example(draw):
        x = draw(arrays(draw(shapes(min_side=1)), low, high))
        dim, keepdim = draw(st.none() | axis(x.ndim)), draw(st.booleans())
        return lambda x: op(x, dim, keepdim), [x]

    return example


def prod(draw):
    """Some of the factors are 0."""
    fn, (x,) = along_or_all(F.prod)(draw)
    zeros = np.random.default_rng(draw(st.integers(0, 9))).random(x.shape) < 0.3
    return fn, [np.where(zeros, 0, x)]


def times_constant(op):
    """x times numbers that do not change where x changes a little, such as the index of the largest element."""

    def example(draw):
        fn, inputs = op(draw)
        return lambda x: x * fn(x), inputs

    return example


def one_hot(draw):
    ids = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 3, draw(shapes(max_dims=2)))
    return lambda x: x * F.one_hot(Tensor(ids), 3), [draw(arrays((*ids.shape, 3)))]


def softplus(draw):
    beta, threshold = draw(st.sampled_from([(1, 20), (0.5, 0.2), (3, 1)]))
    return lambda x: F.softplus(x, beta, threshold), [draw(arrays(draw(shapes()), -5, 5))]


def sort(draw):
    x = draw(arrays(draw(shapes())))
    dim, descending = draw(axis(x.ndim)), draw(st.booleans())
    return lambda x: F.sort(x, dim, descending).values, [x]


def topk(draw):
    x = draw(arrays(draw(shapes())))
    dim, largest = draw(axis(x.ndim)), draw(st.booleans())
    k = draw(st.integers(0, x.shape[dim])) if x.ndim else 1
    return lambda x: F.topk(x, k, dim, largest).values, [x]


def index_select(draw):
    x = draw(arrays(draw(shapes(min_dims=1, min_side=1))))
    dim = draw(axis(x.ndim))
    index = np.random.default_rng(0).integers(0, x.shape[dim], draw(st.integers(0, 4)))
    return lambda x: F.index_select(x, dim, index), [x]


def flatten(draw):
    x = draw(arrays(draw(shapes())))
    start, end = sorted(draw(st.tuples(*[st.integers(0, max(x.ndim - 1, 0))] * 2)))
    return lambda x: F.flatten(x, start, end), [x]


def chunk(draw):
    x = draw(arrays(draw(shapes(min_dims=1))))
    dim, chunks = draw(axis(x.ndim)), draw(st.integers(1, 5))
    return lambda x: F.chunk(x, chunks, dim), [x]


def var(draw, op=F.var):
    x = draw(arrays(draw(shapes(min_side=2, min_dims=op is F.std))))
    dim, correction, keepdim = (
        draw(axes(x.ndim)),
        draw(st.sampled_from([0, 1, 0.5] if x.ndim else [0])),
        draw(st.booleans()),
    )
    return lambda x: op(x, dim, correction=correction, keepdim=keepdim), [x]


def extreme(op):
    def example(draw):
        x = draw(arrays(draw(shapes(min_side=1))))
        dim, keepdim = draw(axis(x.ndim)), draw(st.booleans())
        return draw(st.sampled_from([lambda x: op(x), lambda x: op(x, dim, keepdim)])), [x]

    return example


def where(draw):
    first, second, third = draw(broadcast_shapes(3))
    condition = np.random.default_rng(0).random(first) < 0.5
    return F.where, [condition, draw(arrays(second)), draw(arrays(third))]


def masked_fill(draw):
    first, second = draw(broadcast_shapes(2))
    mask = np.random.default_rng(0).random(second) < 0.5
    return lambda x, value: F.masked_fill(x, Tensor(mask), value), [draw(arrays(first)), draw(arrays(()))]


def clip(draw):
    first, second, third = draw(broadcast_shapes(3))
    x, low, high = draw(arrays(first)), draw(arrays(second, -1.5)), draw(arrays(third, -1))
    return draw(
        st.sampled_from(
            [
                (F.clip, [x, low, high]),
                (lambda x: F.clip(x, -0.5, 0.5), [x]),
                (lambda x, high: F.clip(x, max=high), [x, high]),
                (lambda x: F.clip(x, min=0.0), [x]),
            ]
        )
    )


def gelu(draw):
    approximate = draw(st.sampled_from(["none", "tanh"]))
    return lambda x: F.gelu(x, approximate), [draw(arrays(draw(shapes())))]


def layer_norm(draw):
    shape = draw(shapes(min_dims=1, min_side=1))
    normalized = shape[draw(st.integers(0, len(shape) - 1)) :]
    x, weight, bias = draw(arrays(shape)), draw(arrays(normalized)), draw(arrays(normalized))
    options = [
        (lambda x, w, b: F.layer_norm(x, normalized, w, b, 0.1), [x, weight, bias]),
        (lambda x, w: F.layer_norm(x, normalized, w, eps=0.1), [x, weight]),
        (lambda x, b: F.layer_norm(x, normalized, None, b, 0.1), [x, bias]),
        (lambda x: F.layer_norm(x, normalized, eps=0.1), [x]),
    ]
    return draw(st.sampled_from(options))


def rms_norm(draw):
    shape = draw(shapes(min_dims=1, min_side=1))
    normalized = shape[draw(st.integers(0, len(shape) - 1)) :]
    x, weight = draw(arrays(shape)), draw(arrays(normalized))
    options = [
        (lambda x, w: F.rms_norm(x, normalized, w, 0.1), [x, weight]),
        (lambda x: F.rms_norm(x, normalized, eps=0.1), [x]),
    ]
    return draw(st.sampled_from(options))


def rotary_embedding(draw):
    lead, other = draw(broadcast_shapes(2, max_dims=2))
    lead = np.broadcast_shapes(lead, other)
    half = draw(st.integers(0, 3))
    angles = draw(arrays(draw(st.sampled_from([(*other, half), (*lead, half), (half,)])), -7, 7))

    def rotated(x):  # complex for the complex step
        return F.rotary_embedding(x, np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype))

    return rotated, [draw(arrays((*lead, 2 * half)))]


def swiglu(draw):
    shape = draw(shapes())
    gate, up = draw(arrays(shape, -5, 5)), draw(arrays(shape))
    return F.swiglu, draw(st.sampled_from([[gate, up], [gate, gate]]))


def matmul(draw):
    batch, other_batch = draw(broadcast_shapes(2, max_dims=2))
    m, k, n = draw(st.tuples(*[st.integers(0, 3)] * 3))
    first = draw(st.sampled_from([(k,), (m, k), (*batch, m, k)]))
    second = draw(st.sampled_from([(k,), (k, n), (*other_batch, k, n)]))
    square = draw(arrays((k, k)))
    return draw(
        st.sampled_from([(F.matmul, [draw(arrays(first)), draw(arrays(second))]), (F.matmul, [square, square])])
    )


def linear(op=F.linear, largest=2.0):
    def example(draw):
        lead = draw(shapes(max_dims=2))
        features, outputs = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        weight = draw(arrays((outputs, features), -largest, largest))
        x, bias = draw(arrays((*lead, features))), draw(arrays((outputs,)))
        return op, draw(st.sampled_from([[x, weight], [x, weight, bias]]))

    return example


EQUATIONS = [
    *("ij,jk->ik", "ij,jk", "bij,bjk->bik", "ii", "ii->i", "iij->ji", "ij->", "ij->j", "ij,ij->ij", "ii,ij->j"),
    *("i,j,k->kij", "ij,jk,ki->", "...i,...i->...", "...i,j->j...", ",i->i", "ij,ij,ij->i"),
]


def einsum(draw):
    equation = draw(st.sampled_from(EQUATIONS))
    sizes = {letter: draw(st.integers(1, 3)) for letter in "bijk"}
    operands = []
    for term in equation.split("->")[0].split(","):
        lead = draw(shapes(max_dims=1, min_side=2, max_side=2)) if "..." in term else ()
        operands.append(draw(arrays((*lead, *[sizes[letter] for letter in term.replace("...", "")]))))
    return lambda *xs: F.einsum(equation, *xs), operands


def embedding(draw):
    ids = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 3, draw(shapes(max_dims=2)))
    return lambda weight: F.embedding(ids, weight), [draw(arrays((3, draw(st.integers(0, 3)))))]


def gather(draw):
    shape = draw(shapes(min_dims=1, min_side=1))
    dim = draw(axis(len(shape)))
    index_shape = list(shape)
    index_shape[dim] = draw(st.integers(0, 4))
    index = np.random.default_rng(0).integers(0, shape[dim], index_shape)
    return lambda x: F.gather(x, dim, index), [draw(arrays(shape))]


INDICES = [
    *(1, -1, slice(None), slice(None, None, -1), slice(2, None, -2), slice(1, 1)),
    *((0, 1), (..., 0), (None, 1, slice(1)), ..., ()),
    *([0, 0, 2], ([0, 0], [1, 1]), [], (slice(None), None, [0, 0]), ((0, 0), (1, 1))),
    *(np.array([[1, 1], [0, 2]]), (slice(None), np.array([1, 0, 1])), np.array([True, False, True])),
]


def getitem(draw):
    index = draw(st.sampled_from(INDICES))
    return lambda x: F.getitem(x, index), [draw(arrays((3, 2)))]


def reshape(draw, op=F.reshape):
    x = draw(arrays(draw(shapes())))
    options = [(x.size,), x.shape[::-1], (*x.shape, 1), (1, *x.shape)] + (
        [(-1,), (x.shape[0], -1)] if x.size and x.ndim else []
    )
    shape = draw(st.sampled_from(options))
    return lambda x: op(x, shape), [x]


def transpose(draw):
    x = draw(arrays(draw(shapes())))
    first, second = draw(axis(x.ndim)), draw(axis(x.ndim))
    return lambda x: F.transpose(x, first, second), [x]


def permute(draw):
    x = draw(arrays(draw(shapes())))
    dims = draw(st.permutations(range(x.ndim)))
    return lambda x: F.permute(x, dims), [x]


def expand(draw):
    small, large = draw(broadcast_shapes(2))
    full = np.broadcast_shapes(small, large)
    return lambda x: F.expand(x, full), [draw(arrays(small))]


def squeeze(draw):
    x = draw(arrays(draw(shapes(max_side=2))))
    dim = draw(axes(x.ndim))
    return lambda x: F.squeeze(x, dim), [x]


def unsqueeze(draw):
    x = draw(arrays(draw(shapes())))
    dim = draw(axis(x.ndim + 1))
    return lambda x: F.unsqueeze(x, dim), [x]


def cat(draw):
    shape = list(draw(shapes(min_dims=1)))
    dim = draw(axis(len(shape)))
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        shape[dim] = draw(st.integers(0, 3))
        parts.append(draw(arrays(tuple(shape))))
    return lambda *xs: F.cat(xs, dim), draw(st.sampled_from([parts, [parts[0], parts[0]]]))


def stack(draw):
    shape = draw(shapes())
    dim = draw(axis(len(shape) + 1))
    x, y = draw(arrays(shape)), draw(arrays(shape))
    return lambda *xs: F.stack(xs, dim), draw(st.sampled_from([[x], [x, y], [x, y, x]]))


def split(draw):
    x = draw(arrays(draw(shapes(min_dims=1, min_side=1))))
    dim = draw(axis(x.ndim))
    n = x.shape[dim]
    sizes = draw(st.sampled_from([1, 2, n, [n], [0, n], [1, n - 1]]))
    return lambda x: F.split(x, sizes, dim), [x]


def split_heads(draw):
    parts, n_head, size = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 2))
    x = draw(arrays((*draw(st.tuples(st.integers(0, 2), st.integers(0, 3))), parts * n_head * size)))
    return lambda x: F.split_heads(x, n_head, parts), [x]


def merge_heads(draw):
    return F.merge_heads, [draw(arrays(draw(st.tuples(*[st.integers(0, 3)] * 4))))]


def pad(draw):
    x = draw(arrays(draw(shapes())))
    widths = draw(st.lists(st.integers(0, 2), min_size=0, max_size=2 * x.ndim).filter(lambda w: len(w) % 2 == 0))
    if x.ndim and x.shape[-1] and widths:
        widths[0] = draw(st.sampled_from([-1, 0, 1]))
    return lambda x: F.pad(x, widths, value=0.5), [x]


def flip(draw):
    x = draw(arrays(draw(shapes())))
    dims = draw(axes(x.ndim).filter(lambda dims: dims is not None))
    return lambda x: F.flip(x, dims), [x]


def triangle(op):
    def example(draw):
        diagonal = draw(st.integers(-3, 3))
        return lambda x: op(x, diagonal), [draw(arrays(draw(shapes(min_dims=2))))]

    return example


def to(draw):
    return lambda x: F.to(x, "cpu", x.dtype), [draw(arrays(draw(shapes())))]


def dropout(draw):
    p = draw(st.sampled_from([0.0, 0.3, 1.0]))

    def dropped(x):
        minigrad.manual_seed(0)
        return F.dropout(x, p)

    return dropped, [draw(arrays(draw(shapes())))]


def scaled_dot_product_attention(draw):
    lead, key_lead = draw(broadcast_shapes(2, max_dims=2))
    t, s, d, dv = draw(st.tuples(*[st.integers(1, 3)] * 4))
    q, k, v = draw(arrays((*lead, t, d))), draw(arrays((*key_lead, s, d))), draw(arrays((*key_lead, s, dv)))
    seen = np.random.default_rng(draw(st.integers(0, 9))).random((t, s)) < 0.6  # some rows see nothing
    causal, p = draw(st.booleans()), draw(st.sampled_from([0.0, 0.5]))

    def attention(q, k, v, mask=None):
        minigrad.manual_seed(0)
        return F.scaled_dot_product_attention(q, k, v, mask, p, is_causal=causal and mask is None, scale=0.7)

    kinds = [[q, k, v], [q, k, v, seen], [q, k, v, draw(arrays((t, s)))], [q, k, v, draw(arrays((s,)))]]
    return attention, draw(st.sampled_from(kinds + ([[q, q, q]] if d else [])))


def grouped_attention(draw):
    """As above, with G heads of queries to each of K heads of keys and values."""
    batch, groups, heads = draw(st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3)))
    t, s, d, dv = draw(st.tuples(*[st.integers(1, 3)] * 4))
    q = draw(arrays((batch, groups * heads, t, d)))
    k, v = draw(arrays((batch, groups, s, d))), draw(arrays((batch, groups, s, dv)))
    shape = draw(st.sampled_from([(t, s), (batch, 1, t, s), (groups * heads, t, s), (batch, groups * heads, 1, s)]))
    seen = np.random.default_rng(draw(st.integers(0, 9))).random(shape) < 0.6
    causal, p = draw(st.booleans()), draw(st.sampled_from([0.0, 0.5]))

    def attention(q, k, v, mask=None):
        minigrad.manual_seed(0)
        return F.scaled_dot_product_attention(q, k, v, mask, p, causal and mask is None, enable_gqa=True)

    return attention, draw(st.sampled_from([[q, k, v], [q, k, v, seen], [q, k, v, draw(arrays(shape))]]))


def any_attention(draw):
    return draw(st.sampled_from([scaled_dot_product_attention, grouped_attention]))(draw)


def classes(draw, rows):
    """Targets for `rows`, out of three classes, some of them ignored."""
    targets = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 3, rows)
    return np.where(np.random.default_rng(1).random(rows) < 0.3, -100, targets)


def reductions(draw, targets):
    """Of a mean over no rows, nan, there is no gradient to check."""
    return draw(st.sampled_from(["mean", "sum", "none"] if (targets != -100).any() else ["sum", "none"]))


def class_loss(op, **options):
    def example(draw):
        rows = draw(st.sampled_from([(), (2,), (4,), (2, 2), (2, 1, 2), (0,)]))
        targets = classes(draw, rows)
        scores = draw(arrays(rows[:1] + (3,) + rows[1:]))
        reduction, weight = reductions(draw, targets), draw(st.sampled_from([None, np.array([0.5, 2.0, 1.0])]))
        extra = {name: draw(values) for name, values in options.items()}

        def loss(scores):  # complex for the complex step
            own_weight = None if weight is None else Tensor(weight.astype(scores.dtype))
            return op(scores, Tensor(targets), own_weight, reduction=reduction, **extra)

        return loss, [scores]

    return example


def linear_cross_entropy(draw):
    n, features = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    targets = classes(draw, n)
    reduction = reductions(draw, targets)
    inputs = [draw(arrays((n, features))), draw(arrays((3, features)))]
    return lambda x, w: F.linear_cross_entropy(x, w, Tensor(targets), reduction=reduction), inputs


def pairwise_loss(op, *reductions, low=-2.0, **options):
    def example(draw):
        shape = draw(shapes(min_side=1))
        x, y = draw(arrays(shape)), draw(arrays(shape, low))
        reduction = draw(st.sampled_from(["mean", "sum", "none", *reductions]))
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
    reduction = draw(st.sampled_from(["mean", "sum", "none"]))

    def loss(logits, target, weight=None, pos_weight=None):
        return F.binary_cross_entropy_with_logits(logits, target, weight, reduction, pos_weight)

    return loss, draw(
        st.sampled_from([[logits, target], [logits, target, weight], [logits, target, weight, pos_weight]])
    )


CASES = {
    "abs": unary(F.abs),
    "add": binary(F.add),
    "amax": reduction(F.amax),
    "amin": reduction(F.amin),
    "argmax": times_constant(along_or_all(lambda x, dim, _: F.argmax(x, dim, True))),
    "argmin": times_constant(along_or_all(lambda x, dim, _: F.argmin(x, dim, True))),
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits,
    "cat": cat,
    "chunk": chunk,
    "clip": clip,
    "cross_entropy": class_loss(F.cross_entropy, label_smoothing=st.sampled_from([0.0, 0.2])),
    "cumsum": along(F.cumsum),
    "div": binary(F.div, low=0.5),
    "dropout": dropout,
    "einsum": einsum,
    "embedding": embedding,
    "erf": unary(F.erf, -7, 7),
    "exp": unary(F.exp),
    "expand": expand,
    "flatten": flatten,
    "flip": flip,
    "gather": gather,
    "gelu": gelu,
    "getitem": getitem,
    "index_select": index_select,
    "kl_div": kl_div,
    "layer_norm": layer_norm,
    "linear": linear(),
    "linear_cross_entropy": linear_cross_entropy,
    "linear_gelu": linear(F.linear_gelu, 0.3),  # far below 0, GELU's slope drowns in its rounding
    "log": unary(F.log, low=0.1),
    "log_softmax": along(F.log_softmax),
    "logsigmoid": unary(F.logsigmoid, -20, 20),
    "logsumexp": reduction(F.logsumexp),
    "masked_fill": masked_fill,
    "matmul": matmul,
    "max": extreme(F.max),
    "maximum": binary(F.maximum),
    "mean": reduction(F.mean),
    "merge_heads": merge_heads,
    "min": extreme(F.min),
    "minimum": binary(F.minimum),
    "mse_loss": pairwise_loss(F.mse_loss),
    "mul": binary(F.mul),
    "neg": unary(F.neg),
    "nll_loss": class_loss(F.nll_loss),
    "one_hot": one_hot,
    "pad": pad,
    "permute": permute,
    "pow": binary(F.pow, low=0.1),
    "prod": prod,
    "relu": unary(F.relu),
    "reshape": reshape,
    "rms_norm": rms_norm,
    "rotary_embedding": rotary_embedding,
    "scaled_dot_product_attention": any_attention,
    "sigmoid": unary(F.sigmoid, -5, 5),
    "silu": unary(F.silu, -5, 5),
    "softmax": along(F.softmax),
    "softplus": softplus,
    "sort": sort,
    "split": split,
    "split_heads": split_heads,
    "sqrt": unary(F.sqrt, low=0.1),
    "squeeze": squeeze,
    "stack": stack,
    "std": lambda draw: var(draw, F.std),
    "sub": binary(F.sub),
    "sum": reduction(F.sum),
    "swiglu": swiglu,
    "tanh": unary(F.tanh),
    "to": to,
    "topk": topk,
    "transpose": transpose,
    "tril": triangle(F.tril),
    "triu": triangle(F.triu),
    "unsqueeze": unsqueeze,
    "var": var,
    "view": lambda draw: reshape(draw, F.view),
    "where": where,
}
NOT_ANALYTIC = {
    "abs",
    "amax",
    "amin",
    "max",
    "min",
    "to",
}  # abs of a complex number, its largest element, and a cast to x's dtype are something else


def test_no_op_is_left_out():
    assert set(CASES) == set(F.__all__)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_central_differences(name, data):
    fn, inputs = CASES[name](data.draw)
    before = [np.array(x) for x in inputs]
    gradcheck(fn, inputs)
    for x, kept in zip(inputs, before):
        np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize("name", sorted(set(CASES) - NOT_ANALYTIC))
@given(data=st.data())
def test_complex_step(name, data):
    report = gradcheck(*CASES[name](data.draw), method="complex")
    assert report.method == "complex", report


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_one_output_for_two_uses(name, data):
    """What goes through an op twice gets both gradients; neither is written into the other's array, or into dout."""
    fn, inputs = CASES[name](data.draw)

    def twice(*tensors):
        first, second = as_tuple(fn(*tensors)), as_tuple(fn(*tensors))
        return tuple(a + 3 * b for a, b in zip(first, second) if a.requires_grad or a.dtype.kind == "c")

    floating = [x for x in inputs if x.dtype == np.float64]
    tensors = [Tensor(x, requires_grad=x.dtype == np.float64) for x in inputs]
    single = [Tensor(x, requires_grad=x.dtype == np.float64) for x in inputs]
    for output in twice(*tensors):
        output.backward(read_only(1.0, output.shape), retain_graph=True)
    for output in as_tuple(fn(*single)):
        if output.requires_grad:
            output.backward(read_only(4.0, output.shape), retain_graph=True)
    assert len(floating) > 0
    for a, b in zip(tensors, single):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-12, atol=1e-12)


def read_only(value, shape):
    array = np.full(shape, value)
    array.flags.writeable = False
    return array


def as_tuple(result):
    return tuple(result) if isinstance(result, tuple) else (result,)
