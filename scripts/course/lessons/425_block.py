"""Lesson 4.2.5: the transformer block

Attention gathers information from other tokens but can only blend it. A feed-forward network (MLP) then transforms the
result. Layer norm keeps the numbers in a range in which both can learn. Together with the residual stream, they are the
block that a GPT repeats. Ba et al. 2016, "Layer normalization"; Xiong et al. 2020, "On layer normalization in the
transformer architecture"; Geva et al. 2021, "Transformer feed-forward layers are key-value memories".
"""

import numpy as np

import minigrad.functional as F
from gpt import GPTConfig, accounting
from gpt.model.gpt2 import MLP, Block
from minigrad import Tensor, optim, use_kernels
from minigrad.gradcheck.check import numeric_gradient
from scripts.course.lessons.small_gpt import english, new_gpt, train
from scripts.course.pictures import Lesson

lesson = Lesson("425_block", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% Layer norm: each token on its own
# Layer norm shifts each token to mean 0 and divides it by its standard deviation. (A learned scale and shift per
# channel follow.) For a token x of C channels:
#
#     y = (x - mean) / sqrt(variance + eps)        mean and variance over the C channels of this token
#
# Batch norm has the same formula along another axis: for each channel, over all tokens of the batch.
#
# Predict: the other sentence of the batch changes. For which of the two do the results of this sentence change?

# %%
x = rng.standard_normal((2, 3, 8)) * [[[1], [10], [100]]] + 5  # (B, T, C): three tokens of very different size
normed = F.layer_norm(Tensor(x), (8,)).data
by_hand = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
assert np.allclose(normed, by_hand)
print("std of the tokens before:", x.std(axis=-1)[0], " after:", normed.std(axis=-1)[0])

# %%
other = x.copy()
other[1] *= 50  # another sentence of the batch changes


def batch_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)


assert np.allclose(F.layer_norm(Tensor(other), (8,)).data[0], normed[0])
moved = np.abs(batch_norm(other)[0] - batch_norm(x)[0]).max()
print(f"change the other sentence of the batch: layer norm moves by 0, batch norm by {moved:.2f}")
assert moved > 0.1

# %% [markdown]
# Answer: for batch norm only. Layer norm needs neither other tokens nor running averages, so it computes the same in
# training and in use. With batch norm, sentences of different lengths or a batch of one cause trouble.

# %% Its gradient: what the norm ignores
# Add a number to all channels of a token, or double what it has above and below its mean: the result is the same.
#
# Predict: some loss depends on the result. What is the sum of its gradient dx over the channels of a token? And the dot
# product of dx and x - mean?

# %%
weights = x[1, 0]  # the loss: a weighted sum of a token's results, here with some numbers that are there
token = Tensor(x[0, 1], requires_grad=True)
(F.layer_norm(token, (8,)) * Tensor(weights)).sum().backward()
dx, centered = token.grad, token.data - token.data.mean()
nudged = numeric_gradient(lambda x: (F.layer_norm(Tensor(x), (8,)).data * weights).sum(), token.data)
print(f"dx {dx}, sum {dx.sum():.1e}, product with x - mean {dx @ centered:.1e}")
assert abs(dx.sum()) < 1e-9, "a number added to all channels changes nothing, so the gradient must sum to 0"
assert abs(dx @ centered) < 1e-3 * np.abs(dx * centered).sum(), "the norm ignores the scale, its gradient must, too"
assert np.allclose(dx, nudged, rtol=1e-4, atol=1e-7), "layer norm's gradient is not what nudging each channel says"

# %% [markdown]
# Answer: 0, both. The loss does not change in these two directions. So the gradient of a linear layer, dout * weight,
# has its mean and its part along x̂ taken away:
#
#     dx = (dx̂ - mean(dx̂) - x̂ mean(dx̂ x̂)) / std        dx̂ = dout * weight
#
# (The second product is not exactly 0, because of eps.)
#
# ## What attention cannot do
#
# Draw the values of six tokens as points in the plane, and a rubber band around them: their convex hull.
#
# Predict: attention turns the six values into six outputs, with any weights. How many of these can lie outside the
# rubber band? And if a feed-forward network (MLP) turns each value into an output?

