"""Lesson 4.4.7: distillation, or what a teacher tells that a text does not

A large model predicts well, and a small one is cheap. In *distillation* the small one, the student, does not learn from
the token that came next, but from the probabilities that the large one, its teacher, gives to all tokens. This lesson
computes by hand what that adds, compares the two directions of the KL divergence, and asks when it is worth the
teacher's work: with much text and with little, for a model of half the blocks and for one of one bit per weight.
Hinton et al. 2015, arXiv 1503.02531; Sanh et al. 2019, 1910.01108 (DistilBERT); Gu et al. 2023, 2306.08543 (MiniLLM);
Agarwal et al. 2023, 2306.13649 (GKD).
"""

import copy
import itertools

import numpy as np

from finetune import LoRAConfig, apply_lora
from finetune.objectives.distillation import distillation_from, distillation_loss
from finetune.objectives.logprobs import entropy
from gpt.accounting import token_flops
from gpt.training.training_step import language_model_loss
from minigrad import Tensor, nn, use_kernels
from scripts.course.lessons.small_gpt import english, new_gpt, train, validation_loss
from scripts.course.pictures import BLUE, LINES, Lesson

lesson = Lesson("447_distillation", __doc__)

# %% [markdown]
# ## The limitation: a text shows one token of many
#
# "The cat sat on the": the text goes on with "mat", so the cross-entropy raises "mat" and lowers all other words,
# "sofa" as much as "of". A teacher knows that "sofa" would have done as well.
#
# Predict: the student's gradient is q - p for a teacher's probabilities p, and q - one-hot for a text. What is the mean
# of the second over all texts that the teacher could write?

# %%
told, student = np.array([3, 2.5, 1, -3]), Tensor(np.zeros(4), requires_grad=True)  # logits: mat, sofa, roof, of
p = np.exp(told) / np.exp(told).sum()
distillation_loss(student, Tensor(told)).backward()
by_text = 0.25 - np.eye(4)  # row v: the gradient if word v came next; the student gives 1/4 to each
noise, size = p @ ((by_text - student.grad) ** 2).sum(axis=1), (student.grad**2).sum()
print(f"teacher {p}, its gradient {student.grad}, squared {size:.2f}\na text's: variance {noise:.2f}\n{by_text}")
assert np.allclose(p @ by_text, student.grad), "the teacher's gradient must be the mean of those of its texts"
assert noise > size, "a text's gradient must be noisy: its variance larger than the square of the mean"

# %% [markdown]
# Answer: q - p, the teacher's gradient. A text is a sample of it, and a noisy one: its variance is larger than the
# square of what is to be learned. The teacher gives the mean over all its texts at once. (Its mistakes come with it.)
#
# ## Temperature
#
# In p, "of" hardly counts, so a student may give it 1/100 or 1/10,000. Dividing all logits by a temperature τ makes
# both distributions flat, and small probabilities count. The loss is multiplied by τ².

# %%
with lesson.picture("temperature", 'What the teacher says after "The cat sat on the"', size=(6, 3.2)) as axes:
    for i, tau in enumerate((1, 2, 10)):
        soft = Tensor(told / tau).softmax(-1).data
        axes.bar(np.arange(4) + 0.27 * (i - 1), soft, 0.25, color=BLUE, alpha=(0.8, 0.5, 0.25)[i], label=f"τ = {tau}")
    axes.set(ylabel="probability")
    axes.set_xticks(range(4), ["mat", "sofa", "roof", "of"])

# %% [markdown]
# Predict: how large is the gradient for τ = 100, compared to τ = 10, with the factor τ² and without?

# %%
for tau in (1, 10, 100):
    student.grad = None
    distillation_loss(student, Tensor(told), tau).backward()
    print(f"τ = {tau:3}: gradient {student.grad}, without the factor {student.grad / tau**2}")
    if tau > 1:
        close = np.allclose(student.grad, (told.mean() - told) / 4, atol=2 / tau)
        assert close, "for a large τ the gradient must be (s - t) / V: is the loss multiplied by τ²?"

# %% [markdown]
# Answer: with the factor about equal, without it a hundredth. For a large τ the student learns the teacher's logits:
# the gradient is (s - t) / V, for logits of mean 0, and largest for "of".
#
# ## In a training step
#
# A text has a prediction at each place. `distillation_from(teacher, temperature)` is a loss function for the training
# loop: it lets the teacher read the batch as well, and adds up the loss of all places that have a target. Teacher and
# student here are tables of logits, a row for each of the four words: language models that see one word (lesson 411).
# With `reverse`, the two distributions change places in the KL divergence (what that does comes next).
#
# Predict: the batch is "mat sofa roof", and the target of "roof" is -100, which does not count. How many probabilities
# does the student get from the teacher, and how many tokens from the text?

