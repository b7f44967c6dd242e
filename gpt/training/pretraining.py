"""From a text to a model that writes: corpus -> tokenizer -> token files -> model -> training -> samples, a picture."""

from __future__ import annotations

import dataclasses
import math
import textwrap
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import backend

from ..accounting import activation_bytes, training_memory
from ..console import printable, show
from ..files import shortened
from ..memory_check import check_memory
from ..model.config import GPT2_VOCAB_SIZE, Settings
from ..model.language_model import LanguageModel, architecture_of, from_settings
from ..settings import Checked, nested, setting
from ..tokenizer.tokenizer import Tokenizer
from .batches import EpochBatches, Tokens, check_length, encode_parts, get_batch, open_tokens, write_tokens
from .checkpoint import CheckpointError
from .corpora import load_corpus
from .data_parallel import ALONE, Team
from .evaluation import baseline_losses, bits_per_byte, evaluated, held_out_loss, perplexity
from .loading import load_model
from .log import COLUMNS
from .plots import plot_run
from .run import Run, start
from .run_folder import claim
from .training_config import TrainingConfig
from .training_step import language_model_loss, training_step

SHOWN_TOKENS = 16_384  # of the training text, in which characters per token are counted
COUNTED_TOKENS = 10_000_000  # of the training text, for the baselines
LONGEST_CONTEXT = 1024  # default context length for training a model that can read more


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(Checked):
    """A pretraining run.

    data: see `gpt.training.corpora.load_corpus`. model: the shape without vocab_size; block_size is the length of the
    sequences that are trained on, and may be less than what a model from elsewhere can read. sample_tokens: length of
    the samples during the run. made_by: what started the run.
    """

    data: str = setting("english", "stories, english, python (code), shakespeare (a download), or a UTF-8 file")
    out_dir: str = "runs/train"
    vocab_size: int = setting(1024, "tokens to learn; 257: single bytes; 50257: GPT-2's own", ">= 1")
    batch_size: int = setting(16, "sequences per batch", ">= 1")
    seed: int = 1337
    sample_prompt: str = "The"
    sample_tokens: int = 80
    made_by: str = "train"
    architecture: str = setting("gpt", "of a new model: GPT-2's, or Llama's", choices=("gpt", "llama"))
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: TrainingConfig = nested(TrainingConfig, sample_interval=200)


def demo_config(
    short: bool, out_dir: str, seed: int, made_by: str = "demo", data: str = "stories"
) -> PretrainingConfig:
    """A model that learns to write in about three minutes on two cores; `short`: a smaller one, in half a minute."""
    steps = 100 if short else 800
    training = TrainingConfig(
        max_iters=steps,
        optimizer="muon",  # lesson 455 compares these three settings with others
        momentum=0.85,
        learning_rate=1e-2,
        warmup_iters=steps // 10,
        eval_interval=steps // 10,
        sample_interval=steps // 10,
        log_interval=steps // 50,
    )
    model = {"n_layer": 4, "n_head": 4, "n_embd": 128 if short else 192, "block_size": 128}
    sample = ("Once upon a time", 110) if data == "stories" else ("The", 80)
    return PretrainingConfig(data, out_dir, 1024, 12, seed, *sample, made_by, "gpt", model, training)


def pretrain(config: PretrainingConfig, device: str = "cpu", init_from: str | None = None, team: Team = ALONE) -> Run:
    """Train a GPT or Llama from random weights, or from the weights of the model `init_from`, with its tokenizer.

    team: the processes that train together; all call this. Ctrl-C saves; the returned run's `interrupted` says so.
    Raises ValueError where `config.model` is not a possible shape or not the shape of `init_from`, and what
    `load_corpus`, `start` and `Run.batches` raise.
    """
    return start(partial(train_language_model, init_from=init_from), config, device, team)


