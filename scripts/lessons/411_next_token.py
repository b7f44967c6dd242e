"""Lesson 4.1.1: a language model says which token comes next

A language model is a function from the text so far to a probability for every possible next token. The text itself
supplies the right answers, so this is supervised learning without labels written by people. The smallest such model, a
table of which letter follows which, already shows everything: training, loss, generation, temperature.
Shannon 1948, "A mathematical theory of communication", section 3 (the same experiment, by hand).
"""

from __future__ import annotations

import math

import numpy as np

import minigrad.functional as F
from gpt.model.generation import Sampling
from gpt.training.standard_library import help_text
from minigrad import nn, optim
from scripts.pages import drawings, widget_data
from scripts.pages.pictures import Lesson, bars

lesson = Lesson("411_next_token", __doc__)

# %% Text is its own label
# P(next | all before): every position of a text is a question, and the text has its answer. The targets are the inputs,
# one position later.
text = " ".join(help_text().encode("ascii", "ignore").decode().lower().split())[:100_000]
letters = sorted(set(text))
number = {letter: i for i, letter in enumerate(letters)}
ids = np.array([number[letter] for letter in text])
V = len(letters)
sentence = "the cat sat"
for t in (1, 2, 3, 10):
    print(f"  {sentence[:t]!r:>13} -> {sentence[t]!r}")
inputs, targets = ids[:-1], ids[1:]
print(f"{len(inputs):,} pairs from {len(text):,} letters, {V} different ones")

# %% The smallest model counts
# Use only the last letter: P(next | last). This is a table of V x V counts, each row divided by its sum.
#
# The loss is the mean of -ln p, where p is the probability of the letter that really came next. It is as if the model
# chose among e^loss equally likely letters: this number is the perplexity.
counts = np.zeros((V, V))
np.add.at(counts, (inputs, targets), 1)
table = counts / counts.sum(axis=1, keepdims=True).clip(1)
after_q = {letters[i]: table[number["q"], i] for i in np.argsort(-table[number["q"]])[:3]}
print("after q:", ", ".join(f"{letter!r} {p:.0%}" for letter, p in after_q.items()))
loss_of_nothing = math.log(V)  # all V equally likely: -ln(1 / V)
loss_of_counting = -np.log(table[inputs, targets]).mean()
print(f"loss: knowing nothing {loss_of_nothing:.3f}, counting {loss_of_counting:.3f}")
print(f"perplexity: {V} and {math.exp(loss_of_counting):.1f}")

# %% The same table, learned
# The usual supervised loop: inputs, targets, a loss, its gradient, a step. The model is a table of scores ("logits"),
# and softmax turns a row into probabilities. Nothing tells it to count, but it learns what counting finds.
#
# Predict: all logits are 0 at first. What is the loss before the first step?
model = nn.Embedding(V, V)
model.weight.data[...] = 0
optimizer = optim.Adam(model.parameters(), lr=0.1)
rng = np.random.default_rng(0)
losses = []
for _ in range(300):
    batch = rng.integers(0, len(inputs), 4096)
    loss = F.cross_entropy(model(inputs[batch]), targets[batch])
    model.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
learned = F.cross_entropy(model(inputs), targets).item()
print(f"loss at first {losses[0]:.3f} = ln {V}; learned {learned:.3f}; counting, the best, {loss_of_counting:.3f}")
assert abs(losses[0] - loss_of_nothing) < 1e-4 and loss_of_counting <= learned < loss_of_counting + 0.03

with lesson.picture("learning", "A table of next letters, learned") as axes:
    axes.plot(losses, color="black", label="learned, loss of a batch")
    axes.axhline(loss_of_nothing, linestyle=":", color="0.3", label="knowing nothing, ln V")
    axes.axhline(loss_of_counting, linestyle="--", color="0.3", label="counting")
    axes.set(xlabel="step", ylabel="loss (nats per letter)")

