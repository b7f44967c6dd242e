"""Lesson 4.3.2: pretraining, or the same heartbeat with three additions

Forward, loss, backward, step: every network is trained in this loop. The loop of a GPT has three additions: a learning
rate that warms up and decays, gradients that are clipped, and a text that supplies its own labels. This lesson writes
the loop once, shows why each addition is there, and measures what it is worth. gpt/training/training_loop.py has
the same loop, and below it the one of a longer run.
Radford et al. 2019; Pascanu et al. 2013, "On the difficulty of training recurrent neural networks"; Goyal et al. 2017
(warm-up); Loshchilov and Hutter 2017 (cosine decay).
"""

import itertools
import math
from typing import Any

import numpy as np

import minigrad.functional as F
from gpt import GPT
from gpt.training.batches import get_batch
from gpt.training.evaluation import baseline_losses
from minigrad import optim
from scripts.course.lessons.small_gpt import english, new_gpt, smooth, train, validation_loss, write
from scripts.course.pictures import Lesson

lesson = Lesson("432_pretraining", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% Inputs and targets
# A batch is a few windows of the text, cut at random. The targets are the inputs, one token later.
tokenizer, train_ids, val_ids = english()
V = len(tokenizer)
print(f"{len(train_ids):,} tokens for training, {len(val_ids):,} for validation")
inputs, targets = get_batch(train_ids, batch_size=2, block_size=6, rng=rng)
for name, row in (("input ", inputs[0]), ("target", targets[0])):
    print(name, [tokenizer.decode([i]) for i in row])
assert (inputs[:, 1:] == targets[:, :-1]).all()

# %% Cross-entropy over all positions at once
# Predict: 2 windows of 6 tokens, and a model that has not learned anything. How many predictions does it make, and what
# is the mean of -ln p(target)?
model = new_gpt(V, lesson.seed)
logits = model(inputs)  # (B, T, V)
flat = F.cross_entropy(logits.reshape(-1, V), targets.reshape(-1))  # (B*T, V) against (B*T)
print(f"logits {logits.shape}, as rows {logits.reshape(-1, V).shape}: one loss, {flat.item():.3f}")
by_hand = -np.log([F.softmax(logits, -1).data[b, t, targets[b, t]] for b in range(2) for t in range(6)]).mean()
print(f"by hand {by_hand:.3f}; knowing nothing is ln {V} = {math.log(V):.3f}")
assert np.isclose(flat.item(), by_hand, atol=1e-5) and abs(flat.item() - math.log(V)) < 0.25

# %% [markdown]
# Answer: 12 predictions, one for each position, and about ln V.

# %% The loop
# The loop of lesson 4.1.1, or of any network: a batch, forward, loss, backward, step. The text supplies the batches,
# which is the first addition. The other two are marked.


def pretrain(steps: int, peak: float, warmup: int, clip: float) -> tuple[GPT, list[float], list[float], list[float]]:
    """The trained model; the loss, the learning rate and the gradient norm of every step."""
    model = new_gpt(V, lesson.seed)
    optimizer = optim.AdamW(optim.decay_groups(model.named_parameters(), 0.1), lr=peak, betas=(0.9, 0.99))
    schedule = optim.WarmupCosine(optimizer, warmup, steps)  # addition: a learning rate that changes
    rng = np.random.default_rng(lesson.seed)
    losses, rates, norms = [], [], []
    for _ in range(steps):
        inputs, targets = get_batch(train_ids, 16, model.config.block_size, rng)
        loss = model.loss(inputs, targets)  # forward
        model.zero_grad()
        loss.backward()  # backward
        norm = optim.clip_grad_norm_(model.parameters(), clip)  # addition: after backward, before the step
        optimizer.step()  # step
        rates.append(schedule.get_last_lr()[0])
        schedule.step()
        losses.append(loss.item())
        norms.append(float(norm))
    return model, losses, rates, norms


# %%
steps, warmup = 300, 100
model, losses, rates, norms = pretrain(steps, peak=3e-3, warmup=warmup, clip=1.0)
print(f"loss {losses[0]:.2f} -> {np.mean(losses[-15:]):.2f} in {steps} steps of 16 x 32 tokens")
assert np.mean(losses[-15:]) < losses[0] - 1.5

# %% Why warm up?
# Adam moves a weight by
#
#     lr m / (sqrt(v) + eps)        m: running mean of its gradients g;  v: running mean of g^2
#
# both corrected for having started at 0.
#
# Predict: how far does the first step move a weight on average, as a part of the rate? How far the 50th?
model_ = new_gpt(V, lesson.seed)
optimizer = optim.AdamW(model_.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0)
moved = []
for _ in range(50):
    before = [p.data.copy() for p in model_.parameters()]
    model_.zero_grad()
    model_.loss(*get_batch(train_ids, 16, 32, rng)).backward()
    optimizer.step()
    changes = [np.abs(p.data - old).ravel() for p, old in zip(model_.parameters(), before)]
    moved.append(float(np.concatenate(changes).mean()) / 3e-3)
for step in (1, 2, 5, 10, 50):
    print(f"  step {step:2}: weights move by {moved[step - 1]:.2f} of the rate")
assert np.isclose(moved[0], 1, atol=0.02) and moved[49] < 0.4

# %% [markdown]
# Answer: by all of it, and later by a small part. After the first gradient, the corrected means are m = g and v = g^2.
# So the first step is lr g / |g|: plus or minus the whole rate, whether g is large or is mostly noise. Later, gradients
# of changing signs cancel in m, but not in v. The weights start with std 0.02, and the rate is 0.003: a few such steps
# in one direction replace what initialization has arranged. So the rate starts near 0 and rises in a line, while m and
# v become good estimates.

# %% The schedule: linear warm-up, then cosine decay
# With W warm-up steps of S, and a last rate of a tenth of the peak, step t (from 0) has the rate
#
#     peak (t + 1) / (W + 1)                                              t < W
#     peak (0.1 + 0.9 (1 + cos(pi p)) / 2),    p = (t - W) / (S - W)      later
#
# A cosine falls slowly at first, fastest in the middle, and slowly again at the end.
by_formula = [3e-3 * (0.1 + 0.9 * (1 + math.cos(math.pi * (t - warmup) / (steps - warmup))) / 2)
              if t >= warmup else 3e-3 * (t + 1) / (warmup + 1) for t in range(steps)]  # fmt: skip
assert np.allclose(rates, by_formula)
with lesson.picture("schedule", "The learning rate: linear warm-up, cosine decay") as axes:
    axes.plot(rates)
    axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))

