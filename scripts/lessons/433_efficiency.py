"""Lesson 4.3.3: scaling and efficiency, or where the time and the memory go

Is it the arithmetic that takes the time, or fetching the numbers? The answer explains bfloat16, the KV cache and flash
attention, each of which is built or measured here. At the end: how large a model a budget is worth.
Williams et al. 2009 (roofline); Kalamkar et al. 2019 (bfloat16); Dao et al. 2022 (flash attention);
Kaplan et al. 2020 and Hoffmann et al. 2022 (scaling laws).
"""

from __future__ import annotations

import time

import numpy as np

import minigrad as mg
import minigrad.functional as F
from gpt import GPTConfig, KVCache, accounting
from minigrad import Tensor
from minigrad.inspection import profile
from minigrad.precision import round_bfloat16
from scripts.lessons.pictures import Lesson
from scripts.lessons.small_gpt import english, new_gpt, train, validation_loss

lesson = Lesson("433_efficiency", __doc__)
rng = np.random.default_rng(0)

# %% The kitchen and the delivery
ridge = accounting.ridge_point(312e12, 2e12)
assert ridge == 156
print(f"an A100 does 312 TFLOP/s and fetches 2 TB/s (published figures): {ridge:.0f} FLOPs in the time of one byte")
for rows in (1, 1024):
    intensity = accounting.matmul_intensity(rows, 768, 768, "bfloat16")
    verdict = "waits for memory" if intensity < ridge else "computes"
    print(f"  a layer 768 -> 768 on {rows:4} token(s): {intensity:6.1f} FLOPs per byte: {verdict}")
assert (
    accounting.matmul_intensity(1, 768, 768, "bfloat16")
    < ridge
    < accounting.matmul_intensity(1024, 768, 768, "bfloat16")
)


