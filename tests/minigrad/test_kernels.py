"""Every fast twin against its textbook form, by one test; what only attention promises; and the switch between them."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minigrad.functional as F
from minigrad import Function, Tensor, switches, use_kernels
from minigrad.autograd import Context
from minigrad.functional.activation import Softmax
from minigrad.functional.attention import ScaledDotProductAttention
from minigrad.kernels.cpu import cross_entropy, threads
from minigrad.kernels.cpu.attention import FastSplitHeads, TiledAttention, _Plan
from minigrad.kernels.dispatch import FAST, textbook_functions
from tests.helpers import needs_threads
from tests.minigrad.kernel_checks import (
    ATTENTION,
    LAYOUTS,
    SAMPLES,
    SHARED_DROPOUT,
    assert_close,
    attention,
    check,
    check_each_gradient_alone,
    grouped,
    mask,
    randn,
    run,
)

# Of several blocks of rows, or of keys.
WINDOW = np.tri(512, dtype=bool) & (~np.tri(512, k=-32, dtype=bool) | (np.arange(512) < 4))
WINDOW[128:192] = False  # a block of queries that see nothing
WHOLE = [(2 * randn(2, 512, 3, seed=seed)).round() for seed in range(3)]
LARGE = {
    "a window, and scores far from 0": (*attention((2,), 512)[:1], WHOLE, {"attn_mask": WINDOW, "scale": 4096.0}),
    "1100 keys": attention((2,), 3, 1100),
    "a mask of 2100 keys": attention((2,), 70, 2100, attn_mask=mask(70, 2100)),
    "1100 queries": attention((1,), 1100, D=2, is_causal=True),
    "150 queries": attention((2, 3), 150, is_causal=True),
    "more keys, causal": attention((3,), 70, 130, is_causal=True),
    "more queries, causal": attention((3,), 130, 70, is_causal=True),
    "6 heads share 2, more keys": grouped(70, 130, is_causal=True),
    "6 heads share 2, more queries": grouped(150, 40, is_causal=True),
    "dropout": attention((2, 3), 130, dropout_p=0.4, is_causal=True),
    "dropout and a mask": attention((2,), 65, 130, dropout_p=0.9, attn_mask=mask(65, 130)),
    "one query, dropout": attention((2,), 1, 1030, dropout_p=0.4),
}
TWINS = {name: sample for name, sample in SAMPLES.items() if sample[0] in FAST}
TWINS |= {**ATTENTION, **LARGE, **SHARED_DROPOUT}
TWINS |= {f"split_heads {n}": ("split_heads", [randn(n, 3, 8)], {"n_head": 2}) for n in (0, 2)}
FIRST = [name for op in FAST for name in [name for name, sample in TWINS.items() if sample[0] == op][:5]]


def test_every_twin_has_samples():
    assert {op for op, *_ in TWINS.values()} == set(FAST) <= set(textbook_functions())
    assert all(issubclass(function, Function) for function in FAST.values())


@pytest.fixture(autouse=True)
def split_small_arrays_too(monkeypatch):
    """The samples are small. Elsewhere in the suite, such arrays are one piece, for one thread."""
    for module in (threads, sys.modules[TiledAttention.__module__]):
        monkeypatch.setattr(module, "SMALL", 1)
    monkeypatch.setattr(threads, "SMALL_PRODUCT", 2**20)
    monkeypatch.setattr(cross_entropy, "SMALL_CHUNK", 1)


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_equals_its_textbook_form(name):
    *_, options = TWINS[name]
    for dtype in (np.float32, np.float64):
        function = check(TWINS[name], "cpu", dtype, times=2)
        assert function in FAST.values() or "enable_gqa" in options  # which reshapes
    check(TWINS[name], "cpu", wanted=())
    check_each_gradient_alone(TWINS[name], "cpu")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_twin_takes_any_memory_layout(layout):
    for name in FIRST:
        check(TWINS[name], "cpu", layout=layout)


def test_all_targets_ignored_is_nan_in_both():
    inputs = [randn(3, 2), randn(4, 2), np.full(3, -100)]
    for kernels in ("textbook", "fast"):
        loss, *grads = run(("linear_cross_entropy", inputs, {}), kernels).arrays
        assert np.isnan(loss) and all((grad == 0).all() for grad in grads[:2])


# --- attention in tiles ---


def peak_memory(kernels, t, **options):
    """Of forward and backward, without the inputs."""
    q, k, v = (Tensor(randn(1, 1, t, 4, seed=i).astype(np.float32), requires_grad=True) for i in range(3))
    with use_kernels(kernels):
        tracemalloc.start()
        F.scaled_dot_product_attention(q, k, v, **options).sum().backward()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("options", [{}, {"is_causal": True}])
def test_tiled_attention_needs_no_memory_for_the_square(options):
    matrix = 1024 * 1024 * 4
    assert peak_memory("textbook", 1024, **options) > 2 * matrix
    small, large = peak_memory("fast", 2048, **options), peak_memory("fast", 4096, **options)
    assert large < matrix * 2  # 16 of these would be one 4096 x 4096 matrix
    vectors = 2048 * 4 * 4  # one more q, k, v, out or gradient
    assert large - small < 20 * vectors


def test_a_whole_tile_may_be_hidden_before_very_low_scores():
    mask = np.arange(1500)[None] >= 1100  # all of the first tile of keys is hidden
    q, k, v = Tensor(-40 * np.ones((1, 2, 8))), Tensor(8 + np.abs(randn(1, 1500, 8))), Tensor(randn(1, 1500, 8))
    expected = F.scaled_dot_product_attention(q, k, v, mask)
    with use_kernels("fast"):
        assert_allclose(F.scaled_dot_product_attention(q, k, v, mask).data, expected.data, atol=1e-12)


def test_keys_that_a_mask_of_booleans_hides_are_in_no_tile():
    computed, q = np.zeros(WINDOW.shape, int), randn(1, len(WINDOW), 3)
    plan = _Plan(q, q, q, WINDOW[None], False, 1.0, 0, None)
    for rows in plan.query_blocks():
        for columns in plan.key_blocks(rows):
            computed[rows, columns] += 1
    assert computed[WINDOW].all() and computed.max() == 1
    assert computed.mean() < 0.25 and not computed[128:192].any()


@pytest.mark.parametrize("lowest", [-1e4, -1e9, -3e38])
def test_rows_hidden_by_large_numbers_equal_the_textbook(lowest):
    """Beside such a score m, ln l is lost in m + ln l. Whole numbers as scores: their sums are exact in any order."""
    hide = np.where(mask(70, 1100), 0, lowest)
    hide[[3, 66]] = lowest
    for dtype in (np.float32, np.float64):
        inputs = [(2 * randn(2, n, 3, seed=n)).round().astype(dtype) for n in (70, 1100)]
        sample = "scaled_dot_product_attention", [*inputs, inputs[1]], {"attn_mask": hide.astype(dtype), "scale": 1.0}
        ran, expected = (run(sample, kernels, dtype=dtype) for kernels in ("fast", "textbook"))
        assert ran.function is TiledAttention
        assert_close(ran.arrays, expected.arrays, dtype)


def test_a_mask_that_learns_takes_the_naive_path():
    grads = []
    for kernels in ("textbook", "fast"):
        q, mask = Tensor(randn(2, 5, 4), requires_grad=True), Tensor(randn(5, 5), requires_grad=True)
        with use_kernels(kernels):
            F.scaled_dot_product_attention(q, q, q, mask).backward(randn(2, 5, 4, seed=5))
        grads += [q.grad, mask.grad]
    assert_array_equal(grads[2], grads[0])
    assert_array_equal(grads[3], grads[1])


# --- the switch ---


class Halved(Function):
    """A wrong softmax, to see that it runs."""

    forward = staticmethod(lambda ctx, x, dim: Softmax.forward(ctx, x, dim) / 2)
    backward = staticmethod(lambda ctx, dout: Softmax.backward(ctx, dout / 2))


X = Tensor(np.array([0.0, 0.0]), requires_grad=True)


def total():
    return F.softmax(X, -1).sum().item()


def test_choices_nest_and_end_with_their_block():
    with use_kernels("fast") as outer:
        fast = switches.kernels
        assert isinstance(outer, use_kernels) and fast[ScaledDotProductAttention] is TiledAttention
        for op in ("softmax", F.softmax, Softmax):
            with use_kernels({op: Halved}):  # on top of the current choice
                assert total() == 0.5 and switches.kernels[ScaledDotProductAttention] is TiledAttention
                with pytest.raises(KeyError), use_kernels("textbook"):
                    assert total() == 1.0
                    raise KeyError
                assert total() == 0.5
        assert total() == 1.0 and switches.kernels == fast
    assert switches.kernels == {}


@pytest.mark.parametrize(
    "choice, message",
    [
        ("quick", "kernels are 'textbook', 'fast' or a dictionary .*, not 'quick'"),
        ({"sotfmax": Halved}, "there is no op 'sotfmax'; the ops are abs, add, "),
        ({"softmax": lambda x: x}, "the kernel for 'softmax' must be a subclass of Function"),
        ({"softmax": Halved, "relu": 3}, "the kernel for 'relu' must be a subclass of Function, not 3"),
    ],
)
def test_wrong_choices_change_nothing(choice, message):
    with use_kernels({"softmax": Halved}):
        before = dict(switches.kernels)
        with pytest.raises(ValueError, match=message):
            use_kernels(choice)
        assert switches.kernels == before


@pytest.mark.parametrize("extra", [None, 0, 1, 2])
@pytest.mark.parametrize("shape", [(2, 5, 24), (3, 70, 24)])
def test_gradients_of_query_key_and_value_become_one_row_again(shape, extra):
    """Attention lays them out side by side; with an `extra` use of one of them, its gradient is another array."""

    def gradient(kernels):
        x = Tensor(randn(*shape), requires_grad=True)
        with use_kernels(kernels):
            q, k, v = F.split_heads(x, 2, parts=3)
            out = F.merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True))
            out = out if extra is None else out.sum() + (q, k, v)[extra].exp().sum()
            out.backward(Tensor(randn(*out.shape, seed=4)))
        return x.grad

    assert_allclose(gradient("fast"), gradient("textbook"), rtol=1e-9, atol=1e-9)


def test_such_a_row_is_not_copied():
    buffer = randn(2, 5, 3, 2, 4)
    parts = [buffer[:, :, i].swapaxes(1, 2) for i in range(3)]
    ctx = Context()
    FastSplitHeads.forward(ctx, buffer.reshape(2, 5, 24), n_head=2, parts=3)
    assert np.shares_memory(FastSplitHeads.backward(ctx, *parts)[0], buffer)
    swapped = FastSplitHeads.backward(ctx, parts[1], parts[0], parts[2])[0].reshape(buffer.shape)
    assert_array_equal(swapped, buffer[:, :, [1, 0, 2]])


@needs_threads
@pytest.mark.parametrize("has_blas", [True, False])
@pytest.mark.parametrize("m", [1, 3, 16, 65])
@pytest.mark.parametrize("k, n", [(3, 5), (300, 257), (2000, 40), (700, 700), (1200, 450)])
def test_products_shared_out_among_threads(m, k, n, has_blas, monkeypatch):
    monkeypatch.setattr(threads, "HAS_BLAS", has_blas)
    monkeypatch.setattr(threads, "OUTPUT_LAYER", 2**19)
    monkeypatch.setattr(threads, "BLOCK", 2**16)
    a, b = randn(m, k, seed=1), randn(k, n, seed=2)
    with use_kernels("fast"):
        out, gradient = np.empty((m, n)), np.empty((k, n))
        threads.products([(a, b, out), (a.T, a @ b, gradient)])
        complex_pair = a + 1j, np.asfortranarray(b + 1j * b[::-1])
        for left, right in ((a, b), (a, np.asfortranarray(b)), complex_pair):  # and transposed weights
            found = threads.matmul(left, right, np.full((m, n), np.nan, right.dtype))
            assert_allclose(found, left @ right, rtol=1e-12, atol=1e-9)
    assert_allclose(out, a @ b, rtol=1e-12, atol=1e-9)
    assert_allclose(gradient, a.T @ (a @ b), rtol=1e-12, atol=1e-7)


@pytest.fixture
def four_threads(monkeypatch):
    """Fast kernels with four threads, however many cores there are."""
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(threads, "_workers", 1)
    monkeypatch.setattr(threads, "_pool", None)
    monkeypatch.setattr(threads, "pool_threads", [])
    with use_kernels("fast"):
        yield


class Others:
    """Counts what the pool's threads do. Ctrl-C reaches only the main thread."""

    def __init__(self):
        self.begun, self.ended, self.is_there = deque(), deque(), threading.Event()

    def piece(self, seconds, in_main=None, in_others=lambda: None):
        """A piece of work. With `in_main`, the main thread waits until another thread has begun one, and then calls it.

        (Ctrl-C in the wait itself could leave the event's lock locked.)
        """
        if threading.current_thread() is threading.main_thread():
            if in_main is not None:
                assert self.is_there.wait(60)
                in_main()
        else:
            self.begun.append(1)
            self.is_there.set()
            time.sleep(seconds)
            self.ended.append(1)
            in_others()

    def assert_at_rest(self):
        """None is at work, and in a while none has begun anything."""
        begun = len(self.begun)
        assert begun == len(self.ended)
        time.sleep(0.02)
        assert begun == len(self.begun)