# %% Clipping bounds the gradient and keeps its direction
# If the norm of all gradients together, sqrt(sum of g^2), is above a limit, all are scaled by limit / norm. One batch
# with a huge gradient then cannot throw the weights far away, or fill Adam's v for many steps.
probe = new_gpt(V, lesson.seed)
probe.loss(*get_batch(train_ids, 16, 32, rng)).backward()
parameters = list(probe.parameters())
before_ = np.concatenate([p.grad.ravel() for p in parameters])  # all gradients as one long vector
norm = np.sqrt((before_**2).sum())
by_hand = before_ * (0.5 / norm) if norm > 0.5 else before_
total = optim.clip_grad_norm_(parameters, 0.5)
after = np.concatenate([p.grad.ravel() for p in parameters])
assert np.isclose(total, norm) and np.allclose(after, by_hand)
cosine = after @ before_ / np.linalg.norm(after) / np.linalg.norm(before_)
print(f"norm {norm:.3f} -> {np.linalg.norm(after):.3f}, cosine of the angle between them {cosine:.6f}")
assert np.isclose(np.linalg.norm(after), 0.5, rtol=1e-4) and cosine > 0.9999
print(f"in the run above the median norm was {np.median(norms):.2f} and the largest {max(norms):.2f}; "
      f"{np.mean(np.array(norms) > 1):.0%} of the steps were clipped")  # fmt: skip

# %% What are warm-up and clipping worth?
# The same run with another start of the schedule, with and without clipping, and once without decay.
#
# Predict: which one helps more, warming up or clipping? Does one make the other superfluous?
SCHEDULES = {  # warm-up steps of 300, and the last rate as a part of the peak
    "no warm-up, cosine": (0, 0.1),
    "30, cosine": (30, 0.1),
    "100, cosine": (100, 0.1),
    "100, constant": (100, 1.0),
}


def schedule_losses() -> list[dict[str, Any]]:
    """For each schedule, without clipping and with it: the validation losses after 300 steps of seeds 11 to 15."""
    rows = []
    for (name, (warmup, last)), clip in itertools.product(SCHEDULES.items(), (0.0, 1.0)):
        losses = []
        for seed in range(11, 16):
            model = new_gpt(V, seed)
            train(model, train_ids, 300, 3e-3, seed=seed, warmup=warmup, min_lr_ratio=last, grad_clip=clip)
            losses.append(round(validation_loss(model, val_ids), 4))
        rows.append({"schedule": name, "clip": clip, "losses": losses})
    return rows


# %%
rows = lesson.measured("schedules", schedule_losses)
print("validation loss after 300 steps at the rate 0.003, mean and largest of five seeds:")
for row in rows:
    clipped = "clipped at 1" if row["clip"] else "not clipped"
    print(f"  {row['schedule']:18} {clipped:12} {np.mean(row['losses']):.2f}, {max(row['losses']):.2f}")
table = {(row["schedule"], row["clip"]): np.array(row["losses"]) for row in rows}

means = {key: losses.mean() for key, losses in table.items()}
none, short, long, constant = SCHEDULES
assert means[none, 1.0] < means[none, 0.0] - 0.2 and means[short, 1.0] < means[short, 0.0] - 0.2
assert (table[long, 1.0] < table[none, 0.0]).all() and abs(means[long, 1.0] - means[long, 0.0]) < 0.05
assert abs(means[constant, 1.0] - means[long, 1.0]) < 0.05 and means[short, 0.0] > means[none, 0.0] - 0.1

