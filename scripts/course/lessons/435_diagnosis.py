"""Lesson 4.3.5: when training goes wrong

A mistake in a training loop seldom stops it: no error message says that there is one, or where. This lesson breaks
training in nine ways, and shows the four instruments that tell what happened: one window to overfit, statistics of
activations and gradients in each layer, the loss as a function of the learning rate, and loss curves beside what simple
models reach. Karpathy 2019, "A recipe for training neural networks"; Smith 2017 (the learning-rate
curve).
"""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

import minigrad.functional as F
from gpt.model.gpt2 import Block
from gpt.training.batches import Batch, RandomBatches
from gpt.training.evaluation import baseline_losses
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_loop import train_textbook
from gpt.training.training_step import language_model_loss
from minigrad import Tensor
from scripts.course.lessons.bugs import Unshifted, unmasked, without_residual
from scripts.course.lessons.small_gpt import english, new_gpt, smooth, validation_loss
from scripts.course.pictures import Lesson

lesson = Lesson("435_diagnosis", __doc__)
rng = np.random.default_rng(lesson.seed)
tokenizer, train_ids, val_ids = english()
V, T = len(tokenizer), 16
SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": T}
print(f"{len(train_ids):,} tokens to train on; ln V = {math.log(V):.2f}")

# %% The loop that will be broken
# The training step of lesson 4.3.2, with the loss on held-out text from time to time.
Run = tuple[list[float], list[float]]  # the loss of every step; the loss on held-out text after every 30 steps


