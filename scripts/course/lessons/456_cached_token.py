"""Lesson 4.5.6: what a cached token costs

This goes beyond the course. Each token that a model has read stays in its KV cache, in every layer. For long texts the
cache takes more memory than the weights, and each new token reads all of it. This lesson makes a cached token cheaper
in three ways, counts the bytes, and asks what each costs in quality: fewer heads, a latent, and forgetting.
Ainslie et al. 2023 (grouped queries); DeepSeek-AI 2024, "DeepSeek-V2" (latent attention); Jiang et al. 2023, "Mistral
7B" (sliding window); Xiao et al. 2023, "StreamingLLM" (attention sinks).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from gpt import KVCache, Llama, LlamaConfig, accounting
from gpt.corpora.python_corpus import help_text
from gpt.model.latent_attention import use_latent_attention
from gpt.model.sliding_window import use_sliding_window, window_mask
from gpt.training.loading import load_model
from gpt.weights.gguf_file import GGUFError
from minigrad import manual_seed, no_grad, use_kernels
from scripts.course.lessons.small_gpt import train
from scripts.course.pictures import Lesson

lesson = Lesson("456_cached_token", __doc__)

# %% The limitation: a cache larger than the model
# A token costs 2 K D numbers in each of L layers, for K heads of keys and values with D numbers each. We take
# SmolLM2's shape: 30 layers, 9 heads of queries with 64 numbers each, texts of 8,192 tokens. Here are four kinds of
# cache:
#
# * multi-head attention has as many heads of keys and values as of queries, K = 9;
# * with grouped queries, three query heads share a head of keys and values, K = 3: SmolLM2 itself;
# * latent attention caches 128 numbers, from which the keys and values of all 9 heads are made, and one rotated key of
#   32 numbers;
# * a sliding window: SmolLM2, but each token sees only the last 256 tokens and the first 4.
#
# Predict: which cache is the smallest, for the whole text? And for the first 100 tokens?

# %%
REAL, TEXT = LlamaConfig(), 8192


def sizes(tokens: int) -> dict[str, int]:
    """Bytes of the four caches in float32, after so many tokens."""
    return {
        "multi-head": accounting.kv_cache_bytes(dataclasses.replace(REAL, n_kv_head=9), 1, tokens),
        "grouped": accounting.kv_cache_bytes(REAL, 1, tokens),
        "latent": accounting.latent_cache_bytes(REAL, 128, 32, tokens),
        "window": accounting.kv_cache_bytes(REAL, 1, min(tokens, 256 + 4)),
    }


long, short = sizes(TEXT), sizes(100)
print(f"weights {4 * REAL.num_parameters() / 2**20:.0f} MiB")
for name in long:
    print(f"{name:12}{short[name] / 100:10,.0f} bytes a token at first; {TEXT:,} tokens: {long[name] / 2**20:7.1f} MiB")
assert long["multi-head"] == 2 * 30 * 9 * 64 * 4 * TEXT  # 2 K D numbers in each of 30 layers, four bytes each
assert long["multi-head"] > 2 * 4 * REAL.num_parameters()  # twice the weights
assert long["grouped"] == long["multi-head"] / 3
assert long["latent"] == 30 * (128 + 32) * 4 * TEXT
assert min(long, key=long.get) == "window"
assert min(short, key=short.get) == "latent"

# %% [markdown]
# Answer: the window's, because it stops growing: 1/31 of SmolLM2's cache. But it saves nothing for the first 260
# tokens, where the latent is the smallest. Without any of this, the cache would be twice as large as the weights.

# %% A latent: keys and values that are never made
# From the input x of a token, a layer makes a short vector, the latent c = W_DKV x. Only c is cached. Each head makes
# its key W_UK c and its value W_UV c from it. When a token is written, these need not be computed for all earlier
# tokens:
#
#     q · (W_UK c) = (W_UKᵀ q) · c                   the score of a key
#     Σ p_i (W_UV c_i) = W_UV (Σ p_i c_i)            the mean of the values with the attention weights p
#
# So W_UK is absorbed into the query, and W_UV is applied once, to the mean. The rotation of RoPE cannot be absorbed,
# because it differs from token to token: positions have a key of their own, the rotated key.
rng = np.random.default_rng(lesson.seed)
c = rng.standard_normal((50, 4))  # the latents of 50 tokens
q = rng.standard_normal(16)  # the query of one head
W_UK = rng.standard_normal((16, 4))
W_UV = rng.standard_normal((16, 4))


def softmax(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()


keys = c @ W_UK.T  # (50, 16)
values = c @ W_UV.T  # (50, 16)
made = softmax(keys @ q / 4) @ values  # (16): the scores are divided by sqrt(16)
absorbed = W_UV @ (softmax(c @ (W_UK.T @ q) / 4) @ c)  # (16), from the 50 latents of 4 numbers
assert np.allclose(made, absorbed)
print(f"one query, 50 tokens: {2 * 50 * 16} numbers of keys and values, or {c.size} of latents: the same result")

# %% What does it cost? Small models with a quarter of the cache
# A task that needs the cache: 16 random letters, then the same again. To continue the copy, a model must find the token
# 15 places ago and read which letter it was. Our models have one layer, 4 heads of queries, and are 64 wide. The first
# caches keys and values of 16 numbers for each head, 128 numbers a token. The others have 32 numbers: 4 heads of 4
# numbers; 1 head of 16 numbers for all queries; or a latent of 16 numbers and a rotated key of 16.
#
# Places are told by rotation, each pair of numbers at its own speed (lesson 451): pair i of D numbers turns by
# base^(-2i/D) a token. So a head of 4 numbers has two speeds only, 1 and 1/100 for the usual base of 10,000. In a text
# of 32 tokens the second is hardly a turn. With a base of 30 it is 1/5 (of a radian) a token, a whole turn in a text.
V = 32  # letters
BLOCK = 32  # tokens of a text
# For each kind, the heads of keys and values, and the numbers in each of these heads. The heads of the latent are made
# from it, and not cached.
KINDS = {"in full": (4, 16), "narrow": (4, 4), "grouped": (1, 16), "latent": (4, 16)}
BASES = (1e4, 30.0)
RATES = (3e-3, 6e-3, 1.2e-2, 2.4e-2, 4.8e-2)
SEEDS = (*range(10), *range(101, 106))


def small(kind: str, seed: int, base: float) -> Llama:
    manual_seed(seed)
    heads, size = KINDS[kind]
    shape = {"n_layer": 1, "n_head": 4, "n_embd": 64, "n_inner": 168, "rope_theta": base}
    model = Llama(LlamaConfig(V, BLOCK, n_kv_head=heads, head_size=size, **shape))
    if kind == "latent":
        use_latent_attention(model, latent=16, rope=16)
    return model


def copies(rng: np.random.Generator, rows: int, length: int = BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 16 random letters, repeated, and the next token of each."""
    letters = rng.integers(V, size=(rows, 16))
    ids = np.tile(letters, length // 16 + 1)[:, : length + 1]  # (rows, length + 1)
    return ids[:, :-1], ids[:, 1:]


# `train` calls it as it calls the functions that cut batches out of tokens. Here each batch is made anew.
def batches(tokens: None, rows: int, block: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    while True:
        yield copies(rng, rows)


def trained(kind: str, seed: int, steps: int, rate: float, base: float = 1e4) -> Llama:
    model = small(kind, seed, base)
    train(model, None, steps, rate, batches, seed, warmup=steps // 3)
    return model


numbers = {}
ids = np.arange(BLOCK)[None]  # (1, T): any text
for kind in KINDS:
    model = small(kind, lesson.seed, BASES[0])
    cache = KVCache(1, BLOCK)
    with no_grad():
        at_once = model(ids).data[0]  # (T, V)
        one_by_one = [model(ids[:, [t]], cache=cache).data[0, 0] for t in range(BLOCK)]
    # With a cache, latent attention uses the absorbed form; without one, it makes the keys and values.
    assert np.allclose(one_by_one, at_once, atol=1e-5)
    numbers[kind] = cache.nbytes / BLOCK / 4  # of a token, in float32
print("numbers a token:", numbers)
assert [*numbers.values()] == [128, 32, 32, 32]

# %% [markdown]
# Predict: each kind is trained for 300 steps, with 15 seeds and the best of five learning rates. Which of the three
# cheap ones comes closest to the model with the full cache? And with the smaller base?

# %%


def copy_loss(model: Llama, rows: int = 64) -> float:
    """The mean loss of the tokens that are copies; guessing costs ln 32 = 3.47."""
    ids, targets = copies(np.random.default_rng(1), rows)
    with no_grad():
        return round(float(model.loss(ids, targets, reduction="none").data[:, 15:].mean()), 3)


def quality() -> dict[str, dict[str, list[float]]]:
    """For each kind and base, the mean loss of three seeds by learning rate, and those of all seeds with the best."""
    found = {}
    for kind, base in itertools.product(KINDS, BASES):
        by_rate = [np.mean([copy_loss(trained(kind, seed, 300, rate, base)) for seed in range(3)]) for rate in RATES]
        rate = RATES[np.argmin(by_rate)]
        losses = [copy_loss(trained(kind, seed, 300, rate, base)) for seed in SEEDS]
        found[f"{kind}, base {base:g}"] = {"by rate": np.round(by_rate, 3).tolist(), "losses": losses}
    return found


# All of it takes minutes, so `measured` returns a stored result. It must be measured again if one of these functions
# changes. What is trained today has half the steps.
found = lesson.measured("quality", quality, small, copies, batches, trained, copy_loss)
for name, row in found.items():
    print(f"{name:19} by rate {np.array(row['by rate'])}")
    print(f"{'':11} at the best, all seeds {np.array(row['losses'])}")
    assert 0 < np.argmin(row["by rate"]) < len(RATES) - 1  # the best rate is not at the edge
median = {name: np.median(row["losses"]) for name, row in found.items()}
full, narrow, grouped, latent = (np.array(found[f"{kind}, base 10000"]["losses"]) for kind in KINDS)
assert (narrow > full).all() and narrow.mean() > 2 * max(grouped.mean(), latent.mean())
cheap = [median[f"{kind}, base 30"] for kind in ("narrow", "grouped", "latent")]
assert median["in full, base 30"] < min(cheap) and max(cheap) < 1.3 * min(cheap)
with use_kernels("fast"):
    today = {base: copy_loss(trained("narrow", lesson.seed, 150, 6e-3, base)) for base in BASES}
print("narrow heads today, after 150 steps, by base:", today)
assert today[30.0] < today[1e4] - 0.3

# %% [markdown]
# Answer: the full cache is the best, with a loss of 0.05. With the usual base, grouped queries and the latent come
# closest (0.07 and 0.09), and the narrow heads are far behind (0.19). But not because narrow heads know less: with two
# useful speeds of rotation they copy as well as the others. With a base of 30, the medians of the three cheap ones are
# 0.07 to 0.08, and single seeds of the three come in any order (one of the latent's 15 runs ends at 0.33). So a quarter
# of the memory costs a little, and this task cannot tell which quarter is the best. DeepSeek-V2 reports that it matters
# in models of 16 and 250 billion parameters: with a cache as large as 2.25 heads of grouped queries need, latent
# attention was better than multi-head attention in full.

# %% A window: what has left it is forgotten
# We train the grouped model and then let each token see only the last 16 tokens, or only the last 15, itself included.
# The keys and values that are not seen need no memory: a cache that forgets holds the last 15 tokens and the new one.
# Positions are those in the cache, so a text may be longer than the model's block of 32 tokens.
#
# Predict: the letter to copy stands 15 places ago. What happens to the loss with a window of 16, and with one of 15?

# %%
with use_kernels("fast"):
    model = trained("grouped", lesson.seed, 200, 1e-2)
lost = {"everything": copy_loss(model)}
for window in (15, 16):
    use_sliding_window(model, window, sinks=0)
    lost[window] = copy_loss(model)
print("loss of copies, by what a token sees:", lost)
assert lost[16] < 1
assert lost[15] > 3

# %%
# A text of ten blocks, token by token. The model still has the window of 16, the last one in the loop, and its cache
# forgets what has left the window: `for_model` makes the kind of cache that the model wants.
ids, targets = copies(np.random.default_rng(lesson.seed), 1, 320)  # (1, 320) each
cache = KVCache.for_model(model, 1, 16)
with no_grad():
    by_mask = model(ids[:, :BLOCK]).data[0]  # (32, V): the first block at once, without a cache
    logits = np.concatenate([model(ids[:, [t]], cache=cache).data[0] for t in range(320)])  # (320, V)
assert np.allclose(logits[:BLOCK], by_mask, atol=1e-3)

losses = [-np.log(softmax(row)[token]) for row, token in zip(logits, targets[0])]
near = np.mean(losses[15:BLOCK])  # from 15 on, where the copy begins
beyond = np.mean(losses[BLOCK:])
print(f"token by token, in the block {near:.2f}, beyond it {beyond:.2f}; the cache has {cache.nbytes} bytes")
assert abs(beyond - near) < 0.1

# %% [markdown]
# Answer: with 16, it still copies, with some seeds not quite as well as when it sees everything; with 15, it is no
# better than guessing (ln 32 = 3.47), because in one layer nothing else carries the letter. Read token by token, the
# text goes on for ten blocks, the cache stays as small as at the start, and the first 32 tokens get the logits that the
# mask gives: both are the same attention.

# %% Attention sinks: forgetting the first tokens breaks a model
# SmolLM2 was trained to see everything. Now its tokens see the last 64 only: the last 60 and the first 4, the last 64,
# or, as a control, the last 60 and the 17th to 20th. In a second control, the text begins with four other tokens, which
# are kept. We look at the second half of a text of 512 tokens.
#
# Predict: which of them is the worst? Do the first four tokens matter, and does it matter what they say?


# %%
def far_losses(starts: Iterable[int], length: int, window: int) -> dict[str, list[float]]:
    """The mean loss of the second half of texts from Python's documentation, by what a token sees, text by text."""
    model, tokenizer = load_model("smollm2")
    use_sliding_window(model, window)
    ids, place, found = np.array(tokenizer.encode(help_text()[:200_000])), np.arange(length), {}
    texts = np.array([ids[start : start + length + 1] for start in starts])
    others = texts.copy()
    others[:, :4] = ids[-4:]  # from the end of the documentation
    for name, read, width, first in [
        ("everything", texts, length, length),
        ("the last and the first 4", texts, window - 4, 0),
        ("the same, but 4 other tokens", others, window - 4, 0),
        ("only the last", texts, window, length),
        ("the last and the 17th to 20th", texts, window - 4, 16),
    ]:
        kept = (place >= first) & (place < first + 4)
        mask = window_mask(length, length, width) | np.tri(length, dtype=bool) & kept
        for block in model.blocks:
            block.self_attn.visible = lambda T, S, mask=mask: mask
        with no_grad():
            losses = -model.token_logprobs(read[:, :-1], read[:, 1:]).data
        found[name] = losses[:, length // 2 :].mean(axis=1).round(3).tolist()
    return found


def sinks() -> dict[str, list[float]]:
    return far_losses(range(0, 40_000, 8_000), length=512, window=64)


# In far_losses, a token sees the last `width` tokens and the four from `first` on; none are at first = length. A layer
# with a sliding window asks its `visible(T, S)` which of S keys each of T queries sees; there we give it our mask.
far = [lesson.measured("sinks", sinks, far_losses)]
try:
    with use_kernels("fast"):  # one shorter text, now
        far.append(far_losses([1000 * lesson.seed % 40_000], length=192, window=32))
except (FileNotFoundError, GGUFError) as error:  # without the package, or without the library that reads its file
    print(f"({error})")
print("loss of five texts, and of one today if the model is here")
for name in far[0]:
    print(f"{name:30}", *(np.array(losses[name]) for losses in far))
for losses in far:
    for everything, with_sinks, with_others, *without in zip(*losses.values()):  # text by text, in far_losses' order
        assert everything < with_sinks < min(without) - 0.2
        assert with_sinks - everything < (min(without) - everything) / 2
        assert abs(with_others - with_sinks) < (min(without) - with_sinks) / 2

# %% [markdown]
# Answer: without the first tokens it breaks, although as many tokens are kept, and although they are nearer. Keeping
# four others helps far less, if at all: in all texts the loss rises by much more than with the first four, which cost
# little beside seeing everything. The first tokens matter because they are first, not because of what they say: four
# others in their place do nearly as well. Every token saw the first ones in training, and heads that look for nothing
# put their weights there (Xiao et al.).
#
# ## What next
#
# - exercise: `python scripts/exercise.py start latent_attention`
# - read: gpt/model/latent_attention.py and gpt/model/sliding_window.py, a page each
# - try: `use_sliding_window(model, 16, sinks=1)` in the section on windows. Expect: this model has no sinks, so they do
#   not help; with some seeds a letter that stays in sight even disturbs.
# - break: in gpt/model/sliding_window.py, do not turn the keys back: `np.array([0])`. Expect: the logits differ from
#   those of the mask as soon as the window moves.
# - lesson: `python scripts/lesson.py 457`
