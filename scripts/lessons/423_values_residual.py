"""Lesson 4.2.3: values, and the residual stream

K gets a token noticed; V is what it delivers. With this third lens attention is complete. What attention finds is then
added to what was there, and does not replace it: a sum that runs through the whole network, on which the gradient has
a straight way back. Vaswani et al. 2017, section 3.2.1; He et al. 2016, "Deep residual learning", section 3.
"""

from __future__ import annotations

import numpy as np

import minigrad.functional as F
from minigrad import Tensor
from scripts.lessons.pictures import Lesson, heatmap

lesson = Lesson("423_values_residual", __doc__)
rng = np.random.default_rng(0)

# %% What is found need not be what is given
# (noun, verb, adjective | plural, small): the adjective looks for a noun, and wants to know whether it is plural.
words = ["small", "mice"]
X = np.array([[0, 0, 1.0, 0, 1.0], [1.0, 0, 0, 1.0, 0]])
W_Q = np.array([[0.0], [0], [3], [0], [0]])  # adjectives seek
W_K = np.array([[1.0], [0], [0], [0], [0]])  # nouns are found
W_V = np.diag([0.0, 0, 0, 1, 1])  # and deliver number and size, not that they are nouns: they were found for that
Q, K, V = X @ W_Q, X @ W_K, X @ W_V
weights = F.softmax(Tensor(Q @ K.T), -1).data
out = weights @ V
print("small attends to", dict(zip(words, weights[0].round(2).tolist())))
print("without V it would take in", (weights @ X)[0], " with V", out[0])
assert out[0, 0] == 0 < out[0, 3]
print("\nlesson 4.2.1  softmax(X X^T) X")
print("lesson 4.2.2  softmax(Q K^T / sqrt(d_k)) X")
print("now           softmax(Q K^T / sqrt(d_k)) V")

# %% n tokens in, n vectors out
T, d_k, d_v = 5, 4, 3
q, k = rng.standard_normal((2, T, d_k))
v = rng.standard_normal((T, d_v))
scores = q @ k.T / np.sqrt(d_k)
weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
by_hand = np.array([sum(weights[i, j] * v[j] for j in range(T)) for i in range(T)])
library = F.scaled_dot_product_attention(Tensor(q), Tensor(k), Tensor(v)).data
print(f"{T} tokens in, {len(library)} vectors out: no summary of the sentence, one answer per question")
print(f"F.scaled_dot_product_attention agrees with the formula to {np.abs(library - by_hand).max():.0e}")
assert np.allclose(library, by_hand) and library.shape == (T, d_v)
# An average with weights >= 0 that sum to 1 stays among what it averages: attention blends, and makes nothing new.
assert (library <= v.max(axis=0)).all() and (library >= v.min(axis=0)).all()

# %% The limitation: attention forgets who asked
# A token that attends elsewhere is gone: what comes out consists of others' values.
elsewhere = np.zeros((T, T))
elsewhere[np.arange(T), (np.arange(T) + 1) % T] = 1
replaced = elsewhere @ v
assert np.array_equal(replaced[0], v[1])
print("if token 0 attends to token 1 only, its output is the value of token 1, with nothing of token 0 in it")
print("so add: x + attention(x). The token keeps what it was, and gets a note beside it")


def attention_layer(x: Tensor, lenses: list[Tensor]) -> Tensor:
    W_Q, W_K, W_V, W_O = lenses
    return F.scaled_dot_product_attention(x @ W_Q, x @ W_K, x @ W_V) @ W_O


def deep(x: Tensor, layers: list[list[Tensor]], residual: bool) -> list[Tensor]:
    """x after each layer."""
    states = [x]
    for lenses in layers:
        found = attention_layer(states[-1], lenses)
        states.append(states[-1] + found if residual else found)
    return states


C, T, depth = 32, 8, 24  # as many as GPT-2 has sub-layers: 12 blocks with two each
assert depth == 12 * 2
layers = [[Tensor(0.5 * rng.standard_normal((C, C)) / np.sqrt(C)) for _ in range(4)] for _ in range(depth)]
signal, gradient = {}, {}
for residual in (False, True):
    x = Tensor(rng.standard_normal((1, T, C)), requires_grad=True)
    states = deep(x, layers, residual)
    for state in states:
        state.retain_grad()
    (states[-1] * Tensor(rng.standard_normal((1, T, C)))).sum().backward()
    # How different are the tokens from each other, and how much gradient arrives?
    signal[residual] = [float(s.data.std(axis=1).mean()) for s in states]
    gradient[residual] = [float(np.abs(s.grad).mean()) for s in states]
print(f"\n{depth} layers of attention, small random weights")
print("                       differences between tokens     gradient at the input, of that at the output")
for residual, name in ((False, "replaced"), (True, "added")):
    d, g = signal[residual], gradient[residual]
    print(f"  {name:>9}            {d[0]:.2f} -> {d[-1]:.1e}                {g[0] / g[-1]:.1e}")
assert signal[False][-1] < 1e-3 < 0.1 < signal[True][-1]
assert gradient[False][0] / gradient[False][-1] < 1e-3 < 0.5 < gradient[True][0] / gradient[True][-1]
print("replaced, all tokens become the same, and no gradient comes back; added, d(x + f(x))/dx = 1 + f'(x): the 1 is a")
print("way past every layer, however bad its f' is")

with lesson.picture("residual", "A stack of 24 attention layers", columns=2, size=(10, 3.8)) as (left, right):
    for axes, curves in ((left, signal), (right, gradient)):
        axes.semilogy(curves[True], "-", color="black", label="x + attention(x)")
        axes.semilogy(curves[False], "--", color="black", label="attention(x)")
        axes.set(xlabel="layer")
        axes.legend(frameon=False)
    left.set(ylabel="spread among the tokens", title="forward: are the tokens still different?")
    right.set(ylabel="mean size of the gradient", title="backward, from the right: does it arrive?")

# %% The stream
# After all layers, x is the input plus what each layer wrote: nothing is ever erased, only added to.
x0 = Tensor(rng.standard_normal((1, T, C)))
states = deep(x0, layers, residual=True)
written = [after.data - before.data for before, after in zip(states, states[1:])]
assert np.allclose(x0.data + sum(written), states[-1].data)
print(f"output = input + {len(written)} notes: every layer reads the document, and adds to it")

sizes = np.array([[np.linalg.norm(note[0, t]) for t in range(T)] for note in written[:8]])
with lesson.picture("notes", "How much each of the first 8 layers adds to each token", size=(6, 4)) as axes:
    heatmap(axes, sizes, [f"layer {i}" for i in range(8)], [f"token {t}" for t in range(T)], ".1f")

# %% The next limitation
print("'The animal did not cross the street because it was tired.' What 'it' is, and what it was: two questions, two")
print("tokens to look at. One set of weights sums to 1: whatever goes to the one is taken from the other.")

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start attention`
# - read: gpt/model/gpt2.py: Block.forward, two additions; minigrad/functional/attention.py
# - break: `python scripts/break.py no_residual`
# - lesson: `python scripts/lesson.py 424`