# %%
values = rng.standard_normal((1, 6, 2))
q, k = (Tensor(rng.standard_normal((1, 6, 2)) * 3) for _ in "qk")
blended = F.scaled_dot_product_attention(q, k, Tensor(values)).data
mlp = MLP(GPTConfig(n_embd=2, n_head=1, vocab_size=2, block_size=6, n_layer=1))
for layer in (mlp.c_fc, mlp.c_proj):
    layer.weight.data[...] = rng.standard_normal(layer.weight.shape)
transformed = mlp(Tensor(values.astype(np.float32))).data

# %%
angles = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
directions = np.array([np.cos(angles), np.sin(angles)])  # (2, 3600)


def outside(points: np.ndarray) -> np.ndarray:
    """How far each point lies outside the convex hull of the values, in the direction where it is furthest outside."""
    return (points[0] @ directions - (values[0] @ directions).max(axis=0)).max(axis=1)


print("outside the convex hull of 6 values:")
print(f"  {(outside(blended) > 1e-9).sum()} of 6 outputs of attention")
print(f"  {(outside(transformed) > 1e-9).sum()} of 6 outputs of an MLP with random weights")
assert outside(values + 0.01).max() > 1e-9  # the test of "outside" can fail
assert (outside(blended) <= 1e-9).all() and (outside(transformed) > 1e-9).any()

# %%
with lesson.picture("hull", "Blending and transforming", size=(5.5, 4)) as axes:
    for points, marker, name, size in (
        (values, "o", "values", 7), (blended, "x", "after attention", 6), (transformed, "^", "after the MLP", 6)
    ):  # fmt: skip
        axes.plot(*points[0].T, marker, markerfacecolor="0.8", markersize=size, label=name)
    axes.set(xlabel="channel 0", ylabel="channel 1")

# %% [markdown]
# Answer: none of attention's. A weighted average lies inside the convex hull of what it averages, whatever the weights:
# attention blends. The MLP leaves it: it transforms.

# %% The MLP as keys and values
# An MLP makes a token four times as wide, applies GELU to each number, and makes it narrow again. It can be read as a
# memory of 4C hidden units:
#
#     c_proj(gelu(c_fc(x))) = Σ_i gelu(key_i · x + b_i) value_i + b
#
# Each unit has a pattern that it responds to, its key (a row of c_fc), and a vector that it then adds to the stream,
# its value (a column of c_proj).

# %%
C = 16
mlp = MLP(GPTConfig(n_embd=C, n_head=1, vocab_size=2, block_size=6, n_layer=1))
row = rng.standard_normal(C).astype(np.float32)
keys, values_ = mlp.c_fc.weight.data, mlp.c_proj.weight.data.T  # (4C, C) each
hits = F.gelu(Tensor(keys @ row + mlp.c_fc.bias.data), "tanh").data  # (4C): how much each key matches
written = sum(hit * value for hit, value in zip(hits, values_)) + mlp.c_proj.bias.data
assert np.allclose(mlp(Tensor(row[None, None])).data[0, 0], written, atol=1e-5)
print(f"{C} -> {4 * C} -> {C}: {4 * C} keys, each with a value of {C} numbers")

# %% What GELU is for
# Without a function between its two layers, an MLP is a single matrix. ReLU is the simplest such function: max(x, 0).
# GELU is x times the probability that a normal number is below x. So it is close to ReLU far from 0, and has no corner:
#
#     gelu(x) = x Phi(x)  ~  x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))        the second form is GPT-2's

# %%
points = np.array([-2.0, -1, -0.5, 0.5, 1, 2])
counted = points * (rng.standard_normal((200_000, 1)) < points).mean(axis=0)  # the probability, by counting
exact, gpt2s = (F.gelu(Tensor(points), form).data for form in ("none", "tanh"))
for name, row in (("x", points), ("x times the share below x", counted), ("GELU", exact), ("GPT-2's form", gpt2s)):
    print(f"{name:26}", row)
assert np.allclose(exact, counted, atol=0.01), "GELU is not x times the share of normal numbers below x"
assert np.abs(exact - gpt2s).max() < 5e-4, "the two forms of GELU are not close"

