"""Lesson 4.2.1: attention on raw embeddings, softmax(X X^T) X

The meaning of a word depends on the words around it. So let each token look at the others and take a weighted average
of them. With which weights? Here are three attempts. The third is attention: weights computed from the input itself.
Bahdanau et al. 2015, "Neural machine translation by jointly learning to align and translate", section 3.
"""

from collections.abc import Callable

import numpy as np

import minigrad.functional as F
from minigrad import Tensor, nn, no_grad, optim
from scripts.course.pictures import Lesson, heatmap

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


water = embed("the river bank")  # (3, 3)
money = embed("the money bank")
print("bank beside river:", water[2], "  bank beside money:", money[2])
assert np.array_equal(water[2], money[2])

# %% Attempt 1: average everything
# Each token becomes the average of all tokens of the sentence.
#
# Predict: now "bank" depends on its neighbors. What is lost?

# %%
average = np.full((3, 3), 1 / 3)
print("bank beside river:", average[2] @ water, "  beside money:", average[2] @ money)
print("all words of 'the river bank':\n", average @ water)
assert np.allclose(average @ water, water.mean(axis=0))  # every row

# %% [markdown]
# Answer: the words. All tokens of a sentence become the same row, in which their order is lost as well. A sentence that
# is only an average is called a bag of words.
#
# ## Attempt 2: fixed weights, as in a convolution
#
# A little of each neighbor: 0.8 of the word itself and 0.2 of the word before it.
#
# Predict: what does "bank" take from "river" in "river the the bank"?

# %%
fixed = np.eye(4) * 0.8 + np.eye(4, k=-1) * 0.2  # (T, T): row 3, the weights of "bank", is 0, 0, 0.2, 0.8
far = embed("river the the bank")
print("bank, directly after river:", fixed[3] @ embed("the the river bank"), "  three words after it:", fixed[3] @ far)
assert np.allclose(fixed[3] @ far, 0.2 * np.array(rows["the"]) + 0.8 * np.array(rows["bank"]))

# %% [markdown]
# Answer: nothing. A word further away is out of reach: these weights depend on the distance, not on the words.
#
# ## Attempt 3: let the words decide
#
# How related are two words? Take their dot product: it is large where both are large in the same columns. Softmax turns
# each row of products into weights: positive, with sum 1.
#
# Predict: in 'the river bank bench', which word does bank look at most?

# %%
X = embed("the river bank bench")
names = ["the", "river", "bank", "bench"]
scores = X @ X.T  # (T, T): all pairs
print("scores X X^T\n", scores)
print("by hand, river . bank = 2*1 + 0*1 + 0.2*0.5 =", 2 * 1 + 0 * 1 + 0.2 * 0.5)

# %%
exps = np.exp(scores)
weights = exps / exps.sum(axis=1, keepdims=True)  # softmax, each row by itself
print("weights softmax(X X^T)\n", weights)
assert np.allclose(weights, F.softmax(Tensor(scores), dim=-1).data)
out = weights @ X  # (T, C): one output per token
print("output softmax(X X^T) X\n", out)

# %%
with lesson.picture("raw-attention", "Attention on raw embeddings", columns=2, size=(10, 3.8)) as pair:
    titles = ("scores X X^T: symmetric", "weights: softmax of each row")
    for axes, title, matrix in zip(pair, titles, (scores, weights)):
        heatmap(axes, matrix, names, names)
        axes.set(title=title, xlabel="key (looked at)", ylabel="query (looking)")

# %% [markdown]
# Answer: at itself, with a score of 2.25; river follows with 2.1. A row is usually most similar to itself.
#
# The same row of "bank" now becomes a row about water or about money, at any distance:


# %%
def attend(X: np.ndarray) -> np.ndarray:
    return F.softmax(Tensor(X @ X.T), -1).data @ X


print("bank beside river:", attend(water)[2], "  beside money:", attend(money)[2])
print("bank, with river three words away:", attend(far)[3], "  with the fixed weights:", fixed[3] @ far)
# In each row, the first number is about water, and the second one about money.
assert attend(water)[2, 0] > attend(water)[2, 1]
assert attend(money)[2, 0] < attend(money)[2, 1]
assert attend(far)[3, 0] > attend(far)[3, 1] + 0.1
undecided = fixed[3] @ far
assert np.isclose(undecided[0], undecided[1])

# %% [markdown]
# This is new: in a linear layer or a convolution, the weights are learned numbers, the same for every input. Here they
# are computed from each input. **Attention is a weighted average where the input determines the weights.** The weights
# of "bank":

# %%
given = {}
for neighbor in ("river", "bench"):
    X = embed(f"the {neighbor} bank")
    given[neighbor] = F.softmax(Tensor(X @ X.T), -1).data[2]  # of bank: for "the", for its neighbor, for itself
    # fixed[3, 1:]: the last row without its first 0, the weights for three words
    print(f"attention, 'the {neighbor} bank':", given[neighbor], "  fixed:", fixed[3, 1:])
assert np.allclose([sum(w) for w in given.values()], 1) and given["river"][1] > given["bench"][1] + 0.1

