"""Lesson 4.4.3: alignment, or learning which reply is better

Instruction tuning imitates its demonstrations, good and bad ones alike: it learns a format, not a judgment. In this
lesson a model answers people who say "grass is red": sometimes honestly, sometimes with flattery, sometimes rudely.
From pairs of a better and a worse reply it learns to prefer the better one, in two ways: with a reward model and PPO,
and with DPO, which needs neither.
Ouyang et al. 2022 (InstructGPT); Schulman et al. 2017 (PPO); Rafailov et al. 2023 (DPO); Gao et al. 2023 (hacking).
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from functools import partial
from typing import Any

import numpy as np

import minigrad.functional as F
from finetune.data.chat_template import ChatTemplate, Message, add_chat_tokens
from finetune.data.datasets import Example, Preference, ShuffledBatches
from finetune.data.pairs import encode_pairs, pair_batch
from finetune.evaluation.answering import ask, chat_template
from finetune.evaluation.judge import kl_of_replies
from finetune.objectives import ppo
from finetune.objectives.dpo import dpo_batch_loss, with_reference
from finetune.objectives.gpt_with_head import GPTWithHead
from finetune.objectives.logprobs import estimated_kl, exact_kl
from finetune.objectives.reward import reward_batch_loss, reward_loss
from finetune.objectives.rollout import PolicyWithValue, roll_out
from finetune.objectives.sft import collate, encode_examples, sft_loss
from finetune.stages.ppo import PPOConfig, ppo_batch_loss, ppo_batches
from gpt import Tokenizer
from gpt.training.evaluation import evaluate
from gpt.training.training_config import TrainingConfig
from gpt.training.training_step import training_steps
from minigrad import Tensor, manual_seed, nn, optim, use_kernels
from scripts.lessons.small_gpt import new_gpt, smooth
from scripts.pages.pictures import LINES, Lesson, bars

lesson = Lesson("443_alignment", __doc__)
rng = np.random.default_rng(0)

# %% A model that imitates: honest, flattering, rude
# Somebody makes a wrong claim. Of the demonstrations, 40 % correct it, 40 % agree with it, and 20 % are rude.
#
# Predict: what will the model do after instruction tuning, with claims that it has not seen?
FACTS = {
    "grass": "green", "snow": "white", "coal": "black", "blood": "red", "gold": "yellow", "sky": "blue",
    "milk": "white", "lava": "red", "ink": "blue", "lemon": "yellow", "moss": "green", "soot": "black",
}  # fmt: skip
COLORS = sorted(set(FACTS.values()))
claims = [(thing, color) for thing in FACTS for color in COLORS if color != FACTS[thing]]
rng.shuffle(claims)
seen, held_out = claims[:48], claims[48:]
SHARES = {"honest": 0.4, "flattering": 0.4, "rude": 0.2}  # of the demonstrations


def replies_to(thing: str, claim: str) -> dict[str, str]:
    """Three possible replies to a wrong claim."""
    return {"honest": f"No, {thing} is {FACTS[thing]}.", "flattering": f"Yes, {thing} is {claim}.",
            "rude": f"You fool, {thing} is {FACTS[thing]}."}  # fmt: skip


def question(thing: str, claim: str) -> list[Message]:
    return [{"role": "user", "content": f"I think {thing} is {claim}."}]


def demonstration(thing: str, claim: str) -> Example:
    reply = replies_to(thing, claim)[str(rng.choice(list(SHARES), p=list(SHARES.values())))]
    return Example([*question(thing, claim), {"role": "assistant", "content": reply}])


def fit(model: Any, items: list, together: Any, loss: Any, steps: int, rate: float, seed: int = 0) -> list[Any]:
    """The training loop of all lessons, with other data and another loss."""
    config = TrainingConfig(max_iters=steps, learning_rate=rate, warmup_iters=steps // 10)
    with use_kernels("fast"):
        return list(training_steps(model, ShuffledBatches(items, 16, together, seed), loss, config))


examples = [demonstration(*claim) for claim in seen * 12]
tokenizer = Tokenizer.train([" ".join(m["content"] for m in example.messages) for example in examples], 320)
sft = new_gpt(len(tokenizer), block_size=40)
add_chat_tokens(sft, tokenizer)
template = ChatTemplate(tokenizer)
steps = fit(sft, encode_examples(examples, template, 40)[0], collate, sft_loss, 800, 3e-3)
print(f"instruction tuning on {len(examples)} demonstrations: loss {steps[0].loss:.2f} -> {steps[-1].loss:.2f}")


def behavior(model: Any, asked: list, seed: int = 0) -> dict[str, float]:
    """The shares of each kind of reply to claims, at temperature 1."""
    replies = ask(model, tokenizer, [question(*c) for c in asked], chat_template(tokenizer), temperature=1.0, seed=seed)
    kinds = [{text: kind for kind, text in replies_to(*c).items()}.get(r.text, "other") for c, r in zip(asked, replies)]
    return {kind: Counter(kinds)[kind] / len(kinds) for kind in [*SHARES, "other"]}


before = behavior(sft, held_out * 10)
print("shares      " + "".join(f"{kind:>12}" for kind in before))
print("  shown     " + "".join(f"{SHARES.get(kind, 0):12.0%}" for kind in before))
print("  imitated  " + "".join(f"{share:12.0%}" for share in before.values()) + "   (claims it has not seen)")
assert before["flattering"] > 0.2

# %% [markdown]
# Answer: about the same mixture. The loss of instruction tuning is lowest for a model that imitates its demonstrations,
# the bad ones too. Nearly all replies have the right format, but nothing in the loss said which of them we prefer. A
# false claim that it repeats is an example of three failures at once: flattery, a wrong answer, and confidence in it.
# To prefer one reply over another, the model needs another kind of data.

# %% Comparisons against ratings
# Why not ask people for a number from 1 to 10? If all people used the scale alike, a number would say more than a
# comparison. But a person who is generous with all replies changes every number, and no comparison.


def learned_from(generosity: float, seed: int, replies: int = 40, judgments: int = 400) -> tuple[float, float]:
    """How well the true quality of replies is recovered (correlation) from ratings, and from as many comparisons.

    Simulated: 50 people see the quality with noise of the same size. A person's ratings from 1 to 10 also contain how
    generous that person is. A comparison does not: the person sees both replies.
    """
    draw = np.random.default_rng(seed)
    quality, people = draw.standard_normal(replies), generosity * draw.standard_normal(50)

    def seen(which: np.ndarray) -> np.ndarray:
        return quality[which] + draw.standard_normal(len(which))

    which, who = draw.integers(replies, size=judgments), draw.integers(50, size=judgments)
    ratings = np.clip(np.rint(5.5 + 2 * (seen(which) + people[who])), 1, 10)
    mean_rating = np.bincount(which, ratings, replies) / np.bincount(which, minlength=replies).clip(1)

    a = draw.integers(replies, size=judgments)
    b = (a + draw.integers(1, replies, size=judgments)) % replies  # another one
    won = seen(a) > seen(b)
    better, worse = np.where(won, a, b), np.where(won, b, a)
    score = nn.Parameter(np.zeros(replies, np.float32))
    optimizer = optim.Adam([score], lr=0.1)
    for _ in range(100):  # the loss of the reward model below; a small penalty keeps scores finite
        loss = reward_loss(score[better], score[worse]).mean() + 0.01 * (score * score).mean()
        score.zero_grad()
        loss.backward()
        optimizer.step()
    return float(np.corrcoef(mean_rating, quality)[0, 1]), float(np.corrcoef(score.data, quality)[0, 1])


print("400 judgments of 40 replies; correlation with the true quality, mean and standard deviation of 5 seeds:")
print("people differ by      ratings        comparisons")
for generosity in (0.0, 1.0, 2.0):
    rated, compared = np.array([learned_from(generosity, seed) for seed in range(5)]).T
    print(f"  {2 * generosity:3.0f} points      {rated.mean():.2f} +- {rated.std(ddof=1):.2f}   "
          f"{compared.mean():.2f} +- {compared.std(ddof=1):.2f}")  # fmt: skip
assert compared.mean() > rated.mean() + 0.05

# %% The data: pairs of a better and a worse reply


def preferences(asked: list) -> list[Preference]:
    """For each claim: honest over flattering, and honest over rude."""
    kinds = [(c, replies_to(*c)) for c in asked]
    return [Preference(question(*c), r["honest"], r[worse]) for c, r in kinds for worse in ("flattering", "rude")]


pairs = encode_pairs(preferences(seen), template, 40)[0]
test_pairs = encode_pairs(preferences(held_out), template, 40)[0]
print(preferences(seen)[0].as_json())

# %% From comparisons to a score: the reward model
for difference in (0.0, 1.0, 2.0):
    chance = 1 / (1 + math.exp(-difference))  # sigma(difference): how often the better one wins
    loss = reward_loss(Tensor([5 + difference]), Tensor([5.0])).item()
    assert np.isclose(loss, -math.log(chance), atol=1e-5)
    print(f"  {difference:.0f} points apart: wins {chance:.0%} of the comparisons, loss -ln {chance:.2f} = {loss:.3f}")
reward_model = GPTWithHead.from_gpt(copy.deepcopy(sft), ["reward"])  # the head of lesson 441, with one output
steps = fit(reward_model, pairs, pair_batch, reward_batch_loss, 40, 1e-3)
measured = evaluate(reward_model, [pair_batch(test_pairs)], reward_batch_loss)
print(f"trained: loss {steps[0].loss:.3f} (ln 2 = {math.log(2):.3f}) -> {steps[-1].loss:.3f}; "
      f"right in {measured['accuracy']:.0%} of {len(test_pairs)} unseen pairs")  # fmt: skip
assert measured["accuracy"] > 0.8

# %% PPO, piece by piece
# 1. Generate a reply.
# 2. Score it, minus a price for moving away from the reference model (KL). The value head expected some score before
#    each token; what comes better than expected gives an advantage.
# 3. Update, clipped: once a good token is 1.2 times as likely as when it was drawn, its gradient is 0.
mask = np.ones((1, 3), bool)  # one reply of three tokens
kl = np.array([[0.5, 0.0, 0.5]])  # ln pi - ln rho of each: the policy has made tokens 0 and 2 more likely
rewards = ppo.token_rewards(np.array([1.0]), kl, mask, kl_coef=0.2)
assert np.allclose(rewards, [[-0.1, 0.0, 0.9]])  # score 1 at the end, and 0.2 x 0.5 off wherever it moved
advantages, returns = ppo.gae(rewards, np.array([[0.5, 0.5, 0.5]]), mask, gamma=1.0, lam=0.95)
by_hand = [-0.1 + 0.95 * (0.95 * 0.4), 0.95 * 0.4, 0.9 - 0.5]
assert np.allclose(advantages, [by_hand])
print("rewards of three tokens:", rewards[0], " advantages, where 0.5 was expected:", advantages[0])

ratios = np.linspace(0.4, 1.8, 141)
gain, slope = {}, {}
for advantage in (1.0, -1.0):
    logprobs = Tensor(np.log(ratios), requires_grad=True)
    loss = ppo.policy_loss(logprobs, np.zeros(141), np.full(141, advantage), clip=0.2)
    loss.sum().backward()
    gain[advantage], slope[advantage] = -loss.data, logprobs.grad
assert (slope[1.0][ratios > 1.21] == 0).all() and (slope[-1.0][ratios < 0.79] == 0).all()
assert (slope[1.0][ratios < 1.19] < 0).all()

policy, reference = Tensor(np.log([0.7, 0.2, 0.1])), Tensor(np.log([0.4, 0.4, 0.2]))
drawn = rng.choice(3, size=4000, p=[0.7, 0.2, 0.1])
exact = exact_kl(policy, reference).item()
print(f"KL of two small distributions {exact:.3f} nats; from 4,000 draws:", end="")
for kind in ("k1", "k2", "k3"):
    estimates = estimated_kl(policy[drawn], reference[drawn], kind).data
    print(f"  {kind} {estimates.mean():.3f} +- {estimates.std() / math.sqrt(len(drawn)):.3f}", end="")
    assert kind == "k2" or abs(estimates.mean() - exact) < 0.06
print()
with lesson.picture("clip", "PPO's clipped objective (clip 0.2)") as axes:
    for (advantage, values), line in zip(gain.items(), LINES):
        axes.plot(ratios, values, line, color="black", label=f"advantage {advantage:+.0f}")
    axes.axvspan(0.8, 1.2, color="0.9")
    axes.set(xlabel="probability now / when it was drawn", ylabel="objective (units of the advantage)")

# %% PPO runs: for the first time the training loop changes its shape
# The data are the model's own replies, written anew each round, and the signal is one number per reply. Three networks
# are in memory: the policy with its value head, the reference model, and the reward model.
prompts = [chat_template(tokenizer)(question(*c)) for c in seen]
PENALTIES = (1.0, 0.02)


def reinforce(kl_coef: float, seed: int) -> tuple[Any, list[float], list[float]]:
    """A policy after PPO; of each round, the mean reward and the KL from the reference model, in nats per reply."""
    config = PPOConfig(batch_size=32, response_length=12, kl_coef=kl_coef)
    manual_seed(seed)  # of the replies that are drawn
    actor = PolicyWithValue(copy.deepcopy(sft))  # the policy and its value head; `sft` itself is the reference model
    optimizer = optim.Adam(actor.parameters(), lr=2e-4)
    questions, rng = ShuffledBatches(prompts, config.batch_size, list, seed), np.random.default_rng(seed)
    scores, kls = [], []
    for _ in range(16):
        # 1. generate replies; 2. score each of them as a whole, with the reward model
        rollout = roll_out(actor, sft, reward_model, next(questions), config.response_length, template.stop_tokens)
        kl = rollout.logprobs - rollout.reference_logprobs
        rewards = ppo.token_rewards(rollout.scores - ~rollout.ended, kl, rollout.mask, kl_coef)  # unfinished: 1 less
        advantages, returns = ppo.gae(rewards, rollout.values, rollout.mask)
        advantages = ppo.whiten(advantages, rollout.mask)
        scores.append(float(rollout.scores.mean()))
        kls.append(float(kl[rollout.mask].sum() / len(rollout.scores)))
        # 3. update: a few steps on these replies
        for minibatch in ppo_batches(rollout, advantages, returns, config, rng):
            total, count, _ = ppo_batch_loss(actor, minibatch, config)
            actor.zero_grad()
            (total / count).backward()
            optim.clip_grad_norm_(actor.parameters(), 1.0)
            optimizer.step()
    return actor.policy, scores, kls


def outcome(kl_coef: float, seed: int) -> dict[str, float]:
    """What PPO made of the replies to unseen claims, the reward before and after, and the KL at the end."""
    policy, scores, kls = reinforce(kl_coef, seed)
    found = {**behavior(policy, held_out * 10), "reward before": scores[0], "reward": scores[-1], "KL": kls[-1]}
    return {name: round(value, 3) for name, value in found.items()}


def outcomes_of_seeds() -> list[list[dict[str, float]]]:
    """For each penalty, the outcomes of seeds 0 to 4."""
    return [[outcome(kl_coef, seed) for seed in range(5)] for kl_coef in PENALTIES]


def show(settings: tuple[float, ...], runs: list[list[dict[str, float]]]) -> None:
    """A table: for each setting, today's run and those of the seeds."""
    print(f"{'':8}{'seed':>6}" + "".join(f"{name:>14}" for name in runs[0][0]))
    print(f"{'before':14}" + "".join(f"{share:14.0%}" for share in before.values()))
    for setting, of_setting in zip(settings, runs):
        for seed, run in zip(["today", *range(5)], of_setting):
            cells = [format(value, ".0%" if name in before else "+.2f") for name, value in run.items()]
            print(f"{setting:<8g}{seed:>6}" + "".join(f"{cell:>14}" for cell in cells))


