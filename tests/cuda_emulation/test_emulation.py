"""The emulation of CUDA itself: right kernels give the right numbers, and each kind of fault is found and named."""

import gc

import numpy as np
import pytest

from tests.cuda_emulation.run import KernelError, launch, remember

pytestmark = pytest.mark.emulation

SOURCE = r"""
extern "C" __global__ void where_am_i(int* out) {
    int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}

extern "C" __global__ void counted_without_a_start(float* out) {
    __shared__ int count;
    if (threadIdx.x == 0) count += 3;
    __syncthreads();
    out[threadIdx.x] = count;
}

extern "C" __global__ void reversed(const float* x, float* out, int n) {
    extern __shared__ float all[];
    all[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = all[n - 1 - threadIdx.x];
}

extern "C" __global__ void reversed_without_barrier(const float* x, float* out, int n) {
    __shared__ float all[64];
    all[threadIdx.x] = x[threadIdx.x];
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

extern "C" __global__ void shuffles(const int* x, int* out) {
    int lane = threadIdx.x, v = x[lane];
    out[lane] = __shfl_down_sync(0xffffffff, v, 3) + 100 * __shfl_up_sync(0xffffffff, v, 1)
              + 10000 * __shfl_sync(0xffffffff, v, 5) + 1000000 * __popc(__ballot_sync(0xffffffff, v % 2));
}

extern "C" __global__ void half_a_warp(float* x) {
    if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(0xffff, x[threadIdx.x], 1);
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

extern "C" __global__ void blocks_in_a_row(float* x) { x[blockIdx.x + 1] = x[blockIdx.x] + 1; }

extern "C" __global__ void count(int* counter, float* sum) {
    atomicAdd(counter, 1);
    atomicAdd(sum, 0.1f * (1 + threadIdx.x));
}

extern "C" __global__ void remainder_by(int* x, int n) { x[0] = 7 % n; }

extern "C" __global__ void add_one_to_each(float* const* arrays, const long long* sizes) {
    for (int i = threadIdx.x; i < sizes[blockIdx.x]; i += blockDim.x) arrays[blockIdx.x][i] += 1;
}
"""
X = np.arange(1, 65, dtype=np.float32)


def run(name, *args, grid=1, block=64, shared_mem=0):
    launch(SOURCE, name, grid, block, args, shared_mem)


def i32(n):
    return np.int32(n)


def test_threads_and_blocks_know_where_they_are():
    out = np.zeros((2 * 3 * 2, 4 * 2 * 3), np.int32)
    run("where_am_i", out, grid=(2, 3, 2), block=(4, 2, 3))
    np.testing.assert_array_equal(out, 1000 * np.arange(12)[:, None] + np.arange(24))


def test_shared_memory_and_barriers():
    out = np.zeros_like(X)
    run("reversed", X, out, i32(64), shared_mem=4 * 64)
    np.testing.assert_array_equal(out, X[::-1])
    with pytest.raises(KernelError, match="beside its 252 bytes of shared memory"):
        run("reversed", X, out, i32(64), shared_mem=4 * 63)
    with pytest.raises(KernelError, match="a race"):
        run("reversed_without_barrier", X, out, i32(64))


def test_a_warp_may_run_ahead():
    out = np.zeros_like(X)
    run("two_sums", X, out, i32(1))
    assert (out == 3 * X.sum()).all()
    with pytest.raises(KernelError, match="a race"):
        run("two_sums", X, out, i32(0))


def test_lanes_read_each_other():
    x, out = np.arange(32, dtype=np.int32) % 7, np.zeros(32, np.int32)
    run("shuffles", x, out, block=32)
    down, up = np.append(x[3:], x[-3:]), np.append(x[:1], x[:-1])
    np.testing.assert_array_equal(out, down + 100 * up + 10000 * x[5] + 1000000 * (x % 2).sum())
    half = X.copy()
    run("half_a_warp", half, block=32)
    np.testing.assert_array_equal(half[:16], X[:16].reshape(8, 2)[:, ::-1].reshape(-1))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("waits_for_lanes_that_ended", "waits for a lane of its warp that has ended"),
        (
            "barrier_in_a_branch",
            r"not all threads of the block reach the same barrier \(thread 32,0,0 of block 0,0,0\)",
        ),
    ],
)
def test_who_waits_in_vain_is_named(name, complaint):
    with pytest.raises(KernelError, match=complaint):
        run(name, X.copy())


@pytest.mark.parametrize("n", [1, 63, 64, 1024])  # a page is 1024 floats
def test_memory_outside_of_an_array_is_not_touched(n):
    x, out = np.arange(n, dtype=np.float32), np.zeros(n, np.float32)
    run("copy", x, out, i32(0), i32(n))
    np.testing.assert_array_equal(out, x)
    with pytest.raises(KernelError, match=f"in none of the arrays .*, at element {n} of an array"):
        run("copy", x, out, i32(0), i32(n + 1), block=1)
    with pytest.raises(KernelError, match="in none of the arrays .*, at element -1 of an array"):
        run("copy", x, out, i32(-1), i32(n))
    with pytest.raises(KernelError):
        run("write_after_everything", out, i32(n + 3))


