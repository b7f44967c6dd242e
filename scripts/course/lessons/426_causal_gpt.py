"""Lesson 4.2.6: the causal mask, and the whole GPT

Attention as it is lets every token see every other one. One part is missing before it can predict text. The lesson
finds it, puts the whole GPT together, accounts for each of its 124,439,808 parameters, and follows one text from ids to
probabilities. Then it compares the GPT with the transformer of 2017, which had an encoder and a decoder.
Vaswani et al. 2017; Radford et al. 2019; Brown et al. 2020 (GPT-3), table 2.1; Raffel et al. 2020 (T5); Haviv et al.
2022 (no positions); Wang et al. 2022 (architectures).
"""

import itertools
from unittest import mock

import numpy as np

import minigrad.functional as F
from gpt import GPT, GPTConfig, accounting
from gpt.model.gpt2 import Block
from minigrad import Tensor, nn, no_grad, optim, use_kernels
from scripts.course import widget_data
from scripts.course.lessons.small_gpt import english, new_gpt, train, validation_loss, write
from scripts.course.pictures import Lesson, heatmap

lesson = Lesson("426_causal_gpt", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% Two models, one difference
# Train two GPTs to predict the next token. In one, each token sees itself and the tokens before it. In the other, each
# token sees all tokens of the text.
#
# Predict: which of them reaches the lower loss, and which writes better?

# %%
tokenizer, train_ids, val_ids = english()
causal_attention = F.scaled_dot_product_attention


def unmasked(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
    """Attention that sees everything, later tokens included."""
    return causal_attention(query, key, value)


shape = {"n_layer": 1, "n_head": 2, "block_size": 16}
honest = new_gpt(len(tokenizer), lesson.seed, **shape)
with_mask = np.mean(train(honest, train_ids, 300, seed=lesson.seed)[-15:])
with mock.patch.object(F, "scaled_dot_product_attention", unmasked):
    cheat = new_gpt(len(tokenizer), lesson.seed, **shape)
    without = np.mean(train(cheat, train_ids, 300, seed=lesson.seed)[-15:])
    cheated = write(cheat, tokenizer, "The value", 25)
print(f"loss after 300 steps: tokens before only {with_mask:.2f}, all tokens {without:.2f}")
print(f"tokens before only: {write(honest, tokenizer, 'The value', 25)}\nall tokens:         {cheated}")
assert without < 0.2 * with_mask

# %% [markdown]
# Answer: the one that sees all has a far lower loss, and in writing it mostly repeats itself. The target of a token is
# the next token, and here the model can look at it: position t copies token t + 1. In generation there is no token
# t + 1 to copy. So each token may see only itself and what stands before it: this rule is the causal mask. Training is
# an exam, and the mask keeps the answer sheet covered.
#
# ## Hiding the later tokens
#
# The weights of later tokens must be 0, and each row must still sum to 1.
#
# Predict: should a weight be set to 0 after the softmax, or its score to minus infinity before it?

# %%
T, D = 5, 8
q, k, v = (Tensor(rng.standard_normal((1, T, D))) for _ in range(3))
scores = q.data[0] @ k.data[0].T / np.sqrt(D)
future = np.triu(np.ones((T, T), dtype=bool), 1)  # j > i
masked = np.where(future, -np.inf, scores)
weights = F.softmax(Tensor(masked), -1).data
assert np.allclose(weights @ v.data[0], F.scaled_dot_product_attention(q, k, v, is_causal=True).data[0])
wrong = F.softmax(Tensor(scores), -1).data * ~future
assert (weights[future] == 0).all() and np.allclose(weights.sum(axis=1), 1) and wrong.sum(axis=1)[:-1].max() < 1
print("scores\n", masked, "\nweights\n", weights)
print("set to -inf before the softmax, rows sum to", weights.sum(axis=1))
print("set to 0 after it, they sum to             ", wrong.sum(axis=1))

# %% [markdown]
# Answer: the score, before the softmax. e^-inf is 0, and the softmax shares all of the weight among the others.
#
# ## One pass over a text
#
# In generation the model reads the text anew for each token, or keeps what it has computed. In training it reads
# the whole text once.
#
# Predict: are the predictions for a text of 12 tokens the same, in one pass over it and in 12 passes over its first 1,
# 2, ... 12 tokens? With the mask, and without?

# %%
ids = train_ids[None, :12]


def passes_differ(model: GPT) -> float:
    """The largest difference between the logits of one pass over the text and of one pass for each beginning of it."""
    with no_grad():
        one_by_one = np.array([model(ids[:, : t + 1]).data[0, -1] for t in range(12)])
        return float(np.abs(model(ids).data[0] - one_by_one).max())


masked_differs = passes_differ(honest)
with mock.patch.object(F, "scaled_dot_product_attention", unmasked):
    unmasked_differs = passes_differ(cheat)
print(f"12 predictions in one pass and in 12 differ: mask {masked_differs:.0e}, no mask {unmasked_differs:.0e}")
assert masked_differs < 1e-4 < 0.1 < unmasked_differs

# %% [markdown]
# Answer: the same with the mask, as a prediction depends on nothing that comes later; others without it. **Causal
# masking simulates the inference constraint during training**: one pass trains T predictions, each with just what
# generation will have.
#
# ## A model without positions
#
# `python scripts/break.py no_positions` trains a GPT without position embeddings, and after a few hundred steps its
# loss is even *lower* than the healthy one's. Does such a model know the order of its tokens?
#
# Predict: a token of attention with even weights averages the values of what it sees. The value of the first token is
# 1, all others have 0. What do the tokens 0, 1, 2 and 3 receive, with the causal mask and without?

# %%
flat, marker = Tensor(np.zeros((1, 6, 1))), Tensor(np.eye(6)[None, :, :1])  # queries and keys of 0: even weights
for is_causal in (True, False):
    received = F.scaled_dot_product_attention(flat, flat, marker, is_causal=is_causal).data[0, :, 0]
    print("causal:" if is_causal else "all:   ", received)
    assert np.allclose(received, 1 / np.arange(1, 7) if is_causal else 1 / 6)

# %% [markdown]
# Answer: 1, 1/2, 1/3 and 1/4 with the mask, and everybody the same without it. The mask lets a token count: it sees t
# others, so the first of them is one of t + 1.
#
# ## From counting to order
#
# Predict: in a text, two earlier tokens change places. Does the prediction after the last token change, in a model
# without positions that has one layer? In one that has two?


# %%
def without_positions(vocab_size: int, **shape: int) -> GPT:
    model = new_gpt(vocab_size, lesson.seed, **shape)
    model.transformer.wpe.weight.data[...] = 0
    model.transformer.wpe.weight.requires_grad_(False)
    return model


tokens = rng.permutation(16)[None]
swapped = tokens[:, [0, 1, 5, 3, 4, 2, *range(6, 16)]]
order_matters = {}
for name, n_layer, attention in (
    ("1 layer, causal", 1, causal_attention), ("2 layers, causal", 2, causal_attention), ("2 layers, all", 2, unmasked)
):  # fmt: skip
    with mock.patch.object(F, "scaled_dot_product_attention", attention), no_grad():
        model = without_positions(16, n_layer=n_layer, n_head=2, n_embd=32, block_size=16)
        order_matters[name] = float(np.abs(model(tokens).data - model(swapped).data)[0, -1].max())
print("tokens 2 and 5 change places, the last prediction moves by", {n: f"{m:.0e}" for n, m in order_matters.items()})
one_layer, two_layers, no_mask = order_matters.values()
assert max(one_layer, no_mask) < 1e-6 < 1e-4 < two_layers

# %% [markdown]
# Answer: not with one layer, up to rounding: an average does not depend on the order of what it averages. With two
# layers it changes: the tokens that the second layer averages have counted in the first one, each at its own place. So
# a causal model of two layers or more can learn the order without positions. Without the mask, no number of layers
# helps.
#
# What are position embeddings worth, then? The table they are in must be learned. Validation loss of models with one
# layer after few steps and after more, with five seeds:

# %%


def positions_or_none() -> dict[str, list[float]]:
    """The validation loss of each of the seeds 11 to 15, after 350 and after 1500 steps, with positions and without."""
    found = {}
    for steps, learned in itertools.product((350, 1500), (True, False)):
        name = f"{steps} steps, " + ("positions" if learned else "none")
        found[name] = []
        for seed in range(11, 16):
            model = new_gpt(len(tokenizer), seed, **shape)
            if not learned:
                model.transformer.wpe.weight.data[...] = 0
                model.transformer.wpe.weight.requires_grad_(False)
            train(model, train_ids, steps, seed=seed)
            found[name].append(round(validation_loss(model, val_ids), 4))
    return found


table = lesson.measured("positions", positions_or_none)
for name, found in table.items():
    print(f"{name:21} " + "  ".join(f"{loss:.2f}" for loss in found))
for steps, sign in ((350, 1), (1500, -1)):
    assert (sign * np.subtract(table[f"{steps} steps, positions"], table[f"{steps} steps, none"]) > 0.03).all()

# %%
today = {}
with use_kernels("fast"):
    for steps, learned in itertools.product((200, 900), (True, False)):
        model = new_gpt(len(tokenizer), lesson.seed, **shape) if learned else without_positions(len(tokenizer), **shape)
        train(model, train_ids, steps, seed=lesson.seed)
        today[steps, learned] = validation_loss(model, val_ids)
        print(f"this run, {steps} steps, {'positions' if learned else 'none'}: {today[steps, learned]:.2f}")
assert today[200, False] < today[200, True] and today[900, True] < today[900, False]

# %% [markdown]
# After 350 steps the model without positions is ahead in every run, after 1500 steps the one that has them, and today
# after 200 and 900. Probably the rows of the table have to be learned first. So the loss of a short run does not show
# this bug.
#
# ## The whole GPT
#
# Every part is known. What remains is to count.
#
# Predict: which share of GPT-2's parameters is attention?

# %%
config = GPTConfig()  # GPT-2
counts = accounting.parameters(config)
V, T, L, C = config.vocab_size, config.block_size, config.n_layer, config.n_embd
assert (counts["token embedding"], counts["position embedding"]) == (V * C, T * C) == (38_597_376, 786_432)
assert counts["attention"] == L * (3 * C * C + 3 * C + C * C + C)
assert counts["MLP"] == L * (4 * C * C + 4 * C + 4 * C * C + C)
assert sum(counts.values()) == 124_439_808 == config.num_parameters()
shares = accounting.shares_of_total(counts)
for name, count in counts.items():
    print(f"  {name:20} {count:12,}  {shares[name]:6.1%}")
print(f"  {'together':20} {sum(counts.values()):12,}")
assert shares["attention"] < 0.25 and shares["MLP"] > 1.9 * shares["attention"]

# %% [markdown]
# Answer: less than a quarter. Twice as many are in the MLPs: a transformer is a cycle of reading and processing.
#
# ## One text, from ids to probabilities
#
# The model with the mask from above, step by step, with parts that earlier lessons have explained:

# %%
prompt = "The value of the"
ids = np.array(tokenizer.encode(prompt))
parts = honest.transformer
with no_grad():
    x = parts.wte(ids[None]) + parts.wpe(np.arange(len(ids)))  # (1, T, C)
    print(f"{prompt!r} -> ids {ids.tolist()}\n-> token + position embeddings {x.shape}")
    for number, block in enumerate(parts.h):
        x = x + block.attn(block.ln_1(x))
        x = x + block.mlp(block.ln_2(x))
        print(f"-> block {number} {x.shape}, {block.num_parameters():,} parameters")
    hidden = parts.ln_f(x).data[0]  # (T, C)
    logits = hidden @ parts.wte.weight.data.T  # (T, V): the output layer is the transposed embedding
    probs = F.softmax(Tensor(logits), -1).data
    whole = honest(ids[None]).data[0]
print(f"-> last norm {hidden.shape} -> times the embedding, transposed: logits {logits.shape} -> softmax")

# %%
assert np.allclose(logits, whole, atol=1e-4) and np.allclose(probs.sum(axis=1), 1, atol=1e-5)
top = np.argsort(-probs[-1])[:5]
assert np.isclose(logits[-1, top[0]], hidden[-1] @ parts.wte.weight.data[top[0]], atol=1e-5)  # one logit, by hand
print("the five most likely next tokens:", {tokenizer.decode([i]): round(float(probs[-1, i]), 3) for i in top})

# %% [markdown]
# **The full GPT architecture is assembly, not invention**: the parts, put together by hand, give the model's logits.
#
# ## From GPT-2 to GPT-3
#
# Predict: GPT-3 has 96 layers of 96 heads, is 12,288 wide, and reads 2,048 tokens. What else must change in the code
# of GPT-2, and how many times as many parameters are that?

# %%
gpt3 = GPTConfig(n_layer=96, n_head=96, n_embd=12_288, block_size=2048)
largest = GPTConfig(n_layer=48, n_head=25, n_embd=1600)
assert round(gpt3.num_parameters() / 1e9) == 175
for name, gpt2 in (("the smallest", config), ("the largest", largest)):
    count = gpt2.num_parameters()
    print(f"{name} GPT-2 has {count / 1e6:,.0f}M parameters, GPT-3 {gpt3.num_parameters() / count:,.0f} times as many")

# %% [markdown]
# Answer: nothing; about 1,400 times as many as the smallest GPT-2, and 112 times as many as the largest. **Scale, not
# architecture**: only the numbers in the configuration differ. (GPT-3 also alternates dense and sparse attention.)
#
# ## Who sees whom
#
# What makes a model an encoder or a decoder is its mask. BERT is an encoder, in which every token sees every other one.
# T5 reads with an encoder and writes with a decoder. GPT is a decoder only. Six tokens go through one layer of
# attention with each mask.
#
# Predict: token 4 is changed. How many of the six outputs change, with each mask?

# %%
half = np.tri(6)
half[:3, :3], half[3:, :3] = 1, 1  # the encoder sees all that was read; the decoder sees it and what it has written
variants = {
    "encoder (BERT): all": np.ones((6, 6)),
    "encoder-decoder (T5):\n3 read, 3 written": half,
    "decoder (GPT): causal": np.tri(6),
}
affected: dict[str, list[int]] = {}  # how many of 6 outputs change when token 1, or token 4, changes
x = rng.standard_normal((1, 6, 8))
for (title, matrix), token in itertools.product(variants.items(), (1, 4)):
    other = x.copy()
    other[0, token] += 1
    before, after = (causal_attention(*[Tensor(v)] * 3, attn_mask=matrix == 1).data[0] for v in (x, other))
    affected.setdefault(title.partition(":")[0], []).append(int((np.abs(after - before).max(axis=1) > 0).sum()))
print("of 6 outputs, change with token 1 and with token 4:", affected)
assert list(affected.values()) == [[6, 6], [6, 2], [5, 2]]

# %%
with lesson.picture("variants", "Who sees whom (dark: seen)", columns=3, size=(11, 3.8)) as panels:
    for axes, (title, matrix) in zip(panels, variants.items()):
        heatmap(axes, matrix, [str(i) for i in range(6)], [str(i) for i in range(6)], "")
        axes.set(title=title, xlabel="key (looked at)", ylabel="query (looking)")

# %% [markdown]
# Answer: all 6, 2 and 2. It is the same layer with another mask: **decoder-only means causal masking, not "can only
# decode"**. A GPT reads its prompt with the weights with which it writes.
#
# ## Two stacks: the transformer of 2017
#
# The first transformer translated. An encoder reads the S tokens of a sentence, without a mask. A decoder writes the T
# tokens of the translation, with the causal mask. Between the attention and the MLP of a decoder's block stands a third
# part, *cross-attention*: the queries come from the decoder, the keys and values from the encoder.
#
#     softmax(Q K^T / sqrt(d_k)) V        Q = written W_Q  (T, d_k)    K = read W_K  (S, d_k)    V = read W_V  (S, d_v)
#
# Predict: which shape do its weights have, and does it need a causal mask?

# %%
C = 32


class CrossAttention(nn.Module):
    """Written tokens look at what was read, with one head."""

    def __init__(self) -> None:
        self.query, self.key, self.value, self.output = (nn.Linear(C, C) for _ in range(4))

    def forward(self, written: Tensor, read: Tensor) -> Tensor:
        q, k, v = self.query(written), self.key(read), self.value(read)  # (B, T, C), (B, S, C), (B, S, C)
        return self.output(F.scaled_dot_product_attention(q, k, v))  # (B, T, C), by weights (B, T, S)


# %%
cross = CrossAttention()
read, written = rng.standard_normal((1, 5, C)).astype(np.float32), rng.standard_normal((1, 3, C)).astype(np.float32)
weights = F.softmax(cross.query(Tensor(written)) @ cross.key(Tensor(read)).transpose(-2, -1) / C**0.5, -1)
out = cross(Tensor(written), Tensor(read))
print("read", read.shape, " written", written.shape, " weights", weights.shape, " output", out.shape)
for name, row in (("read", 4), ("written", 2)):
    other = {"read": read.copy(), "written": written.copy()}
    other[name][0, row] += 1
    moved = np.abs(cross(Tensor(other["written"]), Tensor(other["read"])).data - out.data)[0].max(axis=1) > 0
    print(f"change token {row} of what was {name}: outputs {np.flatnonzero(moved)} change")
    assert moved.tolist() == ([True] * 3 if name == "read" else [False, False, True])

# %% [markdown]
# Answer: (T, S), here 3 x 5. It needs no causal mask: all of the sentence has been read before the first token is
# written.
#
# ## Why decoder-only won
#
# Three arguments are made for one stack.
#
# 1. Simplicity: one stack of one kind of block, without cross-attention.
# 2. Signal: every position is a training example. BERT predicts 15 % of its tokens, T5 too (Devlin et al. 2019; Raffel
#    et al. 2020).
# 3. Generality: every task that can be written as text is a next-token task, with no new head (GPT-3: few-shot).
#
# The first needs a check: does one stack do the work of two? A task for an encoder and a decoder: read six letters and
# write them backwards. The decoder alone reads and writes in one sequence. The control is an encoder and a decoder
# without cross-attention.
#
# Predict: how many letters does each get right? (Chance: one of eight.)

# %%
LETTERS, N = 8, 6
tiny = GPTConfig(vocab_size=LETTERS + 1, block_size=2 * N, n_layer=2, n_head=2, n_embd=C)


class EncoderDecoder(nn.Module):
    """The transformer of 2017 with one block in each stack."""

    def __init__(self, crosses: bool = True):
        self.tokens, self.places = nn.Embedding(LETTERS + 1, C), nn.Embedding(N, C)
        self.encoder, self.decoder, self.norm, self.cross = Block(tiny), Block(tiny), nn.LayerNorm(C), CrossAttention()
        self.head, self.crosses = nn.Linear(C, LETTERS + 1), crosses

    def forward(self, ids: np.ndarray) -> Tensor:
        read, written = (self.tokens(part) + self.places(np.arange(N)) for part in (ids[:, :N], ids[:, N:]))
        read = self.encoder(read, mask=Tensor(np.ones((N, N), bool)))  # all see all
        block = self.decoder
        written = written + block.attn(block.ln_1(written))  # causal
        if self.crosses:
            written = written + self.cross(self.norm(written), read)
        return self.head(written + block.mlp(block.ln_2(written)))  # (B, N, letters)


# %%
right = {}
for name, model in {
    "encoder-decoder": EncoderDecoder(), "no cross-attention": EncoderDecoder(False), "decoder-only": GPT(tiny)
}.items():  # fmt: skip
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        letters = rng.integers(LETTERS, size=(32, N))
        backwards = np.ascontiguousarray(letters[:, ::-1])
        logits = model(np.concatenate([letters, np.full((32, 1), LETTERS), backwards[:, :-1]], axis=1))[:, -N:]
        loss = F.cross_entropy(logits.reshape(-1, LETTERS + 1), backwards.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right[name] = float((logits.data.argmax(axis=-1) == backwards).mean())
    print(f"1. {name:18} {right[name]:4.0%} right, {sum(p.data.size for p in model.parameters()):,} parameters")
assert right["decoder-only"] > right["encoder-decoder"] - 0.03 > 0.9 > 0.3 > right["no cross-attention"]

# %% [markdown]
# Answer: both get nearly all letters, and without cross-attention it is about chance. So one stack gives up nothing
# here, with fewer kinds of parts.
#
# **The simplest architecture that works is the one that scales.** The lesson shows that the simpler one works. That it
# is the one that scales is history, and no experiment of a minute can show it: GPT-3 is this blueprint, a hundred times
# as large as the largest GPT-2, and nearly all large models since are decoders. Not everything speaks for it. At equal
# compute, T5's authors found encoder-decoders better after fine-tuning. Wang et al. 2022 found causal decoders best at
# new tasks without fine-tuning, when trained on plain text only.
#
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
# - exercise: `python scripts/exercise.py start causal_mask`, gpt, weight_tying
# - read: gpt/model/gpt2.py, all of it: a page; gpt/accounting.py: what it costs
# - break: `python scripts/break.py no_mask`. Expect: a loss of about 1, where the healthy model has 4, and nonsense.
# - break: `python scripts/break.py no_positions`. Expect: a loss that is lower than the healthy one's, because these
#   are few steps: see the table above.
# - break: `python scripts/break.py no_tying`. Expect: an even better loss, with 166,656 parameters in place of 133,888.
# - lesson: `python scripts/lesson.py 431`
