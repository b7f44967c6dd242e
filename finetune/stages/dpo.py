"""A run of direct preference optimization: a model that answers in, one that answers as is preferred out."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from gpt import Tokenizer
from gpt.console import show
from gpt.model.language_model import LanguageModel
from gpt.training.checkpoint import Checkpoint, load_checkpoint
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.plots import plot_run
from gpt.training.pretraining import check_unused
from gpt.training.trainer import Trainer, TrainingConfig
from minigrad import manual_seed

from ..data.chat_template import ChatTemplate
from ..data.datasets import ShuffledBatches, batches_of, read_preferences
from ..data.pairs import TASKS, encode_pairs, load_pairs, pair_batch, read_referenced, with_columns
from ..data.tasks import instruction_tasks
from ..evaluation.judge import Judge
from ..objectives.dpo import check_dpo, dpo_batch_loss, with_reference
from .stage import begin_run, extra_state, settings_of, show_end

STAGE = "dpo"
TEST_ITEMS = 300  # held-out questions
SHOWN = ("rewards/margins", "rewards/accuracies")  # on the screen; log.jsonl has all

COLUMNS = """\
                loss  how surprised the model, taken as a reward model, is by which reply was preferred; at first ln 2
    rewards/margins  by how much more than the reference it prefers the better reply: beta times nats
 rewards/accuracies  how often it does
            pairs/s  comparisons learned from per second
              right  share of held-out questions answered rightly, at temperature 1
          courteous  share of them answered rightly and courteously: what is preferred"""


@dataclasses.dataclass(frozen=True)
class DPOConfig:
    """A run of DPO. data: "tasks", or a file that `read_preferences` reads, whose last tenth is held out.

    beta, loss_type, label_smoothing: see `dpo.dpo_loss`. Raises ValueError for one that cannot be.
    """

    init_from: str = "runs/sft"
    data: str = TASKS
    out_dir: str = "runs/dpo"
    batch_size: int = 32
    seed: int = 1337
    beta: float = 0.5
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        check_dpo(self.loss_type, self.beta, self.label_smoothing)


def prefer(config: DPOConfig, device: str = "cpu") -> Trainer:
    """Tune the model `config.init_from`, which is also the reference, on pairs of replies; Ctrl-C saves.

    Raises FileExistsError where `config.out_dir` is in use, ValueError for a model without the chat tokens, and what
    `load_model`, `read_preferences` and `Trainer.run` raise.
    """
    check_unused(Path(config.out_dir))
    manual_seed(config.seed)
    model, tokenizer = load_model(config.init_from)
    template = ChatTemplate(tokenizer)
    model.to(device)
    show(f"starting from the weights in {config.init_from}, which are also the reference")
    data = {}
    for name, preferences in zip(("train", "test"), load_pairs(config.data, config.seed)):
        pairs, shortened = encode_pairs(preferences, template, model.config.block_size)
        if shortened:
            show(f"{name}: {shortened:,} pairs were too long: oldest turns left out, or the replies' ends cut")
        data[name] = with_columns(preferences, with_reference(model, pairs, config.batch_size))
    begin_run(config.out_dir, tokenizer, data)
    return _train(config, model, tokenizer, device)


def resume(out_dir: str, device: str = "cpu") -> Trainer:
    """Go on with the run in `out_dir`, with its own settings and data. Raises CheckpointError where there is none."""
    checkpoint = load_checkpoint(out_dir)
    config = settings_of(checkpoint.state, DPOConfig, STAGE, out_dir)
    return _train(config, checkpoint.model, Tokenizer.load(out_dir), device, checkpoint)


def _train(
    config: DPOConfig, model: LanguageModel, tokenizer: Tokenizer, device: str, checkpoint: Checkpoint | None = None
) -> Trainer:
    model.to(device)
    template, data = ChatTemplate(tokenizer), Path(config.out_dir) / "data"
    train, tests = (read_referenced(data / f"{n}.jsonl", template, model.config.block_size) for n in ("train", "test"))
    show(f"data: {len(train):,} pairs of replies to learn from, {len(tests):,} to test on")
    show(f"\nWhat the columns mean:\n{COLUMNS}\n")
    items = instruction_tasks("test", TEST_ITEMS, config.seed) if config.data == TASKS else []
    questions = [preference.prompt for preference in read_preferences(data / "test.jsonl")]
    judge = Judge(model, tokenizer, config.init_from, items, questions, config.seed)
    loss_fn = partial(dpo_batch_loss, beta=config.beta, kind=config.loss_type, label_smoothing=config.label_smoothing)

    def validate() -> dict[str, float]:
        metrics = evaluate(model, batches_of(tests, config.batch_size, pair_batch), loss_fn)
        return {"val_loss": metrics["loss"], **{name: metrics[name] for name in SHOWN}, **judge.on_the_way()}

    trainer = Trainer(
        model,
        ShuffledBatches(train, config.batch_size, pair_batch, config.seed),
        config.training,
        config.out_dir,
        loss_fn,
        evaluate=validate,
        extra_state=extra_state(config, STAGE),
        unit="pairs",
    )
    trainer.log.shown = SHOWN
    if checkpoint is not None:
        warning = trainer.resume(checkpoint)
        show(f"resuming {config.out_dir} at step {trainer.steps_done}" + (f"; {warning}" if warning else ""))
    trainer.run()
    if not trainer.interrupted:
        judge.show_change()
    shares = ("rewards/accuracies", "right", "courteous")
    picture = (
        None
        if trainer.interrupted
        else plot_run(trainer.out_dir, {}, title="Learning to prefer", unit="pair", shares=shares)
    )
    done = f"trained {trainer.steps_done} steps, {trainer.count:,} pairs,"
    show_end(trainer, "dpo", done, picture, "to talk to it:\n  python scripts/chat.py --model")
    return trainer
