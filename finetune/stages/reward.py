"""A run of reward modeling: from a model that answers to a model that scores answers, and how often it is right.

    loss = -ln σ(r_chosen - r_rejected)      r: the score of a reply      (finetune/objectives/reward.py)

This is the smallest stage: an example for a new one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from gpt import Tokenizer
from gpt.console import show
from gpt.settings import setting
from gpt.training.checkpoint import CheckpointError, load_checkpoint
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.plots import plot_run
from gpt.training.run import Run
from gpt.training.training_config import TrainingConfig
from gpt.training.training_step import training_step
from minigrad import no_grad
from minigrad.backend import to_numpy
from minigrad.nn.module import evaluating

from ..data.chat_template import ChatTemplate
from ..data.datasets import ShuffledBatches, batches_of, read_preferences
from ..data.pairs import Pair, encode_pairs, load_pairs, pair_batch
from ..data.tasks import TASKS
from ..evaluation.answering import shorten
from ..objectives.gpt_with_head import HEAD_FORMAT, GPTWithHead
from ..objectives.reward import chance_of, reward_batch_loss
from .run_config import PAIRS, RunConfig, check_batch_memory, fine_tuning

LABELS = ["reward"]  # a head with a single score
CHANCE = 0.01  # significance level: how often a coin may do as well as a reward model that counts as better
SHOWN = 6
Scores = list[tuple[float, float]]  # of the better and the worse reply of each pair


@dataclasses.dataclass(frozen=True)
class RewardConfig(RunConfig):
    """The settings of a reward modeling run. data: for `read_preferences`; the last tenth of a file is held out."""

    stage = "reward"

    data: str = setting(TASKS, PAIRS)
    out_dir: str = "runs/reward"
    batch_size: int = setting(32, "pairs per batch")
    training: TrainingConfig = fine_tuning(max_iters=100, learning_rate=5e-4, warmup_iters=20, eval_interval=50)


COLUMNS = """\
      loss  -ln of the probability given to the preferred reply; ln 2 = 0.69 for a coin
  accuracy  how often it scores the preferred reply higher
    margin  by how much, on average
   pairs/s  comparisons learned from per second"""


def train_reward_model(run: Run, config: RewardConfig) -> None:
    """Train a reward model on pairs of replies, starting from an instruction-tuned language model."""
    # The model: a language model whose head is replaced by one that gives a single score. The data: pairs of replies to
    # the same prompt, the preferred one first. A resumed run finds both in its folder.
    if run.is_new:
        model, tokenizer = _with_head(config.init_from)
        preferences, held_out = load_pairs(config.data, config.seed)
        run.begin(model, tokenizer, HEAD_FORMAT, train=preferences, test=held_out)
    else:
        model, tokenizer, preferences, held_out = run.load(read_preferences, HEAD_FORMAT)
    check_batch_memory(model, config.batch_size, config.training)
    template, block_size = ChatTemplate(tokenizer), model.config.block_size
    train, shortened = encode_pairs(preferences, template, block_size)
    tests, _ = encode_pairs(held_out, template, block_size)
    tests = tests[: run.max_eval_items]
    show(f"data: {len(train):,} pairs of replies to learn from, {len(tests):,} to test on")
    if shortened:
        show(f"{shortened:,} pairs were too long for the model: oldest turns left out, or the replies' ends cut")
    run.explain_columns(COLUMNS, unit="pairs")
    shown = tests[:SHOWN]
    if run.is_new:
        run.extra["scores"] = _scores(model, shown)  # before training

    # Training: each step raises the scores of preferred replies above those of the others.
    optimizer, schedule = run.prepare(model, config.training)
    stream = ShuffledBatches(train, config.batch_size, pair_batch, config.seed)
    max_norm = config.training.grad_clip
    model.train()
    with run:
        for batches in run.batches(stream):  # of a step: a list of one, or of several to accumulate
            if run.is_time_to_validate:
                run.record_validation(_validate(model, tests, config.batch_size))
                run.save()
            # Forward, loss, backward, clip, and a step of the optimizer (gpt/training/training_step.py).
            step = training_step(model, batches, reward_batch_loss, optimizer, schedule, max_norm, run.gradients)
            run.record(step)
        if run.is_time_to_validate:  # the end, which was not Ctrl-C
            run.record_validation(_validate(model, tests, config.batch_size))
        run.save()

    if not run.interrupted:
        _show_replies(tokenizer, shown, run.extra["scores"], _scores(model, shown))
        _show_accuracy(model, tests, config)
        picture = plot_run(run.out_dir, {}, title="Learning what is preferred", unit="pair", shares=("accuracy",))
        run.report(f"trained {run.steps_done} steps, {run.count:,} pairs,", picture)


def _with_head(init_from: str) -> tuple[GPTWithHead, Tokenizer]:
    gpt, tokenizer = load_model(init_from, trainable=True)
    model = GPTWithHead.from_gpt(gpt, LABELS)
    show(f"starting from the weights in {init_from}, with a new head: {model.num_parameters():,} parameters")
    return model, tokenizer


def _show_accuracy(model: GPTWithHead, tests: Sequence[Pair], config: RewardConfig) -> None:
    try:
        show(f"\n{check_better_than_chance(model, tests, config.out_dir)}")
    except ValueError as error:
        show(f"\n{error}")
    if config.data == TASKS:  # the built-in pairs are of three kinds in turn (tasks.preference_pairs)
        kinds = {"courtesy": tests[0::3], "the answer": tests[1::3], "both": tests[2::3]}
        right = {name: _validate(model, pairs, config.batch_size) for name, pairs in kinds.items()}
        shares = ", ".join(f"{name}: {measured['accuracy']:.0%}" for name, measured in right.items())
        show(f"of those that differ in {shares}")


def load_reward_model(folder: str) -> tuple[GPTWithHead, Tokenizer]:
    """Load a trained reward model and its tokenizer. Raises CheckpointError for any other folder."""
    model = load_checkpoint(folder, with_optimizer=False, format=HEAD_FORMAT).model
    if model.labels != LABELS:
        raise CheckpointError(f"{folder} holds a classifier of {', '.join(model.labels)[:60]}, not a reward model")
    return model, Tokenizer.load(folder)


def checked_reward_model(folder: str, tokenizer: Tokenizer, block_size: int) -> GPTWithHead:
    """The reward model of a run. Raises if it cannot read the policy's replies, or is not better than chance."""
    model, its_tokenizer = load_reward_model(folder)
    if its_tokenizer.vocab != tokenizer.vocab or its_tokenizer.special_tokens != tokenizer.special_tokens:
        raise CheckpointError(
            f"the reward model in {folder} has another tokenizer than the model to be trained, so it cannot read its "
            "replies: train it from the same model"
        )
    if model.config.block_size < block_size:
        raise ValueError(
            f"the reward model in {folder} reads {model.config.block_size} tokens, and the model to be trained writes "
            f"up to {block_size}: train it from the same model"
        )
    test = read_preferences(Path(folder) / "data" / "test.jsonl")
    pairs, _ = encode_pairs(test, ChatTemplate(tokenizer), model.config.block_size)
    show(f"reward model: {folder}; {check_better_than_chance(model, pairs, folder)}")
    return model


