"""Lesson 4.2.1: attention on raw embeddings, softmax(X X^T) X

The meaning of a word depends on the words around it. So let each token look at the others and take a weighted average
of them. With which weights? Here are three attempts. The third is attention: weights computed from the input itself.
Bahdanau et al. 2015, "Neural machine translation by jointly learning to align and translate", section 3.
"""

from __future__ import annotations

import numpy as np

import minigrad.functional as F
from minigrad import Tensor
from scripts.pages.pictures import Lesson, heatmap

lesson = Lesson("421_raw_attention", __doc__)

# %% 'bank' has one row
# Three made-up numbers per word: (about water, about money, about sitting).
rows = {
    "the": [0.1, 0.1, 0.1],
    "river": [2.0, 0.0, 0.2],
    "money": [0.0, 2.0, 0.2],
    "bank": [1.0, 1.0, 0.5],  # undecided
    "bench": [0.2, 0.0, 2.0],
}


def embed(sentence: str) -> np.ndarray:
    return np.array([rows[word] for word in sentence.split()])  # (T, C)


water, money = embed("the river bank"), embed("the money bank")
print("bank beside river:", water[2], "  bank beside money:", money[2])
assert np.array_equal(water[2], money[2])

# %% Attempt 1: average everything
# Now "bank" depends on its neighbors, but all words of a sentence become the same.
average = np.full((3, 3), 1 / 3)
print("bank beside river:", average[2] @ water, "  beside money:", average[2] @ money)
assert np.allclose((average @ water)[0], (average @ water)[2])

# %% Attempt 2: fixed weights, as in a convolution
# A little of each neighbor. But a word further away is out of reach: these weights depend on the distance, not on the
# words.
fixed = np.array([[0.8, 0.2, 0.0], [0.1, 0.8, 0.1], [0.0, 0.2, 0.8]])
print("bank beside river:", fixed[2] @ water)
far = embed("river the the bank")
print("bank, with river three words away:", (np.eye(4) * 0.8 + np.eye(4, k=-1) * 0.2)[3] @ far)
assert np.allclose(0.2 * far[2] + 0.8 * far[3], 0.2 * np.array(rows["the"]) + 0.8 * np.array(rows["bank"]))

# %% Attempt 3: let the words decide
# How related are two words? Take their dot product: it is large where both are large in the same columns. Softmax turns
# each row of products into weights: positive, with sum 1.
#
# Predict: in 'the river bank bench', which word does bank look at most?
X = embed("the river bank bench")
names = ["the", "river", "bank", "bench"]
scores = X @ X.T  # (T, T): all pairs
print("scores X X^T\n", scores)
print("by hand, river . bank = 2*1 + 0*1 + 0.2*0.5 =", 2 * 1 + 0 * 1 + 0.2 * 0.5)
assert np.isclose(scores[1, 2], 2.1)
weights = F.softmax(Tensor(scores), dim=-1).data  # each row by itself
print("weights softmax(X X^T)\n", weights)
assert np.allclose(weights.sum(axis=1), 1)
out = weights @ X  # (T, C): one output per token
print("output softmax(X X^T) X\n", out)
for i in range(4):  # by hand, a row at a time
    e = np.exp(scores[i])
    assert np.allclose(out[i], sum(e[j] / e.sum() * X[j] for j in range(4)))


def attend(X: np.ndarray) -> np.ndarray:
    return F.softmax(Tensor(X @ X.T), -1).data @ X


print("\nbank beside river:", attend(water)[2], "  beside money:", attend(money)[2])
assert attend(water)[2, 0] > attend(water)[2, 1] and attend(money)[2, 1] > attend(money)[2, 0]
print("bank, with river three words away:", attend(far)[3])
assert attend(far)[3, 0] > attend(far)[3, 1]

# This is new: in a linear layer or a convolution, the weights are learned numbers, the same for every input. Here they
# are computed from each input.
bench = embed("the bench bank")
for sentence, X_ in (("the river bank", water), ("the bench bank", bench)):
    print(f"weights of 'bank' in {sentence!r}: {F.softmax(Tensor(X_ @ X_.T), -1).data[2]}")

with lesson.picture("raw-attention", "Attention on raw embeddings", columns=2, size=(10, 3.8)) as pair:
    titles = ("scores X X^T: symmetric", "weights: softmax of each row")
    for axes, title, matrix in zip(pair, titles, (scores, weights)):
        heatmap(axes, matrix, names, names)
        axes.set(title=title, xlabel="key (looked at)", ylabel="query (looking)")

# %% [markdown]
# Answer: at itself, with a score of 2.25; river follows with 2.1. A row is nearly always most similar to itself.
#
# The same row of "bank" went in, and a row about water or about money came out. Distance does not matter.

# %% The limitation: one row, two roles
# X X^T is always symmetric: river matters to bank exactly as much as bank matters to river. And river, bank and bench
# each score highest with themselves. Similarity is not relevance.
assert np.array_equal(scores, scores.T)
assert (np.argmax(scores, axis=1)[1:] == np.arange(1, 4)).all()
print("river -> bank", scores[1, 2], "  bank -> river", scores[2, 1])
print("each word scores highest with:", dict(zip(names, [names[i] for i in np.argmax(scores, axis=1)])))

# %% [markdown]
# One row has to say both what its word looks for and what it offers. At a party, people do not only look for people
# like themselves. The next lesson gives each word two cards, one for seeking and one for offering.

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start softmax`, then matmul
# - read: minigrad/functional/activation.py: Softmax, forward beside backward
# - try: a sentence with two banks, "river bank money bank". Expect: both get the same output, [1, 1, 0.36], as much
#   water as money. Without positions, attention cannot tell which bank stands beside the river.
# - lesson: `python scripts/lesson.py 422`
