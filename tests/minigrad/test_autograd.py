"""The graph and the walk back: order, memory, errors, and that no array is written to that somebody else may hold."""

import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minigrad.functional as F
from minigrad import Function, Tensor, autocast, manual_seed, nn, no_grad, switches, use_kernels
from minigrad.autograd import Context
from minigrad.kernels.accumulation import SparseGradient, add_in_place
from minigrad.kernels.dispatch import FAST
from tests.helpers import needs_threads


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


class Counted(Function):
    """out = 2 x; remembers how often its backward ran, and with what."""

    douts = []

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, dout):
        Counted.douts.append(dout.copy())
        return (2 * dout,)


@pytest.fixture
def counted():
    Counted.douts = []
    return Counted


@pytest.fixture
def x():
    return leaf([1.0, 2.0])


# --- the walk ---


def test_a_function_can_be_called_by_hand():
    ctx = Context()
    assert F.elementwise.Mul.forward(ctx, np.array([2.0]), np.array([5.0])) == 10
    assert F.elementwise.Mul.backward(ctx, np.array([1.0])) == (5, 2)
    assert set(ctx.saved()) >= {"x", "y"}


def test_a_diamond_runs_each_node_once_with_the_whole_gradient(x, counted):
    shared = counted.apply(x)
    (shared * 3 + shared.exp() + shared).sum().backward()
    assert len(counted.douts) == 1
    assert_allclose(counted.douts[0], 4 + np.exp([2.0, 4.0]))
    assert_allclose(x.grad, 2 * (4 + np.exp([2.0, 4.0])))


def test_a_deep_chain_is_walked_and_freed_without_recursion():
    length = 30_000
    x = y = leaf([1.0])
    for _ in range(length):
        y = -y
    last = weakref.ref(y.grad_fn)
    y.backward()
    del y
    assert x.grad == 1.0 and last() is None

    for _ in range(length):  # a graph that no backward went through
        x = -x
    del x


def test_what_forward_saved_is_freed_as_soon_as_backward_has_run():
    freed = []

    class Saves(Function):
        @staticmethod
        def forward(ctx, x, name):
            ctx.array = np.ones(3)
            weakref.finalize(ctx.array, freed.append, name)
            return x + 0

        @staticmethod
        def backward(ctx, dout):
            seen.append(list(freed))
            return (dout,)

    seen = []
    y = leaf([1.0, 2.0, 3.0])
    for name in "abc":
        y = Saves.apply(y, name=name)
    y.sum().backward()
    assert seen == [[], ["c"], ["c", "b"]] and freed == ["c", "b", "a"]


def test_intermediate_results_are_not_held_by_the_graph():
    y = leaf([1.0, 2.0]) + 1
    data = weakref.ref(y.data)
    z = y + 1
    del y
    assert data() is None and z.requires_grad


def test_a_second_backward_says_what_to_do_and_changes_nothing():
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    shared = x.exp()
    out = shared.sum()
    out.backward()
    before = x.grad.copy()
    for again, node in ((out, "Sum"), ((shared * w).sum(), "Exp")):  # the same graph, and another with a part of it
        with pytest.raises(RuntimeError, match=f"<{node}>.*earlier backward.*retain_graph=True"):
            again.backward()
    assert w.grad is None
    assert_array_equal(x.grad, before)


def test_retain_graph_lets_backward_run_again(x):
    y = (x.exp() * x).sum()
    y.backward(retain_graph=True)
    once = x.grad.copy()
    y.backward()
    assert_array_equal(x.grad, 2 * once)
    x.zero_grad()
    assert x.grad is None


@pytest.fixture(params=["textbook", "in place"])
def adding(request, monkeypatch):
    """Both ways in which gradients add up: autograd.add_up, and its fast twin."""
    monkeypatch.setattr(switches, "accumulate", None if request.param == "textbook" else add_in_place)
    return request.param


def test_gradients_add_up_over_separate_graphs(x, adding):
    x.sum().backward()
    place = x.grad.__array_interface__["data"]
    (x * 2).sum().backward()
    if adding == "in place":
        assert x.grad.__array_interface__["data"] == place  # as nobody was looking
    held = x.grad
    (x * 4).sum().backward()
    assert_array_equal(held, [3.0, 3.0])
    assert_array_equal(x.grad, [7.0, 7.0])