def run(tokens: np.ndarray, steps: int, rate: float, batches: Any = RandomBatches, **options: Any) -> Run:
    """Train a small GPT on windows of `tokens`. options: of `TrainingConfig`."""
    model = new_gpt(V, lesson.seed, **SHAPE)
    config = TrainingConfig(max_iters=steps, learning_rate=rate, **{"warmup_iters": 30, **options})
    losses, held_out, drawn = [], [], batches(tokens, 16, T, lesson.seed)
    optimizer, schedule = prepare_training(model, config)
    for _ in range(steps // 30):
        losses += train_textbook(model, drawn, language_model_loss, optimizer, schedule, 30, config.grad_clip)
        held_out.append(validation_loss(model, val_ids, 2048))
    return losses, held_out


# %% First test: overfit one window
# Before training on everything, train on a single window of 17 tokens, which then fills every row of the batch. There
# is nothing to generalize: it can be learned by heart. Here is a loop with a bug: the targets of a batch lose their
# order, so they no longer belong to the inputs.
#
# Predict: after 60 steps on the whole text, can you tell from the loss which loop is broken? And on one window?


class Mixed(RandomBatches):
    """A bug: targets in random order."""

    def __next__(self) -> Batch:
        inputs, targets = super().__next__()
        return inputs, self.rng.permutation(targets.ravel()).reshape(targets.shape)


# %%
# A third loop has another bug: `Unshifted` gives the inputs as targets.
found = {}
for name, batches in (("healthy", RandomBatches), ("mixed", Mixed), ("unshifted", Unshifted)):
    whole, window = (run(tokens, 60, 1e-2, batches)[0] for tokens in (train_ids, train_ids[: T + 1]))
    found[name] = (np.mean(whole[-10:]), np.mean(window[-10:]))
    print(f"{name:10} whole text {whole[0]:.2f} -> {found[name][0]:.2f}   one window -> {found[name][1]:.3f}")
assert abs(found["mixed"][0] - found["healthy"][0]) < 0.4 and found["healthy"][1] < 0.1 < 1 < found["mixed"][1]
shares = np.unique(train_ids[1 : T + 1], return_counts=True)[1] / T
entropy = -(shares * np.log(shares)).sum()
print(f"entropy of the window's targets: {entropy:.3f}")
assert found["unshifted"][1] < 0.1 and abs(found["mixed"][1] - entropy) < 0.1

# %% [markdown]
# Answer: on the whole text both fall from ln V to nearly the same value, because both have learned which tokens are
# frequent. On one window the healthy loop goes to 0, and the broken one cannot. It stays at the entropy of the window's
# targets.
#
# The test finds what loses information between input, target and loss, and a loop that does not optimize. It does not
# find a leak: with the inputs as targets, one window is also learned by heart. A leak shows in the loss curves below.

# %% Second instrument: statistics of each layer
# One forward and one backward pass tell whether the signal reaches the last block, and the gradient the first. For
# every block: the standard deviation of the stream x behind it, the norm of dL/dx there, and the norm of the gradient
# of its parameters.


def statistics(change: Callable[[Any], None] | None = None) -> list[tuple[float, float, float, float]]:
    """For each of 8 blocks: std of x, |dL/dx|, and the gradient norms of attention's parameters and of the MLP's."""
    model = new_gpt(V, lesson.seed, **{**SHAPE, "n_layer": 8})
    if change:
        change(model)
    inputs, targets = next(RandomBatches(train_ids, 16, T, lesson.seed))
    body, streams = model.transformer, []
    x = body.wte(inputs) + body.wpe(np.arange(T))
    for layer, block in enumerate(body.h):
        x = block(x, layer)
        x.retain_grad()
        streams.append(x)
    F.cross_entropy(model.lm_head(body.ln_f(x)).reshape(-1, V), targets.reshape(-1)).backward()

    def norm(part: Any) -> float:
        return math.sqrt(sum(float((p.grad**2).sum()) for p in part.parameters() if p.grad is not None))

    return [(float(x.data.std()), float(np.linalg.norm(x.grad)), norm(block.attn), norm(block.mlp))
            for x, block in zip(streams, body.h)]  # fmt: skip


# %% [markdown]
# Three mistakes: weights that are 20 times too large, sub-layers that replace x instead of adding to it, and a
# `detach()` that cuts the MLP off from its gradient.
#
# Predict: with the last two, does the loss fall all the same? In which column does each of the three show?


# %%
def too_large(model: Any) -> None:
    for name, p in model.named_parameters():
        if ".h." in name and p.ndim == 2:
            p.data *= 20


def detached(self: Block, x: Tensor, *_: Any) -> Tensor:
    x = x + self.attn(self.ln_1(x))
    return x + self.mlp(self.ln_2(x)).detach()


tables, falls = {"healthy": statistics(), "20 times": statistics(too_large)}, {}
for name, forward in (("replaced", without_residual), ("detached", detached)):
    with mock.patch.object(Block, "forward", forward):
        tables[name], falls[name] = statistics(), run(train_ids, 60, 1e-2)[0]
print(f"{'':9} {'block':>5} {'std of x':>9} {'|dL/dx|':>9} {'attention':>9} {'MLP':>9}")
for name, rows in tables.items():
    for number in (0, 7):
        std, *norms = rows[number]
        print(f"{name:9} {number:5} {std:9.4f}" + "".join(f"{norm:10.1e}" for norm in norms))
for name, losses in falls.items():
    print(f"{name}: in 60 steps the loss falls all the same, {losses[0]:.2f} -> {np.mean(losses[-10:]):.2f}")

# %%
first, last = (np.array([tables[name][number] for name in tables]) for number in (0, 7))  # (4 models, 4 statistics)
assert (abs(np.log2(last[0] / first[0])) < 1).all()  # healthy: the blocks are alike, within a factor of 2
assert last[1, 0] > 50 * last[0, 0] and first[1, 1] > 2 * last[1, 1]  # 20 times: x grows, the blocks' gradients differ
assert last[2, 0] < last[0, 0] / 10  # replaced: x shrinks
assert first[3, 3] == last[3, 3] == 0 and first[3, 2] > 0  # detached: no gradient
assert all(np.mean(losses[-10:]) < losses[0] - 0.5 for losses in falls.values())

# %% [markdown]
# Answer: the loss falls in spite of them. In a healthy model the numbers of all blocks are alike. With weights that
# are too large x grows from block to block, and the gradient with it changes from block to block. Without the residual
# sum x shrinks, because nothing carries the embedding on. Behind the `detach()` the MLP's gradient is exactly 0: a
# parameter whose gradient is 0 or None takes part in the forward pass, but never learns.

# %% Third instrument: the learning-rate curve
# Train for a few steps at each of several rates, and plot the loss at the end.
#
# Predict: Adam, no warm-up, 150 steps. At which rate is the loss lowest, and from which on is it above ln V = 6.24,
# where it started?
RATES = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 1e-1, 3.0)
ends = {}
for rate in RATES:
    losses, _ = run(train_ids, 150, rate, warmup_iters=0, min_lr_ratio=1.0)
    ends[rate] = float(np.mean(losses[-15:]))
    print(f"  rate {rate:7}: {ends[rate]:6.2f}")
best = min(ends, key=lambda rate: ends[rate])
diverges = min((rate for rate in RATES if ends[rate] > math.log(V)), default=math.inf)
print(f"lowest at {best}, diverges from {diverges} on")
assert 1e-4 < best < 1e-1 < diverges == 3.0 and ends[1e-5] > math.log(V) - 0.3 and ends[1e-1] > ends[best] + 0.2
with lesson.picture("rates", "Loss after 150 steps, for seven learning rates") as axes:
    axes.semilogx(list(ends), list(ends.values()), "o-")
    axes.axhline(math.log(V), linestyle=":", color="0.3", label="knowing nothing, ln V")
    axes.set(xlabel="learning rate", ylabel="loss (nats per token)", ylim=(4, 9))

