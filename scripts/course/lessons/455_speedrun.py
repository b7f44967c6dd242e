"""Lesson 4.5.5: a speedrun, or a lower loss in the same time

This goes beyond the course. In a speedrun the task, the text and the machine stay, and everything else may change: who
reaches a given loss first? modded-nanogpt (Jordan et al. 2024) has cut the training of a small GPT-2 from 45 minutes to
a few in this way. This lesson runs the demo by such rules: one change at a time, beside a control that gets the same
time, and no belief in a difference that another seed could make.
"""

import functools
import time
from typing import Any

import numpy as np

import scripts.benchmarks.race as known
from gpt import Llama, LlamaConfig, Tokenizer
from gpt.corpora.corpus import load_corpus
from gpt.training.batches import EpochBatches, RandomBatches, encode_parts
from gpt.training.evaluation import held_out_loss
from minigrad import manual_seed, nn
from scripts.course.lessons.small_gpt import english, new_gpt, train, validation_loss
from scripts.course.pictures import Lesson

lesson = Lesson("455_speedrun", __doc__)

# %% [markdown]
# ## One change beside its control
#
# We train a small model for 150 steps with Muon (lesson 453), once with a learning rate that stays at its peak, and
# once with one that falls along a cosine. The seed decides the first weights and the batches, so two runs with the same
# settings differ, too: each setting runs with two seeds.
#
# (Muon orthogonalizes: it takes the momentum of a hidden matrix, U S Vᵀ as a singular value decomposition, and steps
# along U Vᵀ, in which all directions are equally strong. Newton-Schulz, five rounds of matrix products, computes it.)
#
# Predict: which setting ends lower? Is the difference larger than that between the seeds?

# %%
tokenizer, train_ids, val_ids = english()


def small_losses(steps: int = 150, new_model: Any = new_gpt, **changes: Any) -> list[float]:
    """The validation losses of a small model with two seeds."""
    models = [new_model(len(tokenizer), seed) for seed in (lesson.seed, lesson.seed + 1)]
    for seed, model in enumerate(models, lesson.seed):
        train(model, train_ids, steps, seed=seed, **{"optimizer": "muon", "learning_rate": 2e-2, **changes})
    return [validation_loss(model, val_ids) for model in models]


ends = {"stays": small_losses(min_lr_ratio=1.0), "falls to a tenth": small_losses(min_lr_ratio=0.1)}
for name, (first, second) in ends.items():
    print(f"the rate {name:17} validation loss {first:.3f} and {second:.3f}")
assert max(ends["falls to a tenth"]) < min(ends["stays"])

# %% [markdown]
# Answer: the falling rate: both its runs end below both of the others. Large steps jump around a minimum;
# small last steps get closer to it. One seed would have been enough here. Below it will not be.

# %% Equal time
# A slower step gets fewer of them. So first we time the steps of the demo's model, on two cores.
ADAMW: dict[str, Any] = {"learning_rate": 3e-3}
MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 1e-2}


@functools.cache
def demo_text() -> tuple[np.ndarray, np.ndarray]:
    """The training and the held-out tokens of the demo."""
    text = load_corpus("english").text
    parts = encode_parts(text, Tokenizer.train([text], 1024))
    return parts["train"], parts["val"]


def trained(
    steps: int, seed: int, batch: int = 12, zero: bool = False, stream: Any = RandomBatches, **options: Any
) -> tuple[Any, float]:
    """The demo's model after so many steps, and the milliseconds of a step. zero: each c_proj starts at 0."""
    model = new_gpt(1024, seed, n_layer=4, n_embd=192, block_size=128)
    for name, parameter in model.named_parameters():
        if zero and name.endswith("c_proj.weight"):
            nn.init.zeros_(parameter)
    batches = lambda tokens, _, context, seed: stream(tokens, batch, context, seed)  # noqa: E731
    started = time.perf_counter()
    train(model, demo_text()[0], steps, batches=batches, seed=seed, **options)
    return model, 1000 * (time.perf_counter() - started) / steps


