"""Lesson 4.4.3: alignment, or teaching what is better, not only what is said

Instruction tuning imitates its demonstrations, the good and the bad ones alike: it knows a format, not a quality. This
lesson's model answers people who say "grass is red": sometimes honestly, sometimes as they would like to hear it,
sometimes rudely. From pairs of a better and a worse reply it learns to prefer, in the two ways there are: a reward
model and PPO, whose pieces are worked out on small numbers, and DPO, which needs neither and is trained here.
Ouyang et al. 2022 (InstructGPT); Schulman et al. 2017 (PPO); Rafailov et al. 2023 (DPO); Gao et al. 2023 (hacking).
"""

from __future__ import annotations

import copy
import math
from collections import Counter
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
from finetune.objectives.sft import collate, encode_examples, sft_loss
from gpt import Tokenizer
from gpt.training.evaluation import evaluate
from gpt.training.trainer import Trainer, TrainingConfig
from minigrad import Tensor, use_kernels
from scripts.lessons.pictures import LINES, Lesson, bars
from scripts.lessons.small_gpt import new_gpt, smooth

lesson = Lesson("443_alignment", __doc__)
rng = np.random.default_rng(0)

# %% The alignment problem
FACTS = {
    "grass": "green", "snow": "white", "coal": "black", "blood": "red", "gold": "yellow", "sky": "blue",
    "milk": "white", "lava": "red", "ink": "blue", "lemon": "yellow", "moss": "green", "soot": "black",
}  # fmt: skip
COLOURS = sorted(set(FACTS.values()))
claims = [(thing, colour) for thing in FACTS for colour in COLOURS if colour != FACTS[thing]]
rng.shuffle(claims)
seen, held_out = claims[:48], claims[48:]
SHARES = {"honest": 0.4, "flattering": 0.4, "rude": 0.2}  # of the demonstrations


def replies_to(thing: str, claim: str) -> dict[str, str]:
    """What one could answer to somebody who is wrong."""
    return {"honest": f"No, {thing} is {FACTS[thing]}.", "flattering": f"Yes, {thing} is {claim}.",
            "rude": f"You fool, {thing} is {FACTS[thing]}."}  # fmt: skip


def question(thing: str, claim: str) -> list[Message]:
    return [{"role": "user", "content": f"I think {thing} is {claim}."}]


def demonstration(thing: str, claim: str) -> Example:
    reply = replies_to(thing, claim)[str(rng.choice(list(SHARES), p=list(SHARES.values())))]
    return Example([*question(thing, claim), {"role": "assistant", "content": reply}])