def test_gradients_without_dimensions_are_arrays_too(adding):
    x = leaf(3.0)
    received = []

    def backward(ctx, dout):
        received.append(dout)
        return dout, None

    y = returning(backward).apply(x, 0.0)
    (y * y + y).backward()
    x.backward()
    assert type(received[0]) is type(x.grad) is np.ndarray and received[0].shape == x.grad.shape == ()
    assert x.grad == received[0] + 1


class DivMod(Function):
    """x // 1 (as integers), x % 1 and x: three outputs, one of which has no gradient."""

    received = []

    @staticmethod
    def forward(ctx, x):
        return np.floor(x).astype(np.int64), x % 1, x + 0

    @staticmethod
    def backward(ctx, dfloor, dmod, dx):
        DivMod.received = [dfloor, dmod, dx]
        return (dmod + dx,)


def test_unused_outputs_get_zeros_and_integer_outputs_nothing():
    x = leaf([1.5, 2.25])
    floor, mod, same = DivMod.apply(x)
    assert floor.is_leaf and not floor.requires_grad and mod.grad_fn is same.grad_fn
    (mod * floor).sum().backward()
    assert DivMod.received[0] is None
    assert_array_equal(DivMod.received[1], [1.0, 2.0])
    assert_array_equal(DivMod.received[2], [0.0, 0.0])
    assert_array_equal(x.grad, [1.0, 2.0])


def test_where_no_gradient_comes_nothing_runs(counted):
    x, y = leaf([1.0]), leaf([1.0])
    no_gradient = returning(lambda ctx, dout: (None, dout))
    no_gradient.apply(counted.apply(counted.apply(x)), y).sum().backward()
    assert x.grad is None and counted.douts == [] and y.grad == 1


def test_only_wanted_gradients_are_computed():
    asked = []

    class Asks(Function):
        @staticmethod
        def forward(ctx, x, y, z, w):
            asked.append(list(ctx.needs_grad))
            return x + y + z + w

        @staticmethod
        def backward(ctx, dout):
            return dout, "not looked at", None, None

    x, frozen = leaf([1.0]), Tensor([1.0], dtype=np.float64)
    Asks.apply(x, frozen, np.ones(1), 1.0).backward()
    with no_grad():
        Asks.apply(x, frozen, np.ones(1), 1.0)
    assert asked == [[True, False, False, False], [False] * 4] and x.grad == 1


# --- where it starts and ends ---


@pytest.mark.parametrize(
    "gradient", [np.array([1.0, 10.0]), [1, 10], Tensor([1.0, 10.0]), np.array([1, 10], np.float16), (1.0, 10.0)]
)
def test_backward_takes_a_gradient(gradient):
    x = leaf([1.0, 2.0], np.float32)
    (x * 2).backward(gradient)
    assert_array_equal(x.grad, np.array([2, 20], np.float32))
    assert x.grad.dtype == np.float32


@pytest.mark.parametrize(
    "start, error, message",
    [
        (lambda x: (x * 2).backward(), RuntimeError, r"starts from a scalar; for shape \(2,\)"),
        (
            lambda x: (x * 2).backward(np.ones(1)),
            *(RuntimeError, r"gradient of shape \(1,\) on cpu for a tensor of shape \(2,\) on cpu"),
        ),
        (lambda x: Tensor(1.0).backward(), RuntimeError, "requires_grad=True"),
        (lambda x: x.backward(gradient="x"), TypeError, "tensor of str: its elements are not numbers"),
    ],
)
def test_where_backward_cannot_start(x, start, error, message):
    with pytest.raises(error, match=message):
        start(x)
    assert x.grad is None


def test_detach_cuts_the_graph_and_shares_the_data(x):
    y = x * 2
    cut = y.detach()
    assert cut.data is y.data and cut.is_leaf and not cut.requires_grad
    (y * cut).sum().backward()
    assert_array_equal(x.grad, 2 * cut.data)