def fastest(job: object, repeats: int = 5) -> float:
    """Seconds of the quickest of some runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        job()  # type: ignore[operator]
        times.append(time.perf_counter() - started)
    return min(times)


square, large, out = (
    rng.standard_normal((1024, 1024)).astype(np.float32),
    np.ones(2**24, np.float32),
    np.empty(2**24, np.float32),
)
peak = 2 * 1024**3 / fastest(lambda: square @ square)  # FLOP/s of one core, by a matrix product
bandwidth = 2 * large.nbytes / fastest(lambda: np.copyto(out, large))  # bytes/s, by copying
print(f"this machine, one core: {peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.0f} GB/s: {peak / bandwidth:.1f}")

model = new_gpt(512, n_embd=128, block_size=128)
batch = rng.integers(0, 512, (4, 129))
with profile() as report:
    model.loss(batch[:, :-1], batch[:, 1:]).backward()
rows_ = [r for r in report.rows if r.intensity and r.gflops_per_second]
with lesson.picture(
    "roofline", "Roofline of a training step (2 layers, 128 wide, 4 x 128 tokens; one core)", size=(8, 4.8)
) as axes:
    x = np.logspace(-2, 3, 100)
    axes.loglog(x, np.minimum(peak, x * bandwidth) / 1e9, color="black", label="the roof: bandwidth, then arithmetic")
    for r in sorted(rows_, key=lambda r: -r.nanoseconds)[:10]:
        axes.plot(r.intensity, r.gflops_per_second, "o", color="0.5")
        place = (r.intensity, r.gflops_per_second)
        side = {"ha": "left", "xytext": (6, -2)} if r.phase == "forward" else {"ha": "right", "xytext": (-6, -2)}
        axes.annotate(f"{r.op} {r.phase}", place, textcoords="offset points", fontsize=7, **side)
    axes.set(xlabel="arithmetic intensity (FLOPs per byte)", ylabel="speed (GFLOP/s)")
    axes.legend(frameon=False, loc="lower right")

# %% bfloat16
value = np.array([3.14159265, 1e-30, 1e30], np.float32)
print(f"float32  {value}\nbfloat16 {round_bfloat16(value)} (float16 would make 0 and inf of the last two)")
with np.errstate(over="ignore"):
    assert value.astype(np.float16)[1] == 0 and np.isinf(value.astype(np.float16)[2])
weight = np.array([1.0], np.float32)
in_bfloat16 = in_float32 = weight
for _ in range(100):
    in_bfloat16 = round_bfloat16(in_bfloat16 + np.float32(1e-3))
    in_float32 = in_float32 + np.float32(1e-3)
print(f"100 steps of 0.001 from 1: float32 {in_float32[0]:.3f}, bfloat16 {in_bfloat16[0]:.3f}, whose next is 1.0078")
assert in_bfloat16[0] == 1 and abs(in_float32[0] - 1.1) < 1e-4
print("so products are bfloat16 and the weights, which add up small steps, stay float32 ('master weights')")
tokenizer, train_ids, val_ids = english()
curves = {}
for precision in ("float32", "bfloat16"):
    curves[precision] = train(new_gpt(512), train_ids, 150, precision=precision)
    print(f"  150 steps with products in {precision:8}: loss {np.mean(curves[precision][-15:]):.3f}")
assert abs(np.mean(curves["float32"][-15:]) - np.mean(curves["bfloat16"][-15:])) < 0.15

# %% The KV cache
read = {
    n: (accounting.tokens_read(10, n, cached=False), accounting.tokens_read(10, n, cached=True)) for n in (100, 1000)
}
for n, (without, with_) in read.items():
    print(f"{n:5} new tokens after 10: {without:7,} tokens read without, {with_:5,} with: {without / with_:.0f} times")
assert [round(a / b) for a, b in read.values()] == [55, 505]  # the course: 55 and 500
model = new_gpt(512, n_layer=4, n_embd=128, block_size=160)
seconds, texts = {}, {}
for cached in (False, True):
    started = time.perf_counter()
    texts[cached] = model.generate([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]], 140, temperature=0, use_cache=cached)
    seconds[cached] = time.perf_counter() - started
assert texts[True] == texts[False]
print(f"140 tokens, 4 layers, 128 wide: {seconds[False]:.2f} s without, {seconds[True]:.2f} s with; the same tokens")
config = GPTConfig()
per_token = accounting.kv_cache_bytes(config, 1, 1, "bfloat16")
print(f"the price: 2 x 12 layers x 768 x 2 bytes = {per_token:,} bytes per token (GPT-2, bfloat16)")
assert per_token == 2 * 12 * 768 * 2
cache = KVCache.for_model(model, batch=1)
assert sum(a.nbytes for a in [*cache.keys, *cache.values]) == accounting.kv_cache_bytes(model.config, 1, 160)
with lesson.picture("kv-cache", "What the KV cache saves and costs", columns=2, size=(10, 3.8)) as (left, right):
    n = np.arange(1, 1001)
    left.plot(
        n, [accounting.tokens_read(10, int(i), False) / 1e3 for i in n], "-", color="black", label="without: n² / 2"
    )
    left.plot(n, [accounting.tokens_read(10, int(i), True) / 1e3 for i in n], "--", color="black", label="with: n")
    left.set(xlabel="new tokens n", ylabel="tokens read (thousands)")
    left.legend(frameon=False)
    for name, line in (("gpt2", "-"), ("gpt2-medium", "--"), ("gpt2-xl", ":")):
        sizes = [accounting.kv_cache_bytes(GPTConfig.preset(name), 1, int(i), "bfloat16") / 1e6 for i in n]
        right.plot(n, sizes, line, color="black", label=name)
    right.set(xlabel="tokens in the text", ylabel="cache (MB, bfloat16)")
    right.legend(frameon=False)

# %% Flash attention

def tiled(q: np.ndarray, k: np.ndarray, v: np.ndarray, tile: int = 16) -> np.ndarray:
    """softmax(q k^T / sqrt(D)) v, a tile of keys at a time, with a running maximum and a running sum per query."""
    out, largest, total = np.zeros_like(q), np.full((len(q), 1), -np.inf), np.zeros((len(q), 1))
    for start in range(0, len(k), tile):
        scores = q @ k[start : start + tile].T / np.sqrt(q.shape[1])  # (T, tile) is all that there ever is
        new_largest = np.maximum(largest, scores.max(axis=1, keepdims=True))
        shrink, exps = np.exp(largest - new_largest), np.exp(scores - new_largest)
        out = out * shrink + exps @ v[start : start + tile]  # what was summed relative to a smaller maximum shrinks
        total = total * shrink + exps.sum(axis=1, keepdims=True)
        largest = new_largest
    return out / total


q, k, v = rng.standard_normal((3, 64, 8))
difference = np.abs(tiled(q, k, v) - F.scaled_dot_product_attention(Tensor(q), Tensor(k), Tensor(v)).data).max()
print(f"tiles of 16 keys, or all 64 at once: they differ by {difference:.0e}")
assert difference < 1e-12
whole, tiles = accounting.attention_bytes(12, 4096), accounting.attention_bytes(12, 4096, tiled=True)
print(
    f"4,096 tokens, 12 heads, bfloat16: {whole / 2**20:.0f} MB of weights a layer, or {tiles / 2**10:.0f} KB in tiles"
)
assert (whole, tiles) == (384 * 2**20, 384 * 2**10)
memory = {}
for kernels in ("textbook", "fast"):
    mg.use_kernels(kernels)
    with mg.inspection.memory() as held:
        x = Tensor(rng.standard_normal((1, 4, 512, 16)).astype(np.float32), requires_grad=True)
        y = F.scaled_dot_product_attention(x, x, x, is_causal=True)
        memory[kernels] = held.current
    del x, y
mg.use_kernels("textbook")
print(f"held for backward by attention on 4 heads x 512 tokens: textbook {memory['textbook'] / 1e6:.1f} MB, "
      f"tiled {memory['fast'] / 1e6:.2f} MB")  # fmt: skip
assert memory["fast"] < memory["textbook"] / 5

# %% Scaling laws
for budget in (1e18, 1e20, 5.76e23):
    N, D = accounting.chinchilla_optimal(budget)
    print(f"  {budget:.0e} FLOPs: {N / 1e6:12,.0f}M parameters, {D / 1e9:10,.1f}B tokens (Hoffmann et al. 2022)")
assert np.isclose(accounting.chinchilla_optimal(4e20)[0], 2 * accounting.chinchilla_optimal(1e20)[0])  # sqrt(C)
gopher, chinchilla = accounting.chinchilla_loss(280e9, 300e9), accounting.chinchilla_loss(70e9, 1.4e12)
print(f"their fit: Gopher (280B parameters, 300B tokens) {gopher:.3f}, Chinchilla (70B, 1,400B) {chinchilla:.3f}")
assert chinchilla < gopher
assert np.isclose(accounting.compute_loss(1e21) / accounting.compute_loss(1e20), 10**-0.05)
print(f"L ~ C^-0.05 (Kaplan et al. 2020): ten times the compute takes {1 - 10**-0.05:.0%} off the loss")

ours: dict[int, list[float]] = {}
for width in (16, 32, 64):
    for seed in (0, 1, 2):
        small = new_gpt(512, seed=seed, n_embd=width, block_size=16)
        train(small, train_ids, 200)
        ours.setdefault(small.num_parameters(), []).append(validation_loss(small, val_ids, 2048))
print("our own, 2 layers, 200 steps of 256 tokens, three seeds each:")
for N, found in ours.items():
    print(f"  {N:7,} parameters: loss {np.mean(found):.3f} +- {np.std(found, ddof=1):.3f}")
print("larger is better, as far as 51,200 tokens go; three sizes are no law, and none is fitted")
with lesson.picture("scaling", "Published laws, and our three small sizes", columns=2, size=(10, 3.8)) as (left, right):
    flops = np.logspace(17, 24, 50)
    left.loglog(flops, [accounting.chinchilla_optimal(c)[0] for c in flops], "-", color="black", label="parameters")
    left.loglog(flops, [accounting.chinchilla_optimal(c)[1] for c in flops], "--", color="black", label="tokens")
    left.set(xlabel="training budget (FLOPs)", ylabel="how many", title="best use of a budget (Hoffmann et al.)")
    left.legend(frameon=False)
    for N, found in ours.items():
        right.semilogx([N] * 3, found, "o", color="0.5")
        right.plot(N, np.mean(found), "_", color="black", markersize=20)
    right.set(xlabel="parameters", ylabel="validation loss (nats per token)", title="ours: three seeds and their mean")

# %% [markdown]
# ## What next
#
# - read: minigrad/kernels/cpu/attention.py: tiles with their backward; gpt/model/kv_cache.py; gpt/accounting.py
# - try: `python scripts/benchmark.py`: the fast kernels beside PyTorch
# - break: the line `out = out * shrink ...` above: leave out shrink
# - lesson: `python scripts/lesson.py 434`
