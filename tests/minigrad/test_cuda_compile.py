"""Every CUDA kernel compiles for the GPUs that both CUDA 12 and CUDA 13 support, by the compiler that CuPy uses.

A kernel's source is complete only when it is launched, as what launches it writes the types and constants in front. So
each op is called once, with a launch that notes the source and computes nothing.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from minigrad import autocast
from minigrad.backend import to_device
from minigrad.kernels import cuda
from minigrad.kernels.cuda import CUDA, launch
from tests.cuda_emulation import compiling
from tests.helpers import skip_or_fail
from tests.minigrad.kernel_checks import ATTENTION, run
from tests.minigrad.test_cuda_kernels import KERNELS

pytestmark = pytest.mark.usefixtures("cuda")
# Turing, A100, other Amperes, Ada, H100, and the two kinds of Blackwell: data centers' and GeForce. `make test` takes
# the oldest and the newest.
ARCHITECTURES = ["sm_75", *(pytest.param(f"sm_{n}", marks=pytest.mark.slow) for n in (80, 86, 89, 90, 100)), "sm_120"]
# op -> samples of all its kernels. cuBLAS does `linear`.
CALLS = {op: [sample for sample in KERNELS.values() if sample[0] == op] for op in CUDA if op != "linear"}
CALLS["scaled_dot_product_attention"] = [ATTENTION["padding"]]


def call(op, dtype):
    for sample in CALLS[op]:
        run(sample, "fast", "cuda", dtype)


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


# A column: there are fewer than 2^31.
SMALL_PLACES = {"blockIdx.x * 32 + lane"}


def test_places_in_large_arrays_are_counted_in_64_bits():
    """No test is large enough to count beyond 2^31, so this looks for products that could: block times size."""
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(cuda.__file__).parent.glob("*.py"))}
    found = [
        (name, product.strip())
        for name, source in sources.items()
        for product in re.findall(r"(?:\(long long\))?blockIdx\.[xyz] \* [^;,\]]*", source)
    ]
    assert len(found) > 5
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
