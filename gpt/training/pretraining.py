"""From a text to a model that writes: corpus -> tokenizer -> token files -> model -> training -> samples, a picture."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import textwrap
import time
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minigrad import backend, manual_seed

from ..accounting import activation_bytes, training_memory
from ..console import printable, show
from ..files import UNFINISHED, shortened, write_text
from ..model.config import GPT2_VOCAB_SIZE, GPTConfig
from ..model.gpt2 import GPT
from ..model.language_model import LanguageModel
from ..tokenizer.tokenizer import Tokenizer
from . import folder_lock
from .batches import RandomBatches, Tokens, get_batch, open_tokens, prepare
from .checkpoint import Checkpoint, CheckpointError, check_like, has_checkpoint, load_checkpoint, writing
from .corpora import load_corpus
from .data_parallel import ALONE, Team
from .evaluation import baseline_losses, bits_per_byte, evaluated, held_out_loss, perplexity
from .loading import load_model
from .log import COLUMNS
from .plots import plot_run
from .trainer import Trainer, TrainingConfig

T = TypeVar("T")
# What a value may be by its annotation.
TYPES: dict[str, list[type]] = {
    "int": [int], "float": [int, float], "str": [str], "bool": [bool], "dict[str, Any]": [dict], "None": [type(None)]
}  # fmt: skip
SHOWN_TOKENS = 16_384  # of the training text, whose length in characters is shown
COUNTED_TOKENS = 10_000_000  # of the training text, for the baselines
LONGEST_CONTEXT = 1024  # tokens that a model which can read more is trained on at once, unless it is said


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    """A pretraining run.

    data: a corpus name or a text file (`gpt.training.corpora.load_corpus`). vocab_size: of the tokenizer that is
    trained on it, or 50257 for GPT-2's own. model: the GPT's shape without vocab_size; block_size is the length of the
    sequences that are trained on, and may be less than what a model from elsewhere can read. batch_size: sequences per
    batch. sample_tokens: length of the samples during the run. made_by: who started it, for whoever finds the run.
    """

    data: str = "english"
    out_dir: str = "runs/train"
    vocab_size: int = 1024
    batch_size: int = 16
    seed: int = 1337
    sample_prompt: str = "The"
    sample_tokens: int = 80
    made_by: str = "train"
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


def demo_config(short: bool, out_dir: str, seed: int, made_by: str = "demo") -> PretrainingConfig:
    """A model that learns to write in about three minutes on two cores; `short`: a smaller one, in half a minute."""
    steps = 100 if short else 900
    training = TrainingConfig(
        max_iters=steps,
        learning_rate=3e-3,
        warmup_iters=steps // 10,
        eval_interval=steps // 10,
        sample_interval=steps // 10,
        log_interval=steps // 50,
    )
    model = {"n_layer": 4, "n_head": 4, "n_embd": 128 if short else 192, "block_size": 128}
    return PretrainingConfig(
        "english", out_dir, vocab_size=1024, batch_size=12, seed=seed, made_by=made_by, model=model, training=training
    )


def pretrain(
    config: PretrainingConfig, device: str = "cpu", init_from: str | None = None, team: Team = ALONE
) -> Trainer:
    """Train a GPT from random weights, or a GPT or Llama from the weights of the model `init_from`, with its tokenizer.

    team: the processes that train together; all call this. Ctrl-C saves; the returned trainer's `interrupted` says so.
    Raises FileExistsError where `config.out_dir` holds a run, BlockingIOError where one is running, ValueError where
    `config.model` is not a possible shape or not the shape of `init_from`, and whatever `load_corpus` and `Trainer.run`
    raise.
    """
    out_dir = Path(config.out_dir)
    with writing(out_dir, team):
        team.once(lambda: check_unused(out_dir))
        manual_seed(config.seed)
        if init_from is None:
            shape = GPTConfig(**{**config.model, "vocab_size": 257})  # raises if it is impossible, before any work
            context = shape.block_size
            _check_memory(shape, config.batch_size, context, config.training, team)
            corpus = team.once(lambda: _begin(config))
            model: LanguageModel = GPT(GPTConfig(**config.model, vocab_size=len(Tokenizer.load(out_dir))))
        else:
            model, its_tokenizer = load_model(init_from)
            context = _checked_context(model.config, config.model, init_from)
            _check_memory(model.config, config.batch_size, context, config.training, team)
            show(f"starting from the weights in {init_from}")
            corpus = team.once(lambda: _begin(config, its_tokenizer))
        config = dataclasses.replace(config, vocab_size=model.config.vocab_size, model=_shape(model, context))
        return _train(config, model, corpus, device, team)


def resume(out_dir: str, device: str = "cpu", team: Team = ALONE) -> Trainer:
    """Continue the run in `out_dir`, with its own settings and data, as if it had never stopped.

    Raises CheckpointError if there is no run that can be continued.
    """
    with writing(out_dir, team):
        checkpoint = load_checkpoint(out_dir)
        config = run_config(checkpoint.state, out_dir)
        corpus = {name: checkpoint.state["extra"].get(name) for name in ("corpus", "corpus_sha256")}
        check_like(corpus, dict.fromkeys(corpus, ""), "the state's extra")
        model, context = checkpoint.model, config.model.get("block_size")
        if type(context) is not int or not 1 <= context <= model.config.block_size:
            raise CheckpointError(f"the checkpoint in {out_dir} is damaged: block_size {shortened(context)}")
        if (config.model, config.vocab_size) != (_shape(model, context), model.config.vocab_size):
            raise CheckpointError(f"the checkpoint in {out_dir} is damaged: its settings are those of another model")
        _check_memory(model.config, config.batch_size, context, config.training, team)
        return _train(config, model, corpus, device, team, checkpoint)


def _shape(model: LanguageModel, context: int) -> dict[str, Any]:
    """The shape of a model that is trained on sequences of `context` tokens, without vocab_size."""
    shape = {**model.config.to_dict(), "block_size": context}
    del shape["vocab_size"]
    return shape


def run_config(state: dict[str, Any], out_dir: str) -> PretrainingConfig:
    """The settings of the run whose checkpoint has this `state`. Raises CheckpointError for a run of another kind."""
    try:
        settings = state["extra"]["run"]
        training = TrainingConfig(**settings["training"])
        return check_types(PretrainingConfig(**{**settings, "out_dir": out_dir, "training": training}))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint in {out_dir} is of no such run, or of another version: {error}"
        ) from None


def check_types(config: T) -> T:
    """Return settings from a file. Raises ValueError for one of another type than its annotation, or below 0."""
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value, kinds = getattr(config, field.name), str(field.type).split(" | ")
        if dataclasses.is_dataclass(value):
            check_types(value)
        elif TYPES.keys() >= set(kinds) and type(value) not in [kind for name in kinds for kind in TYPES[name]]:
            raise ValueError(f"{field.name} must be {field.type}, got {shortened(value)}")
        elif type(value) is int and value < 0:
            raise ValueError(f"{field.name} must not be negative, got {shortened(value)}")
    return config


# --- preparing --------------------------------------------------------------------------------------------------------


def check_unused(out_dir: Path, can_resume: bool = True) -> None:
    """Raise FileExistsError for a folder with files that might be overwritten. It may be new, empty, or that of a run
    that never started.

    can_resume: whether to suggest resuming the run in the folder.
    """
    if has_checkpoint(out_dir):
        resume = "go on with --init-from resume, " if can_resume else ""
        raise FileExistsError(f"{out_dir} holds a run already: {resume}choose another --out-dir, or delete it")
    found = {path.name for path in out_dir.iterdir()} if out_dir.exists() else set()
    found -= {name for name in found if name == folder_lock.NAME or name.endswith(UNFINISHED)}
    if found and "log.jsonl" not in found:
        raise FileExistsError(f"{out_dir} holds files that are not of a run: choose another --out-dir")


def check_memory(needed: float, what: str) -> None:
    """Raise ValueError for a run that needs more bytes than this machine has, before any work is done."""
    there = 1 << 42  # more than machines have, where the system does not say
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        sizes = f"{needed / 1e9:,.0f} GB of memory, and this machine has {there / 1e9:,.0f} GB"
        raise ValueError(f"{what} needs at least {sizes}: make it smaller")


def _check_memory(shape: Any, batch_size: int, block_size: int, training: TrainingConfig, team: Team) -> None:
    """Check the memory for weights, gradients and moments, and for a step's batches."""
    n, rows = shape.num_parameters(), batch_size / team.size
    model = sum(training_memory(n).values())
    check_memory(model, f"training a model of {n:,} parameters")
    ids = 16 * rows * block_size * training.gradient_accumulation_steps
    checkpointed = training.checkpoint_activations
    batch = ids + activation_bytes(shape, math.ceil(rows), block_size, kernels="fast", checkpointed=checkpointed)
    check_memory(model + batch, f"a step on {batch_size:,} sequences of {block_size:,} tokens")


