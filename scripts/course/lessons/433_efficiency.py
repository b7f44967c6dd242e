"""Lesson 4.3.3: scaling and efficiency, or where the time and the memory go

What takes the time: arithmetic, or moving numbers from memory? The answer explains bfloat16, the KV cache, speculative
decoding, continuous batching, activation checkpointing and flash attention. Each is built or measured here, and so is
training on several devices. At the end: how large should a model be for a given budget?
Williams et al. 2009 (roofline); Micikevicius et al. 2018 (loss scaling); Kalamkar et al. 2019 (bfloat16); Leviathan et
al. 2023 and Chen et al. 2023 (speculative decoding); Yu et al. 2022 (continuous batching); Dao et al. 2022 (flash
attention); Rajbhandari et al. 2020 (ZeRO, section 5); Kaplan et al. 2020, Hoffmann et al. 2022 and Besiroglu et al.
2024 (scaling).
"""

import itertools
import time
import timeit

import numpy as np

import minigrad as mg
import minigrad.functional as F
from gpt import GPT, GPTConfig, KVCache, accounting
from gpt.model.generation import Sampling
from gpt.model.speculation import speculate
from gpt.training.forked_team import owners_of
from gpt.training.training_step import accumulated_gradients, language_model_loss
from minigrad import Tensor, nn, optim
from minigrad.inspection import profile
from minigrad.precision import round_bfloat16
from scripts.course.lessons.small_gpt import english, new_gpt, train, validation_loss
from scripts.course.pictures import Lesson

