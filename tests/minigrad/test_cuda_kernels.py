"""The CUDA kernels for GELU, layer norm, losses and optimizers, each run by the emulation (tests/cuda_emulation), which
is reached as a GPU would be, through the stand-in for CuPy; against the textbook form in float64 on the CPU."""

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, optim, switches, use_kernels
from minigrad.autograd import Context
from minigrad.backend import to_device, to_numpy
from minigrad.functional.activation import Gelu
from minigrad.functional.attention import SplitHeads
from minigrad.kernels.cpu.linear import FastGelu
from minigrad.kernels.cuda import CUDA, adam, cross_entropy, embedding, gelu, launch, layer_norm, swiglu
from minigrad.kernels.cuda import rotary as rotary_embedding
from minigrad.kernels.dispatch import FAST
from tests.minigrad.kernel_checks import (
    LAYOUTS,
    SAMPLES,
    assert_close,
    check,
    check_each_gradient_alone,
    labels,
    mistake_is_found,
    randn,
    run,
)
from tests.minigrad.test_kernels import Halved

pytestmark = [pytest.mark.emulation, pytest.mark.usefixtures("cuda")]
KERNELS = {name: sample for name, sample in SAMPLES.items() if sample[0] in CUDA and "large" not in name.split(", ")}


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_equals_the_textbook(name):
    op, inputs, _ = KERNELS[name]
    no_kernel_suits = op == "rotary_embedding" and inputs[0].ndim > 4
    for dtype in (np.float32, np.float64):
        assert (check(KERNELS[name], "cuda", dtype) is CUDA[op]) != no_kernel_suits


SMALL = ["gelu tanh 33", "linear_gelu rows 33", "layer_norm 33", "rms_norm 33", "cross_entropy none"]
SMALL += ["linear_cross_entropy mean", "linear_cross_entropy none", "rotary_embedding", "swiglu 33", "embedding 33"]


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_computed_alone_twice_and_in_any_memory_layout(name):
    check_each_gradient_alone(KERNELS[name], "cuda")
    check(KERNELS[name], "cuda", times=2)
    for layout in LAYOUTS:
        check(KERNELS[name], "cuda", layout=layout)


# --- bfloat16 ---


def rounded(array):
    """The array rounded to bfloat16."""
    import ml_dtypes

    return array.astype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("op", ["layer_norm", "linear_gelu", "linear_cross_entropy"])
@pytest.mark.parametrize("n", [1, 31, 33, 1025])
def test_kernels_of_bfloat16(op, n):
    """A product is summed in float32, and stays so, as the losses do; its bias is float32, too."""
    options = {
        "layer_norm": {"axes": (1,), "eps": 1e-5},
        "linear_gelu": {"approximate": "tanh"},
        "linear_cross_entropy": {"ignore_index": -100, "reduction": "none"},
    }[op]
    if op == "layer_norm":
        given = [rounded(x) for x in (randn(3, n), randn(n), randn(n, seed=1), randn(3, n, seed=2))]
    elif op == "linear_gelu":
        given = [rounded(randn(5, 7)), rounded(randn(n, 7)), np.float32(randn(n)), rounded(randn(5, n, seed=3))]
    else:
        given = [rounded(randn(5, 7)), rounded(randn(n, 7)), labels(n, 5), np.float32(randn(5, seed=3))]
    wide = [x if x.dtype == np.int64 else x.astype(np.float64) for x in given]
    results = []
    for function, (*inputs, dout) in ((FAST[op], wide), (CUDA[op], [to_device(x, "cuda") for x in given])):
        ctx = Context()
        results.append([function.forward(ctx, *inputs, **options), *function.backward(ctx, dout)])
    for i, (expected, found) in enumerate(zip(*results)):
        assert (found is None) == (expected is None)
        if found is not None:
            assert found.dtype == (given[0].dtype if op == "layer_norm" else np.float32)
            tolerance = 1e-5 if i == 0 and op != "layer_norm" else 2**-7  # gradients pass through bfloat16
            size = max(0.1, np.abs(expected).max())
            np.testing.assert_allclose(found.get().astype(float), expected, rtol=0, atol=tolerance * size)