# %%
grid = Tensor(np.linspace(-4, 4, 201), requires_grad=True)
slopes = {}
for form in ("none", "tanh"):
    grid.grad = None
    F.gelu(grid, form).sum().backward()
    slopes[form] = grid.grad
    nudged = (F.gelu(grid + 1e-5, form) - F.gelu(grid - 1e-5, form)).data / 2e-5
    assert np.allclose(slopes[form], nudged, atol=1e-6), f"GELU ({form}): backward has another slope than the curve"
print(f"GELU falls until x = {grid.data[slopes['none'] < 0].max():.2f}, and then rises")
with lesson.picture("gelu", "GELU: x times the probability that a normal number is below x", size=(5.5, 3.4)) as axes:
    axes.plot(grid.data, F.gelu(grid).data, label="GELU")
    axes.plot(grid.data, slopes["none"], "--", label="its slope")
    axes.plot(grid.data, np.maximum(grid.data, 0), ":", label="ReLU")
    axes.set(xlabel="x", ylabel="output")

# %% [markdown]
# Look left of 0 in the picture: ReLU is flat, so a unit that is negative there gets no gradient. GELU dips below 0 and
# rises again. Its slope is small there, but 0 at one point only.
#
# Now train MLPs to multiply: each of C = 4 channels by its neighbor. In the last column, the biases of all units start
# at -4, so no unit is positive for any token.
#
# Predict: which of the three functions can learn it? Which can, if all units are off at the start?

# %%
x = rng.standard_normal((1, 512, 4)).astype(np.float32)
wanted = x * np.roll(x, 1, axis=-1)


