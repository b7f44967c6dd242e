"""The small models of the lessons: a quarter of a megabyte of English, about a hundred thousand parameters, seconds.

The training loop is the project's own (`gpt.training.training_loop`); lesson 432 takes it apart.
"""

import contextlib
import functools
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from gpt import GPT, GPTConfig, Tokenizer
from gpt.console import printable
from gpt.corpora.python_corpus import help_text
from gpt.files import atomic_write, cache_folder
from gpt.training.batches import RandomBatches, sequential_batches
from gpt.training.evaluation import mean_loss
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_loop import train_textbook
from gpt.training.training_step import LossFunction, in_precision, language_model_loss
from minigrad import manual_seed, switches

ROOT = Path(__file__).resolve().parents[3]


@functools.cache
def english(vocab_size: int = 512) -> tuple[Tokenizer, np.ndarray, np.ndarray]:
    """A tokenizer, and the text that Python's `help()` prints, as tokens: nine tenths for training, one for testing."""
    text = help_text()
    tokenizer = Tokenizer.train([text], vocab_size)
    ids = np.array(tokenizer.encode(text))
    cut = len(ids) * 9 // 10
    return tokenizer, ids[:cut], ids[cut:]


def new_gpt(vocab_size: int = 512, seed: int = 0, **changes: Any) -> GPT:
    """A GPT of 2 layers, 4 heads, 64 wide, with 32 tokens of context, unless `changes` say otherwise."""
    manual_seed(seed)
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 32, **changes}
    return GPT(GPTConfig(vocab_size=vocab_size, **shape))


def train(
    model: Any,
    tokens: np.ndarray,
    steps: int,
    learning_rate: float = 3e-3,
    batches: Any = RandomBatches,
    seed: int = 0,
    warmup: int | None = None,
    loss_fn: LossFunction = language_model_loss,
    **options: Any,
) -> list[float]:
    """Train on windows of `tokens`, 16 at a time; returns the loss of every step.

    seed: of the batches. warmup: steps, a tenth of all if None. options: of `TrainingConfig`.
    """
    warmup = steps // 10 if warmup is None else warmup
    config = TrainingConfig(max_iters=steps, learning_rate=learning_rate, warmup_iters=warmup, **options)
    drawn = batches(tokens, 16, model.config.block_size, seed)
    optimizer, schedule = prepare_training(model, config)
    with in_precision(config.precision):
        return train_textbook(model, drawn, loss_fn, optimizer, schedule, steps, config.grad_clip)


def train_once(model: GPT, tokens: np.ndarray, steps: int) -> list[float]:
    """`train`, for a model that several lessons need: it is kept in the cache folder and read from there the next time.

    The file is named after all that the result depends on (the weights before training, the tokens, the steps, the
    code, the matrix library and its threads), so it holds what training would give, to the last bit. With other kernels
    than the textbook's, nothing is kept.
    """
    if switches.kernels:
        return train(model, tokens, steps)
    weights = {name: p.data for name, p in model.named_parameters()}
    sources = [Path(__file__), *sorted(ROOT.glob("gpt/**/*.py")), *sorted(ROOT.glob("minigrad/**/*.py"))]
    blas = [{**pool, "filepath": ""} for pool in threadpool_info() if pool["user_api"] == "blas"]
    facts = repr((model.config, steps, np.__version__, np.show_config(mode="dicts"), blas)).encode()
    everything = (facts, *(path.read_bytes() for path in sources), *weights.values(), tokens)
    name = f"lessons-{hashlib.sha256(b''.join(everything)).hexdigest()[:16]}.npz"
    with contextlib.suppress(OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile):  # not there, or damaged
        found = dict(np.load(cache_folder() / name))  # which compares checksums
        for part, array in weights.items():
            array[...] = found[part]
        print(f"(trained before, and read from {cache_folder() / name}: delete that file to train again)")
        model.eval()
        return found["losses"].tolist()
    losses = train(model, tokens, steps)
    with contextlib.suppress(OSError, RuntimeError), atomic_write(cache_folder() / name) as file:
        np.savez(file, losses=losses, **weights)
    return losses


def validation_loss(model: Any, tokens: np.ndarray, limit: int = 4096) -> float:
    """The mean loss on the first `limit` tokens, in nats per token."""
    return mean_loss(model, sequential_batches(tokens[:limit], 16, model.config.block_size))


def write(model: GPT, tokenizer: Tokenizer, prompt: str, tokens: int = 40, **sampling: Any) -> str:
    """A prompt and its continuation by the model, on one line."""
    new = model.generate([tokenizer.encode(prompt)], tokens, **{"temperature": 0.8, "seed": 0, **sampling})[0]
    return " ".join(printable(prompt + tokenizer.decode(new)).split())


def smooth(losses: list[float], window: int = 15) -> np.ndarray:
    """The mean of the last `window` losses, at every step (of fewer at the start)."""
    sums = np.cumsum([0.0, *losses])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
