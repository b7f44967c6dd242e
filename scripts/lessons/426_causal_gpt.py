"""Lesson 4.2.6: the causal mask, and the whole GPT

A model that predicts the next token must not see it. A triangle of minus infinity before the softmax prevents that, so
one pass over T tokens trains T predictions. This is the last missing part. The lesson then puts the whole GPT together,
accounts for each of its 124,439,808 parameters, and follows one text from ids to probabilities.
Radford et al. 2019; Brown et al. 2020 (GPT-3), table 2.1; Raffel et al. 2020 (T5); Wang et al. 2022 (architectures).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from unittest import mock

import numpy as np

import minigrad.functional as F
from gpt import GPT, GPTConfig, accounting
from gpt.training.batches import RandomBatches
from minigrad import Tensor, no_grad
from scripts.lessons.small_gpt import english, new_gpt, smooth, train, validation_loss, write
from scripts.pages import widget_data
from scripts.pages.pictures import Lesson, heatmap

lesson = Lesson("426_causal_gpt", __doc__)
rng = np.random.default_rng(0)

# %% Without a mask, the answer is in the question
# Train one GPT whose tokens see only earlier tokens, and one without this mask.
#
# Predict: which of them reaches the lower loss, and which writes better?
tokenizer, train_ids, val_ids = english()
causal_attention = F.scaled_dot_product_attention


def unmasked(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
    """Attention that sees everything, later tokens included."""
    return causal_attention(query, key, value)


shape = {"n_layer": 1, "n_head": 2, "block_size": 16}
honest = new_gpt(len(tokenizer), **shape)
honest_losses = train(honest, train_ids, 400)
with mock.patch.object(F, "scaled_dot_product_attention", unmasked):
    cheat = new_gpt(len(tokenizer), **shape)
    cheat_losses = train(cheat, train_ids, 400)
    cheated = write(cheat, tokenizer, "The value", 25)
with_mask, without = np.mean(honest_losses[-15:]), np.mean(cheat_losses[-15:])
print(f"loss after 400 steps: with the mask {with_mask:.2f}, without {without:.2f}")
assert without < 0.2 * with_mask
print(f"no mask: {cheated}\nmask:    {write(honest, tokenizer, 'The value', 25)}")
with lesson.picture("cheating", "A loss that is too good to be true") as axes:
    axes.plot(smooth(honest_losses), "-", color="black", label="causal mask")
    axes.plot(smooth(cheat_losses), "--", color="black", label="no mask")
    axes.set(xlabel="step", ylabel="loss (nats per token), smoothed", ylim=(0, None))

# %% [markdown]
# Answer: without the mask the loss is far lower and the writing far worse. The target of a token is the next token, and
# without a mask the model can look at it: position t copies token t + 1. In generation there is no token t + 1 to copy.

# %% Minus infinity before the softmax
# The weights of later tokens must be 0, and each row must still sum to 1. So the mask comes before the softmax.
T, D = 5, 8
q, k, v = (Tensor(rng.standard_normal((1, T, D))) for _ in range(3))
scores = q.data[0] @ k.data[0].T / np.sqrt(D)
future = np.triu(np.ones((T, T), dtype=bool), 1)  # j > i
masked = np.where(future, -np.inf, scores)
weights = F.softmax(Tensor(masked), -1).data
assert (weights[future] == 0).all() and np.allclose(weights.sum(axis=1), 1)
assert np.allclose(weights @ v.data[0], F.scaled_dot_product_attention(q, k, v, is_causal=True).data[0])
wrong = F.softmax(Tensor(scores), -1).data * ~future  # zeroed after the softmax: rows no longer sum to 1
assert wrong.sum(axis=1)[:-1].max() < 1
print("set to -inf before the softmax, rows sum to", weights.sum(axis=1))
print("set to 0 after it, they sum to             ", wrong.sum(axis=1))
names = [f"token {t}" for t in range(T)]
with lesson.picture("mask", "The causal mask", columns=2, size=(10, 3.6)) as pair:
    titles = ("scores; blank: minus infinity", "weights")
    for axes, title, matrix in zip(pair, titles, (np.where(future, np.nan, scores), weights)):
        heatmap(axes, matrix, names, names)
        axes.set(title=title, xlabel="key (looked at)", ylabel="query (looking)")

# %% One pass, T predictions
# With the mask, a prediction depends on nothing that comes later. So one pass over a text makes the same predictions as
# generation does, token by token: training asks exactly what generation will ask.
ids = train_ids[None, :12]
with no_grad():
    at_once = honest(ids).data[0]  # (T, V): one pass
    one_by_one = np.array([honest(ids[:, : t + 1]).data[0, -1] for t in range(12)])  # 12 passes, as in generation
print(f"12 predictions in one pass and in 12 passes differ by {np.abs(at_once - one_by_one).max():.0e}")
assert np.allclose(at_once, one_by_one, atol=1e-4)
changed = ids.copy()
changed[0, 8] = (changed[0, 8] + 1) % len(tokenizer)
with no_grad():
    moved = np.abs(honest(changed).data[0] - at_once).max(axis=1)
print("change token 8: the predictions at 0 to 7 move by", moved[:8].max(), "and at 8 by", moved[8].round(2))
assert moved[:8].max() == 0 < moved[8]

# %% Assembly, not invention
# Every part is known. What remains is to count. Less than a quarter of the parameters is attention: a transformer is a
# cycle of reading and processing.
config = GPTConfig()  # GPT-2
counts = accounting.parameters(config)
V, T, L, C = config.vocab_size, config.block_size, config.n_layer, config.n_embd
assert counts["token embedding"] == V * C == 38_597_376
assert counts["position embedding"] == T * C == 786_432
assert counts["attention"] == L * (3 * C * C + 3 * C + C * C + C)
assert counts["MLP"] == L * (4 * C * C + 4 * C + 4 * C * C + C)
assert sum(counts.values()) == 124_439_808 == config.num_parameters()
for name, count in counts.items():
    print(f"  {name:20} {count:12,}  {accounting.shares(counts)[name]:6.1%}")
print(f"  {'together':20} {sum(counts.values()):12,}")
shares = {name: round(100 * share) for name, share in accounting.shares(counts).items()}
assert (shares["attention"], shares["MLP"], shares["token embedding"]) == (23, 46, 31)
small = GPT(GPTConfig(vocab_size=50, block_size=8, n_layer=2, n_head=2, n_embd=16))
assert small.num_parameters() == small.config.num_parameters()  # the formula, against a model that was really built


def boxes() -> Iterator[tuple[str, str, float]]:
    """From the bottom: what it is, its shape and size, and how wide to draw it."""
    yield "ids", "(T)", 0
    yield "token embedding wte", f"{V:,} x {C} = {counts['token embedding'] / 1e6:.1f}M", 38.6
    yield "+ position embedding wpe", f"{T:,} x {C} = {T * C / 1e6:.1f}M", 0.8
    yield "12 x  x + attention(norm(x))", f"{counts['attention'] / 1e6:.1f}M", 28.3
    yield "12 x  x + MLP(norm(x))", f"{counts['MLP'] / 1e6:.1f}M", 56.7
    yield "norm ln_f", f"{2 * C:,}", 0.1
    yield "output layer = wte again (tied)", "0 more", 0
    yield "logits: a score for each next token", f"(T, {V:,})", 0


with lesson.picture("architecture", "GPT-2, from ids to logits (124,439,808 parameters)", size=(8, 5)) as axes:
    for height, (name, size, millions) in enumerate(boxes()):
        axes.barh(height, millions, color="0.8", edgecolor="black")
        axes.text(millions + 0.8, height, f"{name}   {size}", va="center", fontsize=10)
    axes.set(xlabel="parameters (millions)", ylabel="from bottom to top", xlim=(0, 90), yticks=[])

# %% One text, from ids to probabilities
prompt = "The value of the"
ids = np.array(tokenizer.encode(prompt))
weights = honest.transformer
with no_grad():
    x = weights.wte(ids[None]) + weights.wpe(np.arange(len(ids)))  # (1, T, C)
    print(f"{prompt!r} -> ids {ids.tolist()}\n-> token + position embeddings {x.shape}")
    for number, block in enumerate(weights.h):
        x = x + block.attn(block.ln_1(x))
        x = x + block.mlp(block.ln_2(x))
        print(f"-> block {number} {x.shape}, {block.num_parameters():,} parameters")
    hidden = weights.ln_f(x).data[0]  # (T, C)
    logits = hidden @ weights.wte.weight.data.T  # (T, V): the output layer is the transposed embedding
    probs = F.softmax(Tensor(logits), -1).data
    whole = honest(ids[None]).data[0]
print(f"-> last norm {hidden.shape} -> times the embedding, transposed: logits {logits.shape} -> softmax")
assert np.allclose(logits, whole, atol=1e-4) and np.allclose(probs.sum(axis=1), 1, atol=1e-5)
top = np.argsort(-probs[-1])[:5]
assert np.isclose(logits[-1, top[0]], hidden[-1] @ weights.wte.weight.data[top[0]], atol=1e-5)  # one logit, by hand
print("the five most likely next tokens:", {tokenizer.decode([i]): round(float(probs[-1, i]), 3) for i in top})

# %% The same blueprint, other numbers, other masks
# Scale, not architecture: between GPT-2 and GPT-3, only the numbers in the configuration differ. (GPT-3 also alternates
# dense and sparse attention.) And what makes a model an encoder or a decoder is who sees whom. "Decoder-only" means the
# causal mask. It does not mean that the model can only decode.
gpt3 = GPTConfig(n_layer=96, n_head=96, n_embd=12_288, block_size=2048)
times = gpt3.num_parameters() / config.num_parameters()
print(f"GPT-2 {config.num_parameters() / 1e6:.0f}M, GPT-3 {gpt3.num_parameters() / 1e9:.1f}B: {times:,.0f} times")
assert round(gpt3.num_parameters() / 1e9) == 175
half = np.tri(6)
half[:3, :3], half[3:, :3] = 1, 1  # the encoder sees all that was read; the decoder sees it and what it has written
variants = {
    "encoder (BERT): all": np.ones((6, 6)),
    "encoder-decoder (T5):\n3 read, 3 written": half,
    "decoder (GPT): causal": np.tri(6),
}
with lesson.picture("variants", "Who sees whom (dark: seen)", columns=3, size=(11, 3.8)) as panels:
    for axes, (title, matrix) in zip(panels, variants.items()):
        heatmap(axes, matrix, [str(i) for i in range(6)], [str(i) for i in range(6)], "")
        axes.set(title=title, xlabel="key (looked at)", ylabel="query (looking)")
affected: dict[str, list[int]] = {}  # how many of 6 outputs change when token 1, or token 4, changes
x = rng.standard_normal((1, 6, D))
for (title, matrix), token in itertools.product(variants.items(), (1, 4)):
    changed = x.copy()
    changed[0, token] += 1
    before, after = (causal_attention(*[Tensor(v)] * 3, attn_mask=matrix == 1).data[0] for v in (x, changed))
    affected.setdefault(title.partition(":")[0], []).append(int((np.abs(after - before).max(axis=1) > 0).sum()))
print("of 6 outputs, change with token 1 and with token 4:", affected)
assert list(affected.values()) == [[6, 6], [6, 2], [5, 2]]

# %% Why decoder-only won
# 1. Simplicity: one stack of one kind of block. T5 has two stacks, and in each block of the second a cross-attention to
#    what was read.
# 2. Signal: every position is a training example. BERT predicts 15 % of its tokens, T5 too (Devlin et al. 2019; Raffel
#    et al. 2020). Below, our model learns from all positions, and from 15 % of them.
# 3. Generality: every task that can be written as text is a next-token task, with no new head (GPT-3: few-shot).
#
# Not everything speaks for it: at equal compute, T5's authors found encoder-decoders better after fine-tuning. Wang et
# al. 2022 found causal decoders best at new tasks without fine-tuning, when trained on plain text only.
decoder_only, cross = 12 * C * C, 4 * C * C  # matrices of a block: attention 4 C^2 and MLP 8 C^2; cross-attention 4 C^2
print(f"1. weights of a block at GPT-2's width: {decoder_only:,}; of cross-attention: {cross:,}")


class SomeTargets(RandomBatches):
    """Windows in which only 15 % of the positions have a target."""

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = super().__next__()
        return inputs, np.where(rng.random(targets.shape) < 0.15, targets, -100)


ends = {"all positions": [], "15 % of them": []}  # type: dict[str, list[float]]
for seed in (0, 1, 2):
    for name, batches in (("all positions", RandomBatches), ("15 % of them", SomeTargets)):
        model = new_gpt(len(tokenizer), seed, **shape)
        train(model, train_ids, 250, batches=batches)
        ends[name].append(validation_loss(model, val_ids))
print("2. validation loss after 250 steps, seeds 0, 1 and 2, with targets at")
for name, losses in ends.items():
    print(f"   {name:13}  " + ", ".join(f"{loss:.2f}" for loss in losses))
assert max(ends["all positions"]) < min(ends["15 % of them"])

# %% [markdown]
# ## One token, from its id to a probability
#
# On the page of this lesson (`python scripts/lesson.py 426 --html`) the whole model is a drawing. The arrows carry
# shapes, the boxes have their parameters, and you can follow a token of a trained GPT through all of them. The end is
# a probability for every token that may come next.

# %%
model, tokenizer, name = widget_data.demo_model()
lesson.widget("gpt", widget_data.gpt(model, tokenizer, name, "The value of the"))

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start causal_mask`
# - read: gpt/model/gpt2.py, all of it: a page; gpt/accounting.py: what it costs
# - break: `python scripts/break.py no_mask`. Expect: a loss of about 1, where the healthy model has 4, and nonsense.
# - break: `python scripts/break.py no_positions`. Expect: a loss as good as the healthy one after these few steps.
# - break: `python scripts/break.py no_tying`. Expect: an even better loss, with 166,656 parameters in place of 133,888.
# - lesson: `python scripts/lesson.py 431`
