"""Three ways of fine-tuning a model: all its weights ("full"), adapters ("lora"), adapters beside 4 bits ("qlora").

The training loop is that of pretraining, and so are data and loss; what differs is which parameters ask for a gradient,
and what a checkpoint holds. That of adapters holds only them, with Adam's moments for them, and the SHA-256 of the
weights beside which they are trained. Who goes on with such a run must still have these.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from pathlib import Path
from typing import Any

from gpt import Tokenizer
from gpt.console import show
from gpt.files import write_text
from gpt.model.language_model import LanguageModel
from gpt.training.checkpoint import Checkpoint, ModelKind, Shapes, load_checkpoint, load_state, save_checkpoint
from gpt.training.plots import plot_run
from gpt.training.pretraining import check_unused, show_sample
from gpt.training.trainer import Trainer, TrainingConfig
from minigrad import manual_seed

from .. import architectures
from ..adapters.adapter_files import CONFIG, base_fingerprint, save_adapter
from ..adapters.lora import LoRAConfig, apply_lora, merge_lora
from ..adapters.qlora import apply_qlora
from ..data.chat_template import IM_END, IM_START, resize_token_embeddings
from ..data.datasets import Example, read_examples
from ..evaluation.answering import SHOWN, ask, chat_template, show_replies
from ..loading import load_model
from .adaptation_data import is_conversations, loss_on_own_text, prepare_data, read_task
from .stage import extra_state, settings_of

STAGE = "adaptation"
METHODS = ("full", "lora", "qlora")
LONGEST = 1024  # tokens of a sequence, for models that could read more
REPLY_TOKENS = 40  # of what is shown
ADAPTER = "adapter"  # the folder, in that of the run, for PEFT and for `load_adapter`


@dataclasses.dataclass(frozen=True)
class AdaptationConfig:
    """A run of fine-tuning.

    init_from: the base model (`finetune.loading.load_model`); packed: with its 4 and 8 bits kept, if it is a
    GGUF file. data: a corpus or text file, conversations in a .jsonl or .json file, or "tasks" (see `adaptation_data`).
    method: one of METHODS; lora: the adapters, if there are any. batch_size: sequences per batch. Raises ValueError for
    another method, and for one that would change packed weights.
    """

    init_from: str = "runs/demo"
    data: str = "python"
    out_dir: str = "runs/lora"
    method: str = "lora"
    batch_size: int = 12
    seed: int = 1337
    packed: bool = False
    lora: LoRAConfig = dataclasses.field(default_factory=LoRAConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"there is no method {self.method!r}; there are {', '.join(METHODS)}")
        if self.packed and self.method != "lora":
            raise ValueError(
                f"packed weights stay as they are: adapt them with the method lora, not with {self.method}"
            )
        if isinstance(self.lora, dict):  # from a checkpoint
            object.__setattr__(self, "lora", LoRAConfig(**self.lora))


def adapt(config: AdaptationConfig, device: str = "cpu") -> Trainer:
    """Fine-tune the model `config.init_from` as `config.method` says; Ctrl-C saves.

    Raises FileExistsError where `config.out_dir` is in use, ValueError where the adapters have no place, and what
    `load_model`, `prepare_data` and `Trainer.run` raise.
    """
    out_dir = Path(config.out_dir)
    check_unused(out_dir)
    manual_seed(config.seed)
    model, tokenizer = load_model(config.init_from, config.packed)
    if is_conversations(config.data) and tokenizer.add_special_tokens([IM_START, IM_END]):
        # New tokens are learned in the embedding, or nowhere.
        embedding = architectures.of(model).embedding, "lm_head"  # one matrix under two names
        whole = tuple(dict.fromkeys([*config.lora.modules_to_save, *embedding]))
        config = dataclasses.replace(config, lora=dataclasses.replace(config.lora, modules_to_save=whole))
    trainable = _prepare_model(model, config, len(tokenizer))
    write_text(out_dir / "log.jsonl", "")  # from here on the folder is ours
    tokenizer.save(out_dir)
    prepare_data(config.data, tokenizer, out_dir, config.seed)
    show(f"starting from the weights in {config.init_from}; {trainable}")
    return _train(config, model, tokenizer, device)


def resume(out_dir: str, device: str = "cpu") -> Trainer:
    """Go on with the run in `out_dir`, with its own settings and data.

    Raises CheckpointError where there is none, and where its base model is not there any more or was changed.
    """
    config = run_config(load_state(out_dir), out_dir)
    checkpoint = load_checkpoint(out_dir, kind=kind_of(config))
    return _train(config, checkpoint.model, Tokenizer.load(out_dir), device, checkpoint)


def run_config(state: dict[str, Any], out_dir: str) -> AdaptationConfig:
    """The settings of the run whose checkpoint has this `state`. Raises CheckpointError for a run of another stage."""
    return settings_of(state, AdaptationConfig, STAGE, out_dir)


def merge_run(run: str | os.PathLike[str], out_dir: str | os.PathLike[str]) -> str:
    """Write the model of a run with its adapters merged into `out_dir`, as a folder like any other; returns a note.

    Adapters beside few bits are merged into the float weights, as 4 bits cannot take them up. Raises CheckpointError
    where there is no such run, FileExistsError where `out_dir` is in use, ValueError for a run of method "full".
    """
    run, out_dir = str(run), Path(out_dir)
    config = run_config(load_state(run), run)
    if config.method == "full":
        raise ValueError(f"the run in {run} trained all weights: it has no adapters to merge, use it as it is")
    check_unused(out_dir)
    trained = load_checkpoint(run, with_optimizer=False, kind=kind_of(config)).model
    model = trained
    if config.method == "qlora" or config.packed:
        model, _ = load_model(config.init_from)
        _prepare_model(model, dataclasses.replace(config, method="lora"), trained.config.vocab_size)
        learned = dict(trained.named_parameters())
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data = learned[name].data
    merge_lora(model)
    save_checkpoint(out_dir, model)
    Tokenizer.load(run).save(out_dir)
    return "" if model is trained else "the adapters were trained beside 4-bit weights, and are now in the float ones"


# --- the model --------------------------------------------------------------------------------------------------------


def _prepare_model(model: LanguageModel, config: AdaptationConfig, vocab_size: int) -> str:
    """Give the base model rows for new tokens, quantize it, attach adapters; says what is trained of it."""
    if model.config.vocab_size < vocab_size:
        resize_token_embeddings(model, vocab_size)
    total = model.num_parameters()
    if config.method == "lora":
        apply_lora(model, config.lora)
    elif config.method == "qlora":
        apply_qlora(model, config.lora)
    trained = model.num_parameters(trainable_only=True)
    return f"of {total:,} parameters, {trained:,} ({trained / total:.1%} as many) are trained"


def kind_of(config: AdaptationConfig) -> ModelKind | None:
    """What a checkpoint of the run holds: the whole model (None), or what is trained of it, with a fingerprint of the
    rest.
    """
    if config.method == "full":
        return None
    whole = config.lora.modules_to_save

    def describe(model: LanguageModel) -> dict[str, Any]:
        fingerprint = base_fingerprint(model, whole)
        return {"base": config.init_from, "base_sha256": fingerprint, "vocab_size": model.config.vocab_size}

    def build(description: dict[str, Any], shapes: Shapes) -> LanguageModel:
        ranks = [shape[0] for name, shape in shapes.items() if name.endswith(".lora_A")]
        if config.lora.r > max(ranks, default=0):  # before memory is asked for
            raise ValueError(f"adapters of rank {config.lora.r} are promised, and none is stored")
        model, tokenizer = load_model(config.init_from, config.packed)
        _prepare_model(model, config, description.get("vocab_size", len(tokenizer)))
        if base_fingerprint(model, whole) != description.get("base_sha256"):
            raise ValueError(f"the model in {config.init_from} is not the one beside which the adapters were trained")
        return model

    def trained(model: LanguageModel) -> dict[str, Any]:
        return {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}

    return ModelKind(f"minigrad-{config.method}", describe, build, trained)


# --- training ---------------------------------------------------------------------------------------------------------


def _train(
    config: AdaptationConfig,
    model: LanguageModel,
    tokenizer: Tokenizer,
    device: str,
    checkpoint: Checkpoint | None = None,
) -> Trainer:
    model.to(device)
    length = min(model.config.block_size, LONGEST)
    task = read_task(config.data, tokenizer, config.out_dir, length, config.batch_size, config.seed)
    earlier = checkpoint.state["extra"] if checkpoint else {}
    before = earlier["before"] if earlier else _measure(model, tokenizer, config, task.validate)
    replies = earlier.get("replies", {}) if earlier else _replies(model, tokenizer, config)
    trainer = Trainer(
        model,
        task.batches,
        config.training,
        config.out_dir,
        task.loss_fn,
        evaluate=lambda: task.validate(model),
        on_sample=None if is_conversations(config.data) else lambda step: _sample(model, tokenizer, config),
        extra_state=extra_state(config, STAGE, before=before, replies=replies),
        kind=kind_of(config),
    )
    if checkpoint is not None:
        warning = trainer.resume(checkpoint)
        show(f"resuming {config.out_dir} at step {trainer.steps_done}" + (f"; {warning}" if warning else ""))
    trainer.run()
    if not trainer.interrupted:
        trainer.extra_state["after"] = _measure(model, tokenizer, config, task.validate)
        trainer.save()
        _show_change(trainer, _replies(model, tokenizer, config), config)
    _finish(trainer, config)
    return trainer


def _measure(model: LanguageModel, tokenizer: Tokenizer, config: AdaptationConfig, validate: Any) -> dict[str, float]:
    """The validation, and the loss on the base model's own text, under "own_text", if there is any."""
    own = loss_on_own_text(model, config.init_from, tokenizer)
    return {**validate(model), **({} if own is None else {"own_text": own})}


