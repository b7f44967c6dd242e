"""Lesson 4.3.1: building a GPT from five modules

Bottom up: one attention head, several, the feed-forward network, the block, the GPT. Then what a new model must satisfy
before it is trained: its parameter count, the size of its activations, its first loss, and a head that is tied to the
embedding. At the end the modules written here compute what gpt/model/gpt2.py computes, number for number.
Radford et al. 2019, section 2.3 (initialisation); Press & Wolf 2017, "Using the output embedding" (weight tying).
"""

from __future__ import annotations

import math

import numpy as np

import minigrad.functional as F
from gpt import GPT, GPTConfig
from minigrad import Tensor, manual_seed, nn, no_grad
from minigrad.backend import generator
from scripts.lessons.pictures import Lesson
from scripts.lessons.small_gpt import english, write

lesson = Lesson("431_building_gpt", __doc__)
V, T, L, H, C = 512, 32, 3, 4, 64  # vocabulary, context, blocks, heads, channels
D = C // H

# %% 1. One head

class Head(nn.Module):
    """softmax(q k^T / sqrt(D) + mask) v, with three lenses of its own."""

    def __init__(self) -> None:
        self.query, self.key, self.value = (nn.Linear(C, D) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, D)
        T = x.shape[1]
        scores = self.query(x) @ self.key(x).transpose(-2, -1) * (1 / math.sqrt(D))  # (B, T, T)
        future = Tensor(np.triu(np.ones((T, T), dtype=bool), 1))
        return F.softmax(F.masked_fill(scores, future, -math.inf), -1) @ self.value(x)


x = Tensor(generator().standard_normal((2, T, C)).astype(np.float32))
assert Head()(x).shape == (2, T, D)
print("Head:", x.shape, "->", Head()(x).shape)

# %% 2. to 4. Several heads, the MLP, the block

class CausalSelfAttention(nn.Module):
    """H heads side by side, and W_O that mixes them."""

    def __init__(self) -> None:
        self.heads = nn.ModuleList([Head() for _ in range(H)])
        self.projection = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        return self.projection(F.cat([head(x) for head in self.heads], -1))


class FeedForward(nn.Module):
    """Each token by itself, through a layer four times as wide."""

    def __init__(self) -> None:
        self.wide, self.projection = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        return self.projection(F.gelu(self.wide(x), "tanh"))


class Block(nn.Module):
    """Read and add, twice."""

    def __init__(self) -> None:
        self.norm_1, self.norm_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attention, self.feed_forward = CausalSelfAttention(), FeedForward()

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        x = x + self.attention(self.norm_1(x))
        return x + self.feed_forward(self.norm_2(x))


for module in (CausalSelfAttention(), FeedForward(), Block()):
    assert module(x).shape == x.shape
    print(f"{type(module).__name__}: {x.shape} -> {module(x).shape}, {module.num_parameters():,} parameters")

# %% 5. The GPT

