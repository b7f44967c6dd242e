"""Lesson 4.5.7: attention without a growing cache

This goes beyond the course. To write one token, attention reads the keys and values of all tokens before it, so its
cache grows with the text. Linear attention keeps a matrix of fixed size instead, which each token writes to and reads
from. This lesson writes to such a state by hand, finds out how much it holds, and compares what models recall with it.
Katharopoulos et al. 2020, arXiv 2006.16236; Schlag et al. 2021, 2102.11174 (delta rule); Yang et al. 2024, 2412.06464
(gated delta rule); Arora et al. 2023, "Zoology", 2312.04927 (recall).
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt import KVCache
from gpt.model.linear_attention import LinearAttention, StateCache, by_chunks, token_by_token, use_linear_attention
from minigrad import Tensor, manual_seed, no_grad, use_kernels
from scripts.course.lessons.small_gpt import new_gpt, train
from scripts.course.pictures import LINES, Lesson, heatmap

lesson = Lesson("457_linear_attention", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% Attention without softmax is a state
# Leave the softmax out of attention. Then the weights are the scores themselves, and a sum can be taken in another
# order: token s no longer waits for the query, but adds the matrix v_s k_sᵀ to a state.
#
#     Σ_s (q · k_s) v_s = (Σ_s v_s k_sᵀ) q = S q
#
# Predict: here are six tokens with keys and values of 3 numbers. How many numbers does attention keep to read the last
# one, and how many does the state have?


# %%
def written(keys: Any, values: Any, beta: bool = False, alpha: float = 1.0) -> np.ndarray:
    """The state after values (T, D) were written under keys (T, D), one after the other; beta: by the delta rule."""
    ones = np.ones((len(keys), 1))
    arrays = (keys, keys, values, ones, np.log(alpha * ones), np.zeros((3, 3)))
    q, k, v, one, log_alpha, S = (Tensor(np.asarray(array, float)[None, None]) for array in arrays)
    return token_by_token(q, k, v, one if beta else None, log_alpha, S)[1].data[0, 0]


K = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]])  # (T, D)
V = np.array([[2, 0, 0], [0, 3, 0], [0, 0, 1], [1, 0, 2], [0, 2, 1], [1, 1, 0]])
q = np.array([1, 2, 0])
scores = K @ q  # (T): the weights, without softmax
S = written(K, V)  # (D, D)
print("attention: the scores", scores, "times the values:", scores @ V)
print("state:", S, "times the query:", S @ q, sep="\n")
read = (S @ q).astype(int)  # (D): [6, 11, 8]
tokens = [f"token {number}" for number in range(6)]
panels = {
    "scores q · k_s": (scores[:, None], tokens, [""]),
    "times the values v_s": (V, tokens, [f"Σ = {total}" for total in read]),
    "the state Σ v_s k_sᵀ, times q": (S, [f"{total} =" for total in read], [f"· {number}" for number in q]),
}
with lesson.picture("state", "The same output from six tokens, or from one state", 3, size=(11, 3.6)) as three:
    for axes, (title, (matrix, rows, columns)) in zip(three, panels.items()):
        heatmap(axes, matrix, rows, columns, numbers=".0f")
        axes.set(title=title)
assert np.allclose(scores @ V, S @ q), "attention without softmax must be what the state returns"

# %% [markdown]
# Answer: attention keeps 36 numbers, 2 D for each token; the state has 9, D², after any text. It has forgotten the
# tokens, and knows only their sum.
#
# Katharopoulos et al. pass queries and keys through a positive function first, and divide by the sum of all q · k, as
# softmax divides. We do neither, like most later work: what is read is a sum, not a mean. So the state is a memory: to
# write a value v under a key k, add v kᵀ; to read with a query q, multiply: S q. If the keys have length 1 and are
# orthogonal, v kᵀ q is v where q = k, and 0 where q is another key.

# %%
keys = np.linalg.qr(rng.standard_normal((3, 3)))[0]
values = rng.standard_normal((3, 3))
S = written(keys, values)
print("written under three keys:", values, "read with the second:", S @ keys[1], sep="\n")
assert np.allclose(S @ keys[1], values[1]), "under orthogonal keys of length 1, each value is read as it was written"

# %% [markdown]
# Predict: the state has 3 x 3 numbers. What does it return if six values of 3 numbers are written under six keys?

# %%
many = np.concatenate(np.linalg.qr(rng.standard_normal((2, 3, 3)))[0])  # six keys of length 1
more = rng.standard_normal((6, 3))
errors = np.linalg.norm(more - many @ written(many, more).T, axis=1)
print("distance of what is read from what was written:", errors.round(2))
assert errors.mean() > 0.4, "three dimensions cannot keep six values apart"

# %% [markdown]
# Answer: mixtures. Only three directions are orthogonal in three dimensions, so each key finds its own value and a part
# of the values of similar keys. A cache has no such limit: it keeps all six.
#
# Predict: two values are written under the same key. What is read from it, with β = 1?

# %% The delta rule: replace
added, replaced = (written([keys[0]] * 2, values[:2], beta) @ keys[0] for beta in (False, True))
faded = keys @ written(keys, values, True, alpha=0.5).T  # what is read under each of the three keys
print("written:", values[:2], "read, linear:", added, "read, delta:", replaced, sep="\n")
assert np.allclose(added, values[0] + values[1]), "without the delta rule, a key returns the sum of its values"
assert np.allclose(replaced, values[1]), "by the delta rule, the second value must replace the first"
assert np.allclose(faded, values * [[0.25], [0.5], [1]]), "α = 1/2 must halve what was written before"

# %% [markdown]
# Answer: linear attention returns the sum. The delta rule first reads what stands under the key, and writes only the
# difference, so the second value replaces the first, and values under orthogonal keys stay. The gated delta rule
# (α = 0.5 in the last line) lets all that was written before fade with each token.
#
# Predict: the same value is written six times under the same key, by the delta rule. What is read each time if the key
# has length 1? Length 0.6? Length 1.5?

# %% Why keys have length 1, and where the gate starts
away = {}  # by the length of the key, how far from the value is what is read after 1, 2, ... writes
for length in (0.6, 1.0, 1.5):
    key = length * keys[0]
    reads = np.array([written([key] * n, [values[0]] * n, beta=True) @ key for n in range(1, 7)])
    away[length] = np.linalg.norm(reads - values[0], axis=1) / np.linalg.norm(values[0])
    print(f"key of length {length}: read minus written, relative to the value: {away[length]}")
assert np.allclose(away[1.0], 0), "with a key of length 1, the value must stand there after the first write"
assert away[1.5][5] > away[1.5][0], "a long key overshoots, and each write makes it worse"

# %% [markdown]
# Answer: at once, slowly, never. One write multiplies the difference by 1 - |k|²: by 0, by 0.64, by -1.25. So a layer
# makes its keys and queries length 1. Here is one, with a single head of 8 numbers and weights as they are at the
# start.
#
# Predict: it also computes from each token how much fades, α = σ(4 + ...). How much of the first token is left after 20
# tokens that write nothing? And if the gate started at σ(0) = 1/2?

# %%
manual_seed(lesson.seed)
layer = LinearAttention(8, n_head=1)
x = rng.standard_normal((1, 1, 8)).astype(np.float32)  # one token


def state_after(tokens: np.ndarray) -> np.ndarray:
    """The state (8, 8) of the layer after it has read tokens (1, T, 8)."""
    cache = StateCache(1, 64)
    with no_grad():
        layer(Tensor(tokens), cache=cache)
    return cache.states[0][0, 0]


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


layer.c_attn.bias.data[:] = 0  # then a token of zeros has no key and no value: it writes nothing, and only fades
layer.alpha.bias.data[:] = 0
v = layer.c_attn.weight.data[16:] @ x[0, 0]
beta = sigmoid(layer.beta(Tensor(x)).data[0, 0, 0])
first = state_after(x)  # β v kᵀ
key_length = np.linalg.norm(first) / (beta * np.linalg.norm(v))
left = []
for n in range(21):
    waited = state_after(np.concatenate([x, np.zeros((1, n, 8), np.float32)], axis=1))
    left.append(np.linalg.norm(waited) / np.linalg.norm(first))
print(f"length of the key {key_length:.3f}; left after 20 tokens {left[20]:.2f}, with a gate of 1/2 {0.5**20:.6f}")
with lesson.picture("keys-and-gate", "Keys of length 1, a gate that starts open", columns=2, size=(10, 3.6)) as (
    one,
    two,
):
    for (length, distances), line in zip(away.items(), LINES):
        one.plot(range(1, 7), distances, line, label=f"|k| = {length}")
    one.set(xlabel="writes of the same value", ylabel="distance from the value")
    two.plot(range(21), left, label="σ(4) = 0.98, the layer's")
    two.plot(range(21), 0.5 ** np.arange(21), "--", label="σ(0) = 0.5")
    two.set(xlabel="tokens since", ylabel="left of a token", ylim=(0, 1.05))
assert np.isclose(key_length, 1, atol=1e-2), "the delta rule needs keys of length 1, and the layer must make them so"
assert np.allclose(left, sigmoid(4.0) ** np.arange(21), atol=1e-2), "the gate must start at σ(4), nearly open"

# %% [markdown]
# Answer: 0.982^20 = 70 %. A gate that starts at 1/2 keeps a millionth: nothing that is far would reach the loss, so
# nothing could teach the gate to open.
#
# ## The same in chunks
#
# A loop over tokens takes many small steps. `by_chunks` takes 16 tokens at a time: within a chunk, everything is matrix
# products, as in attention, and the state passes from chunk to chunk.
#
# Predict: are the results the same, and how much sooner are they there?

# %%
gates = rng.uniform(0.1, 1, (4, 4, 128, 1))  # 128 tokens; q, k and v of length 1 or so
inputs = [*map(Tensor, (*rng.standard_normal((3, 4, 4, 128, 16)) / 4, gates, np.log(gates), np.zeros((4, 4, 16, 16))))]
outs, ms = {}, {token_by_token: np.inf, by_chunks: np.inf}
for form in [*ms] * 3:
    started = time.process_time()
    outs[form] = form(*inputs)[0].data
    ms[form] = min(ms[form], 1000 * (time.process_time() - started))
print(f"128 tokens: loop {ms[token_by_token]:.1f} ms, chunks {ms[by_chunks]:.1f} ms of computing")
assert np.allclose(outs[token_by_token], outs[by_chunks], atol=1e-4), "chunks must give what the loop gives"
assert sys.platform == "emscripten" or ms[token_by_token] > 1.3 * ms[by_chunks]  # a tab's NumPy has slow products

# %% [markdown]
# Answer: the same up to rounding, and sooner (but in a browser tab, where products are slow). Models are trained in
# chunks, and write token by token.
#
# ## What it cannot recall
#
# A token of this task is a pair: a key and a value. After the pairs come questions, a key each, and the answer is the
# value that was written under it last. In half of the batches, all keys come again with other values. In a real text,
# key and value are two tokens, and a layer below has to bring them together (lesson 452 shows the head that does so).
# Here the vector of a pair begins as the sum of its key's and its value's, and the models learn to look up. Heads have
# D = 8. All models take equally many steps, the first third of them as warm-up, each at the best of five learning
# rates.
#
# Predict: which of the models answer all questions, and what changes when every key is written twice?

# %%
KEYS, VALUES, STEPS, RATES = 16, 8, 400, (1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2)
CASES = [(n, times) for times in (1, 2) for n in (4, 8, 16)]  # keys, and how often each of them is written
# Kind, every, layers. With every = 1, all layers keep their attention; the hybrid has a state below, attention above.
MODELS = {"attention": ("linear", 1, 1), "linear": ("linear", 0, 1), "delta": ("delta", 0, 1),
          "gated delta": ("gated delta", 0, 1), "gated, 2 layers": ("gated delta", 0, 2),
          "hybrid": ("gated delta", 2, 2)}  # fmt: skip


def lookups(rng: Any, rows: int, n: int, times: int) -> tuple[np.ndarray, np.ndarray]:
    """`times` times n pairs in random order, and 16 questions; the targets are -100 at the pairs."""
    chosen = np.argsort(rng.random((rows, KEYS)), axis=1)[:, :n]
    keys = np.concatenate([rng.permuted(chosen, axis=1) for _ in range(times)], axis=1)
    values = rng.integers(VALUES, size=keys.shape)
    asked = rng.integers(n * (times - 1), n * times, (rows, 16))  # places where a key comes for the last time
    questions, answers = (np.take_along_axis(x, asked, axis=1) for x in (VALUES + keys, values))
    ids = np.concatenate([VALUES + KEYS + keys * VALUES + values, questions], axis=1)
    return ids, np.concatenate([np.full(keys.shape, -100), answers], axis=1)


def stream(_: Any, rows: int, block: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches without end, each of one of the CASES."""
    rng = np.random.default_rng(seed)
    while True:
        yield lookups(rng, rows, *CASES[rng.integers(len(CASES))])


