"""Lesson 4.1.3: embeddings and positions, or what goes into a transformer

A token's id has no meaning of its own: token 7 is not more than token 3. So each token gets a row of learned numbers,
and training moves the rows of tokens with a similar use towards each other. Rows alone make a bag of words, so a second
row, for the position, is added. Vaswani et al. 2017, "Attention is all you need", sections 3.4 and 3.5.
"""

from __future__ import annotations

import numpy as np

import minigrad.functional as F
from gpt import GPTConfig, accounting
from gpt.model.original_transformer import sinusoidal_table
from minigrad import Tensor, nn, no_grad, optim
from scripts.lessons.small_gpt import english, new_gpt, train, train_once
from scripts.pages.pictures import Lesson

lesson = Lesson("413_embeddings", __doc__)

# %% A lookup is a matrix product
# One-hot rows times a table select rows of the table. So a lookup is a layer, and its table has a gradient.
table = nn.Embedding(6, 4)
ids = np.array([3, 1, 3])
one_hot = Tensor(np.eye(6, dtype=np.float32)[ids])  # (T, V): a 1 at the token's number
looked_up, multiplied = table(ids), one_hot @ table.weight  # (T, C)
assert np.array_equal(looked_up.data, multiplied.data)
print("one-hot (3, 6) @ table (6, 4) = rows 3, 1, 3 of the table")
looked_up.sum().backward()
print("gradient of each row:", table.weight.grad[:, 0], " (row 3 was used twice)")
assert table.weight.grad[:, 0].tolist() == [0, 1, 0, 2, 0, 0]
gpt2 = accounting.parameters(GPTConfig())["token embedding"]
print(f"GPT-2: 50,257 tokens x 768 numbers = {gpt2 / 1e6:.1f}M parameters, learned like all others")