def test_faults_leave_the_arrays_and_the_process_as_they_were():
    out = np.zeros(8, np.float32)
    for _ in range(3):
        with pytest.raises(KernelError):
            run("copy", X[:8], out, i32(0), i32(2000))
    assert (out == 0).all()


VECTORS = r"""
extern "C" __global__ void first_four(const float* x, float* out) { *(float4*)out = *(const float4*)x; }

extern "C" __global__ void one_too_many(const float* x, float* out) {
    float4 unused = *(const float4*)x;
    out[0] = x[7] + 0 * unused.x;
}
"""


@pytest.mark.parametrize("kernel", ["uninitialized", "counted_without_a_start"])
def test_shared_memory_that_nobody_wrote_is_not_read(kernel):
    with pytest.raises(KernelError, match="memory that nobody wrote"):
        run(kernel, np.zeros(64, np.float32))


def test_a_float4_is_read_where_a_gpu_can_read_it():
    x = np.arange(24, dtype=np.float32)
    out = np.zeros(4, np.float32)
    launch(VECTORS, "first_four", 1, 1, (x[4:], out))
    assert (out == [4, 5, 6, 7]).all()
    with pytest.raises(KernelError, match="no multiple of the size"):
        launch(VECTORS, "first_four", 1, 1, (x[1:], out))


def test_what_is_read_a_few_bytes_beyond_an_array_is_noticed():
    with pytest.raises(KernelError):  # a float4 needs room up to a multiple of 16 bytes: no forbidden page is near
        launch(VECTORS, "one_too_many", 1, 1, (np.zeros(7, np.float32), np.zeros(4, np.float32)))


def test_a_variable_without_a_value_is_noticed():
    source = """extern "C" __global__ void total(const float* x, float* out, int n) {
        float sum;
        if (n > 9) sum = 0;
        for (int i = 0; i < n; i++) sum += x[i];
        out[0] = sum;
    }"""
    with pytest.raises(KernelError, match="sum.* may be used uninitialized"):
        launch(source, "total", 1, 1, (X[:8], np.zeros(1, np.float32), i32(8)))


def test_blocks_know_nothing_of_each_other():
    with pytest.raises(KernelError, match="a race"):
        run("blocks_in_a_row", np.zeros(6, np.float32), grid=5, block=1)


def test_atomics_add_in_any_order():
    counter, total = np.zeros(1, np.int32), np.zeros(1, np.float32)
    run("count", counter, total, grid=3)
    assert counter[0] == 192
    np.testing.assert_allclose(total, 3 * 0.1 * X.sum(), rtol=1e-5)


def test_division_by_zero():
    with pytest.raises(KernelError, match="division of an integer by 0"):
        run("remainder_by", np.zeros(1, np.int32), i32(0))


def test_arrays_that_share_memory_still_share_it():
    whole = np.arange(8, dtype=np.float32)
    run("copy", whole[:6], whole[4:], i32(0), i32(4), block=32)
    np.testing.assert_array_equal(whole, [0, 1, 2, 3, 0, 1, 2, 3])
    with pytest.raises(KernelError, match="a race"):  # what is read has been written before, or not
        run("copy", whole[:6], whole[1:], i32(0), i32(4), block=32)


def test_tables_of_addresses():
    arrays = [np.zeros(n, np.float32) for n in (3, 0, 40)]
    for array in arrays:
        remember(array)
    table, sizes = (np.array(x, np.int64) for x in ([a.ctypes.data for a in arrays], [a.size for a in arrays]))
    run("add_one_to_each", table, sizes, grid=3)
    assert all((array == 1).all() for array in arrays)
    with pytest.raises(KernelError, match="in none of the arrays"):
        run("add_one_to_each", table, sizes + 1, grid=3)
    del arrays, array
    gc.collect()
    with pytest.raises(KernelError, match="where no array is, or is any more"):
        run("add_one_to_each", table, sizes, grid=3)


@pytest.mark.parametrize(
    ("args", "error", "complaint"),
    [
        ((X, X.copy(), i32(0)), TypeError, "takes 4 arguments, got 3"),
        ((X, X.copy(), i32(0), 64), TypeError, "int for the parameter 'int to'"),
        ((X, X.copy(), i32(0), np.int64(64)), TypeError, "int64 for the parameter 'int to', which takes"),
        ((X, X.copy(), i32(0), X), TypeError, "ndarray for the parameter 'int to'"),
        ((X, X.astype(float), i32(0), i32(64)), TypeError, r"float64 for the parameter 'float\* out', which takes"),
    ],
)
def test_arguments_are_checked(args, error, complaint):
    with pytest.raises(error, match=complaint):
        run("copy", *args)


@pytest.mark.parametrize(("grid", "block"), [(0, 1), ((1, 65536), 1), (1, 0), (1, 2048), (1, (32, 33))])
def test_what_cuda_would_not_launch(grid, block):
    with pytest.raises(ValueError):
        run("write_after_everything", X.copy(), i32(0), grid=grid, block=block)


def test_a_source_that_does_not_compile_says_why():
    with pytest.raises(KernelError, match="kernel.cu:1:.*y.* was not declared"):
        launch('extern "C" __global__ void k(float* x) { x[0] = y; }', "k", (1,), (1,), (X.copy(),))
    with pytest.raises(KernelError, match="the source has no kernel missing"):
        launch(SOURCE, "missing", (1,), (1,), ())
