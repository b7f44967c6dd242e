"""Three ways to fine-tune a model: all weights ("full"), adapters ("lora"), adapters on 4-bit weights ("qlora").

    full     W changes
    lora     W + (lora_alpha / r) B A, and only A and B change      (finetune/adapters/lora.py)
    qlora    the same with W in 4 bits

The training loop is that of pretraining. The data and the loss are those of pretraining (a text) or of instruction
tuning (conversations). The methods differ in which parameters need a gradient, and in what a checkpoint holds. A
checkpoint of adapters holds only the adapters, Adam's moments for them, and the SHA-256 of the frozen base weights. To
continue the run, the base model must still be in its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from gpt import Tokenizer
from gpt.console import show
from gpt.files import StrPath
from gpt.model.language_model import LanguageModel
from gpt.settings import nested, setting
from gpt.training.checkpoint import ModelKind, Shapes, check_like, load_checkpoint, save_checkpoint, writing
from gpt.training.loading import NotTrainableError, load_model
from gpt.training.plots import plot_run
from gpt.training.pretraining import show_sample, write_corpus
from gpt.training.run import Run
from gpt.training.run_folder import check_unused, claim, leaving_nothing_unfinished, settings_of
from gpt.training.training_config import TrainingConfig
from gpt.training.training_step import training_step

from ..adapters.adapter_files import CONFIG, base_fingerprint, save_adapter
from ..adapters.lora import LoRAConfig, apply_lora, lora_layers, merge_lora
from ..adapters.qlora import apply_qlora
from ..adapters.targets import target_names
from ..data.chat_template import add_chatml, resize_token_embeddings
from ..data.datasets import Example, read_examples
from ..data.tasks import TASKS
from ..evaluation.answering import SHOWN, likely_replies, show_replies
from ..quantization.packed import load_packed
from .adaptation_data import Task, conversations_task, is_conversations, loss_on_own_text, text_task
from .run_config import RunConfig, check_batch_memory, fine_tuning
from .sft import load_data

METHODS = ("full", "lora", "qlora")
ADAPTER_KINDS = ("minigrad-lora", "minigrad-qlora")  # in config.json of a run that holds adapters only: see `kind_of`
ADAPTER = "adapter"  # the folder of PEFT's files, in that of a run
LONGEST = 1024  # tokens of a training sequence, for models that can read more
REPLY_TOKENS = 40  # length of the replies that are shown
PROMPTS = {"python": "import os\n\ndef"}  # of the samples, by corpus; "The" for all others
LABELS = {"val_loss": "validation loss", "own_text": "loss on its old text"}


@dataclasses.dataclass(frozen=True)
class AdaptationConfig(RunConfig):
    """The settings of a fine-tuning run.

    init_from: the base model (`gpt.training.loading.load_model`). data: see `adaptation_data`. lora: of the adapters,
    if there are any. Raises ValueError for a method that would change packed weights.
    """

    stage = "adaptation"

    init_from: str = "runs/demo"
    data: str = setting("python", "english, python (code), a text, tasks (questions), or conversations (.jsonl, .json)")
    out_dir: str = "runs/lora"
    batch_size: int = setting(12, "sequences per batch")
    method: str = setting("lora", "full trains all weights, lora adapters, qlora adapters on 4 bits", choices=METHODS)
    packed: bool = setting(False, "keep the base weights of a GGUF file (smollm2) in 4 and 8 bits")
    lora: LoRAConfig = nested(LoRAConfig, target_modules="all-linear")
    training: TrainingConfig = fine_tuning(max_iters=300, learning_rate=1e-2, warmup_iters=20, eval_interval=50)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.packed and self.method != "lora":
            raise ValueError(
                f"packed weights stay as they are: adapt them with the method lora, not with {self.method}"
            )

    @property
    def beside_quantized(self) -> bool:
        """Whether the adapters are trained beside quantized weights of a base model that also has float ones."""
        return self.method == "qlora" or self.packed


def train_adaptation(run: Run, config: AdaptationConfig) -> None:
    """Fine-tune a model with the `method` in its settings, on a text or on conversations."""
    # The model: all of its weights are trained, or adapters beside them, or adapters beside its weights in 4 bits.
    model, tokenizer = run.model_from(lambda: _adapted_model(run), kind_of(config))
    # If chat tokens were added, the embedding is trained too: the settings and the checkpoint's contents say so now.
    config, run.kind = run.config, kind_of(run.config)
    check_batch_memory(model, config.batch_size, config.training)

    # The data, as a task with batches, their loss and a test: conversations to answer, or a text to continue.
    task, asked = _task(run, config, tokenizer, min(model.config.block_size, LONGEST))
    show(f"data: {task.size}")

    # The test: held-out data, and text of the kind that the base model was trained on, which it may forget.
    def measure() -> dict[str, float]:
        own = loss_on_own_text(model, config.init_from, run.most_tested)  # None if there is no such text
        return {**task.validate(model, True), **({} if own is None else {"own_text": own})}

    # The model's results and answers before training: to be compared with those afterwards.
    before = run.keep("before", measure)
    _check_measured(before, task)
    right = {example.messages[-2]["content"]: example.messages[-1]["content"] for example in asked}
    replies = run.keep("replies", lambda: _replies(model, tokenizer, asked), like=dict.fromkeys(right, ""))

    # Training: each step is one of pretraining. Only A and B, or all weights, have gradients and Adam's moments.
    optimizer, schedule = run.prepare(model, config.training)
    run.write_at_start.append(lambda: _remove_adapter(run.out_dir / ADAPTER / CONFIG))
    max_norm = config.training.grad_clip
    model.train()
    with run:
        for batches in run.batches(task.batches, lambda: task.validate(model, False)):
            run.record(training_step(model, batches, task.loss_fn, optimizer, schedule, max_norm, run.gradients))
            if run.is_time_to_sample and not asked:
                show_sample(model, tokenizer, PROMPTS.get(config.data, "The"), 60, config.seed)

    if not run.interrupted:
        run.extra["after"] = measure()
        run.save()
        if asked:
            show("\nReplies before and after (the most likely ones):")
            show_replies(replies, _replies(model, tokenizer, asked), right)
        _show_change(before, run.extra["after"])
        run.finish(f"trained {run.steps_done} steps", plot_run(run.out_dir, {}, title="Fine-tuning"))
        if config.method != "full":
            _export_adapter(run, config.init_from)


# --- the data and the model -------------------------------------------------------------------------------------------


def _task(run: Run, config: AdaptationConfig, tokenizer: Tokenizer, length: int) -> tuple[Task, list[Example]]:
    """The data as a task for sequences of `length` tokens, and the conversations whose answers are shown, if any."""
    if is_conversations(config.data):
        train, test = run.data(lambda: load_data(config.data, config.seed), read_examples)
        test = test[: run.most_tested]
        built_in = config.data == TASKS
        task = conversations_task(train, test, built_in, tokenizer, length, config.batch_size, config.seed)
        return task, list(test[:SHOWN])
    if run.is_new:
        write_corpus(config.data, run.out_dir, length, tokenizer)
    batch_size, most = config.batch_size, run.most_tested
    return text_task(run.out_dir / "data", len(tokenizer), length, batch_size, config.seed, most), []


def _check_measured(before: Any, task: Task) -> None:
    """Raise CheckpointError unless `before` holds the task's metrics, and perhaps "own_text"."""
    own = ["own_text"] if isinstance(before, dict) and "own_text" in before else []
    check_like(before, dict.fromkeys([*task.metrics, *own], 0.0), "the state's before")


