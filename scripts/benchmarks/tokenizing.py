"""Learning a vocabulary and encoding with it, beside the libraries that do the same in Rust."""

from __future__ import annotations

import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt import Tokenizer
from gpt.corpora.corpus import load_corpus
from scripts.benchmarks.sides import installed

NAMES = ["tokenizer"]
VOCAB_SIZE = 4096


def measure(name: str, steps: int) -> dict[str, Any]:
    """Seconds of training, and MB/s of encoding, by who does it, on the built-in English."""
    corpus = load_corpus("english")
    megabytes = len(corpus.text.encode("utf-8")) / 1e6
    training = {"minigrad": seconds(lambda: Tokenizer.train(corpus.text, VOCAB_SIZE), 1)}
    tokenizer = Tokenizer.train(corpus.text, VOCAB_SIZE)
    encoders: dict[str, Callable[[], list[int]]] = {
        "minigrad": lambda: tokenizer.encode(corpus.text),
        "minigrad, textbook": lambda: Tokenizer(tokenizer.vocab, tokenizer.merges).encode(corpus.text, textbook=True),
    }
    if (fast := tokenizer.fast) is not None:
        encoders["tiktoken"] = lambda: fast.encode_ordinary(corpus.text)
    if installed("tokenizers"):
        training["tokenizers"], encoders["tokenizers"] = _tokenizers(tokenizer, corpus.text)
    expected = tokenizer.encode(corpus.text)
    for who, encode in encoders.items():
        if encode() != expected:
            raise RuntimeError(f"{who} encodes otherwise: there is nothing to compare")
    rates = {who: megabytes / seconds(encode, min(steps, 3)) for who, encode in encoders.items()}
    return {"corpus": str(corpus), "vocab_size": VOCAB_SIZE, "training_seconds": training, "encoding_mb_per_s": rates}


def _tokenizers(tokenizer: Tokenizer, text: str) -> tuple[float, Callable[[], list[int]]]:
    """Hugging Face's tokenizers: the seconds that it trains, and its encoder with our vocabulary."""
    from tokenizers import ByteLevelBPETokenizer

    def train() -> None:
        ByteLevelBPETokenizer().train_from_iterator(text.splitlines(True), VOCAB_SIZE, show_progress=False)

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        theirs = ByteLevelBPETokenizer(str(Path(folder, "vocab.json")), str(Path(folder, "merges.txt")))
    return seconds(train, 1), lambda: theirs.encode(text).ids


def seconds(function: Callable[[], Any], times: int) -> float:
    """The shortest of `times` runs."""
    return min(timeit.repeat(function, number=1, repeat=times))


def lines(row: dict[str, Any]) -> list[str]:
    """Return the lines to print."""
    trained = ", ".join(f"{who} {duration:.2f} s" for who, duration in row["training_seconds"].items())
    encoded = ", ".join(f"{who} {rate:.1f} MB/s" for who, rate in row["encoding_mb_per_s"].items())
    return [row["corpus"], f"training {row['vocab_size']:,} tokens: {trained}", f"encoding: {encoded}"]
