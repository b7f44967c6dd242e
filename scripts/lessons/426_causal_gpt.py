"""Lesson 4.2.6: the causal mask, and the whole GPT

A model that is to say the next token must not look at it. One triangle of minus infinity before the softmax prevents
that, and lets a text of T tokens be T lessons at once. With it, everything is there: the GPT is put together, and each
of its 124,439,808 parameters accounted for. Radford et al. 2019; Brown et al. 2020 (GPT-3), table 2.1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import minigrad.functional as F
from gpt import GPT, GPTConfig, accounting
from minigrad import Tensor, no_grad
from scripts.lessons import widget_data
from scripts.lessons.pictures import Lesson, heatmap
from scripts.lessons.small_gpt import english, new_gpt, smooth, train, write

lesson = Lesson("426_causal_gpt", __doc__)
rng = np.random.default_rng(0)

# %% The cheating problem
tokenizer, train_ids, _ = english()
causal_attention = F.scaled_dot_product_attention


def unmasked(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
    """Attention that sees everything, also what comes later."""
    return causal_attention(query, key, value)


shape = {"n_layer": 1, "n_head": 2, "block_size": 16}
honest = new_gpt(len(tokenizer), **shape)
honest_losses = train(honest, train_ids, 400)
F.scaled_dot_product_attention = unmasked
try:
    cheat = new_gpt(len(tokenizer), **shape)
    cheat_losses = train(cheat, train_ids, 400)
    cheated = write(cheat, tokenizer, "The value", 25)
finally:
    F.scaled_dot_product_attention = causal_attention
with_mask, without = np.mean(honest_losses[-15:]), np.mean(cheat_losses[-15:])
print(f"loss after 400 steps: with the mask {with_mask:.2f}, without {without:.2f}")
assert without < 0.2 * with_mask
print("without it the loss is far too good: position t copies from t + 1. When writing there is no t + 1:")
print(f"  no mask: {cheated}\n  mask:    {write(honest, tokenizer, 'The value', 25)}")
with lesson.picture("cheating", "A loss that is too good to be true") as axes:
    axes.plot(smooth(honest_losses), "-", color="black", label="causal mask")
    axes.plot(smooth(cheat_losses), "--", color="black", label="no mask")
    axes.set(xlabel="step", ylabel="loss (nats per token), smoothed", ylim=(0, None))
    axes.legend(frameon=False)

# %% The mask
T, D = 5, 8
q, k, v = (Tensor(rng.standard_normal((1, T, D))) for _ in range(3))
scores = q.data[0] @ k.data[0].T / np.sqrt(D)
future = np.triu(np.ones((T, T), dtype=bool), 1)  # j > i
masked = np.where(future, -np.inf, scores)
weights = F.softmax(Tensor(masked), -1).data
assert (weights[future] == 0).all() and np.allclose(weights.sum(axis=1), 1)
assert np.allclose(weights @ v.data[0], F.scaled_dot_product_attention(q, k, v, is_causal=True).data[0])
wrong = F.softmax(Tensor(scores), -1).data * ~future  # zero after the softmax: the rows no longer sum to 1
print("set to -inf before the softmax, rows sum to", weights.sum(axis=1))
print("set to 0 after it, they sum to             ", wrong.sum(axis=1))
names = [f"token {t}" for t in range(T)]
with lesson.picture("mask", "The causal mask", columns=2, size=(10, 3.6)) as (left, right):
    heatmap(left, np.where(future, np.nan, scores), names, names)
    left.set(title="scores; blank: minus infinity", xlabel="looked at", ylabel="looking")
    heatmap(right, weights, names, names)
    right.set(title="weights", xlabel="looked at", ylabel="looking")

# %% Training is parallel, writing is not
ids = train_ids[None, :12]
with no_grad():
    at_once = honest(ids).data[0]  # (T, V): one pass
    one_by_one = np.array([honest(ids[:, : t + 1]).data[0, -1] for t in range(12)])  # 12 passes, as in writing
print(f"12 predictions in one pass, and in 12 passes: they differ by {np.abs(at_once - one_by_one).max():.0e}")
assert np.allclose(at_once, one_by_one, atol=1e-4)
changed = ids.copy()
changed[0, 8] = (changed[0, 8] + 1) % len(tokenizer)
with no_grad():
    moved = np.abs(honest(changed).data[0] - at_once).max(axis=1)
print("change token 8: the predictions at 0 to 7 move by", moved[:8].max(), "and at 8 by", moved[8].round(2))
assert moved[:8].max() == 0 < moved[8]
print("so the mask is no trick of training: it makes training ask what writing will ask")

# %% The whole GPT
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
print("less than a quarter is attention: a transformer is a cycle of reading and processing")
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

# %% The family
gpt3 = GPTConfig(n_layer=96, n_head=96, n_embd=12_288, block_size=2048)
print(f"GPT-2 {config.num_parameters() / 1e6:.0f}M, GPT-3 {gpt3.num_parameters() / 1e9:.1f}B: only the config differs")
assert round(gpt3.num_parameters() / 1e9) == 175
everything, nothing = np.ones((6, 6)), np.zeros((6, 6))
split = 3
encoder_decoder = np.block([[np.ones((3, 3)), np.zeros((3, 3))], [np.ones((3, 3)), np.tri(3)]])
with lesson.picture("variants", "Who sees whom (dark: seen)", columns=3, size=(11, 3.8)) as panels:
    for axes, matrix, title in zip(
        panels,
        (everything, encoder_decoder, np.tri(6)),
        ("encoder (BERT): all", "encoder-decoder (T5):\n3 read, 3 written", "decoder (GPT): causal"),
    ):
        heatmap(axes, matrix, [str(i) for i in range(6)], [str(i) for i in range(6)], "")
        axes.set(title=title, xlabel="looked at", ylabel="looking")
print("'decoder-only' means this mask, and not that it can only decode. It won because one simple thing, to predict")
print("the next token, can be trained on any text, does every task that can be written down, and scales.")

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
# - break: `python scripts/break.py no_mask, no_positions, no_tying`
# - lesson: `python scripts/lesson.py 431`
