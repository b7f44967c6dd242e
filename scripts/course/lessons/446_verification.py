"""Lesson 4.4.6: from preference to verification, or learning from what code can check

A reward model learns from people's choices, and training exploits its mistakes (lesson 443). Some questions do not
need a judge: code can check the answer. In this lesson a small model calculates. It has learned from examples whose
writers sometimes think first and sometimes answer at once. Nobody tells it which is better; it finds out.
Shao et al. 2024 (DeepSeekMath: GRPO); DeepSeek-AI 2025 (R1); Liu et al. 2025 (Dr. GRPO); Yu et al. 2025 (DAPO).
"""

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from finetune import LoRAConfig, apply_lora
from finetune.built_in.chains import CHECKERS, Chain, chains, split_thought, worked_examples
from finetune.data.chat_template import ChatTemplate, Message
from finetune.evaluation.answering import ask, chat_template, text_of
from finetune.evaluation.pass_at_k import score_answers
from finetune.objectives.grpo import METHODS, answer_weights, group_advantages, grpo_loss
from finetune.objectives.logprobs import estimated_kl, exact_kl
from finetune.objectives.rollout import sample_replies
from finetune.stages.cold_start import THINKING, cold_start_model
from finetune.stages.grpo import GRPOConfig, grpo_batch_loss, grpo_batches
from gpt.training.loading import load_model
from minigrad import Tensor, manual_seed, optim, use_kernels
from scripts.course.pictures import LINES, Lesson

lesson = Lesson("446_verification", __doc__)
TERMS, SAMPLES = 5, 8

# %% A task on which thinking helps
# Calculate from left to right, and keep only the last digit. Each step is a line of a small table, but it needs the
# result of the step before. A thought writes these results down.
item = Chain("7*3+2-1")
for thinks in (True, False):
    print(item.prompt, "->", item.example(thinks).messages[-1]["content"])
assert item.values == "7132" and item.answer == "2"

# %% A model that imitates: it thinks in about half of the cases
# In half of the examples the writer answers at once, and correctly: people can do that.
#
# Predict: how often is the model right when it thinks, and how often when it does not?
examples = worked_examples(chains("train", 4_000, TERMS, lesson.seed), THINKING, lesson.seed)

# %%
with use_kernels("fast"):
    sft, tokenizer = cold_start_model(examples, seed=lesson.seed, steps=1000)
template, test = ChatTemplate(tokenizer), chains("test", 60, TERMS, lesson.seed)


def answers(model: Any) -> list[list[str]]:
    """Eight answers of a model to each held-out question, at temperature 1."""
    asked = [item.question for item in test for _ in range(SAMPLES)]
    with use_kernels("fast"):
        encode, sampling = chat_template(tokenizer), {"temperature": 1.0, "seed": lesson.seed}
        replies = ask(model, tokenizer, asked, encode, batch_size=len(asked), **sampling)
    texts = [reply.text if reply.ended else "" for reply in replies]
    return [texts[i : i + SAMPLES] for i in range(0, len(texts), SAMPLES)]


def right_if(thinks: bool, replies: list[list[str]]) -> float:
    """The share of right answers among those with a thought, or among those without."""
    pairs = [(item, text) for item, texts in zip(test, replies) for text in texts]
    return float(np.mean([item.is_correct(text) for item, text in pairs if bool(split_thought(text)[0]) == thinks]))


# %%
imitated = answers(sft)
before = score_answers(test, imitated)
print(f"{before['thinks']:.0%} of its answers have a thought; right with one {right_if(True, imitated):.0%}, "
      f"without {right_if(False, imitated):.0%}, together {before['exact']:.0%}")  # fmt: skip
assert right_if(True, imitated) > right_if(False, imitated) + 0.3

# %% [markdown]
# Answer: with a thought it is mostly right. At once it guesses: its two layers have not learned to take four steps.
# Instruction tuning imitates the mixture of its examples, although half of them cannot be imitated in two layers.
# Nothing in its loss says that the point is to be right.

# %% The reward is checked
# Exactness and format are graded apart. The lenient checker looks harmless: is the right digit in the reply?
replies = ["<think>7132</think>2", "<think></think>2", "<think>7132</think>5", "2", "<think>0123456789</think>0"]
print(f"{'to ' + item.prompt:30}{'format':>8}{'exact':>8}{'lenient':>9}")
for reply in replies:
    graded = [item.has_format(reply), *(checker(item, reply, True) for checker in CHECKERS.values())]
    print(f"{reply:30}{graded[0]!s:>8}{graded[1]!s:>8}{graded[2]!s:>9}")
    assert graded[1] == (reply in replies[:2]) and graded[2]

