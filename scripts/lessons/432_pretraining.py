"""Lesson 4.3.2: pretraining, or the same heartbeat with three additions

Forward, loss, backward, step: every network is trained in this loop. The loop of a GPT has three additions: a learning
rate that warms up and decays, gradients that are clipped, and a text that supplies its own labels. This lesson writes
the loop once, measures what the additions do, and reads loss curves. gpt/training/training_step.py is the same step;
run.py, beside it, is what surrounds the loop of a longer run.
Radford et al. 2019; Pascanu et al. 2013, "On the difficulty of training recurrent neural networks".
"""

from __future__ import annotations

import itertools
import math

import numpy as np

import minigrad.functional as F
from gpt.training.batches import get_batch
from gpt.training.evaluation import baseline_losses
from minigrad import optim, use_kernels
from scripts.lessons.small_gpt import english, new_gpt, smooth, train, validation_loss, write
from scripts.pages.pictures import LINES, Lesson

lesson = Lesson("432_pretraining", __doc__)

# %% Inputs and targets
tokenizer, train_ids, val_ids = english()
V = len(tokenizer)
rng = np.random.default_rng(0)
inputs, targets = get_batch(train_ids, batch_size=2, block_size=6, rng=rng)
for name, row in (("input ", inputs[0]), ("target", targets[0])):
    print(name, [tokenizer.decode([i]) for i in row])
assert (inputs[:, 1:] == targets[:, :-1]).all()
print(f"{len(train_ids):,} tokens for training, {len(val_ids):,} for validation")

# %% Cross-entropy over all positions at once
model = new_gpt(V)
logits = model(inputs)  # (B, T, V)
flat = F.cross_entropy(logits.reshape(-1, V), targets.reshape(-1))  # (B*T, V) against (B*T)
by_hand = -np.log([F.softmax(logits, -1).data[b, t, targets[b, t]] for b in range(2) for t in range(6)]).mean()
assert np.isclose(flat.item(), by_hand, atol=1e-5)
print(f"12 predictions, one loss: {flat.item():.3f}; knowing nothing is ln {V} = {math.log(V):.3f}")
assert abs(flat.item() - math.log(V)) < 0.2

# %% The loop
# The loop of lesson 4.1.1, or of any network: a batch, forward, loss, backward, step. The text supplies the batches,
# which is the first addition. The other two are marked.


def pretrain(steps: int, peak: float, warmup: int, clip: float) -> tuple[list[float], list[float], list[float]]:
    """Losses, learning rates, and gradient norms of every step."""
    model = new_gpt(V)
    optimizer = optim.AdamW(optim.decay_groups(model.named_parameters(), 0.1), lr=peak, betas=(0.9, 0.99))
    schedule = optim.WarmupCosine(optimizer, warmup, steps)  # addition: a learning rate that changes
    rng = np.random.default_rng(0)
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
    return losses, rates, norms


steps = 300
warmup = 30
losses, rates, norms = pretrain(steps, peak=3e-3, warmup=warmup, clip=1.0)
print(f"loss {losses[0]:.2f} -> {np.mean(losses[-15:]):.2f} in {steps} steps of 16 x 32 tokens")

