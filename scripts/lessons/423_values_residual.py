"""Lesson 4.2.3: values, and the residual stream

The key gets a token noticed; the value is what it delivers. With this third projection, attention is complete. Its
output is then added to the token instead of replacing it. The residual stream is this sum, which runs through the whole
network; gradients flow back along it. Vaswani et al. 2017, 3.2.1; He et al. 2016, "Deep residual learning", section 3.
"""

from __future__ import annotations

import numpy as np

import minigrad.functional as F
from minigrad import Tensor
from scripts.pages.pictures import Lesson, heatmap

lesson = Lesson("423_values_residual", __doc__)
rng = np.random.default_rng(0)

# %% Three projections
# (noun, verb, adjective | plural, small): the adjective looks for a noun and needs to know whether it is plural.
words = ["small", "mice"]
X = np.array([[0, 0, 1.0, 0, 1.0], [1.0, 0, 0, 1.0, 0]])
W_Q = np.array([[0.0], [0], [3], [0], [0]])  # adjectives seek
W_K = np.array([[1.0], [0], [0], [0], [0]])  # nouns get noticed
W_V = np.diag([0.0, 0, 0, 1, 1])  # and deliver number and size, not that they are nouns
Q, K, V = X @ W_Q, X @ W_K, X @ W_V
assert Q[1, 0] == 0 < K[1, 0] and V[1].tolist() == [0, 0, 0, 1, 0]  # mice: seeks nothing, is noticed, delivers "plural"
weights = F.softmax(Tensor(Q @ K.T), -1).data
out = weights @ V
print("small attends to", dict(zip(words, weights[0].round(2).tolist())))
print("without V its output is", (weights @ X)[0], " with V", out[0])
assert out[0, 0] == 0 < out[0, 3]

# %% [markdown]
# | lesson | formula |
# |---|---|
# | 4.2.1 | softmax(X X^T) X |
# | 4.2.2 | softmax(Q K^T / sqrt(d_k)) X |
# | now | softmax(Q K^T / sqrt(d_k)) V |

# %% Every token has its own output
# Attention does not make one summary of the sentence. Each token has weights of its own, and gets its own average.
T, d_k, d_v = 5, 4, 3
q, k = rng.standard_normal((2, T, d_k))
v = rng.standard_normal((T, d_v))
scores = q @ k.T / np.sqrt(d_k)
weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
by_hand = np.array([sum(weights[i, j] * v[j] for j in range(T)) for i in range(T)])
library = F.scaled_dot_product_attention(Tensor(q), Tensor(k), Tensor(v)).data
print(f"{T} tokens in, {len(library)} vectors out")
print(f"difference of F.scaled_dot_product_attention from the formula: {np.abs(library - by_hand).max():.0e}")
assert np.allclose(library, by_hand) and library.shape == (T, d_v)
# Weights >= 0 that sum to 1 make an average, which stays within the range of the values: attention blends.
assert (library <= v.max(axis=0)).all() and (library >= v.min(axis=0)).all()

# %% The output replaces the token
# If token 0 attends only to token 1, its output is the value of token 1, and contains nothing of token 0.
#
# Predict: 24 layers replace each token by its attention output. What becomes of the differences between tokens?
elsewhere = np.zeros((T, T))
elsewhere[np.arange(T), (np.arange(T) + 1) % T] = 1
replaced = elsewhere @ v
assert np.array_equal(replaced[0], v[1])


def attention_layer(x: Tensor, weights: list[Tensor]) -> Tensor:
    W_Q, W_K, W_V, W_O = weights
    return F.scaled_dot_product_attention(x @ W_Q, x @ W_K, x @ W_V) @ W_O


def deep(x: Tensor, layers: list[list[Tensor]], residual: bool) -> list[Tensor]:
    """x after each layer."""
    states = [x]
    for weights in layers:
        found = attention_layer(states[-1], weights)
        states.append(states[-1] + found if residual else found)
    return states


C, T, depth = 32, 8, 24  # GPT-2 has as many sub-layers: 12 blocks of two
layers = [[Tensor(0.5 * rng.standard_normal((C, C)) / np.sqrt(C)) for _ in range(4)] for _ in range(depth)]
signal, gradient = {}, {}
for residual in (False, True):
    x = Tensor(rng.standard_normal((1, T, C)), requires_grad=True)
    states = deep(x, layers, residual)
    for state in states:
        state.retain_grad()
    (states[-1] * Tensor(rng.standard_normal((1, T, C)))).sum().backward()
    # How different are the tokens from each other, and how much gradient reaches each layer?
    signal[residual] = [float(s.data.std(axis=1).mean()) for s in states]
    gradient[residual] = [float(np.abs(s.grad).mean()) for s in states]
print(f"\n{depth} layers of attention, small random weights")
print("                       differences between tokens     gradient at the input, of that at the output")
for residual, name in ((False, "replaced"), (True, "added")):
    d, g = signal[residual], gradient[residual]
    print(f"  {name:>9}            {d[0]:.2f} -> {d[-1]:.1e}                {g[0] / g[-1]:.1e}")
assert signal[False][-1] < 1e-3 < 0.1 < signal[True][-1]
assert gradient[False][0] / gradient[False][-1] < 1e-3 < 0.5 < gradient[True][0] / gradient[True][-1]

with lesson.picture("residual", "A stack of 24 attention layers", columns=2, size=(10, 3.8)) as (left, right):
    for axes, curves in ((left, signal), (right, gradient)):
        axes.semilogy(curves[True], "-", color="black", label="x + attention(x)")
        axes.semilogy(curves[False], "--", color="black", label="attention(x)")
        axes.set(xlabel="layer")
    left.set(ylabel="spread among the tokens", title="forward: are the tokens still different?")
    right.set(ylabel="mean size of the gradient", title="backward, from the right: does it arrive?")

# %% [markdown]
# Answer: they vanish. Every layer averages, so after 24 layers all tokens are the same, and hardly any gradient arrives
# at the first layer. So add: x + attention(x). Each token keeps what it was, and differences and gradient stay:
# d(x + f(x))/dx = 1 + f'(x), and the 1 is a path for the gradient around every layer.

# %% A shared document
# After all layers, x is the input plus what each layer wrote. Layers add to the stream and never erase it.
x0 = Tensor(rng.standard_normal((1, T, C)))
states = deep(x0, layers, residual=True)
written = [after.data - before.data for before, after in zip(states, states[1:])]
assert np.allclose(x0.data + sum(written), states[-1].data)
print(f"output = input + {len(written)} notes")

sizes = np.array([[np.linalg.norm(note[0, t]) for t in range(T)] for note in written[:8]])
with lesson.picture("notes", "How much each of the first 8 layers adds to each token", size=(6, 4)) as axes:
    heatmap(axes, sizes, [f"layer {i}" for i in range(8)], [f"token {t}" for t in range(T)], ".1f")

# %% [markdown]
# ## The limitation: one softmax, one question
#
# "The animal did not cross the street because it was tired." What is "it", and how was it? These are two questions,
# with answers at two tokens. But one set of weights sums to 1: more for one is less for the other.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start attention`
# - read: gpt/model/gpt2.py: Block.forward, two additions; minigrad/functional/attention.py
# - break: `python scripts/break.py no_residual`. Expect: only two blocks, and still the loss after 350 steps is about
#   5.3, where the healthy model has 4.1.
# - lesson: `python scripts/lesson.py 424`
