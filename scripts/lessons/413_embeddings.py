"""Lesson 4.1.3: embeddings and positions, or what goes into a transformer

A token's number means nothing: token 7 is not more than token 3. So each token gets a row of learned numbers, and
training moves rows of tokens that are used alike towards each other. The rows alone make a bag of words; a second row,
for the place, is added. Vaswani et al. 2017, "Attention is all you need", sections 3.4 and 3.5.
"""

from __future__ import annotations

import numpy as np

import minigrad.functional as F
from gpt.model.original_transformer import sinusoidal_table
from minigrad import Tensor, nn, no_grad
from scripts.lessons.pictures import Lesson
from scripts.lessons.small_gpt import english, new_gpt, train

lesson = Lesson("413_embeddings", __doc__)

# %% A lookup is a product with one-hot vectors
table = nn.Embedding(6, 4)
ids = np.array([3, 1, 3])
one_hot = Tensor(np.eye(6, dtype=np.float32)[ids])  # (T, V): a 1 at the token's number
looked_up, multiplied = table(ids), one_hot @ table.weight  # (T, C)
assert np.array_equal(looked_up.data, multiplied.data)
print("one-hot (3, 6) @ table (6, 4) = rows 3, 1, 3 of the table: so it is a layer, and has a gradient:")
looked_up.sum().backward()
print("gradient of the table's rows:", table.weight.grad[:, 0], " (row 3 was used twice)")
assert table.weight.grad[:, 0].tolist() == [0, 1, 0, 2, 0, 0]
assert 50_000 * 768 == 38_400_000
print(f"50,000 tokens x 768 numbers = {50_000 * 768 / 1e6:.1f}M parameters, learned like all others")

# %% Before and after training
tokenizer, train_ids, _ = english()
model = new_gpt(len(tokenizer))
before = model.transformer.wte.weight.data.copy()
losses = train(model, train_ids, 300)
after = model.transformer.wte.weight.data.copy()
print(f"a small GPT, 300 steps: loss {losses[0]:.2f} -> {np.mean(losses[-20:]):.2f}")

groups = {
    "verbs": [" is", " are", " can", " may", " will", " must"],
    "small words": [" of", " in", " for", " by", " from", " with"],
    "articles": [" the", " a", " an", " this"],
    "endings": ["s", "ed", "ing", "er", "ly"],
}
found = {name: [w for w in words if len(tokenizer.encode(w)) == 1] for name, words in groups.items()}
chosen = [(name, word, tokenizer.encode(word)[0]) for name, words in found.items() for word in words]


