"""Lesson 4.1.1: a language model says which token comes next

A language model is a function from the text so far to a probability for every possible next token. The text itself
supplies the right answers, so this is supervised learning without labels written by people. The smallest such model, a
table of which letter follows which, already shows everything: training, loss, generation, temperature.
Shannon 1948, "A mathematical theory of communication", section 3 (the same experiment, by hand).
"""

import math
from collections import Counter
from typing import Any

import numpy as np

import minigrad.functional as F
from gpt.corpora.python_corpus import help_text
from gpt.model.generation import Sampling
from gpt.training.evaluation import perplexity
from minigrad import nn, optim
from scripts.course import widget_data
from scripts.course.pictures import Lesson, bars, generation_loop

lesson = Lesson("411_next_token", __doc__)

# %% Text is its own label
# The model's question at each place of a text: given all tokens before, what is the probability of each possible next
# one? In formulas: P(next | all before). The tokens of this lesson are letters.
#
# Predict: how many such questions are in a text of 100,000 letters, and who has to write down the answers?

# %%
text = " ".join(help_text().encode("ascii", "ignore").decode().lower().split())[:100_000]
letters = sorted(set(text))
number = {letter: i for i, letter in enumerate(letters)}
ids = np.array([number[letter] for letter in text])
V = len(letters)
sentence = "the cat sat"
for t in (1, 2, 3, 10):
    print(f"  {sentence[:t]!r:>13} -> {sentence[t]!r}")

# %%
inputs, targets = ids[:-1], ids[1:]
print(f"{len(inputs):,} pairs from {len(text):,} letters, {V} different ones")

# %% [markdown]
# Answer: 99,999, and nobody: every letter but the first is the answer to the question before it. The targets are the
# inputs, one position later.

# %% The smallest model counts
# Use only the last letter: P(next | last). This is a table of V x V counts, each row divided by its sum.
#
# The loss is the mean of -ln p, where p is the probability of the letter that really came next (the cross-entropy of
# lesson 0.1; its unit is the *nat*). It is as if the model chose among e^loss equally likely letters: this number is
# the *perplexity*.
#
# Predict: what comes after q? A model that knows nothing has the perplexity V. Guess that of the table.

# %%
counts = np.zeros((V, V))
np.add.at(counts, (inputs, targets), 1)
table = counts / counts.sum(axis=1, keepdims=True).clip(1)
after_q = {letters[i]: table[number["q"], i] for i in np.argsort(-table[number["q"]])[:3]}
print("after q:", ", ".join(f"{letter!r} {p:.0%}" for letter, p in after_q.items()))

# %%
loss_of_nothing = math.log(V)  # all V equally likely: -ln(1 / V)
loss_of_counting = -np.log(table[inputs, targets]).mean()
print(f"loss: knowing nothing {loss_of_nothing:.3f}, counting {loss_of_counting:.3f}")
print(f"perplexity: {V} and {math.exp(loss_of_counting):.1f}")
assert np.isclose(perplexity(loss_of_nothing), V), "perplexity: a model that knows nothing chooses among V letters"

# %% [markdown]
# Answer: u, nearly always. One letter of context makes the choice about six times as small.

# %% The same table, learned
# The loop of lesson 0.1: a batch, its loss, the gradient, a step. The model is a table of logits, a row for each letter
# (`nn.Embedding` gives the rows), and softmax turns a row into probabilities. Nothing tells it to count.
#
# Predict: all logits are 0 at first. What is the loss before the first step? And can learning end with a lower loss
# than counting, on this text?

# %%
rng = np.random.default_rng(lesson.seed)
model = nn.Embedding(V, V)
model.weight.data[...] = 0
optimizer = optim.Adam(model.parameters(), lr=0.1)
losses = []
for _ in range(300):
    batch = rng.integers(0, len(inputs), 4096)
    loss = F.cross_entropy(model(inputs[batch]), targets[batch])
    model.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

# %%
learned = F.cross_entropy(model(inputs), targets).item()
print(f"loss at first {losses[0]:.3f} = ln {V}; learned {learned:.3f}; counting {loss_of_counting:.3f}")
assert abs(losses[0] - loss_of_nothing) < 1e-4 and loss_of_counting <= learned < loss_of_counting + 0.03

