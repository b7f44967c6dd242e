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
from finetune.stages.ppo_loop import PPOConfig, ppo_batch_loss, ppo_batches
from gpt import Tokenizer
from gpt.training.evaluation import evaluate
from gpt.training.trainer import Trainer, TrainingConfig
from minigrad import Tensor, nn, optim, use_kernels
from scripts.lessons.pictures import LINES, Lesson, bars
from scripts.lessons.small_gpt import new_gpt, smooth

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


def fit(model: Any, items: list, together: Any, loss: Any, steps: int, rate: float) -> list[Any]:
    """The training loop of all lessons, with other data and another loss."""
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
print("All replies have the right format. Nothing in the loss said which of them we prefer.")
print("A false claim that it repeats is also an example of the other two failures: wrong, and said with confidence.")

# %% [markdown]
# Answer: about the same mixture. The loss of instruction tuning is lowest for a model that imitates its demonstrations,
# the bad ones too. To prefer one reply over another, it needs another kind of data.

# %% Comparisons against ratings


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
print(
    "If all people used the scale alike, a number would say more than a comparison. A person who is generous with all"
)
print("replies changes every number, and no comparison.")

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
mask = np.ones((1, 3), bool)  # one reply of three tokens
kl = np.array([[0.5, 0.0, 0.5]])  # ln pi - ln rho of each: the policy has made tokens 0 and 2 more likely
rewards = ppo.token_rewards(np.array([1.0]), kl, mask, kl_coef=0.2)
assert np.allclose(rewards, [[-0.1, 0.0, 0.9]])  # score 1 at the end, and 0.2 x 0.5 off wherever it moved
advantages, returns = ppo.gae(rewards, np.array([[0.5, 0.5, 0.5]]), mask, gamma=1.0, lam=0.95)
by_hand = [-0.1 + 0.95 * (0.95 * 0.4), 0.95 * 0.4, 0.9 - 0.5]
assert np.allclose(advantages, [by_hand])
print("1. generate a reply; 2. score it, minus a price for moving away from the reference (KL):", rewards[0])
print("   the value head expected 0.5 before each token; so the advantages of the tokens are:", advantages[0])

ratios = np.linspace(0.4, 1.8, 141)
gain, slope = {}, {}
for advantage in (1.0, -1.0):
    logprobs = Tensor(np.log(ratios), requires_grad=True)
    loss = ppo.policy_loss(logprobs, np.zeros(141), np.full(141, advantage), clip=0.2)
    loss.sum().backward()
    gain[advantage], slope[advantage] = -loss.data, logprobs.grad
assert (slope[1.0][ratios > 1.21] == 0).all() and (slope[-1.0][ratios < 0.79] == 0).all()
assert (slope[1.0][ratios < 1.19] < 0).all()
print("3. update, clipped: once a good token is 1.2 times as likely as when it was drawn, its gradient is 0")

policy, reference = Tensor(np.log([0.7, 0.2, 0.1])), Tensor(np.log([0.4, 0.4, 0.2]))
drawn = rng.choice(3, size=4000, p=[0.7, 0.2, 0.1])
exact = exact_kl(policy, reference).item()
print(f"the KL of two small distributions is {exact:.3f} nats; from 4,000 draws:", end="")
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
    axes.legend(frameon=False)

# %% PPO runs: for the first time the training loop changes its shape
prompts = [chat_template(tokenizer)(question(*c)) for c in seen]


def reinforce(kl_coef: float, rounds: int = 16) -> tuple[Any, list[float], list[float]]:
    """A policy after PPO; of each round, the mean reward and the KL from the reference model, in nats per reply."""
    config = PPOConfig(batch_size=32, response_length=12, kl_coef=kl_coef)
    actor = PolicyWithValue(copy.deepcopy(sft))  # the policy and its value head; `sft` itself is the reference model
    optimizer = optim.Adam(actor.parameters(), lr=2e-4)
    questions, rng = ShuffledBatches(prompts, config.batch_size, list), np.random.default_rng(0)
    scores, kls = [], []
    for _ in range(rounds):
        # 1. generate replies; 2. score each of them as a whole, with the reward model
        rollout = roll_out(actor, sft, reward_model, next(questions), config.response_length, template.stop_tokens)
        scores.append(float(rollout.scores.mean()))
        kls.append(float((rollout.logprobs - rollout.reference_logprobs)[rollout.mask].sum() / len(rollout.scores)))
        for minibatch in ppo_batches(rollout, config, rng):  # 3. update: a few steps on these replies
            total, count, _ = ppo_batch_loss(actor, minibatch, config)
            actor.zero_grad()
            (total / count).backward()
            optim.clip_grad_norm_(actor.parameters(), 1.0)
            optimizer.step()
    return actor.policy, scores, kls