# %% [markdown]
# Answer: the logarithm of the number of letters, ln V. Equal logits give every letter the probability 1 / V, and the
# loss is -ln(1 / V). A model that starts with another loss is confident without a reason.

# %% Writing: sample, append, repeat
logits = model.weight.data  # (V, V): a row of logits per letter


def write(length: int, temperature: float, start: str = "t", seed: int = 0) -> str:
    """The autoregressive loop: the output becomes the next input, so the model reads its own text."""
    rng = np.random.default_rng(seed)
    written = start
    for _ in range(length):
        scores = logits[number[written[-1]]]  # 1. a logit for every possible next letter
        probs = Sampling(temperature).probabilities(scores)  # 2. probabilities
        drawn = rng.choice(V, p=probs)  # 3. sample one letter
        written += letters[drawn]  # 4. append it
    return written  # 5. repeat


texts = {seed: write(70, 1.0, seed=seed) for seed in (0, 1)}
for seed, written in texts.items():
    print(f"seed {seed}: {written}")
assert texts[0] != texts[1]

# %% [markdown]
# The model and the start are the same. The texts differ because letters are sampled, and each one drawn changes what
# comes after it.

# %%
steps = []
for t in range(1, 7):  # the first six letters of the text of seed 0, after the "t" that it starts with
    probs = Sampling(1.0).probabilities(logits[number[texts[0][t - 1]]])
    steps.append((texts[0][:t], dict(zip(letters, probs.tolist())), texts[0][t]))
with lesson.picture("loop", "Sample, append, repeat: six steps of the model above", size=(10, 3.6)) as axes:
    drawings.generation_loop(axes, steps)

# %% Temperature changes sampling, not knowledge
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
for temperature, entropy in entropies.items():
    print(f"T = {temperature:3g}: entropy {entropy:.2f} nats of at most {math.log(V):.2f}: {write(50, temperature)}")
assert entropies[0.3] < entropies[1.0] < entropies[3.0] < math.log(V)
assert Sampling(0.0).probabilities(scores).max() == 1  # T -> 0: always the most likely
assert np.allclose(Sampling(1e6).probabilities(scores), 1 / V, atol=1e-3)  # T -> infinity: uniform
order = [np.argsort(-Sampling(T).probabilities(scores))[:8].tolist() for T in (0.3, 1.0, 3.0)]
assert order[0] == order[1] == order[2]

# %% [markdown]
# At every temperature the letters keep their order. The logits are the same, so the model's knowledge has not changed.

# %% The limitation
# This model sees one letter. To see two, the table needs V² rows; to see ten, V^10.
filled = len({text[i : i + 10] for i in range(len(text) - 10)})
print(f"{V}^10 = {float(V) ** 10:.0e} rows, of which this text fills {filled:,}")

# %% [markdown]
# Counting has nothing to say about a context that it has never seen. A neural network can generalize, but it needs
# vectors for tokens (lesson 4.1.3). And letters may not be the best tokens to start with (lesson 4.1.2).

# %% [markdown]
# ## Temperature, top-k and top-p on a real model
#
# The same settings, on a GPT. Top-k keeps the k most likely tokens. Top-p keeps the most likely tokens that have the
# probability p together. On the page of this lesson you can move them (`python scripts/lesson.py 411 --html`).

# %%
prompts = ["The value of the", "This function returns", "If the object is not", "import", "class"]
lesson.widget("sampling", widget_data.sampling(*widget_data.demo_model(), prompts))

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start softmax`, then cross_entropy
# - read: gpt/model/generation.py: temperature, top-k, top-p; gpt/training/batches.py: inputs and targets
# - break: the targets above: take ids[:-1] for both (`python scripts/break.py unshifted` does so with a GPT). Expect: a
#   loss near 0, and a model that repeats its last token for ever. Nothing is easier to predict than what one has seen.
# - lesson: `python scripts/lesson.py 412`
