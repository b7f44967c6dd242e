"""Lesson 4.3.1: building a GPT from five modules

A GPT is built bottom up from five classes: one attention head, several heads, the feed-forward network, the block, the
GPT. Each class is written here, run on random numbers, and its shapes are printed where they change. Then come the
checks that a new model must pass before it is trained: its parameter count, the size of its activations, its first
loss, and an output layer that is tied to the embedding. At the end, the modules written here compute the same numbers
as gpt/model/gpt2.py, and a generation loop of ten lines writes the same text as GPT.generate.
Radford et al. 2019, section 2.3 (initialization); Press & Wolf 2017, "Using the output embedding" (weight tying).
"""

import math

import numpy as np

import minigrad.functional as F
from gpt import GPT, GPTConfig, accounting
from gpt.console import printable
from minigrad import Tensor, manual_seed, nn, no_grad
from scripts.course.lessons.small_gpt import english
from scripts.course.pictures import Lesson

lesson = Lesson("431_building_gpt", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% [markdown]
# ## The plan
#
# | class | computes | shapes |
# |---|---|---|
# | `Head` | softmax(q k^T / sqrt(D) + mask) v | (B, T, C) -> (B, T, D) |
# | `CausalSelfAttention` | H heads side by side, then a linear layer | (B, T, C) -> (B, T, C) |
# | `FeedForward` | linear, GELU, linear, for each token on its own | (B, T, C) -> (B, T, 4C) -> (B, T, C) |
# | `Block` | x + attention(norm(x)), then x + feed_forward(norm(x)) | (B, T, C) -> (B, T, C) |
# | `MyGPT` | embeddings, L blocks, a norm, the output layer | (B, T) -> (B, T, C) -> (B, T, V) |
#
# B sequences of T tokens; C channels describe a token; H heads of D = C / H channels; V tokens in the vocabulary.

# %%
V, T, L, H, C = 512, 32, 3, 4, 64
D = C // H
x = Tensor(rng.standard_normal((2, T, C)).astype(np.float32))  # B = 2: as if two texts had been embedded
print("x:", x.shape)

# %% One head
# Each token has a query (what it looks for), a key (what it offers) and a value (what it delivers), of D numbers each.
# Its output is the average of the values of the tokens up to itself, weighted by how well their keys fit its query.


class Head(nn.Module):
    """softmax(q k^T / sqrt(D) + mask) v, with three projections of its own."""

    def __init__(self) -> None:
        self.query, self.key, self.value = (nn.Linear(C, D) for _ in range(3))

    def weights(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, T): how much token t reads from token s
        T = x.shape[1]
        scores = self.query(x) @ self.key(x).transpose(-2, -1) * (1 / math.sqrt(D))
        future = Tensor(np.triu(np.ones((T, T), dtype=bool), 1))  # True where s is after t
        return F.softmax(F.masked_fill(scores, future, -math.inf), -1)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, D)
        return self.weights(x) @ self.value(x)


# %%
head = Head()
weights = head.weights(x)
print(f"queries, keys, values {head.query(x).shape}, weights {weights.shape}, output {head(x).shape}")
assert head(x).shape == (2, T, D) and np.triu(weights.data[0], 1).max() == 0  # nothing is read from later tokens

# %% Several heads
# H heads read the same x, each with its own projections. Their outputs are concatenated, H times D = C channels, and
# one more linear layer mixes them.


class CausalSelfAttention(nn.Module):
    """H heads side by side, mixed by W_O."""

    def __init__(self) -> None:
        self.heads = nn.ModuleList([Head() for _ in range(H)])
        self.projection = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        return self.projection(F.cat([head(x) for head in self.heads], -1))


# %%
attention = CausalSelfAttention()
print(f"{H} times {head(x).shape} -> {attention(x).shape}, {attention.num_parameters():,} parameters = 4 C^2 + 4 C")
assert attention(x).shape == x.shape and attention.num_parameters() == 4 * (C * C + C)

# %% The feed-forward network
# Attention has gathered; now each token processes what it has, on its own, in a layer four times as wide.


class FeedForward(nn.Module):
    """Each token on its own, through a layer four times as wide."""

    def __init__(self) -> None:
        self.wide, self.projection = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        return self.projection(F.gelu(self.wide(x), "tanh"))


# %%
feed_forward = FeedForward()
print(f"{x.shape} -> {feed_forward.wide(x).shape} -> {feed_forward(x).shape}")
print(f"{feed_forward.num_parameters():,} parameters = 8 C^2 + 5 C")
assert feed_forward(x).shape == x.shape and feed_forward.num_parameters() == 8 * C * C + 5 * C

# %% The block
# Both sub-layers read a normalized copy of the residual stream x, and add their output to x.
#
# Predict: what does a block return if its two projections are all zeros?


class Block(nn.Module):
    """Two sub-layers: each reads the normalized stream and adds its output to the stream."""

    def __init__(self) -> None:
        self.norm_1, self.norm_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attention, self.feed_forward = CausalSelfAttention(), FeedForward()

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        x = x + self.attention(self.norm_1(x))
        return x + self.feed_forward(self.norm_2(x))


