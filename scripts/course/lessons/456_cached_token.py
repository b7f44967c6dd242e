"""Lesson 4.5.6: what a cached token costs

This goes beyond the course. Each token that a model has read stays in its KV cache, in every layer. For long texts the
cache takes more memory than the weights, and each new token reads all of it. This lesson makes the cache smaller in
three ways, and counts the bytes: fewer heads, a latent, and forgetting. It asks what a model loses by them.
Ainslie et al. 2023 (grouped queries); DeepSeek-AI 2024, "DeepSeek-V2" (latent attention); Jiang et al. 2023, "Mistral
7B" (sliding window); Xiao et al. 2023, "StreamingLLM" (attention sinks).
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from gpt import KVCache, Llama, LlamaConfig, accounting
from gpt.corpora.python_corpus import help_text
from gpt.interpretability import attention_patterns
from gpt.model.latent_attention import LatentAttention, use_latent_attention
from gpt.model.llama import rotations
from gpt.model.sliding_window import use_sliding_window, window_mask
from gpt.training.loading import load_model
from gpt.weights.gguf_file import GGUFError
from minigrad import Tensor, manual_seed, no_grad, use_kernels
from scripts.course.lessons.small_gpt import train
from scripts.course.pictures import Lesson, heatmap

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

# %%
lengths = 2 ** np.arange(5, 14)  # 32 to 8,192 tokens
with lesson.picture("cache-size", "The memory of four caches, by the length of the text") as axes:
    for name in long:
        axes.plot(lengths, [sizes(length)[name] / 2**20 for length in lengths.tolist()], label=name)
    axes.axhline(4 * REAL.num_parameters() / 2**20, linestyle=":", color="#808080", label="the weights")
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="MiB")

# %% [markdown]
# Answer: the window's, because it stops growing: 1/31 of SmolLM2's cache. But it saves nothing for the first 260
# tokens, where the latent is the smallest. Without any of this, the cache would be twice as large as the weights.

# %% A latent: keys and values that are never made
# From the input x of a token, a layer makes a short vector, the latent c = RMSNorm(W_DKV x). Only c is cached. Each
# head makes its key W_UK c and its value W_UV c from it. Places are told by rotation (lesson 451), and by one key that
# all heads share: the rotated key, which is cached beside the latent.
#
# Predict: a layer has 4 heads of 16 numbers, a latent of 12 and a rotated key of 8 numbers. How many numbers does it
# cache for a token? And by what must the scores q · k be divided?

# %%
T = 12  # tokens
rng = np.random.default_rng(lesson.seed)
manual_seed(lesson.seed)
layer = LatentAttention(LlamaConfig(n_head=4, n_kv_head=4, head_size=16, n_embd=64), latent=12, rope=8)
W = {name.removesuffix(".weight"): parameter.data for name, parameter in layer.named_parameters()}
x = 3 * rng.standard_normal((T, 64), np.float32)
cache = KVCache(1, T)
out = np.zeros((T, 64))
for t in range(T):  # one token after the other, as it is generated
    with no_grad():
        out[t] = layer(Tensor(x[None, [t]]), rotations(np.array([t]), 16, 1e4, np.float32), cache=cache).data[0, 0]
    cache.advance(1)

# The same by hand. Pair i of the 8 numbers turns by 10,000^(-2i/8) a token.
angles = np.arange(T)[:, None] * 10_000 ** (-np.arange(0, 8, 2) / 8)  # (T, 4)


def rotated(rows: np.ndarray) -> np.ndarray:
    """Turn the pairs of each row (T, 8): number i and number i + 4 are a point in the plane."""
    a, b = np.split(rows, 2, axis=1)
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], axis=1)


def softmax(scores: np.ndarray) -> np.ndarray:
    exps = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exps / exps.sum(axis=-1, keepdims=True)


c = x @ W["latent_proj"].T  # (T, 12)
c = c / np.sqrt((c**2).mean(axis=1, keepdims=True))  # RMSNorm
k_rope = rotated(x @ W["k_rope_proj"].T)  # (T, 8)
heads = []
for head in range(4):
    rows = slice(16 * head, 16 * head + 16)
    q = x @ W["q_proj"][rows].T  # (T, 16)
    q_rope = rotated(x @ W["q_rope_proj"][8 * head : 8 * head + 8].T)  # (T, 8)
    k, v = c @ W["k_proj"][rows].T, c @ W["v_proj"][rows].T  # (T, 16)
    scores = (q @ k.T + q_rope @ k_rope.T) / np.sqrt(16 + 8)
    heads.append(softmax(np.where(np.tri(T), scores, -np.inf)) @ v)
by_hand = np.concatenate(heads, axis=1) @ W["o_proj"].T

print(f"cached for a token: {cache.nbytes / T / 4:.0f} numbers, where 4 heads of keys and values have {2 * 4 * 16}")
assert cache.nbytes == 4 * T * (12 + 8), "the cache must hold the latent and the rotated key, and nothing else"
assert np.allclose(cache.keys[0], c, atol=1e-3), "what is cached is not the latent after its norm"
assert np.allclose(cache.values[0], k_rope, atol=1e-3), "the shared key must be turned by its token's place"
assert np.allclose(out, by_hand, atol=1e-3), "heads must score q · k + q_rope · k_rope over sqrt(16 + 8), each its own"

# %% [markdown]
# Answer: 20 numbers instead of 128. A query has 16 numbers for the head's key and 8 for the shared one, so the scores
# are sums of 24 products, and are divided by sqrt(24).
#
# When a token is written, the keys and values of all earlier tokens need not be made again:
#
#     q · (W_UK c) = (W_UKᵀ q) · c                   the score of a key
#     Σ p_i (W_UV c_i) = W_UV (Σ p_i c_i)            the mean of the values with the attention weights p
#
# So W_UK is absorbed into the query, and W_UV is applied once, to the mean. The rotation cannot be absorbed, because it
# differs from token to token: this is why places have a key of their own.
#
# Predict: how many numbers does a query read in 50 latents of 4 numbers, and how many in keys and values of 16?

# %%
c = rng.standard_normal((50, 4))  # the latents of 50 tokens
q = rng.standard_normal(16)  # the query of one head
W_UK = rng.standard_normal((16, 4))
W_UV = rng.standard_normal((16, 4))

keys = c @ W_UK.T  # (50, 16)
values = c @ W_UV.T  # (50, 16)
made = softmax(keys @ q / 4) @ values  # (16): the scores are divided by sqrt(16)
absorbed = W_UV @ (softmax(c @ (W_UK.T @ q) / 4) @ c)  # (16), from the 50 latents
print(f"numbers read: {keys.size + values.size} of keys and values, or {c.size} of latents, with the same result")
assert np.allclose(made, absorbed)

# %% [markdown]
# Answer: 200 instead of 1,600.
#
# What does a model lose by it? A task that needs the cache: 16 random letters, then the same again. To continue the
# copy, a model must find the token 15 places ago and read which letter it was. Our models have one layer, 4 heads of
# queries, and are 64 wide. One caches 128 numbers a token; one has a single head of keys and values for all queries;
# and one caches a latent of 16 numbers and a rotated key of 16.
#
# Predict: guessing costs ln 32 = 3.47. What is the loss of the copies with a quarter of the cache?

# %%
V = 32  # letters
BLOCK = 32  # tokens of a text
# For each kind, the heads of keys and values. Those of the latent are made from it, and not cached.
KINDS = {"in full": 4, "grouped": 1, "latent": 4}


def small(kind: str, seed: int) -> Llama:
    manual_seed(seed)
    shape = {"n_layer": 1, "n_head": 4, "n_kv_head": KINDS[kind], "n_embd": 64, "n_inner": 168, "rope_theta": 1e4}
    model = Llama(LlamaConfig(V, BLOCK, **shape))
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


def copy_loss(model: Llama, rows: int = 64) -> float:
    """The mean loss of the tokens that are copies."""
    ids, targets = copies(np.random.default_rng(1), rows)
    with no_grad():
        return float(model.loss(ids, targets, reduction="none").data[:, 15:].mean())


models = {}
numbers = {}
copied = {}
ids = np.arange(BLOCK)[None]  # (1, T): any text
for kind in KINDS:
    model = small(kind, lesson.seed)
    with use_kernels("fast"):
        train(model, None, 250, 7e-3, batches, lesson.seed, warmup=66)
    cache = KVCache(1, BLOCK)
    with no_grad():
        at_once = model(ids).data[0]  # (T, V)
        one_by_one = [model(ids[:, [t]], cache=cache).data[0, 0] for t in range(BLOCK)]
    # With a cache, latent attention uses the absorbed form; without one, it makes the keys and values.
    assert np.allclose(one_by_one, at_once, atol=1e-2), f"{kind}: the cached form is another attention"
    models[kind] = model
    numbers[kind] = cache.nbytes / BLOCK / 4  # of a token, in float32
    copied[kind] = copy_loss(model)
for kind in KINDS:
    print(f"{kind:8} {numbers[kind]:4.0f} numbers a token, loss of the copies {copied[kind]:.2f}")
assert [*numbers.values()] == [128, 32, 32]
assert max(copied.values()) < 1, "a quarter of the cache must be enough to copy"

# %% [markdown]
# Answer: 0.1 to 0.3, where the full cache has 0.1. This task cannot tell which quarter is the best. DeepSeek-V2 reports
# that it matters in models of 16 and 250 billion parameters: with a cache as large as 2.25 heads of grouped queries
# need, latent attention was better than multi-head attention in full.

# %% A window: what has left it is forgotten
# Let each token see only the last few tokens, itself included, and the first few, the **sinks** (the next section says
# why). The keys and values that nobody will see again need no memory. Positions are those in the cache, so a text may
# be longer than the model's block of 32 tokens: when a token is forgotten, those behind it move up.
#
# Predict: with a window of 4 and 2 sinks, which tokens does token 9 see, and at which positions?

# %%
mask = window_mask(12, 12, window=4, sinks=2)  # (12, 12): row t says what token t sees
lesson.widget("cache", {"tokens": 16, "token": 9, "window": 4, "sinks": 2})
print("token 9 sees", np.flatnonzero(mask[9]))
assert not np.triu(mask, 1).any(), "no token may see what comes after it"
assert np.flatnonzero(mask[9]).tolist() == [0, 1, 6, 7, 8, 9], "the 2 sinks, the 3 tokens before it and itself"

# %% [markdown]
# Answer: 0 and 1, then 6 to 9, at the positions 0 to 5. Nothing that is kept changes its place in the order.
#
# Now the grouped model, which was trained to see everything, sees only the last 16 tokens, or only the last 15.
#
# Predict: the letter to copy stands 15 places ago. What happens to the loss with a window of 16, and with one of 15?

# %%
model = models["grouped"]
lost = {"everything": copied["grouped"]}
for window in (15, 16):
    use_sliding_window(model, window, sinks=0)
    lost[window] = copy_loss(model)
print("loss of copies, by what a token sees:", lost)
assert lost[16] < 1, "the letter to copy is still in a window of 16"
assert lost[15] > 3, "the letter to copy has left a window of 15"

# %%
# A text of ten blocks, token by token. The model still has the window of 16, the last one in the loop, and its cache
# forgets what has left the window: `for_model` makes the kind of cache that the model wants.
ids, targets = copies(np.random.default_rng(lesson.seed), 1, 320)  # (1, 320) each


def written(cache: KVCache) -> np.ndarray:
    """The logits (320, V) of the text, token by token."""
    with no_grad():
        return np.concatenate([model(ids[:, [t]], cache=cache).data[0] for t in range(320)])


cache = KVCache.for_model(model, 1, 16)
logits = written(cache)
losses = [-np.log(softmax(row)[token]) for row, token in zip(logits, targets[0])]
near = np.mean(losses[15:BLOCK])  # from 15 on, where the copy begins
beyond = np.mean(losses[BLOCK:])
print(f"token by token, in the block {near:.2f}, beyond it {beyond:.2f}; the cache has {cache.nbytes} bytes")
assert abs(beyond - near) < 0.1, "beyond its block, a model with a window must write as well as in it"

# %%
# With 4 sinks: a model of one layer that reads only the 20 tokens in the cache, as a text of their own, must say the
# same about the next token.
use_sliding_window(model, 16, sinks=4)
logits = written(KVCache.for_model(model, 1, 20))
kept = [[0, 1, 2, 3, *range(t - 15, t + 1)] for t in range(19, 320)]
with no_grad():
    alone = model(ids[0, kept]).data[:, -1]  # (301, V)
assert np.allclose(logits[19:], alone, atol=1e-2), "the cache must hold the sinks and the window, in their new places"

# %% [markdown]
# Answer: with 16, it still copies, with some seeds not quite as well as when it sees everything; with 15, it is no
# better than guessing (ln 32 = 3.47), because in one layer nothing else carries the letter. Read token by token, the
# text goes on for ten blocks, and the cache stays as small as at the start. It holds what the mask lets a token see,
# and nothing else: both are the same attention.

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
with lesson.picture("forgetting", "Loss of the second half of five texts, by what a token sees") as axes:
    axes.barh(list(far[0]), [np.mean(losses) for losses in far[0].values()], alpha=0.65)
    axes.invert_yaxis()
    axes.set(xlabel="loss (nats)")
for losses in far:
    for everything, with_sinks, with_others, *without in zip(*losses.values()):  # text by text, in far_losses' order
        assert everything < with_sinks, "a window hides something that helps to predict"
        assert with_sinks < min(without) - 0.2, "without the first tokens, the model must be much worse"
        assert with_sinks - everything < (min(without) - everything) / 2, "the first tokens must save most of the loss"
        assert abs(with_others - with_sinks) < (min(without) - with_sinks) / 2, "any first tokens must do"

# %% [markdown]
# Answer: without the first tokens it breaks, although as many tokens are kept, and although they are nearer. Keeping
# four others helps far less, if at all: in all texts the loss rises by much more than with the first four, which cost
# little beside seeing everything. The first tokens matter because they are first, not because of what they say: four
# others in their place do nearly as well.
#
# So look at the attention weights of SmolLM2, as a mean over the heads of a layer: of layer 1, close to the embedding,
# and of layer 24 of 30.
#
# Predict: the weights of a row sum to 1. Where do heads put them if nothing in the text is what they look for?


# %%
def attention_map() -> dict[str, list]:
    """The tokens of a sentence, and the mean attention weights (T, T) of the heads in two layers."""
    model, tokenizer = load_model("smollm2")
    ids = tokenizer.encode("The cat sat on the mat, and the dog lay down beside it.")
    weights = attention_patterns(model, [ids])[[1, 24], 0].mean(axis=1)  # (2, T, T)
    return {"tokens": [tokenizer.decode([id]) for id in ids], "weights": weights.round(3).tolist()}


seen = lesson.measured("attention", attention_map)
weights = np.array(seen["weights"])  # (2, T, T)
with lesson.picture("sinks", "Attention sinks: mean weights of SmolLM2's heads", columns=2, size=(10, 5)) as pair:
    for axes, layer_weights, layer_number in zip(pair, weights, (1, 24)):
        heatmap(axes, layer_weights, seen["tokens"], seen["tokens"], numbers="")
        axes.set(title=f"layer {layer_number}", xlabel="key (looked at)", ylabel="query (looking)")
        axes.tick_params(axis="x", rotation=90)
on_first = weights[:, 8:, 0].mean(axis=1)  # of the second half of the tokens
print(f"weight on the first of 9 to 15 tokens: layer 1 {on_first[0]:.0%}, layer 24 {on_first[1]:.0%}")
assert on_first[0] < 0.2, "a layer close to the embedding still looks at what is there"
assert on_first[1] > 0.5, "a sink takes most of the weight of a high layer"

# %% [markdown]
# Answer: on the first token, which every token saw in training. The column on the left is the **attention sink**: it
# takes the weight of heads that look for nothing. Without it, this weight must go to tokens that mean something (Xiao
# et al.).
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