def _adapted_model(run: Run) -> tuple[LanguageModel, Tokenizer]:
    """The base model with its adapters attached, and its tokenizer."""
    config = run.config
    model, tokenizer = _base_model(config)
    if is_conversations(config.data) and add_chatml(tokenizer):
        # New tokens can only be learned in the embedding.
        embedding = model.names.embeddings[0], "lm_head"  # the tied embedding and output layer
        whole = tuple(dict.fromkeys([*config.lora.modules_to_save, *embedding]))
        config = dataclasses.replace(config, lora=dataclasses.replace(config.lora, modules_to_save=whole))
        run.config = config
    trainable = _prepare_model(model, config, len(tokenizer))
    show(f"starting from the weights in {config.init_from}; {trainable}")
    return model, tokenizer


def _base_model(config: AdaptationConfig) -> tuple[LanguageModel, Tokenizer]:
    """The base model, before it is quantized or adapted, and its tokenizer."""
    if config.packed:
        return load_packed(config.init_from)
    # Adapters can be trained beside quantized weights, but not beside other adapters.
    model, tokenizer = load_model(config.init_from, trainable=config.method != "lora")
    if lora_layers(model):
        raise NotTrainableError(config.init_from)
    return model, tokenizer


def _prepare_model(model: LanguageModel, config: AdaptationConfig, vocab_size: int) -> str:
    """Add embedding rows for new tokens, quantize the base model, and attach adapters. Returns what is trained."""
    if model.config.vocab_size < vocab_size:
        resize_token_embeddings(model, vocab_size)
    total = model.config.num_parameters()  # those of packed and quantized weights too
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
        raise ValueError(f"no matrix of this model has a rank above {useful:,}: take a smaller r than {lora.r:,}")


