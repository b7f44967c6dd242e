"""Lesson 4.2.5: the transformer block

Attention gathers information from other tokens but can only blend it. A feed-forward network (MLP) then transforms the
result. Layer norm keeps the numbers in a range in which both can learn. Together with the residual stream, they are the
block that a GPT repeats. Ba et al. 2016, "Layer normalization"; Xiong et al. 2020, "On layer normalization in the
transformer architecture"; Geva et al. 2021, "Transformer feed-forward layers are key-value memories".
"""

from __future__ import annotations

import numpy as np

import minigrad.functional as F
from gpt import GPTConfig, accounting
from gpt.model.gpt2 import MLP, Block
from minigrad import Tensor, use_kernels
from scripts.lessons.pictures import Lesson, bars
from scripts.lessons.small_gpt import english, new_gpt, smooth, train

lesson = Lesson("425_block", __doc__)
rng = np.random.default_rng(0)

# %% Layer norm: each token on its own
x = rng.standard_normal((2, 3, 8)) * [[[1], [10], [100]]] + 5  # (B, T, C): three tokens of very different size
normed = F.layer_norm(Tensor(x), (8,)).data
by_hand = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
assert np.allclose(normed, by_hand)
print("std of the tokens before:", x.std(axis=-1)[0], " after:", normed.std(axis=-1)[0])
# Batch norm has the same formula along another axis: for each channel, over all tokens of the batch. Then the result
# for a token depends on the rest of the batch, so sentences of different lengths or a batch of one cause trouble.
other = x.copy()
other[1] *= 50  # another sentence of the batch changes


def batch_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)


assert np.allclose(F.layer_norm(Tensor(other), (8,)).data[0], normed[0])
moved = np.abs(batch_norm(other)[0] - batch_norm(x)[0]).max()
print(f"change the other sentence of the batch: layer norm moves by 0, batch norm by {moved:.2f}")
assert moved > 0.1
print("Layer norm computes the same in training and in use, because it needs no running averages.")

# %% Attention blends; the feed-forward network transforms
values = rng.standard_normal((1, 6, 2))
blended = F.scaled_dot_product_attention(
    *(Tensor(rng.standard_normal((1, 6, 2)) * 3) for _ in "qk"), Tensor(values)
).data
mlp = MLP(GPTConfig(n_embd=2, n_head=1, vocab_size=2, block_size=6, n_layer=1))
for layer in (mlp.c_fc, mlp.c_proj):
    layer.weight.data[...] = rng.standard_normal(layer.weight.shape)
transformed = mlp(Tensor(values.astype(np.float32))).data
angles = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
directions = np.array([np.cos(angles), np.sin(angles)])  # (2, 3600)


def outside(points: np.ndarray) -> np.ndarray:
    """How far each point lies outside the convex hull of the values, in the direction where it is furthest outside."""
    return (points[0] @ directions - (values[0] @ directions).max(axis=0)).max(axis=1)


print(f"6 values and their convex hull: {(outside(blended) > 1e-9).sum()} of 6 outputs of attention are outside it,")
print(f"and {(outside(transformed) > 1e-9).sum()} of 6 outputs of an MLP with random weights")
assert outside(values + 0.01).max() > 1e-9  # the test of "outside" can fail
assert (outside(blended) <= 1e-9).all() and (outside(transformed) > 1e-9).any()
with lesson.picture("hull", "Blending and transforming", size=(5.5, 4)) as axes:
    for points, marker, name, size in (
        (values, "o", "values", 7), (blended, "x", "after attention", 6), (transformed, "^", "after the MLP", 6)
    ):  # fmt: skip
        axes.plot(*points[0].T, marker, color="black", markerfacecolor="0.8", markersize=size, label=name)
    axes.set(xlabel="channel 0", ylabel="channel 1")
    axes.legend(frameon=False)

# %% The MLP as keys and values
# c_proj(gelu(c_fc(x))) = sum over the 4C hidden units of gelu(key_i . x + b_i) value_i + b. Each unit has a pattern
# that it responds to, its key (a row of c_fc), and a vector that it then adds to the stream, its value (a column of
# c_proj).
C = 16
mlp = MLP(GPTConfig(n_embd=C, n_head=1, vocab_size=2, block_size=6, n_layer=1))
row = rng.standard_normal(C).astype(np.float32)
keys, values_ = mlp.c_fc.weight.data, mlp.c_proj.weight.data.T  # (4C, C) each
hits = F.gelu(Tensor(keys @ row + mlp.c_fc.bias.data), "tanh").data  # (4C): how much each key matches
written = sum(hit * value for hit, value in zip(hits, values_)) + mlp.c_proj.bias.data
assert np.allclose(mlp(Tensor(row[None, None])).data[0, 0], written, atol=1e-5)
print(f"{C} -> {4 * C} -> {C}: {4 * C} keys, each with a value that it writes to the stream when it matches")
# Attention reads other tokens; the MLP sees one token only. Change token 0 and look at token 1:
attention_only = Block(GPTConfig(n_embd=C, n_head=2, vocab_size=2, block_size=6, n_layer=1)).attn
two = rng.standard_normal((1, 2, C)).astype(np.float32)
altered = two.copy()
altered[0, 0] += 1
for name, part in (("attention", attention_only), ("MLP", mlp)):
    moved = float(np.abs(part(Tensor(altered)).data - part(Tensor(two)).data)[0, 1].max())
    print(f"change token 0: the output of the {name} at token 1 changes by {moved:.4f}")
    assert (moved > 0) == (name == "attention")
