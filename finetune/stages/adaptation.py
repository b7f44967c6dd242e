"""Three ways to fine-tune a model: all weights ("full"), adapters ("lora"), adapters on 4-bit weights ("qlora").

The training loop, the data and the loss are those of pretraining. The methods differ in which parameters need a
gradient, and in what a checkpoint holds. A checkpoint of adapters holds only the adapters, Adam's moments for them, and
the SHA-256 of the frozen base weights, which must still be there to continue the run.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt import Tokenizer
from gpt.accounting import training_memory
from gpt.console import show
from gpt.model.language_model import LanguageModel
from gpt.training.checkpoint import ModelKind, Shapes, check_like, load_checkpoint, save_checkpoint, writing
from gpt.training.pretraining import check_unused, claim, show_sample
from gpt.training.trainer import Trainer
from minigrad import Tensor

from .. import architectures
from ..adapters.adapter_files import CONFIG, base_fingerprint, save_adapter
from ..adapters.lora import LoRAConfig, adapter_parameters, apply_lora, merge_lora
from ..adapters.qlora import apply_qlora
from ..adapters.targets import target_names
from ..data.chat_template import add_chatml, resize_token_embeddings
from ..data.datasets import read_examples
from ..data.tasks import TASKS
from ..evaluation.answering import SHOWN, likely_replies, show_replies
from ..loading import ADAPTER, load_model
from .adaptation_data import conversations_task, is_conversations, loss_on_own_text, text_task, write_corpus
from .sft import load_data
from .stage import Data, RunConfig, Stage, settings_of

METHODS = ("full", "lora", "qlora")
LONGEST = 1024  # tokens of a sequence, for models that could read more
REPLY_TOKENS = 40  # of what is shown


@dataclasses.dataclass(frozen=True)
class AdaptationConfig(RunConfig):
    """The settings of a fine-tuning run.

    init_from: the base model (`finetune.loading.load_model`). packed: keep the 4 and 8 bits of a GGUF file. data: a
    corpus or text file, conversations in a .jsonl or .json file, or "tasks" (see `adaptation_data`). method: one of
    METHODS. lora: the settings of the adapters, if there are any. batch_size: sequences per batch. Raises ValueError
    for another method, and for a method that would change packed weights.
    """

    init_from: str = "runs/demo"
    data: str = "python"
    out_dir: str = "runs/lora"
    batch_size: int = 12
    method: str = "lora"
    packed: bool = False
    lora: LoRAConfig = dataclasses.field(default_factory=LoRAConfig)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"there is no method {self.method!r}; there are {', '.join(METHODS)}")
        if self.packed and self.method != "lora":
            raise ValueError(
                f"packed weights stay as they are: adapt them with the method lora, not with {self.method}"
            )
        if isinstance(self.lora, dict):  # from a checkpoint
            object.__setattr__(self, "lora", LoRAConfig(**self.lora))


class Adaptation(Stage):
    """Fine-tune a model with the `method` in its settings, on a text or on conversations."""

    name = "adaptation"
    config_class = AdaptationConfig
    read = staticmethod(read_examples)
    config: AdaptationConfig

    def prepare(self) -> Data:
        """Set the model, with its adapters attached. A corpus is written into the run's folder as token files."""
        config = self.config
        self.model, self.tokenizer = load_model(config.init_from, config.packed)
        if is_conversations(config.data) and add_chatml(self.tokenizer):
            # New tokens can only be learned in the embedding.
            embedding = architectures.of(self.model).embedding, "lm_head"  # one matrix under two names
            whole = tuple(dict.fromkeys([*config.lora.modules_to_save, *embedding]))
            config = dataclasses.replace(config, lora=dataclasses.replace(config.lora, modules_to_save=whole))
            self.config = config
        trainable = _prepare_model(self.model, config, len(self.tokenizer))
        data: Data = {}
        if is_conversations(config.data):
            data = dict(zip(("train", "test"), load_data(config.data, config.seed)))
        else:
            claim(config.out_dir)
            write_corpus(config.data, self.tokenizer, Path(config.out_dir) / "data")
        show(f"starting from the weights in {config.init_from}; {trainable}")
        return data

    def encode(self, data: Data) -> None:
        config, length = self.config, min(self.model.config.block_size, LONGEST)
        if is_conversations(config.data):
            built_in = config.data == TASKS
            self.task = conversations_task(data, built_in, self.tokenizer, length, config.batch_size, config.seed)
        else:
            folder = Path(config.out_dir) / "data"
            self.task = text_task(folder, len(self.tokenizer), length, config.batch_size, config.seed)
        self.batches = self.task.batches
        self.shown_items = list(data.get("test", [])[:SHOWN])

    def introduce(self) -> None:
        show(f"data: {self.task.size}")

    def measure(self) -> dict[str, Any]:
        return {"before": self._measure(), "replies": self._replies()}

    def check_measured(self, found: Mapping[str, Any]) -> None:
        before = found.get("before")
        own = ["own_text"] if isinstance(before, dict) and "own_text" in before else []
        replies = dict.fromkeys((example.messages[-2]["content"] for example in self.shown_items), "")
        form = {"before": dict.fromkeys([*self.task.metrics, *own], 0.0), "replies": replies}
        check_like({name: found.get(name) for name in form}, form, "the state")

    def _measure(self) -> dict[str, float]:
        """The validation metrics, and "own_text", the loss on the base model's own text, if there is such a text."""
        own = loss_on_own_text(self.model, self.config.init_from)
        return {**self.task.validate(self.model, True), **({} if own is None else {"own_text": own})}

    def _replies(self) -> dict[str, str]:
        """The most likely replies to some held-out questions: {question: reply}. Empty if the data are plain text."""
        questions = [example.messages[:-1] for example in self.shown_items]
        # Without questions there may be no chat template either.
        return likely_replies(self.model, self.tokenizer, questions, REPLY_TOKENS) if questions else {}

    def kind(self) -> ModelKind | None:
        return kind_of(self.config)

    def trainer(self, extra_state: dict[str, Any]) -> Trainer:
        trainer = super().trainer(extra_state)
        trainer.on_sample = None if is_conversations(self.config.data) else self._sample
        return trainer

    def _sample(self, step: int) -> None:
        prompt = "import os\n\ndef" if self.config.data == "python" else "The"
        show_sample(self.model, self.tokenizer, prompt, 60, self.config.seed)

    def loss(self, model: Any, batch: Any) -> tuple[Tensor, int, dict[str, Any]]:
        return self.task.loss_fn(model, batch)

    def validate(self) -> dict[str, float]:
        return self.task.validate(self.model, False)

    def report(self, trainer: Trainer) -> None:
        """Show what training changed: figures, and replies to held-out questions."""
        before, after = trainer.extra_state["before"], self._measure()
        trainer.extra_state["after"] = after
        trainer.save()
        if replies := self._replies():
            show("\nReplies before and after (the most likely ones):")
            right = {example.messages[-2]["content"]: example.messages[-1]["content"] for example in self.shown_items}
            show_replies(trainer.extra_state["replies"], replies, right)
        show(f"\n{'':>24}{'before':>10}{'after':>10}")
        for name in [name for name in after if name in before]:
            label = LABELS.get(name, name.replace("_", " "))
            show(f"{label:>24}{before[name]:>10.3f}{after[name]:>10.3f}")

    def done(self, trainer: Trainer) -> str:
        return f"trained {trainer.steps_done} steps"

    def finish(self, trainer: Trainer) -> None:
        super().finish(trainer)
        if self.config.method == "full":
            return
        folder = trainer.out_dir / ADAPTER
        if not (folder / CONFIG).exists():
            save_adapter(self.model, folder, self.config.init_from)
        size = sum(path.stat().st_size for path in folder.iterdir())
        show(f"adapter for PEFT: {folder} ({size / 1e6:.2f} MB)")