class MyGPT(nn.Module):
    """Token and position rows, L blocks, a norm, and scores for each next token."""

    def __init__(self) -> None:
        self.tokens, self.positions = nn.Embedding(V, C), nn.Embedding(T, C)
        self.blocks = nn.ModuleList([Block() for _ in range(L)])
        self.norm = nn.LayerNorm(C)
        self.head = nn.Linear(C, V, bias=False)
        self.head.weight = self.tokens.weight  # tied: the same array, not a copy

    def forward(self, ids: np.ndarray) -> Tensor:  # (B, T) -> (B, T, V)
        x = self.tokens(ids) + self.positions(np.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


mine = MyGPT()
ids = np.arange(2 * T).reshape(2, T)
assert mine(ids).shape == (2, T, V)
# Predict the count before you look: 512*64 + 32*64 + 3 (12*64*64 + 13*64) + 2*64.
expected = V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C
print(f"predicted {expected:,}, counted {mine.num_parameters():,}: so no bias is missing and no layer too many")
assert mine.num_parameters() == expected == GPTConfig(V, T, L, H, C).num_parameters()
print(f"GPT-2: {GPTConfig().num_parameters():,}")
assert GPTConfig().num_parameters() == 124_439_808

# %% Tied weights
assert np.shares_memory(mine.head.weight.data, mine.tokens.weight.data)
assert 50_257 * 768 == 38_597_376
print(
    f"head and embedding share their memory: for GPT-2 that saves 50,257 x 768 = {50_257 * 768 / 1e6:.1f}M parameters"
)
F.cross_entropy(mine(ids).reshape(-1, V), ids.reshape(-1)).backward()
rows = np.abs(mine.tokens.weight.grad).sum(axis=1)
print(f"{(rows[2 * T :] > 0).sum()} tokens that were not read have a gradient, too: as competitors in the output")
assert (rows > 0).all()

# %% Initialisation

def spread(config: GPTConfig, kind: str) -> list[float]:
    """The standard deviation of the residual stream, at first and after each block, for inputs of std 0.8."""
    manual_seed(0)
    model = GPT(config)  # normal, std 0.02, and c_proj smaller by sqrt(2 L)
    for name, p in model.named_parameters():
        if p.ndim == 2 and kind == "sqrt":  # variance 1 / fan_in: each layer keeps the size of its input
            nn.init.normal_(p, std=1 / math.sqrt(p.shape[1]))
        elif p.ndim == 2 and kind == "unscaled" and name.endswith("c_proj.weight"):
            nn.init.normal_(p, std=0.02)
    x = Tensor(np.float32(0.8) * generator().standard_normal((1, 64, config.n_embd)).astype(np.float32))
    sizes = [float(x.data.std())]
    with no_grad():
        for layer, block in enumerate(model.transformer.h):
            x = block(x, layer)
            sizes.append(float(x.data.std()))
    return sizes


shape = GPTConfig(vocab_size=64, block_size=64, n_layer=12, n_head=6, n_embd=384)
kinds = {
    "sqrt": "std 1/sqrt(fan_in)",
    "unscaled": "std 0.02",
    "scaled": "std 0.02, c_proj / sqrt(2 L): GPT-2's",
}
spreads = {kind: spread(shape, kind) for kind in kinds}
print("std of the residual stream, 12 blocks, 384 wide, 64 random tokens of std 0.8:")
for kind, name in kinds.items():
    sizes = spreads[kind]
    print(f"  {name:40} {sizes[0]:.2f} -> {sizes[-1]:.2f}")
print("the course reports 0.82 -> 6.55 for a default, and 0.80 to 0.85 for the scaled one (its set-up is not given)")
assert spreads["sqrt"][-1] > 3 * spreads["scaled"][-1] and max(spreads["scaled"]) < 0.9
with lesson.picture("initialisation", "Does the signal keep its size? (12 blocks, 384 wide)") as axes:
    for (kind, name), line in zip(kinds.items(), ("-", "--", ":")):
        axes.plot(spreads[kind], line, color="black", label=name)
    axes.set(xlabel="block", ylabel="std of the residual stream", ylim=(0, None))
    axes.legend(frameon=False)

# %% The first loss
# An untrained model should know nothing: every token 1/V, a loss of ln V. More means that it is sure of nonsense.
gpt2 = GPT(GPTConfig())  # full size, random weights
with no_grad():
    tokens = generator().integers(0, 50_257, (1, 65))
    first = gpt2.loss(tokens[:, :-1], tokens[:, 1:]).item()
del gpt2
print(f"ln 50,257 = {math.log(50_257):.2f}; GPT-2 in full size with random weights, 64 tokens: {first:.2f}")
assert round(math.log(50_257), 2) == 10.82 and abs(first - 10.82) < 0.3

# %% The same as gpt/model/gpt2.py
ours = GPT(GPTConfig(vocab_size=V, block_size=T, n_layer=L, n_head=H, n_embd=C))
mine.tokens.weight.data[...] = ours.transformer.wte.weight.data
mine.positions.weight.data[...] = ours.transformer.wpe.weight.data
for my, our in zip(mine.blocks, ours.transformer.h):
    for h, head in enumerate(my.attention.heads):
        for i, lens in enumerate((head.query, head.key, head.value)):  # c_attn: all queries, all keys, all values
            place = slice(i * C + h * D, i * C + (h + 1) * D)
            lens.weight.data[...], lens.bias.data[...] = (
                our.attn.c_attn.weight.data[place],
                our.attn.c_attn.bias.data[place],
            )
    pairs = ((my.attention.projection, our.attn.c_proj), (my.feed_forward.wide, our.mlp.c_fc))
    for to, source in (*pairs, (my.feed_forward.projection, our.mlp.c_proj)):
        to.weight.data[...], to.bias.data[...] = source.weight.data, source.bias.data
with no_grad():
    difference = np.abs(mine(ids).data - ours(ids).data).max()
print(f"logits differ by at most {difference:.0e}: one product for all heads is faster, and the same")
assert difference < 1e-5

tokenizer, _, _ = english()
print(f"\nand what it writes: {write(ours, tokenizer, 'The', 12)!r}")
print("The architecture is an empty vessel: lesson 4.3.2 fills it.")

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start weight_tying`
# - read: gpt/model/gpt2.py beside this file
# - break: `python scripts/break.py no_tying`: and what the parameter count says of it
# - lesson: `python scripts/lesson.py 432`
