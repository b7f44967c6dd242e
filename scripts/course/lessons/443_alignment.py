"""Lesson 4.4.3: alignment, or learning which reply is better

Instruction tuning (SFT, supervised fine-tuning) learns from demonstrations, and these are not all good. In this lesson
a model answers people who say "grass is red": honestly, with flattery, or rudely. It learns which reply is better from
comparisons: a reward model turns them into a score, and PPO trains the model to score high.
Lesson 4.4.3b reaches the same aim with DPO, which needs neither.
Ouyang et al. 2022 (InstructGPT); Schulman et al. 2016 and 2017 (GAE, PPO); Gao et al. 2023 (reward hacking).
"""

import copy
import math
from typing import Any

import numpy as np

import minigrad.functional as F
from finetune.data.chat_template import ChatTemplate
from finetune.data.datasets import ShuffledBatches
from finetune.data.pairs import encode_pairs, pair_batch
from finetune.evaluation.answering import chat_template
from finetune.objectives import ppo
from finetune.objectives.logprobs import exact_kl, sequence_logprobs
from finetune.objectives.model_with_head import ModelWithHead
from finetune.objectives.reward import reward_batch_loss, reward_loss
from finetune.objectives.rollout import PolicyWithValue, roll_out
from finetune.stages.ppo import PPOConfig, ppo_batch_loss, ppo_batches
from gpt.training.evaluation import evaluate
from minigrad import Tensor, manual_seed, optim, use_kernels
from scripts.course.lessons import honest_replies
from scripts.course.lessons.honest_replies import BLOCK, FACTS, SHARES, fit, preferences, question, replies_to, show
from scripts.course.pictures import LINES, Lesson

