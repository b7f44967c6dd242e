"""Lesson 4.3.2: pretraining, or the same heartbeat with three additions

Forward, loss, backward, step: the loop of every network. A GPT's has three additions: a learning rate that warms up and
decays, gradients that are clipped, and a text that is its own label. This lesson writes the loop down once, watches
what each addition does, and reads loss curves. gpt/training/training_step.py is the same step; trainer.py, beside it,
is the loop, with checkpoints.
Radford et al. 2019; Pascanu et al. 2013, "On the difficulty of training recurrent neural networks".
"""

from __future__ import annotations

import math

import numpy as np

import minigrad.functional as F
from gpt.training.batches import get_batch
from gpt.training.evaluation import baseline_losses
from minigrad import optim
from scripts.lessons.pictures import Lesson
from scripts.lessons.small_gpt import english, new_gpt, smooth, train, validation_loss, write

lesson = Lesson("432_pretraining", __doc__)

# %% Data: the same text, one step later
tokenizer, train_ids, val_ids = english()
V = len(tokenizer)
rng = np.random.default_rng(0)
inputs, targets = get_batch(train_ids, batch_size=2, block_size=6, rng=rng)
for name, row in (("input ", inputs[0]), ("target", targets[0])):
    print(name, [tokenizer.decode([i]) for i in row])
assert (inputs[:, 1:] == targets[:, :-1]).all()
print(f"{len(train_ids):,} tokens to learn from, {len(val_ids):,} to test on")

# %% The loss of a vocabulary
model = new_gpt(V)
logits = model(inputs)  # (B, T, V)
flat = F.cross_entropy(logits.reshape(-1, V), targets.reshape(-1))  # (B*T, V) against (B*T)
by_hand = -np.log([F.softmax(logits, -1).data[b, t, targets[b, t]] for b in range(2) for t in range(6)]).mean()
assert np.isclose(flat.item(), by_hand, atol=1e-5)
print(f"12 predictions, one loss: {flat.item():.3f}; knowing nothing is ln {V} = {math.log(V):.3f}")
assert abs(flat.item() - math.log(V)) < 0.2

# %% The loop

def pretrain(steps: int, peak: float, warmup: int, clip: float) -> tuple[list[float], list[float], list[float]]:
    """Losses, learning rates, and gradient norms of every step."""
    model = new_gpt(V)
    optimizer = optim.AdamW(optim.decay_groups(model.named_parameters(), 0.1), lr=peak, betas=(0.9, 0.99))
    schedule = optim.WarmupCosine(optimizer, warmup, steps)  # addition 1
    rng = np.random.default_rng(0)
    losses, rates, norms = [], [], []
    for _ in range(steps):
        inputs, targets = get_batch(train_ids, 16, model.config.block_size, rng)
        loss = model.loss(inputs, targets)  # forward
        model.zero_grad()
        loss.backward()  # backward
        norm = optim.clip_grad_norm_(model.parameters(), clip)  # addition 2: after backward, before the step
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

