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
from tests.minigrad.kernel_checks import mistake_is_found, randn
from tests.minigrad.test_kernels import Halved

pytestmark = [pytest.mark.emulation, pytest.mark.usefixtures("cuda")]
SIZES = (0, 1, 31, 32, 33, 1023, 1025)


def labels(classes, n, ignored=False):
    targets = np.random.default_rng([classes, n]).integers(0, classes, n)
    if ignored:
        targets[::3] = -100
    return targets


def affine(op, rows, size, **options):
    """Rows far from 0, which shows whether the mean is taken out before squares are."""
    parameters = [randn(size, seed=1), randn(size, seed=2)][: 1 if op == "rms_norm" else 2]
    return op, [randn(rows, size) + 10, size, *parameters], options


def rotary(shape, angles):
    return "rotary_embedding", [randn(*shape), np.cos(randn(*angles)), np.sin(randn(*angles))], {}


CASES = {
    **{f"gelu {form} {n}": ("gelu", [3 * randn(n)], {"approximate": form}) for n in SIZES for form in ("none", "tanh")},
    "gelu of a number": ("gelu", [randn()], {}),
    "gelu of large numbers": ("gelu", [np.array([-1e4, -40.0, -6.0, -1e-9, 0.0, 1e-9, 6.0, 40.0, 1e4])], {}),
    "gelu tanh of large numbers": ("gelu", [np.array([-1e4, -6.0, 0.0, 6.0, 1e4])], {"approximate": "tanh"}),
    **{f"linear_gelu {n}": ("linear_gelu", [randn(2, 3, 7), randn(n, 7), randn(n)], {}) for n in SIZES},
    **{f"linear_gelu rows {n}": ("linear_gelu", [randn(n, 7), randn(5, 7), None], {}) for n in SIZES[:5]},
    "linear_gelu exact": ("linear_gelu", [randn(7), randn(33, 7), randn(33)], {"approximate": "none"}),
    **{f"{op} {n}": affine(op, 5, n) for n in SIZES[1:] for op in ("layer_norm", "rms_norm")},
    **{f"{op} rows {n}": affine(op, n, 33) for n in SIZES for op in ("layer_norm", "rms_norm")},
    "layer_norm eps": affine("layer_norm", 3, 5, eps=0.5),
    "rms_norm eps": affine("rms_norm", 3, 5, eps=0.5),
    "layer_norm of equal numbers": ("layer_norm", [np.ones((3, 5)), 5, randn(5), randn(5)], {}),
    "layer_norm without weights": ("layer_norm", [randn(2, 3, 5), (3, 5), None, None], {}),
    "layer_norm with a bias alone": ("layer_norm", [randn(2, 3, 5), 5, None, randn(5)], {}),
    "layer_norm without bias": ("layer_norm", [randn(5), 5, randn(5), None], {}),
    "rms_norm without weight": ("rms_norm", [randn(2, 3, 5), (3, 5), None], {}),
    **{f"swiglu {n}": ("swiglu", [5 * randn(n), randn(n, seed=1)], {}) for n in SIZES},
    "swiglu of large numbers": ("swiglu", [np.array([-1e4, -90.0, 0.0, 90.0, 1e4]), randn(5)], {}),
    "rotary_embedding": rotary((2, 3, 5, 8), (5, 4)),
    "rotary_embedding of one row": rotary((1, 2), (1, 1)),
    "rotary_embedding of 66": rotary((3, 2, 66), (2, 33)),
    "rotary_embedding by sequence": rotary((2, 3, 5, 8), (2, 1, 5, 4)),
    "rotary_embedding by sequence alone": rotary((5, 2, 5, 8), (5, 1, 1, 4)),
    "rotary_embedding one angle": rotary((2, 3, 8), (4,)),
    "rotary_embedding in five axes": rotary((2, 1, 2, 3, 4), (3, 2)),
    "rotary_embedding of no rows": rotary((2, 0, 4), (0, 2)),
    **{f"embedding {n}": ("embedding", [labels(7, n), randn(7, 5)], {}) for n in (0, 1, 2, 31, 33, 300)},
    "embedding of 300": ("embedding", [labels(40, 12).reshape(3, 4), randn(40, 300)], {}),
    "embedding of one row": ("embedding", [np.zeros((2, 40), np.uint16), randn(1, 3)], {}),
    "embedding with padding": ("embedding", [labels(4, 30), randn(4, 5)], {"padding_idx": -2}),
    "embedding of a number": ("embedding", [np.array(2), randn(4, 5)], {}),
    "embedding without features": ("embedding", [labels(4, 3), randn(4, 0)], {}),
    **{f"cross_entropy {n}": ("cross_entropy", [5 * randn(4, n), labels(n, 4)], {}) for n in SIZES[1:]},
    "cross_entropy 3000 classes": ("cross_entropy", [5 * randn(3, 3000), labels(3000, 3)], {"reduction": "none"}),
    **{
        f"{op} {reduction}": (op, [*inputs, labels(5, 33, ignored=True)], {"reduction": reduction})
        for op, inputs in {"cross_entropy": [randn(33, 5)], "linear_cross_entropy": [randn(33, 3), randn(5, 3)]}.items()
        for reduction in ("sum", "mean", "none")
    },
    "cross_entropy of no rows": ("cross_entropy", [randn(0, 5), labels(5, 0)], {"reduction": "sum"}),
    "cross_entropy of large logits": ("cross_entropy", [1e3 * randn(3, 40), labels(40, 3)], {}),
    "cross_entropy with hidden classes": (
        "cross_entropy",
        [np.where(np.arange(700) % 3 == 0, -np.inf, randn(2, 700)), np.array([1, 699 - 1])],
        {},
    ),
    **{
        f"linear_cross_entropy {n}": ("linear_cross_entropy", [randn(4, 3), randn(n, 3), labels(n, 4)], {})
        for n in SIZES[1:]
    },
    "linear_cross_entropy with logits far below 0": (
        "linear_cross_entropy",
        [np.full((3, 2), 1000.0), -2 - np.abs(randn(33, 2)), labels(33, 3)],
        {},
    ),
    "linear_cross_entropy of no rows": (
        "linear_cross_entropy",
        [randn(0, 3), randn(5, 3), labels(5, 0)],
        {"reduction": "sum"},
    ),
}