def test_a_leaf_that_was_frozen_meanwhile_gets_no_gradient():
    x, y = leaf([1.0]), leaf([1.0])
    out = (x * y).sum()
    x.requires_grad_(False)
    out.backward()
    assert x.grad is None and y.grad is not None


def test_retain_grad_keeps_an_intermediate_gradient(x):
    y = x * 3
    z = y * y
    for tensor in (x, y, z, z):
        tensor.retain_grad()
    z.sum().backward(retain_graph=True)
    assert_array_equal(z.grad, [1.0, 1.0])
    assert_array_equal(y.grad, [6.0, 12.0])
    z.sum().backward()
    assert_array_equal(y.grad, [12.0, 24.0])
    assert_array_equal(x.grad, [36.0, 72.0])


def test_retain_grad_of_one_of_several_outputs():
    first, second, third = F.split(leaf([1.0, 2.0, 3.0]), 1)
    second.retain_grad()
    third.retain_grad()
    (first * second).sum().backward()
    assert first.grad is None and second.grad == 1 and third.grad == 0


# --- no_grad ---


def test_no_grad_records_nothing_and_nests():
    x = leaf([1.0])
    y = x * 2
    with no_grad():
        with pytest.raises(KeyError), no_grad():
            assert not (x * 2).requires_grad
            raise KeyError
        assert not (x * 2).requires_grad
        assert leaf([1.0]).requires_grad
        y.backward()
    assert x.grad == 2 and (x * 2).requires_grad


def test_no_grad_as_a_decorator():
    @no_grad()
    def double(x, times):
        """Doubles."""
        assert not switches.recording.get()[-1]
        return double(x * 2, times - 1) if times else x

    assert not double(leaf([1.0]), 3).requires_grad and switches.recording.get()[-1]
    assert double.__doc__ == "Doubles."
    with pytest.raises(TypeError, match="generator rows"):

        @no_grad()
        def rows():
            yield 1


# --- threads ---


def seen_here():
    """Whether this thread records, what a product is here, whether weights are drawn, and TF32."""
    manual_seed(0)
    x = leaf([[1 + 2**-10]], np.float32)
    product = x @ x
    return product.requires_grad, product.item(), nn.Linear(100, 1).weight.data.std() > 0.01, switches.tf32.get()


@needs_threads
@pytest.mark.parametrize("block", [no_grad, autocast, lambda: autocast("tf32"), nn.init.skipped])
def test_a_block_holds_for_the_thread_that_enters_it(block):
    inside, done = threading.Event(), threading.Event()

    def enter():
        with block():
            inside.set()
            done.wait(60)

    before = seen_here()
    other = threading.Thread(target=enter)
    other.start()
    try:
        assert inside.wait(60)
        assert seen_here() == before
    finally:
        done.set()
        other.join()


# --- what a backward may not return ---


def returning(backward, forward=lambda ctx, x, y: x + y):
    """A Function of two inputs, with this backward."""
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("Planted", (Function,), methods)


@pytest.mark.parametrize(
    "returned, error, message",
    [
        (np.ones(2), TypeError, r"Planted.backward must return a tuple, one entry per input \(2\); .* ndarray"),
        ([np.ones(2), np.ones(2)], TypeError, "it returned list"),
        ((np.ones(2),), TypeError, "it returned 1 entries"),
        ((np.ones(2), np.ones(2), None), TypeError, "it returned 3 entries"),
        ((np.ones(2), np.ones(3)), ValueError, r"gradient of shape \(3,\) for input 1 of shape \(2,\)"),
        ((np.ones((1, 2)), None), ValueError, r"gradient of shape \(1, 2\) for input 0"),
        ((1.0, None), ValueError, r"gradient of shape \(\) for input 0"),
    ],
)
def test_a_wrong_return_value_is_named(returned, error, message):
    with pytest.raises(error, match=message):
        returning(lambda ctx, dout: returned).apply(leaf([1.0, 2.0]), leaf([1.0, 2.0])).sum().backward()