# %%
unsafe, *_ = pretrain(steps, peak=3e-3, warmup=0, clip=math.inf)  # one cell of the table, today
safe_loss, unsafe_loss = validation_loss(model, val_ids), validation_loss(unsafe, val_ids)
print(f"100 and clipped {safe_loss:.2f}, no warm-up and not clipped {unsafe_loss:.2f}")
assert safe_loss < unsafe_loss

# %% [markdown]
# Answer: each helps, and a long warm-up makes clipping superfluous. Without both, some seeds lose almost a whole nat
# and others hardly anything. Clipping repairs most of that. A warm-up of 30 steps without clipping is no better than
# none, with these seeds. After 100 steps of warm-up hardly anything is left for clipping to do. Real runs use both:
# they cost little, and one accident costs a run.

# %% Why decay?
# Train a small model at a constant, large rate. Then go on from the same weights, once at that rate and once with a
# rate that falls.
#
# Predict: after 200 more steps, which one has the lower loss?
small = new_gpt(V, lesson.seed, n_layer=1, n_head=2, n_embd=32, block_size=16)
train(small, train_ids, 600, 1e-2, seed=lesson.seed, warmup=100, min_lr_ratio=1.0)
kept = {name: p.data.copy() for name, p in small.named_parameters()}
finals = {"600 steps": validation_loss(small, val_ids, 16_384)}
for name, last in (("200 more, constant", 1.0), ("200 more, falling", 0.1)):
    small.load_state_dict(kept)
    train(small, train_ids, 200, 1e-2, seed=lesson.seed + 1, warmup=0, min_lr_ratio=last)
    finals[name] = validation_loss(small, val_ids, 16_384)
print({name: round(loss, 3) for name, loss in finals.items()})
assert finals["200 more, falling"] < finals["200 more, constant"] < finals["600 steps"]

# %% [markdown]
# Answer: the falling rate. Large steps jump around a minimum; smaller ones get closer to it. But decay has a price:
# while the rate falls, the model learns less. In the table above, the runs of 300 steps are so short that a constant
# rate after the warm-up ends no worse than a cosine. Decay pays at the end of a run that is long for its model.

# %% Reading a loss curve
# From step to step the loss varies, because batches differ: look at a mean. And compare it with what simpler models
# reach, which know only how frequent each token is, or each pair of tokens. Equal distances in loss are not equal
# distances in quality.
#
# Predict: where does the loss fall more, in the first 60 steps, or from step 300 to step 600?
baselines = baseline_losses(train_ids, val_ids[:4096], V)
print("baselines:", {name: round(loss, 2) for name, loss in baselines.items()})
with lesson.picture("curve", "A loss curve, with baselines", size=(8, 4)) as axes:
    axes.plot(losses, color="0.75", label="loss of a batch")
    axes.plot(smooth(losses), label="mean of 15")
    for (name, loss), line in zip(baselines.items(), (":", "--", "-.")):
        axes.axhline(loss, linestyle=line, color="0.3", label=f"{name} {loss:.2f}")
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.legend(frameon=False, ncols=2)

# %%
models = {0: new_gpt(V, lesson.seed), 60: new_gpt(V, lesson.seed), 300: model, 600: new_gpt(V, lesson.seed)}
for steps_ in (60, 600):
    train(models[steps_], train_ids, steps_, seed=lesson.seed)
curve = [validation_loss(each, val_ids) for each in models.values()]
for (steps_, each), loss in zip(models.items(), curve):
    better_than = [name for name, baseline in baselines.items() if loss < baseline - 0.01]
    print(f"{steps_:4} steps, validation loss {loss:.2f}, better than: {', '.join(better_than) or 'none of them'}")
    print(f"     {write(each, tokenizer, 'The', 24, seed=lesson.seed)}")
assert curve == sorted(curve, reverse=True) and curve[0] - curve[1] > curve[2] - curve[3]

# %% [markdown]
# Answer: in the first 60 steps. There the model learns which tokens are frequent. What comes later costs more and more
# steps, and is what makes text readable. Sentences that make sense need a larger model: `python scripts/demo.py`.
#
# Curves of runs that went wrong, and how to find the reason, are the subject of lesson 4.3.5.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start sgd`, adam, adamw, cross_entropy, clipping, warmup_cosine, training_loop
# - line by line: `python scripts/step.py --html step`
# - read: gpt/training/training_loop.py: the loop above; training_step.py: its step in full; minigrad/optim.py
# - break: `python scripts/break.py unshifted`. Expect: a loss near 0, because the answer is in the input, and a text
#   that mostly repeats its last token.
# - try: betas=(0.9, 0.9999) in `pretrain`. Expect: hardly a difference. The mean over 10,000 steps has seen 300, and
#   Adam's bias correction makes up for that.
# - lesson: `python scripts/lesson.py 433`