def run(op, inputs, options, kernels="fast", device="cuda", dtype=np.float64, wanted=None, layout=None, times=1):
    """Output and gradients of an op, as NumPy arrays; `wanted` are the inputs whose gradients are asked for."""
    tensors = []
    for i, value in enumerate(inputs):
        if isinstance(value, np.ndarray):
            is_float = value.dtype.kind == "f"
            needs_grad = is_float and (wanted is None or i in wanted)
            value = Tensor(value.astype(dtype) if is_float else value, needs_grad, device=device)
            if layout is not None and value.ndim > 1 and is_float:
                value.data = layout(value.data)
        tensors.append(value)
    with use_kernels(kernels), np.errstate(invalid="ignore", divide="ignore"):
        out = getattr(F, op)(*tensors, **options)
        if out.requires_grad:
            dout = to_device(randn(*out.shape, seed=9).astype(dtype), device)
            for _ in range(times):
                out.backward(dout, retain_graph=True)
    if out.grad_fn is not None and (kernels, device) == ("fast", "cuda"):
        no_kernel_suits = dtype == np.float16 or (op == "rotary_embedding" and inputs[0].ndim > 4)
        assert (out.grad_fn.function is not CUDA[op]) == no_kernel_suits
    grads = [tensor.grad if isinstance(tensor, Tensor) else None for tensor in tensors]
    return [None if array is None else to_numpy(array) for array in (out.data, *grads)]