def claim(out_dir: str | os.PathLike[str]) -> None:
    """Mark a folder as that of a run by an empty log. A run that stops before its first checkpoint can start again."""
    write_text(Path(out_dir) / "log.jsonl", "")


def _begin(config: PretrainingConfig, tokenizer: Tokenizer | None = None) -> dict[str, str]:
    """Write the tokenizer (a new one, unless it is given) and the token files. Returns a description of the text."""
    corpus, out_dir = load_corpus(config.data), Path(config.out_dir)
    show(str(corpus))
    if tokenizer is None:
        tokenizer = _new_tokenizer(corpus.text, config.vocab_size)
    claim(out_dir)
    tokenizer.save(out_dir)
    prepare(corpus.text, tokenizer, out_dir / "data")
    return {"corpus": str(corpus), "corpus_sha256": corpus.sha256}


def _checked_context(config: Any, wanted: dict[str, Any], source: str) -> int:
    """The context length for training. Raises ValueError if the model does not have the requested shape."""
    shape = config.to_dict()
    context = wanted.get("block_size", min(config.block_size, LONGEST_CONTEXT))
    for name, value in wanted.items():
        fits = value <= config.block_size if name == "block_size" else value == shape.get(name)
        if not fits:
            has = f"{name} {shape[name]}" if name in shape else f"no {name}"
            raise ValueError(f"the model in {source} has {has}; it cannot be made {value}")
    return context


