"""Lesson 4.2.4: many heads

A head has one set of attention weights, so it can ask one question. Split the channels among several heads, each with
its own projections, and let one more layer mix their outputs: several questions for the same arithmetic. Then remove
heads from a trained model, one by one, and see which of them it needs.
Vaswani et al. 2017, section 3.2.2; Michel et al. 2019, "Are sixteen heads really better than one?", section 3.
"""

from __future__ import annotations

import numpy as np

import minigrad.functional as F
from gpt.interpretability import attention_patterns
from gpt.model.config import GPTConfig
from gpt.model.gpt2 import CausalSelfAttention
from minigrad import Tensor, no_grad
from minigrad.inspection import profile
from scripts.lessons.small_gpt import english, new_gpt, train_once, validation_loss
from scripts.pages.pictures import Lesson, heatmap

lesson = Lesson("424_multi_head", __doc__)
rng = np.random.default_rng(0)

# %% What one head cannot do
# 'it' needs two things: what "animal" is, and how "tired" is. A token carries both numbers: (what, how). A head takes
# one weighted average m = w animal + (1 - w) tired, and everything after it (W_V, W_O) is a linear map of m: the noise
# that the other token carries is mixed in. Two heads take two averages.
#
# Predict: would values twice as large (W_V doubled) help the one head?
animal, tired = rng.standard_normal((2, 2000, 2))  # 2,000 examples of (what, how) for each of the two tokens
wanted = np.column_stack([animal[:, 0], tired[:, 1]])


def error(found: np.ndarray) -> float:
    """The mean squared error of the best linear map from what attention found to what was wanted; 2 at most."""
    best = np.linalg.lstsq(found, wanted, rcond=None)[0]
    return float(((found @ best - wanted) ** 2).sum(axis=1).mean())


one_head = {w: error(w * animal + (1 - w) * tired) for w in (0.0, 0.25, 0.5, 0.75, 1.0)}
larger_values = error((0.5 * animal + 0.5 * tired) @ (2 * np.eye(2)))  # twice the W_V
two_heads = error(np.concatenate([animal, tired], axis=1))  # head 0 with weights (1, 0), head 1 with (0, 1)
print("error of one head, by its weight on 'animal':", ", ".join(f"{w:g}: {e:.2f}" for w, e in one_head.items()))
print(f"with W_V doubled, weight 0.5: {larger_values:.2f};  two heads: {two_heads:.2f}")
assert min(one_head.values()) > 0.9 and np.isclose(larger_values, one_head[0.5]) and two_heads < 1e-9

# %% [markdown]
# Answer: no. Signal and noise are doubled alike, so the best linear map after it does as well as before: it gets about
# half of what was wanted, whatever the weights. Two heads get everything.

# %% Split, not multiplied
B, T, C, H = 1, 6, 16, 4
D = C // H
x = Tensor(rng.standard_normal((B, T, 3 * C)).astype(np.float32))
q, k, v = F.split_heads(x, H, parts=3)
print(f"(B={B}, T={T}, 3 x C={3 * C}) -> three times (B, H={H}, T, D={D}): the same numbers in another order")
assert q.shape == (B, H, T, D)
assert np.array_equal(q.data[0, 1], x.data[0, :, D : 2 * D])  # head 1 gets the second D channels of the queries
flops = {}
for heads in (1, 2, 4, 8):
    parts = F.split_heads(x, heads, parts=3)
    with profile() as report:
        F.scaled_dot_product_attention(*parts)
    flops[heads] = report.total.flops
print("FLOPs of the matrix products, by number of heads:", flops)
assert len(set(flops.values())) == 1  # 4 T T C for any number of heads

# %% Heads, concatenation and W_O by hand
# Side by side, each channel comes from one head. W_O, C x C weights, mixes them.
attention = CausalSelfAttention(GPTConfig(n_embd=C, n_head=H, block_size=T, vocab_size=10, n_layer=1))
stream = rng.standard_normal((T, C)).astype(np.float32)
Q, K, V = np.split(stream @ attention.c_attn.weight.data.T + attention.c_attn.bias.data, 3, axis=1)  # (T, C) each
future = np.triu(np.ones((T, T), bool), 1)
heads = []
for h in range(H):
    mine = slice(h * D, (h + 1) * D)  # the channels of this head
    scores = Q[:, mine] @ K[:, mine].T / np.sqrt(D)  # (T, T)
    weights = F.softmax(Tensor(np.where(future, -np.inf, scores)), -1).data
    heads.append(weights @ V[:, mine])  # (T, D)
side_by_side = np.concatenate(heads, axis=1)  # (T, C)
by_hand = side_by_side @ attention.c_proj.weight.data.T + attention.c_proj.bias.data
with no_grad():
    difference = np.abs(by_hand - attention(Tensor(stream[None])).data[0]).max()