def assert_close(found, expected, dtype):
    """To rounding, relative to the largest number: sums are taken in another order."""
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape and a.dtype == dtype
            size = np.abs(b[np.isfinite(b)]).max(initial=0.1)
            np.testing.assert_allclose(a, b, rtol=0, atol=(2e-5 if dtype == np.float32 else 1e-12) * size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_a_kernel_equals_the_textbook(case, dtype):
    op, inputs, options = CASES[case]
    assert_close(run(*CASES[case], dtype=dtype), run(*CASES[case], "textbook", "cpu"), dtype)


SMALL = ["gelu tanh 33", "linear_gelu rows 33", "layer_norm 33", "rms_norm 33", "cross_entropy none"]
SMALL += ["linear_cross_entropy mean", "linear_cross_entropy none", "rotary_embedding", "swiglu 33", "embedding 33"]


@pytest.mark.parametrize("case", SMALL)
def test_only_the_gradients_that_are_wanted_are_computed(case):
    expected = run(*CASES[case], "textbook", "cpu")
    for i, gradient in enumerate(expected[1:]):
        if gradient is not None:
            found = run(*CASES[case], wanted={i})
            assert [g is None for g in found[1:]] == [j != i for j in range(len(expected) - 1)]
            assert_close([found[i + 1]], [gradient], np.float64)


def backwards(array):
    return array[(slice(None, None, -1),) * array.ndim]


def transposed(array):
    return array.T.copy().T


def like_a_head(array):
    """(..., A, B, C) in the order of (..., B, A, C), as split_heads leaves it."""
    return array if array.ndim < 3 else array.swapaxes(-3, -2).copy().swapaxes(-3, -2)


@pytest.mark.parametrize("layout", [backwards, transposed, like_a_head])
@pytest.mark.parametrize("case", SMALL)
def test_any_memory_layout_is_taken(case, layout):
    assert_close(run(*CASES[case], layout=layout), run(*CASES[case], "textbook", "cpu", layout=layout), np.float64)


@pytest.mark.parametrize("case", SMALL)
def test_backward_can_run_twice_and_adds_up(case):
    assert_close(run(*CASES[case], times=2), run(*CASES[case], "textbook", "cpu", times=2), np.float64)


@pytest.mark.parametrize("case", SMALL)
def test_a_kernel_does_not_write_to_its_inputs(case):
    op, inputs, options = CASES[case]
    tensors = [Tensor(x, x.dtype.kind == "f", device="cuda") if isinstance(x, np.ndarray) else x for x in inputs]
    with use_kernels("fast"):
        out = getattr(F, op)(*tensors, **options)
        dout = to_device(randn(*out.shape), "cuda")
        before = dout.get()
        out.backward(dout)
    assert np.array_equal(dout.get(), before)
    for tensor, array in zip(tensors, inputs):
        assert not isinstance(array, np.ndarray) or np.array_equal(tensor.data.get(), array)


# --- bfloat16 ---


def bfloat16(array):
    """The array rounded, and the same on the device in 16 bits."""
    import ml_dtypes

    narrow = array.astype(ml_dtypes.bfloat16)
    return narrow.astype(np.float64), to_device(narrow, "cuda")


@pytest.mark.parametrize("n", [1, 31, 33, 1025])
def test_layer_norm_of_bfloat16(n):
    (x, x16), (weight, weight16), (bias, bias16), (dout, dout16) = map(
        bfloat16, (randn(3, n), randn(n), randn(n, seed=1), randn(3, n, seed=2))
    )
    options = {"axes": (1,), "eps": 1e-5}
    wide, narrow = Context(), Context()
    expected = [FAST["layer_norm"].forward(wide, x, weight, bias, **options), *FAST["layer_norm"].backward(wide, dout)]
    found = [CUDA["layer_norm"].forward(narrow, x16, weight16, bias16, **options)]
    found += CUDA["layer_norm"].backward(narrow, dout16)
    for a, b in zip(found, expected):
        assert a.dtype == x16.dtype
        np.testing.assert_allclose(a.get().astype(float), b, rtol=2**-8, atol=2**-8 * np.abs(b).max())


@pytest.mark.parametrize("op", ["linear_gelu", "linear_cross_entropy"])
@pytest.mark.parametrize("n", [1, 31, 33, 1025])
def test_products_of_bfloat16_are_summed_in_float32(op, n):
    (x, x16), (weight, weight16) = bfloat16(randn(5, 7)), bfloat16(randn(n, 7))
    if op == "linear_gelu":
        more, options, dout = [randn(n)], {"approximate": "tanh"}, randn(5, n, seed=3)
    else:
        more, options, dout = [labels(n, 5)], {"ignore_index": -100, "reduction": "none"}, randn(5, seed=3)
    wide, narrow = Context(), Context()
    expected = [FAST[op].forward(wide, x, weight, *more, **options), *FAST[op].backward(wide, dout)]
    more = [to_device(x.astype(np.float32) if x.dtype == float else x, "cuda") for x in more]
    found = [CUDA[op].forward(narrow, x16, weight16, *more, **options)]
    dout16 = to_device(dout.astype(np.float32), "cuda") if dout.ndim == 1 else bfloat16(dout)[1]
    found += CUDA[op].backward(narrow, dout16)
    for i, (a, b) in enumerate(zip(found, expected)):
        assert (a is None and b is None) or a.dtype == np.float32
        if a is not None:  # the gradients pass through a rounding to bfloat16
            np.testing.assert_allclose(a.get(), b, rtol=0, atol=(2**-7 if i else 1e-5) * max(0.1, np.abs(b).max()))


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


def test_textbook_forms_run_where_no_kernel_fits():
    x = np.array([[0.5, -1.0], [2.0, 0.0]])
    norms = {"layer_norm": [x, 2, x[0], None], "rms_norm": [x, 2, x[0]]}
    for op, inputs in {"cross_entropy": [x, np.array([0, 1])], "gelu": [x], **norms}.items():
        half, expected = (
            run(op, inputs, {}, kernels, device, np.float16)
            for kernels, device in (("fast", "cuda"), ("textbook", "cpu"))
        )
        for a, b in zip(half, expected):
            assert b is None or (a.dtype == np.float16 and np.allclose(a, b, atol=0.01))


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

FAR_BELOW_0 = "linear_cross_entropy with logits far below 0"
MUTANTS = {
    "bound off by one": (gelu, "i >= size", "i > size", "gelu none 33"),
    "stride of one": (layer_norm, "c += 32", "c += 31", "layer_norm 1025"),
    "block too narrow": (cross_entropy, "c += blockDim.x", "c += 256 - 1", "cross_entropy 1025"),
    "bias forgotten": (gelu, "has_bias ? bias[c] : real(0)", "0", "linear_gelu 33"),
    "slope without its factor 3": (gelu, "3 * c1", "c1", "gelu tanh 33"),
    "no eps": (layer_norm, "/ columns + eps", "/ columns", "layer_norm eps"),
    "sum for mean": (layer_norm, "squares) / columns", "squares)", "layer_norm 33"),
    "variance with n - 1": (layer_norm, "squares) / columns", "squares) / (columns - 1)", "layer_norm 33"),
    "one lane's sum": (layer_norm, "m = warp_sum(m) / columns", "m = m / columns", "layer_norm 33"),
    "no projection": (layer_norm, "- normalized * projection", "", "layer_norm 33"),
    "a mean in RMS norm": (
        layer_norm,
        "centered ? warp_sum(sum) / columns : real(0)",
        "warp_sum(sum) / columns",
        "rms_norm 33",
    ),
    "missing barrier": (layer_norm, "    __syncthreads();\n", "", "layer_norm 33"),
    "barrier in a branch": (layer_norm, "    __syncthreads();\n", "if (warp == 0) __syncthreads();\n", "layer_norm 33"),
    "a warp left out": (layer_norm, "int other = 1", "int other = 2", "layer_norm 33"),
    "rows of the next slice": (
        layer_norm,
        "min(start + height, rows)",
        "min(start + height + 1, rows)",
        "layer_norm rows 1023",
    ),
    "run cut short": (embedding, "end - last > 1", "end - last > 2", "embedding 300"),
    "run without its first": (embedding, "i = start; i < end", "i = start + 1; i < end", "embedding 33"),
    "each place a run": (embedding, "if (start > 0 && ids[start - 1] == id) return;", "", "embedding 33"),
    "order forgotten": (embedding, "order[i] * columns", "i * columns", "embedding 33"),
    "padding learns": (embedding, " || id == left_out", "", "embedding with padding"),
    "turned the other way": (rotary_embedding, "x1 * c - x2 * s", "x1 * c + x2 * s", "rotary_embedding"),
    "not turned back": (rotary_embedding, "s = direction * ", "s = ", "rotary_embedding"),
    "the next position's angles": (rotary_embedding, "row % angles", "(row + 1) % angles", "rotary_embedding"),
    "slope of the sigmoid": (swiglu, "1 + g * (1 - s)", "1 - s", "swiglu 33"),
    "no rescaling": (cross_entropy, "sum * exp(largest - x) + 1", "sum + 1", "cross_entropy 1025"),
    "a filled-up vocabulary counts": (cross_entropy, "c < columns; c +=", "c < line; c +=", "linear_cross_entropy 33"),
    "a filled-up vocabulary learns": (cross_entropy, " || c >= columns", "", FAR_BELOW_0),
    "-inf": (cross_entropy, "if (x != -infinity())", "if (true)", "cross_entropy with hidden classes"),
    "overflow": (cross_entropy, "sum += exp(x - largest)", "sum += exp(x)", "cross_entropy 3000 classes"),
    "no truth": (cross_entropy, "prob - (c == target)", "prob", "cross_entropy 33"),
    "ignored rows learn": (cross_entropy, "target < 0 || c >= columns ? real(0) : dloss", "dloss", "cross_entropy sum"),
    "warps' sums read too early": (
        launch,
        "    if (lane == 0) of_warp[warp] = value;\n    __syncthreads();\n",
        "    if (lane == 0) of_warp[warp] = value;\n",
        "cross_entropy 1025",
    ),
    "half a warp": (launch, "distance = 16", "distance = 8", "layer_norm 33"),
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


@pytest.mark.parametrize("fault", MUTANTS)
def test_a_faulty_kernel_is_noticed(fault):
    module, old, new, case = MUTANTS[fault]
    with mistake_is_found(module, old, new, "PRELUDE" if module is launch else "SOURCE"):
        test_a_kernel_equals_the_textbook(case, np.float64)