# %% The learning rate: linear warm-up, then cosine decay
# Why not a constant rate? Early, Adam's estimates are poor and large steps do lasting harm. Late, large steps jump
# around a minimum. Does it matter here?
assert np.argmax(rates) == warmup and np.isclose(max(rates), 3e-3)
assert np.isclose(rates[warmup // 2], 3e-3 * (warmup // 2 + 1) / (warmup + 1))  # a line
middle = (warmup + steps) // 2
assert np.isclose(rates[middle], 3e-3 * 0.55, rtol=0.02)  # half way between the peak and a tenth of it
print(f"first step {rates[0]:.1e}, peak {max(rates):.1e} at step {warmup}, last {rates[-1]:.1e}")
SCHEDULES = {  # warm-up steps of 200, and the last rate as a part of the peak
    "constant": (0, 1.0),
    "cosine": (0, 0.1),
    "warm-up, then cosine": (10, 0.1),
}
RATES = (1e-3, 1e-2, 3e-2)


def schedule_losses() -> dict[str, list[list[float]]]:
    """For each schedule, and for each of RATES, the validation losses of three seeds."""
    found: dict[str, list[list[float]]] = {name: [] for name in SCHEDULES}
    for rate, (name, (warmup, last)) in itertools.product(RATES, SCHEDULES.items()):
        losses = []
        for seed in (0, 1, 2):
            model = new_gpt(V, seed)
            train(model, train_ids, 200, rate, seed=seed, warmup=warmup, min_lr_ratio=last)
            losses.append(round(validation_loss(model, val_ids), 4))
        found[name].append(losses)
    return found


ends = {name: np.array(losses) for name, losses in lesson.measured("schedules", schedule_losses).items()}
print("validation loss after 200 steps, mean and standard deviation of seeds 0, 1 and 2:")
print(f"{'peak rate':>9}" + "".join(f"{name:>24}" for name in SCHEDULES))
for i, rate in enumerate(RATES):
    cells = [f"{losses[i].mean():.2f} +- {losses[i].std(ddof=1):.2f}" for losses in ends.values()]
    print(f"{rate:9g}" + "".join(f"{cell:>24}" for cell in cells))
constant, cosine, warmed = ends.values()  # (rates, seeds) each
assert constant[0].max() < cosine[0].min() and (warmed.mean(axis=1) >= cosine.mean(axis=1)).all()

# %% [markdown]
# In so short a run of so small a model, a schedule does not help. At the smallest rate the constant one is clearly
# better, because 200 steps are too few to slow down; warming up helps at none of the three rates. The course's reason
# for the schedule, a constant rate that fails, does not show here. Large models do use one.

# %%
with lesson.picture("schedule", "The learning rate", columns=2, size=(10, 3.6)) as (left, right):
    left.plot(rates, color="black")
    left.set(xlabel="step", ylabel="learning rate", title="linear warm-up, cosine decay", ylim=(0, None))
    for (name, of_seeds), line in zip(ends.items(), LINES):
        means, spreads = of_seeds.mean(axis=1), of_seeds.std(axis=1, ddof=1)
        right.errorbar(RATES, means, spreads, linestyle=line, color="black", capsize=3, label=name)
    right.set(xlabel="peak learning rate", ylabel="validation loss (nats per token)", xscale="log")

# %% Clipping bounds the step and keeps its direction
model = new_gpt(V)
model.loss(*get_batch(train_ids, 16, 32, rng)).backward()
parameters = list(model.parameters())
before = np.concatenate([p.grad.ravel() for p in parameters])
norm = float(optim.clip_grad_norm_(parameters, 0.5))
after = np.concatenate([p.grad.ravel() for p in parameters])
cosine = after @ before / np.linalg.norm(after) / np.linalg.norm(before)
print(f"norm {norm:.3f} -> {np.linalg.norm(after):.3f}, cosine of the angle between them {cosine:.6f}")
assert np.isclose(np.linalg.norm(after), min(norm, 0.5), rtol=1e-4) and cosine > 0.9999
print(f"in the run above the median norm was {np.median(norms):.2f} and the largest {max(norms):.2f}; "
      f"{np.mean(np.array(norms) > 1):.0%} of the steps were clipped")  # fmt: skip

# %% Reading a loss curve
# From step to step the loss varies, because batches differ: look at a mean. And compare it with what simpler models
# reach, which know only how frequent each token is, or each pair of tokens.
#
# Equal distances in loss are not equal distances in quality.
#
# Predict: where does the loss fall more, in the first 60 steps, or from step 300 to step 1,000?
baselines = baseline_losses(train_ids, val_ids[:4096], V)
noise = np.std(np.array(losses[-60:]) - smooth(losses)[-60:])
print(f"from step to step the loss varies by {noise:.2f}")
print("baselines:", {name: round(loss, 2) for name, loss in baselines.items()})
with lesson.picture("curve", "A loss curve, with baselines", size=(8, 4)) as axes:
    axes.plot(losses, color="0.75", label="loss of a batch")
    axes.plot(smooth(losses), color="black", label="mean of 15")
    for (name, loss), line in zip(baselines.items(), (":", "--", "-.")):
        axes.axhline(loss, linestyle=line, color="0.3", label=f"{name} {loss:.2f}")
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.legend(frameon=False, ncols=2)

curve = []
for steps_ in (0, 60, 300, 1000):
    model = new_gpt(V)
    if steps_:
        with use_kernels("fast"):
            train(model, train_ids, steps_)
    curve.append(validation_loss(model, val_ids))
    text = write(model, tokenizer, "The", 24)
    better_than = [name for name, loss in baselines.items() if curve[-1] < loss - 0.01]
    print(f"  {steps_:4} steps, validation loss {curve[-1]:.2f}, better than")
    print(f"  {', '.join(better_than) or 'none of them'}: {text}")
assert curve == sorted(curve, reverse=True) and curve[0] - curve[1] > curve[2] - curve[3]

# %% [markdown]
# Answer: in the first 60 steps. There the model learns which tokens are frequent. What comes later costs more and more
# steps, and is what makes text readable. Sentences that make sense need a larger model: `python scripts/demo.py`.
#
# ## What is wrong here?
#
# | the curve | the reason |
# |---|---|
# | flat at ln V | nothing is learned: the learning rate is 0, or no gradients arrive |
# | falls, then jumps and stays | a step was too large: warm up longer, clip, lower the rate |
# | near 0 within 400 steps | it sees the answer: a missing mask, or unshifted targets (`break.py`) |
# | training falls, validation rises | overfitting: more text, or fewer steps |
#
# ## What next
#
# - exercise: `python scripts/exercise.py start adamw`, clipping, warmup_cosine
# - read: gpt/training/training_step.py: the step above; pretraining.py: the loop; minigrad/optim.py
# - break: `python scripts/break.py unshifted`. Expect: a loss near 0, and a model that repeats its last token for ever.
# - try: betas=(0.9, 0.9999) above. Expect: hardly a difference, 3.71 in place of 3.73. The mean over 10,000 steps has
#   seen 300, and Adam's bias correction makes up for that.
# - lesson: `python scripts/lesson.py 433`