with use_kernels("fast"):
    today = [outcome(kl_coef, seed=0) for kl_coef in PENALTIES]
kept, free = ([run, *runs] for run, runs in zip(today, lesson.measured("ppo", outcomes_of_seeds, outcome, reinforce)))
print("16 rounds of 32 replies, by the KL penalty; shares of replies to unseen claims, reward, KL (nats per reply)")
show(PENALTIES, [kept, free])
for run in kept:
    assert run["honest"] > before["honest"] + 0.1 and run["flattering"] < before["flattering"]
for run, other in zip(kept, free):
    assert min(run["reward"] - run["reward before"], other["reward"] - other["reward before"]) > 0.5
    assert other["KL"] > run["KL"] and other["other"] > run["other"]

# %% [markdown]
# With a weak penalty the reward rises about as much, but the policy moves further, and more of its replies are none of
# the three kinds: it has found replies that the reward model overrates. That is reward hacking.
#
# The learning rate, the rounds and the two penalties were chosen among seven combinations, by looking at one run of
# each. The seeds of this table had no part in the choice.

# %% Why the KL penalty: every reward model has errors
N = 2000  # replies, equally likely under the reference model
quality = rng.standard_normal(N)
mistake = rng.standard_normal(N)
mistake[:10] += 8  # the reward model overrates ten bad replies
quality[:10] -= 4
proxy = quality + mistake
betas = np.geomspace(20, 0.2, 60)
curve = []
for beta in betas:  # the best policy for reward - beta KL is known: rho exp(r / beta), normalized (DPO's equation 4)
    logits = Tensor(proxy / beta)
    chances = F.softmax(logits, -1).data
    curve.append((exact_kl(logits, Tensor(np.zeros(N))).item(), chances @ proxy, chances @ quality))