def fit(model: Any, items: list, together: Any, loss: Any, steps: int, rate: float) -> list[Any]:
    """The loop of every lesson; what changes is the data and the loss."""
    config = TrainingConfig(max_iters=steps, learning_rate=rate, warmup_iters=steps // 10)
    trainer = Trainer(model, ShuffledBatches(items, 16, together), config, "runs/lessons", loss)
    model.train()
    with use_kernels("fast"):
        done = [trainer.step() for _ in range(steps)]
    model.eval()
    return done


examples = [demonstration(*claim) for claim in seen * 12]
tokenizer = Tokenizer.train([" ".join(m["content"] for m in example.messages) for example in examples], 320)
sft = new_gpt(len(tokenizer), block_size=40)
add_chat_tokens(sft, tokenizer)
template = ChatTemplate(tokenizer)
steps = fit(sft, encode_examples(examples, template, 40)[0], collate, sft_loss, 800, 3e-3)
print(f"instruction tuning on {len(examples)} demonstrations: loss {steps[0].loss:.2f} -> {steps[-1].loss:.2f}")


def behaviour(model: Any, asked: list, seed: int = 0) -> dict[str, float]:
    """The shares of each kind of reply to claims, at temperature 1."""
    replies = ask(model, tokenizer, [question(*c) for c in asked], chat_template(tokenizer), temperature=1.0, seed=seed)
    kinds = [{text: kind for kind, text in replies_to(*c).items()}.get(r.text, "other") for c, r in zip(asked, replies)]
    return {kind: Counter(kinds)[kind] / len(kinds) for kind in [*SHARES, "other"]}


before = behaviour(sft, held_out * 10)
print("shares      " + "".join(f"{kind:>12}" for kind in before))
print("  shown     " + "".join(f"{SHARES.get(kind, 0):12.0%}" for kind in before))
print("  imitated  " + "".join(f"{share:12.0%}" for share in before.values()) + "   (claims it has not seen)")
assert before["flattering"] > 0.2
print("all of it is fluent and in the right format. No token of the loss said which of them we would rather have.")

# %% Preferences

def preferences(asked: list) -> list[Preference]:
    """For each claim: honest over flattering, and honest over rude."""
    kinds = [(c, replies_to(*c)) for c in asked]
    return [Preference(question(*c), r["honest"], r[worse]) for c, r in kinds for worse in ("flattering", "rude")]


pairs = encode_pairs(preferences(seen), template, 40)[0]
test_pairs = encode_pairs(preferences(held_out), template, 40)[0]
print(preferences(seen)[0].as_json())

# %% Bradley and Terry
for difference in (0.0, 1.0, 2.0):
    chance = 1 / (1 + math.exp(-difference))  # sigma: the better one wins so often
    loss = reward_loss(Tensor([5 + difference]), Tensor([5.0])).item()
    assert np.isclose(loss, -math.log(chance), atol=1e-5)
    print(f"  {difference:.0f} points apart: wins {chance:.0%} of the comparisons, loss -ln {chance:.2f} = {loss:.3f}")
reward_model = GPTWithHead.from_gpt(copy.deepcopy(sft), ["reward"])  # the head of lesson 441, with one class
steps = fit(reward_model, pairs, pair_batch, reward_batch_loss, 40, 1e-3)
measured = evaluate(reward_model, [pair_batch(test_pairs)], reward_batch_loss)
print(f"trained: loss {steps[0].loss:.3f} (ln 2 = {math.log(2):.3f}) -> {steps[-1].loss:.3f}; "
      f"right in {measured['accuracy']:.0%} of {len(test_pairs)} pairs that it has not seen")  # fmt: skip
assert measured["accuracy"] > 0.8

# %% PPO's pieces
mask = np.ones((1, 3), bool)  # one reply of three tokens
kl = np.array([[0.5, 0.0, 0.5]])  # ln pi - ln rho of each: the policy has made tokens 0 and 2 more likely
rewards = ppo.token_rewards(np.array([1.0]), kl, mask, kl_coef=0.2)
assert np.allclose(rewards, [[-0.1, 0.0, 0.9]])  # score 1 at the end, and 0.2 x 0.5 off wherever it moved
advantages, returns = ppo.gae(rewards, np.array([[0.5, 0.5, 0.5]]), mask, gamma=1.0, lam=0.95)
by_hand = [-0.1 + 0.95 * (0.95 * 0.4), 0.95 * 0.4, 0.9 - 0.5]
assert np.allclose(advantages, [by_hand])
print("1. generate a reply; 2. score it, less a price for leaving the reference (KL):", rewards[0])
print("   a critic had expected 0.5 all along, so that each token did better than expected by:", advantages[0])

ratios = np.linspace(0.4, 1.8, 141)
gain, slope = {}, {}
for advantage in (1.0, -1.0):
    logprobs = Tensor(np.log(ratios), requires_grad=True)
    loss = ppo.policy_loss(logprobs, np.zeros(141), np.full(141, advantage), clip=0.2)
    loss.sum().backward()
    gain[advantage], slope[advantage] = -loss.data, logprobs.grad
assert (slope[1.0][ratios > 1.21] == 0).all() and (slope[-1.0][ratios < 0.79] == 0).all()
assert (slope[1.0][ratios < 1.19] < 0).all()
print("3. update, but clipped: a good token that is 1.2 times as likely as when it was drawn has no gradient left")

policy, reference = Tensor(np.log([0.7, 0.2, 0.1])), Tensor(np.log([0.4, 0.4, 0.2]))
drawn = rng.choice(3, size=4000, p=[0.7, 0.2, 0.1])
exact = exact_kl(policy, reference).item()
print(f"the KL of two small distributions is {exact:.3f} nats; from 4,000 draws:", end="")
for kind in ("k1", "k2", "k3"):
    estimates = estimated_kl(policy[drawn], reference[drawn], kind).data
    print(f"  {kind} {estimates.mean():.3f} +- {estimates.std() / math.sqrt(len(drawn)):.3f}", end="")
    assert kind == "k2" or abs(estimates.mean() - exact) < 0.06
print("\nin memory: the policy, its reference, the reward model, and the critic. The familiar loop is gone.")
with lesson.picture("clip", "PPO's clipped objective (clip 0.2)") as axes:
    for (advantage, values), line in zip(gain.items(), LINES):
        axes.plot(ratios, values, line, color="black", label=f"advantage {advantage:+.0f}")
    axes.axvspan(0.8, 1.2, color="0.9")
    axes.set(xlabel="probability now / when it was drawn", ylabel="what is won (advantage units)")
    axes.legend(frameon=False)

# %% Reward hacking
N = 2000  # replies that the reference might give, all equally likely
quality = rng.standard_normal(N)
mistake = rng.standard_normal(N)
mistake[:10] += 8  # the reward model loves ten of them for no reason
quality[:10] -= 4
proxy = quality + mistake
betas = np.geomspace(20, 0.2, 60)
curve = []
for beta in betas:  # the best policy under reward - beta KL is known: rho exp(r / beta), normalised (DPO's equation 4)
    logits = Tensor(proxy / beta)
    chances = F.softmax(logits, -1).data
    curve.append((exact_kl(logits, Tensor(np.zeros(N))).item(), chances @ proxy, chances @ quality))
kls, rewarded, true = np.array(curve).T
best = int(true.argmax())
assert (np.diff(rewarded) > -1e-5).all() and 0 < best < len(betas) - 1 and true[-1] < 0
print(f"at beta {betas[best]:.1f} the replies are best: {true[best]:+.2f} (reward {rewarded[best]:+.2f})")
print(f"at beta {betas[-1]:.1f} the reward is {rewarded[-1]:+.2f}, and the replies are worth {true[-1]:+.2f}: "
      "it has found the mistakes")  # fmt: skip
with lesson.picture("hacking", "Reward hacking: the optimal policy as the KL penalty is turned down") as axes:
    axes.plot(kls, rewarded, "--", color="black", label="what the reward model says")
    axes.plot(kls, true, "-", color="black", label="what the replies are worth")
    axes.axvline(kls[best], color="0.6", linestyle=":", label=f"best: beta = {betas[best]:.1f}")
    axes.set(xlabel="KL from the reference (nats per reply)", ylabel="mean score (standard deviations)")
    axes.legend(frameon=False)

# %% DPO
beta = 0.1
referenced = with_reference(sft, pairs)  # the reference never changes: its log-probabilities are computed once
prompts = [chat_template(tokenizer)(question(*c)) for c in held_out]
print("learning rate" + "".join(f"{kind:>12}" for kind in before) + "   KL from before (nats per reply)")
print(f"{'before':13}" + "".join(f"{share:12.0%}" for share in before.values()))
results, moved, runs = {}, {}, {}
for rate in (5e-5, 3e-4):
    policy = copy.deepcopy(sft)
    runs[rate] = fit(policy, referenced, pair_batch, lambda m, b: dpo_batch_loss(m, b, beta), 40, rate)
    assert np.isclose(runs[rate][0].loss, math.log(2), atol=1e-4)  # policy = reference: no preference yet, h = 0
    results[rate] = behaviour(policy, held_out * 10)
    asked = ask(policy, tokenizer, [question(*c) for c in held_out], chat_template(tokenizer), temperature=1.0)
    moved[rate] = kl_of_replies(policy, sft, prompts, [r.ids for r in asked])
    print(f"{rate:<13.0e}" + "".join(f"{share:12.0%}" for share in results[rate].values()) + f"{moved[rate]:8.2f}")
careful, hasty = runs
after, steps = results[careful], runs[careful]
print(f"loss: ln 2 = {steps[0].loss:.4f} at first, as the policy is its reference; then {steps[-1].loss:.3f}, and "
      f"{runs[hasty][-1].loss:.3f} at the higher rate:")  # fmt: skip
print("the better loss belongs to the worse model. It took the pairs apart, and its replies with them: 'other'.")
print("One model is trained and nothing is generated. The rates were chosen by looking at this table; one seed.")
assert after["honest"] > before["honest"] and after["flattering"] < before["flattering"]
assert moved[hasty] > moved[careful] and runs[hasty][-1].loss < steps[-1].loss
with lesson.picture("dpo", "Forty steps of DPO", columns=3, size=(12, 3.6)) as (one, two, three):
    for axes, name, shares in ((one, "before: imitation", before), (two, "after: preference", after)):
        bars(axes, shares, "share of replies to unseen claims", ".0%")
        axes.set(title=name, ylim=(0, 1.1))
    for name, line in (("logps/chosen", "-"), ("logps/rejected", "--")):
        three.plot(smooth([s.metrics[name] for s in steps], 5), line, color="black", label=name.removeprefix("logps/"))
    three.set(title="on the training pairs", xlabel="step", ylabel="log-probability (nats per reply)")
    three.legend(frameon=False)

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start bradley_terry, dpo, ppo_clip, gae`
# - read: finetune/objectives/dpo.py and finetune/objectives/reward.py: a page each; finetune/objectives/ppo.py; then
#   scripts/dpo.py, scripts/ppo.py
# - break: beta = 1 in DPO: what holds the policy back? swap chosen and rejected in preferences()
# - lesson: `python scripts/lesson.py 444`