def trained(name: str, seed: int, rate: float) -> tuple[float, list[float]]:
    """Train a model; returns the mean of its last losses, and its share of right answers in each of the CASES."""
    kind, every, layers = MODELS[name]
    model = new_gpt(VALUES + KEYS + KEYS * VALUES, seed, n_layer=layers, n_embd=32, block_size=48)
    use_linear_attention(model, kind, every)
    vectors = np.random.default_rng(seed).normal(0, 0.1, (VALUES + KEYS, 32))
    pairs = (vectors[VALUES:, None] + vectors[:VALUES]).reshape(-1, 32)
    model.embedding.weight.data[...] = np.concatenate([vectors, pairs])
    losses, shares = train(model, np.zeros(0), STEPS, rate, stream, seed, warmup=STEPS // 3), []
    for n, times in CASES:
        ids, targets = lookups(np.random.default_rng(99), 64, n, times)
        right = model(ids).data.argmax(axis=-1) == targets
        shares.append(round(float(right[targets >= 0].mean()), 3))
    return float(np.mean(losses[-50:])), shares


def recall() -> dict[str, Any]:
    """For each model the loss by learning rate, of seeds 0 to 2, the best rate, and with it the right answers of ten
    seeds, as shares."""
    found = {}
    for name in MODELS:
        by_rate = [float(np.mean([trained(name, seed, rate)[0] for seed in range(3)])) for rate in RATES]
        rate = RATES[np.argmin(by_rate)]
        shares = [trained(name, seed, rate)[1] for seed in range(10)]
        found[name] = {"by rate": np.round(by_rate, 3).tolist(), "rate": rate, "shares": shares}
    return found


found = lesson.measured("recall", recall, lookups, stream, trained)
shares = {name: np.array(row["shares"]) for name, row in found.items()}  # (seeds, CASES) each
with use_kernels("fast"):  # the first three now, with one seed
    for name in ("attention", "linear", "delta"):
        shares[f"{name}, today"] = np.array([trained(name, lesson.seed, found[name]["rate"])[1]])
print("right answers by keys x times written", *(f"{n} x {times}" for n, times in CASES), sep="   ")
for name, rows in shares.items():
    print(f"{name:37}" + "".join(f"{share:8.2f}" for share in rows.mean(axis=0)))
assert all(row["rate"] not in (RATES[0], RATES[-1]) for row in found.values())  # none at the edge

# %%
with lesson.picture("recall", "Right answers, means of ten seeds", columns=2, size=(10, 3.8)) as pair:
    for axes, title, cases in zip(pair, ("every key written once", "every key written twice"), (slice(3), slice(3, 6))):
        for name, line in zip(MODELS, (*LINES, *LINES)):
            axes.plot(
                (4, 8, 16), shares[name].mean(axis=0)[cases], line, marker="o", label=name if axes is pair[0] else None
            )
        axes.set(title=title, xlabel="keys", ylabel="right answers", ylim=(0.5, 1.02), xticks=(4, 8, 16))
STATES = ("linear", "delta", "gated delta", "gated, 2 layers", "hybrid")
mean = {name: rows.mean(axis=0) for name, rows in shares.items()}
twice = slice(3, 6)  # of the CASES
for linear, delta in (("linear", "delta"), ("linear, today", "delta, today")):
    lost_linear, lost_delta = (shares[name][:, 2] - shares[name][:, 5] for name in (linear, delta))
    print(f"16 keys, written twice instead of once: {linear} loses {lost_linear}, {delta} {lost_delta}")
    assert lost_linear.min() > lost_delta.max() + 0.15, "keys that come again must cost the linear state far more"
assert shares["attention"].min() > 0.99, "attention keeps all pairs, and answers everything"
assert min(mean[name][0] - mean[name][2] for name in STATES) > 0.05, "a state must recall less of 16 keys than of 4"
assert mean["delta"][twice].mean() > mean["linear"][twice].mean() + 0.1
assert mean["linear"][2] > mean["delta"][2] + 0.1  # 16 keys, written once
assert abs(mean["gated delta"].mean() - mean["delta"].mean()) < 0.04
assert abs(mean["gated, 2 layers"].mean() - mean["hybrid"].mean()) < 0.04

# %% [markdown]
# Answer: attention answers everything; every state recalls less of 16 keys than of 4. Keys that come again separate
# them: a linear state returns their old values as well, and falls from 92 % to 57 %. The delta rule loses 1 % on
# average, and with no seed more than 5 %. Three things did not come out as one might expect. As long as each key is
# written once, the linear state recalls *more* of 16 keys than the delta rule, 92 % and 74 %. Fading (gated delta)
# makes no difference that ten seeds could show. Nor does it help to have attention above a layer with a state (the
# hybrid): two layers with states recall as much, on average. After this short training, its attention is not worth what
# a layer of attention alone is.

# %% The cache
# A cache keeps the keys and values of a layer with attention, and the state of a layer without. The models below have
# four layers, 64 wide, of four heads: D = 16. `every=4` keeps the attention of each fourth layer.
#
# Predict: after how many tokens is the state the smaller one? And which of the four layers keeps its attention?

# %%
lengths = np.array([8, 64, 512])
n_bytes = np.zeros((3, 3), int)
kept = {}  # by kind of model, the layers that keep keys and values, from 1 on
for row, (name, every) in enumerate({"attention": 1, "hybrid": 4, "states": 0}.items()):
    model = new_gpt(64, lesson.seed, n_layer=4, block_size=512)
    use_linear_attention(model, every=every)
    for column, length in enumerate(lengths):
        cache = KVCache.for_model(model, 1, int(length))
        with no_grad():
            model(np.arange(length)[None] % 64, cache=cache)
        n_bytes[row, column] = cache.nbytes
    kept[name] = [layer + 1 for layer in cache.keys]
    texts = {str(model.generate([[1, 2]], 30, temperature=0, use_cache=use)) for use in (True, False)}
    assert len(texts) == 1, "the greedy text must be the same with the cache and without"
print(f"bytes after {lengths} tokens, with attention, three to one, and with states:", n_bytes, sep="\n")
print("layers that keep keys and values:", kept)
with lesson.picture("state-size", "Bytes of the cache, by the length of the text") as axes:
    for name, row, line in zip(kept, n_bytes, LINES):
        axes.plot(lengths, row, line, marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="bytes")
assert kept["hybrid"] == [4], "every=4 must keep the attention of the fourth layer"
assert kept["attention"] == [1, 2, 3, 4], "every=1 must keep the attention of all layers"
assert (n_bytes[0] == lengths * 4 * 2 * 64 * 4).all()  # 4 layers, keys and values, 64 numbers of 4 bytes
assert (n_bytes[2] == 4 * 4 * 16 * 16 * 4).all(), "a state must have as many bytes after any text"
assert (n_bytes[1] == n_bytes[0] / 4 + n_bytes[2] * 3 / 4).all(), "one layer of four has a cache that grows"
assert n_bytes[0, 0] == n_bytes[2, 0]  # after 8 tokens

# %% [markdown]
# Answer: after D / 2 = 8 tokens. A state has D² numbers, and a cache 2 D for each token. The fourth layer, the last,
# keeps its attention, so the hybrid still grows, at a quarter of the speed. The greedy text is the same with the cache
# and without, for all three.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start delta_rule`
# - read: gpt/model/linear_attention.py, a page; `CausalSelfAttention` in gpt/model/gpt2.py is what it replaces
# - try, below the last cell of a notebook: `STEPS = 800`, then `trained("hybrid", 0, 6e-3)` and the same for "gated,
#   2 layers". Expect: both recall more, and about equally much.
# - lesson: `python scripts/lesson.py 458`