# %% Rows of similar tokens move together
tokenizer, train_ids, _ = english()
model = new_gpt(len(tokenizer))
before = model.transformer.wte.weight.data.copy()
early = new_gpt(len(tokenizer))  # the same weights at first
train(early, train_ids, 40)
during = early.transformer.wte.weight.data
losses = train_once(model, train_ids, 300)
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
    """The cosine of the angle between each two rows: (n, C) -> (n, n)."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


def togetherness(rows: np.ndarray) -> tuple[float, float]:
    """The mean cosine within the groups, and between them."""
    alike = cosine(rows[[i for _, _, i in chosen]])
    names = np.array([name for name, _, _ in chosen])
    same = (names[:, None] == names) & ~np.eye(len(names), dtype=bool)
    return float(alike[same].mean()), float(alike[names[:, None] != names].mean())


gaps = []
for when, rows in (("before", before), ("during", during), ("after", after)):
    inside, between = togetherness(rows - rows.mean(axis=0))
    gaps.append(inside - between)
    print(f"{when:>6}: mean cosine within a group {inside:5.2f}, between groups {between:5.2f}")
assert gaps[2] > gaps[0] + 0.05


def two_dimensions(rows: np.ndarray) -> np.ndarray:
    """Principal components: the plane in which the rows differ most. (n, C) -> (n, 2)."""
    centered = rows - rows.mean(axis=0)
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    return centered @ directions[:2].T


with lesson.picture("clusters", "Rows of the embedding, in the plane of most variance", 3, size=(15, 4.8)) as panels:
    for axes, when, rows in zip(panels, ("before training", "after 40 steps", "after 300"), (before, during, after)):
        flat = two_dimensions(rows[[i for _, _, i in chosen]])
        for marker, name in zip("os^D", found):
            places = np.array([p for p, (group, _, _) in zip(flat, chosen) if group == name])
            label = name if when == "after 300" else None
            axes.plot(*places.T, marker, color="black", markerfacecolor="0.75", markersize=5, label=label)
        for (x, y), (_, word, _) in zip(flat, chosen):
            axes.annotate(word.strip(), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
        axes.set(title=when, xlabel="first component", ylabel="second component")
        axes.margins(0.12)
        if when == "after 300":
            axes.legend(frameon=False, fontsize=8)

# %% Without positions: a bag of words
# Predict: does attention, without positions, tell 'dog bites man' from 'man bites dog'?
words = {word: row for word, row in zip(("dog", "bites", "man"), np.eye(3, dtype=np.float32))}
sentences = [["dog", "bites", "man"], ["man", "bites", "dog"]]
bags = [np.mean([words[w] for w in sentence], axis=0) for sentence in sentences]
print("mean of the rows:", *bags)
assert np.array_equal(*bags)
# Attention alone does not help: without positions, a token's output does not depend on where the token stands.
attended = []
for sentence in sentences:
    x = Tensor(np.array([[words[w] for w in sentence]]))  # (1, T, C)
    out = F.scaled_dot_product_attention(x, x, x).data[0]
    attended.append(dict(zip(sentence, out)))
print("output of 'dog' in both:", *(outputs["dog"] for outputs in attended))
assert all(np.allclose(attended[0][w], attended[1][w]) for w in words)

# %% [markdown]
# Answer: no. Attention is a sum over tokens, and a sum does not know the order of its terms: each word gets the same
# output in both sentences.

# %% Sinusoidal positions
# Four requirements for a code of positions: different at every position, bounded, possible for texts of any length, and
# regular, so that "5 tokens further" is the same everywhere. Sines and cosines of many frequencies have all four: each
# pair of columns turns like a hand of a clock, the first fast and the last slowly.
T, C = 128, 64
code = sinusoidal_table(T, C)  # (T, C)
distances = np.linalg.norm(code[:, None] - code[None], axis=-1)
assert distances[~np.eye(T, dtype=bool)].min() > 0.5  # 1. different for every position
assert np.abs(code).max() <= 1  # 2. bounded, unlike the plain number of the position
longer = sinusoidal_table(4 * T, C)
assert np.allclose(longer[:T], code)  # 3. the same for texts of any length, longer than those in training too
# 4. regular: a step of k tokens is the same rotation everywhere, like the hands of a clock
angle = 5.0 / 10000 ** (np.arange(0, C, 2) / C)
sines, cosines = code[:, 0::2], code[:, 1::2]
assert np.allclose(sines[:-5] * np.cos(angle) + cosines[:-5] * np.sin(angle), sines[5:], atol=1e-4)
similarity = code @ code.T
assert np.allclose(np.diag(similarity, 10), similarity[0, 10], atol=1e-4)
turns = 2 * np.pi * 5 / angle[[0, -1]]
print(f"tokens for a whole turn: first pair of columns {turns[0]:.1f}, last {turns[1]:,.0f}")
assert np.isclose(turns[0], 2 * np.pi) and turns[1] > 4 * T

with lesson.picture("positions", "Sinusoidal positions", columns=2, size=(11, 4)) as (left, right):
    left.imshow(code.T, cmap="Greys", aspect="auto", interpolation="nearest")
    left.set(xlabel="position (tokens)", ylabel="column", title="dark: 1, white: -1")
    for k, line in ((20, "-"), (64, "--"), (100, ":")):
        right.plot(similarity[k] / similarity[k, k], line, color="black", label=f"position {k}")
    right.set(xlabel="other position", ylabel="cosine", title="nearby positions have similar codes")

# %% Learned positions: GPT-2's way
# A second table of learned rows: row t is added to the row of the token at position t. It is simpler, but a table ends.
wte, wpe = model.transformer.wte.weight.data, model.transformer.wpe.weight.data  # (512, 64) and (32, 64)
print(f"the table of positions: {wpe.shape}")
try:
    model(np.zeros((1, 33), np.int64))
    raise AssertionError("the model accepted a position that it has no row for")
except ValueError as error:
    print(f"33 tokens: {error}")

# %% Token embedding + position embedding = the model's input
# A hook catches what the first block of the trained model really gets.
ids = train_ids[:8]
inputs: list[np.ndarray] = []
hook = model.transformer.h[0].register_forward_hook(lambda block, given, output: inputs.append(given[0].data[0]))
with no_grad():
    model(ids[None])
hook.remove()
added = wte[ids] + wpe[:8]  # (T, C)
assert np.array_equal(inputs[0], added)
print(f"{tokenizer.decode(ids)!r}: the block gets {inputs[0].shape}, which is exactly wte[ids] + wpe[:8]")

# %% [markdown]
# Why add, and not concatenate? Concatenating makes 2C numbers per token. A matrix that maps them back to C contains the
# sum as a special case: [token, position] @ [[I], [I]] = token + position. And is anything lost in the sum? The last
# lines test whether a linear map can find the position in it, on tokens that it was not fitted on.

# %%
side_by_side = np.concatenate([wte[ids], wpe[:8]], axis=1)  # (T, 2C)
eye = np.eye(64, dtype=np.float32)
assert np.allclose(side_by_side @ np.concatenate([eye, eye]), added, atol=1e-6)
double = GPTConfig(n_embd=2 * 768).num_parameters() / GPTConfig().num_parameters()
print(f"width: concatenated {side_by_side.shape[1]}, added {added.shape[1]}")
print(f"a GPT-2 of twice the width has {double:.1f} times the parameters")
rng = np.random.default_rng(0)
tokens, places = rng.integers(0, len(wte), 8000), rng.integers(0, 32, 8000)
mixed = np.column_stack([wte[tokens] + wpe[places], np.ones(8000)])
probe = np.linalg.lstsq(mixed[:6000], np.eye(32)[places[:6000]], rcond=None)[0]
hits = float(np.mean((mixed[6000:] @ probe).argmax(axis=1) == places[6000:]))
print(f"the right one of 32 positions, found in the sum: {hits:.0%} (guessing: 3 %)")
assert hits > 0.5

# %% The output layer mirrors the embedding
# In: id -> row, V -> C. Out: hidden state -> one logit per token, C -> V. GPT-2 uses one matrix for both: the logit of
# a token is the dot product of the hidden state with the token's row. Embed a token and unembed it at once: how often
# does the token itself get the highest logit?
hidden = Tensor(rng.standard_normal((1, 64)).astype(np.float32))
logits = model.lm_head(hidden).data[0]  # (V,)
assert np.allclose(logits, [hidden.data[0] @ row for row in wte], atol=1e-4)
returned = {}
for when, rows in (("before training", before), ("after", after)):
    returned[when] = float(np.mean((rows @ rows.T).argmax(axis=1) == np.arange(len(rows))))
print("a token returns to itself: " + ", ".join(f"{when} {share:.0%}" for when, share in returned.items()))
assert returned["before training"] > 0.9

# %% [markdown]
# The blocks between the two have to turn "which token is this" into "which token comes next".

# %% The limitation: one row for 'bank'
# Four pairs of words, read in these sentences only. The smallest language model: a row per word, and a linear output.
text = ["river bank floods", "money bank lends", "river shore floods", "money vault lends"]
vocabulary = sorted({word for sentence in text for word in sentence.split()})
number = {word: i for i, word in enumerate(vocabulary)}
pairs = np.array([[number[a], number[b]] for s in text for a, b in zip(s.split(), s.split()[1:])])
rows, output = nn.Embedding(len(vocabulary), 8), nn.Linear(8, len(vocabulary))
optimizer = optim.Adam([*rows.parameters(), *output.parameters()], lr=0.03)
for _ in range(300):
    loss = F.cross_entropy(output(rows(pairs[:, 0])), pairs[:, 1])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
for word in ("shore", "vault", "bank"):
    probs = F.softmax(output(rows(np.array([number[word]]))), -1).data[0]
    shown = {name: round(float(probs[number[name]]), 2) for name in ("floods", "lends")}
    alike = {n: round(float(cosine(rows.weight.data)[number[word], number[n]]), 2) for n in ("shore", "vault")}
    print(f"  after {word:6} {shown}   cosine of its row with those of {alike}")
    if word == "bank":
        assert all(0.4 < share < 0.6 for share in shown.values()) and abs(alike["shore"] - alike["vault"]) < 0.4
    else:
        assert max(shown.values()) > 0.95

# %% [markdown]
# "River bank" and "money bank" are clear to us. The lookup gives "bank" the same row in both, a compromise between
# "shore" and "vault". But the meaning of a word depends on its neighbors. The next lessons add that.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start embedding`, then positions
# - read: minigrad/functional/indexing.py: Embedding; gpt/model/original_transformer.py
# - break: `python scripts/break.py no_positions`: the bag of words, trained. Expect: after 350 steps the loss hardly
#   differs from that of the healthy model. The comparison of all activations finds the mistake at once, at wpe.
# - lesson: `python scripts/lesson.py 421`