def cosine(rows: np.ndarray) -> np.ndarray:
    """How alike directions are: (n, C) -> (n, n), 1 for the same."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


def togetherness(rows: np.ndarray) -> tuple[float, float]:
    """The mean likeness inside the groups, and between them."""
    alike = cosine(rows[[i for _, _, i in chosen]])
    names = np.array([name for name, _, _ in chosen])
    same = (names[:, None] == names) & ~np.eye(len(names), dtype=bool)
    return float(alike[same].mean()), float(alike[names[:, None] != names].mean())


gaps = []
for when, rows in (("before", before), ("after", after)):
    inside, between = togetherness(rows - rows.mean(axis=0))
    gaps.append(inside - between)
    print(f"{when:>6}: likeness inside a group {inside:5.2f}, between groups {between:5.2f}")
assert gaps[1] > gaps[0] + 0.05
print("(these are all frequent tokens, which training tells from rare ones first; then come finer differences)")


def two_dimensions(rows: np.ndarray) -> np.ndarray:
    """Principal components: the plane in which the rows differ most. (n, C) -> (n, 2), by a singular value split."""
    centred = rows - rows.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T


with lesson.picture("clusters", "Rows of the embedding, seen from where they differ most", 2, size=(11, 4.8)) as panels:
    for axes, when, rows in zip(panels, ("before training", "after"), (before, after)):
        flat = two_dimensions(rows[[i for _, _, i in chosen]])
        for marker, name in zip("os^D", found):
            places = np.array([p for p, (group, _, _) in zip(flat, chosen) if group == name])
            axes.plot(*places.T, marker, color="black", markerfacecolor="0.75", markersize=5, label=name)
        for (x, y), (_, word, _) in zip(flat, chosen):
            axes.annotate(word.strip(), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
        axes.set(title=when, xlabel="first component", ylabel="second component")
        axes.margins(0.12)
        if when == "after":
            axes.legend(frameon=False, fontsize=8)

# %% The limitation: a bag of words
words = {word: row for word, row in zip(("dog", "bites", "man"), np.eye(3, dtype=np.float32))}
sentences = [["dog", "bites", "man"], ["man", "bites", "dog"]]
bags = [np.mean([words[w] for w in sentence], axis=0) for sentence in sentences]
assert np.array_equal(*bags)
print("mean of the rows: 'dog bites man' = 'man bites dog'")
# Attention does not help: without positions, it makes the same of a token wherever the token stands.
attended = []
for sentence in sentences:
    x = Tensor(np.array([[words[w] for w in sentence]]))  # (1, T, C)
    out = F.scaled_dot_product_attention(x, x, x).data[0]
    attended.append(dict(zip(sentence, out)))
assert all(np.allclose(attended[0][w], attended[1][w]) for w in words)
print("attention without positions: each word gets the same output in both")

# %% Positions, computed
T, C = 128, 64
code = sinusoidal_table(T, C)  # (T, C)
# What a code for positions should be, and this one is:
distances = np.linalg.norm(code[:, None] - code[None], axis=-1)
assert distances[~np.eye(T, dtype=bool)].min() > 0.5  # 1. different for every position
assert np.abs(code).max() <= 1  # 2. bounded, unlike the plain number of the position
longer = sinusoidal_table(4 * T, C)
assert np.allclose(longer[:T], code)  # 3. the same in any length of text, also in longer ones than were trained on
# 4. distances can be read off: a step of k tokens is the same rotation everywhere, like that of a clock's hands
angle = 5.0 / 10000 ** (np.arange(0, C, 2) / C)
sines, cosines = code[:, 0::2], code[:, 1::2]
assert np.allclose(sines[:-5] * np.cos(angle) + cosines[:-5] * np.sin(angle), sines[5:], atol=1e-4)
similarity = code @ code.T
assert np.allclose(np.diag(similarity, 10), similarity[0, 10], atol=1e-4)
print("different everywhere, bounded, of any length, and 5 tokens further is the same rotation everywhere")
turns = 2 * np.pi * 5 / angle[[0, -1]]
print(f"the first pair of columns turns once in {turns[0]:.1f} tokens, the last once in {turns[1]:,.0f}")

with lesson.picture("positions", "Sinusoidal positions", columns=2, size=(11, 4)) as (left, right):
    left.imshow(code.T, cmap="Greys", aspect="auto", interpolation="nearest")
    left.set(xlabel="position (tokens)", ylabel="column", title="dark: 1, white: -1")
    for k, line in ((20, "-"), (64, "--"), (100, ":")):
        right.plot(similarity[k] / similarity[k, k], line, color="black", label=f"position {k}")
    right.set(xlabel="other position", ylabel="likeness (cosine)", title="likeness falls with the distance")
    right.legend(frameon=False)

# %% Positions, learned, and added
wpe = model.transformer.wpe.weight.data  # (32, 64): a second table, indexed by place
print(f"a second table, {wpe.shape}: row t is added to whatever token stands at t")
try:
    model(np.zeros((1, 33), np.int64))
    raise AssertionError("a 33rd position would have to come from somewhere")
except ValueError as error:
    print(f"but a table ends: {error}")
with no_grad():
    x = model.transformer.wte(train_ids[:8]) + model.transformer.wpe(np.arange(8))
print(f"input = wte(token) + wpe(position): added, not put side by side, so it stays {x.shape[-1]} wide")
assert x.shape == (8, 64)

# %% The next limitation
row = model.transformer.wte(np.array(tokenizer.encode(" or")))
assert np.array_equal(row.data, model.transformer.wte(np.array(tokenizer.encode(" or"))).data)
print("'river bank' and 'bank account': the lookup gives the same row in both, whatever stands beside it.")
print("What a word means depends on its neighbours; the next lessons let rows look at each other.")

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start embedding`
# - read: minigrad/functional/indexing.py: Embedding; gpt/model/original_transformer.py
# - break: `python scripts/break.py no_positions`: the bag of words, trained
# - lesson: `python scripts/lesson.py 421`
