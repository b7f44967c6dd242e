"""The emulation of CUDA itself: right kernels give the right numbers, and each kind of fault is found and named."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.cuda_emulation.run import KernelError, launch

pytestmark = pytest.mark.emulation

SOURCE = r"""
extern "C" __global__ void where_am_i(int* out) {
    int block = blockIdx.x + gridDim.x * blockIdx.y;
    out[block * blockDim.x + threadIdx.x] = 1000 * block + threadIdx.x;
}

extern "C" __global__ void reversed(const float* x, float* out, int n, int careful) {
    __shared__ float all[64];
    all[threadIdx.x] = x[threadIdx.x];
    if (careful) __syncthreads();
    out[threadIdx.x] = all[n - 1 - threadIdx.x];
}

// Two sums in a row through the same shared memory. Without a barrier between them, a warp that is ahead overwrites
// what one that is behind has not read yet.
__device__ float sum_of_block(float x, bool careful) {
    __shared__ float of_warp[2];
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffff, x, distance);
    if (careful) __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    return of_warp[0] + of_warp[1];
}
extern "C" __global__ void two_sums(const float* x, float* out, int careful) {
    float first = sum_of_block(x[threadIdx.x], careful);
    float second = sum_of_block(2 * x[threadIdx.x], careful);
    out[threadIdx.x] = first + second;
}

extern "C" __global__ void waits_for_lanes_that_ended(float* x) {
    if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(0xffffffff, x[threadIdx.x], 1);
}

extern "C" __global__ void barrier_in_a_branch(float* x) {
    if (threadIdx.x < 32) __syncthreads();
    x[threadIdx.x] = 0;
}

extern "C" __global__ void copy(const float* x, float* out, int from, int to) {
    for (int i = from + threadIdx.x; i < to; i += blockDim.x) out[i] = x[i];
}

extern "C" __global__ void write_after_everything(float* x, int n) { if (threadIdx.x == 0) x[n] = 1; }

extern "C" __global__ void uninitialized(float* out) {
    __shared__ float never[64];
    out[threadIdx.x] = never[threadIdx.x];
}

extern "C" __global__ void counted_without_a_start(float* out) {
    __shared__ int count;
    if (threadIdx.x == 0) count += 3;
    __syncthreads();
    out[threadIdx.x] = count;
}

extern "C" __global__ void blocks_in_a_row(float* x) { x[blockIdx.x + 1] = x[blockIdx.x] + 1; }

extern "C" __global__ void remainder_by(int* x, int n) { x[0] = 7 % n; }
"""
X = np.arange(1, 65, dtype=np.float32)


def run(name, *args, grid=(1,), block=64):
    launch(SOURCE, name, grid, block, [np.int32(arg) if isinstance(arg, int) else arg for arg in args])


def test_threads_and_blocks_know_where_they_are():
    out = np.zeros((6, 8), np.int32)
    run("where_am_i", out, grid=(2, 3), block=8)
    assert_array_equal(out, 1000 * np.arange(6)[:, None] + np.arange(8))


def test_barriers_and_lanes_that_read_each_other():
    out = np.zeros_like(X)
    run("reversed", X, out, 64, 1)
    assert_array_equal(out, X[::-1])
    run("two_sums", X, out, 1)
    assert (out == 3 * X.sum()).all()


FAULTS = {  # name -> kernel, arguments, grid, what is said
    "a missing barrier": ("reversed", [X, X.copy(), 64, 0], 1, "a race"),
    "a warp that runs ahead": ("two_sums", [X, X.copy(), 0], 1, "a race"),
    "blocks that wait for each other": ("blocks_in_a_row", [np.zeros(65, np.float32)], 5, "a race"),
    "lanes that ended": ("waits_for_lanes_that_ended", [X.copy()], 1, "waits for a lane of its warp that has ended"),
    "a barrier in a branch": (
        "barrier_in_a_branch",
        [X.copy()],
        1,
        r"not all threads of the block reach the same barrier \(thread 32 of block 0,0\)",
    ),
    "shared memory that nobody wrote": ("uninitialized", [X.copy()], 1, "memory that nobody wrote"),
    "a sum without a start": ("counted_without_a_start", [X.copy()], 1, "memory that nobody wrote"),
    "division": ("remainder_by", [np.zeros(1, np.int32), 0], 1, "division of an integer by 0"),
    "a kernel that is not there": ("missing", [], 1, "the source has no kernel missing"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_kernel_is_named(name):
    kernel, args, grid, words = FAULTS[name]
    with pytest.raises(KernelError, match=words):
        run(kernel, *args, grid=(grid,))


@pytest.mark.parametrize("n", [1, 63, 1024])  # a page is 1024 floats
def test_memory_outside_of_an_array_is_not_touched(n):
    x, out = np.arange(n, dtype=np.float32), np.zeros(n, np.float32)
    run("copy", x, out, 0, n)
    assert_array_equal(out, x)
    with pytest.raises(KernelError, match=f"in none of the arrays .*, at element {n} of an array"):
        run("copy", x, out, 0, n + 1, block=1)
    with pytest.raises(KernelError, match="in none of the arrays .*, at element -1 of an array"):
        run("copy", x, out, -1, n)
    with pytest.raises(KernelError):
        run("write_after_everything", out, n + 3)
    assert_array_equal(out, x)  # faults leave the arrays as they were


def test_a_variable_without_a_value_is_noticed():
    source = """extern "C" __global__ void total(const float* x, float* out, int n) {
        float sum;
        if (n > 9) sum = 0;
        for (int i = 0; i < n; i++) sum += x[i];
        out[0] = sum;
    }"""
    with pytest.raises(KernelError, match="sum.* may be used uninitialized"):
        launch(source, "total", (1,), 1, (X[:8], np.zeros(1, np.float32), np.int32(8)))


@pytest.mark.parametrize(
    "args, complaint",
    [
        ((X, X.copy(), 0), "takes 4 arguments, got 3"),
        ((X, X.copy(), 0, 64.0), "float for the parameter 'int to'"),
        ((X, X.astype(float), 0, 64), r"float64 for the parameter 'float\* out', which takes"),
    ],
)
def test_arguments_are_checked(args, complaint):
    with pytest.raises(TypeError, match=complaint):
        run("copy", *args)