def _new_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    if vocab_size == GPT2_VOCAB_SIZE:
        return Tokenizer.gpt2()
    started = time.perf_counter()
    tokenizer = Tokenizer.train([text], vocab_size)
    show(f"tokenizer: {len(tokenizer):,} tokens learned from it ({time.perf_counter() - started:.1f} s)")
    return tokenizer


# --- training ---------------------------------------------------------------------------------------------------------


def _train(
    config: PretrainingConfig,
    model: LanguageModel,
    corpus: dict[str, str],
    device: str,
    team: Team,
    checkpoint: Checkpoint | None = None,
) -> Trainer:
    out_dir, block_size = Path(config.out_dir), config.model["block_size"]
    tokenizer = Tokenizer.load(out_dir)
    train, validation = (open_tokens(out_dir / "data" / name) for name in ("train.bin", "val.bin"))
    get_batch(train, 1, block_size, np.random.default_rng(0), len(tokenizer))  # raises if it is too short, or damaged
    rows = team.rows(config.batch_size)
    _introduce(model, tokenizer, train, validation, block_size)
    if team.size > 1:
        show(f"{team.size} processes like this one, which share each batch of {config.batch_size} sequences")
    n_bytes = len(tokenizer.decode_bytes(validation[1:].tolist()))
    baselines = team.once(lambda: baseline_losses(train[:COUNTED_TOKENS], validation, len(tokenizer)))
    _show_baselines(baselines)

    def validate() -> dict[str, float]:
        last = trainer.steps_done == config.training.max_iters
        found = held_out_loss(model, validation, config.batch_size, block_size, whole=last, team=team)
        loss = found["val_loss"]
        bits = bits_per_byte(loss, len(validation) - 1, n_bytes)
        return {**found, "perplexity": perplexity(loss), "bits_per_byte": bits}

    trainer = Trainer(
        model.to(device),
        RandomBatches(train, config.batch_size, block_size, config.seed, len(tokenizer), rows),
        config.training,
        out_dir,
        evaluate=validate,
        on_sample=lambda step: show_sample(model, tokenizer, config.sample_prompt, config.sample_tokens, config.seed),
        extra_state={"run": dataclasses.asdict(config), **corpus},
        team=team,
    )
    if checkpoint is not None:
        warning = trainer.resume(checkpoint)
        show(f"resuming {out_dir} at step {trainer.steps_done}" + (f"; {warning}" if warning else ""))
    trainer.run()
    team.once(lambda: _finish(trainer, baselines))
    return trainer


# --- talking ----------------------------------------------------------------------------------------------------------


def _introduce(model: LanguageModel, tokenizer: Tokenizer, train: Tokens, validation: Tokens, block_size: int) -> None:
    c, cores = model.config, backend.usable_cores()
    characters = len(tokenizer.decode(train[:SHOWN_TOKENS].tolist())) / len(train[:SHOWN_TOKENS])
    show(
        f"data: {len(train):,} tokens to learn from, {characters:.1f} characters each; "
        f"{evaluated(validation, block_size)}\n"
        f"model: {model.num_parameters():,} parameters ({c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, "
        f"{block_size} tokens of context), {cores} processor core{'s' if cores > 1 else ''}"
    )


def _show_baselines(baselines: dict[str, float]) -> None:
    meaning = {
        "uniform": "knowing nothing: all tokens equally likely (ln V)",
        "unigram": "knowing how frequent each token is",
        "bigram": "knowing the token before it",
    }
    show(f"\nWhat the columns mean:\n{COLUMNS}\n\nLosses to beat, on the text to test on:")
    for name, loss in baselines.items():
        show(f"{loss:12.2f}  {meaning[name]}")
    show()


def show_sample(model: LanguageModel, tokenizer: Tokenizer, prompt: str, tokens: int, seed: int) -> None:
    """Show a sample of text from the model as it is now."""
    ids = tokenizer.encode(prompt)
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    new = model.generate([ids], tokens, temperature=0.8, top_p=0.95, seed=seed, stop_tokens=end)[0]
    text = printable(tokenizer.decode(ids + new, skip_special_tokens=True))
    lines = [line for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, 96)]
    show("\n".join(f"{'writes' if i == 0 else '':>11} | {line}" for i, line in enumerate(lines)))


def _finish(trainer: Trainer, baselines: dict[str, float]) -> None:
    if not trainer.interrupted:
        picture = plot_run(trainer.out_dir, baselines)
        done = f"trained {trainer.steps_done} steps, {trainer.count:,} tokens, in {trainer.seconds:.0f} s"
        show(f"\n{done}; saved in {shlex.quote(trainer.out_dir.as_posix())}")
        show(f"picture: {picture}" if picture else "no picture: matplotlib is not installed (pip install matplotlib)")