def train_language_model(run: Run, config: PretrainingConfig, init_from: str | None = None) -> None:
    """The loop of pretraining: predict the next token of a text, everywhere in it."""
    # The model, its tokenizer, and the text as tokens: training and held-out part.
    model, tokenizer = run.model_from(lambda: _new_model(run, config, init_from))
    config = run.config  # _new_model has filled in the model's shape and vocabulary size
    _check_settings(run, model)
    block_size = config.model["block_size"]
    train, validation = (open_tokens(run.out_dir / "data" / name) for name in ("train.bin", "val.bin"))
    get_batch(train, 1, block_size, np.random.default_rng(0), len(tokenizer))  # raises if it is too short or damaged
    validation = validation[: run.most_tested * block_size + 1]  # a short run is tested on a part
    rows = run.team.rows(config.batch_size)
    stream = EpochBatches(train, config.batch_size, block_size, config.seed, len(tokenizer), rows)

    # Show the size of model and text, and the losses of simple models to compare with.
    _introduce(run, model, tokenizer, train, validation)
    baselines = run.team.once(lambda: baseline_losses(train[:COUNTED_TOKENS], validation, len(tokenizer)))
    run.explain_columns(COLUMNS)
    _show_baselines(baselines)
    n_bytes = len(tokenizer.decode_bytes(validation[1:].tolist()))  # of the tokens that are predicted: all but one

    def validate() -> dict[str, float]:
        is_last = run.steps_done == config.training.max_iters
        found = held_out_loss(model, validation, config.batch_size, block_size, whole=is_last, team=run.team)
        bits = bits_per_byte(found["val_loss"], len(validation) - 1, n_bytes)
        return {**found, "perplexity": perplexity(found["val_loss"]), "bits_per_byte": bits}

    # Training: each batch of windows of the text, in random order, changes the weights once.
    optimizer, schedule = run.prepare(model, config.training)
    max_norm = config.training.grad_clip
    model.train()
    with run:
        for batches in run.batches(stream, validate):
            run.record(training_step(model, batches, language_model_loss, optimizer, schedule, max_norm, run.gradients))
            if run.is_time_to_sample:
                show_sample(model, tokenizer, config.sample_prompt, config.sample_tokens, config.seed)
    if not run.interrupted:
        done = f"trained {run.steps_done} steps, {run.count:,} tokens,"
        run.team.once(lambda: run.finish(done, plot_run(run.out_dir, baselines)))


# --- preparing --------------------------------------------------------------------------------------------------------


def _new_model(run: Run, config: PretrainingConfig, init_from: str | None) -> tuple[LanguageModel, Tokenizer]:
    """A model for a new run, and its tokenizer. The text is written into the run's folder, as tokens."""
    if init_from is None:
        shape = _new_shape(config, 257)  # checked before there is a tokenizer
        context = shape.block_size
        _check_memory(shape, config.batch_size, context, config.training, run.team)
        corpus = run.team.once(lambda: write_corpus(config.data, run.out_dir, context, None, config.vocab_size))
        tokenizer = Tokenizer.load(run.out_dir)
        shape = _new_shape(config, len(tokenizer))
        model = architecture_of(shape)(shape)
    else:
        model, tokenizer = load_model(init_from, trainable=True)
        context = _checked_context(model.config, config.model, init_from)
        _check_memory(model.config, config.batch_size, context, config.training, run.team)
        show(f"starting from the weights in {init_from}")
        corpus = run.team.once(lambda: write_corpus(config.data, run.out_dir, context, tokenizer))
    family, vocab_size = model.family, model.config.vocab_size
    run.config = dataclasses.replace(config, architecture=family, vocab_size=vocab_size, model=_shape(model, context))
    run.extra |= corpus
    return model, tokenizer


def _new_shape(config: PretrainingConfig, vocab_size: int) -> Settings:
    """The shape of a new model. By default, a Llama has as many heads of keys and values as of queries."""
    shape = {"family": config.architecture, **config.model, "vocab_size": vocab_size}
    if config.architecture == "llama" and "n_head" in shape:
        shape.setdefault("n_kv_head", shape["n_head"])
    return from_settings(shape)