with lesson.picture("learning", "A table of next letters, learned") as axes:
    axes.plot(losses, label="learned, loss of a batch")
    axes.axhline(loss_of_nothing, linestyle=":", color="0.3", label="knowing nothing, ln V")
    axes.axhline(loss_of_counting, linestyle="--", color="0.3", label="counting")
    axes.set(xlabel="step", ylabel="loss (nats per letter)")

# %% [markdown]
# Answer: ln V at first, as equal logits give every letter the probability 1 / V. A model that starts with another loss
# is confident without a reason. And no: each row learns until its probabilities are the shares of the letters that
# followed (lesson 0.1), which is the table of counts. **A language model approximates P(next token | context)**, and
# the loss says how closely.

# %% Writing: sample, append, repeat
# The model writes a text with its own probabilities: it draws a letter, and then the letter drawn is the context of the
# next one.
#
# Predict: a text is written twice with the same random numbers, but the second begins with q and not with t. How do the
# letters after the first one differ?

# %%
logits = model.weight.data  # (V, V): a row of logits per letter


def write(length: int, temperature: float, start: str = "t", seed: int = lesson.seed, logits: Any = logits) -> str:
    """The autoregressive loop: the output becomes the next input, so the model reads its own text."""
    rng = np.random.default_rng(seed)
    written = start
    for _ in range(length):
        scores = logits[number[written[-1]]]  # 1. a logit for every possible next letter
        probs = Sampling(temperature).probabilities(scores)  # 2. probabilities
        drawn = rng.choice(V, p=probs)  # 3. sample one letter
        written += letters[drawn]  # 4. append it
    return written  # 5. repeat


# %%
texts = [write(70, 1.0, seed=lesson.seed + i) for i in range(2)]
for i, written in enumerate(texts):
    print(f"text {i}: {written}")

# %%
steps = []
for t in range(1, 7):  # the first six letters of the first text, after the "t" that it starts with
    probs = Sampling(1.0).probabilities(logits[number[texts[0][t - 1]]])
    steps.append((texts[0][:t], dict(zip(letters, probs.tolist())), texts[0][t]))
with lesson.picture("loop", "Sample, append, repeat: six steps of the model above", size=(10, 3.6)) as axes:
    generation_loop(axes, steps)

# %%
not_reading = np.tile(np.log(np.bincount(ids) / len(ids)), (V, 1))  # the control: the same logits after every letter
changed = {}
for name, table in (("reads its text", logits), ("does not read", not_reading)):
    pairs = [[write(20, 1.0, start, seed, table)[1:] for start in "tq"] for seed in range(200)]
    changed[name] = np.mean([[a != b for a, b in zip(*pair)] for pair in pairs], axis=0)
    print(f"{name:14}: other letters " + " ".join(f"{share:4.0%}" for share in changed[name]))
assert changed["reads its text"][0] > 0.8 > 0.2 > changed["reads its text"][19] and changed["does not read"].max() == 0

# %% [markdown]
# Answer: nearly all of the first letters are others, and each of them is the context of the next one, so the change
# lives on: **autoregressive generation is a feedback loop**. The control draws by the frequency of the letters,
# whatever it has written before, and its two texts are the same.
#
# In our model the start is mostly forgotten after twenty letters: it remembers one letter only, so as soon as both
# texts have the same letter, they go on alike. A model that sees the whole text need not forget.

# %% Temperature
# Divide the logits by a temperature T before the softmax: softmax(logits / T).
#
# Predict: what does T = 0.3 do to the probabilities, and T = 3? Which letter is the most likely after "t", with each?

# %%
scores = logits[number["t"]]
entropies = {}
chosen = [letters[i] for i in np.argsort(-scores)[:8]]
with lesson.picture("temperature", "softmax(logits / T) for the letter after 't'", columns=3, size=(10, 3.4)) as panels:
    for axes, temperature in zip(panels, (0.3, 1.0, 3.0)):
        probs = Sampling(temperature).probabilities(scores)
        by_hand = np.exp(scores / temperature) / np.exp(scores / temperature).sum()
        assert np.allclose(probs, by_hand, atol=1e-5)
        entropies[temperature] = -(probs * np.log(probs + 1e-300)).sum()
        shown = {letter.replace(" ", "space"): float(probs[number[letter]]) for letter in chosen}
        bars(axes, shown, "probability", ".2f")
        axes.set(title=f"T = {temperature:g}", ylim=(0, 1.05))
        axes.tick_params(axis="x", labelrotation=90)