def test_store_rounds_to_the_nearest_bfloat16_ties_to_even():
    import ml_dtypes

    source = """extern "C" __global__ void narrow(const real* x, number* out) {
        store(out, threadIdx.x, x[threadIdx.x]);
    }"""
    x = np.array([1, 1.00390625, 1.01171875, 3.14159, -2.5e38, 3.4e38, 1e-40, np.inf, -np.inf, np.nan], np.float32)
    out = to_device(np.zeros(10, ml_dtypes.bfloat16), "cuda")
    launch.launch(source, "narrow", out, 1, 10, [to_device(x, "cuda"), out])
    np.testing.assert_array_equal(out.get().astype(np.float32), x.astype(ml_dtypes.bfloat16).astype(np.float32))


# --- what nobody checks on a GPU ---


def test_ids_outside_of_the_vocabulary_touch_nothing_else():
    weight, ids = Tensor(randn(4, 5), True, device="cuda"), to_device(np.array([1, 9, -3, 1]), "cuda")
    with use_kernels("fast"):
        F.embedding(ids, weight).backward(to_device(np.ones((4, 5)), "cuda"))
    np.testing.assert_array_equal(weight.grad.get(), 2.0 * np.eye(4)[:, [1]] * np.ones(5))


def test_a_target_that_is_no_class_is_an_infinite_loss():
    logits, targets = Tensor(randn(3, 5), device="cuda"), to_device(np.array([1, 5, -100]), "cuda")
    with use_kernels("fast"):
        losses = F.cross_entropy(logits, targets, reduction="none").data.get()
    assert np.isfinite(losses).tolist() == [True, False, True] and losses[2] == 0


# --- what runs ---


@pytest.mark.parametrize("name", ["cross_entropy none", "gelu none 33", "layer_norm 33", "rms_norm 33", "linear"])
def test_textbook_forms_run_where_no_kernel_fits(name):
    half = run(KERNELS[name], "fast", "cuda", np.float16)
    assert half.function is not CUDA[KERNELS[name][0]]
    for a, b in zip(half.arrays, run(KERNELS[name], "textbook", "cpu", np.float16).arrays):
        assert b is None or (a.dtype == np.float16 and np.allclose(a, b, rtol=0.01, atol=0.01))


def test_the_kernels_are_chosen_by_where_the_arrays_are():
    for choice, device, op in [("fast", "cpu", FAST), ("fast", "cuda", CUDA)]:
        with use_kernels(choice):
            x = Tensor(randn(2, 3), True, device=device)
            assert F.gelu(x).grad_fn.function is op["gelu"]
    with use_kernels("fast"):
        x = Tensor(randn(2, 3, 4), True, device="cuda")
        assert "split_heads" not in CUDA  # so the textbook runs, and not the CPU's twin
        assert F.split_heads(x, 2).grad_fn.function is SplitHeads
        with use_kernels("textbook"):
            assert F.gelu(x).grad_fn.function is Gelu
        assert F.gelu(x).grad_fn.function is CUDA["gelu"]


def test_an_op_of_ones_own_runs_on_both_devices_and_a_twin_only_on_its_own():
    for device in ("cpu", "cuda"):
        with use_kernels({"softmax": Halved}):
            assert F.softmax(Tensor(randn(3), device=device), -1).sum().item() == pytest.approx(0.5)
    with use_kernels("fast"), use_kernels({"gelu": FastGelu}):
        assert F.gelu(Tensor(randn(3), True, device="cuda")).grad_fn.function is CUDA["gelu"]
    with use_kernels({"gelu": CUDA["gelu"]}):
        assert F.gelu(Tensor(randn(3), True)).grad_fn.function is not CUDA["gelu"]
        assert F.gelu(Tensor(randn(3), True, device="cuda")).grad_fn.function is CUDA["gelu"]
    assert switches.kernels == switches.cuda_kernels() == {}


def test_a_launch_refuses_arrays_with_gaps_and_does_nothing_for_an_empty_grid():
    x = to_device(np.zeros((4, 4)), "cuda")
    with pytest.raises(ValueError, match=r"kernel gelu_forward: an array of shape \(4, 2\) is not contiguous"):
        launch.launch(gelu.SOURCE, "gelu_forward", x, 1, 32, [x[:, :2]])
    launch.launch("not even a source", "nothing", x, (3, 0), 32, [x])


# --- optimizers ---

SHAPES = [(1,), (31,), (0,), (33, 5), (1025,), (), (16385,)]


