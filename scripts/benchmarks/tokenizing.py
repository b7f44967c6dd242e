"""Learning a vocabulary and encoding with it, beside the libraries that do the same in Rust."""

import tempfile
import timeit
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpt import Tokenizer
from gpt.corpora.corpus import load_corpus

VOCAB_SIZE = 4096
Work = Callable[[], Any]


def measure(steps: int) -> dict[str, Any]:
    """Seconds of training, and MB/s of encoding, by who does it, on the built-in English."""
    corpus = load_corpus("english")
    text = corpus.text
    tokenizer = Tokenizer.train(text, VOCAB_SIZE)
    fast: Any = tokenizer.fast
    training: dict[str, Work] = {"minigrad": lambda: Tokenizer.train(text, VOCAB_SIZE)}
    encoding: dict[str, Work] = {
        "minigrad": lambda: tokenizer.encode(text),
        "minigrad, textbook": lambda: Tokenizer(tokenizer.vocab, tokenizer.merges).encode(text, textbook=True),
        "tiktoken": lambda: fast.encode_ordinary(text),
    }
    if find_spec("tokenizers"):
        training["tokenizers"], encoding["tokenizers"] = hugging_face(tokenizer, text)
    for who, encode in encoding.items():
        if encode() != tokenizer.encode(text):
            raise RuntimeError(f"{who} encodes otherwise: there is nothing to compare")
    megabytes = len(text.encode("utf-8")) / 1e6
    times = {who: min(timeit.repeat(encode, number=1, repeat=min(steps, 3))) for who, encode in encoding.items()}
    return {
        "corpus": str(corpus),
        "training_seconds": {who: timeit.timeit(train, number=1) for who, train in training.items()},
        "encoding_mb_per_s": {who: megabytes / seconds for who, seconds in times.items()},
    }


def hugging_face(tokenizer: Tokenizer, text: str) -> tuple[Work, Work]:
    """Training by Hugging Face's tokenizers, and its encoder with our vocabulary."""
    from tokenizers import ByteLevelBPETokenizer

    def train() -> None:
        ByteLevelBPETokenizer().train_from_iterator(text.splitlines(True), VOCAB_SIZE, show_progress=False)

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        theirs = ByteLevelBPETokenizer(str(Path(folder, "vocab.json")), str(Path(folder, "merges.txt")))
    return train, lambda: theirs.encode(text).ids


def lines(row: dict[str, Any]) -> list[str]:
    """Return the lines to print."""
    trained = ", ".join(f"{who} {duration:.2f} s" for who, duration in row["training_seconds"].items())
    encoded = ", ".join(f"{who} {rate:.1f} MB/s" for who, rate in row["encoding_mb_per_s"].items())
    return [row["corpus"], f"training {VOCAB_SIZE:,} tokens: {trained}", f"encoding: {encoded}"]
