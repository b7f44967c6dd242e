"""Lesson 4.2.4: many heads

One head has one set of weights, and can ask one question. So cut the channels among several heads, each with lenses of
its own, and let one more layer mix what they found: as much arithmetic as before, several questions at once. Then take
heads out of a trained model, one by one, and see which it misses.
Vaswani et al. 2017, section 3.2.2; Michel et al. 2019, "Are sixteen heads really better than one?", section 3.
"""

from __future__ import annotations

import numpy as np

import minigrad.functional as F
from gpt.model.config import GPTConfig
from gpt.model.gpt2 import CausalSelfAttention
from minigrad import Tensor, no_grad
from minigrad.inspection import profile
from scripts.lessons.pictures import Lesson, heatmap
from scripts.lessons.small_gpt import english, new_gpt, train, validation_loss

lesson = Lesson("424_multi_head", __doc__)
rng = np.random.default_rng(0)

# %% One head, two questions
# 'it' should take in all of "animal" (what it is) and all of "tired" (how it is): 1 and 1. Weights of a softmax sum
# to 1: the best that one head can do is 0.5 and 0.5, which is also what it would give to two halves of one thing.
values = np.array([[1.0, 0], [0, 1.0]])  # animal, tired
one_head = np.array([0.5, 0.5]) @ values
two_heads = np.concatenate([np.array([1.0, 0]) @ values[:, :1], np.array([0, 1.0]) @ values[:, 1:]])
print("one head:", one_head, "  two heads, side by side:", two_heads)
assert one_head.sum() == 1 and two_heads.sum() == 2

# %% Split, not multiplied
B, T, C, H = 1, 6, 16, 4
D = C // H
x = Tensor(rng.standard_normal((B, T, 3 * C)).astype(np.float32))
q, k, v = F.split_heads(x, H, parts=3)
print(f"(B={B}, T={T}, 3 x C={3 * C}) -> three times (B, H={H}, T, D={D}): the same numbers, another order")
assert q.shape == (B, H, T, D)
assert np.array_equal(q.data[0, 1], x.data[0, :, D : 2 * D])  # head 1 has the second D of the queries' channels
flops = {}
for heads in (1, 2, 4, 8):
    parts = F.split_heads(x, heads, parts=3)
    with profile() as report:
        F.scaled_dot_product_attention(*parts)
    flops[heads] = report.total.flops
print("FLOPs of the products, by heads:", flops)
assert len(set(flops.values())) == 1  # 4 T T C, however it is cut

# %% Heads are isolated; W_O mixes
attention = CausalSelfAttention(GPTConfig(n_embd=C, n_head=H, block_size=T, vocab_size=10, n_layer=1))
heard = np.zeros((2, H, C))  # how much the outputs depend on each head, before and after W_O
base = rng.standard_normal((1, T, C)).astype(np.float32)
for head in range(H):
    found = Tensor(base.copy(), requires_grad=True)  # what the heads found, side by side
    mixed = attention.c_proj(found)
    for channel in range(C):
        heard[0, head, channel] = float(channel // D == head)
        found.zero_grad()
        mixed[0, 0, channel].backward(retain_graph=True)
        heard[1, head, channel] = np.abs(found.grad[0, 0, head * D : (head + 1) * D]).sum()
with lesson.picture("mixing", "Which head does an output channel hear?", columns=2, size=(11, 3)) as (left, right):
    names = [f"head {h}" for h in range(H)]
    for axes, matrix, title in ((left, heard[0], "side by side"), (right, heard[1], "after W_O")):
        heatmap(axes, matrix, names, [str(c) for c in range(C)], "")
        axes.set(title=title, xlabel="output channel")
apart, together = ((matrix > 0).sum(axis=0) for matrix in heard)
print(f"side by side, a channel hears {apart.max()} head; after W_O all {together.min()}")
assert (heard[1] > 0).all()
print(f"W_O is a layer of C x C = {C * C} learned weights; without it, heads would never meet")

# %% Which heads does a model need?
tokenizer, train_ids, val_ids = english()
model = new_gpt(len(tokenizer), n_layer=2, n_head=4)
losses = train(model, train_ids, 400)
whole = validation_loss(model, val_ids)
D = model.config.n_embd // model.config.n_head
print(f"2 layers of 4 heads, 400 steps: validation loss {whole:.3f}")


def without_head(layer: int, head: int) -> float:
    """The validation loss when what one head found is set to 0 before W_O."""
    weight = model.transformer.h[layer].attn.c_proj.weight
    columns = slice(head * D, (head + 1) * D)  # what W_O multiplies this head's channels with
    saved = weight.data[:, columns].copy()
    weight.data[:, columns] = 0
    try:
        return validation_loss(model, val_ids)
    finally:
        weight.data[:, columns] = saved


costs = np.array([[without_head(layer, head) - whole for head in range(4)] for layer in range(2)])
assert validation_loss(model, val_ids) == whole  # nothing was left changed
for layer, row in enumerate(costs):
    print(f"  loss without one head of layer {layer}: " + "  ".join(f"{cost:+.3f}" for cost in row))
cheap = int((costs < 0.01 * whole).sum())
print(f"{cheap} of {costs.size} heads cost less than 1 % of the loss, one at a time. The course reports 20-40 %")
print("for large, long-trained models: a capacity that training fills unevenly, not a plan with a job for each head.")

ids = np.array(tokenizer.encode(" The value of the object is the value of the name."))[None]
seen: list[np.ndarray] = []


def look(module: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    q, k, _ = F.split_heads(output, 4, parts=3)
    T = q.shape[2]
    scores = q.data @ k.data.swapaxes(-1, -2) / np.sqrt(D)
    seen.append(F.softmax(Tensor(np.where(np.tri(T, dtype=bool), scores, -np.inf)), -1).data[0])


hooks = [block.attn.c_attn.register_forward_hook(look) for block in model.transformer.h]
with no_grad():
    model(ids)
for hook in hooks:
    hook.remove()
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
# - break: n_head=3 with n_embd=64 (GPTConfig): what does it say, and why must it?
# - lesson: `python scripts/lesson.py 425`