def error_left(activation: str | None, width: int, bias: float) -> float:
    """The error after 200 steps, as a share of the variance of what is wanted."""
    mlp = MLP(GPTConfig(n_embd=4, n_head=1, vocab_size=2, block_size=6, n_layer=1, n_inner=width))
    mlp.activation = activation
    mlp.c_fc.bias.data[...] = bias
    optimizer = optim.Adam(mlp.parameters(), lr=0.02)
    for _ in range(200):
        loss = ((mlp(Tensor(x)) - Tensor(wanted)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item() / float(wanted.var())


print("error left: C wide, 4C wide, 4C wide and all off")
starts = ((4, 0), (16, 0), (16, -4))
none, relu, gelu = ([error_left(function, *start) for start in starts] for function in (None, "relu", "gelu_tanh"))
for name, errors in (("none", none), ("ReLU", relu), ("GELU", gelu)):
    print(f"{name:5}" + "".join(f"{error:8.2f}" for error in errors))
assert min(none) > 0.9 and max(relu[1], gelu[1]) < 0.15 < 0.4 < min(relu[0], gelu[0]) and gelu[2] < 0.7 < 0.95 < relu[2]

# %% [markdown]
# Answer: a matrix cannot multiply two numbers of its input; ReLU and GELU can, and better with 4C units than with C.
# With all units off, ReLU learns nothing: a unit that is off for every token never changes again. GELU recovers.

# %% [markdown]
# ## Who reads, who writes
#
# Predict: token 0 changes. Does the output of attention for token 1 change? And the output of the MLP?

# %%
attention_only = Block(GPTConfig(n_embd=C, n_head=2, vocab_size=2, block_size=6, n_layer=1)).attn
two = rng.standard_normal((1, 2, C)).astype(np.float32)
altered = two.copy()
altered[0, 0] += 1
for name, part in (("attention", attention_only), ("MLP", mlp)):
    moved = float(np.abs(part(Tensor(altered)).data - part(Tensor(two)).data)[0, 1].max())
    print(f"{name:9} changes by {moved:.4f}")
    assert (moved > 0) == (name == "attention")

# %% [markdown]
# Answer: attention's does, the MLP's does not. **Attention reads, FFN writes** (FFN: feed-forward network, another name
# for the MLP). Attention brings in what other tokens have. The MLP sees one token only, and writes the values whose
# keys match it.

# %% The block, and how often it is repeated
# A block is two steps, each added to the stream: x = x + attention(norm(x)), then x = x + MLP(norm(x)).
#
# Predict: how much of a block's parameters is attention, and how much is the MLP?

# %%
config = GPTConfig()  # GPT-2
block = Block(GPTConfig(n_embd=64, n_head=4, vocab_size=2, block_size=6, n_layer=1))
stream = Tensor(rng.standard_normal((1, 6, 64)).astype(np.float32))
print("shape before and after a block:", stream.shape, block(stream).shape)
by_formula = stream + block.attn(block.ln_1(stream))
by_formula = by_formula + block.mlp(block.ln_2(by_formula))
assert np.array_equal(block(stream).data, by_formula.data)

# %%
counts = accounting.parameters(config)
attention, feed_forward = counts["attention"] // 12, counts["MLP"] // 12
C = 768
assert (attention, feed_forward) == (4 * C * C + 4 * C, 8 * C * C + 5 * C)
share = feed_forward / (attention + feed_forward)
print(f"a block of GPT-2: attention {attention:,}, MLP {feed_forward:,} ({C} -> {4 * C} -> {C}): {share:.0%} is MLP")
assert abs(share - 2 / 3) < 0.001

# %% [markdown]
# Answer: one third and two thirds. Attention has 4 matrices of C x C. The MLP has two of C x 4C, which is 8 of that
# size. A block's output has the shape of its input, so blocks can be stacked: in GPT-2, 24 sub-layers read the stream
# and add to it.

# %% Pre-norm and post-norm
# The norm can stand in two places. The transformer of 2017 is *post-norm*: x = norm(x + f(x)) normalizes the stream
# itself, so every path back leads through all norms. *Pre-norm*, x = x + f(norm(x)), normalizes only what a sub-layer
# reads and leaves the sum as it is.
#
# Predict: a GPT of 12 blocks is trained with each, for 250 steps. The learning rate rises to the same value, during the
# first 25 steps (the warm-up). Does the place of the norm matter? And if the warm-up takes 200 steps?

# %%
tokenizer, train_ids, _ = english()


def deep_losses(norm: str, seed: int, warmup: int) -> list[float]:
    """The loss at each of 250 steps of a GPT of 12 blocks."""
    model = new_gpt(len(tokenizer), seed, n_layer=12, n_embd=32, block_size=16, norm=norm)
    return train(model, train_ids, 250, seed=seed, warmup=warmup)


def ends_of_seeds() -> dict[str, list[float]]:
    """The mean of the last 15 losses, seeds 0 to 4, for each norm with a warm-up of 25 and of 200 steps."""
    return {
        f"{norm} {warmup}": [round(float(np.mean(deep_losses(norm, seed, warmup)[-15:])), 4) for seed in range(5)]
        for norm in ("pre", "post")
        for warmup in (25, 200)
    }


# %%
ends = lesson.measured("norms", ends_of_seeds, deep_losses)
frequencies = np.bincount(train_ids) / len(train_ids)
known = float(-(frequencies * np.log(np.maximum(frequencies, 1e-30))).sum())
print(f"loss of a model that knows only how frequent each token is: {known:.2f}")
print("12 blocks, norm and warm-up, loss after 250 steps, seeds 0 to 4; last, this run:")
with use_kernels("fast"):
    for name in ("pre 25", "post 25", "post 200"):
        norm, warmup = name.split()
        ends[name].append(float(np.mean(deep_losses(norm, lesson.seed, int(warmup))[-15:])))
for name, losses in ends.items():
    print(f"  {name:8} " + ", ".join(f"{loss:.2f}" for loss in losses))
assert max(abs(loss - known) for loss in ends["post 25"]) < 0.1
assert max(ends["pre 25"] + ends["pre 200"] + ends["post 200"]) < known - 0.2

# %% [markdown]
# Answer: yes. With post-norm and a warm-up of 25 steps, the model has learned only how frequent each token is; with
# pre-norm it has learned more. With a warm-up of 200 steps both learn, about equally well. So here pre-norm does not
# lead to a lower loss: it trains without such care. (In a new post-norm model, the gradients near the output are large:
# Xiong et al. 2020.) GPT-2, GPT-3 and LLaMA use pre-norm.

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start layer_norm`, rms_norm, relu, gelu, dropout, block
# - line by line: `python scripts/step.py --html layer_norm`
# - read: gpt/model/gpt2.py: MLP and Block; minigrad/functional/normalization.py
# - break: `python scripts/break.py no_residual`. Expect: only two blocks, and still the loss after 350 steps is about
#   5.3, where the healthy model has 4.1.
# - lesson: `python scripts/lesson.py 426`
