"""Lesson 4.3.1: building a GPT from five modules

Bottom up: one attention head, several heads, the feed-forward network, the block, the GPT. Then the checks that a new
model must pass before it is trained: its parameter count, the size of its activations, its first loss, and an output
layer that is tied to the embedding. At the end, the modules written here compute the same numbers as gpt/model/gpt2.py,
and a generation loop of ten lines writes the same text as GPT.generate.
Radford et al. 2019, section 2.3 (initialization); Press & Wolf 2017, "Using the output embedding" (weight tying).
"""

from __future__ import annotations

import math

import numpy as np

import minigrad.functional as F
from gpt import GPT, GPTConfig, accounting
from gpt.console import printable
from minigrad import Tensor, manual_seed, nn, no_grad
from minigrad.backend import generator
from scripts.lessons.small_gpt import english
from scripts.pages.pictures import LINES, Lesson

lesson = Lesson("431_building_gpt", __doc__)
V, T, L, H, C = 512, 32, 3, 4, 64  # vocabulary, context, blocks, heads, channels
D = C // H

# %% One head


class Head(nn.Module):
    """softmax(q k^T / sqrt(D) + mask) v, with three projections of its own."""

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

# %% Heads, feed-forward, block


class CausalSelfAttention(nn.Module):
    """H heads side by side, mixed by W_O."""

    def __init__(self) -> None:
        self.heads = nn.ModuleList([Head() for _ in range(H)])
        self.projection = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        return self.projection(F.cat([head(x) for head in self.heads], -1))


class FeedForward(nn.Module):
    """Each token on its own, through a layer four times as wide."""

    def __init__(self) -> None:
        self.wide, self.projection = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        return self.projection(F.gelu(self.wide(x), "tanh"))


class Block(nn.Module):
    """Two sub-layers: each reads the normalized stream and adds its output to the stream."""

    def __init__(self) -> None:
        self.norm_1, self.norm_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attention, self.feed_forward = CausalSelfAttention(), FeedForward()

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        x = x + self.attention(self.norm_1(x))
        return x + self.feed_forward(self.norm_2(x))


for module in (CausalSelfAttention(), FeedForward(), Block()):
    assert module(x).shape == x.shape
    print(f"{type(module).__name__}: {x.shape} -> {module(x).shape}, {module.num_parameters():,} parameters")

# %% The GPT
# Predict: how many parameters will it have, with V = 512, T = 32, L = 3 and C = 64?


class MyGPT(nn.Module):
    """Token and position embeddings, L blocks, a norm, and a logit for each possible next token."""

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
expected = V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C
print(f"predicted {expected:,}, counted {mine.num_parameters():,}")
assert mine.num_parameters() == expected == GPTConfig(V, T, L, H, C).num_parameters()
print(f"GPT-2: {GPTConfig().num_parameters():,}")
assert GPTConfig().num_parameters() == 124_439_808

# %% [markdown]
# Answer: 184,896, which is 512 x 64 + 32 x 64 + 3 x (12 x 64 x 64 + 13 x 64) + 2 x 64. The output layer adds nothing,
# because its matrix is the token embedding. A count that agrees says that no bias is missing and no layer is surplus.

# %% Tied weights
# Output layer and embedding share their memory. Tokens that are not in the input get a gradient too, as outputs.
assert np.shares_memory(mine.head.weight.data, mine.tokens.weight.data)
saved = accounting.parameters(GPTConfig())["token embedding"]
print(f"parameters that this saves in GPT-2: {saved / 1e6:.1f}M")
F.cross_entropy(mine(ids).reshape(-1, V), ids.reshape(-1)).backward()
rows = np.abs(mine.tokens.weight.grad).sum(axis=1)
print(f"tokens with a gradient: {(rows > 0).sum()} of {V}; in the input: {2 * T}")
assert (rows > 0).all()

# %% Initialization: does the signal keep its size?
KINDS = {
    "scaled": "GPT-2: std 0.02, c_proj / sqrt(2 L)",
    "unscaled": "std 0.02 everywhere",
    "torch": "PyTorch's default, 1 / sqrt(3 fan_in)",
    "kaiming": "Kaiming, sqrt(2 / fan_in)",
}


def spread(config: GPTConfig, kind: str) -> list[float]:
    """The standard deviation of the residual stream, at first and after each block, for inputs of std 0.8."""
    manual_seed(0)
    model = GPT(config)  # std 0.02, and c_proj smaller by sqrt(2 L)
    for name, p in model.named_parameters():
        if p.ndim == 2 and ".h." in name and kind != "scaled":
            stds = {"unscaled": 0.02, "torch": 1 / math.sqrt(3 * p.shape[1]), "kaiming": math.sqrt(2 / p.shape[1])}
            nn.init.normal_(p, std=stds[kind])
    x = Tensor(np.float32(0.8) * generator().standard_normal((1, 64, config.n_embd)).astype(np.float32))
    sizes = [float(x.data.std())]
    with no_grad():
        for layer, block in enumerate(model.transformer.h):
            x = block(x, layer)
            sizes.append(float(x.data.std()))
    return sizes