# %% Groups: the other answers say what was to be expected
# PPO's value head estimates what reward to expect (lesson 443). Group relative policy optimization (GRPO) needs none:
# it answers the same question G times, and compares. With the rewards r of the group, the advantage of answer i is
#
#     A_i = (r_i - mean(r)) / std(r)        std: the sample's, which divides by G - 1
#
# Predict: the rewards of four answers are 1, 0, 0, 0. What is the advantage of the right one? And what is learned from
# the groups 1, 1, 1, 1 and 0, 0, 0, 0?

# %%
rewards = np.array([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
for row, advantages in zip(rewards, group_advantages(rewards)):
    print(f"rewards {row}: advantages {advantages}")
assert np.isclose(group_advantages(rewards)[0, 0], 0.75 / np.sqrt((0.75**2 + 3 * 0.25**2) / 3), atol=1e-3)
assert not group_advantages(rewards)[2:].any()

# %% [markdown]
# Answer: 0.75 / 0.5 = 1.5, and nothing: where all answers are equally good, all advantages are 0.
#
# Each token of answer o_i has PPO's clipped loss, and the loss of a group is the mean over its answers, each of which
# is a mean over its |o_i| tokens:
#
#     loss_t = -min(ratio A_i, clip(ratio, 1 - ε, 1 + ε) A_i)        ratio = π(token) / π_old(token), ε = 0.2
#     loss = mean_i 1/|o_i| Σ_t (loss_t + β k3)                      k3 estimates the KL (below); β is often 0
#
# Its variants change a line each:
#
# * **Dr. GRPO**: A_i = r_i - mean(r), and 1/L for the longest allowed length L in place of 1/|o_i|. Dividing by std
#   gives more weight to questions that are nearly always right or wrong; dividing by |o_i| makes each token of a wrong
#   answer cheaper, the longer the answer is.
# * **DAPO**: clip(ratio, 1 - 0.2, 1 + 0.28), "clip higher", because from a probability of 0.01 an upper limit of 1.2
#   allows only 0.012, and 1/mean(|o|) in place of 1/|o_i|: all tokens of the batch count the same. And it is the remedy
#   for groups such as the last two: *dynamic sampling* draws further questions until the batch is full of groups that
#   have right and wrong answers. (Our loop only leaves the equal ones out, so its batches become smaller.)
# * **RLOO**: A_i = r_i - the mean of the *other* rewards, and no clip.

# %%
for method in METHODS:
    advantages = group_advantages(rewards, method)
    weights = answer_weights(np.array([4, 12]), method, longest=24)
    assert np.isclose(weights[0] / weights[1], 12 / 4 if method == "grpo" else 1)
    assert np.isclose(weights @ [4, 12] / 2, 1 if method in ("grpo", "dapo") else (4 + 12) / 2 / 24)  # all losses 1
    rare = Tensor(np.log([0.0125]), requires_grad=True)  # its probability was 0.01
    grpo_loss(rare, np.log([0.01]), np.ones(1), np.ones(1), method).sum().backward()
    assert (rare.grad[0] != 0) == (method in ("dapo", "rloo"))  # above 1.2: clip higher, or no clip
    print(f"{method:8} the only right answer in 4: {advantages[0, 0]:+.2f}, one of two: {advantages[1, 0]:+.2f}"
          f"; weight of a token among 4: {weights[0]:.3f}, among 12: {weights[1]:.3f}")  # fmt: skip
assert np.allclose(group_advantages(rewards, "rloo")[:2, 0], [1 - 0 / 3, 1 - 1 / 3])  # of the others, 0 and 1 are right

# %% β k3: the price of moving away
# The KL divergence of the policy π from the reference ρ, the model before training, is the mean of ln π(x) - ln ρ(x)
# over answers x that the policy writes (lesson 443). It is estimated from samples. With l = ln π(x) - ln ρ(x) of a
# sample, three estimators are in use:
#
#     k1 = l              k2 = l² / 2              k3 = e^-l - 1 + l
#
# Predict: the KL divergence is never negative. Can single estimates be? And which of the three are right on average?
probs = [0.7, 0.2, 0.1]  # π of three answers
policy_logprobs = Tensor(np.log(probs), requires_grad=True)
reference_logprobs = Tensor(np.log([0.4, 0.4, 0.2]))
drawn = np.random.default_rng(lesson.seed).choice(3, size=4000, p=probs)

# %%
divergence = exact_kl(policy_logprobs, reference_logprobs).item()
print(f"exact: {divergence:.3f} nats; from 4,000 draws:")
smallest, off = {}, {}
for kind in ("k1", "k2", "k3"):
    each = estimated_kl(policy_logprobs, reference_logprobs, kind).data  # (3), one for each answer
    smallest[kind] = each.min()
    off[kind] = abs((each * probs).sum() - divergence) / divergence  # of the expected estimate from the exact value
    estimates = each[drawn]  # (4000)
    print(f"  {kind} {estimates.mean():.3f}, smallest {each.min():+.2f}, standard deviation {estimates.std():.2f}")
assert smallest["k1"] < 0 <= min(smallest["k2"], smallest["k3"]), "only k1 may be negative"
assert max(off["k1"], off["k3"]) < 1e-4 < off["k2"] < 0.05, "on average k1 and k3 must be the KL, and k2 nearly"

# %% [markdown]
# Answer: k1 is right on average, but single estimates are negative and scatter widely. k2 is never negative, and a
# little off. k3 is right on average and never negative: e^-l = ρ(x) / π(x) has the mean Σ π ρ/π = 1, so e^-l - 1 adds 0
# on average, and k3 ≥ 0 because e^-l ≥ 1 - l. PPO's rewards contain k1; GRPO's loss contains k3.
#
# Predict: all rewards are equal, so all advantages are 0, and β = 0.1. Which of the three answers become less likely?

# %%
nothing, one = np.zeros(3), np.ones(3)
reference = reference_logprobs.data
penalized = grpo_loss(policy_logprobs, np.log(probs), nothing, one, reference_logprobs=reference, beta=0.1)
penalized.sum().backward()
print(f"loss {penalized.data}, gradient by ln π {policy_logprobs.grad}")
k3 = estimated_kl(policy_logprobs, reference_logprobs, "k3").data
assert np.allclose(penalized.data, 0.1 * k3, atol=1e-6), "with no advantage, the loss must be β k3"
assert policy_logprobs.grad[0] > 0 > policy_logprobs.grad[1:].max(), "the penalty must pull π back to the reference"

# %% [markdown]
# Answer: the first, which π has made more likely than ρ: its ln π falls. The other two rise. This is what β > 0 adds:
# a pull back to where training started.

# %% The loop: answer, check, compare, update
unseen = chains("train", 512, TERMS, lesson.seed + 1)
questions = [(template.encode(item.question, add_generation_prompt=True)[0], item) for item in unseen]
config = GRPOConfig()


def reinforce(
    start: Any, checker: Callable[[Chain, str, bool], bool], Q: int, rate: float, lora: LoRAConfig | None = None
) -> tuple[Any, list[dict[str, Any]]]:
    """A policy after 16 rounds of GRPO with Q questions each, and the scores of each round's answers."""
    manual_seed(lesson.seed)
    policy, rng, log = copy.deepcopy(start).eval(), np.random.default_rng(lesson.seed), []
    if lora is not None:
        apply_lora(policy, lora)
    learning = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = optim.Adam(learning, lr=rate)
    G = config.num_generations
    for first in range(0, 16 * Q, Q):
        # 1. answer: G times each question
        prompts, items = zip(*(question for question in questions[first : first + Q] for _ in range(G)))
        rollout = sample_replies(policy, prompts, config.response_length, template.stop_tokens)
        texts = [text_of(tokenizer, ids, ended) for ids, ended in zip(rollout.replies(), rollout.ended)]
        # 2. check; 3. compare within each group
        rewards = np.array([float(checker(*answer)) for answer in zip(items, texts, rollout.ended)])
        advantages = group_advantages(rewards.reshape(Q, G)).reshape(-1)
        seen = {"reward": rewards.mean(), "text": texts[0], "teach nothing": (advantages == 0).mean()}
        log.append(seen | score_answers(items, [[text] for text in texts]))
        for batch in grpo_batches(policy, None, rollout, advantages, config, rng):  # 4. update, clipped
            total, count, _ = grpo_batch_loss(policy, batch, config)
            policy.zero_grad()
            (total / count).backward()
            optim.clip_grad_norm_(learning, 1.0)
            optimizer.step()
    return policy, log


# %% [markdown]
# Predict: after 16 rounds in which right answers were rewarded, how many answers have a thought? Are the thoughts
# longer than before? And are answers with a thought more often right?

# %%
with use_kernels("fast"):
    policy, log = reinforce(sft, CHECKERS["exact"], Q=32, rate=1e-4)
found = answers(policy)
after = score_answers(test, found)
for scores, replies in ((before, imitated), (after, found)):
    scores["digits, given a thought"] = scores.pop("thought") / scores["thinks"]
    scores |= {"right, given a thought": right_if(True, replies)}
print(f"{'':24}{'SFT':>8}{'GRPO':>8}     60 held-out questions, 8 answers each")
for name in after:
    print(f"{name:24}{before[name]:8.2f}{after[name]:8.2f}")
print("answers in groups of equal rewards, round by round:", np.array([row["teach nothing"] for row in log]))
assert np.mean([row["teach nothing"] for row in log[-4:]]) > log[0]["teach nothing"] + 0.2
assert after["exact"] > before["exact"] + 0.2 and after["thinks"] > before["thinks"] + 0.2
assert abs(after["digits, given a thought"] - before["digits, given a thought"]) < 0.3
assert abs(after["right, given a thought"] - before["right, given a thought"]) < 0.1
assert before["majority@8"] > before["exact"] + 0.1 and before["pass@8"] > after["exact"] - 0.05
with lesson.picture("rounds", "GRPO: what the answers of each round are like") as axes:
    for (name, label), line in zip({"exact": "right", "thinks": "with a thought", "format": "format"}.items(), LINES):
        axes.plot([row[name] for row in log], line, label=label)
    axes.set(xlabel="round", ylabel="share of answers", ylim=(0, 1.05))

# %% [markdown]
# Answer: nearly all have one, because thinking pays; nobody asked for it. In the picture, both shares rise together.
# The thoughts do not get longer: one digit for each term, as in the examples. (DeepSeek-R1's thoughts grew in length as
# well. Nothing here rewards that.) And an answer with a thought is right about as often as before (the last row). So
# what was learned is mostly *when* to think.
#
# And the better the policy, the more groups are right as a whole and teach nothing: this is what DAPO's dynamic
# sampling is for.
#
# The right answers were in reach before: among eight answers there was nearly always a right one (pass@8), and a
# majority of eight was better than a single answer (majority@8). GRPO turns what a model can do in eight attempts into
# what it does in one.
#
# More training from the same examples does not: `python scripts/grpo.py --control`, see finetune/README.md for three
# seeds of both.

# %% A lenient checker
# From a good start, being right is the easiest way to mention the right digit, and the lenient checker does no harm. So
# take a start that has learned a quarter as long.
#
# Predict: what will its answers be like if the reward is 1 as soon as the right digit is somewhere in the reply?

# %%
with use_kernels("fast"):
    weak, _ = cold_start_model(examples, seed=lesson.seed, steps=250)
    _, hacked = reinforce(weak, CHECKERS["lenient"], Q=16, rate=3e-4)
print("round    reward    exact    format")
for number in (0, 3, 7, 11, 15):
    row = hacked[number]
    print(f"{number + 1:5}{row['reward']:10.2f}{row['exact']:9.2f}{row['format']:10.2f}")
print("a reply in the first round:", hacked[0]["text"], " in the last:", hacked[-1]["text"])
first, last = ({key: np.mean([row[key] for row in part]) for key in ("reward", "exact")}
               for part in (hacked[:4], hacked[-4:]))  # fmt: skip
assert last["reward"] > first["reward"] + 0.05 and last["exact"] < min(first["exact"] + 0.1, last["reward"] / 2)

# %% [markdown]
# Answer: the reward rises, and right answers stay rare: reward hacking, without any learned reward model. With most
# seeds it begins to write more digits and to give up the format, so the right digit is among them more often. A checker
# is a specification, and this one says "mention the answer".
#
# The repair is a checker that grades what was meant: one thought, then one digit, then the end (`Chain.is_correct`).
# While training, watch a measurement that is not the reward: here `exact` and `format` are reported apart.

# %% A real model, with LoRA
# SmolLM2, 135 million parameters, speaks, but rarely adds: asked for a sum, it talks about mathematics. The reward is 1
# if the last number of its reply is the sum. Only LoRA's matrices learn (lesson 444). Sums are held out.


def smollm2_adds() -> dict[str, Any]:
    """GRPO on sums of two digits: the share of right replies and their mean length, per round and on held-out sums."""
    manual_seed(0)
    model, words = load_model("smollm2")
    apply_lora(model.eval(), LoRAConfig(r=8))
    chat, config, rng = ChatTemplate(words), GRPOConfig(num_mini_batches=2), np.random.default_rng(0)
    sums = rng.permutation([(a, b) for a in range(1, 10) for b in range(1, 10)])
    held_out, learned = sums[:16], sums[16:]

    def ask_each(pairs: np.ndarray) -> tuple[Any, np.ndarray, list[str]]:
        """Eight replies to each sum, and whether the last number of each is right."""
        asked = np.repeat(pairs, SAMPLES, axis=0).tolist()
        questions: list[list[Message]] = [[{"role": "user", "content": f"What is {a} + {b}?"}] for a, b in asked]
        prompts = [chat.encode(question, add_generation_prompt=True)[0] for question in questions]
        rollout = sample_replies(model, prompts, config.response_length, chat.stop_tokens)
        texts = [words.decode(ids, skip_special_tokens=True) for ids in rollout.replies()]
        right = [re.findall(r"\d+", text)[-1:] == [str(a + b)] for text, (a, b) in zip(texts, asked)]
        return rollout, np.array(right, float), texts

    found: dict[str, Any] = {"rounds": []}
    _, right, texts = ask_each(held_out)
    found["before"], found["reply before"] = right.mean(), texts[1]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optim.Adam(parameters, lr=1e-3)
    for _ in range(12):
        rollout, right, _ = ask_each(learned[rng.choice(len(learned), 8, replace=False)])
        found["rounds"].append([right.mean(), rollout.mask.sum(axis=1).mean()])
        advantages = group_advantages(right.reshape(-1, SAMPLES)).reshape(-1)
        for batch in grpo_batches(model, None, rollout, advantages, config, rng):
            total, count, _ = grpo_batch_loss(model, batch, config)
            model.zero_grad()
            (total / count).backward()
            optim.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    _, right, texts = ask_each(held_out)
    found["after"], found["reply after"] = right.mean(), texts[1]
    return found


adds = lesson.measured("smollm2", smollm2_adds)
print(f"held-out sums, 8 replies each: {adds['before']:.0%} right before, {adds['after']:.0%} after 12 rounds")
print(f"a reply before: {adds['reply before']}\nand after: {adds['reply after']}")
print(f"the small model above, all of its weights: {before['exact']:.0%} before, {after['exact']:.0%} after 16 rounds")
print("tokens per reply, round by round:", " ".join(f"{length:.0f}" for _, length in adds["rounds"]))
assert adds["after"] > adds["before"] + 0.5

# %%
# In small, now: of the model above, too, only LoRA's matrices learn.
with use_kernels("fast"):
    adapted, _ = reinforce(sft, CHECKERS["exact"], Q=32, rate=3e-3, lora=LoRAConfig(r=8))
exact = score_answers(test, answers(adapted))["exact"]
print(f"the small model, LoRA's matrices only: {before['exact']:.0%} before, {exact:.0%} after 16 rounds")
assert exact > before["exact"] + 0.2

# %% [markdown]
# SmolLM2's replies become short and to the point, and most sums in them are right. This is one seed, with the first
# learning rate that was tried, and takes 14 minutes on one core. The small model learns nearly as much with LoRA's
# matrices as with all of its weights, at a rate that is 30 times as high.

# %% [markdown]
# ## What next
#
# - try: `python scripts/grpo.py`, then `--method rloo --init-from runs/grpo/worked --out-dir runs/rloo`. Expect: nearly
#   the same accuracy, because the methods differ little when the answers are about equally long.
# - exercise: `python scripts/exercise.py start grpo`
# - break: `python scripts/break.py mixed_groups`. Expect: a group holds answers to different questions, so an easy
#   question makes right answers to hard ones look ordinary, and the hard ones are hardly learned.
# - read: finetune/objectives/grpo.py, then finetune/stages/grpo.py beside ppo.py
# - lesson: `python scripts/lesson.py 447`