def test_gradients_are_brought_to_the_dtype_of_their_tensor():
    x, y = leaf([1.0, 2.0], np.float32), leaf(3.0, np.float32)
    returning(lambda ctx, dout: (dout.astype(np.float64), dout.sum())).apply(x, y).sum().backward()
    assert type(x.grad) is type(y.grad) is np.ndarray and x.grad.dtype == y.grad.dtype == np.float32
    assert y.grad.shape == ()


# --- accumulation ---

CACHE = np.array([1.0, 1.0])
READ_ONLY = np.array([1.0, 1.0])
READ_ONLY.flags.writeable = False


def read_only_copy(dout):
    array = dout.copy()
    array.flags.writeable = False
    return array


# Each returns the gradient of x + y for dout = (1, 1), in an array that is not, or not only, the walk's own.
SHARING = {
    "dout": lambda ctx, dout: (dout, dout),
    "a view of dout": lambda ctx, dout: (dout[:], dout[::-1]),
    "one array twice": lambda ctx, dout: (dout.copy(),) * 2,
    "a saved array": lambda ctx, dout: (ctx.ones, ctx.ones),
    "a cached array": lambda ctx, dout: (CACHE, CACHE),
    "a broadcast view": lambda ctx, dout: (np.broadcast_to(np.ones(()), 2),) * 2,
    "a read-only array": lambda ctx, dout: (READ_ONLY, READ_ONLY),
    "a new read-only array": lambda ctx, dout: (read_only_copy(np.ones(2)), read_only_copy(np.ones(2))),
    "integers": lambda ctx, dout: (np.ones(2, np.int64), np.ones(2, bool)),
    "a list": lambda ctx, dout: ([1.0, 1.0], [1, 1]),
}


def sharing(kind):
    def forward(ctx, x, y):
        ctx.ones = np.ones(2)
        saved.append(ctx.ones)
        return x + y

    saved = []
    return returning(SHARING[kind], forward), saved


@pytest.mark.parametrize("kind", SHARING)
def test_no_array_is_written_to_that_somebody_else_may_hold(adding, kind):
    op, saved = sharing(kind)
    passes_on = kind in ("dout", "a view of dout", "one array twice")
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    gradient = np.ones(2)
    held = []  # by the user, who looks at .grad now and then
    for times in (1, 2):  # the second time, .grad exists already
        mid = op.apply(x, y)
        op.apply(op.apply(mid, x), op.apply(mid, mid)).backward(gradient)
        # x is used by mid and once more; mid 3 times, by ops that pass dout on, or return ones whatever it is
        through_mid = 3.0 if passes_on else 1.0
        assert_array_equal(x.grad, [(1 + through_mid) * times] * 2)
        assert_array_equal(y.grad, [through_mid * times] * 2)
        held.append((x.grad, x.grad.copy()))
        assert not np.may_share_memory(x.grad, y.grad)
    for array, copy in held:
        assert_array_equal(array, copy)
    x.grad += 100
    y.grad += 100
    for array in (gradient, CACHE, READ_ONLY, *saved):
        assert_array_equal(array, [1.0, 1.0])


def test_the_gradient_that_the_user_gave_and_still_holds(x, adding):
    gradient = np.ones(2)
    x.backward(gradient)  # a leaf can start, too
    assert not np.may_share_memory(x.grad, gradient)
    y = x + x
    (y + y + x).backward(gradient)
    assert_array_equal(gradient, [1.0, 1.0])
    assert_array_equal(x.grad, [6.0, 6.0])
    (x + x).backward(x.grad)  # even this one
    assert_array_equal(x.grad, [18.0, 18.0])


def test_a_new_gradient_becomes_grad_without_a_copy(x, monkeypatch):
    monkeypatch.setattr(switches, "accumulate", add_in_place)
    made = []

    def backward(ctx, dout):
        array = dout * 2
        made.append(array.__array_interface__["data"])
        return array, None

    returning(backward).apply(x, x).sum().backward()
    assert x.grad.__array_interface__["data"] == made[0]


# --- sparse gradients ---


@pytest.fixture
def rows():
    return leaf([[1.0, 2.0], [3.0, 4.0]])