shape = GPTConfig(vocab_size=64, block_size=64)  # GPT-2's 12 blocks of 768 channels
spreads = {kind: spread(shape, kind) for kind in KINDS}
print("std of the residual stream in 12 blocks of 768 channels, 64 random tokens of std 0.8:")
for kind, name in KINDS.items():
    print(f"  {name:40} {spreads[kind][0]:.2f} -> {spreads[kind][-1]:.2f}")
ends = {kind: sizes[-1] for kind, sizes in spreads.items()}
assert 0.80 < ends["scaled"] < 0.88 < ends["unscaled"] < 2 < 5 < ends["kaiming"] and ends["torch"] < 2
with lesson.picture("initialization", "Does the signal keep its size? (12 blocks, 768 wide)") as axes:
    for (kind, name), line in zip(KINDS.items(), LINES):
        axes.semilogy(spreads[kind], line, color="black", label=name)
    axes.set(xlabel="block", ylabel="std of the residual stream")

# %% [markdown]
# The course reports 0.80 to 0.85 for GPT-2's rule, as here, and 0.82 to 6.55 for "default init". PyTorch's default for
# nn.Linear does not grow like that; Kaiming initialization does.

# %% The first loss is known in advance
# An untrained model should know nothing: probability 1/V for every token, a loss of ln V. A much larger loss means that
# it is confident without a reason. The loss below is a little more than ln V, because logits are not quite equal.
gpt2 = GPT(GPTConfig())  # full size, random weights
with no_grad():
    tokens = generator().integers(0, 50_257, (1, 129))
    logits = gpt2(tokens[:, :-1])[0]
    first = F.cross_entropy(logits, tokens[0, 1:]).item()
del gpt2
print(f"-ln(1 / 50,257) = {math.log(50_257):.2f}; a full-size GPT-2 with random weights, on random tokens: {first:.2f}")
print(f"standard deviation of its logits: {logits.data.std():.2f}")
assert abs(first - math.log(50_257)) < 0.4

# %% Your modules, our numbers
# One product for all heads is faster, and computes the same.
ours = GPT(GPTConfig(vocab_size=V, block_size=T, n_layer=L, n_head=H, n_embd=C))
mine.tokens.weight.data[...] = ours.transformer.wte.weight.data
mine.positions.weight.data[...] = ours.transformer.wpe.weight.data
for my, our in zip(mine.blocks, ours.transformer.h):
    for h, head in enumerate(my.attention.heads):
        for i, layer in enumerate((head.query, head.key, head.value)):  # c_attn: all queries, all keys, all values
            place = slice(i * C + h * D, i * C + (h + 1) * D)
            layer.weight.data[...] = our.attn.c_attn.weight.data[place]
            layer.bias.data[...] = our.attn.c_attn.bias.data[place]
    pairs = ((my.attention.projection, our.attn.c_proj), (my.feed_forward.wide, our.mlp.c_fc))
    for to, source in (*pairs, (my.feed_forward.projection, our.mlp.c_proj)):
        to.weight.data[...], to.bias.data[...] = source.weight.data, source.bias.data
with no_grad():
    difference = np.abs(mine(ids).data - ours(ids).data).max()
print(f"logits differ by at most {difference:.0e}")
assert difference < 1e-5

# %% Generation: sample, append, repeat


def generate(model: MyGPT, ids: list[int], new_tokens: int, temperature: float, rng: np.random.Generator) -> list[int]:
    """Continue ids by new tokens; temperature 0 takes the most likely token each time."""
    ids = list(ids)
    for _ in range(new_tokens):
        context = np.array([ids[-T:]])  # 1. crop to the block size: there are no more positions
        with no_grad():  # 2. no gradients are needed
            logits = model(context).data[0, -1]  # 3. the last position predicts the next token
        if temperature == 0:
            token = logits.argmax()
        else:
            probs = F.softmax(Tensor(logits / temperature), -1).data  # 4. temperature
            token = np.searchsorted(np.cumsum(probs), rng.random(), side="right")  # 5. sample
        ids.append(min(int(token), V - 1))  # 6. append, and repeat
    return ids


tokenizer, _, _ = english()
prompt = tokenizer.encode("The")
for temperature in (0.0, 1.0):
    rng = np.random.default_rng([0, 0])  # the random numbers of GPT.generate with seed=0, first row
    by_hand = generate(mine, prompt, 20, temperature, rng)
    assert by_hand[len(prompt) :] == ours.generate([prompt], 20, temperature=temperature, seed=0)[0]
    print(f"temperature {temperature:g}, as GPT.generate: {' '.join(printable(tokenizer.decode(by_hand)).split())!r}")

# %% [markdown]
# An untrained model writes gibberish: the architecture is an empty vessel. Lesson 4.3.2 fills it.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start weight_tying`, then sampling
# - read: gpt/model/gpt2.py beside this file; gpt/model/generation.py: top-k, top-p; batch_generation.py: the KV cache
# - break: `python scripts/break.py no_tying`. Expect: the loss does not complain, but the parameter count does:
#   166,656, where the formula says 133,888. The difference is a second matrix of 512 x 64.
# - lesson: `python scripts/lesson.py 432`