def train(kind, kernels, device, dtype, **options):
    """Parameters, gradients, norms and moments after three steps, of which the second leaves one parameter out."""
    parameters = [Tensor(randn(*shape).astype(dtype), True, device=device) for shape in SHAPES]
    groups = [{"params": parameters[:3], "weight_decay": 0.0}, {"params": parameters[3:], "lr": 0.1}]
    optimizer, norms = kind(groups, **options), []
    with use_kernels(kernels):
        for step, max_norm in enumerate([1e9, 1.0, 1.0]):
            for i, p in enumerate(parameters):
                gradient = 100 * randn(*p.shape, seed=step + 1)
                p.grad = None if (i, step) == (3, 1) else to_device(np.asarray(gradient, dtype), device)
            norms.append(optim.clip_grad_norm_(parameters, max_norm))
            optimizer.step()
    states = optimizer.state_dict()["state"]
    assert [states[i]["step"] for i in range(7)] == [3, 3, 3, 2, 3, 3, 3]
    moments = [states[i][name] for name in ("exp_avg", "exp_avg_sq") for i in range(7)]
    arrays = [*[p.data for p in parameters], *[p.grad for p in parameters], *norms, *moments]
    return [np.asarray(x) if isinstance(x, np.generic) else to_numpy(x) for x in arrays]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (optim.Adam, {"weight_decay": 0.3}),
        (optim.AdamW, {"weight_decay": 0.3, "betas": (0.8, 0.95), "eps": 0.1}),
        (optim.AdamW, {"betas": (0.0, 0.0)}),
        (optim.AdamW, {"betas": (0.9, 0.9999)}),
    ],
)
def test_adam_clipping_and_norm_equal_the_textbook(kind, options, dtype):
    expected = train(kind, "textbook", "cpu", np.float64, **options)
    assert_close(train(kind, "fast", "cuda", dtype, **options), expected, dtype)


def test_parameters_with_gaps_or_of_16_bits_are_updated_too():
    results = []
    for kernels, device in (("textbook", "cpu"), ("fast", "cuda")):
        even, half = Tensor(randn(6, 4), True, device=device), Tensor(randn(5).astype(np.float16), True, device=device)
        even.data = even.data[:, ::2]
        even.grad, half.grad = (to_device(randn(*p.shape, seed=1).astype(p.dtype), device) for p in (even, half))
        with use_kernels(kernels):
            norm = optim.clip_grad_norm_([even, half], 1.0)
            optim.AdamW([even, half], lr=0.1).step()
        results.append([np.asarray(norm) if device == "cpu" else norm.get(), *map(to_numpy, (even.data, half.data))])
    for a, b in zip(*results):
        np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=2e-3)