# %%
block = Block()
print(f"{x.shape} -> {block(x).shape}, {block.num_parameters():,} parameters = 12 C^2 + 13 C")
assert block(x).shape == x.shape and block.num_parameters() == 12 * C * C + 13 * C
print(f"as built, it moves x by up to {np.abs(block(x).data - x.data).max():.2f}")
for layer in (block.attention.projection, block.feed_forward.projection):
    layer.weight.data[...], layer.bias.data[...] = 0, 0
print(f"with projections of zeros, by {np.abs(block(x).data - x.data).max():.2f}")
assert np.array_equal(block(x).data, x.data)

# %% [markdown]
# Answer: x itself. A block only adds to the stream, so a block that has learned nothing passes everything on.

# %% The GPT
# Ids become vectors: a row of the token embedding plus a row of the position embedding. L blocks work on them. A last
# norm and the output layer turn each vector into V logits, one for each possible next token.
#
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
        x = self.tokens(ids) + self.positions(np.arange(ids.shape[1]))  # (B, T, C)
        for block in self.blocks:
            x = block(x)  # (B, T, C)
        return self.head(self.norm(x))  # (B, T, V)


# %%
mine = MyGPT()
ids = np.arange(2 * T).reshape(2, T)
print(f"ids {ids.shape} -> embeddings {mine.tokens(ids).shape} -> logits {mine(ids).shape}")
assert mine(ids).shape == (2, T, V)
expected = V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C
print(f"the formula V C + T C + L (12 C^2 + 13 C) + 2 C gives {expected:,}, counted {mine.num_parameters():,}")
assert mine.num_parameters() == expected == GPTConfig(V, T, L, H, C).num_parameters()
print(f"GPT-2: {GPTConfig().num_parameters():,}")
assert GPTConfig().num_parameters() == 124_439_808

# %% [markdown]
# Answer: 184,896, which is 512 x 64 + 32 x 64 + 3 x (12 x 64 x 64 + 13 x 64) + 2 x 64. The output layer adds nothing,
# because its matrix is the token embedding. A count that agrees says that no bias is missing and no layer is surplus.

# %% Tied weights
# Output layer and embedding share their memory, so the matrix gets two gradients: as an embedding, one for the rows of
# the tokens that were read; as an output layer, one for each token that could have come next.
#
# Predict: 64 different tokens are read, of 512. How many rows of the matrix get a gradient?
assert np.shares_memory(mine.head.weight.data, mine.tokens.weight.data)
print(f"parameters that this saves in GPT-2: {accounting.parameters(GPTConfig())['token embedding'] / 1e6:.1f}M")
untied = MyGPT()
untied.head.weight = nn.Parameter(untied.head.weight.data.copy())
for name, model in (("tied", mine), ("not tied", untied)):
    F.cross_entropy(model(ids).reshape(-1, V), ids.reshape(-1)).backward()
    rows = int((np.abs(model.tokens.weight.grad).sum(axis=1) > 0).sum())
    print(f"{name:8}: {rows} of {V} rows of the embedding have a gradient")
    assert rows == (V if model is mine else 2 * T)

# %% [markdown]
# Answer: all 512 where it is tied. Every wrong token has a probability to lose.

# %% Initialization: does the signal keep its size?
# Each of the 2 L sub-layers adds its output to the stream. If the outputs are independent and each has the variance
# s^2, the stream has the variance
#
#     var(x_L) = var(x_0) + 2 L s^2
#
# after L blocks: it grows with the depth. GPT-2 draws the weights with std 0.02, and divides that of the two layers
# whose output is added (c_proj) by sqrt(2 L): then the sum is s^2, however deep the model. Compare this rule with std
# 0.02 everywhere, with PyTorch's default for nn.Linear, std 1 / sqrt(3 fan_in), and with Kaiming's, which is
# std sqrt(2 / fan_in).
#
# Predict: the stream starts with std 0.8. Roughly, what is it after 12 blocks, with each of the four rules?


def spread(kind: str) -> tuple[list[float], list[float]]:
    """The std of the residual stream of GPT-2's 12 blocks, 768 wide, at first and after each; and of what each adds."""
    manual_seed(lesson.seed)
    model = GPT(GPTConfig(vocab_size=64, block_size=64))  # std 0.02, and c_proj smaller by sqrt(2 L)
    for name, p in model.named_parameters():
        if p.ndim == 2 and ".h." in name and kind != "GPT-2":
            fan_in = p.shape[1]  # inputs of the layer
            stds = {"unscaled": 0.02, "PyTorch": 1 / math.sqrt(3 * fan_in), "Kaiming": math.sqrt(2 / fan_in)}
            nn.init.normal_(p, std=stds[kind])
    x = Tensor(np.float32(0.8) * np.random.default_rng(lesson.seed).standard_normal((1, 64, 768)).astype(np.float32))
    sizes, added = [float(x.data.std())], []
    with no_grad():
        for layer, block in enumerate(model.transformer.h):
            x, before = block(x, layer), x
            sizes.append(float(x.data.std()))
            added.append(float((x - before).data.std()))
    return sizes, added