def fail(error):
    raise error


@needs_threads
@pytest.mark.parametrize("error", [ValueError("of a piece"), KeyboardInterrupt("of a piece")])
@pytest.mark.parametrize("where", ["in_main", "in_others"])
def test_after_an_exception_no_thread_is_at_work(four_threads, where, error):
    others, begun = Others(), deque()
    actions = {"in_main": lambda: time.sleep(0.005), where: lambda: fail(error)}
    with pytest.raises(type(error), match="of a piece"):
        threads.parallel(lambda i: (begun.append(i), others.piece(0.005, **actions)), range(200), uses_blas=False)
    others.assert_at_rest()
    assert len(begun) < 100
    assert threads.parallel(abs, range(-200, 0), uses_blas=False) == list(range(200, 0, -1))


@pytest.fixture
def ctrl_c():
    """ctrl_c(seconds) raises KeyboardInterrupt after that time, as soon as `parallel` runs."""

    def interrupt(_, frame):
        while frame is not None and frame.f_code is not threads.parallel.__code__:
            frame = frame.f_back
        if frame is None:
            ctrl_c(1e-4)
        else:
            raise KeyboardInterrupt

    def ctrl_c(seconds):
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before = signal.signal(signal.SIGALRM, interrupt)
    yield ctrl_c
    ctrl_c(0)  # never
    signal.signal(signal.SIGALRM, before)