def milliseconds() -> dict[str, float]:
    """The time of a step by name: the shortest of six turns of 10 steps."""
    settings = {"AdamW": ADAMW, "Muon": MUON, "Muon, batches of 16": {**MUON, "batch": 16}}
    turns = [{name: trained(10, 0, **changes)[1] for name, changes in settings.items()} for _ in range(6)]
    return {name: round(min(turn[name] for turn in turns), 1) for name in settings}


ms = lesson.measured("milliseconds", milliseconds, trained)
for name, taken in ms.items():
    print(f"{name:20} {taken:6.1f} ms per step: {ms['Muon'] / taken * 300:4.0f} steps in the time of 300 with Muon")

# %% [markdown]
# Muon adds the products of Newton-Schulz to each step. Their cost does not depend on the batch, so in larger batches
# they weigh less. Its fast kernel needs about half of them: it works on the small matrix X Xᵀ instead of X
# (minigrad/kernels/cpu/muon.py).
#
# ## What was tried, with one seed
#
# * a rate that falls to 0, because the last steps should be the smallest (Bergsma et al. 2025, arXiv 2502.15938).
#   The other runs end at a tenth of the peak.
# * zero-initialized projections: with c_proj at 0 a block adds nothing at first, and the residual stream is the
#   embedding (Zhang et al. 2019, 1901.09321; Yang et al. 2022, 2203.03466).
# * batches of 16 sequences, in fewer steps: Muon stays efficient at larger batches than AdamW (Essential AI 2025,
#   2505.02222).
# * a shorter momentum: a mean over 1 / (1 - 0.95) = 20 gradients is long in a run of a few hundred steps, where the
#   weights change fast. modded-nanogpt starts with 0.85 and rises to 0.95.
#
# Predict: each of these helps somebody. Which lower the demo's loss by more than 0.01?

# %%
TRIED: dict[str, dict[str, Any]] = {
    "Muon": {},
    "half the learning rate": {"learning_rate": 5e-3},
    "a rate that falls to 0": {"min_lr_ratio": 0.0},
    "zero-initialized c_proj": {"zero": True},
    "batches of 16": {"batch": 16, "steps": 244},
    "momentum 0.9": {"momentum": 0.9},
    "momentum 0.85": {"momentum": 0.85},
}


def loss_after(steps: int, seed: int, **changes: Any) -> float:
    """The demo's loss on the whole held-out text after a run of so many steps."""
    model, _ = trained(steps, seed, **changes)
    return round(held_out_loss(model, demo_text()[1], 12, 128)["val_loss"], 4)


def tried() -> dict[str, float]:
    """The loss with seed 1 in the time of 300 steps with Muon, by change."""
    return {name: loss_after(**{"steps": 300, "seed": 1, **MUON, **changes}) for name, changes in TRIED.items()}


found = lesson.measured("tried", tried, loss_after, trained)
gains = {name: found["Muon"] - loss for name, loss in found.items()}
for name, gain in gains.items():
    print(f"{name:25} {found[name]:.3f}, lower by {gain:6.3f}")
assert [name for name, gain in gains.items() if gain > 0.01] == ["momentum 0.9", "momentum 0.85"]

# %% [markdown]
# Answer: only the shorter momentum, with this one seed. The runs of one setting in the last table differ by 0.03 to
# 0.08, so this is a reason to try a shorter momentum in longer runs, and no more. This is not a verdict on the ideas:
# modded-nanogpt's runs see hundreds of times as many tokens, and there several of them pay.
#
# ## The whole run, one change after another
#
# 900 steps with AdamW take as long as 800 with Muon. So many steps read the text 2.6 times, and the model begins to
# learn it by heart: at the end, the loss on the batches is half a nat below that on the held-out text (with AdamW a
# quarter). Two remedies:
#
# * a stronger weight decay, 0.3 instead of 0.1
# * batches without replacement: in each epoch every part of the text comes once, in another order (`EpochBatches`).
#   Windows drawn independently leave out 1/e = 37 % of the text in the time of an epoch, and repeat other parts.
#
# Predict: which of the two helps?