# %% [markdown]
# Answer: lowest near 0.003. The curve is flat where nothing happens yet, falls, and rises where steps are too large.
# At 3 the loss is far above its start: training diverges. At 0.1 it does not diverge, but hardly learns more than how
# frequent each token is, which is easy to mistake for a slow start.

# %% Fourth instrument: loss curves
# Six runs of 300 steps, on the training text and on held-out text. Beside them is what models without any training
# reach: knowing nothing is ln V, and knowing only how frequent each token is ("unigram") is better.
#
# Predict: what does the curve look like if the rate is far too low? If it is far too high? If the text is short? If the
# targets are mixed up? If attention sees later tokens?
curves = {
    "healthy": run(train_ids, 300, 5e-3),
    "rate 0.00003": run(train_ids, 300, 3e-5),
    "rate 1": run(train_ids, 300, 1.0, warmup_iters=150, min_lr_ratio=1.0, grad_clip=0.0, weight_decay=0.0),
    "short text": run(train_ids[:1000], 300, 5e-3),
    "mixed targets": run(train_ids, 300, 5e-3, Mixed),
}
with mock.patch.object(F, "scaled_dot_product_attention", unmasked):
    curves["no mask"] = run(train_ids, 300, 5e-3)

# %%
baselines = baseline_losses(train_ids, val_ids[:2048], V)
print("baselines on held-out text:", {name: round(loss, 2) for name, loss in baselines.items()})
print(f"{'':14}{'first':>7}{'lowest':>8}{'last':>7}{'held-out: lowest':>18}{'last':>7}")
for name, (train, held_out) in curves.items():
    means = smooth(train)
    print(f"{name:14}{train[0]:7.2f}{means.min():8.2f}{means[-1]:7.2f}{min(held_out):18.2f}{held_out[-1]:7.2f}")
with lesson.picture("curves", "Training (line) and held-out text (dots)", columns=3, rows=2, size=(11, 6)) as panels:
    for axes, (name, (train, held_out)) in zip(panels, curves.items()):
        axes.plot(smooth(train))
        axes.plot(range(29, 300, 30), held_out, "o", color="0.5")
        axes.axhline(baselines["unigram"], linestyle=":", color="0.3")
        axes.set(title=name, xlabel="step", ylim=(0, 9))

# %% [markdown]
# Answer: see the six panels; the dotted line is the unigram loss. A rule of a few lines can tell the six apart:


# %%
def diagnosis(train: list[float], held_out: list[float]) -> str:
    """What a curve says, from the clearest sign to the weakest."""
    means, unigram, bigram = smooth(train), baselines["unigram"], baselines["bigram"]
    if means[-1] > means.min() + 1:
        return "diverged"
    if min(held_out) < bigram - 0.5:  # so soon
        return "sees the answer"
    if held_out[-1] > min(held_out) + 0.3:
        return "overfitted"
    if abs(held_out[-1] - unigram) < 0.15:
        return "plateau at unigram"
    return "too slow" if held_out[-1] > unigram else "healthy"


told = {name: diagnosis(*curve) for name, curve in curves.items()}
for name, says in told.items():
    print(f"{name:14} {says}")
names = ["healthy", "too slow", "diverged", "overfitted", "plateau at unigram", "sees the answer"]
assert list(told.values()) == names

# %% [markdown]
# ## What is wrong here?
#
# | the curve | the reason | what tells |
# |---|---|---|
# | flat at ln V | nothing is learned: the rate is 0, or no gradients arrive | gradients per layer |
# | falls slowly, far above the unigram loss | the rate is too low | the learning-rate curve |
# | falls, then rises or jumps | a step was too large: warm up longer, clip, lower the rate | gradient norms |
# | flat at the unigram loss | inputs and targets do not belong together; a rate far too high | one window |
# | training falls, held-out text rises | overfitting: more text, a smaller model, fewer steps | the gap |
# | far below the bigram loss at once | it sees the answer: no mask, unshifted targets | change the last token |
# | a little higher than it should be | a cut gradient, a missing scale | a reference, layer by layer (4.3.4) |
#
# "Change the last token": if an earlier prediction moves, attention sees later tokens.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start clipping`
# - read: gpt/training/evaluation.py: `baseline_losses`; minigrad/inspection/anomaly.py: the first NaN, and its line
# - break: `python scripts/break.py all`. Expect: eleven bugs with their curves, and the check that finds each.
# - break: leave out `.ravel()` and `.reshape(...)` in `Mixed`. Expect: whole rows are exchanged, 16 windows instead of
#   256 tokens, and on one window nothing shows, because its rows are all the same.
# - lesson: `python scripts/lesson.py 441`