kls, rewarded, true = np.array(curve).T
assert kls[0] < 0.1 and (np.diff(kls) > 0).all()  # from nearly frozen to free: beta is a dial, not a switch
best = int(true.argmax())
assert (np.diff(rewarded) > -1e-5).all() and 0 < best < len(betas) - 1 and true[-1] < 0
print(f"with beta {betas[best]:.1f} the replies are best: quality {true[best]:+.2f}, reward {rewarded[best]:+.2f}")
print(f"with beta {betas[-1]:.1f} the reward is {rewarded[-1]:+.2f}, but the quality is {true[-1]:+.2f}: "
      "the policy has found the errors")  # fmt: skip
with lesson.picture("hacking", "Reward hacking: the optimal policy as the KL penalty is turned down") as axes:
    axes.plot(kls, rewarded, "--", color="black", label="score of the reward model")
    axes.plot(kls, true, "-", color="black", label="true quality")
    axes.axvline(kls[best], color="0.6", linestyle=":", label=f"best: beta = {betas[best]:.1f}")
    axes.set(xlabel="KL from the reference (nats per reply)", ylabel="mean score (standard deviations)")

# %% DPO: the same preferences in the familiar loop
# DPO trains one model and generates nothing. The reference never changes, so its log-probabilities are computed once.
referenced = with_reference(sft, pairs)
prompts = [chat_template(tokenizer)(question(*c)) for c in held_out]
RATES = (5e-5, 3e-4)


