"""Lesson 4.2.5: the transformer block

Attention gathers, and can only blend what it gathers; a feed-forward network then makes something new of it. Layer norm
keeps the numbers in a range in which both can learn. Put together, with the residual stream: the block that a GPT
repeats. Ba et al. 2016, "Layer normalization"; Xiong et al. 2020, "On layer normalization in the transformer
architecture"; Geva et al. 2021, "Transformer feed-forward layers are key-value memories".
"""

from __future__ import annotations

import numpy as np

import minigrad.functional as F
from gpt import GPTConfig, accounting
from gpt.model.gpt2 import MLP, Block
from minigrad import Tensor
from scripts.lessons.pictures import Lesson, bars
from scripts.lessons.small_gpt import english, new_gpt, smooth, train

lesson = Lesson("425_block", __doc__)
rng = np.random.default_rng(0)

# %% Layer norm
x = rng.standard_normal((2, 3, 8)) * [[[1], [10], [100]]] + 5  # (B, T, C): three tokens of very different size
normed = F.layer_norm(Tensor(x), (8,)).data
by_hand = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
assert np.allclose(normed, by_hand)
print("std of the tokens before:", x.std(axis=-1)[0], " after:", normed.std(axis=-1)[0])
# Batch norm has the same formula along another axis: over the tokens of the batch, for each channel. Then a token's
# result depends on what else is in the batch, and sentences of different length, or a batch of one, spoil it.
other = x.copy()
other[1] *= 50  # another sentence of the batch changes


def batch_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)


assert np.allclose(F.layer_norm(Tensor(other), (8,)).data[0], normed[0])
moved = np.abs(batch_norm(other)[0] - batch_norm(x)[0]).max()
print(f"change the other sentence of the batch: layer norm moves by 0, batch norm by {moved:.2f}")
assert moved > 0.1
print("and layer norm does the same in training and in use; there are no running averages to keep")

# %% Attention can only blend
values = rng.standard_normal((1, 6, 2))
blended = F.scaled_dot_product_attention(
    *(Tensor(rng.standard_normal((1, 6, 2)) * 3) for _ in "qk"), Tensor(values)
).data
assert (blended.min((0, 1)) >= values.min((0, 1))).all() and (blended.max((0, 1)) <= values.max((0, 1))).all()
mlp = MLP(GPTConfig(n_embd=2, n_head=1, vocab_size=2, block_size=6, n_layer=1))
for layer in (mlp.c_fc, mlp.c_proj):
    layer.weight.data[...] = rng.standard_normal(layer.weight.shape)
transformed = mlp(Tensor(values.astype(np.float32))).data
print("attention's outputs lie among the values (in their convex hull); those of the MLP lie where its weights say")
assert (np.abs(transformed) > np.abs(values).max()).any()
with lesson.picture("hull", "Blending and transforming", size=(5.5, 4)) as axes:
    for points, marker, name, size in (
        (values, "o", "values", 7), (blended, "x", "after attention", 6), (transformed, "^", "after the MLP", 6)
    ):  # fmt: skip
        axes.plot(*points[0].T, marker, color="black", markerfacecolor="0.8", markersize=size, label=name)
    axes.set(xlabel="channel 0", ylabel="channel 1")
    axes.legend(frameon=False)

# %% The feed-forward network as a memory
# c_proj(gelu(c_fc(x))) = sum over the 4C hidden units of gelu(key_i . x + b_i) value_i + b: each unit has a pattern
# that it responds to (a row of c_fc) and something that it then writes to the stream (a column of c_proj).
C = 16
mlp = MLP(GPTConfig(n_embd=C, n_head=1, vocab_size=2, block_size=6, n_layer=1))
row = rng.standard_normal(C).astype(np.float32)
keys, values_ = mlp.c_fc.weight.data, mlp.c_proj.weight.data.T  # (4C, C) each
hits = F.gelu(Tensor(keys @ row + mlp.c_fc.bias.data), "tanh").data  # (4C): how much each key matches
written = sum(hit * value for hit, value in zip(hits, values_)) + mlp.c_proj.bias.data
assert np.allclose(mlp(Tensor(row[None, None])).data[0, 0], written, atol=1e-5)
print(f"{C} -> {4 * C} -> {C}: {4 * C} patterns, each with something to write; attention reads, the MLP writes")
grid = np.linspace(-4, 4, 201)
with lesson.picture("gelu", "GELU: x times the probability that a normal number is below x", size=(5.5, 3.4)) as axes:
    axes.plot(grid, F.gelu(Tensor(grid)).data, color="black", label="GELU")
    axes.plot(grid, np.maximum(grid, 0), ":", color="black", label="ReLU")
    axes.set(xlabel="x", ylabel="output")
    axes.legend(frameon=False)

# %% The block
config = GPTConfig()  # GPT-2
block = Block(GPTConfig(n_embd=64, n_head=4, vocab_size=2, block_size=6, n_layer=1))
stream = Tensor(rng.standard_normal((1, 6, 64)).astype(np.float32))
assert block(stream).shape == stream.shape
print("shape in = shape out, so that blocks can be stacked:", stream.shape)
by_formula = stream + block.attn(block.ln_1(stream))
by_formula = by_formula + block.mlp(block.ln_2(by_formula))
assert np.array_equal(block(stream).data, by_formula.data)
counts = accounting.parameters(config)
attention, feed_forward = counts["attention"] // 12, counts["MLP"] // 12
C = 768
assert (attention, feed_forward) == (4 * C * C + 4 * C, 8 * C * C + 5 * C)
share = feed_forward / (attention + feed_forward)
print(f"a block of GPT-2: attention {attention:,}, MLP {feed_forward:,} ({C} -> {4 * C} -> {C}): {share:.0%} is MLP")
assert abs(share - 2 / 3) < 0.001 and 2 * config.n_layer == 24
print(f"{config.n_layer} blocks of 2: {2 * config.n_layer} sub-layers read the stream and add to it")
with lesson.picture("block", "Parameters of one block of GPT-2", size=(5, 3.6)) as axes:
    bars(axes, {"attention": attention / 1e6, "MLP": feed_forward / 1e6, "2 norms": 4 * C / 1e6}, "millions", ".2f")

# %% Before or after?
tokenizer, train_ids, _ = english()
curves = {}
for norm in ("pre", "post"):
    model = new_gpt(len(tokenizer), n_layer=12, n_embd=32, block_size=16, norm=norm)
    curves[norm] = train(model, train_ids, 250)
    print(f"{norm:>4}-norm, 12 blocks: loss after 250 steps {np.mean(curves[norm][-15:]):.2f}")
assert np.mean(curves["pre"][-15:]) < np.mean(curves["post"][-15:]) - 0.1
print("post-norm normalizes the stream itself, so that every way back leads through all 24 norms: a deep one learns")
print("slowly unless it is warmed up long. Pre-norm keeps the sum clean, and normalizes only what a sub-layer reads:")
print("GPT-2, GPT-3 and LLaMA do that.")
with lesson.picture("norms", "Where to put the norm (12 blocks, 32 wide, learning rate 0.003)") as axes:
    for norm, line in (("pre", "-"), ("post", "--")):
        axes.plot(smooth(curves[norm]), line, color="black", label=f"{norm}-norm")
    axes.set(xlabel="step", ylabel="loss (nats per token), smoothed")
    axes.legend(frameon=False)

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start layer_norm`, then gelu
# - read: gpt/model/gpt2.py: MLP and Block; minigrad/functional/normalization.py
# - break: `python scripts/break.py no_residual`
# - lesson: `python scripts/lesson.py 426`