def _replies(model: LanguageModel, tokenizer: Tokenizer, config: AdaptationConfig) -> dict[str, str]:
    """The most likely replies to some of the held-out questions, by question; none where the data are plain text."""
    questions = [example.messages[:-1] for example in _held_out(config)]
    if not questions:  # and perhaps no chat template
        return {}
    replies = ask(model, tokenizer, questions, chat_template(tokenizer), REPLY_TOKENS)
    return {question[-1]["content"]: reply.text for question, reply in zip(questions, replies)}


def _held_out(config: AdaptationConfig) -> list[Example]:
    if not is_conversations(config.data):
        return []
    return read_examples(Path(config.out_dir) / "data" / "test.jsonl")[:SHOWN]


def _sample(model: LanguageModel, tokenizer: Tokenizer, config: AdaptationConfig) -> None:
    show_sample(model, tokenizer, "import os\n\ndef" if config.data == "python" else "The", 60, config.seed)


def _show_change(trainer: Trainer, replies: dict[str, str], config: AdaptationConfig) -> None:
    """What training changed: figures, and replies to questions that were not learned from."""
    if replies:
        show("\nReplies before and after (the most likely ones):")
        right = {example.messages[-2]["content"]: example.messages[-1]["content"] for example in _held_out(config)}
        show_replies(trainer.extra_state["replies"], replies, right)
    show(f"\n{'':>24}{'before':>10}{'after':>10}")
    before, after = trainer.extra_state["before"], trainer.extra_state["after"]
    for name, value in after.items():
        show(f"{LABELS.get(name, name.replace('_', ' ')):>24}{before[name]:>10.3f}{value:>10.3f}")


