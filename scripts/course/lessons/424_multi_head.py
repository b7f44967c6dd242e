"""Lesson 4.2.4: many heads

A head has one set of attention weights, so it can ask one question. Split the channels among several heads, each with
its own projections, and let one more layer, W_O, add up what they found. Then remove heads from a trained model, one by
one, and see which of them it needs.
Vaswani et al. 2017, section 3.2.2; Michel et al. 2019, "Are sixteen heads really better than one?", section 3.
"""

from typing import Any

import numpy as np

import minigrad.functional as F
from gpt import GPT, GPTConfig
from gpt.interpretability import attention_patterns
from gpt.model.gpt2 import CausalSelfAttention
from minigrad import Tensor, no_grad, optim, use_kernels
from minigrad.inspection import profile
from scripts.course.lessons.small_gpt import english, new_gpt, train, train_once, validation_loss
from scripts.course.pictures import Lesson, heatmap

lesson = Lesson("424_multi_head", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% What one head cannot do
# "The animal did not cross the street because it was tired." The token "it" needs two things: what "animal" is, and how
# "tired" is. In this example, a token carries both numbers: (what, how). A head takes one weighted average
# m = w animal + (1 - w) tired. What follows the average (W_V, W_O) is a linear map of m. Whatever the map, the wrong
# number of the other token is mixed in, and acts as noise. Two heads take two averages.
#
# Predict: would values twice as large (W_V doubled) help the one head?

# %%
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
print(f"with W_V doubled, weight 0.5: {larger_values:.2f};  two heads: {two_heads:.2f};  no attention: 2")
assert np.allclose([*one_head.values()], 1, atol=0.15)
assert np.allclose([larger_values, two_heads], [one_head[0.5], 0])

# %% [markdown]
# Answer: no. Signal and noise are doubled alike, so the best linear map after it does as well as before: it gets about
# half of what was wanted, whatever the weights. Two heads get everything. Several heads work like a research team: each
# member reads the same material with a question of her own.
#
# ## What do more heads cost?
#
# H heads share the C channels of a token: each gets D = C / H of them for its queries, keys and values.
#
# Predict: attention with 8 heads, compared to attention with 1: how many times as many multiplications are that?

# %%
B, T, C, H = 1, 6, 16, 4
D = C // H
x = Tensor(rng.standard_normal((B, T, 3 * C)).astype(np.float32))
q, k, v = F.split_heads(x, H, parts=3)
print(f"(B={B}, T={T}, 3 x C={3 * C}) -> three times (B, H={H}, T, D={D}): the same numbers in another order")
assert q.shape == (B, H, T, D)
assert np.array_equal(q.data[0, 1], x.data[0, :, D : 2 * D])  # head 1 gets the second D channels of the queries

# %%
flops, full_width = {}, {}
for heads in (1, 2, 4, 8):
    for counted, width in ((flops, C), (full_width, heads * C)):
        parts = F.split_heads(Tensor(np.ones((B, T, 3 * width), np.float32)), heads, parts=3)
        with profile() as report:
            F.scaled_dot_product_attention(*parts)
        counted[heads] = report.total.flops
print("FLOPs of the matrix products, by number of heads:", flops)
print("if each head had all C channels:                 ", full_width)
assert len(set(flops.values())) == 1 and full_width[8] == 8 * flops[8]  # 4 T T C for any number of heads

# %% [markdown]
# Answer: just as many. **Split, not multiplied**: more heads are more questions, each asked with fewer numbers.
#
# ## Heads, side by side, times W_O
#
# After attention, the outputs of the heads stand side by side, (T, C). The output projection W_O, C x C weights, is
# applied to them. Cut W_O into H blocks of D rows, one block for each head:
#
#     [head_0 head_1 ... head_H-1] W_O  =  head_0 W_O[block 0] + head_1 W_O[block 1] + ...
#
# So W_O does two things: it decides in which channels of the stream a head's finding is written, and it adds up the
# findings. Without it, head h could write only to its own channels, from h D to (h + 1) D - 1. W_O is the meeting in
# which the team puts its findings together. Here is all of it, by hand:

# %%
attention = CausalSelfAttention(GPTConfig(n_embd=C, n_head=H, block_size=T, vocab_size=10, n_layer=1))
W_O, bias = attention.c_proj.weight.data.T, attention.c_proj.bias.data  # nn.Linear stores (out, in)
stream = rng.standard_normal((T, C)).astype(np.float32)
Q, K, V = np.split(stream @ attention.c_attn.weight.data.T + attention.c_attn.bias.data, 3, axis=1)  # (T, C) each
future = np.triu(np.ones((T, T), bool), 1)
heads = []
for h in range(H):
    mine = slice(h * D, (h + 1) * D)  # the channels of this head
    scores = Q[:, mine] @ K[:, mine].T / np.sqrt(D)  # (T, T)
    weights = F.softmax(Tensor(np.where(future, -np.inf, scores)), -1).data
    heads.append(weights @ V[:, mine])  # (T, D)

# %%
side_by_side = np.concatenate(heads, axis=1) @ W_O + bias  # (T, C)
sum_of_heads = sum(head @ W_O[h * D : (h + 1) * D] for h, head in enumerate(heads)) + bias
with no_grad():
    model_s = attention(Tensor(stream[None])).data[0]
print(f"{H} heads of (T={T}, D={D}), side by side (T, C={C}), times W_O ({C}, {C})")
print(f"difference from CausalSelfAttention: {np.abs(side_by_side - model_s).max():.0e}")
assert np.allclose(side_by_side, model_s, atol=1e-5) and np.allclose(side_by_side, sum_of_heads, atol=1e-5)

# %% What is it worth that W_O mixes the heads?
# A task that needs it: the two heads above found (what, how) of "animal" and of "tired". Now channel 0 of the stream
# must hold what(animal) + how(tired), because a later layer reads it there. W_V of both heads is trained, and W_O is
# one of these: trained as well; a random rotation that stays as it is; the identity, which leaves the heads side by
# side; zeros, which is no attention at all.
#
# Predict: which of the four can do it?

# %%
FIXED = {
    "rotation": lambda n: np.linalg.qr(rng.standard_normal((n, n)))[0],
    "identity": np.eye,
    "no attention": lambda n: np.zeros((n, n)),
}


def error_in_channel_0(w_o: str, steps: int = 300) -> float:
    """The mean squared error of channel 0 after training W_V, and W_O if it is "learned"."""
    W_V = Tensor(rng.standard_normal((2, 2, 2)), requires_grad=True)  # for each head (2, 2)
    W_O = Tensor(FIXED.get(w_o, lambda n: rng.standard_normal((n, n)))(4), requires_grad=w_o == "learned")
    optimizer = optim.Adam([W_V, W_O] if w_o == "learned" else [W_V], lr=0.1)
    for _ in range(steps + 1):
        found = Tensor(np.stack([animal, tired])) @ W_V  # (2 heads, examples, 2): head 0 looks at animal, 1 at tired
        stream = F.merge_heads(found.reshape(1, 2, -1, 2))[0] @ W_O  # (examples, 4)
        loss = ((stream[:, 0] - wanted.sum(axis=1)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


pooled = {w_o: error_in_channel_0(w_o) for w_o in ("learned", *FIXED)} | {"untrained": error_in_channel_0("learned", 0)}
print("error of channel 0, by W_O:", ", ".join(f"{w_o} {value:.2f}" for w_o, value in pooled.items()))
assert max(pooled["learned"], pooled["rotation"]) < 0.05 < 0.8 < pooled["identity"] < 0.75 * pooled["no attention"]

# %% [markdown]
# Answer: the trained W_O and the rotation. **Multiple lenses, pooled findings**: one channel holds what two heads have
# found. With the identity, channel 0 belongs to head 0, so what head 1 finds never arrives there: half is missing. The
# rotation mixes the heads in a way that nobody chose, and W_V adapts to it. So it matters here *that* the heads are
# mixed, less *how*.
#
# In a GPT, mixing can also happen later: the next layers read all channels. So is W_O worth anything in a model that
# is trained as a whole? Five seeds of a GPT with one layer of 8 heads, 800 steps:

# %%
tokenizer, train_ids, val_ids = english()


def gpt_with(w_o: str, seed: int) -> GPT:
    """A new GPT of one layer with 8 heads. Its W_O is not trained unless it is "learned"."""
    model = new_gpt(len(tokenizer), seed, n_layer=1, n_head=8)
    weight = model.transformer.h[0].attn.c_proj.weight
    if w_o != "learned":
        weight.data[...] = FIXED[w_o](len(weight.data))
        weight.requires_grad_(False)
    return model


def cost(model: GPT, channels: Any) -> float:
    """How much the validation loss rises when these channels of the heads' outputs are 0 before W_O."""
    weight = model.transformer.h[0].attn.c_proj.weight
    saved, before = weight.data.copy(), validation_loss(model, val_ids)
    weight.data[:, channels] = 0
    after = validation_loss(model, val_ids)
    weight.data[...] = saved
    return round(after - before, 4)


def costs_of(model: GPT, groups: np.ndarray) -> dict[str, list[float]]:
    """What each group of channels costs alone; and what the n cheapest, and the n costliest, cost together."""
    alone = [cost(model, group) for group in groups]
    order = np.argsort(alone)
    up_to = range(1, len(groups) + 1)
    cheapest = [cost(model, groups[order[:n]].ravel()) for n in up_to]
    return {"alone": alone, "cheapest": cheapest, "costliest": [cost(model, groups[order[-n:]].ravel()) for n in up_to]}


def heads_and_random_channels(seed: int) -> dict[str, np.ndarray]:
    """The 64 channels in 8 groups of 8: those of the 8 heads; and the same channels shuffled, as a control."""
    channels = np.arange(64)
    shuffled = np.random.default_rng(seed).permutation(channels)
    return {"heads": channels.reshape(8, 8), "random channels": shuffled.reshape(8, 8)}


def five_seeds() -> dict[str, Any]:
    """The validation loss with each W_O; what heads and random channels cost where it is learned: seeds 11 to 15."""
    losses, costs = {w_o: [] for w_o in ("learned", *FIXED)}, []  # type: dict[str, list[float]], list[Any]
    for seed in range(11, 16):
        for w_o, found in losses.items():
            model = gpt_with(w_o, seed)
            train(model, train_ids, 800, seed=seed)
            found.append(round(validation_loss(model, val_ids), 4))
            if w_o == "learned":
                costs.append({name: costs_of(model, g) for name, g in heads_and_random_channels(seed).items()})
    return {"losses": losses, "costs": costs}


table = lesson.measured("heads", five_seeds, gpt_with, cost, costs_of, heads_and_random_channels)
for w_o, found in table["losses"].items():
    print(f"validation loss, {w_o:12} " + "  ".join(f"{loss:.2f}" for loss in found))
losses = {w_o: np.array(found) for w_o, found in table["losses"].items()}
assert (losses["learned"] + 0.02 < np.minimum(losses["rotation"], losses["identity"])).all()
assert (np.maximum(losses["rotation"], losses["identity"]) + 0.15 < losses["no attention"]).all()

# %%
# And today, with one seed:
model = gpt_with("learned", lesson.seed)
train_once(model, train_ids, 800)
today = {"learned": validation_loss(model, val_ids)}
with use_kernels("fast"):
    for w_o in ("identity", "no attention"):
        other = gpt_with(w_o, lesson.seed)
        train(other, train_ids, 800)
        today[w_o] = validation_loss(other, val_ids)
print("this run:", {w_o: round(loss, 2) for w_o, loss in today.items()})
assert today["learned"] - 0.02 < today["identity"] < today["no attention"] - 0.15

# %% [markdown]
# A W_O that learns lowers the loss by 0.03 to 0.06, attention as a whole by 0.3. Even the identity loses little: the
# layers after W_O mix as well, and the heads can learn to write what those layers read.
#
# ## Removing heads from a trained model
#
# Nobody assigned jobs to heads. Set the output of one head to zero, and see what it was worth. Two controls: the same
# in a model that has not been trained; and, in the trained one, eight channels drawn from all heads in place of the
# eight channels of one head.
#
# Predict: will one head be worth much more than another? More than one group of random channels is than another?

# %%
untrained = gpt_with("learned", lesson.seed)
groups = heads_and_random_channels(lesson.seed)
ids = val_ids[:512].reshape(16, 32)
# (16, H, T, T) each: softmax(q k^T / sqrt(D)) of each head
looks = {"untrained": attention_patterns(untrained, ids)[0], "trained": attention_patterns(model, ids)[0]}
print("cost of one head, untrained:     ", np.array([cost(untrained, head) for head in groups["heads"]]))
costs = {name: costs_of(model, of) for name, of in groups.items()}
for name, found in costs.items():
    print(f"cost of one group, {name:15}", np.array(found["alone"]))
print(f"validation loss {today['learned']:.3f}; without all heads {costs['heads']['cheapest'][-1]:+.3f}")

# %% [markdown]
# And for five seeds:

# %%
print("           std of the costs       2 of 8 removed, share of the cost of all 8      costliest")
print("seed    heads  random channels    cheapest  costliest  cheapest random channels   head")
for seed, found in enumerate(table["costs"], 11):
    of_heads, of_channels = found["heads"], found["random channels"]
    two = np.array([of_heads["cheapest"][1], of_heads["costliest"][1], of_channels["cheapest"][1]])
    low, high, channels = two / of_heads["cheapest"][-1]
    print(f"{seed:4}    {np.std(of_heads['alone']):.3f}  {np.std(of_channels['alone']):15.3f}    ", end="")
    print(f"{low:8.0%}  {high:9.0%}  {channels:24.0%}   {np.argmax(of_heads['alone']):4}")
for found in [costs, *table["costs"]]:
    assert found["heads"]["cheapest"][1] < min(0.15 * found["heads"]["cheapest"][-1], 0.02 * today["learned"])
    assert found["heads"]["costliest"][1] > 0.2 * found["heads"]["cheapest"][-1]
    assert all(max(found[name]["alone"]) > least * min(found[name]["alone"]) for name, least in zip(groups, (2.5, 1.5)))

# %% [markdown]
# Answer: yes, some heads cost several times as much as others. But groups of random channels differ as well, about
# twofold or more, in some models as much as heads. So unequal costs alone do not show that heads have specialized. They
# show spare capacity: the two cheapest heads, a quarter of all, take away about a tenth of what attention is worth or
# less, and less than 2 % of the loss. (Michel et al. could remove 20 to 40 % of the heads of large models almost
# without a loss.) It matters which ones: the two costliest take about a quarter or more. That they are whole heads
# matters little here. But a whole head that is gone need not be computed, so the model becomes faster.
#
# Have the heads specialized? Look at where they look:
#
# Predict: how much of its weight does each of the eight heads give to the token before? Before training, and after?

# %%
before = {name: np.diagonal(of, -1, axis1=2, axis2=3).mean(axis=(0, 2)) for name, of in looks.items()}
print(f"mean weight of the previous token, by head (even weights: {np.mean(1 / np.arange(2, 33)):.2f})")
for name, of in before.items():
    print(f"  {name:9}", of.round(2))
costliest = {int(np.argmax(found["heads"]["alone"])) for found in table["costs"]}
assert before["trained"].std() > 5 * before["untrained"].std() and len(costliest) > 2
assert np.allclose(before["untrained"], 0.1, atol=0.01) and before["trained"].min() > 0.11

# %%
sentence = np.array(tokenizer.encode(" The value of the object is the value of the name."))[None]
seen = attention_patterns(model, sentence)[0, 0]  # (H, T, T)
tokens = [tokenizer.decode([i]).strip() or "_" for i in sentence[0]]
with lesson.picture("heads", "Where the heads of a small trained GPT look", columns=4, rows=2, size=(15, 8)) as panels:
    for head, axes in enumerate(panels):
        heatmap(axes, seen[head], tokens, tokens, "")
        axes.set(title=f"head {head}: {costs['heads']['alone'][head]:+.3f} without")
        axes.tick_params(axis="x", labelrotation=90)
        axes.tick_params(labelsize=7)

# %% [markdown]
# Answer: before training all look evenly at everything, so each gives it 0.10. After it they give it more, and each
# another share. Heads come to differ, and which one does what depends on the random start: with five seeds, several
# different heads are the costliest. **Capacity, not assignment.** The differences are gradual. Most of the patterns
# above are mixed: some heads are easy to describe, most are not.

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start heads`
# - read: gpt/model/gpt2.py: CausalSelfAttention; minigrad/functional/attention.py: SplitHeads
# - break: GPTConfig(n_head=3, n_embd=64). Expect: "n_embd 64 cannot be divided among 3 heads; choose a multiple of
#   n_head". Heads share the channels: each would get 21 1/3.
# - lesson: `python scripts/lesson.py 425`