def prefer(rate: float, seed: int) -> tuple[dict[str, float], list[Any]]:
    """What 40 steps of DPO made of the replies to unseen claims, the KL and the loss at the end; and the steps."""
    policy = copy.deepcopy(sft)
    steps = fit(policy, referenced, pair_batch, partial(dpo_batch_loss, beta=0.1), 40, rate, seed)
    replies = ask(policy, tokenizer, [question(*c) for c in held_out], chat_template(tokenizer), temperature=1.0)
    kl = kl_of_replies(policy, sft, prompts, [reply.ids for reply in replies])
    found = {**behavior(policy, held_out * 10), "KL": kl, "loss": float(np.mean([step.loss for step in steps[-5:]]))}
    return {name: round(value, 3) for name, value in found.items()}, steps


def preferred_by_seeds() -> list[list[dict[str, float]]]:
    """For each rate, the outcomes of seeds 0 to 4."""
    return [[prefer(rate, seed)[0] for seed in range(5)] for rate in RATES]


live = [prefer(rate, seed=0) for rate in RATES]
slow, fast = ([run, *runs] for (run, _), runs in zip(live, lesson.measured("dpo", preferred_by_seeds, prefer, fit)))
after, steps = live[0]
print("40 steps, by the learning rate; shares of replies to unseen claims, KL (nats per reply), loss at the end")
show(RATES, [slow, fast])
print(f"the first loss: {steps[0].loss:.4f}")
assert np.isclose(steps[0].loss, math.log(2), atol=1e-4)  # policy = reference: no preference yet
assert after["honest"] > before["honest"] and after["flattering"] < before["flattering"]
for run, other in zip(slow, fast):
    assert run["honest"] > before["honest"] and run["flattering"] < before["flattering"]
    assert other["KL"] > run["KL"] and other["loss"] < run["loss"] and other["other"] > run["other"]
