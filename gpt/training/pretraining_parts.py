"""What pretraining needs around its loop: the text as files of tokens, a look at the memory, and what is shown."""

from __future__ import annotations

import math
import textwrap
import time
from pathlib import Path
from typing import Any

from minigrad import backend

from ..accounting import activation_bytes, training_memory
from ..console import printable, show
from ..corpora.corpus import load_corpus
from ..memory_check import check_memory
from ..model.language_model import LanguageModel
from ..model_config import GPT2_VOCAB_SIZE
from ..tokenizer.tokenizer import Tokenizer
from .batches import Tokens, check_length, prepare
from .evaluation import describe_evaluation
from .plots import BASELINES
from .run import Run
from .training_config import TrainingConfig

SHOWN_TOKENS = 16_384  # of the training text, in which characters per token are counted


def write_corpus(data: str, out_dir: Path, context: int, tokenizer: Tokenizer | None, vocab_size: int = 0) -> None:
    """Write a text's tokenizer and token files into a run's folder.

    data: see `load_corpus`. context: the length of the sequences to train on. tokenizer: None for a new one with
    `vocab_size` tokens. Raises what `load_corpus` raises, and ValueError for a text that is too short.
    """
    corpus = load_corpus(data)
    show(str(corpus))
    if tokenizer is None:
        tokenizer = _new_tokenizer(corpus.text, vocab_size)
    train, held_out = prepare(corpus.text, tokenizer, out_dir / "data")
    check_length(train, context)
    if len(held_out) < 2:
        raise ValueError(f"{corpus.name} is too short: its last tenth, to test on, must have 2 tokens: give more text")
    tokenizer.save(out_dir)


def _new_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    if vocab_size == GPT2_VOCAB_SIZE:
        return Tokenizer.gpt2()
    started = time.perf_counter()
    tokenizer = Tokenizer.train([text], vocab_size)
    show(f"tokenizer: {len(tokenizer):,} tokens learned from it ({time.perf_counter() - started:.1f} s)")
    return tokenizer


def check_training_memory(
    shape: Any, batch_size: int, block_size: int, training: TrainingConfig, processes: int = 1
) -> None:
    """Raise ValueError if weights, gradients, moments and a step's batches do not fit into this machine's memory."""
    n = shape.num_parameters()
    rows = batch_size / processes
    model = sum(training_memory(n).values())
    check_memory(model, f"training a model of {n:,} parameters")
    ids = 16 * rows * block_size * training.gradient_accumulation_steps
    checkpointed = training.checkpoint_activations
    batch = ids + activation_bytes(shape, math.ceil(rows), block_size, kernels="fast", checkpointed=checkpointed)
    check_memory(model + batch, f"a step on {batch_size:,} sequences of {block_size:,} tokens")


# --- on the screen ----------------------------------------------------------------------------------------------------


def introduce(run: Run, model: LanguageModel, tokenizer: Tokenizer, train: Tokens, validation: Tokens) -> None:
    """Show the sizes of the text and of the model."""
    block_size = run.config.model["block_size"]
    c = model.config
    cores = backend.usable_cores()
    shared = f" that share {c.n_kv_head} of keys and values" if c.n_kv_head < c.n_head else ""
    characters = len(tokenizer.decode(train[:SHOWN_TOKENS].tolist())) / len(train[:SHOWN_TOKENS])
    show(
        f"data: {len(train):,} tokens to learn from, {characters:.1f} characters each; "
        f"{describe_evaluation(validation, block_size)}\n"
        f"model: {model.num_parameters():,} parameters ({c.n_layer} layers, {c.n_head} heads{shared}, {c.n_embd} wide, "
        f"{block_size} tokens of context), {cores} processor core{'s' if cores > 1 else ''}"
    )


def show_baselines(baselines: dict[str, float]) -> None:
    """Show the losses of models that know little: see `evaluation.baseline_losses`."""
    show("Losses to beat, on the held-out text:")
    for name, loss in baselines.items():
        show(f"{loss:12.2f}  {BASELINES[name]}")
    show()


def show_sample(model: LanguageModel, tokenizer: Tokenizer, prompt: str, tokens: int, seed: int) -> None:
    """Show a sample of text from the model as it is now."""
    ids = tokenizer.encode(prompt)
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    new = model.generate([ids], tokens, temperature=0.8, top_p=0.95, seed=seed, stop_tokens=end)[0]
    text = printable(tokenizer.decode(ids + new, skip_special_tokens=True))
    lines = [line for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, 96)]
    show("\n".join(f"{'writes' if i == 0 else '':>11} | {line}" for i, line in enumerate(lines)))