# %% The three attempts, trained
# A task with a relation at a distance that varies: after eight letters comes a digit, and the answer is the letter
# that stands so many places before it. The answer to "b a f c a d e a 5" is c.
#
# Three readers learn it. All have rows for tokens and for places, and a small network that turns one row into a guess.
# They differ in how the nine rows become one: by an average (bag of words); by a convolution at the end, which has
# learned weights for each of the last four places, the digit and three letters; or by attention of the last token, the
# digit, softmax(x X^T) X. For comparison, a fourth one has a convolution as wide as all nine places.
#
# Predict: how often is each of them right? (Chance: one letter of six.)

# %%
LETTERS = 6  # a to f, tokens 0 to 5; the digits 1 to 8 are tokens 6 to 13
LENGTH = 8  # letters before the digit
C = 32
rng = np.random.default_rng(lesson.seed)


def examples(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids (n, 9), the answers (n,), and how far back each stands."""
    letters = rng.integers(LETTERS, size=(n, LENGTH))
    back = rng.integers(1, LENGTH + 1, size=n)  # the digits
    ids = np.column_stack([letters, LETTERS + back - 1])
    answers = letters[np.arange(n), LENGTH - back]
    return ids, answers, back


class Reader(nn.Module):
    """Reads letters and a digit, and guesses a letter. mix: turns the rows (B, T, C) into one, (B, width)."""

    def __init__(self, mix: Callable[[Tensor], Tensor], width: int):
        self.tokens = nn.Embedding(LETTERS + LENGTH, C)
        self.places = nn.Embedding(LENGTH + 1, C)
        self.mix = mix
        self.hidden = nn.Linear(width, 64)
        self.output = nn.Linear(64, LETTERS)

    def forward(self, ids: np.ndarray) -> Tensor:
        X = 0.3 * (self.tokens(ids) + self.places(np.arange(LENGTH + 1)))  # (B, T, C); small: softmax starts flat
        return self.output(F.gelu(self.hidden(self.mix(X))))


# %%
readers = {
    "bag of words": Reader(lambda X: X.mean(1), C),
    "convolution, 4 wide": Reader(lambda X: X[:, -4:].reshape(-1, 4 * C), 4 * C),
    "convolution, 9 wide": Reader(lambda X: X.reshape(-1, 9 * C), 9 * C),
    # x, the last row, is (B, 1, C); the weights are (B, 1, T).
    "attention": Reader(lambda X: (F.softmax(X[:, -1:] @ X.transpose(1, 2), -1) @ X)[:, 0], C),
}
test_ids, test_answers, back = examples(4000)
most_frequent = np.mean([np.bincount(row[:LENGTH].astype(np.intp)).max() / LENGTH for row in test_ids])
print(f"always saying the most frequent letter of the eight: {most_frequent:.2f} right")
print("                     right  parameters  by distance, 1 to 8")
right = {}
for name, reader in readers.items():
    optimizer = optim.Adam(reader.parameters(), lr=5e-3)
    for _ in range(400):
        batch, targets, _ = examples(64)
        loss = F.cross_entropy(reader(batch), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with no_grad():
        hits = reader(test_ids).data.argmax(axis=1) == test_answers
    right[name] = np.array([hits[back == distance].mean() for distance in range(1, LENGTH + 1)])
    size = sum(parameter.data.size for parameter in reader.parameters())
    print(f"{name:19}  {hits.mean():.2f}  {size:9,}     {right[name].round(2)}")
assert abs(right["bag of words"].mean() - most_frequent) < 0.05
assert right["convolution, 4 wide"][:3].min() > 0.9  # the three letters that it reaches
assert right["convolution, 4 wide"][3:].max() < 0.3
assert right["attention"].min() > 0.9

# %% [markdown]
# Answer: the bag cannot see order: the average is the same in any order. It does as well as always saying the most
# frequent letter. The convolution finds what its four places reach, three letters, and guesses the others. Attention
# finds all, with as few parameters as the bag: the digit decides where to look. The wide convolution also reaches
# everything, but it needs weights for every place, six times as many parameters here, and a longer sentence would need
# a new one.
#
# ## The limitation: one row, two roles
#
# Back to 'the river bank bench': X X^T is always symmetric, so river matters to bank exactly as much as bank matters
# to river. And river, bank and bench each score highest with themselves. Similarity is not relevance.

# %%
print("river -> bank", scores[1, 2], "  bank -> river", scores[2, 1])
assert np.array_equal(scores, scores.T)
highest = [names[i] for i in np.argmax(scores, axis=1)]
print("each word scores highest with:", dict(zip(names, highest)))
assert highest[1:] == names[1:]  # all but "the"

# %% [markdown]
# One row has to say both what its word looks for and what it offers. At a party, people do not only look for people
# like themselves. The next lesson gives each word two cards, one for seeking and one for offering.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start softmax`, matmul
# - line by line: `python scripts/step.py --html softmax`
# - read: minigrad/functional/activation.py: Softmax, forward beside backward
# - try: a sentence with two banks, "river bank money bank". Expect: both get the same output, [1, 1, 0.36], as much
#   water as money. Without positions, attention cannot tell which bank stands beside the river.
# - lesson: `python scripts/lesson.py 422`
