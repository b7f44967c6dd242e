"""Lesson 4.5.4: a mixture of experts, or more weights for the same work

This goes beyond the course. Each token passes through every weight of a GPT, so a model that knows more computes more.
A mixture of experts breaks this link: it has many MLPs and sends each token through a few of them. This lesson follows
one token through the router, compares the mixture with MLPs of equal work and of equal size, and lets the router fail.
Shazeer et al. 2017, arXiv 1701.06538; Fedus et al. 2021, 2101.03961 (Switch); Jiang et al. 2024, 2401.04088 (Mixtral).
"""

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
assert busy > 0.6 and less_busy < busy - 0.2

# %% [markdown]
# Answer: to a few experts that do most of the work, while the others, and their memory, are of little use. It takes
# fewer than 60 steps. The **balancing loss** works against it: the two busiest experts then have a third to a half of
# the choices. It is E Σ f_e P_e (Switch, equation 4): 1 when all experts are used equally, larger when those that are
# chosen often also have high probabilities, E / k when the same k experts get everything. f_e, the share of the
# choices, is counted and has no gradient; P_e, the mean probability, has. So the loss lowers the probability of those
# that are chosen most. It is one more term of the training loss, and no page of the model changes: `model.loss(ids,
# targets) + 0.01 * balance_loss(model)`.

# %%
# The mixture of the beginning, E = 4 and k = 2: all experts equally likely, then two that get every token.
for router, balance in ((np.zeros((4, 3)), 1), (np.outer([50, 50, 0, 0], np.ones(3)), 4 / 2)):
    moe.router.weight.data[...] = router
    moe(Tensor(np.ones((20, 3), np.float32)))
    assert np.isclose(moe.balance.item(), balance)

# %% Is it worth it?
# Four models: the dense one; its experts, which do the same work per token; the same without balancing; and a dense one
# with as many weights as all experts, which all compute. Each trains for 300 steps, a third of them warm-up, at the
# best of five learning rates.
#
# Predict: which has the lowest loss, and how long does a step take with experts, compared to the dense model?

# %%
MODELS = {  # the width of the MLP, and the weight of the balancing loss, if it has experts
    "dense": (256, None),
    "8 experts, 2 compute": (256, 0.01),
    "without balancing": (256, 0.0),
    "dense, all compute": (1024, None),
}
RATES = (3e-3, 4.2e-3, 6e-3, 8.5e-3, 1.2e-2)
SEEDS = (*range(10), *range(101, 106))


def trained(name: str, seed: int, rate: float, steps: int) -> tuple[float, float, float]:
    """The validation loss, the share of the busiest expert, and milliseconds of computing per step."""
    inner, weight = MODELS[name]
    model = new_gpt(V, seed, n_inner=inner)
    loss_fn = language_model_loss
    if weight is not None:
        use_experts(model, 8, 2)
        loss_fn = balanced(weight)
    started = time.process_time()
    train(model, train_ids, steps, rate, seed=seed, warmup=steps // 3, loss_fn=loss_fn)
    ms = 1000 * (time.process_time() - started) / steps
    loss = round(validation_loss(model, val_ids), 4)
    model(val_ids[:2048].reshape(-1, 32))
    shares = [mixture.counts / mixture.counts.sum() for mixture in mixtures(model)]
    return loss, round(float(np.max(shares)), 3) if shares else 0.0, round(ms)


def comparison() -> dict[str, dict[str, Any]]:
    """For each model the mean loss of three seeds by rate, the best rate, and what all seeds give with it."""
    found = {}
    for name in MODELS:
        by_rate = [np.mean([trained(name, seed, rate, 300)[0] for seed in range(3)]) for rate in RATES]
        best = RATES[np.argmin(by_rate)]
        losses, busiest, ms = zip(*[trained(name, seed, best, 300) for seed in SEEDS])
        found[name] = {"by rate": np.round(by_rate, 3).tolist(), "rate": best, "losses": losses}
        found[name] |= {"busiest": busiest, "ms": ms}
    return found


found = lesson.measured("comparison", comparison, trained, balanced)
for name, row in found.items():
    losses = np.array(row["losses"])
    print(f"{name}: {np.mean(row['ms']):.0f} ms per step, the busiest expert {np.mean(row['busiest']):.0%}")
    print(f"  loss by rate {row['by rate']}; at the best, {len(SEEDS)} seeds: mean {losses.mean():.3f}\n  {losses}")
    assert row["rate"] not in (RATES[0], RATES[-1])  # not at the edge
dense, experts, free, wide = (np.array(row["losses"]) for row in found.values())
assert np.mean(experts < dense) >= 0.8 and 0.01 < (dense - experts).mean() < 0.04
assert np.mean(wide < dense) >= 0.8 and abs((wide - experts).mean()) < 0.03
at_3e3 = {name: row["by rate"][0] for name, row in found.items()}
assert at_3e3["dense"] - at_3e3["8 experts, 2 compute"] > 2 * (dense - experts).mean()
assert max(found["8 experts, 2 compute"]["busiest"]) < min(found["without balancing"]["busiest"])

# %%
# The same in small, now: 100 steps with one seed.
with use_kernels("fast"):
    today = {name: trained(name, lesson.seed, row["rate"], 100) for name, row in found.items()}
for name, (loss, busiest, ms) in today.items():
    print(f"{name:20} loss {loss:.3f} after 100 steps of {ms} ms; the busiest expert {busiest:.0%}")
assert today["dense, all compute"][0] < today["dense"][0]
assert today["8 experts, 2 compute"][1] < today["without balancing"][1]
assert today["8 experts, 2 compute"][2] > 1.2 * today["dense"][2]  # the same FLOPs, in eight small products

# %% [markdown]
# Answer: they end within 0.03 of each other. Experts are better than the dense model with 12 of the 15 seeds, by 0.02
# on average. At the smallest of the rates the gain would be 0.06, but this is the rate's doing: the dense model can
# take larger steps. And it is no bargain: a step with experts takes as long as one of the dense model in which all
# these weights compute, and this one gains a little more (0.03, with 13 seeds). The FLOPs are those of the small model,
# but eight small products take longer than one large one. Mixtures pay at another scale: Switch reports the loss of a
# dense T5 up to seven times sooner, with the same FLOPs per token and far more weights. The balancing loss does what it
# should: the busiest expert gets about a fifth of the choices instead of a third (an eighth would be even). The loss
# hardly notices.

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start softmax`
# - read: gpt/model/moe.py, a page; `MLP` in gpt/model/gpt2.py is an expert
# - break: `python scripts/break.py collapsed_router`. Expect: two of eight experts get all tokens, and the loss is only
#   a little higher.
# - try: `use_experts(model, 8, 4)`, where half of the experts compute. Expect: narrower experts, the same work.
# - lesson: `python scripts/lesson.py 455`