# %% Addition 1: a schedule
assert np.argmax(rates) == warmup and np.isclose(max(rates), 3e-3)
assert np.isclose(rates[warmup // 2], 3e-3 * (warmup // 2 + 1) / (warmup + 1))  # a line
middle = (warmup + steps) // 2
assert np.isclose(rates[middle], 3e-3 * 0.55, rtol=0.02)  # half way down between 1 and 0.1 of the peak
print(f"first step {rates[0]:.1e}, peak {max(rates):.1e} at step {warmup}, last {rates[-1]:.1e}")
cold, _, cold_norms = pretrain(steps, peak=3e-3, warmup=0, clip=1.0)
short, _, short_norms = pretrain(steps, peak=3e-3, warmup=steps // 20, clip=1.0)
print("warm-up  loss at the end  largest gradient norm")
for name, curve, sizes in (("none", cold, cold_norms), ("5 %", short, short_norms), ("10 %", losses, norms)):
    print(f"{name:>7}  {np.mean(curve[-15:]):15.2f}  {max(sizes):21.1f}")
print("the course warms up for 5 % of the steps. One seed each: a fresh Adam knows little about the size of its")
print("gradients, so that a first step can be far too large. Where it happened, the loss did not recover; no warm-up")
print("was lucky here.")

with lesson.picture("schedule", "The learning rate", columns=2, size=(10, 3.6)) as (left, right):
    left.plot(rates, color="black")
    left.set(xlabel="step", ylabel="learning rate", title="linear warm-up, cosine decay", ylim=(0, None))
    right.plot(smooth(cold), ":", color="black", label="no warm-up")
    right.plot(smooth(short), "--", color="black", label="5 % of the steps")
    right.plot(smooth(losses), "-", color="black", label="10 %")
    right.set(xlabel="step", ylabel="loss (nats per token), smoothed", title="how long to warm up")
    right.legend(frameon=False)

# %% Addition 2: clipping
model = new_gpt(V)
model.loss(*get_batch(train_ids, 16, 32, rng)).backward()
parameters = list(model.parameters())
before = np.concatenate([p.grad.ravel() for p in parameters])
norm = float(optim.clip_grad_norm_(parameters, 0.5))
after = np.concatenate([p.grad.ravel() for p in parameters])
cosine = after @ before / np.linalg.norm(after) / np.linalg.norm(before)
print(f"norm {norm:.3f} -> {np.linalg.norm(after):.3f}, cosine of the angle between them {cosine:.6f}")
assert np.isclose(np.linalg.norm(after), min(norm, 0.5), rtol=1e-4) and cosine > 0.9999
print(f"in the run above the norm was {np.median(norms):.2f} in the middle, {max(norms):.2f} at most; "
      f"{np.mean(np.array(norms) > 1):.0%} of the steps were clipped")  # fmt: skip

# %% Reading the curve
baselines = baseline_losses(train_ids, val_ids, V)
noise = np.std(np.array(losses[-60:]) - smooth(losses)[-60:])
print(f"from step to step the loss jumps by about {noise:.2f}: the batches differ. Look at the mean, or at validation")
print("what knowing less would give:", {name: round(loss, 2) for name, loss in baselines.items()})
with lesson.picture("curve", "A loss curve, and what to compare it with", size=(8, 4)) as axes:
    axes.plot(losses, color="0.75", label="loss of a batch")
    axes.plot(smooth(losses), color="black", label="mean of 15")
    for (name, loss), line in zip(baselines.items(), (":", "--", "-.")):
        axes.axhline(loss, linestyle=line, color="0.3", label=f"{name} {loss:.2f}")
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.legend(frameon=False, ncols=2)

print("\nThe same distance in loss is not the same in quality:")
for steps_ in (0, 60, 400):
    model = new_gpt(V)
    if steps_:
        train(model, train_ids, steps_)
    loss_then, text = validation_loss(model, val_ids), write(model, tokenizer, "The", 24)
    print(f"  {steps_:4} steps, validation loss {loss_then:.2f}: {text}")
print("from 6.2 to 5 it learns which tokens are frequent, from 5 to 4 words; below 4 sentences begin; meaning needs")
print("more than half a minute: python scripts/demo.py")

# %% Questions
print("  flat at ln V                   nothing is learned: the learning rate is 0, or gradients do not arrive")
print("  falls, then jumps and stays    one step was too large: warm up, clip, lower the rate")
print("  near 0 within 400 steps        it sees the answer: the mask, or targets that are not shifted (break.py)")
print("  training falls, validation up  it learns the text by heart: more text, or fewer steps")

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start adamw, clipping, warmup_cosine`
# - read: gpt/training/training_step.py: the step above; trainer.py: the loop; minigrad/optim.py
# - break: `python scripts/break.py unshifted`; and set betas=(0.9, 0.9999) above
# - lesson: `python scripts/lesson.py 433`
