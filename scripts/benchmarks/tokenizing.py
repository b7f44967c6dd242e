"""Learning a vocabulary and encoding with it, beside the libraries that do the same in Rust."""

from __future__ import annotations

import tempfile
import timeit
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpt import Tokenizer
from gpt.corpora.corpus import load_corpus

VOCAB_SIZE = 4096


def measure(steps: int) -> dict[str, Any]:
    """Seconds of training, and MB/s of encoding, by who does it, on the built-in English."""
    corpus = load_corpus("english")
    text = corpus.text
    tokenizer = Tokenizer.train(text, VOCAB_SIZE)
    fast: Any = tokenizer.fast
    training: dict[str, Callable[[], Any]] = {"minigrad": lambda: Tokenizer.train(text, VOCAB_SIZE)}
    encoding: dict[str, Callable[[], list[int]]] = {
        "minigrad": lambda: tokenizer.encode(text),
        "minigrad, textbook": lambda: Tokenizer(tokenizer.vocab, tokenizer.merges).encode(text, textbook=True),
        "tiktoken": lambda: fast.encode_ordinary(text),
    }
    if find_spec("tokenizers"):
        from tokenizers import ByteLevelBPETokenizer as Theirs

        training["tokenizers"] = lambda: Theirs().train_from_iterator(
            text.splitlines(True), VOCAB_SIZE, show_progress=False
        )
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(folder)
            theirs = Theirs(str(Path(folder, "vocab.json")), str(Path(folder, "merges.txt")))
        encoding["tokenizers"] = lambda: theirs.encode(text).ids
    for who, encode in encoding.items():
        if encode() != tokenizer.encode(text):
            raise RuntimeError(f"{who} encodes otherwise: there is nothing to compare")
    megabytes = len(text.encode("utf-8")) / 1e6
    rates = {who: megabytes / seconds(encode, min(steps, 3)) for who, encode in encoding.items()}
    times = {who: seconds(train, 1) for who, train in training.items()}
    return {"corpus": str(corpus), "training_seconds": times, "encoding_mb_per_s": rates}


def seconds(function: Callable[[], Any], times: int) -> float:
    """The shortest of `times` runs."""
    return min(timeit.repeat(function, number=1, repeat=times))


def lines(row: dict[str, Any]) -> list[str]:
    """Return the lines to print."""
    trained = ", ".join(f"{who} {duration:.2f} s" for who, duration in row["training_seconds"].items())
    encoded = ", ".join(f"{who} {rate:.1f} MB/s" for who, rate in row["encoding_mb_per_s"].items())
    return [row["corpus"], f"training {VOCAB_SIZE:,} tokens: {trained}", f"encoding: {encoded}"]