# %%
teacher, pupil = nn.Embedding(4, 4), nn.Embedding(4, 4)
ids, targets = np.array([[0, 1, 2]]), np.array([[1, 2, -100]])
for reverse in (False, True):
    total, count, _ = distillation_from(teacher, temperature=2.0, reverse=reverse)(pupil, (ids, targets))
    by_hand = 0.0
    for word in (0, 1):
        p, q = (np.exp(table.weight.data[word] / 2) for table in (teacher, pupil))
        p, q = p / p.sum(), q / q.sum()
        by_hand += 2**2 * np.sum(q * np.log(q / p) if reverse else p * np.log(p / q))
    print(f"{count} places: distillation_from at τ = 2 {total.item():.4f}, by hand {by_hand:.4f} (reverse: {reverse})")
    assert count == 2, "a place without a target must not count"
    assert np.isclose(total.item(), by_hand, atol=1e-5), "at τ = 2 it must add up 2² KL(p || q), in reverse KL(q || p)"

# %% [markdown]
# Answer: eight, four at each of two places; and two tokens.
#
# ## Two directions
#
# A student that is too small cannot be like its teacher. The direction of the KL divergence decides what it gives up:
# *forward*, Σ p ln(p/q), is large where the teacher has probability and the student has none; *reverse*, Σ q ln(q/p),
# where the student has probability and the teacher has none.
#
# Predict: the teacher's distribution has two bumps, and the student can only be one bump, anywhere and of any width.
# Where does each direction put it?

# %%
x = np.linspace(-6, 6, 121)
bumps = np.log(0.6 * np.exp(-((x - 2) ** 2)) + 0.4 * np.exp(-((x + 2) ** 2)))  # the teacher's logits
centers, widths = np.ogrid[-3:3:61j, 0.5:6:56j]
each = -(((x - centers[..., None]) / widths[..., None]) ** 2).reshape(-1, 121)  # the logits of 61 x 56 students
losses = [distillation_loss(Tensor(each), Tensor(0 * each + bumps), reverse=reverse).data for reverse in (False, True)]
best = [loss.argmin() for loss in losses]
p, forward, reverse = Tensor(np.stack([bumps, *each[best]])).softmax(-1).data
for name, q in (("teacher", p), ("forward", forward), ("reverse", reverse)):
    print(f"{name}: mean {q @ x:.2f}, mean square {q @ x**2:.2f}, left bump {q[:50].sum():.2f}, x = 0 {q[60]:.4f}")
assert abs(forward @ x - p @ x) < 0.1, "forward KL must find the teacher's mean"
assert abs(forward @ x**2 - p @ x**2) < 0.1, "forward KL must find the teacher's mean square"
assert forward[60] > 5 * p[60], "forward KL must cover the gap between the bumps as well"
assert abs(reverse @ x - 2) < 0.1, "reverse KL must choose the larger bump"
assert reverse[:50].sum() < 0.001 < 0.3 < p[:50].sum(), "reverse KL must leave out the smaller bump"

# %%
with lesson.picture("bumps", "One bump for two: forward KL covers both, reverse KL takes one", size=(6.5, 3.4)) as axes:
    axes.fill_between(x, p, color=BLUE, alpha=0.25, label="teacher")
    for name, q, line in (("forward KL", forward, "-"), ("reverse KL", reverse, "--")):
        axes.plot(x, q, line, label=name)
    axes.set(xlabel="x", ylabel="probability")
places = [[float(grid.ravel()[i]) for grid in np.broadcast_arrays(centers, widths)] for i in best]
least = dict(zip(("forward", "reverse"), places))
lesson.widget("kl", {"x": x.tolist(), "teacher": p.tolist(), "least": least})

# %% [markdown]
# Answer: forward covers both bumps, with the mean and the mean square of the teacher. For that, it finds the gap in the
# middle more than five times as probable as the teacher does. Reverse takes the larger bump and forgets the other one.
# Move the student: forward KL grows fast where it leaves a bump uncovered, reverse KL where it stands in the gap.
#
# ## The same with words
#
# The teacher is now a table of counts that sees two tokens, and the student sees one: it needs a single distribution
# after the most common token, whatever stood before that (each context counts the same). Nothing has to be trained. The
# forward loss is least for the *arithmetic* mean of the teacher's distributions, and the reverse loss for the
# *geometric* one, made to sum to 1.
#
# Predict: which of the two students has the higher entropy, and what does the other one leave out?

