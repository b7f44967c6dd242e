"""The CUDA kernels for layer norm and losses, each run by the emulation (tests/cuda_emulation), which
is reached as a GPU would be, through the stand-in for CuPy; against the textbook form in float64 on the CPU."""

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, switches, use_kernels
from minigrad.autograd import Context
from minigrad.backend import to_device
from minigrad.functional.activation import Gelu
from minigrad.functional.normalization import LayerNorm
from minigrad.kernels.cpu.layer_norm import FastLayerNorm
from minigrad.kernels.cuda import CUDA, launch, layer_norm
from minigrad.kernels.dispatch import FAST
from minigrad.precision import bfloat16
from tests.minigrad.kernel_checks import (
    LAYOUTS,
    SAMPLES,
    check,
    check_each_gradient_alone,
    labels,
    randn,
    run,
)
from tests.minigrad.test_kernels import Halved

pytestmark = [pytest.mark.emulation, pytest.mark.usefixtures("cuda")]
KERNELS = {name: sample for name, sample in SAMPLES.items() if sample[0] in CUDA and "large" not in name.split(", ")}


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_equals_the_textbook(name):
    for dtype in (np.float32, np.float64):
        assert check(KERNELS[name], "cuda", dtype) is CUDA[KERNELS[name][0]]


@pytest.mark.parametrize(("more", "threads", "why"), [("int = ;", 256, "(Error|tion): "), ("//", 2048, "2048 threads")])
def test_a_kernel_that_cannot_run_gives_way_to_plain_cupy(monkeypatch, more, threads, why):
    monkeypatch.setattr(layer_norm, "SOURCE", layer_norm.SOURCE + more)
    monkeypatch.setattr(launch, "THREADS", threads)
    with pytest.warns(launch.KernelWarning, match=f"CUDA kernel norm_forward .*{why}") as warned:
        for _ in range(2):
            assert check(KERNELS["layer_norm 33"], "cuda", np.float32) is LayerNorm
    assert len(warned) == 1


SMALL = ["linear", "layer_norm 33", "rms_norm 33", "cross_entropy 33", "linear_cross_entropy 33"]
SMALL += ["linear_cross_entropy none"]


@pytest.mark.parametrize("name", SMALL)
def test_gradients_alone_twice_and_in_any_memory_layout(name):
    check_each_gradient_alone(KERNELS[name], "cuda")
    check(KERNELS[name], "cuda", times=2)
    for layout in LAYOUTS:
        check(KERNELS[name], "cuda", layout=layout)


# --- bfloat16 ---


def rounded(array):
    """The array rounded to bfloat16."""
    return array.astype(bfloat16())


@pytest.mark.parametrize("n", [1, 31, 33, 1025])
def test_losses_of_bfloat16(n):
    """A product is summed in float32, and stays so, as the losses do."""
    options = {"ignore_index": -100, "reduction": "none"}
    given = [rounded(randn(5, 7)), rounded(randn(n, 7)), labels(n, 5), np.float32(randn(5, seed=3))]
    wide = [x if x.dtype == np.int64 else x.astype(np.float64) for x in given]
    results = []
    for functions, (*inputs, dout) in ((FAST, wide), (CUDA, [to_device(x, "cuda") for x in given])):
        function = functions["linear_cross_entropy"]
        ctx = Context()
        results.append([function.forward(ctx, *inputs, **options), *function.backward(ctx, dout)[:2]])
    for expected, found, tolerance in zip(*results, (1e-5, 2**-7, 2**-7)):  # gradients pass through bfloat16
        assert found.dtype == np.float32
        size = max(0.1, np.abs(expected).max())
        np.testing.assert_allclose(found.get(), expected, rtol=0, atol=tolerance * size)


def test_store_rounds_to_the_nearest_bfloat16_ties_to_even():
    source = """extern "C" __global__ void f(const real* x, number* out) { store(out, threadIdx.x, x[threadIdx.x]); }"""
    x = np.array([1, 1.00390625, 1.01171875, 3.14159, -2.5e38, 3.4e38, 1e-40, np.inf, -np.inf, np.nan], np.float32)
    out = to_device(np.zeros(10, bfloat16()), "cuda")
    launch.launch(source, "f", out, 1, 10, [to_device(x, "cuda"), out])
    np.testing.assert_array_equal(out.get().astype(np.float32), rounded(x).astype(np.float32))


# --- what nobody checks on a GPU ---


def test_a_target_that_is_no_class_is_an_infinite_loss():
    logits, targets = Tensor(randn(3, 5), device="cuda"), to_device(np.array([1, 5, -100]), "cuda")
    with use_kernels("fast"):
        losses = F.cross_entropy(logits, targets, reduction="none").data.get()
    assert np.isfinite(losses).tolist() == [True, False, True] and losses[2] == 0


# --- what runs ---


@pytest.mark.parametrize("name", ["cross_entropy none", "layer_norm 33", "rms_norm 33", "linear"])
def test_textbook_forms_run_where_no_kernel_fits(name):
    half = run(KERNELS[name], "fast", "cuda", np.float16)
    assert half.function is not CUDA[KERNELS[name][0]]
    for a, b in zip(half.arrays, run(KERNELS[name], "textbook", "cpu", np.float16).arrays):
        assert b is None or (a.dtype == np.float16 and np.allclose(a, b, rtol=0.01, atol=0.01))


def test_the_kernels_are_chosen_by_where_the_arrays_are():
    def function(device, op="layer_norm", **options):
        return getattr(F, op)(Tensor(randn(2, 3), True, device=device), **options).grad_fn.function

    for chosen in ("fast", {"layer_norm": FastLayerNorm}, {"layer_norm": CUDA["layer_norm"]}):
        with use_kernels("fast"), use_kernels(chosen):
            assert function("cuda", normalized_shape=3) is CUDA["layer_norm"]
            assert function("cpu", normalized_shape=3) is FastLayerNorm
    with use_kernels("fast"):
        assert function("cuda", "gelu") is Gelu  # no kernel: the textbook form runs, and not the CPU's twin
        with use_kernels("textbook"):
            assert function("cuda", normalized_shape=3) is LayerNorm
    with use_kernels({"layer_norm": CUDA["layer_norm"]}):
        assert function("cpu", normalized_shape=3) is LayerNorm
    for device in ("cpu", "cuda"):
        with use_kernels({"softmax": Halved}):  # an op of one's own runs on both
            assert F.softmax(Tensor(randn(3), device=device), -1).sum().item() == pytest.approx(0.5)
    assert switches.kernels == switches.cuda_kernels() == {}


def test_a_launch_refuses_gaps_and_skips_an_empty_grid():
    x = to_device(np.zeros((4, 4)), "cuda")
    with pytest.raises(ValueError, match=r"kernel nothing: an array of shape \(4, 2\) is not contiguous"):
        launch.launch("not even a source", "nothing", x, 1, 32, [x[:, :2]])
    launch.launch("not even a source", "nothing", x, (3, 0), 32, [x])