class FirstRow(Function):
    """out = x[0], whose gradient touches one row."""

    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return x[0]

    @staticmethod
    def backward(ctx, dout):
        def add_to(dx):
            dx[0] += dout

        return (SparseGradient(ctx.shape, dout, add_to),)


@pytest.mark.parametrize("through", [lambda x: x, lambda x: x * 1.0], ids=["leaf", "node"])
@pytest.mark.parametrize("first", [True, False])
def test_a_sparse_gradient_is_added_to_what_is_there(rows, adding, through, first):
    y = through(rows)
    row, others = FirstRow.apply(y) + FirstRow.apply(y), y * 10.0
    out = row.sum() + others.sum() if first else others.sum() + row.sum()
    for times in (1, 2):
        out.backward(retain_graph=True)
        assert_array_equal(rows.grad, np.array([[12.0, 12.0], [10.0, 10.0]]) * times)


def test_a_sparse_gradient_is_not_added_to_what_others_hold(rows, adding):
    y = rows * 1.0
    gradient = np.ones((2, 2))
    # `y + 0` hands the user's own array to y
    out = F.add(y, 0.0) + F.expand(FirstRow.apply(y), (2, 2)) * 0.5
    out.backward(gradient)
    assert_array_equal(gradient, np.ones((2, 2)))
    assert_array_equal(rows.grad, [[2.0, 2.0], [1.0, 1.0]])


@pytest.mark.parametrize("wrong", [(3, 2), (2,)])
def test_a_sparse_gradient_of_another_shape_is_refused(rows, adding, wrong):
    out = FirstRow.apply(rows)
    out.grad_fn.shape = wrong
    with pytest.raises(ValueError, match="FirstRow.backward returned a gradient of shape"):
        out.sum().backward()


def test_a_sparse_gradient_takes_the_dtype_of_its_input(adding):
    class FirstRowInFloat32(FirstRow):
        @staticmethod
        def forward(ctx, x):
            return FirstRow.forward(ctx, x).astype(np.float32)

    x = Tensor(np.ones((2, 2), np.float16), requires_grad=True)
    (FirstRowInFloat32.apply(x) * 3.0).sum().backward()
    assert x.grad.dtype == np.float16 and x.grad.tolist() == [[3.0, 3.0], [0.0, 0.0]]


class TiedModel(nn.Module):
    """Embedding and output layer with one weight, as in GPT-2."""

    def __init__(self, vocabulary, features):
        self.embedding = nn.Embedding(vocabulary, features)
        self.head = nn.Linear(features, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.embedding(ids).tanh())


def test_a_tied_embedding_never_has_two_dense_gradients_at_once(monkeypatch):
    monkeypatch.setattr(switches, "accumulate", add_in_place)
    use_kernels({"embedding": FAST["embedding"]})
    model = TiedModel(50_000, 16)
    dense = model.embedding.weight.data.nbytes  # the logits of 2 tokens are an eighth of that
    ids = np.array([3, 3])

    def peak_of_backward():
        loss = F.sum(model(ids))
        gc.collect()
        tracemalloc.start()
        loss.backward()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak / dense

    assert 1.0 < peak_of_backward() < 1.5
    # With a gradient from an earlier backward, the head's new one stands beside it until it is added. The embedding's
    # own, in its turn, still needs no array. (The old one was allocated before and is not counted.)
    assert 1.0 < peak_of_backward() < 1.5


@pytest.mark.parametrize("recorded", ["textbook", "fast", {"embedding": FAST["embedding"]}], ids=str)
@pytest.mark.parametrize("walked", ["textbook", "fast"])
def test_kernels_may_change_between_forward_and_backward(recorded, walked):
    model = TiedModel(7, 3).to(np.float64)
    expected = None
    for forward, back in (("textbook", "textbook"), (recorded, walked)):
        model.zero_grad()
        for _ in range(2):  # the second time, .grad exists already
            with use_kernels(forward):
                loss = F.sum(model(np.array([3, 3, 1])))
            with use_kernels(back):
                loss.backward()
        expected = model.head.weight.grad if expected is None else expected
    assert_allclose(model.head.weight.grad, expected, rtol=1e-15)