def check_better_than_chance(model: GPTWithHead, pairs: Sequence[Pair], folder: str, batch_size: int = 32) -> str:
    """A sentence about the accuracy on held-out pairs. Raises ValueError unless the model is better than a coin.

    It is better if a coin would get as many pairs right in less than 1 % of cases (one-sided binomial test).
    """
    right = round(_validate(model, pairs, batch_size)["accuracy"] * len(pairs))
    chance = chance_of(right, len(pairs))
    if chance >= CHANCE:
        raise ValueError(
            f"the reward model in {folder} is no better than chance: it gets {right} of {len(pairs)} held-out pairs "
            f"right, and a coin would do as well in {chance:.1%} of cases; train it longer, or on more pairs"
        )
    return f"it gets {right} of {len(pairs)} held-out pairs right; a coin would in {chance:.1g} of cases"


def _validate(model: GPTWithHead, pairs: Sequence[Pair], batch_size: int) -> dict[str, float]:
    metrics = evaluate(model, batches_of(pairs, batch_size, pair_batch), reward_batch_loss)
    return {"val_loss": metrics.pop("loss"), **metrics}


@no_grad()
def _scores(model: GPTWithHead, pairs: Sequence[Pair]) -> Scores:
    """The scores of the better and the worse reply of each pair."""
    batch = pair_batch(pairs)
    with evaluating(model):  # without dropout
        scores = to_numpy(model(batch.tokens, batch.lengths).data)[:, 0].tolist()
    return list(zip(scores[: len(pairs)], scores[len(pairs) :]))


def _show_replies(tokenizer: Tokenizer, pairs: Sequence[Pair], before: Scores, after: Scores) -> None:
    show("\nHeld-out pairs, and their scores before and after training (preferred reply first):")
    for pair, *scores in zip(pairs, before, after):
        question = tokenizer.decode(pair.chosen.ids).split("user\n")[-1].split("<|im_end|>")[0]
        show(f"\n{'':>16} | {shorten(question)}")
        for i, reply in enumerate((pair.chosen, pair.rejected)):
            ids = [id for id, learn in zip(reply.ids, reply.learned) if learn]
            text = shorten(tokenizer.decode(ids, skip_special_tokens=True))
            show(f"{scores[0][i]:7.2f} {scores[1][i]:8.2f} | {text}")