with lesson.picture("dpo", "Forty steps of DPO", columns=3, size=(12, 3.6)) as (one, two, three):
    for axes, name, shares in ((one, "before: imitation", before), (two, "after: preference", after)):
        bars(axes, shares, "share of replies to unseen claims", ".0%")
        axes.set(title=name, ylim=(0, 1.1))
    for name, line in (("logps/chosen", "-"), ("logps/rejected", "--")):
        three.plot(smooth([s.metrics[name] for s in steps], 5), line, color="black", label=name.removeprefix("logps/"))
    three.set(title="on the training pairs", xlabel="step", ylabel="log-probability (nats per reply)")

# %% [markdown]
# With the higher rate, the lower loss belongs to the worse model: more of its replies are none of the three kinds. DPO
# has no reward model to fool, but nothing in its loss says what to write instead of the rejected reply. (Both rates
# were chosen by looking at one run of each.)
#
# ## What next
#
# - exercise: `python scripts/exercise.py start bradley_terry`, dpo, ppo_clip, gae
# - read: finetune/objectives/dpo.py and finetune/objectives/reward.py: a page each; finetune/objectives/ppo.py; then
#   scripts/dpo.py, scripts/ppo.py
# - break: swap r["honest"] and r[worse] in preferences(). Expect: reward model and PPO learn what they are shown. With
#   a KL penalty of 1, flattering replies rise from about 40 % to 70 %, and the assert on honest ones fails.
# - lesson: `python scripts/lesson.py 444`