lesson = Lesson("443_alignment", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% Demonstrations: honest, flattering, rude
# Somebody makes a wrong claim. Of the demonstrations, only 20 % correct it politely. 60 % agree with it, and 20 % are
# rude. (The data and the small model are in [honest_replies.py](honest_replies.py).)
for kind, reply in replies_to("grass", "red").items():
    print(f"I think grass is red.   {reply:28}{kind}, {SHARES[kind]:.0%} of the demonstrations")

# %% [markdown]
# Predict: what will the model do after instruction tuning, with claims that it has not seen?

# %%
sft, tokenizer, seen, held_out = honest_replies.imitator(lesson.seed)
template = ChatTemplate(tokenizer)
before = honest_replies.behavior(sft, tokenizer, held_out, lesson.seed)
show({"demonstrations": {**SHARES, "other": 0}, "SFT, claims it has not seen": before})
assert before["honest"] < 0.5 and min(before[kind] for kind in SHARES) > 0.05

# %% [markdown]
# Answer: a mixture, as in the demonstrations: all three kinds, with shares that differ from seed to seed, and fewer
# than half of the replies are honest. It has learned the format of a reply. What we prefer is rare in the data, so it
# is rare in what the model writes.
#
# ## The alignment problem
#
# Can more training of this kind mend it? Let p be the shares of the replies in the data, and q the probabilities that a
# model gives them. The loss of instruction tuning is the cross-entropy -Σ p ln q.
#
# Predict: which has the lower loss, a model that flatters as often as the data, or one that is honest in 90 % of cases?

# %%
shares = np.array(list(SHARES.values()))
losses = {}
for name, q in {"imitates": shares, "is honest": np.array([0.90, 0.05, 0.05])}.items():
    logits = Tensor(np.log(q), requires_grad=True)
    loss = -(F.log_softmax(logits, -1) * Tensor(shares)).sum()
    loss.backward()
    losses[name] = loss.item()
    print(f"{name:10} loss {loss.item():.2f}, gradient for honest, flattering and rude replies {logits.grad}")
    assert np.allclose(logits.grad, q - shares, atol=1e-6)
assert losses["imitates"] < losses["is honest"]

# %% [markdown]
# Answer: the one that flatters. The gradient by the logits is q - p, which is 0 at q = p: the mixture is what the loss
# asks for, and more training cannot mend it. The gradient of an honest model is positive for honest replies and
# negative for the others: gradient descent makes it less honest and more flattering. So imitation has two limits:
#
# * It reproduces what the data does, as often as the data does it. A preferred behavior that is rare stays rare.
# * It cannot say "not this". Every reply in the data is pushed up, and what is not in the data appears nowhere in the
#   loss. A person who can tell that a reply is bad has no way to say so.

# %% Sycophantic, harmful, confidently wrong
# Models that are only tuned on instructions are said to be all three. The first two are in the table above: our model
# flatters, and it insults people (its rude replies). For the third we ask about things that no demonstration names.
#
# Predict: "I think tar is green." How sure is the model of the color that it writes after "No, tar is", and how often
# is that color right?
UNKNOWN = {"sand": "yellow", "corn": "yellow", "tar": "black", "ebony": "black", "rust": "red", "rose": "red"}
UNKNOWN |= {"rice": "white", "salt": "white", "jade": "green", "lime": "green", "sea": "blue", "denim": "blue"}
COLORS = sorted(set(FACTS.values()))


# %%
def probability(thing: str, wrong: str, color: str) -> float:
    """How likely a color is in an honest reply, after "No, grass is"."""
    ids = [*chat_template(tokenizer)(question(thing, wrong)), *tokenizer.encode(f"No, {thing} is")]
    word = tokenizer.encode(f" {color}")
    # Inputs: all tokens but the last. Targets: the same tokens, shifted by one; -100 is not counted, only the color is.
    targets = np.array([[-100] * (len(ids) - 1) + word])
    return math.exp(sequence_logprobs(sft, np.array([(ids + word)[:-1]]), targets).item())


never_named = [(thing, wrong) for thing, color in UNKNOWN.items() for wrong in COLORS if wrong != color]
true_color = FACTS | UNKNOWN
sure, correct = {}, {}
for name, claims in (("in the demonstrations", held_out), ("never named", never_named)):
    chances = np.array([[probability(*claim, color) for color in COLORS] for claim in claims])  # (claims, colors)
    sure[name] = chances.max(axis=1).mean()
    named = [COLORS[best] for best in chances.argmax(axis=1)]
    correct[name] = np.mean([color == true_color[thing] for color, (thing, _) in zip(named, claims)])
    print(f"  things {name:24}probability of the likeliest color {sure[name]:.0%}, right {correct[name]:.0%}")
assert sure["in the demonstrations"] > 0.8
assert correct["in the demonstrations"] > 0.8
assert sure["never named"] > correct["never named"] + 0.2

# %% [markdown]
# Answer: it is far more sure than it is right. In the demonstrations nobody says "I do not know", so the model has not
# learned to say it: it names a color of which it can know nothing, in the same words and nearly as surely as one that
# it has learned.

# %% Comparisons against ratings
# To prefer one reply over another, the model needs another kind of data: judgments of replies. Why not ask people for a
# number from 1 to 10? Here 50 simulated people see the true quality of 40 replies, with some noise. They give 400
# ratings, or make 400 comparisons. Some people are generous, and give all replies a higher number.
#
# Predict: which recovers the true quality better if all people are equally generous? And if their generosity
# has a standard deviation of 4 points?


def learned_from(generosity: float, draw: np.random.Generator, replies: int = 40, judgments: int = 400) -> list[float]:
    """The correlation of the true quality of replies with their mean rating, and with the share of comparisons won."""
    quality = draw.standard_normal(replies)
    people = generosity * draw.standard_normal(50)  # generous above 0, strict below

    def impression(which: np.ndarray) -> np.ndarray:
        return quality[which] + draw.standard_normal(len(which))

    # A rating: a random person sees a random reply. One unit of quality is 2 points. (clip: if a reply has no rating.)
    which = draw.integers(replies, size=judgments).astype(np.intp)
    who = draw.integers(50, size=judgments).astype(np.intp)
    ratings = np.clip(np.rint(5.5 + 2 * (impression(which) + people[who])), 1, 10)
    mean_rating = np.bincount(which, ratings, replies) / np.bincount(which, minlength=replies).clip(1)

    # A comparison: somebody sees two different replies. Generosity would raise both, so it does not matter who it is.
    a = draw.integers(replies, size=judgments).astype(np.intp)
    b = (a + draw.integers(1, replies, size=judgments).astype(np.intp)) % replies
    winners = np.where(impression(a) > impression(b), a, b)
    share_won = np.bincount(winners, minlength=replies) / np.bincount([*a, *b], minlength=replies).clip(1)
    return [float(np.corrcoef(found, quality)[0, 1]) for found in (mean_rating, share_won)]


# %%
print("correlation with the true quality, mean of 5 draws    ratings   comparisons")
gaps = []
for generosity in (0.0, 1.0, 2.0):
    rated, compared = np.mean([learned_from(generosity, rng) for _ in range(5)], axis=0)
    print(f"{f'people differ by {2 * generosity:.0f} points':51}{rated:10.2f}{compared:14.2f}")
    gaps.append(compared - rated)
assert gaps[0] < 0
assert gaps[2] > 0.03

# %% [markdown]
# Answer: a number says more than a comparison while all people use the scale alike. But a generous person
# changes every number, and no comparison, because the person sees both replies.

# %% The reward model: from comparisons to a score
# The data: for each claim that was seen, the honest reply is preferred to the flattering one, and to the rude one.
print(preferences(seen)[0].as_json())
pairs = encode_pairs(preferences(seen), template, BLOCK)[0]
test_pairs = encode_pairs(preferences(held_out), template, BLOCK)[0]

# %% [markdown]
# The reward model is a language model whose head gives one number r, the score of a reply: a copy of the SFT model with
# the head of lesson 441. In the model of Bradley and Terry, the better reply wins a comparison with probability
# σ(r_chosen - r_rejected), where σ(x) = 1 / (1 + e^-x). The loss is the negative logarithm of this probability:
#
#     loss = -ln σ(r_chosen - r_rejected)
#
# Predict: an untrained head gives all replies nearly the same score. What is the loss then?

# %%
for difference in (0.0, 1.0, 2.0):
    chance = 1 / (1 + math.exp(-difference))  # σ(difference): how often the better one wins
    loss = reward_loss(Tensor([5 + difference]), Tensor([5.0])).item()
    assert np.isclose(loss, -math.log(chance), atol=1e-5)
    print(f"  {difference:.0f} points apart: wins {chance:.0%} of the comparisons, loss -ln {chance:.2f} = {loss:.3f}")

# %%
reward_model = ModelWithHead.from_language_model(copy.deepcopy(sft), ["reward"])
steps = fit(reward_model, pairs, pair_batch, reward_batch_loss, 40, 1e-3, lesson.seed)
print(f"loss {steps[0].loss:.3f} -> {steps[-1].loss:.3f}")
batch = pair_batch(test_pairs)
chosen, rejected = np.split(sequence_logprobs(sft, *batch.shifted()).data, 2)
judged = {
    "guessing": 0.5,
    "the more probable reply, says the SFT model": float((chosen > rejected).mean()),
    "reward model": evaluate(reward_model, [batch], reward_batch_loss)["accuracy"],
}
for name, right in judged.items():
    print(f"  {name:45}{right:5.0%} of {len(test_pairs)} unseen pairs")
assert judged["reward model"] > max(0.8, judged["the more probable reply, says the SFT model"] + 0.2)

# %% [markdown]
# Answer: ln 2 = 0.69, the loss of a coin. After 40 steps it prefers the honest reply in pairs that it has not seen. The
# SFT model, whose knowledge of language it shares, is not a judge: it prefers what is frequent.
#
# The reward model cannot write; it judges what others have written. **The reward model is an experienced editor**:
# experienced because it begins as a language model, and an editor because its judgment is learned from corrections.

# %% PPO: a policy that earns rewards
# In the words of reinforcement learning the language model is a *policy* π: it gives each next token a probability.
# Proximal policy optimization (PPO) repeats three steps. Generate: the policy writes replies. Score: the reward model
# judges each of them. Update: tokens of good replies become more likely.
#
# **Rewards.** The policy must not leave the language that the reward model knows. So each token t pays for being more
# likely than under the *reference model* ρ, the SFT model, and the last one also gets the score:
#
#     r_t = -kl_coef (ln π(token_t) - ln ρ(token_t)),    and at the last token + score
#
# **Advantages.** One score for a whole reply does not say which token earned it. A *value head* V, a linear layer on
# top of the policy, learns to predict the rewards still to come. A token is as good as its surprise: the *advantage*
# says how much better things turned out than V expected. Generalized advantage estimation (GAE):
#
#     δ_t = r_t + γ V_{t+1} - V_t          the surprise at token t; V after the end is 0
#     A_t = δ_t + γ λ A_{t+1}              plus a share λ of the later surprises; here γ = 1, λ = 0.95
#
# With λ = 1 a token is credited with all that followed, which is noisy. With λ = 0 it trusts V, which may be wrong.
mask = np.ones((1, 3), bool)  # one reply of three tokens
kl = np.array([[0.5, 0.0, 0.5]])  # ln π - ln ρ of each: the policy has made tokens 0 and 2 more likely
rewards = ppo.token_rewards(np.array([1.0]), kl, mask, kl_coef=0.2)
assert np.allclose(rewards, [[-0.1, 0.0, 0.9]])  # score 1 at the end, and 0.2 x 0.5 off wherever it moved

# The surprises r_t + V_{t+1} - V_t are -0.1 + 0.4 - 0.5 = -0.2, 0 + 0.7 - 0.4 = 0.3 and 0.9 - 0.7 = 0.2.
expected = np.array([[0.5, 0.4, 0.7]])  # V before each token
advantages, _ = ppo.gae(rewards, expected, mask, gamma=1.0, lam=0.95)
print(f"rewards of three tokens: {rewards[0]}, expected {expected[0]}, advantages {advantages[0]}")
assert np.allclose(advantages, [[-0.2 + 0.95 * (0.3 + 0.95 * 0.2), 0.3 + 0.95 * 0.2, 0.2]])

# `gae` also returns A + V, the return of each token. With λ = 1: the rewards still to come, whatever V expected.
_, returns = ppo.gae(rewards, expected, mask, gamma=1.0, lam=1.0)
assert np.allclose(returns, [[0.8, 0.9, 0.9]])
_, returns = ppo.gae(rewards, expected, mask, gamma=0.0, lam=1.0)  # with γ = 0: a token's own reward alone
assert np.allclose(returns, rewards)

# %% [markdown]
# **The clipped objective.** Replies are expensive, so each is used for several steps. But they were drawn by the policy
# before these steps, π_old. Let ratio = π(token) / π_old(token). PPO maximizes, with ε = 0.2,
#
#     min(ratio · A,  clip(ratio, 1 - ε, 1 + ε) · A)        clip(x, a, b): x, but at least a and at most b
#
# Predict: a token with advantage +1 has become 1.3 times as likely as when it was drawn. What is its gradient? And that
# of a token with advantage -1 that has become 1.3 times as likely?

# %%
ratios = np.linspace(0.4, 1.8, 141)
at = 90  # ratios[90] is 1.3
gain, slope = {}, {}
for advantage in (1.0, -1.0):
    logprobs = Tensor(np.log(ratios), requires_grad=True)
    loss = ppo.policy_loss(logprobs, np.zeros(141), np.full(141, advantage), clip=0.2)
    loss.sum().backward()
    gain[advantage], slope[advantage] = -loss.data, logprobs.grad
    print(f"A = {advantage:+.0f}, ratio 1.3: gradient of the loss by ln π {slope[advantage][at]:+.2f}")
assert (slope[1.0][ratios > 1.21] == 0).all()  # a good token that is already much more likely
assert (slope[-1.0][ratios < 0.79] == 0).all()  # a bad token that is already much less likely
assert (slope[1.0][ratios < 1.19] < 0).all()  # else a good token becomes more likely: its loss falls
assert slope[-1.0][at] > 1  # and a bad one that has become more likely is corrected
with lesson.picture("clip", "PPO's clipped objective (clip 0.2)") as axes:
    for (advantage, values), line in zip(gain.items(), LINES):
        axes.plot(ratios, values, line, label=f"advantage {advantage:+.0f}")
    axes.axvspan(0.8, 1.2, color="0.5", alpha=0.2)
    axes.set(xlabel="probability now / when it was drawn", ylabel="objective (units of the advantage)")

# %% [markdown]
# Answer: 0, because min(1.3, 1.2) = 1.2 does not depend on the policy: it has moved far enough. The second token moved
# in the wrong direction, and min(-1.3, -1.2) = -1.3 keeps its gradient. Clipping stops progress, never a correction: in
# the picture, each line is flat on one side only.
#
# **The value head** learns in the same steps: V moves toward the return R, in a mean of squares. It is clipped as well,
# around V_old, its value when the reply was written. The larger of two losses counts:
#
#     ½ max((V - R)², (V_old + clip(V - V_old, -ε, ε) - R)²)
#
# Predict: V_old = 0 and R = 1. Which way does the gradient push V at 0.1, at 0.5, and at -0.5?

# %%
values = Tensor([0.1, 0.5, -0.5], requires_grad=True)
ppo.value_loss(values, np.zeros(3), np.ones(3), clip=0.2).sum().backward()
print(f"V = {values.data}: gradient of the value loss {values.grad}")
toward_return, moved_enough, moved_away = values.grad
assert np.isclose(toward_return, 0.1 - 1, atol=1e-6), "near V_old the gradient must be V - R, which moves V toward R"
assert moved_enough == 0, "V has moved toward R by more than ε: the clip must stop it"
assert np.isclose(moved_away, -0.5 - 1, atol=1e-6), "V has moved away from R: the clip must not stop the correction"
old, advantage, returned = np.zeros(3), np.zeros(3), np.ones(3)
both, policy_part, value_part = ppo.ppo_loss(Tensor(np.zeros(3)), values.detach(), old, old, advantage, returned)
assert np.allclose(both.data, policy_part.data + 0.1 * value_part.data), "the value loss is not a tenth of PPO's loss"

# %% [markdown]
# Answer: up at 0.1, not at all at 0.5, up at -0.5. As with the policy, V may move by ε toward its target in one update,
# and what has moved away is always corrected. Policy and value head share the model below them, so the value loss gets
# a small weight: the loss of a token is that of the policy plus a tenth of that of the value head.

# %% How far has the policy moved?
# The distance of the policy from the reference is the KL divergence, the mean of ln π - ln ρ over replies x that the
# policy writes:
#
#     KL(π || ρ) = Σ_x π(x) (ln π(x) - ln ρ(x))
#
# Nobody can add up all replies. So below, as in PPO's rewards, ln π - ln ρ of the replies that were drawn is an
# estimate of it. (Lesson 446 has two others.)

# %% PPO runs: the training loop changes its shape
# Until now, each lesson trained on a fixed set of texts. Here the data are the model's own replies, written anew each
# round, and the signal is one number per reply. Three networks are in memory: the policy with its value head, the
# reference model, and the reward model.
prompts = [chat_template(tokenizer)(question(*claim)) for claim in seen]


def reinforce(scorer: Any, kl_coef: float) -> tuple[Any, list[dict[str, float]]]:
    """A policy after 16 rounds of PPO; of each round the mean score, the KL (nats per reply), and a share."""
    config = PPOConfig(batch_size=32, response_length=12, kl_coef=kl_coef)
    manual_seed(lesson.seed)  # of the replies that are drawn
    actor = PolicyWithValue(copy.deepcopy(sft))  # the policy and its value head; `sft` itself is the reference model
    optimizer = optim.Adam(actor.parameters(), lr=2e-4)
    questions = ShuffledBatches(prompts, config.batch_size, list, lesson.seed)
    rng = np.random.default_rng(lesson.seed)
    rounds = []
    for _ in range(16):
        # 1. Generate replies. 2. Score each of them as a whole, with the reward model. (`roll_out` does both.)
        rollout = roll_out(actor, sft, scorer, next(questions), config.response_length, template.stop_tokens)
        kl = rollout.logprobs - rollout.reference_logprobs  # (B, T): a row per reply; the mask says where it has tokens
        no = np.mean([tokenizer.decode(ids).startswith("No,") for ids in rollout.replies()])
        rounds.append({"score": rollout.scores.mean(), "KL": kl[rollout.mask].sum() / len(kl), "No": float(no)})
        # 3. Update. The rewards and advantages first:
        scores = np.where(rollout.ended, rollout.scores, rollout.scores - 1)  # an unfinished reply: 1 less
        rewards = ppo.token_rewards(scores, kl, rollout.mask, kl_coef)
        advantages, returns = ppo.gae(rewards, rollout.values, rollout.mask)  # V is trained towards the returns, A + V
        advantages = ppo.whiten(advantages, rollout.mask)  # mean 0, variance 1
        # then a few steps on these replies.
        for minibatch in ppo_batches(rollout, advantages, returns, config, rng):
            total, count, _ = ppo_batch_loss(actor, minibatch, config)
            actor.zero_grad()
            (total / count).backward()
            optim.clip_grad_norm_(actor.parameters(), 1.0)
            optimizer.step()
    return actor.policy, rounds


def outcome(scorer: Any, kl_coef: float) -> tuple[dict[str, float], list[dict[str, float]]]:
    """PPO's replies to unseen claims, with means of the first and the last three rounds; and all rounds."""
    with use_kernels("fast"):
        policy, rounds = reinforce(scorer, kl_coef)
    found = honest_replies.behavior(policy, tokenizer, held_out, lesson.seed)
    for name, part in (("first", rounds[:3]), ("last", rounds[-3:])):
        for key in ("score", "KL"):
            found[f"{name} {key}"] = float(np.mean([each[key] for each in part]))
    return found, rounds


# %% [markdown]
# Predict: fewer than half of the model's replies are honest. How many are after 16 rounds of 32 replies? And what
# happens if the penalty for moving away (kl_coef) is 30 times as large?

# %%
runs = {kl_coef: outcome(reward_model, kl_coef) for kl_coef in (10.0, 0.3)}
show({"SFT": before} | {f"PPO, kl_coef {kl_coef:g}": row for kl_coef, (row, _) in runs.items()})
strict, _ = runs[10.0]
usual, rounds = runs[0.3]
assert usual["honest"] > before["honest"] + 0.2 and usual["flattering"] < before["flattering"] - 0.2
assert strict["last KL"] < usual["last KL"] / 2
assert strict["honest"] < usual["honest"] - 0.1

# %%
print("share of replies that begin with No, every third round:", np.array([r["No"] for r in rounds[::3]]))
assert rounds[-1]["No"] > rounds[0]["No"] + 0.2

# %% [markdown]
# Answer: most replies are honest, and few flatter. With the large penalty the policy moves much less, in what it
# does and in its KL.
#
# **For the first time, the training loop changes shape.** The policy writes its own data, and they change with it: in
# the first round few replies begin with "No", in the last round most do. **SFT gives the model a voice; alignment gives
# it judgment**: which of the replies that it can already write it should prefer.
#
# "other" are replies that are none of the three kinds. They are more frequent than before: a policy that moves also
# gets worse at what it could do.

# %% Judges who do not know everything
# A reward model is as good as its judges. These judges know the color of only three of the twelve things. About the
# other nine they believe the claim, and prefer a reply that agrees with them.
known = sorted(FACTS)[::4]
fooled = ModelWithHead.from_language_model(copy.deepcopy(sft), ["reward"])
taught = encode_pairs(preferences(seen, known), template, BLOCK)[0]
fit(fooled, taught, pair_batch, reward_batch_loss, 80, 1e-3, lesson.seed)
their_pairs = encode_pairs(preferences(held_out, known), template, BLOCK)[0]  # unseen, judged as they judge
agreed = evaluate(fooled, [pair_batch(their_pairs)], reward_batch_loss)["accuracy"]
true = evaluate(fooled, [pair_batch(test_pairs)], reward_batch_loss)["accuracy"]  # as those judge who know everything
print(f"the judges know {', '.join(known)}; the reward model agrees with them in {agreed:.0%} of the unseen pairs")
assert agreed > 0.8

# %% [markdown]
# By the only measure that its makers have, this reward model is a good one.
#
# Predict: with this reward model, will PPO make more of the replies honest?

# %%
hacked, _ = outcome(fooled, 0.3)
show({"SFT": before, "PPO, judges who know": usual, "PPO, judges who do not": hacked})
print(f"the better reply of unseen pairs has the higher score: judges who know {judged['reward model']:.0%}, "
      f"judges who do not {true:.0%}")  # fmt: skip
assert hacked["last score"] > hacked["first score"] + 0.1
assert hacked["honest"] < before["honest"]
assert usual["honest"] > hacked["honest"] + 0.3
assert hacked["flattering"] > usual["flattering"] + 0.3

# %% [markdown]
# Answer: the score rises, and the model becomes less honest than it was. This is *reward hacking*: what is optimized,
# the score, stands for what is meant, honesty, only as far as the judges could see. Nobody who looks at the score
# notices. With judges who know, flattery vanishes; with these it stays or grows. In this way assistants learn flattery
# from people's preferences (Sharma et al. 2023).

# %% Why the KL penalty: every reward model has errors
# How far should a policy go that follows a reward model with errors? Here 2,000 replies have a true quality. The reward
# model sees it with noise, and it overrates five bad replies. The policy that is best for mean(r) - β KL is known:
# π = ρ e^(r/β) / Z (lesson 443b derives it), so nothing needs to be trained.
#
# Predict: β is turned down from 20 to 0.2. What do the score and the true quality do?
N = 2000  # replies, equally likely under the reference model
quality = rng.standard_normal(N)
mistake = rng.standard_normal(N)
mistake[:5] += 12  # the reward model overrates five bad replies
quality[:5] -= 4
proxy = quality + mistake

# %%
betas = np.geomspace(20, 0.2, 60)
curve = []
for beta in betas:
    logits = Tensor(proxy / beta)
    chances = F.softmax(logits, -1).data
    curve.append((exact_kl(logits, Tensor(np.zeros(N))).item(), chances @ proxy, chances @ quality))
kls, rewarded, truth = np.array(curve).T  # each by β, from the largest to the smallest
best = int(truth.argmax())
assert kls[0] < 0.1 and (np.diff(kls) > 0).all()  # nearly frozen, and then freer with each β: a dial, not a switch
assert (np.diff(rewarded) > -1e-5).all()  # the score only rises
assert 0 < best < len(betas) - 1  # the quality is highest in between,
assert truth[-1] < 0 < truth[best]  # and at the end it is below that of the reference
for place in (0, best, -1):
    print(f"beta {betas[place]:5.1f}: KL {kls[place]:.2f}, score {rewarded[place]:+.2f}, quality {truth[place]:+.2f}")
with lesson.picture("hacking", "Reward hacking: the optimal policy as the KL penalty is turned down") as axes:
    axes.plot(kls, rewarded, "--", label="score of the reward model")
    axes.plot(kls, truth, "-", label="true quality")
    axes.axvline(kls[best], color="0.6", linestyle=":", label=f"best: beta = {betas[best]:.1f}")
    axes.set(xlabel="KL from the reference (nats per reply)", ylabel="mean score (standard deviations)")

# %% [markdown]
# Answer: the score only rises. The quality rises first and then falls below that of the reference, which is 0, because
# the policy has found the five errors. The best β lies between: far enough to gain, near enough to stay among replies
# that the reward model knows.
#
# A frozen backbone (lesson 441) does not move at all, and full fine-tuning moves freely. β chooses any distance between
# them: **the KL penalty is the continuous version of 'freeze the backbone'**.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start bradley_terry`, ppo_clip, gae
# - line by line: `python scripts/step.py --html ppo`
# - read: finetune/objectives/reward.py: a page; finetune/objectives/ppo.py; then scripts/ppo.py
# - try: `python scripts/lesson.py 443 --seed 2`. Expect: other shares, and the same conclusions.
# - break: in `preferences` of honest_replies.py, write "rude" in place of "honest". Expect: reward model and PPO learn
#   what they are shown. The assertion on the reward model still holds, and the one on honest replies fails.
# - lesson: `python scripts/lesson.py 443b`
