"""Lesson 4.1.4: more context, from counting to a neural network

A table of counts sees one token back. To see further, it needs a row for each context, and most contexts never occur
in the text. A neural network can instead share what it learns: contexts of similar words have similar rows of numbers.
This lesson counts longer and longer contexts, then builds the first neural language model, and ends with what that
model lacks: what attention was made for.
Bengio et al. 2003, "A neural probabilistic language model", section 2.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np

import minigrad.functional as F
from gpt import GPTConfig, accounting
from gpt.training.standard_library import help_text
from minigrad import Tensor, nn, no_grad, optim
from scripts.pages.pictures import Lesson, bars

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

# %%
fewer, fewer_unseen = count_contexts(train_text[: cut // 8])  # a control: is it a matter of how much text there is?
print("an eighth of the text:")
print("loss              " + "".join(f"{loss:8.3f}" for loss in fewer))
print("contexts unseen   " + "".join(f"{share:8.1%}" for share in fewer_unseen))
for of_text in (losses, fewer):
    assert of_text[0] - of_text[4] > 1 > 10 * (of_text[4] - of_text[7]) and unseen[7] > 0.2 > unseen[4]

with lesson.picture("contexts", "Counting longer contexts", columns=2, size=(10, 3.6)) as (left, right):
    for name, line, loss, share in (("all", "o-", losses, unseen), ("an eighth", "s--", fewer, fewer_unseen)):
        left.plot(loss, line, color="black", label=f"{name} of the text")
        right.plot(100 * np.array(share), line, color="black")
    left.set(xlabel="letters of context", ylabel="test loss (nats per letter)")
    right.set(xlabel="letters of context", ylabel="contexts never seen in training (%)")

# %% [markdown]
# Answer: the loss falls quickly at first, and hardly at all after four letters. About three in ten contexts of 7
# letters are new, and then the table can only repeat what a shorter context says. Many others have occurred just once
# or twice. With an eighth of the text, it stops at a far higher loss. More text moves the limit, but slowly: one letter
# more means up to V times as many rows. This is **sparsity**: a long context hardly ever occurs twice.

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
absent = {noun: str(rng.choice(list(verbs))) for noun in nouns} | {"cat": "drinks"}  # the verb it never stands with
new = np.array([absent[noun] == verb for _, noun, verb in sentences])
kind = {noun: [i // 6] * 4 for i, noun in enumerate(nouns)}  # for each verb 0, an animal, or 1, a vehicle
lot = {noun: rng.integers(0, 2, 4).tolist() for noun in nouns}  # a control: drawn for each noun and verb
answers = {
    name: np.array([words.index(verbs[verb][chosen[noun][list(verbs).index(verb)]]) for _, noun, verb in sentences])
    for name, chosen in (("by kind", kind), ("by lot", lot))
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
        self.rows.weight.data *= 0.1  # from large random rows, it would learn each context by heart
        self.hidden, self.output = nn.Linear(n * C, H), nn.Linear(H, vocab_size)

    def forward(self, ids: np.ndarray) -> Tensor:  # (B, n) -> (B, V)
        x = self.rows(ids).reshape(len(ids), -1)  # (B, n C)
        return self.output(F.tanh(self.hidden(x)))


# %%
def fit(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, steps: int) -> None:
    """Adam on batches of 256. The learning rate falls to a tenth, in half a cosine."""
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    schedule = optim.WarmupCosine(optimizer, 0, steps)
    for _ in range(steps):
        batch = rng.integers(0, len(inputs), 256)
        loss = F.cross_entropy(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def right(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> float:
    """The share of contexts after which the most likely word is the target."""
    with no_grad():
        return float(np.mean(model(inputs).data.argmax(axis=1) == targets))


# %%
learner = {}
for name, targets in answers.items():
    learner[name] = WindowModel(len(words), 3, C=8, H=32)
    fit(learner[name], inputs[~new], targets[~new], 300)
    seen, unseen_right = (right(learner[name], inputs[part], targets[part]) for part in (~new, new))
    print(f"next word {name:7}: right in contexts seen {seen:4.0%}, never seen {unseen_right:4.0%} (guessing: 50 %)")
    assert seen == 1 and (unseen_right > 0.9) == (name == "by kind")

# %% [markdown]
# Answer: a table has no row for "cat drinks". It falls back to "drinks", where water and oil are equally likely: 50 %.
# You say water, because a cat is like a dog. So does the network: nouns that are used alike got similar rows, and what
# it learns about one holds for the others. Where the next word is drawn by lot, there is nothing to carry over, and it
# knows the contexts it has seen only. **Similar contexts get similar predictions**: that is what a network adds to
# counting.

# %% The same network on a real text
# Now the letters of the first section, with 1, 2 and 8 letters of context.
#
# Predict: with one letter of context the network can use the same information as the table of bigrams, with two that of
# the trigrams. Will it be better than these tables, equal, or worse? And with eight letters?

# %%
number = {letter: i for i, letter in enumerate(letters)}
train_ids, test_ids = (np.array([number[letter] for letter in part]) for part in (train_text, test_text))


def windows(ids: np.ndarray, n: int) -> np.ndarray:
    """All pieces of n neighbors: (len(ids) - n + 1, n)."""
    return np.lib.stride_tricks.sliding_window_view(ids, n)


results = {"unigrams": losses[0], "bigrams": losses[1], "trigrams": losses[2]}
for n in (1, 2, longest):
    model = WindowModel(V, n, C=16, H=128)
    pieces = windows(train_ids, n + 1)
    fit(model, pieces[:, :-1], pieces[:, -1], 2500)
    asked = windows(test_ids, longest + 1)[:, longest - n :]
    with no_grad():
        results[f"network, {n}"] = F.cross_entropy(model(asked[:, :-1]), asked[:, -1]).item()
    print(f"network, {n} letters: test loss {results[f'network, {n}']:.3f}, {model.num_parameters():,} parameters")
print("tables: " + ", ".join(f"{name} {loss:.3f}" for name, loss in list(results.items())[:3]))
stored = sum(len(occurrences(train_text, n + 1)) for n in range(longest))
print(f"the best table: {min(losses):.3f}, with up to {np.argmin(losses)} letters of context and {stored:,} counts")
assert abs(results["network, 1"] - losses[1]) < 0.05 and losses[2] < results["network, 2"] < losses[2] + 0.2
assert min(losses) < results["network, 8"] < losses[2] - 0.1

with lesson.picture("network", "Test loss, in nats per letter", size=(8, 3.6)) as axes:
    bars(axes, {**results, "best table": min(losses)}, "nats per letter", ".2f")

# %% [markdown]
# Answer: with one letter it is as good as the table of bigrams. With two it is a little worse than the trigrams: nearly
# all contexts of two letters occur in the training text, and where they do, counting is hard to beat. With eight
# letters it is better than unigrams, bigrams and trigrams, and it has grown little: eight times the context costs about
# twice the numbers.
#
# But it does not beat the best table of the first section. On a short text that repeats its phrases, long counts are
# strong. With words, and a million of them, Bengio et al. report a perplexity 24 % better than that of the best table,
# and 8 % better with 14 million. Later models of this series owe more to the amount of text than to anything else.

# %% What is still missing
# The network knows "now cat needs food". Now the noun stands one place earlier: "cat now needs".
#
# Predict: in how many of these sentences is it still right?

# %%
moved = right(learner["by kind"], inputs[:, [1, 0, 2]], answers["by kind"])
same = right(learner["by kind"], inputs, answers["by kind"])
print(f"the noun where it was in training {same:.0%}, one place earlier {moved:.0%} (guessing: 50 %)")
assert moved < 0.75 < 0.95 < same

# %%
C = GPTConfig().n_embd  # 768, the width of GPT-2
attention = accounting.parameters(GPTConfig())["attention"] / GPTConfig().n_layer
for n in (8, 64, 1024):
    print(f"{n:5} tokens of context: W has {n * C * 4 * C / 1e6:7,.0f}M numbers; attention {attention / 1e6:.1f}M")

# %% [markdown]
# Answer: about half, which is guessing. W has a block of C columns for each place of the window. What the block of one
# place has learned about cats, the block of another place does not know: **each position has weights of its own**.
#
# Three things are missing:
#
# - The window is fixed. What stands n + 1 tokens back does not exist.
# - Everything must be learned once for each place.
# - W grows with n. At the width of GPT-2, with a hidden layer four times as wide, 1,024 tokens of context would cost
#   2.4 billion numbers in this one layer.
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
# - break: leave out `*= 0.1` in WindowModel. Expect: fewer right words in contexts never seen, and the assertion there
#   fails for most seeds. Large random rows are far apart, so cats and dogs have nothing in common, and the network
#   learns each context by heart.
# - lesson: `python scripts/lesson.py 421`
