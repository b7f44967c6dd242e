"""Pretraining: from a text to a model that writes. The model learns to predict each token from the tokens before it:

    loss = -1/T Σ_t ln p(token_t | token_0 ... token_{t-1})            (minigrad/functional/loss.py)

`train_language_model` is the whole way: text and tokens, the model, what is measured during training, training. The
loop itself, in its simplest form, is `train_textbook` (training_loop.py). A `Run` (run.py) adds what lets a training be
stopped and resumed: `run.begin` keeps the model of a new run, `run.load` reads that of a resumed one, and `run.prepare`
makes the optimizer and the learning-rate schedule.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from ..console import show
from ..corpora.corpus import check_corpus
from ..model.language_model import LanguageModel, architecture_of, from_settings
from ..model_config import Settings
from ..settings import Checked, nested, setting
from ..tokenizer.tokenizer import Tokenizer
from .batches import EpochBatches, open_tokens
from .data_parallel import ALONE, Team
from .evaluation import baseline_losses, bits_per_byte, held_out_loss, perplexity
from .loading import load_model
from .log import COLUMNS
from .plots import plot_run
from .pretraining_parts import check_training_memory, introduce, show_baselines, show_sample, write_corpus
from .run import Run, start
from .training_config import TrainingConfig
from .training_loop import one_step, train
from .training_step import language_model_loss

COUNTED_TOKENS = 10_000_000  # of the training text, for the baselines
LONGEST_CONTEXT = 1024  # default context length for training a model that can read more


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(Checked):
    """A pretraining run.

    data: see `gpt.corpora.corpus.load_corpus`. model: the shape without vocab_size; block_size is the length of the
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


def train_language_model(run: Run, config: PretrainingConfig, init_from: str | None = None) -> None:
    """Predict the next token of a text, everywhere in it. init_from: a model to start from; None: random weights."""
    # The model, its tokenizer, and the text as tokens, a training and a held-out part. The run's folder keeps them.
    if run.is_new:
        check_corpus(config.data)  # before the model, which takes longer to load
        set_up = _new_model if init_from is None else partial(_old_model, init_from=init_from)
        model, tokenizer, config = set_up(run, config)  # `config` now has the whole shape of the model
        run.begin(model, tokenizer, config=config)
    else:
        model, tokenizer = run.load()
    block_size = config.model["block_size"]  # there by now: `_with_shape_of` has filled it in
    check_training_memory(model.config, config.batch_size, block_size, config.training, run.team.size)
    tokens, held_out = (open_tokens(run.out_dir / "data" / name) for name in ("train.bin", "val.bin"))
    # A short run is tested on the first part of the held-out text only. The targets are one token further: + 1.
    held_out = held_out[: run.state.max_eval_items * block_size + 1]

    # The sizes of model and text, and the losses of simple models to compare with.
    introduce(run, model, tokenizer, tokens, held_out)
    baselines = baseline_losses(tokens[:COUNTED_TOKENS], held_out, len(tokenizer))
    run.explain_columns(COLUMNS)
    show_baselines(baselines)
    n_bytes = len(tokenizer.decode_bytes(held_out[1:].tolist()))  # of the tokens that are predicted: all but one

    def validate() -> dict[str, float]:
        # At the end on all of the held-out text, before that on a part.
        found = held_out_loss(model, held_out, config.batch_size, block_size, run.is_finished, run.team)
        bits = bits_per_byte(found["val_loss"], len(held_out) - 1, n_bytes)
        return {**found, "perplexity": perplexity(found["val_loss"]), "bits_per_byte": bits}

    def sample() -> None:
        show_sample(model, tokenizer, config.sample_prompt, config.sample_tokens, config.seed)

    # Training: a batch has windows of `block_size` tokens, in random order, and changes the weights once.
    run.prepare(model, config.training)
    model.train()
    batches = EpochBatches(tokens, config.batch_size, block_size, config.seed, len(tokenizer))
    train(run, batches, one_step(run, language_model_loss), validate, sample)
    if not run.interrupted and run.team.rank == 0:
        run.report(plot_run(run.out_dir, "Learning to predict the next token", baselines=baselines))


def pretrain(config: PretrainingConfig, device: str = "cpu", init_from: str | None = None, team: Team = ALONE) -> Run:
    """Train a GPT or Llama from random weights, or from the weights of the model `init_from`, with its tokenizer.

    team: the processes that train together; all call this. Ctrl-C saves; the returned run's `interrupted` says so.
    Raises ValueError where `config.model` is not a possible shape or not the shape of `init_from`, and what
    `load_corpus`, `start` and the run's methods raise.
    """
    return start(partial(train_language_model, init_from=init_from), config, device, team)


# --- the model of a new run -------------------------------------------------------------------------------------------


SetUp = tuple[LanguageModel, Tokenizer, PretrainingConfig]  # a model, its tokenizer, and the completed settings


def _new_model(run: Run, config: PretrainingConfig) -> SetUp:
    """A model with random weights. The text, and a tokenizer that has learned from it, are written to the folder."""
    # With the smallest vocabulary: an impossible shape raises before there is a tokenizer.
    settings = _model_settings(config, 257)
    check_training_memory(settings, config.batch_size, settings.block_size, config.training, run.team.size)
    run.make_folder()
    # One process writes the text, and learns a tokenizer in the place of None.
    run.team.once(partial(write_corpus, config.data, run.out_dir, settings.block_size, None, config.vocab_size))
    tokenizer = Tokenizer.load(run.out_dir)
    settings = _model_settings(config, len(tokenizer))
    model = architecture_of(settings)(settings)
    return model, tokenizer, _with_shape_of(model, config, settings.block_size)


def _model_settings(config: PretrainingConfig, vocab_size: int) -> Settings:
    """The shape of a new model. By default, a Llama has as many heads of keys and values as of queries."""
    shape = {"family": config.architecture, **config.model, "vocab_size": vocab_size}
    if config.architecture == "llama" and "n_head" in shape:
        shape.setdefault("n_kv_head", shape["n_head"])
    return from_settings(shape)


def _old_model(run: Run, config: PretrainingConfig, init_from: str) -> SetUp:
    """The model `init_from` and its tokenizer, which may read more than the sequences that are trained on.

    Raises ValueError if the model does not have the requested shape.
    """
    model, tokenizer = load_model(init_from, trainable=True)
    shape = model.config.to_dict()
    block_size = config.model.get("block_size", min(model.config.block_size, LONGEST_CONTEXT))
    for name, value in config.model.items():
        fits = value == shape.get(name)
        if name == "block_size":
            fits = value <= model.config.block_size
        if not fits:
            has = f"{name} {shape[name]}" if name in shape else f"no {name}"
            raise ValueError(f"the model in {init_from} has {has}; it cannot be made {value}")
    show(f"starting from the weights in {init_from}")
    run.make_folder()
    run.team.once(partial(write_corpus, config.data, run.out_dir, block_size, tokenizer))
    return model, tokenizer, _with_shape_of(model, config, block_size)


def _with_shape_of(model: LanguageModel, config: PretrainingConfig, block_size: int) -> PretrainingConfig:
    """The settings, filled in with the shape of a model that is trained on sequences of `block_size` tokens."""
    shape = {**model.config.to_dict(), "block_size": block_size}
    vocab_size = shape.pop("vocab_size")
    return dataclasses.replace(config, architecture=model.family, vocab_size=vocab_size, model=shape)