print("16 rounds of 32 replies; shares of replies to unseen claims:")
print("KL penalty   " + "".join(f"{kind:>12}" for kind in before) + "    mean reward     KL (nats)")
print(f"{'before':13}" + "".join(f"{share:12.0%}" for share in before.values()))
reinforced, rewards_, moved_ = {}, {}, {}
for kl_coef in (1.0, 0.02):
    with use_kernels("fast"):
        policy, rewards_[kl_coef], moved_[kl_coef] = reinforce(kl_coef)
    reinforced[kl_coef] = behavior(policy, held_out * 10)
    shares = "".join(f"{share:12.0%}" for share in reinforced[kl_coef].values())
    scores = rewards_[kl_coef]
    print(f"{kl_coef:<13g}{shares}  {scores[0]:+.2f} -> {scores[-1]:+.2f}{moved_[kl_coef][-1]:12.1f}")
    assert scores[-1] > scores[0] + 0.5
assert reinforced[1.0]["honest"] > before["honest"] + 0.1 and reinforced[1.0]["flattering"] < before["flattering"]
print("The data are the model's own replies, written anew each round, and the signal is one number per reply. Three")
print("networks are in memory: the policy with its value head, the reference model, and the reward model.")
assert moved_[0.02][-1] > moved_[1.0][-1] and reinforced[0.02]["other"] > reinforced[1.0]["other"]
print("With a weak penalty the reward rises as well, but the policy moves further, and more of its replies are none of")
print("the three kinds: it has found replies that the reward model overrates. That is reward hacking.")

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
    axes.legend(frameon=False)

# %% DPO: the same preferences in the familiar loop
beta = 0.1
referenced = with_reference(sft, pairs)  # the reference never changes, so its log-probabilities are computed once
prompts = [chat_template(tokenizer)(question(*c)) for c in held_out]
print("learning rate" + "".join(f"{kind:>12}" for kind in before) + "   KL from before (nats per reply)")
print(f"{'before':13}" + "".join(f"{share:12.0%}" for share in before.values()))
results, moved, runs = {}, {}, {}
for rate in (5e-5, 3e-4):
    policy = copy.deepcopy(sft)
    runs[rate] = fit(policy, referenced, pair_batch, lambda m, b: dpo_batch_loss(m, b, beta), 40, rate)
    assert np.isclose(runs[rate][0].loss, math.log(2), atol=1e-4)  # policy = reference: no preference yet, h = 0
    results[rate] = behavior(policy, held_out * 10)
    asked = ask(policy, tokenizer, [question(*c) for c in held_out], chat_template(tokenizer), temperature=1.0)
    moved[rate] = kl_of_replies(policy, sft, prompts, [r.ids for r in asked])
    print(f"{rate:<13.0e}" + "".join(f"{share:12.0%}" for share in results[rate].values()) + f"{moved[rate]:8.2f}")
careful, hasty = runs
after, steps = results[careful], runs[careful]
print(f"loss: ln 2 = {steps[0].loss:.4f} at first (policy = reference); at the end {steps[-1].loss:.3f}, "
      f"and {runs[hasty][-1].loss:.3f} at the higher rate")  # fmt: skip
assert after["honest"] > before["honest"] and after["flattering"] < before["flattering"]
assert moved[hasty] > moved[careful] and runs[hasty][-1].loss < steps[-1].loss
if results[hasty]["other"] > results[careful]["other"]:
    print("The lower loss belongs to the worse model: more of its replies are none of the three kinds.")
print("DPO trains one model and generates nothing. (Rates chosen by looking at this table.)")
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
# - exercise: `python scripts/exercise.py start bradley_terry`, dpo, ppo_clip, gae
# - read: finetune/objectives/dpo.py and finetune/objectives/reward.py: a page each; finetune/objectives/ppo.py; then
#   scripts/dpo.py, scripts/ppo.py
# - break: swap r["honest"] and r[worse] in preferences(). Expect: reward model and PPO learn what they are shown. With
#   a KL penalty of 1, flattering replies rise from about 40 % to 70 %, and the assert on honest ones fails.
# - lesson: `python scripts/lesson.py 444`
