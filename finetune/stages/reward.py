"""Reward modeling: code cannot check which of two replies people prefer, so a model learns to score replies.

The idea: of two replies to a prompt, the one that people have chosen should get the higher score r:

    loss = -ln σ(r_chosen - r_rejected)         σ(x) = 1 / (1 + e^-x)      (finetune/objectives/reward.py)

Scores of 2 and 1 give σ(1) = 0.73, the probability that the first is preferred, and a loss of 0.31. This is the
simplest stage: copy this page to make a new one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gpt.console import show
from gpt.settings import Checked, nested, setting
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.plots import plot_run
from gpt.training.run import Run
from gpt.training.training_config import TrainingConfig
from gpt.training.training_loop import one_step, train
from minigrad import no_grad
from minigrad.backend import to_numpy
from minigrad.nn.module import evaluating

from ..built_in.tasks import TASKS, preference_pairs
from ..data.chat_template import ChatTemplate
from ..data.datasets import Preference, ShuffledBatches, batches_of, hold_out, read_preferences, show_data
from ..data.pairs import Pair, encode_pairs, pair_batch
from ..evaluation.answering import shorten
from ..evaluation.reward_accuracy import compare_with_chance, show_accuracies
from ..objectives.model_with_head import HEAD_FORMAT, ModelWithHead
from ..objectives.reward import LABELS, reward_batch_loss

TRAIN_PAIRS, TEST_PAIRS = 3000, 300
SOURCES = "tasks (built-in questions), or a file of preference pairs (prompt, chosen, rejected)"  # for `load_pairs`
SHOWN_PAIRS = 6  # pairs that are shown
Scores = list[list[float]]  # for each pair, the score of the chosen reply and that of the rejected one


@dataclasses.dataclass(frozen=True)
class RewardConfig(Checked):
    """The settings of a reward modeling run. Of a file in `data`, the last tenth is held out.

    Checked: raises ValueError for a setting out of its range. setting(default, help, range): also becomes an option of
    the command. nested: the settings of another class, with other defaults.
    """

    stage = "reward"

    init_from: str = "runs/sft"
    data: str = setting(TASKS, SOURCES)
    out_dir: str = "runs/reward"
    batch_size: int = setting(32, "pairs per batch", "in [1, 65536]")
    seed: int = 1337
    training: TrainingConfig = nested(
        TrainingConfig, max_iters=100, learning_rate=5e-4, warmup_iters=20, weight_decay=0.0, eval_interval=50
    )


COLUMNS = """\
      loss  -ln of the probability that the chosen reply is preferred; ln 2 = 0.69 for a coin
  accuracy  how often it scores the chosen reply higher
    margin  by how much, on average
   pairs/s  comparisons learned from per second"""


def train_reward_model(run: Run, config: RewardConfig) -> None:
    """Train a reward model on pairs of replies, starting from an instruction-tuned language model."""
    # Load the data, a chosen and a rejected reply to each prompt, and the model, a language model whose head is
    # replaced by one that gives a single score. A resumed run finds both in its folder.
    if run.is_new:
        preferences, test_preferences = load_pairs(config.data, config.seed)
        language_model, tokenizer = load_model(config.init_from, trainable=True)
        model = ModelWithHead.from_language_model(language_model, LABELS)
        show(f"starting from the weights in {config.init_from}, with a new head: {model.num_parameters():,} parameters")
        run.begin(model, tokenizer, HEAD_FORMAT)
        run.keep_data(train=preferences, test=test_preferences)
    else:
        model, tokenizer = run.load(HEAD_FORMAT)
        preferences, test_preferences = run.load_data(read_preferences)
    test_preferences = test_preferences[: run.state.max_eval_items]  # a short run tests on fewer

    # The data: pairs as tokens, in shuffled batches.
    template = ChatTemplate(tokenizer)
    pairs, shortened = encode_pairs(preferences, template, model.config.block_size)
    test_pairs, _ = encode_pairs(test_preferences, template, model.config.block_size)
    batches = ShuffledBatches(pairs, config.batch_size, pair_batch, config.seed)
    show_data("pairs of replies", pairs, test_pairs, shortened)
    run.explain_columns(COLUMNS, unit="pairs")

    # The test: the scores of a few held-out pairs before training (kept as run.before) and after it; and how often the
    # chosen reply of a pair has the higher one.
    shown = test_pairs[:SHOWN_PAIRS]
    run.measure_before(lambda: {"scores": _scores(model, shown)})

    def validate() -> dict[str, float]:
        # run.team: the processes of the run, which share the batches. The log calls the loss val_loss.
        metrics = evaluate(model, batches_of(test_pairs, config.batch_size, pair_batch), reward_batch_loss, run.team)
        return {"val_loss": metrics.pop("loss"), **metrics}

    # Training: each step raises the scores of chosen replies above those of rejected ones.
    run.prepare(model, config.training)  # the optimizer, and the schedule of its learning rate
    model.train()
    train(run, batches, one_step(run, reward_batch_loss), validate)  # the loop: gpt/training/training_loop.py

    # The report: the same pairs again, and whether the model is better than a coin.
    if not run.interrupted:
        _show_replies(test_preferences, run.before["scores"], _scores(model, shown))
        _, sentence = compare_with_chance(model, test_pairs, config.out_dir)  # _: whether it is better
        show(f"\n{sentence}")
        if config.data == TASKS:
            show_accuracies(model, test_pairs)
        run.report(plot_run(run.out_dir, "Learning what is preferred", "pair", shares=("accuracy",)))


@no_grad()
def _scores(model: ModelWithHead, pairs: Sequence[Pair]) -> Scores:
    """The scores of the chosen and the rejected reply of each pair."""
    batch = pair_batch(pairs)  # all the chosen replies, and then all the rejected ones
    with evaluating(model):  # without dropout
        scores = to_numpy(model(batch.tokens, batch.lengths).data)  # (2B, 1)
    return scores.reshape(2, len(pairs)).T.tolist()  # (2, B) -> (B, 2)


def _show_replies(preferences: Sequence[Preference], before: Scores, after: Scores) -> None:
    show("\nHeld-out pairs, and their scores before and after training (chosen reply first):")
    for preference, old, new in zip(preferences, before, after):  # before and after have the first few
        show(f"\n{'':>16} | {shorten(preference.prompt[-1]['content'])}")
        show(f"{old[0]:7.2f} {new[0]:8.2f} | {shorten(preference.chosen)}")
        show(f"{old[1]:7.2f} {new[1]:8.2f} | {shorten(preference.rejected)}")


def load_pairs(data: str, seed: int) -> tuple[list[Preference], list[Preference]]:
    """Pairs to train on and to test on: built-in ones of a seed, or those of a file, the last tenth held out.

    Raises what `read_preferences` raises, and ValueError for a file with a single pair.
    """
    if data == TASKS:
        return preference_pairs("train", TRAIN_PAIRS, seed), preference_pairs("test", TEST_PAIRS, seed)
    return hold_out(read_preferences(data), data, "pair")