print("attention reads, the MLP writes")
grid = np.linspace(-4, 4, 201)
with lesson.picture("gelu", "GELU: x times the probability that a normal number is below x", size=(5.5, 3.4)) as axes:
    axes.plot(grid, F.gelu(Tensor(grid)).data, color="black", label="GELU")
    axes.plot(grid, np.maximum(grid, 0), ":", color="black", label="ReLU")
    axes.set(xlabel="x", ylabel="output")
    axes.legend(frameon=False)

# %% The block, and how often it is repeated
# Predict: how much of a block's parameters is attention, and how much is the MLP?
config = GPTConfig()  # GPT-2
block = Block(GPTConfig(n_embd=64, n_head=4, vocab_size=2, block_size=6, n_layer=1))
stream = Tensor(rng.standard_normal((1, 6, 64)).astype(np.float32))
assert block(stream).shape == stream.shape
print("the shape stays the same, so blocks can be stacked:", stream.shape)
by_formula = stream + block.attn(block.ln_1(stream))
by_formula = by_formula + block.mlp(block.ln_2(by_formula))
assert np.array_equal(block(stream).data, by_formula.data)
counts = accounting.parameters(config)
attention, feed_forward = counts["attention"] // 12, counts["MLP"] // 12
C = 768
assert (attention, feed_forward) == (4 * C * C + 4 * C, 8 * C * C + 5 * C)
share = feed_forward / (attention + feed_forward)
print(f"a block of GPT-2: attention {attention:,}, MLP {feed_forward:,} ({C} -> {4 * C} -> {C}): {share:.0%} is MLP")
assert abs(share - 2 / 3) < 0.001
print(f"{config.n_layer} blocks of 2: {2 * config.n_layer} sub-layers read the stream and add to it")
with lesson.picture("block", "Parameters of one block of GPT-2", size=(5, 3.6)) as axes:
    bars(axes, {"attention": attention / 1e6, "MLP": feed_forward / 1e6, "2 norms": 4 * C / 1e6}, "millions", ".2f")

# %% [markdown]
# Answer: one third and two thirds. Attention has 4 matrices of C x C. The MLP has two of C x 4C, which is 8 of that
# size.

# %% Pre-norm against post-norm
tokenizer, train_ids, _ = english()
curves: dict[str, list[list[float]]] = {}
for norm in ("pre", "post"):
    for seed in (0, 1):
        model = new_gpt(len(tokenizer), seed, n_layer=12, n_embd=32, block_size=16, norm=norm)
        with use_kernels("fast"):
            curves.setdefault(norm, []).append(train(model, train_ids, 250))
ends = {norm: [float(np.mean(curve[-15:])) for curve in several] for norm, several in curves.items()}
for norm, several in ends.items():
    print(f"{norm:>4}-norm, 12 blocks: loss after 250 steps, seeds 0 and 1: {several[0]:.2f}, {several[1]:.2f}")
assert max(ends["pre"]) < min(ends["post"]) - 0.1
print("Post-norm normalizes the stream itself, so every path back leads through all 24 norms. Pre-norm normalizes only")
print("what a sub-layer reads and leaves the sum as it is. GPT-2, GPT-3 and LLaMA use pre-norm. (Post-norm can be")
print("trained too, with a longer warm-up and a smaller learning rate than here: Xiong et al. 2020.)")
with lesson.picture("norms", "Where to put the norm (12 blocks, 32 wide, learning rate 0.003)") as axes:
    for norm, line in (("pre", "-"), ("post", "--")):
        axes.plot(smooth(curves[norm][0]), line, color="black", label=f"{norm}-norm")
    axes.set(xlabel="step", ylabel="loss (nats per token), smoothed")
    axes.legend(frameon=False)

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start layer_norm`, then gelu
# - read: gpt/model/gpt2.py: MLP and Block; minigrad/functional/normalization.py
# - break: `python scripts/break.py no_residual`. Expect: only two blocks, and still the loss after 350 steps is about
#   5.3, where the healthy model has 4.1.
# - lesson: `python scripts/lesson.py 426`
