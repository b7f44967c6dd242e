"""A run of reward modelling: a model that answers in, one that scores answers out, and how often it is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt import Tokenizer
from gpt.console import show
from gpt.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.plots import plot_run
from gpt.training.pretraining import check_unused
from gpt.training.trainer import Trainer, TrainingConfig
from minigrad import manual_seed, no_grad
from minigrad.backend import to_numpy

from ..data.chat_template import ChatTemplate
from ..data.datasets import ShuffledBatches, batches_of, read_preferences
from ..data.pairs import TASKS, Pair, encode_pairs, load_pairs, pair_batch
from ..evaluation.answering import shorten
from ..objectives.gpt_with_head import HEAD_KIND, GPTWithHead
from ..objectives.reward import chance_of, reward_batch_loss
from .stage import begin_run, extra_state, settings_of, show_end

STAGE = "reward"
LABELS = ["reward"]  # a head with a single score
CHANCE = 0.01  # a reward model is better than a coin if a coin would do as well in fewer cases than this
SHOWN = 6

COLUMNS = """\
      loss  how surprised the model is by which reply was preferred: ln 2 = 0.69 for a coin
  accuracy  how often it scores the preferred reply higher
    margin  by how much, on average
   pairs/s  comparisons learned from per second"""


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """A run of reward modelling. data: "tasks", or a file for `read_preferences`, whose last tenth is held out."""

    init_from: str = "runs/sft"
    data: str = TASKS
    out_dir: str = "runs/reward"
    batch_size: int = 32
    seed: int = 1337
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


def learn_rewards(config: RewardConfig, device: str = "cpu") -> Trainer:
    """Train a reward model, from the language model `config.init_from`, on pairs of replies; Ctrl-C saves.

    Raises FileExistsError where `config.out_dir` is in use, ValueError for a model without the chat tokens, and what
    `load_model`, `read_preferences` and `Trainer.run` raise.
    """
    check_unused(Path(config.out_dir))
    manual_seed(config.seed)
    gpt, tokenizer = load_model(config.init_from)
    ChatTemplate(tokenizer)  # raises before anything is written
    train, held_out = load_pairs(config.data, config.seed)
    model = GPTWithHead.from_gpt(gpt, LABELS)
    show(f"starting from the weights in {config.init_from}, with a new head: {model.num_parameters():,} parameters")
    begin_run(config.out_dir, tokenizer, {"train": train, "test": held_out})
    return _train(config, model, tokenizer, device)


def resume(out_dir: str, device: str = "cpu") -> Trainer:
    """Go on with the run in `out_dir`, with its own settings and data. Raises CheckpointError where there is none."""
    checkpoint = load_checkpoint(out_dir, kind=HEAD_KIND)
    config = settings_of(checkpoint.state, RewardConfig, STAGE, out_dir)
    return _train(config, checkpoint.model, Tokenizer.load(out_dir), device, checkpoint)


def load_reward_model(folder: str) -> tuple[GPTWithHead, Tokenizer]:
    """A trained reward model and its tokenizer. Raises CheckpointError for a folder of anything else."""
    model = load_checkpoint(folder, with_optimizer=False, kind=HEAD_KIND).model
    if model.labels != LABELS:
        raise CheckpointError(f"{folder} holds a classifier of {', '.join(model.labels)[:60]}, not a reward model")
    return model, Tokenizer.load(folder)


def check_better_than_chance(model: GPTWithHead, pairs: Sequence[Pair], folder: str, batch_size: int = 32) -> str:
    """Say how good a reward model is on held-out pairs; ValueError unless it is better than a coin.

    The test is the one-sided binomial test: would a coin get as many right in fewer than 1 % of cases?
    """
    right = round(
        evaluate(model, batches_of(pairs, batch_size, pair_batch), reward_batch_loss)["accuracy"] * len(pairs)
    )
    chance = chance_of(right, len(pairs))
    if chance >= CHANCE:
        raise ValueError(
            f"the reward model in {folder} is no better than chance: it gets {right} of {len(pairs)} held-out pairs "
            f"right, and a coin would do as well in {chance:.1%} of cases; train it longer, or on more pairs "
            "(scripts/reward.py)"
        )
    return f"it gets {right} of {len(pairs)} held-out pairs right; a coin would in {chance:.1g} of cases"


# --- training ---------------------------------------------------------------------------------------------------------


def _train(
    config: RewardConfig,
    model: GPTWithHead,
    tokenizer: Tokenizer,
    device: str,
    checkpoint: Checkpoint | None = None,
) -> Trainer:
    model.to(device)
    template, data = ChatTemplate(tokenizer), Path(config.out_dir) / "data"
    preferences = read_preferences(data / "test.jsonl")
    train, shortened = encode_pairs(read_preferences(data / "train.jsonl"), template, model.config.block_size)
    tests, _ = encode_pairs(preferences, template, model.config.block_size)
    show(f"data: {len(train):,} pairs of replies to learn from, {len(tests):,} to test on")
    if shortened:
        show(f"{shortened:,} pairs were too long for the model: oldest turns left out, or the replies' ends cut")
    show(f"\nWhat the columns mean:\n{COLUMNS}\n")
    trainer = Trainer(
        model,
        ShuffledBatches(train, config.batch_size, pair_batch, config.seed),
        config.training,
        config.out_dir,
        reward_batch_loss,
        evaluate=lambda: _validate(model, tests, config.batch_size),
        extra_state=extra_state(config, STAGE),
        unit="pairs",
        kind=HEAD_KIND,
    )
    if checkpoint is not None:
        warning = trainer.resume(checkpoint)
        show(f"resuming {config.out_dir} at step {trainer.steps_done}" + (f"; {warning}" if warning else ""))
    before = _scores(model, tests[:SHOWN])
    trainer.run()
    picture = None
    if not trainer.interrupted:
        _show_replies(template, tests[:SHOWN], before, _scores(model, tests[:SHOWN]))
        _show_accuracies(model, tests, config)
        title = "Learning what is preferred"
        picture = plot_run(trainer.out_dir, {}, title=title, unit="pair", shares=("accuracy",))
    done = f"trained {trainer.steps_done} steps, {trainer.count:,} pairs,"
    advice = "to reinforce a model with it:\n  python scripts/ppo.py --reward-model"
    show_end(trainer, "reward", done, picture, advice)
    return trainer


def _validate(model: GPTWithHead, tests: Sequence[Pair], batch_size: int) -> dict[str, float]:
    metrics = evaluate(model, batches_of(tests, batch_size, pair_batch), reward_batch_loss)
    return {"val_loss": metrics.pop("loss"), **metrics}


@no_grad()
def _scores(model: GPTWithHead, pairs: Sequence[Pair]) -> list[tuple[float, float]]:
    """The scores of the better and the worse reply of each pair."""
    batch = pair_batch(pairs)
    scores = to_numpy(model(batch.tokens, batch.lengths).data)[:, 0].tolist()
    return list(zip(scores[: len(pairs)], scores[len(pairs) :]))


# --- talking ----------------------------------------------------------------------------------------------------------


def _show_replies(template: ChatTemplate, pairs: Sequence[Pair], before: Any, after: Any) -> None:
    show("\nHeld-out pairs, and their scores before and after training (preferred reply first):")
    for pair, *scores in zip(pairs, before, after):
        question = template.tokenizer.decode(pair.chosen.ids).split("user\n")[-1].split("<|im_end|>")[0]
        show(f"\n{'':>16} | {shorten(question)}")
        for i, reply in enumerate((pair.chosen, pair.rejected)):
            ids = [id for id, learn in zip(reply.ids, reply.learned) if learn]
            text = shorten(template.tokenizer.decode(ids, skip_special_tokens=True))
            show(f"{scores[0][i]:7.2f} {scores[1][i]:8.2f} | {text}")


def _show_accuracies(model: GPTWithHead, tests: Sequence[Pair], config: RewardConfig) -> None:
    """How often the model is right on held-out pairs; of the built-in ones, by what the two replies differ in."""
    try:
        show(f"\n{check_better_than_chance(model, tests, config.out_dir)}")
    except ValueError as error:
        show(f"\n{error}")
    if config.data == TASKS:  # in turn, see tasks.preference_pairs
        kinds = {"courtesy": tests[0::3], "the answer": tests[1::3], "both": tests[2::3]}
        right = {name: _validate(model, pairs, config.batch_size)["accuracy"] for name, pairs in kinds.items()}
        show("of those that differ in " + ", ".join(f"{name}: {share:.0%}" for name, share in right.items()))
