"""Every CUDA kernel compiles for the GPUs that both CUDA 12 and CUDA 13 support, by the compiler that CuPy uses.

A kernel's source is complete only when it is launched, as what launches it writes the types and constants in front. So
each op is called once, with a launch that notes the source and computes nothing.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from minigrad import Tensor, autocast, optim, use_kernels
from minigrad.backend import to_device
from minigrad.kernels import cuda
from minigrad.kernels.cuda import CUDA, launch
from minigrad.kernels.cuda.quantized import MOST_ROWS, BlockMatrix, QuantizedMatrix, dequantize, times_quantized
from minigrad.precision import bfloat16
from tests.cuda_emulation import compiling
from tests.helpers import skip_or_fail
from tests.minigrad.kernel_checks import ATTENTION, randn, run
from tests.minigrad.test_cuda_attention import with_dropout
from tests.minigrad.test_cuda_kernels import KERNELS

pytestmark = pytest.mark.usefixtures("cuda")
# Turing, A100, other Amperes, Ada, H100, and the two kinds of Blackwell: data centers' and GeForce. `make test` takes
# the oldest and the newest.
ARCHITECTURES = ["sm_75", *(pytest.param(f"sm_{n}", marks=pytest.mark.slow) for n in (80, 86, 89, 90, 100)), "sm_120"]
# op -> samples of all its kernels. cuBLAS does `linear`.
CALLS = {op: [sample for sample in KERNELS.values() if sample[0] == op] for op in CUDA if op != "linear"}
CALLS["dropout"] = [("dropout", [randn(2, 4)], {"p": 0.5})]
ONE_QUERY, MANY = ["one of everything", "one query, padding"], ["no leading axes", "tiles of queries", "padding"]
CALLS["scaled_dot_product_attention"] = [*[ATTENTION[n] for n in ONE_QUERY + MANY], with_dropout("padding", 0.5)]


def call(op, dtype):
    for sample in CALLS[op]:
        for wanted in (None, ()):  # with one query and no gradient, attention has a kernel of its own
            run(sample, "fast", "cuda", dtype, wanted=wanted)


@pytest.fixture
def sources(monkeypatch):
    """The complete sources of the kernels that the test launches -> kernel name and dtype."""
    launched: dict[str, str] = {}

    def note(xp, source, name, dtype):
        launched[launch.full_source(source, dtype)] = f"{name} of {dtype}"
        return lambda grid, block, args: None

    monkeypatch.setattr(launch, "compiled", note)
    with np.errstate(all="ignore"):  # nothing writes results
        yield launched


@pytest.fixture(params=ARCHITECTURES)
def check(request, sources):
    """A function that raises unless all sources compile without a word, and what is float is not computed in double."""

    def check():
        if not compiling.available():
            skip_or_fail("needs the package nvidia-cuda-nvrtc")
        assert sources
        for source, name in sources.items():
            said, ptx = compiling.compile_for(request.param, source)
            assert said == "", f"{name} for {request.param}: {said}"
            assert ".entry" in ptx
            # Many times as slow as float, and easily there: `0.5 * x` is a product of doubles.
            assert ("float64" in name) or ".f64" not in ptx, f"{name} computes in double precision"

    return check


@pytest.mark.parametrize("op", CALLS)
def test_kernels_compile(op, check):
    for dtype in (np.float32, np.float64):
        call(op, dtype)
    with autocast("bfloat16"):
        call(op, np.float32)
    check()


def test_kernels_of_optimizers_compile(check):
    for dtype in (np.float32, np.float64):
        with use_kernels("fast"):
            parameter = Tensor(np.ones(4, dtype), True, device="cuda")
            parameter.grad = to_device(np.ones(4, dtype), "cuda")
            optim.clip_grad_norm_(parameter, 1.0)
            optim.AdamW([parameter]).step()
    check()


def zeros(*shape, dtype=np.float32):
    return to_device(np.zeros(shape, dtype), "cuda")


def double_scales():
    return zeros(4, 2, dtype=np.uint8), zeros(256), zeros()


QUANTIZED = {
    "8 bits": lambda: QuantizedMatrix(zeros(4, 8, dtype=np.int8), zeros(1, 1)),
    "8 bits, zeros": lambda: QuantizedMatrix(zeros(4, 8, dtype=np.int8), zeros(4, 2), zeros(4, 2, dtype=np.int8)),
    "4 bits": lambda: QuantizedMatrix(zeros(4, 6, dtype=np.uint8), zeros(4, 4), codebook=zeros(16)),
    "4 bits, double": lambda: QuantizedMatrix(
        zeros(4, 8, dtype=np.uint8), zeros(1), codebook=zeros(16), double=double_scales()
    ),
    "Q8_0": lambda: BlockMatrix(zeros(2, 32, 5, dtype=np.int8), zeros(2, 5)),
    "Q4_0": lambda: BlockMatrix(zeros(2, 8, 5, dtype=np.uint16), zeros(2, 5), zero=8),
    "Q4_1": lambda: BlockMatrix(zeros(2, 8, 5, dtype=np.uint16), zeros(2, 5), zeros(2, 5)),
}


@pytest.mark.parametrize("weight", QUANTIZED)
def test_kernels_for_quantized_weights_compile(weight, check):
    weight = QUANTIZED[weight]()
    for rows in (1, MOST_ROWS):
        times_quantized(zeros(rows, weight.shape[1]), weight)
    if isinstance(weight, QuantizedMatrix):
        for dtype in (np.float32, bfloat16()):
            dequantize(weight, dtype)
    check()


# A column, or the row of a weight: there are fewer than 2^31.
SMALL_PLACES = {"blockIdx.x * 32 + lane", "blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32"}


def test_places_in_large_arrays_are_counted_in_64_bits():
    """No test is large enough to count beyond 2^31, so this looks for products that could: block times size."""
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(cuda.__file__).parent.glob("*.py"))}
    found = [
        (name, product.strip())
        for name, source in sources.items()
        for product in re.findall(r"(?:\(long long\))?blockIdx\.[xyz] \* [^;,\]]*", source)
    ]
    assert len(found) > 10
    assert [(name, p) for name, p in found if "(long long)" not in p and p not in SMALL_PLACES] == []


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [("x[0] = y;", "identifier"), ("int unused = 1;", "never referenced"), ("x[0] = 0.1 * x[0];", "double precision")],
)
def test_a_faulty_source_is_noticed(statement, complaint, check):
    x = to_device(np.zeros(1, np.float32), "cuda")
    launch.launch(f'extern "C" __global__ void faulty(float* x) {{ {statement} }}', "faulty", x, 1, 1, [x])
    with pytest.raises(AssertionError, match=complaint):
        check()
