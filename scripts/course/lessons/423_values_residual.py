"""Lesson 4.2.3: values, and the residual stream

The key gets a token noticed; the value is what it delivers. With this third projection, attention is complete. Its
output is then added to the token instead of replacing it. The residual stream is this sum, which runs through the whole
network; gradients flow back along it. Vaswani et al. 2017, 3.2.1; He et al. 2016, "Deep residual learning", section 3.
"""

import numpy as np

import minigrad.functional as F
from gpt import GPT, GPTConfig
from minigrad import Tensor
from scripts.course.pictures import Lesson

lesson = Lesson("423_values_residual", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% Three projections
# So far the average was one of X: what gets a token noticed is also what it passes on. Now a third matrix, W_V, turns
# each row into a value, v = x W_V, and attention averages the values.
#
# Two words, with the columns (noun, verb, adjective | plural, small). "small" looks for a noun, and needs to know
# whether it is plural. W_Q lets adjectives seek, W_K lets nouns be noticed, and W_V passes on number and size only.

# %%
words = ["small", "mice"]
X = np.array([[0, 0, 1.0, 0, 1.0], [1.0, 0, 0, 1.0, 0]])
W_Q = np.array([[0.0], [0], [3], [0], [0]])
W_K = np.array([[1.0], [0], [0], [0], [0]])
W_V = np.diag([0.0, 0, 0, 1, 1])
Q, K, V = X @ W_Q, X @ W_K, X @ W_V
print("mice: query", Q[1], " key", K[1], " value", V[1], "  without projections, all three are", X[1])
assert Q[1, 0] == 0 < K[1, 0] and V[1].tolist() == [0, 0, 0, 1, 0]  # it seeks nothing, is noticed, delivers "plural"

# %% [markdown]
# **Three lenses, one embedding**: "mice" seeks nothing, offers itself as a noun, and delivers "plural".
#
# Predict: a stranger kind of mice has "noun" 0.5 in place of 1. Another has "plural" 0.5. Which of the two changes how
# much "small" looks at it?

# %%
weights = F.softmax(Tensor(Q @ K.T), -1).data
out = weights @ V
print("small attends to", dict(zip(words, weights[0].round(2).tolist())))
print("without V its output is", (weights @ X)[0], " with V", out[0])
assert out[0, 0] == 0 < 0.5 < min((weights @ X)[0, 0], out[0, 3])

# %%
moves = {}
for name, column in (("noun", 0), ("plural", 3)):
    other = X.copy()
    other[1, column] = 0.5
    moves[name] = [float(np.abs((other - X) @ W).max()) for W in (W_K, W_V, np.eye(5))]
    moved = F.softmax(Tensor(Q @ (other @ W_K).T), -1).data[0, 1] - weights[0, 1]
    key, value, row = moves[name]
    print(f"change {name!r}: weight of mice {moved:+.2f}, its key {key}, its value {value}; the row that is both {row}")
assert moves == {"noun": [0.5, 0, 0.5], "plural": [0, 0.5, 0.5]}

# %% [markdown]
# Answer: only "noun". **K gets you noticed; V is what you deliver.** Without projections, any change of a row changes
# both.
#
# | lesson | formula |
# |---|---|
# | 4.2.1 | softmax(X X^T) X |
# | 4.2.2 | softmax(Q K^T / sqrt(d_k)) X |
# | now | softmax(Q K^T / sqrt(d_k)) V |
#
# ## From a sentence to its outputs
#
# Predict: five tokens go into attention. How many averages come out?

# %%
T, d_k, d_v = 5, 4, 3
q, k = rng.standard_normal((2, T, d_k))
v = rng.standard_normal((T, d_v))
scores = q @ k.T / np.sqrt(d_k)
weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
by_hand = np.array([sum(weights[i, j] * v[j] for j in range(T)) for i in range(T)])
library = F.scaled_dot_product_attention(Tensor(q), Tensor(k), Tensor(v)).data
print(f"{T} tokens in, {len(library)} vectors out:\n", library)
print(f"difference of F.scaled_dot_product_attention from the formula: {np.abs(library - by_hand).max():.0e}")
assert np.allclose(library, by_hand) and library.shape == (T, d_v)
# Weights >= 0 that sum to 1 make an average, which stays within the range of the values: attention blends.
assert (library <= v.max(axis=0)).all() and (library >= v.min(axis=0)).all()

# %% [markdown]
# Answer: five. Attention does not make one summary of the sentence. Each token has weights of its own, and gets its own
# average.
#
# ## Many layers
#
# If token 0 attends only to token 1, its output is the value of token 1, and contains nothing of token 0. What happens
# if this is repeated in 24 layers? (GPT-2 has as many sub-layers: 12 blocks of two.) In the next cell, W_V and W_O are
# rotations times sqrt(scale), so a layer multiplies the size of everything by `scale`, apart from its averaging. As a
# control, a layer in which each token sees only itself does not average. And `added` means x + attention(x).
#
# Predict: 24 layers replace each token by its attention output. What becomes of the differences between tokens? Does
# it depend on the scale?

# %%
C, T, depth = 32, 8, 24
Layer = list[Tensor]


def new_layers(scale: float) -> list[Layer]:
    """W_Q, W_K, W_V and W_O of each layer: rotations, the last two times sqrt(scale)."""
    sizes = (1, 1, np.sqrt(scale), np.sqrt(scale))
    return [[Tensor(size * np.linalg.qr(rng.standard_normal((C, C)))[0]) for size in sizes] for _ in range(depth)]


def attention_layer(x: Tensor, layer: Layer, alone: bool = False) -> Tensor:
    """alone: each token sees only itself."""
    W_Q, W_K, W_V, W_O = layer
    sees = np.eye(T, dtype=bool) if alone else None
    return F.scaled_dot_product_attention(x @ W_Q, x @ W_K, x @ W_V, attn_mask=sees) @ W_O


def deep(x: Tensor, layers: list[Layer], added: bool = False, alone: bool = False) -> list[Tensor]:
    """x after each layer."""
    states = [x]
    for layer in layers:
        found = attention_layer(states[-1], layer, alone)
        states.append(states[-1] + found if added else found)
    return states


# %%
WAYS = {"replaced": {}, "replaced, each sees itself": {"alone": True}, "added": {"added": True}}
differences, gradients = {}, {}
print("                            scale   differences between tokens   gradient at the input, of that at the output")
for scale in (0.25, 1.0):
    layers, start, end = new_layers(scale), *(rng.standard_normal((2, 1, T, C)))
    for name, way in WAYS.items():
        states = deep(Tensor(start, requires_grad=True), layers, **way)
        for state in states:
            state.retain_grad()
        (states[-1] * Tensor(end)).sum().backward()
        # How different are the tokens from each other, as a part of their size? How much gradient reaches each layer?
        d = differences[name, scale] = [float(s.data.std(axis=1).mean() / np.sqrt((s.data**2).mean())) for s in states]
        g = gradients[name, scale] = [float(np.sqrt((s.grad**2).mean())) for s in states]
        print(f"{name:27} {scale:5}   {d[0]:11.2f} -> {d[-1]:<11.1g} {g[0] / g[-1]:24.1g}")

# %%
arrives = {case: g[0] / g[-1] for case, g in gradients.items()}
for scale in (0.25, 1.0):
    assert differences["replaced", scale][-1] < 1e-6 < 0.5 < differences["replaced, each sees itself", scale][-1]
    assert np.isclose(arrives["replaced, each sees itself", scale], scale**depth)  # each layer multiplies it by scale
    assert 0.1 < arrives["replaced", scale] / scale**depth < 1
assert differences["added", 0.25][-1] > 0.3 > 0.1 > differences["added", 1.0][-1] and 0.5 < arrives["added", 0.25] < 20

# %%
title = "A stack of 24 attention layers, scale 0.25"
with lesson.picture("residual", title, columns=2, size=(10, 3.8)) as (left, right):
    for axes, curves in ((left, differences), (right, gradients)):
        for name, line in zip(WAYS, ("--", ":", "-")):
            axes.semilogy(curves[name, 0.25], line, label=name)
        axes.set(xlabel="layer")
    left.set(ylabel="differences between tokens", title="forward: are the tokens still different?")
    right.set(ylabel="root mean square of the gradient", title="backward, from the right: does it arrive?")

# %% [markdown]
# Answer: they vanish, at either scale: every layer averages, and in the end all tokens are the same up to
# rounding. Where each token sees only itself, the differences stay. The gradient is another matter. Every layer
# multiplies it by the scale, so after 24 layers with 0.25 nothing arrives at the first, and with 1 it does. Averaging
# takes away only the part of the gradient in which the tokens differ, here about half.
#
# So add: x + attention(x). Each token keeps what it was. With small weights, as at the start of GPT-2's training, each
# layer changes it a little, and differences and gradient both survive: d(x + f(x))/dx = 1 + f'(x), and the 1 is a path
# for the gradient around every layer, which no scale makes smaller. Large weights are a problem for the sum as well
# (the last line of the table): it grows with each layer, and the averages outweigh the tokens. Lesson 4.2.5 has a
# remedy.
#
# ## A shared document
#
# After all layers, x is the input plus what each layer wrote. A layer can only add to the stream, not replace it.
#
# Predict: can the input still be recognized after 24 layers? (A cosine of 1: the same direction; about 0: unrelated.)

# %%
layers, x0 = new_layers(0.25), rng.standard_normal((1, T, C))
output, sum_of_notes, recognized = {}, {}, {}
for name, way in WAYS.items():
    states = [state.data for state in deep(Tensor(x0), layers, **way)]
    notes = [attention_layer(Tensor(s), layer, "alone" in way).data for s, layer in zip(states, layers)]
    output[name], sum_of_notes[name] = states[-1], sum(notes)
    recognized[name] = float((x0 * output[name]).sum() / np.linalg.norm(x0) / np.linalg.norm(output[name]))
    difference = np.abs(output[name] - (x0 + sum_of_notes[name])).max()
    print(f"{name:27} output - (input + notes): {difference:.0e}   cosine of input and output: {recognized[name]:.2f}")
assert np.allclose(x0 + sum_of_notes["added"], output["added"])
assert not np.allclose(x0 + sum_of_notes["replaced"], output["replaced"])
assert recognized["added"] > 0.4 > max(abs(recognized[name]) for name in WAYS if name != "added")

# %%
x = Tensor(x0.astype(np.float32))
for block in GPT(GPTConfig(vocab_size=2, block_size=T, n_layer=12, n_head=1, n_embd=C)).transformer.h:
    x = block(x)
recognized["GPT-2"] = float((x0 * x.data).sum() / np.linalg.norm(x0) / np.linalg.norm(x.data))
print(f"12 blocks of GPT-2, before training: cosine {recognized['GPT-2']:.2f}")
assert recognized["GPT-2"] > 0.9

# %% [markdown]
# Answer: yes, where layers add, and so in GPT-2; no, where they replace. **The residual stream is a shared document**:
# each layer reads it and adds a note.
#
# ## The limitation: one softmax, one question
#
# "The animal did not cross the street because it was tired." What is "it", and how was it? These are two questions,
# with answers at two tokens. But one set of weights sums to 1: more for one is less for the other.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start attention`
# - line by line: `python scripts/step.py --html attention`
# - read: gpt/model/gpt2.py: Block.forward, two additions; minigrad/functional/attention.py
# - break: `python scripts/break.py no_residual`. Expect: only two blocks, and still the loss after 350 steps is about
#   5.3, where the healthy model has 4.1.
# - lesson: `python scripts/lesson.py 424`