# %%
SHORT_MOMENTUM: dict[str, Any] = {**MUON, "momentum": 0.85}
BEST: dict[str, Any] = {**SHORT_MOMENTUM, "stream": EpochBatches}
CHAIN: dict[str, tuple[int, dict[str, Any]]] = {
    "AdamW": (900, ADAMW),
    "Muon": (800, MUON),
    "Muon, momentum 0.85": (800, SHORT_MOMENTUM),
    "the same, weight decay 0.3": (800, {**SHORT_MOMENTUM, "weight_decay": 0.3}),
    "the same, without replacement": (800, BEST),
    "AdamW, without replacement": (900, {**ADAMW, "stream": EpochBatches}),
}


def chain() -> dict[str, float]:
    """The loss with seed 1, by run."""
    return {name: loss_after(steps, 1, **changes) for name, (steps, changes) in CHAIN.items()}


losses = lesson.measured("chain", chain, loss_after, trained)
for name, (steps, _) in CHAIN.items():
    seconds = steps * ms["AdamW" if "AdamW" in name else "Muon"] / 1000
    print(f"{name:31} {steps} steps in {seconds:3.0f} s, validation loss {losses[name]:.3f}")
assert losses["AdamW"] > losses["Muon"] > losses["Muon, momentum 0.85"] > losses["the same, without replacement"] + 0.02
assert abs(losses["the same, weight decay 0.3"] - losses["Muon, momentum 0.85"]) < 0.01

# %%
# The same in small, now. The small model of the first section, with two seeds; and how much of a text of 10,000
# different tokens a stream has read when it has drawn 10,000.
seen = {}
for stream in (RandomBatches, EpochBatches):
    drawn = stream(np.arange(10_000), 10, 50, lesson.seed)
    seen[stream] = len(np.unique([next(drawn)[0] for _ in range(20)])) / 10_000
    print(f"{stream.__name__:13} read {seen[stream]:.0%} of the text")
