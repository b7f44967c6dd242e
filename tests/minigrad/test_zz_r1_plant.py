import numpy as np, pytest
from minigrad.kernels.cuda import gelu, layer_norm, launch, quantized, attention, adam, cross_entropy, one_query
from tests.minigrad import test_cuda_kernels as K, test_cuda_attention as A
from tests.cuda_emulation.run import KernelError
pytestmark = [pytest.mark.emulation, pytest.mark.usefixtures("cuda")]
PLANT = {
 "last element not written": (gelu, "if (i >= size) return;", "if (i >= size - 1) return;", "gelu 33"),
 "shared memory not written by idle warps": (layer_norm, "    products[warp][lane] = product, sums[warp][lane] = sum;", "    if (start + warp < stop) products[warp][lane] = product, sums[warp][lane] = sum;", "layer_norm 33"),
 "sum not started": (layer_norm, "real product = 0, sum = 0;", "real product, sum = 0; if (start + warp < stop) product = 0;", "layer_norm 33"),
 "index in 32 bits": (cross_entropy, "blockIdx.x * (long long)line", "blockIdx.x * line", "cross_entropy 33"),
 "first barrier of block_sum": (launch, "    __syncthreads();  // nobody reads the results of the call before any more\n", "", "cross_entropy 1025"),
 "all lanes but 0 return before a shuffle": (layer_norm, "    if (lane == 0) mean[row] = m", "    if (lane > 0) return; m = warp_sum(m) / 32; if (lane == 0) mean[row] = m", "layer_norm 33"),
 "reads a row too far": (layer_norm, "for (int c = lane; c < columns; c += 32) m += load(x, first + c);", "for (int c = lane; c <= columns; c += 32) m += load(x, first + c);", "layer_norm 33"),
}
@pytest.mark.parametrize("fault", PLANT)
def test_plant(fault, monkeypatch):
    module, old, new, case = PLANT[fault]
    name = "PRELUDE" if module is launch else "SOURCE"
    src = getattr(module, name); assert old in src
    monkeypatch.setattr(module, name, src.replace(old, new)); launch.compiled.cache_clear()
    try:
        with pytest.raises((AssertionError, KernelError)) as e:
            K.test_a_kernel_equals_the_textbook(case, np.float64)
        print("\nFOUND", fault, "|", str(e.value).strip()[:110].replace("\n", " "))
    finally: launch.compiled.cache_clear()