LABELS = {"val_loss": "validation loss", "own_text": "loss on its old text"}


def merge_run(run: str | os.PathLike[str], out_dir: str | os.PathLike[str]) -> str:
    """Merge the adapters of a run into its base model and save the result in `out_dir`. Returns a note.

    Adapters on quantized weights are merged into the float weights, because 4 bits cannot represent the sum. Raises
    CheckpointError if there is no such run, FileExistsError if `out_dir` is in use, ValueError for method "full".
    """
    run, out_dir = str(run), Path(out_dir)
    config = settings_of(Adaptation, run)
    if config.method == "full":
        raise ValueError(f"the run in {run} trained all weights: it has no adapters to merge, use it as it is")
    with writing(out_dir):
        check_unused(out_dir, can_resume=False)
        model = float_model_of(run)
        merge_lora(model)
        claim(out_dir)
        Tokenizer.load(run).save(out_dir)
        save_checkpoint(out_dir, model)
    few_bits = config.method == "qlora" or config.packed
    return "the adapters were trained beside 4-bit weights, and are now in the float ones" if few_bits else ""


def float_model_of(run: str) -> LanguageModel:
    """The model of a run with its adapters on float weights, even if they were trained on quantized weights."""
    config = settings_of(Adaptation, run)
    trained = load_checkpoint(run, with_optimizer=False, kind=kind_of(config)).model
    if config.method != "qlora" and not config.packed:
        return trained
    model, _ = load_model(config.init_from)
    _prepare_model(model, dataclasses.replace(config, method="lora"), trained.config.vocab_size)
    learned = dict(trained.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = learned[name].data
    return model


# --- the model --------------------------------------------------------------------------------------------------------


def _prepare_model(model: LanguageModel, config: AdaptationConfig, vocab_size: int) -> str:
    """Add embedding rows for new tokens, quantize the base model, and attach adapters. Shows what is trained."""
    if model.config.vocab_size < vocab_size:
        resize_token_embeddings(model, vocab_size)
    total = model.num_parameters()
    if config.method != "full":
        _check_rank(model, config.lora)
    if config.method == "lora":
        apply_lora(model, config.lora)
    elif config.method == "qlora":
        apply_qlora(model, config.lora)
    trained = model.num_parameters(trainable_only=True)
    return f"of {total:,} parameters, {trained:,} ({trained / total:.1%} as many) are trained"


def _check_rank(model: LanguageModel, lora: LoRAConfig) -> None:
    """Raise ValueError for a rank that is larger than every matrix, before memory is allocated."""
    layers: list[Any] = [model.get_submodule(name) for name in target_names(model, lora.target_modules or ())]
    useful = max((min(layer.in_features, layer.out_features) for layer in layers), default=lora.r)
    if lora.r > useful:
        numbers = sum(adapter_parameters(layer.in_features, layer.out_features, lora.r) for layer in layers)
        needed = sum(training_memory(numbers).values()) / 1e9
        raise ValueError(
            f"adapters of rank {lora.r:,} need {needed:,.1f} GB of memory, and a rank above {useful:,}, the largest "
            "that a matrix of this model can have, learns no more: take a smaller one"
        )


def kind_of(config: AdaptationConfig) -> ModelKind | None:
    """What a checkpoint stores: the whole model (None), or the trained parameters and a fingerprint of the others."""
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