# %%
tokenizer, train_ids, val_ids = english(320)
V, common = len(tokenizer), np.bincount(train_ids).argmax()
at, counts = np.flatnonzero(train_ids[1:-1] == common), np.full((V, V), 1e-4)
np.add.at(counts, (train_ids[at], train_ids[at + 2]), 1)  # (the token before, the token after)
told = np.log(counts / counts.sum(axis=1, keepdims=True))[counts.sum(axis=1) > 20]  # (contexts, V)
means = np.stack([np.log(np.exp(told).mean(axis=0)), told.mean(axis=0)])
for reverse, logits in zip((False, True), means):
    student = Tensor(logits, requires_grad=True)
    distillation_loss(student + np.zeros_like(told), Tensor(told), reverse=reverse).sum().backward()
    kind = "geometric" if reverse else "arithmetic"
    assert np.abs(student.grad).max() < 1e-9, f"the {kind} mean must have the least loss: a gradient of 0"
(p, q), entropies = Tensor(means).softmax(-1).data, entropy(Tensor(means)).data
print(f"after {tokenizer.decode([common])!r}: entropies {entropies}; left out in reverse {p[q < p / 10].sum():.0%}")
assert entropies[1] < entropies[0] - 0.5, "the reverse student must be the more certain one"
assert p[q < p / 10].sum() > 0.25, "the reverse student must leave out much of what the forward one keeps"

# %% [markdown]
# Answer: forward's. Its student keeps all that the teacher expects in some context, and reverse what is possible in all
# of them. Tokens that together have more than a quarter of forward's probability get less than a tenth of it in
# reverse.
#
# ## Is it worth the teacher's work?
#
# The students are now damaged copies of the teacher. "half" has the first of its two blocks (DistilBERT starts with
# every second one). "1 bit" has the signs of all weights in the blocks, times a number per row (lesson 445). These are
# frozen, and LoRA adapters learn to correct them (lesson 444). Each student learns from the text, or from the teacher's
# probabilities on the same text: all of it, or 4,000 tokens. The training step is the usual one, with another loss
# function: `distillation_from(teacher)` in the place of `language_model_loss`.
#
# The teacher's forward passes count. If the student takes C FLOPs per token forward and the teacher D, a training step
# takes 3 C (2 C with frozen weights, which get no gradient), and with a teacher D more. The text gets more steps, for
# the same work. The text may also stop after a quarter of its steps, and the teacher have a temperature of 2. Each way
# has the best of five learning rates, which is never the smallest or the largest of them, and a warm-up of a third of
# its steps. The training of the teacher does not count: it is there.
#
# Predict: which way is better with all the text, and which with 4,000 tokens?

# %%
RATES = {"half": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3), "1 bit": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)}