lesson = Lesson("433_efficiency", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% Compute-bound or memory-bound?
# An A100 does 312 TFLOP/s and moves 2 TB/s (published figures). A computation that does fewer FLOPs per byte than the
# quotient waits for memory: more arithmetic units would change nothing.
#
# Predict: a linear layer 768 -> 768, for one token and for 1,024 tokens. Which of them waits for memory?
ridge = accounting.ridge_point(312e12, 2e12)
print(f"312 TFLOP/s / 2 TB/s = {ridge:.0f} FLOPs in the time of one byte")
intensity = {rows: accounting.matmul_intensity(rows, 768, 768, "bfloat16") for rows in (1, 1024)}
for rows, value in intensity.items():
    verdict = "memory-bound" if value < ridge else "compute-bound"
    print(f"  a layer 768 -> 768 on {rows:4} token(s): {value:6.1f} FLOPs per byte: {verdict}")
assert intensity[1] < ridge < intensity[1024]

# %% [markdown]
# Answer: the one token. Every weight is read for a single multiply-add. **The bottleneck is the delivery truck, not the
# chefs.** With 1,024 tokens each weight that was read is used 1,024 times, and the chefs have work.
#
# That was computed. Is it so on this machine? First its two speeds, one at a time; then 64 rows and a matrix of 64 MB,
# which has to come from memory, multiplied one row at a time, 8 at a time, or all together.
#
# Predict: the arithmetic is the same each time. How much faster is it with all rows together?

# %%
square = rng.standard_normal((1024, 1024)).astype(np.float32)
large, out = np.ones(2**24, np.float32), np.empty(2**24, np.float32)
product = min(timeit.repeat(lambda: square @ square, number=1, repeat=5))  # seconds; the fastest of five
copying = min(timeit.repeat(lambda: np.copyto(out, large), number=1, repeat=5))
peak = 2 * 1024**3 / product  # FLOP/s of one core
bandwidth = 2 * large.nbytes / copying  # bytes/s
print(f"this machine, one core: {peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.0f} GB/s: "
      f"{peak / bandwidth:.1f} FLOPs in the time of one byte")  # fmt: skip
weights, seconds = np.ones((4096, 4096), np.float32), {}
for rows in (1, 8, 64):
    x = np.ones((rows, 4096), np.float32)
    seconds[rows] = min(timeit.repeat(lambda x=x: x @ weights, number=64 // rows, repeat=3))
    speed, bound = 2 * 64 * weights.size / seconds[rows], bandwidth * accounting.matmul_intensity(rows, 4096, 4096)
    print(f"  {rows:2} at a time: {1e3 * seconds[rows]:4.0f} ms, {speed / 1e9:5.1f} GFLOP/s "
          f"(memory allows {bound / 1e9:5.1f}, arithmetic {peak / 1e9:5.1f})")  # fmt: skip
if peak > 2 * bandwidth * accounting.matmul_intensity(1, 4096, 4096):  # not in a browser, whose arithmetic is slow
    assert seconds[64] < 0.7 * seconds[1]

# %% [markdown]
# Answer: several times. For a single row the arithmetic units wait: their speed is a fraction of what they can do, and
# near what memory allows. With more rows each weight that was read is used more often, until arithmetic is the bound.
# The smaller of the two bounds is the *roofline*.

# %% Bfloat16: half the bytes, the same range
# A float32 has 1 bit for the sign, 8 for the exponent and 23 for the mantissa; bfloat16 has 1, 8 and 7; float16 has 1,
# 5 and 10.
#
# Predict: what becomes of 2.71828183, 1e-30 and 1e30 in each of the two short formats?
value = np.array([2.71828183, 1e-30, 1e30], np.float32)
with np.errstate(over="ignore"):
    half = value.astype(np.float16)
print(f"float32  {value}\nbfloat16 {round_bfloat16(value)}\nfloat16  {half}")
assert half[1] == 0 and np.isinf(half[2]) and np.allclose(round_bfloat16(value), value, rtol=2**-8)

# %% [markdown]
# Answer: bfloat16 keeps the size of all three and loses digits; float16 keeps more digits of the first, and makes 0 and
# inf of the others. What bfloat16 cannot do is to add a small step: after 1 comes 1.0078.

# %%
in_bfloat16 = in_float32 = np.array([1.0], np.float32)
for _ in range(100):
    in_bfloat16 = round_bfloat16(in_bfloat16 + np.float32(1e-3))
    in_float32 = in_float32 + np.float32(1e-3)
print(f"100 steps of 0.001 from 1: float32 {in_float32[0]:.3f}, bfloat16 {in_bfloat16[0]:.3f}")
assert in_bfloat16[0] == 1 and abs(in_float32[0] - 1.1) < 1e-4

# %% [markdown]
# So matrix products use bfloat16, and the weights, which add up small steps, stay in float32 ("master weights").

# %%
tokenizer, train_ids, val_ids = english()
curves = {}
for precision in ("float32", "bfloat16"):
    trained = new_gpt(512, lesson.seed)
    curves[precision] = train(trained, train_ids, 150, seed=lesson.seed, warmup=75, precision=precision)
    print(f"  150 steps with products in {precision:8}: loss {np.mean(curves[precision][-15:]):.3f}")
assert 0 < abs(np.mean(curves["float32"][-15:]) - np.mean(curves["bfloat16"][-15:])) < 0.05

# %% No loss scaling in bfloat16
# The gradient of a logit is (p - 1 for the right token, else p) / N, for N tokens in the batch. Most p are tiny, and N
# is large. The smallest positive number of float16 is 6e-8. So training in float16 multiplies the loss by a large
# factor and divides the gradients by it before the step; the factor is lowered where something overflows (PyTorch's
# `GradScaler`).
#
# Predict: a model trained for 150 steps, and a batch of 512 tokens, or half a million, as for GPT-2. Which share of the
# logits' gradients becomes 0 in float16, in float16 with a factor of 65,536, and in bfloat16?
inputs, targets = train_ids[:512].reshape(16, 32), train_ids[1:513].reshape(16, 32)
logits = trained(inputs)
logits.retain_grad()
F.cross_entropy(logits.reshape(-1, 512), targets.reshape(-1)).backward()
zeros = {}
for N in (512, 2**19):
    gradients = logits.grad * np.float32(512 / N)  # the mean over N tokens instead of 512
    short = (gradients.astype(np.float16), (gradients * 2**16).astype(np.float16), round_bfloat16(gradients))
    zeros[N] = [float((numbers == 0).mean()) for numbers in short]
    print(f"{N:7,} tokens, sizes {np.abs(gradients).min():.0e} to {np.abs(gradients).max():.0e}; zeros in float16 "
          "{:.1%}, scaled {:.1%}, in bfloat16 {:.1%}".format(*zeros[N]))  # fmt: skip
assert zeros[512][0] < 0.1 and zeros[2**19][0] > 0.5 and zeros[2**19][1] < 0.1 and zeros[2**19][2] == 0

# %% [markdown]
# Answer: few in the small batch and most in the large one, almost none with the factor, and none in bfloat16. It has
# the range of float32, so nothing has to be scaled: **no `GradScaler` is needed in bfloat16**.

# %% The KV cache: keep the keys and values of earlier tokens
# Without a cache, the whole text is read again for every new token.
#
# Predict: a prompt of 10 tokens is continued by 1,000. How many times fewer tokens are read with a cache?
read = {n: [accounting.tokens_read(10, n, cached) for cached in (False, True)] for n in (100, 1000)}
for n, (without, with_) in read.items():
    print(f"{n:5} new tokens after 10: {without:7,} tokens read without, {with_:5,} with: {without / with_:.0f} times")
assert [round(a / b) for a, b in read.values()] == [55, 505]

# %%
# The keys and values of a token never change, because it sees earlier tokens only. So the logits must be the same.
ids, cache = train_ids[None, :16], KVCache.for_model(trained)
with mg.no_grad():
    one_by_one = np.concatenate([trained(ids[:, [t]], cache=cache).data for t in range(16)], axis=1)
    differ = np.abs(one_by_one - trained(ids).data).max()
print(f"16 tokens read one at a time with a cache, or all at once: logits differ by {differ:.0e}")
assert differ < 1e-4


# %%
def greedy(model: GPT, prompt: list[int], count: int, cache: KVCache | None) -> list[int]:
    """The prompt and `count` tokens, each the most likely one."""
    text, new = list(prompt), prompt
    with mg.no_grad():
        for _ in range(count):
            logits = model([new], cache).data[0, -1]  # (V)
            text.append(int(logits.argmax()))
            new = text if cache is None else text[-1:]  # what the model has to read next
    return text


model = new_gpt(512, lesson.seed, n_layer=4, n_embd=128, block_size=160)
prompt, seconds, texts = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], {}, {}
for cached in (False, True):
    started = time.perf_counter()
    texts[cached] = greedy(model, prompt, 140, KVCache.for_model(model) if cached else None)
    seconds[cached] = time.perf_counter() - started
assert texts[True] == texts[False] == prompt + model.generate([prompt], 140, temperature=0)[0]
print(f"140 tokens, 4 layers, 128 wide: {seconds[False]:.2f} s without, {seconds[True]:.2f} s with; the same tokens")

# %%
per_token = accounting.kv_cache_bytes(GPTConfig(), 1, 1, "bfloat16")
print(f"the price: 2 x 12 layers x 768 x 2 bytes = {per_token:,} bytes per token (GPT-2, bfloat16)")

# %% [markdown]
# Answer: 505 times. Without a cache it is the sum of 10, 11, 12, ..., which grows with the square of the length.

# %% Speculative decoding: guess several tokens, check them in one pass
# A cache leaves one row per token, and all weights are read from memory for it: the arithmetic units wait. A pass over
# several rows reads the weights once. So guess: if the last three tokens have stood together before, what followed them
# may follow again. The model reads all guesses in one pass and draws its own token after each of them. As long as that
# token equals the guess, the next one counts too. The text is the same, also where tokens are drawn at random: each is
# drawn from the logits after the right tokens before it.
#
# Predict: 200 tokens of a text that soon repeats itself, up to 15 guesses each time. How many passes?


def pass_with_guesses(model: GPT, text: list[int]) -> list[int]:
    """The tokens that one pass adds to a text: the right guesses, and the model's own token after them."""
    places = [i for i in range(len(text) - 3) if text[i : i + 3] == text[-3:]]  # the last three tokens, before
    guesses = text[places[-1] + 3 :][:15] if places else []
    with mg.no_grad():
        logits = model([text + guesses]).data[0, len(text) - 1 :]  # (1 + G, V): after the text, after each of G guesses
    new = []
    for row, guess in zip(logits, [*guesses, None]):
        new.append(int(row.argmax()))
        if new[-1] != guess:
            break  # the model has read a wrong token, so the logits after it are not those of the text
    return new


# The text that the section above wrote, greedily and with a token per pass. It ends early enough for 15 more guesses.
text, count = list(prompt), 0
while len(text) < 140:
    text += pass_with_guesses(model, text)
    count += 1
assert text[:140] == texts[True][:140] == prompt + sum(speculate(model, prompt, 130, Sampling(temperature=0)), [])
print(f"130 tokens of the untrained model above in {count} passes; the same tokens")

# %%
# The library's `speculate` does the same, with a cache. Now the trained model, which reads only 32 tokens at once:
prompt = tokenizer.encode("The name of the file is the name of the file")
passes = list(speculate(trained, prompt, 200, Sampling(temperature=0)))
drawn = sum(speculate(trained, prompt, 60, Sampling(temperature=0.7), seed=0), [])  # at random
assert drawn == trained.generate([prompt], 60, temperature=0.7, seed=0)[0]
print(f"{tokenizer.decode(prompt)!r} goes on: {tokenizer.decode(sum(passes, [])[:40])!r} ...")
print(f"200 tokens in {len(passes)} passes: {[len(tokens) for tokens in passes]}")
assert len(passes) < 150

# %% [markdown]
# Answer: one for each number in the list; the number says how many tokens the pass gave. It depends on how soon the
# text repeats itself. A pass over 16 rows uses each weight that it reads 16 times, so it is hardly slower than one over
# a single row where only memory counts, as on a GPU. On a CPU it takes longer, so only several right guesses in a pass
# pay. After wrong guesses `speculate` waits before it guesses again.
#
# Guessing from the text itself is Saxena's simplification (2023). In the two papers on speculative decoding a small
# model guesses. Its probability of a guess is q, the large model's is p, and the guess is accepted with probability
# min(1, p / q); after a refusal a token is drawn from what p has more than q. More guesses survive, and the tokens are
# still distributed as the large model alone would draw them (Leviathan et al. 2023; Chen et al. 2023).

# %% Continuous batching: no row waits for the longest answer
# A server answers several requests in one batch, because a pass over 8 rows costs hardly more than one over a single
# row. Answers have different lengths. If the batch is filled only when all its answers are complete, finished rows
# wait for the longest one. Continuous batching gives a free row to the next request at once.
#
# Predict: 64 answers of 1 to 200 tokens, about 40 on average, in 8 rows. Which part of the rows' work is useful, with
# each of the two?


def static_steps(lengths: list[int], rows: int) -> int:
    """Passes until all are answered, if a batch is replaced as a whole."""
    return sum(max(lengths[i : i + rows]) for i in range(0, len(lengths), rows))


def continuous_steps(lengths: list[int], rows: int) -> int:
    """Passes until all are answered, if the row that is free first takes the next request."""
    free_at = [0] * rows
    for length in lengths:
        free_at[free_at.index(min(free_at))] += length
    return max(free_at)


# %%
lengths = np.minimum(rng.geometric(1 / 40, 64), 200).tolist()
for name, requests in (("different lengths", lengths), ("all of 40 tokens", [40] * 64)):
    waited, filled = static_steps(requests, 8), continuous_steps(requests, 8)
    useful = [sum(requests) / (8 * steps) for steps in (waited, filled)]
    print(f"{name}: static {waited} passes, {useful[0]:.0%} useful; continuous {filled}, {useful[1]:.0%}")
    assert (filled < 0.8 * waited) == (name == "different lengths") and filled <= waited

# %% [markdown]
# Answer: less than half, and most of it. The control says where the gain comes from: with equal lengths there is none.

# %% Activation checkpointing: compute twice, keep less
# Backward needs what forward computed, so a step keeps the activations of all blocks. With checkpointing a block keeps
# its input only, and runs forward a second time when backward reaches it.
#
# Predict: backward costs two forward passes. How much more arithmetic is it with a third one?
batch = rng.integers(0, 512, (4, 129))
kept, flops, losses, slopes = {}, {}, {}, {}
for name in ("all activations", "inputs of blocks"):
    model = new_gpt(512, lesson.seed, n_layer=8, n_embd=128, block_size=128)
    if name == "inputs of blocks":
        nn.checkpoint_activations(model)
    with mg.inspection.memory() as held, profile() as report:
        loss = model.loss(batch[:, :-1], batch[:, 1:])
        loss.backward()
    kept[name], losses[name], slopes[name] = held.peak, loss.item(), model.transformer.wte.weight.grad
    flops[name] = sum(row.flops for row in report.rows if row.op != "Recompute")
    print(f"  {name}: {kept[name] / 1e6:.1f} MB kept at most, {flops[name] / 1e9:.2f} GFLOP, loss {losses[name]:.6f}")
assert len(set(losses.values())) == 1 and np.array_equal(*slopes.values())  # the same to the last bit
assert kept["inputs of blocks"] < kept["all activations"] / 3
assert 1.2 < flops["inputs of blocks"] / flops["all activations"] < 1.34

# %% [markdown]
# Answer: a third more, less what lies outside the blocks. `python scripts/train.py --checkpoint-activations` does it.

# %% Flash attention: never the whole T x T matrix
# Take a tile of keys at a time, and keep a running maximum and a running sum.
#
# Predict: what changes when attention is computed in tiles, the numbers or the memory?


def tiled(q: np.ndarray, k: np.ndarray, v: np.ndarray, tile: int = 16) -> np.ndarray:
    """softmax(q k^T / sqrt(D)) v of one head, q, k and v (T, D), a tile of keys at a time."""
    m = np.full((len(q), 1), -np.inf)  # of each query, the largest score so far
    l = np.zeros((len(q), 1))  # the sum of e^(score - m) so far
    out = np.zeros_like(q)  # (T, D): the sum of e^(score - m) v so far
    for start in range(0, len(k), tile):
        keys = slice(start, start + tile)
        scores = q @ k[keys].T / np.sqrt(q.shape[1])  # (T, tile): the largest array
        larger = np.maximum(m, scores.max(axis=1, keepdims=True))
        weights = np.exp(scores - larger)  # (T, tile)
        shrink = np.exp(m - larger)  # turns the sums so far into sums of e^(score - larger)
        l = l * shrink + weights.sum(axis=1, keepdims=True)
        out = out * shrink + weights @ v[keys]
        m = larger
    return out / l


q, k, v = rng.standard_normal((3, 64, 8))
for kernels in ("fast", "textbook"):  # the library's tiles; all keys at once
    with mg.use_kernels(kernels):
        library = F.scaled_dot_product_attention(Tensor(q), Tensor(k), Tensor(v)).data
    difference = np.abs(tiled(q, k, v) - library).max()
    assert difference < 1e-12
print(f"tiles of 16 keys and all 64 keys at once differ by {difference:.0e}")

# %%
whole, tiles = accounting.attention_bytes(12, 4096), accounting.attention_bytes(12, 4096, tiled=True)
print(f"4,096 tokens, 12 heads, bfloat16: {whole / 2**20:.0f} MB of weights a layer, {tiles / 2**10:.0f} KB in tiles")
assert (whole, tiles) == (384 * 2**20, 384 * 2**10)
memory, computed = {}, {}
numbers = rng.standard_normal((1, 1, 2048, 16)).astype(np.float32)
for kernels in ("textbook", "fast"):
    with mg.use_kernels(kernels), mg.inspection.memory() as held:
        x = Tensor(numbers, requires_grad=True)
        y = F.scaled_dot_product_attention(x, x, x, is_causal=True)
        memory[kernels] = held.current
        y.backward(numbers)
    computed[kernels] = np.stack([y.data, x.grad])
apart = np.abs(computed["fast"] - computed["textbook"]).max()
print(f"memory that attention keeps for backward, a head and 2,048 tokens: textbook {memory['textbook'] / 1e6:.1f} MB, "
      f"tiled {memory['fast'] / 1e6:.2f} MB; output and gradient differ by {apart:.0e}")  # fmt: skip
assert memory["fast"] < memory["textbook"] / 5 and apart < 1e-3

# %% [markdown]
# Answer: only the memory, which grows with T and not with its square. The formula is the same, and so is the result up
# to rounding. What makes long texts possible is the order of the computation. **The math is elegant; the engineering
# makes it work.**

# %% Several devices: each has a part of the batch
# The loss is a mean over the batch, and so is its gradient. So let two replicas of the model take half of the batch
# each, and average their gradients ("all-reduce"): both then take the step of the whole batch.
#
# Predict: does the average of the two gradients equal that of the whole batch? Also if one half has more targets?


def gradient(targets: np.ndarray, *parts: slice) -> np.ndarray:
    """The gradient of the mean loss on these rows of the batch, one part after the other; all in one array."""
    replica = new_gpt(512, lesson.seed)
    accumulated_gradients(replica, [(inputs[rows], targets[rows]) for rows in parts], language_model_loss)
    return np.concatenate([p.grad.ravel() for p in replica.parameters()])


# %%
parts = (slice(0, 8), slice(8, 16))
padded = targets.copy()
padded[8:, 8:] = -100  # the second half has a quarter of its targets: the rest is padding
for name, wanted in (("equal halves", targets), ("padding in one", padded)):
    whole_batch, halves = gradient(wanted, slice(0, 16)), [gradient(wanted, rows) for rows in parts]
    counts = [int((wanted[rows] >= 0).sum()) for rows in parts]
    ways = np.mean(halves, axis=0), np.average(halves, axis=0, weights=counts), gradient(wanted, *parts)
    off = [float(np.abs(way - whole_batch).max() / np.abs(whole_batch).max()) for way in ways]
    print(f"{name}, targets {counts}, off by: mean {off[0]:.0e}, weighted {off[1]:.0e}, accumulated {off[2]:.0e}")
    assert max(off[1:]) < 1e-4 and (off[0] < 1e-4) == (name == "equal halves")

# %% [markdown]
# Answer: yes, and no. With different numbers of targets the sums must be added and divided by all targets. A single
# device does the same where a batch does not fit into its memory: *gradient accumulation*.
#
# If one device collects the gradients of all N, it receives N - 1 times their size. In a *ring*, each device sends only
# to the next. The gradient is cut into N pieces. In N - 1 rounds every piece travels once around and is summed, and in
# N - 1 more the sums travel around. Every device sends 2 (N - 1) / N times the size: less than twice, for any N. For
# GPT-2's gradients, 0.5 GB, and 64 devices that is 1 GB, where the single collector receives 31 GB.


# %%
def ring_all_reduce(arrays: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """The sum of the arrays, as every device has it at the end, and the bytes that each device has sent."""
    N = len(arrays)
    pieces = [np.array_split(array, N) for array in arrays]  # [device][piece]
    sent = 0
    for turn in range(2 * (N - 1)):
        moved = [(i, (i - turn) % N, pieces[i][(i - turn) % N]) for i in range(N)]  # device i sends piece i - turn
        for i, piece, block in moved:
            receiver = pieces[(i + 1) % N]
            receiver[piece] = receiver[piece] + block if turn < N - 1 else block  # add up, then pass the sums on
        sent += moved[0][2].nbytes
    return [np.concatenate(parts) for parts in pieces], sent


# %%
arrays = list(rng.standard_normal((4, 1000)))
sums, sent = ring_all_reduce(arrays)
print(f"4 devices, {arrays[0].nbytes} bytes each: every device sends {sent} bytes")
assert all(np.allclose(each, sum(arrays)) for each in sums) and sent == 2 * 3 / 4 * arrays[0].nbytes

# %% ZeRO: each parameter has an owner
# Every device has all weights, all gradients, and AdamW's two moments: four numbers for each parameter. But only a step
# needs the moments, and all devices take the same step. So let each parameter have an *owner*, one of the devices. Only
# the owner keeps its moments and updates it, and then sends the new weights to the others.
#
# Predict: how much of the moments do four devices hold each? Are the weights those of one device, to the last bit?


# %%
def owned_step(devices: int) -> tuple[np.ndarray, list[int]]:
    """The weights after a step that each device takes for its parameters, and the bytes of the moments on each."""
    replica = new_gpt(512, lesson.seed)
    accumulated_gradients(replica, [(inputs, targets)], language_model_loss)
    parameters, held = [*replica.parameters()], []
    owners = owners_of([{"params": parameters}], devices)
    for device in range(devices):
        optimizer = optim.AdamW([p for p, owner in zip(parameters, owners) if owner == device])
        optimizer.step()
        held.append(sum(state[name].nbytes for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")))
    return np.concatenate([p.data.ravel() for p in parameters]), held


(alone, (all_moments,)), (together, held) = owned_step(1), owned_step(4)
each = f"{min(held):,} to {max(held):,}"
print(f"weights {alone.nbytes:,} bytes, moments {all_moments:,}; with four owners each has {each}")
assert all_moments == sum(held) == 2 * alone.nbytes and max(held) < 0.3 * all_moments and (alone == together).all()

# %% [markdown]
# Answer: a quarter, and yes: AdamW's update of a parameter looks at no other parameter. (Clipping does: the owners add
# up their squares.) This is ZeRO's first stage; the second divides the gradients as well, and the third the weights.
#
# On the cores of one machine the devices are processes ([`forked_team.py`](../../../gpt/training/forked_team.py)). They
# see the same memory, so weights and moments are there once; each computes all gradients, and copies those of others'
# parameters for their owners. Measured with GPT-2, four texts of 256 tokens, and two processes: 498 MB of moments in
# each, and 3.3 GB for both together; one process with two threads takes 2.6 GB.

# %% How large a model for a given budget?
# Training costs about 6 N D FLOPs for N parameters and D tokens. (N counts the weights that a token is multiplied by.)
# For a fixed budget a larger model sees fewer tokens. So train several widths with the same budget, each at its own
# best of four learning rates, and look for the lowest loss; then again with 4 and with 16 times as much to spend.
# Hoffmann et al. 2022 call this *isoFLOP profiles*.
#
# Predict: with 16 times the budget, should the model be 16 times as large, see 16 times as many tokens, or both 4?
BUDGETS = {8e8: (2, 4, 8, 16), 3.2e9: (4, 8, 16, 32), 1.28e10: (8, 16, 32, 64)}  # FLOPs: widths
RATES = (3e-3, 1e-2, 3e-2, 1e-1)


def size(width: int) -> int:
    """N: the weights in the matrices of a GPT with one block."""
    return accounting.matrix_weights(GPTConfig(512, 16, 1, 2, width))


def spend(budget: float, width: int, rate: float, seed: int) -> float:
    """The validation loss of a small GPT that was trained with a budget of FLOPs."""
    model = new_gpt(512, seed, n_layer=1, n_head=2, n_embd=width, block_size=16)
    train(model, train_ids, round(budget / (6 * size(width) * 256)), rate, seed=seed)  # 16 x 16 tokens a step
    return round(validation_loss(model, val_ids), 3)


def equal_compute() -> list[list[float]]:
    """For each budget and width: both, the best rate, and the losses of seeds 11 to 13 at that rate."""
    found = []
    for budget, width in [(budget, width) for budget, widths in BUDGETS.items() for width in widths]:
        losses = {rate: [spend(budget, width, rate, seed) for seed in (11, 12, 13)] for rate in RATES}
        best = min(losses, key=lambda rate: sum(losses[rate]))
        found.append([budget, width, best, *losses[best]])
    return found


# %%
runs = lesson.measured("compute", equal_compute, spend, size)
for budget, width, rate, *losses in runs:
    N = size(width)
    print(f"  {budget:.1e} FLOPs, width {width:2}: N {N:6,}, D {budget / 6 / N:7,.0f}, rate {rate:5}, losses {losses}")
kept = {(budget, width): np.array(losses) for budget, width, _, *losses in runs}
best = [[min(widths, key=lambda width: kept[budget, width][i]) for i in range(3)] for budget, widths in BUDGETS.items()]
growth = size(16) / size(4)
print(f"best widths, by budget and seed: {best}; from 4 to 16, N grows {growth:.1f} times, D {16 / growth:.1f} times")
assert best == [[4] * 3, [8] * 3, [16] * 3] and 2 < growth < 8
with mg.use_kernels("fast"):  # today, for one budget and with this seed
    today = {width: spend(budget, width, rate, lesson.seed) for budget, width, rate, *_ in runs if budget == 3.2e9}
print(f"today, 3.2e9 FLOPs: {today}")
for one, other in itertools.permutations(today, 2):  # what was clearly better then is better today
    assert kept[3.2e9, one].mean() > kept[3.2e9, other].mean() - 0.5 or today[one] < today[other]

# %% [markdown]
# Answer: both, about equally. **Scale both, not just one.** Each budget has a best width, the same with all three
# seeds. A larger model has seen too little and has not learned yet; a smaller one has no room left for what it sees.

# %% Published: a rule, and a fit
# Hoffmann et al. 2022 did this with more than 400 models. All their methods say that parameters and tokens should grow
# about alike. `chinchilla_optimal` is the rule that was made of it, D = 20 N: with Gopher's budget, 70 billion
# parameters. They trained that model, Chinchilla: a quarter of Gopher's parameters, almost five times the tokens, and
# it was measured to be better on nearly all tasks. One of the methods is a formula for the loss, fitted to all runs.
#
# Predict: does the formula, for Gopher's budget, have its lowest loss where the rule says?
for budget in (1e18, 1e20, 5.76e23):
    N, D = accounting.chinchilla_optimal(budget)
    print(f"  the rule, {budget:.2e} FLOPs: {N / 1e6:8,.0f}M parameters, {D / 1e9:8,.1f}B tokens")
sizes = np.geomspace(1e9, 1e12, 1000)
lowest = sizes[np.argmin([accounting.chinchilla_loss(N, 5.76e23 / (6 * N)) for N in sizes])]
print(f"  the fit, 5.76e+23 FLOPs: {lowest / 1e6:8,.0f}M parameters, {5.76e23 / (6 * lowest) / 1e9:8,.1f}B tokens")
gopher, chinchilla = accounting.chinchilla_loss(280e9, 300e9), accounting.chinchilla_loss(70e9, 1.4e12)
print(f"  the fit's losses: Gopher (280B, 300B tokens) {gopher:.3f}, Chinchilla (70B, 1,400B) {chinchilla:.3f}")
fall = 1 - accounting.compute_loss(1e21) / accounting.compute_loss(1e20)
print(f"L ~ C^-0.05 (Kaplan et al. 2020): ten times the compute takes {fall:.0%} off the loss")
assert abs(N / 70e9 - 1) < 0.05 and lowest < N / 2 and chinchilla < gopher - 0.05 and round(fall, 2) == 0.11

# %% [markdown]
# Answer: no, at half as many parameters and twice the tokens. Rule and fit are from one paper and do not agree.
# Besiroglu et al. 2024 fitted the formula to the paper's data again: the published numbers do not fit them well, and
# new ones agree with about 20 tokens for each parameter. The fit still tells Gopher from Chinchilla.

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start kv_cache`, online_softmax
# - line by line: `python scripts/step.py --html kv_cache`
# - read: minigrad/kernels/cpu/attention.py: tiles with their backward; gpt/model/kv_cache.py; gpt/accounting.py
# - try: `python scripts/benchmark.py`: the fast kernels. Expect: a table with their times, the textbook's beside them,
#   and PyTorch's where it is installed.
# - break: the line `out = out * shrink ...` above: leave out shrink. Expect: `assert difference < 1e-12` fails; the
#   results are off by about 1, as the sums of earlier tiles still refer to a smaller maximum.
# - lesson: `python scripts/lesson.py 434`