assert abs(seen[RandomBatches] - (1 - 1 / np.e)) < 0.05, "independent draws must leave out 1/e of the text"
assert seen[EpochBatches] > 0.98, "an epoch must read the whole text"
drawn = EpochBatches(np.arange(10_000), drawn.per_epoch, 50, lesson.seed)  # a batch is an epoch
first, second = (next(drawn)[0][:, 0] // 50 for _ in range(2))  # which part of the text each window begins in
print(f"first parts of two epochs: {first[:6]} and {second[:6]}")
assert np.mean(first == second) < 0.1, "the second epoch has the order of the first: each must have its own"
ends["AdamW"] = small_losses(165, optimizer="adamw", learning_rate=3e-3)
ends["Muon"] = ends["falls to a tenth"]
ends["Muon, momentum 0.85"] = small_losses(momentum=0.85)
ends["the same, without replacement"] = small_losses(momentum=0.85, batches=EpochBatches)
for name in list(ends)[2:]:
    print(f"{name:31} validation loss", np.round(ends[name], 3))
means = np.mean(list(ends.values()), axis=1)[2:]
assert means[0] > means[1] + 0.3 and means[1] > means[2]

# %% [markdown]
# Answer: the order of the text. Weight decay changes nothing here. Both optimizers gain, with this seed, from each part
# of the text coming equally often, and it costs nothing. The small model says the same of the optimizer and of the
# momentum. Of the order it says nothing: in so short a run, which draws fewer tokens than its text has, the difference
# has one sign or the other from seed to seed.
#
# ## The race, with five seeds

# %%
LARGER_STEPS: dict[str, Any] = {**BEST, "learning_rate": 1.5e-2, "warmup": 15, "grad_clip": 0.0}
RACE = {
    "AdamW": (900, ADAMW),
    "the demo's settings": (800, BEST),
    "in half the time": (400, BEST),
    "with larger steps": (400, LARGER_STEPS),  # the best of 13 settings with seed 1
}
SEEDS = 1, 2, 3, 4, 5


def race() -> dict[str, list[float]]:
    """The losses of all seeds, by run."""
    return {name: [loss_after(steps, seed, **changes) for seed in SEEDS] for name, (steps, changes) in RACE.items()}


raced = lesson.measured("race", race, loss_after, trained)
for name, found_losses in raced.items():
    shown = "  ".join(f"{loss:.3f}" for loss in found_losses)
    print(f"{name:20} validation loss {shown}, mean {np.mean(found_losses):.3f}")
assert max(raced["the demo's settings"]) < min(raced["AdamW"]) - 0.25
assert abs(np.mean(raced["in half the time"]) - np.mean(raced["AdamW"])) < 0.05
assert abs(np.mean(raced["with larger steps"]) - np.mean(raced["AdamW"])) < 0.02
larger = np.subtract(raced["in half the time"], raced["with larger steps"])
print(f"larger steps gain {larger[0]:.3f} with seed 1, and {larger[1:].mean():.3f} with the others")
assert larger[0] > larger[1:].mean() > 0

# %% [markdown]
# The demo's settings end more than 0.25 lower with every seed, and half the time brings them to within 0.05 of AdamW's
# end. With larger steps (a higher rate, a shorter warm-up, no clipping) they come within 0.02. This was the best of 13
# settings with seed 1: rates of 0.01 to 0.03, warm-ups of 8 to 40 steps, and five of the changes above or like them.
# With the other seeds it gains less: the best of many was also lucky, and only fresh seeds tell how much.
# Seeds of one row differ by up to 0.08, far less than what all changes bring together (lesson 453 has five seeds of
# Muon alone), but as much as some single changes above, which have one seed each.
#
# ## Another architecture
#
# So far the model stayed the same. Lesson 451 changes it: rotary positions helped a small GPT-2 with every seed. So
# the last runner is a Llama, as deep and as wide, with about as many parameters and the demo's settings.
#
# Predict: its step takes longer (three matrices in each feed-forward network, and rotations). Does it end below AdamW
# in less than half of AdamW's time?


# %%
def llama_after(steps: int, seed: int) -> tuple[float, float]:
    """A small Llama's loss on the held-out text after so many steps, and the milliseconds of a step."""
    manual_seed(seed)
    model = Llama(LlamaConfig(1024, 128, n_layer=4, n_head=4, n_kv_head=4, n_embd=192, n_inner=512, rope_theta=1e4))
    batches = lambda tokens, _, context, seed: EpochBatches(tokens, 12, context, seed)  # noqa: E731
    started = time.perf_counter()
    train(model, demo_text()[0], steps, batches=batches, seed=seed, **SHORT_MOMENTUM)
    taken = 1000 * (time.perf_counter() - started) / steps
    return round(held_out_loss(model, demo_text()[1], 12, 128)["val_loss"], 4), taken


def llama() -> dict[str, Any]:
    """The time of a step, the shortest of six turns of 10, of the Llama and of GPT-2 with AdamW; the losses by seed."""
    turns = [(llama_after(10, 0)[1], trained(10, 0, **ADAMW)[1]) for _ in range(6)]
    return {"milliseconds": np.min(turns, axis=0).tolist(), "losses": [llama_after(300, seed)[0] for seed in SEEDS]}


found = lesson.measured("llama", llama, llama_after, trained)
ratio = found["milliseconds"][0] / found["milliseconds"][1]
print(f"a step of the Llama takes {ratio:.2f} times as long as one of GPT-2 with AdamW: {300 * ratio / 900:.2f} of its")
print(f"time for 300 steps, which end at {'  '.join(f'{loss:.3f}' for loss in found['losses'])}")
assert 300 * ratio / 900 < 0.5
assert max(found["losses"]) < min(raced["AdamW"])
assert np.mean(raced["in half the time"]) - np.mean(found["losses"]) > 2 * np.mean(larger)


# %%
# The race and the Llama in small, now: half the steps of the small model above, with two seeds.
def small_llama(vocab_size: int, seed: int) -> Llama:
    """A Llama as deep and as wide as `new_gpt`, with about as many parameters."""
    manual_seed(seed)
    return Llama(LlamaConfig(vocab_size, 32, n_layer=2, n_head=4, n_kv_head=4, n_embd=64, n_inner=171, rope_theta=1e4))


ends["in half the time"] = small_losses(75, momentum=0.85, batches=EpochBatches)
ends["a Llama, in half the time"] = small_losses(75, small_llama, momentum=0.85, batches=EpochBatches)
for name in ("AdamW", "in half the time", "a Llama, in half the time"):
    print(f"{name:26} validation loss", np.round(ends[name], 3))
assert np.mean(ends["in half the time"]) < np.mean(ends["AdamW"])
assert max(ends["a Llama, in half the time"]) < min(ends["in half the time"]) - 0.02

# %% [markdown]
# Answer: yes, with every seed. The other architecture gained more than twice as much as the larger steps.
# The demo remains a GPT-2, because that is the model of the course. `python scripts/train.py --architecture llama`
# trains a Llama.
#
# ## A race that others know
#
# nanoGPT's README (Karpathy 2022) has an example for a CPU: 4 layers, 128 wide, Shakespeare's works letter by letter,
# 2,000 steps of AdamW. Its loss at the end, in PyTorch, is the goal here. Each runner has the same model and text,
# takes the best of three learning rates, and runs with three seeds. A short schedule has 272 steps of twice as many
# texts, so its rate falls to a tenth about when the goal can be reached. `python scripts/benchmark.py --only nanoGPT`
# runs it in half an hour.
#
# Predict: who is at the goal first? On this machine a step of AdamW takes PyTorch about half as long as us.


# %%
def known_race() -> dict[str, Any]:
    """The goal; by runner, its best rate and the curve of the loss over the seconds of training for each seed."""
    return known.measure(0)


row = lesson.measured("nanogpt", known_race, known.measure, known.run, known.curve_of)
print(*known.lines(row)[1:], sep="\n")
reached = {
    name: [known.seconds_to(row["goal"], curve) for curve in found["curves"]] for name, found in row["race"].items()
}
assert max(reached["Muon, a short schedule"]) < min(reached["torch"]), "the short run with Muon must be there first"
assert min(reached["AdamW, a short schedule"]) == np.inf, "AdamW must not reach it in so few steps"
with lesson.picture("nanogpt", "nanoGPT's example for a CPU, by five runners with three seeds") as axes:
    known.draw_curves(axes, row)

# %% [markdown]
# Answer: Muon's short schedule, with every seed, though its steps are not the fastest. Three things add up:
#
# * the rate. nanoGPT's own, 0.001, is cautious: at 0.004 AdamW is at the goal after about two thirds of the steps.
# * the optimizer. AdamW's short schedule ends far above the goal. Muon needs fewer steps, and pays for each.
# * the end of the schedule. Much of the loss falls while the rate falls. Muon's 2,000 steps end far below the goal, but
#   pass it later than a run that was planned to end there.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start warmup_cosine`
# - read: minigrad/kernels/cpu/muon.py, a page beside minigrad/muon.py
# - try: `loss_after(300, 1, **BEST, beta2=0.95)` at the end of this file, which takes some minutes. Expect: most
#   ideas change the loss by less than another seed does.
# - lesson: `python scripts/lesson.py 456`
