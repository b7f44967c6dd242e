"""Lesson 4.2.1: attention on raw embeddings, softmax(X X^T) X

A word means something else in another company. So let each token look at the others and take in a weighted average of
them. Which weights? Three attempts, the third of which is attention: weights that are computed from the input itself.
Bahdanau et al. 2015, "Neural machine translation by jointly learning to align and translate", section 3.
"""

from __future__ import annotations

import numpy as np

import minigrad.functional as F
from minigrad import Tensor
from scripts.lessons.pictures import Lesson, heatmap

lesson = Lesson("421_raw_attention", __doc__)

# %% The problem: one row for two meanings
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

# %% Attempt 1: the plain average
average = np.full((3, 3), 1 / 3)
print("bank beside river:", average[2] @ water, "  beside money:", average[2] @ money)
print("it has changed with its company, but every word of the sentence has become the same:")
assert np.allclose((average @ water)[0], (average @ water)[2])

# %% Attempt 2: fixed weights
fixed = np.array([[0.8, 0.2, 0.0], [0.1, 0.8, 0.1], [0.0, 0.2, 0.8]])  # a little of the neighbours
print("bank beside river:", fixed[2] @ water)
far = embed("river the the bank")
print("but two words further, river is out of reach: weights by distance know nothing of what stands there")

# %% Attempt 3: weights from the data
# How much do two words have to do with each other? Their dot product says: large where both are large in the same
# columns. Softmax makes weights of it: positive, with sum 1.
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
print("the same row went in, and a row about water or about money came out; and distance does not matter:")
print("bank two words further:", attend(far)[3])
assert attend(far)[3, 0] > attend(far)[3, 1]

# What is new: in all layers before this one, the weights were learned numbers, the same for every input. Here they are
# computed anew for each input.
bench = embed("the bench bank")
for sentence, X_ in (("the river bank", water), ("the bench bank", bench)):
    print(f"weights of 'bank' in {sentence!r}: {F.softmax(Tensor(X_ @ X_.T), -1).data[2]}")

with lesson.picture("raw-attention", "Attention on raw embeddings", columns=2, size=(10, 3.8)) as (left, right):
    heatmap(left, scores, names, names)
    left.set(title="scores X X^T: symmetric", xlabel="looked at", ylabel="looking")
    heatmap(right, weights, names, names)
    right.set(title="weights: softmax of each row", xlabel="looked at", ylabel="looking")

# %% The limitation
assert np.array_equal(scores, scores.T)
print("X X^T is symmetric: river matters to bank exactly as much as bank to river, always.")
assert (np.argmax(scores, axis=1)[1:] == np.arange(1, 4)).all()
print("And river, bank and bench each score highest with themselves: likeness is not relevance.")
print("Each row must say both what its word looks for and what it offers. At a party you do not look for your own kind")
print("of person only: the next lesson gives each word two cards, one for seeking and one for offering.")

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start softmax`, then matmul
# - read: minigrad/functional/activation.py: Softmax, forward beside backward
# - try: a sentence in which 'bank' stands beside both river and money
# - lesson: `python scripts/lesson.py 422`