# %%
RULES = {
    "GPT-2": "std 0.02, c_proj 0.02 / sqrt(2 L)",
    "unscaled": "std 0.02 everywhere",
    "PyTorch": "default of nn.Linear, 1 / sqrt(3 fan_in)",
    "Kaiming": "sqrt(2 / fan_in), made for ReLU layers without a residual stream",
}
spreads, added = {}, {}
print("std of the residual stream before block 1 and after blocks 3, 6, 9 and 12; of what blocks 1 and 12 add:")
for kind, rule in RULES.items():
    spreads[kind], added[kind] = spread(kind)
    ends = (*spreads[kind][::3], added[kind][0], added[kind][-1])
    print(f"  {kind:9}" + "".join(f"{size:6.2f}" for size in ends) + f"   {rule}")
ends = {kind: sizes[-1] for kind, sizes in spreads.items()}
assert 0.8 < ends["GPT-2"] < 0.9 < ends["PyTorch"] < ends["unscaled"] < 2 < 5 < ends["Kaiming"]
growth = {kind: sizes[-1] ** 2 - sizes[0] ** 2 for kind, sizes in spreads.items()}
print(f"variance added without the scale / with it: {growth['unscaled'] / growth['GPT-2']:.0f}; 2 L = 24")
assert 16 < growth["unscaled"] / growth["GPT-2"] < 36
assert (0.8 / ends["Kaiming"]) ** 2 < 0.02 and all(0.8 < sizes[-1] / sizes[0] < 2 for sizes in added.values())

# %% [markdown]
# Answer: GPT-2's rule keeps the stream between 0.80 and 0.85. Kaiming's rule lets it grow about ninefold, which drowns
# the embeddings: at the end, (0.8 / 7.4)^2 or about 1 % of the variance is theirs. What the blocks add differs less,
# because each reads a normalized stream: the last one adds up to a third more than the first. PyTorch's default has
# std 0.02 for 768 inputs and half of that for the 3,072 of the MLP's c_proj, so it grows less than std 0.02 everywhere.

# %% The first loss is known in advance
# An untrained model should know nothing: probability 1/V for every token, a loss of ln V. The logits are not quite
# equal. If they are normal with the standard deviation s, the expected loss is ln V + s^2 / 2. Here s is
# 0.02 sqrt(768) = 0.55, because the last norm gives each of 768 channels the variance 1.
#
# Predict: a GPT-2 with random weights. What is its loss, and what is it with logits ten times as large?
manual_seed(lesson.seed)
gpt2 = GPT(GPTConfig())  # full size, random weights
with no_grad():
    tokens = rng.integers(0, 50_257, (1, 129))
    logits = gpt2(tokens[:, :-1])[0]
    first, tenfold = (F.cross_entropy(scale * logits, tokens[0, 1:]).item() for scale in (1, 10))
del gpt2
print(f"ln 50,257 = {math.log(50_257):.2f}; standard deviation of the logits: {logits.data.std():.2f}")
print(f"loss on random tokens {first:.2f}, with logits ten times as large {tenfold:.2f}")
assert np.isclose(logits.data.std(), 0.02 * math.sqrt(768), rtol=0.05)
assert abs(first - math.log(50_257) - logits.data.var() / 2) < 0.25 and tenfold > first + 5

# %% [markdown]
# Answer: about 11, and much more with larger logits. A first loss that is much larger than ln V says that the model is
# confident without a reason: look at the initialization, or for a missing norm.

# %% Your modules, our numbers
# gpt/model/gpt2.py computes the queries, keys and values of all heads in one product, which is faster. With the same
# weights in both, the logits must be the same.
manual_seed(lesson.seed)
ours = GPT(GPTConfig(vocab_size=V, block_size=T, n_layer=L, n_head=H, n_embd=C))
with no_grad():
    print(f"before copying, the logits differ by up to {np.abs(mine(ids).data - ours(ids).data).max():.2f}")
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
print(f"after copying, by at most {difference:.0e}; parameters {ours.num_parameters():,}")
assert difference < 1e-5 and ours.num_parameters() == expected

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


# %%
tokenizer, _, _ = english()
prompt = tokenizer.encode("The")
for temperature in (0.0, 1.0):
    random = np.random.default_rng([lesson.seed, 0])  # the random numbers of GPT.generate for its first row
    by_hand = generate(mine, prompt, 20, temperature, random)
    assert by_hand[len(prompt) :] == ours.generate([prompt], 20, temperature=temperature, seed=lesson.seed)[0]
    print(f"temperature {temperature:g}, as GPT.generate: {' '.join(printable(tokenizer.decode(by_hand)).split())!r}")

# %% [markdown]
# An untrained model writes gibberish: the architecture is an empty vessel. Lesson 4.3.2 fills it.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start block`, gpt, sampling, weight_tying: the modules above,
#   written by you
# - read: gpt/model/gpt2.py beside this file; gpt/model/generation.py: top-k, top-p; batch_generation.py: the KV cache
# - break: `python scripts/break.py no_tying`. Expect: the loss does not complain, but the parameter count does:
#   166,656, where the formula says 133,888. The difference is a second matrix of 512 x 64.
# - lesson: `python scripts/lesson.py 432`