def test_nothing_in_a_step_waits_for_the_gpu(cuda):
    x, weight, bias = (Tensor(randn(*shape), True, device="cuda") for shape in ((6, 8), (8, 8), (8,)))
    targets = to_device(labels(8, 6), "cuda")
    with use_kernels("fast"):
        optimizer = optim.AdamW([x, weight, bias])
        for _ in range(2):
            cuda.reset()
            out = F.layer_norm(F.linear_gelu(x, weight, bias), 8, bias, bias)
            (F.linear_cross_entropy(F.rms_norm(F.gelu(out), 8, bias), weight, targets) * 0.5).backward()
            optim.clip_grad_norm_([x, weight, bias], 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert cuda.synchronisations == cuda.to_host == 0


# --- mutants: kernels with a fault, each of which some test must notice ---

MUTANTS = {  # module -> what is wrong: the right source, the wrong one, and the sample that shows it
    gelu: {
        "bound off by one": ("i >= size", "i > size", "gelu none 33"),
        "bias forgotten": ("has_bias ? bias[c] : real(0)", "0", "linear_gelu 33"),
        "slope without its factor 3": ("3 * c1", "c1", "gelu tanh 33"),
    },
    layer_norm: {
        "stride of one": ("c += 32", "c += 31", "layer_norm 1025"),
        "no eps": ("/ columns + eps", "/ columns", "layer_norm eps"),
        "sum for mean": ("squares) / columns", "squares)", "layer_norm 33"),
        "variance with n - 1": ("squares) / columns", "squares) / (columns - 1)", "layer_norm 33"),
        "one lane's sum": ("m = warp_sum(m) / columns", "m = m / columns", "layer_norm 33"),
        "no projection": ("- normalized * projection", "", "layer_norm 33"),
        "a mean in RMS norm": (
            "centered ? warp_sum(sum) / columns : real(0)",
            "warp_sum(sum) / columns",
            "rms_norm 33",
        ),
        "missing barrier": ("    __syncthreads();\n", "", "layer_norm 33"),
        "barrier in a branch": ("    __syncthreads();\n", "if (warp == 0) __syncthreads();\n", "layer_norm 33"),
        "a warp left out": ("int other = 1", "int other = 2", "layer_norm 33"),
        "rows of the next slice": (
            "min(start + height, rows)",
            "min(start + height + 1, rows)",
            "layer_norm rows 1023",
        ),
    },
    cross_entropy: {
        "block too narrow": ("c += blockDim.x", "c += 256 - 1", "cross_entropy 1025"),
        "no rescaling": ("sum * exp(largest - x) + 1", "sum + 1", "cross_entropy 1025"),
        "a filled-up vocabulary counts": ("c < columns; c +=", "c < line; c +=", "linear_cross_entropy 33"),
        "a filled-up vocabulary learns": (" || c >= columns", "", "linear_cross_entropy with logits far below 0"),
        "-inf": ("if (x != -infinity())", "if (true)", "cross_entropy with hidden classes"),
        "overflow": ("sum += exp(x - largest)", "sum += exp(x)", "cross_entropy 3000 classes"),
        "no truth": ("prob - (c == target)", "prob", "cross_entropy 33"),
        "ignored rows learn": ("target < 0 || c >= columns ? real(0) : dloss", "dloss", "cross_entropy sum"),
    },
    embedding: {
        "run cut short": ("end - last > 1", "end - last > 2", "embedding 300"),
        "run without its first": ("i = start; i < end", "i = start + 1; i < end", "embedding 33"),
        "each place a run": ("if (start > 0 && ids[start - 1] == id) return;", "", "embedding 33"),
        "order forgotten": ("order[i] * columns", "i * columns", "embedding 33"),
        "padding learns": (" || id == left_out", "", "embedding with padding"),
    },
    rotary_embedding: {
        "turned the other way": ("x1 * c - x2 * s", "x1 * c + x2 * s", "rotary_embedding"),
        "not turned back": ("s = direction * ", "s = ", "rotary_embedding"),
        "the next position's angles": ("row % angles", "(row + 1) % angles", "rotary_embedding"),
    },
    swiglu: {
        "slope of the sigmoid": ("1 + g * (1 - s)", "1 - s", "swiglu 33"),
    },
    launch: {
        "warps' sums read too early": (
            "    if (lane == 0) of_warp[warp] = value;\n    __syncthreads();\n",
            "    if (lane == 0) of_warp[warp] = value;\n",
            "cross_entropy 1025",
        ),
        "half a warp": ("distance = 16", "distance = 8", "layer_norm 33"),
    },
}

FAULTS_OF_ADAM = {
    "bound off by one": ("chunk.start + chunk_size, sizes[", "chunk.start + chunk_size + 1, sizes["),
    "beyond the array": ("min(chunk.start + chunk_size, sizes[chunk.array])", "chunk.start + chunk_size"),
    "always the first piece": ("chunks[2 * blockIdx.x + 1]", "0"),
    "no correction of the mean": ("mean / correction1", "mean"),
    "correction of the square without a root": ("correction2 = sqrt(", "correction2 = ("),
    "decay is not decoupled": ("if (decoupled)", "if (false)"),
    "decay without the learning rate": ("1 - lr * decay", "1 - decay"),
    "a gradient for its square": ("one_minus_beta2 * g * g", "one_minus_beta2 * g"),
    "eps inside the root": ("sqrt(square) / correction2 + eps", "sqrt(square + eps) / correction2"),
    "not scaled": ("load(array, i) * *factor", "load(array, i)"),
    "sum without squares": ("sum += x * x", "sum += x"),
}


@pytest.mark.parametrize("fault", FAULTS_OF_ADAM)
def test_a_faulty_optimizer_is_noticed(fault):
    options = {"weight_decay": 0.3, "betas": (0.8, 0.95), "eps": 0.1}
    with mistake_is_found(adam, *FAULTS_OF_ADAM[fault]):
        test_adam_clipping_and_norm_equal_the_textbook(optim.AdamW, options, np.float64)


@pytest.mark.parametrize(("module", "fault"), [(module, fault) for module in MUTANTS for fault in MUTANTS[module]])
def test_a_faulty_kernel_is_noticed(module, fault):
    right, wrong, name = MUTANTS[module][fault]
    with mistake_is_found(module, right, wrong, "PRELUDE" if module is launch else "SOURCE"):
        check(KERNELS[name], "cuda")
