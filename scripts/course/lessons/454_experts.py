"""Lesson 4.5.4: a mixture of experts, or more weights for the same work

This goes beyond the course. Each token passes through every weight of a GPT, so a model that knows more computes more.
A mixture of experts breaks this link: it has many MLPs and sends each token through a few of them. This lesson follows
one token through the router, compares the mixture with MLPs of equal work and of equal size, and lets the router fail.
Shazeer et al. 2017, arXiv 1701.06538; Fedus et al. 2021, 2101.03961 (Switch); Jiang et al. 2024, 2401.04088 (Mixtral).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from gpt.model.moe import MixtureOfExperts, mixtures, use_experts, with_balance
from gpt.training.training_step import language_model_loss
from minigrad import Tensor, manual_seed, nn, no_grad, use_kernels
from scripts.course.lessons.small_gpt import english, new_gpt, train, validation_loss
from scripts.course.pictures import Lesson

lesson = Lesson("454_experts", __doc__)

# %% [markdown]
# ## The limitation: weights cost work
#
# A matrix product takes two FLOPs per weight and token, forward, and twice that backward. An MLP four times as wide may
# know more, but it also takes four times as long.

# %% One token through the router
# The router is one matrix: a score for each expert. The best two compute, and the softmax of their two scores weighs
# their outputs.
manual_seed(lesson.seed)
moe = MixtureOfExperts(3, [nn.Linear(3, 3) for _ in range(4)], top_k=2)
x = np.array([1.0, -2.0, 0.5], np.float32)
scores = moe.router.weight.data @ x
best = np.argsort(-scores)[:2]
gates = np.exp(scores[best]) / np.exp(scores[best]).sum()
by_hand = sum(gate * moe.experts[e](Tensor(x)).data for gate, e in zip(gates, best))
out = moe(Tensor(x[None]))
assert np.allclose(out.data[0], by_hand, atol=1e-6)
print("scores", scores, "-> experts", best, "with gates", gates)
out.sum().backward()
trained = [e for e, expert in enumerate(moe.experts) if expert.weight.grad.any()]
assert trained == sorted(best) and moe.router.weight.grad[best].any()
print(f"only experts {trained} computed, and only they get gradients; the router gets one through the gates")
many = Tensor(np.random.default_rng(lesson.seed).standard_normal((20, 3)).astype(np.float32))
one_by_one = [moe(many[i : i + 1]).data[0] for i in range(len(many))]
assert np.allclose(moe(many).data, one_by_one, atol=1e-6)

# %% In a GPT: the same work, more weights
# `use_experts` replaces the MLPs from outside. Each of the 8 experts is half as wide as the MLP was, and 2 compute.
tokenizer, train_ids, val_ids = english()
V = len(tokenizer)
dense, sparse = new_gpt(V), new_gpt(V)
use_experts(sparse, n_experts=8, top_k=2)
expert = sum(p.data.size for p in mixtures(sparse)[0].experts[0].parameters())
active = sparse.num_parameters() - 2 * 6 * expert  # in each of 2 layers, 6 experts rest
print(f"dense {dense.num_parameters():,} weights; experts {sparse.num_parameters():,}, for a token {active:,}")
assert sparse.num_parameters() > 2 * dense.num_parameters() and active < 1.02 * dense.num_parameters()

# %% A router that is left alone
# Predict: at first all experts are equally good. An expert that is chosen more often learns more. Where does that lead?


def balanced(weight: float) -> Any:
    """The language model's loss plus `weight` times the balancing loss."""
    return with_balance(language_model_loss, weight)


def shares_after(weight: float) -> np.ndarray:
    """The share of all choices that each expert of the last layer gets after 60 steps."""
    model = new_gpt(V, lesson.seed)
    use_experts(model, 8, 2)
    train(model, train_ids, 60, seed=lesson.seed, loss_fn=balanced(weight))
    with no_grad():
        model(val_ids[:2048].reshape(-1, 32))
    return mixtures(model)[-1].counts / mixtures(model)[-1].counts.sum()


alone, kept = shares_after(0.0), shares_after(0.1)
busy, less_busy = (np.sort(shares)[-2:].sum() for shares in (alone, kept))
print("share of the choices, by expert:", alone, "with the balancing loss:", kept, sep="\n  ")
print(f"choices of the two busiest of 8 experts: {busy:.0%}, with the balancing loss {less_busy:.0%}; even: 25%")
assert busy > 0.6 and less_busy < 0.5