def study(seed, teacher_steps, amounts, rates):
    """For each student and amount: the teacher's loss and the damaged student's, on the held-out text. Then for each
    way and learning rate, the losses of the student that has learned: held-out, and on the first 4,000 tokens."""
    teacher = new_gpt(V, seed)
    train(teacher, train_ids, teacher_steps, seed=seed, warmup=teacher_steps // 3)
    half, one_bit, found = new_gpt(V, seed, n_layer=1), copy.deepcopy(teacher), {}
    half.load_state_dict(teacher.state_dict(), strict=False)
    for p in (p for block in one_bit.blocks for p in block.parameters() if p.ndim == 2):
        p.data[...] = np.sign(p.data) * np.abs(p.data).mean(axis=1, keepdims=True)
    apply_lora(one_bit, LoRAConfig(r=8, alpha=16, target_modules="all-linear"))
    for (name, copied), amount in itertools.product({"half": half, "1 bit": one_bit}.items(), amounts):
        row = found[f"{name}, {amount} tokens"] = {"before": [validation_loss(m, val_ids) for m in (teacher, copied)]}
        # Of a step with a teacher, in steps without. Training takes 3 times forward; with frozen weights, twice.
        cost = 1 + token_flops(teacher.config, 32) / token_flops(copied.config, 32) / (3 if name == "half" else 2)
        ways = {"text": (language_model_loss, cost), "stopped early": (language_model_loss, cost / 4)}
        ways |= {"teacher": (distillation_from(teacher), 1), "τ = 2": (distillation_from(teacher, 2.0), 1)}
        for (way, (loss_fn, length)), rate in itertools.product(ways.items(), rates[name]):
            steps = round(60 * length)
            options = {"seed": seed, "loss_fn": loss_fn, "weight_decay": 0.0, "warmup": steps // 3}
            train(student := copy.deepcopy(copied), train_ids[:amount], steps, rate, **options)
            losses = [round(validation_loss(student, ids), 4) for ids in (val_ids, train_ids[:4000])]
            row.setdefault(way, []).append(losses)
    return found


def studies():
    """With ten seeds: a teacher of 1,200 steps, all of the text and a part, and five learning rates for each way."""
    return [study(seed, 1200, (len(train_ids), 4000), RATES) for seed in range(10)]


def tuned(found, row, ways):
    """The better of two ways at its best rate: the losses of all seeds, (seeds, 2), and the place of the rate."""
    best = []
    for way in ways:
        losses = np.array([run[row][way] for run in found])  # (seeds, rates, 2)
        means = losses[:, :, 0].mean(axis=0)
        place = means.argmin()
        print(f"  {way:13} {means}")
        if len(means) == 5:
            assert 0 < place < 4, "the best rate is at the edge: there may be a better one outside"
        best.append((means[place], losses[:, place], place))
    _, losses, place = min(best, key=lambda each: each[0])
    return losses, place


runs = lesson.measured("study", studies, study)
with use_kernels("fast"):  # in small, now: a teacher of 500 steps, and the rates that suit the text and the teacher
    today = study(lesson.seed, 500, (4000,), {"half": (1e-4, 1e-3), "1 bit": (3e-3, 1e-2)})
for name, found in (("ten seeds", runs), ("today", [today])):
    for row in found[0]:
        before = np.mean([run[row]["before"] for run in found], axis=0)
        print(f"{name}, {row}: teacher and damaged {before}; after learning, by rate:")
        text, _ = tuned(found, row, ("text", "stopped early"))
        told, place_told = tuned(found, row, ("teacher", "τ = 2"))
        gain = text[:, 0] - told[:, 0]  # (seeds)
        print(f"  the teacher's students are better by {gain.mean():.3f} ({gain.min():.3f} to {gain.max():.3f})")
        if "half" in row and ", 4000" not in row:
            assert abs(gain.mean()) < 0.01, "with much text, half a teacher must learn as much from the text"
        else:
            assert gain.min() > 0, "the teacher's student must be the better one with every seed"
        if ", 4000" in row:  # the student of the text at the teacher's rate
            others, own = np.mean([run[row]["text"][place_told] for run in found], axis=0)
            print(f"  by text at the teacher's rate: {others:.2f}, and on its own 4,000 tokens {own:.2f}")
            assert own < told[:, 1].min() - 0.05, "the text's student must know its own tokens better"
            assert others > told[:, 0].max() + 0.1, "and other tokens worse: it has learned its own by heart"

# %%
with lesson.picture("rates", "4,000 tokens: loss on other text, mean of ten seeds", 2, size=(8, 3.4)) as panels:
    for axes, name in zip(panels, RATES):
        row = f"{name}, 4000 tokens"
        for way, line in zip(("text", "stopped early", "teacher", "τ = 2"), LINES):
            axes.semilogx(RATES[name], np.mean([run[row][way] for run in runs], axis=0)[:, 0], line, label=way)
        axes.set(xlabel="learning rate", ylabel="loss", title=f'the student "{name}"')

# %% [markdown]
# Answer: with 4,000 tokens the teacher, for both students and with every seed. A student of the text must learn in
# small steps. At the teacher's rate it is better on its own 4,000 tokens and worse on others: it knows them by heart,
# whereas the teacher's probabilities also say what else could stand there. In the picture, the text's curves have their
# lowest point at a small rate and rise steeply. With texts drawn from all tokens, at equal
# work, the half of a teacher learns as much from the text as from the teacher. The student with one bit per weight
# learns more from the teacher, with every seed, but the difference is small (0.02). So a teacher is worth its work
# where text is rare, or where the student has few bits. Two caveats: this teacher has read the whole text, and these
# are short runs of tiny models.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start distillation`
# - read: finetune/objectives/distillation.py, with both gradients derived
# - try: `distillation_from(teacher, text_weight=0.5)` as one more way, half of each, as in Hinton et al. Expect: with
#   4,000 tokens, a loss nearer to the teacher's than to the text's.
# - break: in finetune/objectives/distillation.py, leave out `temperature**2`. Expect: the assertion on τ = 10 fails.
# - lesson: `python scripts/lesson.py 448`
