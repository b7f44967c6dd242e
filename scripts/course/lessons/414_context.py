"""Lesson 4.1.4: more context, from counting to a neural network

A table of counts sees one token back. To see further, it needs a row for each context, and most contexts never occur
in the text. A neural network can instead share what it learns: contexts of similar words have similar rows of numbers.
This lesson counts longer and longer contexts, then builds the first neural language model, and ends with what that
model lacks: what attention was made for.
Bengio et al. 2003, "A neural probabilistic language model", section 2.
"""

import itertools
from collections import Counter

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import minigrad.functional as F
from gpt.corpora.python_corpus import help_text
from minigrad import Tensor, nn, no_grad, optim
from scripts.course.pictures import Lesson

lesson = Lesson("414_context", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% Counting more letters
# A table of P(next | last letter) is called *bigrams*: it counts pairs. P(next | last two letters) counts triples, or
# *trigrams*; P(next) alone counts *unigrams*. We count on nine tenths of a text, the training text, and measure the
# loss on the last tenth, the test text.
#
# A pair that never occurred in training would get the probability 0, and the loss would be infinite. So the table of n
# letters leans on that of n - 1 letters as if that one had been seen α times. This is called *smoothing*. α = 20 is
# about the best for the test text, so the tables get all the help they can have:
#
#     p_n(next) = (count(context, next) + α p_(n-1)(next)) / (count(context) + α)
#
# Predict: each letter more says more about the next one. What happens to the test loss for contexts of 0, 1, 2, ... 7
# letters? And what share of the contexts of 7 letters in the test text has never occurred in training?

# %%
text = " ".join(help_text().encode("ascii", "ignore").decode().lower().split())
cut = len(text) * 9 // 10
train_text, test_text = text[:cut], text[cut:]
letters = sorted(set(text))
V, longest = len(letters), 8
places = range(longest, len(test_text))  # of the letters to predict
print(f"{V} different letters; {len(train_text):,} to learn from, {len(test_text):,} to predict")


# %%
def occurrences(text: str, n: int) -> Counter[str]:
    """How often each piece of n letters occurs."""
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def count_contexts(train_text: str) -> tuple[list[float], list[float]]:
    """For contexts of 0 to 7 letters: the loss on the test text, and the share of its contexts never seen."""
    p, losses, unseen = np.full(len(places), 1 / V), [], []
    for n in range(longest):
        contexts, pieces = occurrences(train_text, n), occurrences(train_text, n + 1)
        seen = np.array([contexts[test_text[i - n : i]] for i in places])
        p = (np.array([pieces[test_text[i - n : i + 1]] for i in places]) + 20 * p) / (seen + 20)
        losses.append(-np.log(p).mean())
        unseen.append((seen == 0).mean())
    return losses, unseen


# %%
losses, unseen = count_contexts(train_text)
print("letters of context" + "".join(f"{n:8}" for n in range(longest)))
print("loss              " + "".join(f"{loss:8.3f}" for loss in losses))
print("contexts unseen   " + "".join(f"{share:8.1%}" for share in unseen))

assert losses[0] - losses[4] > 1 > 10 * (losses[4] - losses[7]) and unseen[7] > 0.2 > unseen[4]

with lesson.picture("contexts", "Counting longer contexts") as axes:
    axes.plot(losses, "o-")
    axes.set(xlabel="letters of context", ylabel="test loss (nats per letter)")

# %% [markdown]
# Answer: the loss falls quickly at first, and hardly at all after four letters. About three in ten contexts of 7
# letters are new, and then the table can only repeat what a shorter context says. Many others have occurred just once
# or twice. This is *sparsity*. More text moves the limit, but slowly: one letter more means up to V times as many rows.

# %% What a table cannot know
# Six animals, six vehicles, four verbs, and a text of sentences such as "now cat needs food". The last word depends on
# the verb, and on whether the noun is an animal or a vehicle. But each noun stands with three of the verbs only.
#
# Predict: nothing in the text says what a cat drinks. Other animals drink water, vehicles drink oil, and cats need what
# other animals need. What can a table of counts say after "cat drinks"? What would you say?

# %%
nouns = ["cat", "dog", "cow", "horse", "sheep", "goat", "car", "bus", "ship", "train", "truck", "plane"]
verbs = {"needs": ("food", "fuel"), "has": ("legs", "wheels"), "drinks": ("water", "oil"), "fills": ("barns", "roads")}
fillers = ["now", "often", "still", "here"]
words = [*nouns, *verbs, *fillers, *itertools.chain(*verbs.values())]
sentences = list(itertools.product(fillers, nouns, verbs))  # without their last word
inputs = np.array([[words.index(word) for word in sentence] for sentence in sentences])  # (192, 3)

# %%
lots = [rng.permutation([*verbs, *verbs])[:6] for _ in ("animals", "vehicles")]
absent = dict(zip(nouns, np.concatenate(lots))) | {"cat": "drinks"}  # the verb that each noun never stands with
new = np.array([absent[noun] == verb for _, noun, verb in sentences])
# for each of the 48 pairs of noun and verb: 0, an animal, or 1, a vehicle; and controls, where it is 0 or 1 by lot
choices = {"by kind": np.repeat([0, 1], 24)} | {f"by lot, {i}": rng.integers(0, 2, 48) for i in range(1, 6)}
answers = {
    name: np.array([words.index(verbs[verb][i]) for (_, _, verb), i in zip(sentences, np.tile(choice, len(fillers)))])
    for name, choice in choices.items()
}
print(f"{new.sum()} of {len(new)} contexts are never seen, such as:", *sentences[np.flatnonzero(new)[0]])

# %% [markdown]
# The model of Bengio et al. looks n tokens back. Each token has a row of C learned numbers, as in lesson 4.1.3. The n
# rows are put side by side, and two layers make logits of them. Its loss is the cross-entropy, its steps are Adam's:
#
#     x = [row(t_1), ..., row(t_n)]        n C numbers
#     h = tanh(W x + b)                    H numbers: the hidden layer
#     logits = U h + c                     V numbers


# %%
class WindowModel(nn.Module):
    """Logits for the next token, from the rows of the last n tokens."""

    def __init__(self, vocab_size: int, n: int, C: int, H: int) -> None:
        self.rows = nn.Embedding(vocab_size, C)
        self.hidden, self.output = nn.Linear(n * C, H), nn.Linear(H, vocab_size)

    def forward(self, ids: np.ndarray) -> Tensor:  # (B, n) -> (B, V)
        x = self.rows(ids).reshape(len(ids), -1)  # (B, n C)
        return self.output(F.tanh(self.hidden(x)))


# %%
def fit(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, steps: int) -> None:
    """Adam on batches of 256."""
    optimizer = optim.Adam(model.parameters(), lr=0.005)
    for _ in range(steps):
        batch = rng.integers(0, len(inputs), 256)
        loss = F.cross_entropy(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def right(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> float:
    """The share of contexts after which the most likely word is the target."""
    with no_grad():
        return float(np.mean(model(inputs).data.argmax(axis=1) == targets))


# %%
learner, never_seen = {}, {}
for name, targets in answers.items():
    learner[name] = WindowModel(len(words), 3, C=8, H=32)
    fit(learner[name], inputs[~new], targets[~new], 300)
    seen, never_seen[name] = (right(learner[name], inputs[part], targets[part]) for part in (~new, new))
    print(f"next word {name:9}: right in contexts seen {seen:4.0%}, never seen {never_seen[name]:4.0%} (guess: 50 %)")
    assert seen == 1
by_kind, *by_lot = never_seen.values()
alike = np.corrcoef(learner["by kind"].rows.weight.data[:12]) - np.eye(12)  # rows of six animals, of six vehicles
within, between = (alike[:6, :6].sum() + alike[6:, 6:].sum()) / 60, alike[:6, 6:].mean()
print(f"the nouns' rows: correlation within the kinds {within:.2f}, between them {between:.2f}")
assert by_kind > 0.95 > 0.75 > np.mean(by_lot) and within > between + 0.2

# %% [markdown]
# Answer: a table has no row for "cat drinks". It falls back to "drinks", where water and oil are equally likely: 50 %.
# You say water, because a cat is like a dog: it needs and has the same. So does the network. Nouns of one kind have got
# similar rows, so what it learns about one holds for the others. Where the next word is drawn by lot, there is nothing
# to carry over, and it knows the contexts it has seen only. **Similar contexts get similar predictions**: that is what
# a network adds to counting.

# %% The same network on a real text
# Now the letters of the first section, with 1, 2 and 8 letters of context.
#
# Predict: with one letter of context the network can use the same information as the table of bigrams, with two that of
# the trigrams. Will it be better than these tables, equal, or worse? And with eight letters?

# %%
number = {letter: i for i, letter in enumerate(letters)}
train_ids, test_ids = (np.array([number[letter] for letter in part]) for part in (train_text, test_text))


network = {}
for n in (1, 2, longest):
    model = WindowModel(V, n, C=16, H=128)
    pieces = sliding_window_view(train_ids, n + 1)  # all pieces of n + 1 neighbors
    fit(model, pieces[:, :-1], pieces[:, -1], 2500)
    asked = sliding_window_view(test_ids, longest + 1)[:, longest - n :]
    with no_grad():
        network[n] = F.cross_entropy(model(asked[:, :-1]), asked[:, -1]).item()
    print(f"network, {n} letters: test loss {network[n]:.3f}, {model.num_parameters():,} parameters")
print(f"tables: unigrams {losses[0]:.3f}, bigrams {losses[1]:.3f}, trigrams {losses[2]:.3f}")
stored = sum(len(occurrences(train_text, n + 1)) for n in range(longest))
print(f"the best table: {min(losses):.3f}, with up to {np.argmin(losses)} letters of context and {stored:,} counts")
assert abs(network[1] - losses[1]) < 0.1 and losses[2] < network[2] < losses[2] + 0.2
assert min(losses) < network[longest] < losses[2] - 0.1

# %% [markdown]
# Answer: with one letter it is about as good as the table of bigrams. With two it is a little worse than the trigrams:
# nearly all contexts of two letters occur in the training text, and where they do, counting is hard to beat. With eight
# letters it is better than unigrams, bigrams and trigrams, and it has grown little: eight times the context costs about
# twice the numbers.
#
# But it does not beat the best table of the first section. On a short text that repeats its phrases, long counts are
# strong, and our network is small and its training is short. On a million words, Bengio et al. report that the
# perplexity of the best table is 24 % above that of their network (averaged with a table of trigrams); on 14 million,
# 8 %.

# %% What is still missing
# The network knows "now cat needs food". Now the noun stands one place earlier: "cat now needs".
#
# Predict: in how many of these sentences is it still right?

# %%
moved = right(learner["by kind"], inputs[:, [1, 0, 2]], answers["by kind"])
same = right(learner["by kind"], inputs, answers["by kind"])
print(f"the noun where it was in training {same:.0%}, one place earlier {moved:.0%} (guessing: 50 %)")
assert moved < 0.75 < 0.9 < same

# %% [markdown]
# Answer: about half, which is guessing. W has a block of C columns for each place of the window. What the block of one
# place has learned about cats, the block of another place does not know: **each position has weights of its own**.
#
# Three things are missing:
#
# - The window is fixed. What stands n + 1 tokens back does not exist.
# - Everything must be learned once for each place.
# - W grows with n: it has n C H numbers. At GPT-2's width, C = 768 and H = 3,072, and with its 1,024 tokens of context,
#   that is 2,416 million numbers. Attention needs 4 C² = 2.4 million in each layer, for any n.
#
# Attention has the same weights for all positions, and computes from the tokens themselves how much each of them
# counts. It reaches back as far as there are tokens, and its parameters do not grow with n. Lesson 4.2.1 builds it.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start matmul`: both layers of the network are a matrix product
# - read: gpt/training/evaluation.py: how a test loss is measured; minigrad/nn: Embedding, Linear
# - try: a window of 3 in `for n in (1, 2, longest)`. Expect: a loss close to that of 8 letters. The nearest letters say
#   most.
# - break: let each noun stand with two of the four verbs only. Expect: about three quarters right in contexts never
#   seen, in place of nearly all, and with other seeds anything from four tenths to all. What the nouns of a kind have
#   in common is little.
# - lesson: `python scripts/lesson.py 421`