ctrl_c_is_there = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer for signals")


@ctrl_c_is_there
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment(four_threads, ctrl_c):
    rng = np.random.default_rng(0)
    for _ in range(100):
        others = Others()
        with contextlib.suppress(KeyboardInterrupt):  # it may come where Python cannot raise it, as in a destructor
            ctrl_c(rng.uniform(2e-5, 2e-3))
            while signal.getitimer(signal.ITIMER_REAL) != (0, 0):
                threads.parallel(lambda _, others=others: others.piece(5e-5), range(10), uses_blas=False)
        assert len(others.begun) == len(others.ended)


@ctrl_c_is_there
def test_a_second_ctrl_c_while_the_others_finish(four_threads, ctrl_c):
    others = Others()

    def two_of_them():
        ctrl_c(0.05)
        raise KeyboardInterrupt("the first")

    with pytest.raises(KeyboardInterrupt, match="the first"):
        threads.parallel(lambda _: others.piece(0.3, two_of_them), range(200), uses_blas=False)
    others.assert_at_rest()
    assert len(others.begun) < 20
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)  # the second came


@needs_threads
def test_a_call_from_inside_a_piece_stays_in_its_thread(four_threads, monkeypatch):
    """Two threads of the pool that wait for each other would wait for ever."""
    inside = threading.local()
    start_others = threads._give_blas  # `parallel` calls it first

    def from_outside(count):
        assert not hasattr(inside, "piece")
        start_others(count)

    def piece(_):
        inside.piece = True
        others.piece(0.001, in_main=lambda: None)
        inner = threads.parallel(lambda _: threading.get_ident(), range(9), uses_blas=False)
        del inside.piece
        return set(inner) == {threading.get_ident()}

    monkeypatch.setattr(threads, "_give_blas", from_outside)
    for _ in range(2):
        others = Others()
        assert all(threads.parallel(piece, range(20), uses_blas=False))


FORK = """
import os, signal
import numpy as np
import minigrad
import minigrad.functional as F
from minigrad.kernels.cpu import threads

minigrad.use_kernels("fast")
threads._workers = 2  # on a machine with one core as well
x = minigrad.Tensor(np.linspace(-3, 3, 2**20).reshape(1024, 1024))
expected = F.gelu(x).data.sum()
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends the child if it hangs
    os._exit(0 if F.gelu(x).data.sum() == expected else 1)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


@needs_threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_computes_with_threads_of_its_own():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", FORK], env=environment, timeout=300).returncode == 0