def write_corpus(
    data: str, out_dir: Path, context: int, tokenizer: Tokenizer | None, vocab_size: int = 0
) -> dict[str, str]:
    """Write a text's tokenizer and token files into a run's folder. Returns a description of the text.

    data: see `load_corpus`. context: the length of the sequences to train on. tokenizer: None for a new one with
    `vocab_size` tokens. Raises what `load_corpus` raises, and ValueError for a text that is too short.
    """
    corpus = load_corpus(data)
    show(str(corpus))
    if tokenizer is None:
        tokenizer = _new_tokenizer(corpus.text, vocab_size)
    parts = encode_parts(corpus.text, tokenizer)
    check_length(parts["train"], context)
    if len(parts["val"]) < 2:
        raise ValueError(f"{corpus.name} is too short: its last tenth, to test on, must have 2 tokens: take more text")
    claim(out_dir)
    tokenizer.save(out_dir)
    for name, ids in parts.items():
        write_tokens(out_dir / "data" / f"{name}.bin", ids, len(tokenizer))
    return {"corpus": str(corpus), "corpus_sha256": corpus.sha256}


def _shape(model: LanguageModel, context: int) -> dict[str, Any]:
    """The shape of a model that is trained on sequences of `context` tokens, without vocab_size."""
    shape = {**model.config.to_dict(), "block_size": context}
    del shape["vocab_size"]
    return shape


def _check_settings(run: Run, model: LanguageModel) -> None:
    """Raise CheckpointError if the settings are those of another model, ValueError if there is too little memory."""
    config, context = run.config, run.config.model.get("block_size")
    if type(context) is not int or not 1 <= context <= model.config.block_size:
        raise CheckpointError(f"the checkpoint in {run.out_dir} is damaged: block_size {shortened(context)}")
    if (config.model, config.vocab_size) != (_shape(model, context), model.config.vocab_size):
        raise CheckpointError(f"the checkpoint in {run.out_dir} is damaged: its settings are those of another model")
    for name in ("corpus", "corpus_sha256"):  # what the text was
        run.keep(name, partial(run.extra.get, name), like="")
    _check_memory(model.config, config.batch_size, context, config.training, run.team)


def _check_memory(shape: Any, batch_size: int, block_size: int, training: TrainingConfig, team: Team) -> None:
    """Check the memory for weights, gradients and moments, and for a step's batches."""
    n, rows = shape.num_parameters(), batch_size / team.size
    model = sum(training_memory(n).values())
    check_memory(model, f"training a model of {n:,} parameters")
    ids = 16 * rows * block_size * training.gradient_accumulation_steps
    checkpointed = training.checkpoint_activations
    batch = ids + activation_bytes(shape, math.ceil(rows), block_size, kernels="fast", checkpointed=checkpointed)
    check_memory(model + batch, f"a step on {batch_size:,} sequences of {block_size:,} tokens")


def _checked_context(config: Settings, wanted: dict[str, Any], source: str) -> int:
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


# --- messages on the screen -------------------------------------------------------------------------------------------


def _introduce(run: Run, model: LanguageModel, tokenizer: Tokenizer, train: Tokens, validation: Tokens) -> None:
    block_size, team = run.config.model["block_size"], run.team
    c, cores = model.config, backend.usable_cores()
    shared = f" that share {c.n_kv_head} of keys and values" if c.n_kv_head < c.n_head else ""
    characters = len(tokenizer.decode(train[:SHOWN_TOKENS].tolist())) / len(train[:SHOWN_TOKENS])
    show(
        f"data: {len(train):,} tokens to learn from, {characters:.1f} characters each; "
        f"{evaluated(validation, block_size)}\n"
        f"model: {model.num_parameters():,} parameters ({c.n_layer} layers, {c.n_head} heads{shared}, {c.n_embd} wide, "
        f"{block_size} tokens of context), {cores} processor core{'s' if cores > 1 else ''}"
    )
    if team.size > 1:
        show(f"{team.size} processes like this one, which share each batch of {run.config.batch_size} sequences")


def _show_baselines(baselines: dict[str, float]) -> None:
    meaning = {
        "uniform": "knowing nothing: all tokens equally likely (ln V)",
        "unigram": "knowing how frequent each token is",
        "bigram": "knowing the token before it",
    }
    show("Losses to beat, on the held-out text:")
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
