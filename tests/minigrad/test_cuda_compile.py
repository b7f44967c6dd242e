"""Every CUDA kernel compiles for GPUs of 2020 (sm_80, A100) and 2022 (sm_90, H100), by the compiler that CuPy uses.

A kernel's source is complete only when it is launched, as what launches it writes the types and constants in front. So
each op is called once, with a launch that notes the source and computes nothing.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, autocast, no_grad, optim, use_kernels
from minigrad.backend import to_device
from minigrad.kernels import cuda
from minigrad.kernels.cuda import CUDA, launch
from minigrad.kernels.cuda.quantized import MOST_ROWS, BlockMatrix, QuantizedMatrix, dequantize, times_quantized
from minigrad.precision import bfloat16
from tests.cuda_emulation import compiling

pytestmark = pytest.mark.usefixtures("cuda")
DTYPES = [np.float32, np.float64]


def floats(*shape, dtype=np.float32):
    return Tensor(np.ones(shape, dtype), True, device="cuda")


def optimize(dtype):
    parameter = floats(4, dtype=dtype)
    parameter.grad = floats(4, dtype=dtype).data
    optim.clip_grad_norm_(parameter, 1.0)
    optim.AdamW([parameter]).step()


def attend(dtype, *queries, **options):
    q, k = floats(2, 3, *queries, 8, dtype=dtype), floats(2, 3, 5, 8, dtype=dtype)
    return F.scaled_dot_product_attention(q, k, k, **options)


def decode(dtype, **options):
    with no_grad():
        return attend(dtype, 1, **options)


TARGETS = np.array([0, 1])
MASK = np.ones((3, 5), bool)
CALLS = {
    "gelu": lambda t: F.gelu(floats(4, dtype=t)),
    "linear_gelu": lambda t: F.linear_gelu(floats(2, 4, dtype=t), floats(3, 4, dtype=t)),
    "layer_norm": lambda t: F.layer_norm(floats(2, 4, dtype=t), 4, floats(4, dtype=t)),
    "rms_norm": lambda t: F.rms_norm(floats(2, 4, dtype=t), 4, floats(4, dtype=t)),
    "rotary_embedding": lambda t: F.rotary_embedding(
        floats(3, 4, dtype=t), floats(3, 2, dtype=t), floats(3, 2, dtype=t)
    ),
    "embedding": lambda t: F.embedding(to_device(TARGETS, "cuda"), floats(3, 4, dtype=t)),
    "swiglu": lambda t: F.swiglu(floats(4, dtype=t), floats(4, dtype=t)),
    "dropout": lambda t: F.dropout(floats(2, 4, dtype=t), 0.5),
    "cross_entropy": lambda t: F.cross_entropy(floats(2, 4, dtype=t), to_device(TARGETS, "cuda")),
    "linear_cross_entropy": lambda t: F.linear_cross_entropy(
        floats(2, 4, dtype=t), floats(3, 4, dtype=t), to_device(TARGETS, "cuda")
    ),
    "optimizers": optimize,
    "attention": lambda t: attend(t, 3),
    "attention, causal": lambda t: attend(t, 3, is_causal=True),
    "attention, dropout": lambda t: attend(t, 3, dropout_p=0.5),
    "attention, mask": lambda t: attend(t, 3, attn_mask=Tensor(MASK, device="cuda")),
    "attention, one query": decode,
    "attention, one query, mask": lambda t: decode(t, attn_mask=Tensor(MASK[:1], device="cuda")),
}


@pytest.fixture
def sources(monkeypatch):
    """What was launched while the test ran, complete, by the kernel's name and dtype."""
    launched: dict[str, str] = {}

    def note(xp, source, name, dtype):
        launched[launch.full_source(source, dtype)] = f"{name} of {dtype}"
        return lambda grid, block, args, shared_mem: None

    monkeypatch.setattr(launch, "compiled", note)
    with np.errstate(all="ignore"):  # nothing writes results
        yield launched


def check(sources):
    """All sources compile without a word for both GPUs, and what is float is not computed in double."""
    if not compiling.available():
        if os.environ.get("MINIGRAD_REQUIRE_ORACLE") == "1":
            pytest.fail("MINIGRAD_REQUIRE_ORACLE is set, and there is no nvcc and no package nvidia-cuda-nvrtc")
        pytest.skip("needs nvcc or the package nvidia-cuda-nvrtc")
    assert sources
    for source, name in sources.items():
        for architecture in ("sm_80", "sm_90"):
            said, ptx = compiling.compile_for(architecture, source)
            assert said == "", f"{name} for {architecture}: {said}"
            assert ".entry" in ptx
            # Many times as slow as float, and easily there: `0.5 * x` is a product of doubles.
            assert ("float64" in name) or ".f64" not in ptx, f"{name} computes in double precision"


@pytest.mark.parametrize("call", CALLS)
def test_kernels_compile(call, sources):
    for dtype in DTYPES:
        with use_kernels("fast"):
            out = CALLS[call](dtype)
            if out is not None and out.requires_grad:
                out.sum().backward()
    check(sources)


@pytest.mark.parametrize("call", [call for call in CALLS if call != "optimizers"])
def test_kernels_compile_for_bfloat16(call, sources):
    with use_kernels("fast"), autocast("bfloat16"):
        out = CALLS[call](np.float32)
        if out.requires_grad:
            out.sum().backward()
    if sources:  # a product alone is cuBLAS's business
        check(sources)


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
def test_kernels_for_quantized_weights_compile(weight, sources):
    weight = QUANTIZED[weight]()
    for rows in (1, MOST_ROWS):
        times_quantized(zeros(rows, weight.shape[1]), weight)
    if isinstance(weight, QuantizedMatrix):
        for dtype in (np.float32, bfloat16()):
            dequantize(weight, dtype)
    check(sources)


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


def test_every_op_with_a_kernel_is_called():
    called = {call.split(",")[0] for call in CALLS}
    without_a_kernel_of_ours = {"linear"}  # cuBLAS does it
    ops = {op.replace("scaled_dot_product_attention", "attention") for op in CUDA}
    assert ops - called == without_a_kernel_of_ours


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [("x[0] = y;", "identifier"), ("int unused = 1;", "never referenced"), ("x[0] = 0.1 * x[0];", "double precision")],
)
def test_a_faulty_source_is_noticed(statement, complaint, sources):
    x = to_device(np.zeros(1, np.float32), "cuda")
    launch.launch(f'extern "C" __global__ void faulty(float* x) {{ {statement} }}', "faulty", x, 1, 1, [x])
    with pytest.raises(AssertionError, match=complaint):
        check(sources)
