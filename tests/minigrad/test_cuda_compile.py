"""Every CUDA kernel compiles for the GPUs that both CUDA 12 and CUDA 13 support, by the compiler that CuPy uses."""

import re
from pathlib import Path

import pytest

from minigrad.kernels import cuda
from minigrad.kernels.cuda import attention, cross_entropy, layer_norm
from minigrad.kernels.cuda.launch import TYPES, full_source
from tests.cuda_emulation import compiling
from tests.helpers import skip_or_fail

# Turing, A100, other Amperes, Ada, H100, and the two kinds of Blackwell: data centers' and GeForce. `make test` takes
# the oldest and the newest.
ARCHITECTURES = ["sm_75", *(pytest.param(f"sm_{n}", marks=pytest.mark.slow) for n in (80, 86, 89, 90, 100)), "sm_120"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("module", [attention, cross_entropy, layer_norm])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile(architecture, module, dtype):
    """Without a word; and what is float is not computed in double."""
    if not compiling.available():
        skip_or_fail("needs the package nvidia-cuda-nvrtc")
    said, ptx = compiling.compile_for(architecture, full_source(module.SOURCE, dtype))
    assert said == "" and ".entry" in ptx, said
    # Many times as slow as float, and easily there: `0.5 * x` is a product of doubles.
    assert dtype == "float64" or ".f64" not in ptx, "a kernel computes in double precision"


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