print(f"{H} heads of (T={T}, D={D}), side by side (T, C={C}), times W_O")
print(f"difference from CausalSelfAttention: {difference:.0e}")
assert difference < 1e-5

# %% W_O in a trained model
# How many of the 4 heads does an output channel of W_O hear? If heads were only concatenated, it would hear one. And
# what is the learned mixing worth? Replace W_O by a multiple of the identity, of the same total size.
tokenizer, train_ids, val_ids = english()
model = new_gpt(len(tokenizer), n_layer=2, n_head=4)
losses = train_once(model, train_ids, 400)
whole = validation_loss(model, val_ids)
D = model.config.n_embd // model.config.n_head
print(f"2 layers of 4 heads, 400 steps: validation loss {whole:.3f}")


def heads_heard(weight: np.ndarray) -> np.ndarray:
    """How many heads each output channel listens to: 1 for one head only, 4 for all equally (e^entropy). (C,)"""
    shares = (weight.reshape(len(weight), 4, D) ** 2).sum(axis=2)  # (C, heads)
    shares /= shares.sum(axis=1, keepdims=True)
    return np.exp(-(shares * np.log(shares + 1e-30)).sum(axis=1))


projections = [block.attn.c_proj.weight for block in model.transformer.h]
learned = [weight.data.copy() for weight in projections]
for weight, kept in zip(projections, learned):
    weight.data[...] = np.eye(len(kept)) * np.sqrt((kept**2).sum() / len(kept))  # no mixing, the same total size
    heard = heads_heard(kept)
    print(f"an output channel of W_O hears {heard.mean():.2f} of 4 heads")
    assert heard.min() > heads_heard(weight.data).max()
unmixed = validation_loss(model, val_ids)
for weight, kept in zip(projections, learned):
    weight.data[...] = kept
print(f"validation loss: learned W_O {whole:.3f}, heads only concatenated {unmixed:.3f}")
assert unmixed > whole + 0.03
title = "How strongly an output channel hears each head (layer 0, trained)"
with lesson.picture("mixing", title, size=(11, 3)) as axes:
    norms = np.sqrt((projections[0].data.reshape(-1, 4, D) ** 2).sum(axis=2)).T  # (heads, C)
    heatmap(axes, norms, [f"head {h}" for h in range(4)], [str(c) for c in range(norms.shape[1])], "")
    axes.set(xlabel="output channel")
    axes.tick_params(axis="x", labelsize=6)

# %% Removing heads from a trained model
# Nobody assigned jobs to heads. Set the output of one head to zero, and see what it was worth.


def without_head(layer: int, head: int) -> float:
    """The validation loss when the output of one head is set to 0 before W_O."""
    weight = model.transformer.h[layer].attn.c_proj.weight
    columns = slice(head * D, (head + 1) * D)  # the weights of W_O for this head's channels
    saved = weight.data[:, columns].copy()
    weight.data[:, columns] = 0
    try:
        return validation_loss(model, val_ids)
    finally:
        weight.data[:, columns] = saved


costs = np.array([[without_head(layer, head) - whole for head in range(4)] for layer in range(2)])
assert validation_loss(model, val_ids) == whole  # all weights are back in place
for layer, row in enumerate(costs):
    print(f"  loss without one head of layer {layer}: " + "  ".join(f"{cost:+.3f}" for cost in row))
cheap = int((costs < 0.01 * whole).sum())
print(f"{cheap} of {costs.size} heads cost less than 1 % of the loss when removed alone")
assert costs.max() > 2 * costs.min()

# %% [markdown]
# Training uses the capacity of the heads unevenly. (The course: in large models, 20 to 40 % of the heads can be
# removed.) Where do they look? In a trained model, the pictures are mixed: some heads are easy to describe, most are
# not.

# %%
ids = np.array(tokenizer.encode(" The value of the object is the value of the name."))[None]
seen = attention_patterns(model, ids)[:, 0]  # (layers, heads, T, T): softmax(q k^T / sqrt(D)) of each head
tokens = [tokenizer.decode([i]).strip() or "_" for i in ids[0]]
with lesson.picture("heads", "Where the heads of a small trained GPT look", columns=4, rows=2, size=(15, 8)) as panels:
    for i, axes in enumerate(panels):
        layer, head = divmod(i, 4)
        heatmap(axes, seen[layer][head], tokens, tokens, "")
        axes.set(title=f"layer {layer}, head {head}: {costs[layer, head]:+.3f} without")
        axes.tick_params(axis="x", labelrotation=90)
        axes.tick_params(labelsize=7)

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start heads`
# - read: gpt/model/gpt2.py: CausalSelfAttention; minigrad/functional/attention.py: SplitHeads
# - break: GPTConfig(n_head=3, n_embd=64). Expect: "n_embd 64 cannot be divided among 3 heads; choose a multiple of
#   n_head". Heads share the channels: each would get 21 1/3.
# - lesson: `python scripts/lesson.py 425`
