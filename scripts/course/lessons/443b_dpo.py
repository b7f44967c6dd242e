"""Lesson 4.4.3b: DPO, or preferences without a reward model

PPO (lesson 443) needs three networks and new replies in every round. Direct preference optimization (DPO) learns from
the same pairs of a better and a worse reply, in the training loop of instruction tuning. This lesson derives its loss,
looks at what its gradient does to both replies, and compares it with imitating the better replies only.
Rafailov et al. 2023 (DPO); Pang et al. 2024 (DPO with a term for imitation).
"""

import copy
import math
from functools import partial
from typing import Any

import numpy as np

import minigrad.functional as F
from finetune.data.chat_template import ChatTemplate
from finetune.data.pairs import PairBatch, encode_pairs, pair_batch
from finetune.evaluation.answering import ask, chat_template
from finetune.evaluation.judge import kl_of_replies
from finetune.objectives.dpo import dpo_batch_loss, dpo_loss, with_reference
from finetune.objectives.logprobs import sequence_logprobs
from minigrad import Tensor, optim
from scripts.course.lessons.honest_replies import BLOCK, behavior, fit, imitator, preferences, question, show
from scripts.course.pictures import Lesson

lesson = Lesson("443b_dpo", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% The best policy for a reward can be written down
# What PPO looks for is a policy π with a high mean reward r that stays close to the reference ρ:
#
#     maximize  mean(r) - β KL(π || ρ) = Σ π (r - β ln π + β ln ρ)        sums over all replies to a prompt
#
# Its best policy is known:
#
#     π* = ρ e^(r/β) / Z            Z = Σ ρ e^(r/β), so that π* sums to 1
#
# Proof: r + β ln ρ = β ln(ρ e^(r/β)) = β ln(Z π*). So the sum is
#
#     Σ π (β ln(Z π*) - β ln π) = β ln Z - β Σ π (ln π - ln π*) = β ln Z - β KL(π || π*)
#
# The first term does not depend on π, and a KL divergence is smallest, 0, for equal distributions.
#
# Take the three replies of lesson 443, honest, flattering and rude, with rewards 1, -1 and 0.
#
# Predict: what is the best policy for a very large β, and what for a very small one?
rho, reward = np.array([0.2, 0.6, 0.2]), np.array([1.0, -1.0, 0.0])


# %%
def best_policy(beta: float) -> np.ndarray:
    weighted = rho * np.exp(reward / beta)
    return weighted / weighted.sum()


def objective(policy: np.ndarray, beta: float) -> np.ndarray:
    return (policy * (reward - beta * np.log(policy / rho))).sum(axis=-1)


others = rng.dirichlet(np.ones(3), size=10_000)  # random policies, to compare with
for beta in (100.0, 1.0, 0.2):
    best = best_policy(beta)
    reached = f"the best of 10,000 others {objective(others, beta).max():.3f}, the reference {objective(rho, beta):.3f}"
    print(f"beta {beta:5}: {best} reaches {objective(best, beta):.3f}, {reached}")
    assert objective(best, beta) >= objective(others, beta).max()

# %% [markdown]
# Answer: for a large β it is the reference, for a small one it writes only the reply with the highest reward. β is the
# strength of the penalty for moving away from the reference model.
#
# ## From the best policy to a loss
#
# For a language model nobody can compute Z, a sum over all possible replies. It is not needed. The logarithm of the
# formula for π*, solved for the reward, is
#
#     r = β (ln π* - ln ρ) + β ln Z
#
# So every policy is the best one for *some* reward: a policy contains a reward model. In lesson 443 the chosen reply
# won with probability σ(r_chosen - r_rejected). Z is the same for both replies, because their prompt is, so it cancels
# in the difference. What is left is DPO's loss:
#
#     h = (ln π(chosen) - ln ρ(chosen)) - (ln π(rejected) - ln ρ(rejected))
#     loss = -ln σ(β h)

# %%
for beta in (1.0, 0.2):
    implied = beta * np.log(best_policy(beta) / rho)
    print(f"beta {beta}: beta ln(π*/ρ) {implied}; differences {np.diff(implied)}, of the rewards {np.diff(reward)}")
    assert np.allclose(np.diff(implied), np.diff(reward))

# %% [markdown]
# Does the loss find the best policy? Judges compare each two of the three replies, and the better one wins with
# probability σ(r_better - r_worse). DPO sees only who wins how often, never the rewards.


# %%
def learned(beta: float) -> np.ndarray:
    """The policy that minimizes DPO's mean loss over all comparisons of the three replies."""
    logits = Tensor(np.log(rho), requires_grad=True)
    optimizer = optim.Adam([logits], lr=0.05)
    i, j = np.nonzero(~np.eye(3, dtype=bool))  # each pair, in both orders
    wins = 1 / (1 + np.exp(reward[j] - reward[i]))  # how often i wins against j
    reference = Tensor(np.log(rho))
    for _ in range(800):
        logp = F.log_softmax(logits, -1)
        loss = (dpo_loss(logp[i], logp[j], reference[i], reference[j], beta) * Tensor(wins)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return F.softmax(logits, -1).data


for beta in (1.0, 0.4):
    found, best = learned(beta), best_policy(beta)
    print(f"beta {beta}: reference {rho}, best policy {best}, learned by DPO {found}")
    assert np.abs(found - best).max() < 0.01 < np.abs(rho - best).max()

# %% [markdown]
# It does, without a reward model and without a single reply being generated.
#
# ## What the gradient does to the two replies
#
# Predict: before training, policy and reference are equal. What is the loss, and what are its derivatives by
# ln π(chosen) and ln π(rejected), with β = 0.1?


# %%
def gradients(chosen: float, rejected: float, beta: float = 0.1) -> tuple[float, float, float]:
    """The loss, and its derivatives by the two log-probabilities; both are -5 under the reference."""
    logps = [Tensor([x], requires_grad=True) for x in (chosen, rejected)]
    loss = dpo_loss(*logps, Tensor([-5.0]), Tensor([-5.0]), beta)
    loss.sum().backward()
    return loss.item(), logps[0].grad.item(), logps[1].grad.item()


cases = {"before training": (-5.0, -5.0), "chosen up, rejected down": (-4.0, -9.0)}
cases |= {"far apart": (-4.0, -65.0), "both down": (-7.0, -30.0)}
for name, (chosen, rejected) in cases.items():
    loss, up, down = gradients(chosen, rejected)
    h = chosen - rejected  # the reference's -5 cancels here
    assert np.isclose(up, -0.1 / (1 + math.exp(0.1 * h)), atol=1e-6) and np.isclose(down, -up)
    print(f"{name:26} ln π {chosen:3.0f} and {rejected:3.0f}: loss {loss:.3f}, gradient {up:+.4f} and {down:+.4f}")
assert gradients(-7.0, -30.0)[0] < gradients(-4.0, -9.0)[0] < math.log(2)

# %% [markdown]
# Answer: ln 2, as for a coin, and -β/2 = -0.05 and +0.05. In general the derivatives are
#
#     by ln π(chosen)    -β σ(-β h)          gradient descent makes the chosen reply more likely,
#     by ln π(rejected)  +β σ(-β h)          and the rejected one less likely, with equal strength
#
# σ(-β h) is how wrong the policy still is about this pair. It fades once h is a few times 1/β, so a large β stops
# early. So the loss does say what to write, the chosen reply, and it does say "not this".
#
# But it sees only the difference. In the last row *both* replies have become less likely than under the reference, and
# the loss is lower than in the second row. Where the probability goes that the two have lost, the loss does not say.

# %% DPO in the familiar loop
# The model and the pairs are those of lesson 443. The reference never changes, so its log-probabilities are computed
# once. The control imitates the chosen replies only: loss = -ln π(chosen), with the same steps.
sft, tokenizer, seen, held_out = imitator(lesson.seed)
pairs = with_reference(sft, encode_pairs(preferences(seen), ChatTemplate(tokenizer), BLOCK)[0])
prompts = [chat_template(tokenizer)(question(*claim)) for claim in held_out]
before = behavior(sft, tokenizer, held_out, lesson.seed)


def mixed_loss(model: Any, batch: PairBatch, beta: float, dpo: float, imitate: float) -> tuple[Tensor, int, dict]:
    """dpo times the loss of DPO plus `imitate` times -ln π(chosen)."""
    total, count, metrics = dpo_batch_loss(model, batch, beta)
    ids, targets = (array[: batch.size] for array in batch.shifted())
    if imitate:
        total = dpo * total - imitate * sequence_logprobs(model, ids, targets).sum()
    return total, count, metrics


def prefer(rate: float, beta: float = 0.1, dpo: float = 1, imitate: float = 0) -> dict[str, float]:
    """What 40 steps made of the replies to unseen claims; first and last loss and the last ln π of training pairs."""
    policy = copy.deepcopy(sft)
    loss = partial(mixed_loss, beta=beta, dpo=dpo, imitate=imitate)
    steps = fit(policy, pairs, pair_batch, loss, 40, rate, lesson.seed)
    replies = ask(policy, tokenizer, [question(*c) for c in held_out], chat_template(tokenizer), 16, temperature=1.0)
    found = {
        "first loss": steps[0].loss,
        "KL": kl_of_replies(policy, sft, prompts, [reply.ids for reply in replies]),
        "last loss": np.mean([step.loss for step in steps[-5:]]),
        **{name: np.mean([step.metrics[f"logps/{name}"] for step in steps[-5:]]) for name in ("chosen", "rejected")},
    }
    return {**behavior(policy, tokenizer, held_out, lesson.seed), **found}


# %% [markdown]
# Predict: three learning rates, 40 steps each. The largest gives the lowest loss. Does it give the best replies?

# %%
runs = {f"DPO, rate {rate:g}": prefer(rate) for rate in (5e-5, 1e-4, 3e-4)}
runs["chosen replies only, 3e-4"] = prefer(3e-4, dpo=0, imitate=1)
show({"SFT": before, **runs})
slow, middle, fast, imitated = runs.values()
assert np.allclose([run["first loss"] for run in (slow, middle, fast)], math.log(2), atol=1e-3)
assert before["flattering"] > middle["flattering"]
assert fast["last loss"] < middle["last loss"] < slow["last loss"] and fast["KL"] > middle["KL"] > slow["KL"]
assert fast["other"] > middle["other"] + 0.05 and fast["flattering"] < 0.05
assert imitated["other"] < fast["other"] and imitated["honest"] > fast["honest"] + 0.1
assert before["honest"] < slow["honest"] and fast["rejected"] < 3 * slow["rejected"]

# %% [markdown]
# Answer: no. Each run begins at ln 2, where the policy is the reference. At the smallest rate more replies are honest
# than before, and at the middle rate fewer flatter. At the largest rate flattery is gone and the loss is lowest, but
# many more replies than before are none of the three kinds: with most seeds so many that fewer are honest than at the
# smallest rate, and with each seed fewer than where the chosen replies are imitated at the same rate. The last column,
# "rejected", shows why: the loss falls because the rejected replies become ever less likely, far beyond the point where
# they are never written. The probability that they lose need not go to the chosen reply, which may even become less
# likely itself. DPO has no reward model to fool, but its loss says nothing about all other replies.
#
# Imitating the chosen replies is a strong control. It keeps to replies that were written, but says nothing against the
# rejected ones. It works here because each chosen reply is exactly what we want. Where the better of two replies is
# only less bad, imitating it is not enough.

# %% Two remedies: a larger β, or imitation beside the preference
# With a large β the gradient fades as soon as h is a few times 1/β. And -ln π(chosen), added to the loss, says where
# the probability should go (Pang et al. 2024).
#
# Predict: which of the two gives more honest replies, at the rate that was too large?

# %%
remedies = {"β = 5": prefer(3e-4, beta=5.0), "β = 0.1, and imitation": prefer(3e-4, imitate=1)}
show({"SFT": before, "β = 0.1": fast, **remedies, "imitation only": imitated})
larger, both = remedies.values()
assert larger["KL"] < fast["KL"] and larger["rejected"] > fast["rejected"] and larger["other"] <= fast["other"]
assert both["honest"] > max(fast["honest"], larger["honest"]) and both["other"] < fast["other"]

# %% [markdown]
# Answer: imitation beside the preference. The large β keeps the policy nearer to the reference; that is what β is for.
# Compare the last two rows: in this task, the preference adds little to imitation alone.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start dpo`
# - line by line: `python scripts/step.py --html dpo`
# - read: finetune/objectives/dpo.py: a page, with the derivation; then scripts/dpo.py
# - try: `python scripts/lesson.py 443b --seed 1`. Expect: other shares, and the same conclusions.
# - break: in `preferences` swap replies[better] and replies[kind]. Expect: the loss begins at ln 2 and falls as before,
#   honest replies vanish, and the assertion on them fails.
# - lesson: `python scripts/lesson.py 444`