# --- what is shown and exported ---------------------------------------------------------------------------------------


def _replies(model: LanguageModel, tokenizer: Tokenizer, asked: list[Example]) -> dict[str, str]:
    """The most likely replies to held-out questions: {question: reply}. Empty if the data are plain text."""
    questions = [example.messages[:-1] for example in asked]
    # A model for plain text may have no chat template.
    return likely_replies(model, tokenizer, questions, REPLY_TOKENS) if questions else {}


def _show_change(before: dict[str, float], after: dict[str, float]) -> None:
    show(f"\n{'':>24}{'before':>10}{'after':>10}")
    for name in [name for name in after if name in before]:
        label = LABELS.get(name, name.replace("_", " "))
        show(f"{label:>24}{before[name]:>10.3f}{after[name]:>10.3f}")


def _remove_adapter(path: Path) -> None:
    """Remove the settings of an adapter that is older than the run will be: without them nobody loads it."""
    if path.exists():
        path.unlink()
        show(f"the adapter in {path.parent} is of an earlier step: removed, and written again when the run ends")


def _export_adapter(run: Run, init_from: str) -> None:
    """Write the adapter of a finished run as PEFT's files."""
    folder = run.out_dir / ADAPTER
    save_adapter(run.model, folder, init_from)
    size = sum(path.stat().st_size for path in folder.iterdir())
    show(f"adapter for PEFT: {folder} ({size / 1e6:.2f} MB)")


def merge_run(run: StrPath, out_dir: StrPath) -> None:
    """Merge the adapters of a run into its base model and save the result in `out_dir`.

    Raises CheckpointError if there is no such run, FileExistsError if `out_dir` is in use, ValueError for method "full"
    and for adapters that cannot be merged.
    """
    if settings_of(AdaptationConfig, str(run)).method == "full":
        raise ValueError(f"the run in {run} trained all weights: it has no adapters to merge, use it as it is")
    with writing(out_dir), leaving_nothing_unfinished(out_dir):
        check_unused(Path(out_dir), can_resume=False)
        model, tokenizer = load_model(run, trainable=True)  # calls load_merged
        claim(out_dir)
        tokenizer.save(out_dir)
        save_checkpoint(out_dir, model)


def load_merged(run: StrPath) -> tuple[LanguageModel, Tokenizer]:
    """The model of a run of adapters, merged into the float weights of its base model, and its tokenizer.

    4 bits cannot represent the sum. So where the base has only quantized weights, the adapters stay beside them.
    """
    model = float_model_of(str(run))
    with contextlib.suppress(ValueError):
        merge_lora(model)
    if settings_of(AdaptationConfig, str(run)).beside_quantized:
        show("note: the adapters were trained beside 4-bit weights, and are now in the float ones")
    return model, Tokenizer.load(run)


def float_model_of(run: str) -> LanguageModel:
    """The model of a run with its adapters on float weights, even if they were trained on quantized weights."""
    config = settings_of(AdaptationConfig, run)
    trained = load_checkpoint(run, with_optimizer=False, kind=kind_of(config)).model
    if not config.beside_quantized:
        return trained
    model, _ = load_model(config.init_from)
    _prepare_model(model, dataclasses.replace(config, method="lora"), trained.config.vocab_size)
    learned = dict(trained.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = learned[name].data
    return model


# --- in a checkpoint --------------------------------------------------------------------------------------------------


def kind_of(config: AdaptationConfig) -> ModelKind | None:
    """The contents of a checkpoint: the whole model (None), or the trained parameters and the others' fingerprint."""
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
        model, tokenizer = _base_model(config)
        _prepare_model(model, config, description.get("vocab_size", len(tokenizer)))
        if base_fingerprint(model, whole) != description.get("base_sha256"):
            found = f"the model in {config.init_from} is not the one beside which the adapters were trained"
            raise ValueError(f"{found}: put that one back, or train new adapters")
        return model

    def trained(model: LanguageModel) -> dict[str, Any]:
        return {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}

    return ModelKind(f"minigrad-{config.method}", describe, build, trained)