# %%
for temperature, entropy in entropies.items():
    print(f"T = {temperature:3g}: entropy {entropy:.2f} nats of at most {math.log(V):.2f}: {write(50, temperature)}")
assert entropies[0.3] < entropies[1.0] < entropies[3.0] < math.log(V)
# T -> 0: always the most likely; T -> infinity: all equally likely
assert Sampling(0.0).probabilities(scores).max() == 1 and np.ptp(Sampling(1e6).probabilities(scores)) < 1e-3

# %%
order = [np.argsort(-Sampling(T).probabilities(scores))[:8].tolist() for T in (0.3, 1.0, 3.0)]
print("from the most likely on:", *(letters[i] for i in order[0]))
less_read = Counter(after for last, after in zip(text[:2000], text[1:2001]) if last == "t")  # the control
print("2,000 letters counted:  ", *(letter for letter, _ in less_read.most_common(8)))
assert order[0] == order[1] == order[2] != [number[letter] for letter, _ in less_read.most_common(8)]

# %% [markdown]
# Answer: a low temperature makes the likely letters more likely, a high one makes all more alike. But at every
# temperature the letters keep their order, and the logits are what they were: **temperature changes sampling, not
# knowledge**. In a model that has read less, the control, the order is another.

# %% The limitation
# This model sees one letter. To see two, the table needs V² rows; to see ten, V^10.
#
# Predict: how many of the V^10 rows can a text of 100,000 letters fill?

# %%
filled = len({text[i : i + 10] for i in range(len(text) - 10)})
print(f"{V}^10 = {float(V) ** 10:.0e} rows, of which this text fills {filled:,}")

# %% [markdown]
# Answer: at most one for each letter, next to nothing. Counting has nothing to say about a context that it has never
# seen. Lesson 4.1.4 counts longer contexts all the same, and then lets a neural network generalize. That needs vectors
# for tokens (lesson 4.1.3). And letters may not be the best tokens to start with (lesson 4.1.2).

# %% [markdown]
# ## Temperature, top-k and top-p on a real model
#
# Two more settings leave out what is unlikely. Top-k keeps the k most likely tokens. Top-p keeps the most likely
# tokens, as few as have the probability p together. After "t":

# %%
likely = -np.sort(-Sampling(1.0).probabilities(scores))  # the most likely first
by_k, by_p = (np.count_nonzero(kept.probabilities(scores)) for kept in (Sampling(top_k=5), Sampling(top_p=0.8)))
assert np.isclose(Sampling(top_p=0.8).probabilities(scores).sum(), 1)  # what is kept is scaled to 1
print(f"top-k 5 keeps {by_k} letters ({likely[:by_k].sum():.0%}), top-p 0.8 keeps {by_p} ({likely[:by_p].sum():.0%})")
assert by_k == 5 and likely[: by_p - 1].sum() < 0.8 <= likely[:by_p].sum()

# %% [markdown]
# On the page of this lesson you can move all three, on a GPT (`python scripts/lesson.py 411 --html`).

# %%
prompts = ["The value of the", "This function returns", "If the object is not", "import", "class"]
lesson.widget("sampling", widget_data.sampling(*widget_data.demo_model(), prompts))

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start softmax`, cross_entropy, sampling
# - line by line: `python scripts/step.py --html softmax`
# - read: gpt/model/generation.py: temperature, top-k, top-p; gpt/training/batches.py: inputs and targets
# - break: the targets above: take ids[:-1] for both (`python scripts/break.py unshifted` does so with a GPT). Expect: a
#   loss of 0.005, and a text in which each letter is the one before with a probability of 99.5 %: "tttttttt...", until
#   a rare draw changes the letter, after a hundred or two. Nothing is easier to predict than what one has just seen.
# - lesson: `python scripts/lesson.py 412`