# %% [markdown]
# Answer: to a few experts that do everything, which make the others, and their memory, useless. It takes fewer than
# 60 steps. The **balancing loss** works against it: the two busiest experts then have about a third of the choices. It
# is E Σ f_e P_e (Switch, equation 4): 1 when all experts are used equally, larger when those that are chosen often also
# have high probabilities, E / k when the same k experts get everything. f_e, the share of the choices, is counted and
# has no gradient; P_e, the mean probability, has. So the loss lowers the probability of those that are chosen most. It
# is one more term of the training loss, and no page of the model changes: `model.loss(ids, targets) + 0.01 *
# balance_loss(model)`.

# %%
# The mixture of the beginning, E = 4 and k = 2: all experts equally likely, then two that get every token.
for router, balance in ((np.zeros((4, 3)), 1), (np.outer([50, 50, 0, 0], np.ones(3)), 4 / 2)):
    moe.router.weight.data[...] = router
    moe(Tensor(np.ones((20, 3), np.float32)))
    assert np.isclose(moe.balance.item(), balance)

# %% Is it worth it?
# Four models: the dense one; its experts, which do the same work per token; the same without balancing; and a dense one
# with as many weights as all experts, which all compute.
#
# Predict: which has the lowest loss, and how long does a step take with experts, compared to the dense model?

# %%
STEPS, SEEDS = 300, range(5)


def comparison() -> dict[str, dict[str, list[float]]]:
    """For each model: validation losses, share of the busiest expert, and milliseconds of computing per step."""
    found = {}
    for name, inner, weight in (
        ("dense", 256, None),
        ("8 experts, 2 compute", 256, 0.01),
        ("without balancing", 256, 0.0),
        ("dense, all compute", 1024, None),
    ):
        losses, busiest, ms = [], [], []
        for seed in SEEDS:
            model = new_gpt(V, seed, n_inner=inner)
            loss_fn = language_model_loss
            if weight is not None:
                use_experts(model, 8, 2)
                loss_fn = balanced(weight)
            started = time.process_time()
            train(model, train_ids, STEPS, seed=seed, loss_fn=loss_fn)
            ms.append(round(1000 * (time.process_time() - started) / STEPS))
            losses.append(round(validation_loss(model, val_ids), 4))
            model(val_ids[:2048].reshape(-1, 32))
            shares = [mixture.counts / mixture.counts.sum() for mixture in mixtures(model)]
            busiest.append(round(float(np.max(shares)), 3) if shares else 0.0)
        found[name] = {"losses": losses, "busiest": busiest, "ms": ms}
    return found


found = lesson.measured("comparison", comparison)
STEPS, SEEDS = 100, range(lesson.seed, lesson.seed + 1)  # the same in small, now
with use_kernels("fast"):
    today = comparison()
print(f"{'':22}{'ms per step':>12}{'busiest expert':>16}  validation loss: today after 100 steps, and of seeds 0 to 4")
for name, row in found.items():
    shown = "  ".join(f"{loss:.3f}" for loss in row["losses"])
    busiest = f"{np.mean(row['busiest']):.0%}" if max(row["busiest"]) else ""
    now = f"{today[name]['losses'][0]:.3f}"
    print(f"{name:22}{np.mean(row['ms']):12.0f}{busiest:>16}  {now}   {shown}, mean {np.mean(row['losses']):.3f}")

for dense, experts, free, wide in (today.values(), found.values()):
    assert all(w < d for w, d in zip(wide["losses"], dense["losses"]))
    assert max(experts["busiest"]) < min(free["busiest"])
assert max(experts["ms"]) > 1.5 * max(dense["ms"])  # as recorded: the same FLOPs, in eight small products

# %% [markdown]
# Answer: more weights help with every seed if all of them compute. The experts do not help here: they are better than
# the dense model with two of the five seeds and worse with three, and the seeds differ more than the models. A likely
# reason is the short run: of 300 steps of 512 tokens, each expert sees a quarter. They are also twice as slow as the
# dense model, although the FLOPs are the same, because eight small products take longer than one large one. Mixtures
# pay at another scale: Switch reports the loss of a dense T5 up to seven times sooner, with the same FLOPs per token
# and far more weights. The balancing loss does what it should: the busiest expert gets about a fifth of the choices
# instead of a third (an eighth would be even).

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start softmax`
# - read: gpt/model/moe.py, a page; `MLP` in gpt/model/gpt2.py is an expert
# - break: `python scripts/break.py collapsed_router`. Expect: two of eight experts get all tokens, and the loss is only
#   a little higher.
# - try: `use_experts(model, 8, 4)`, where half of the experts compute. Expect: narrower experts, the same work.
# - lesson: `python scripts/lesson.py 455`