def _finish(trainer: Trainer, config: AdaptationConfig) -> None:
    folder = Path(config.out_dir)
    quoted = shlex.quote(folder.as_posix())
    if trainer.interrupted:
        show(f"\ninterrupted; the checkpoint is of step {trainer.saved_step}; to go on:")
        show(f"  python scripts/lora.py --init-from resume --out-dir {quoted}")
        return
    show(f"\ntrained {trainer.steps_done} steps in {trainer.seconds:.0f} s; saved in {quoted}")
    picture = plot_run(folder, {}, title="Fine-tuning")
    show(f"picture: {picture}" if picture else "no picture: matplotlib is not installed (pip install matplotlib)")
    if config.method == "full":
        show(f"to let it write:\n  python scripts/generate.py --model {quoted}")
        return
    if not (folder / ADAPTER / CONFIG).exists():
        save_adapter(trainer.model, folder / ADAPTER, config.init_from)
    size = sum(path.stat().st_size for path in (folder / ADAPTER).iterdir())
    show(f"adapter for PEFT: {folder / ADAPTER} ({size / 1e6:.2f} MB)")
    show(f"to merge it into the model:\n  python scripts/lora.py --merge {quoted} --out-dir {quoted}-merged")


LABELS = {"val_loss": "validation loss", "own_text": "loss on its old text"}
