"""Texts with labels for classification that need no network: one set of real sentences, one of made-up words."""

from __future__ import annotations

import zlib

import numpy as np

from gpt.english import documents

from .datasets import Labelled
from .tasks import Split, made_up_word

# Which part of Python's documentation is a paragraph from? label -> where its documents are
PARTS = {"language": "help/", "asyncio": "asyncio/", "email": "email/", "logging": "logging/"}
PER_PART = 400  # at most, so that no label dominates
TEST_PERCENT = 25


def documentation_texts(split: Split) -> list[Labelled]:
    """Paragraphs of Python's own documentation, labelled with the part that they are from.

    A paragraph is in the same split on every machine. Raises FileNotFoundError where the documentation is missing.
    """
    found = []
    for label, place in PARTS.items():
        texts = [text for name, text in documents().items() if name.startswith(place)]
        paragraphs = [line for text in texts for line in text.split("\n\n") if len(line.split()) >= 8]
        paragraphs.sort(key=lambda line: zlib.crc32(line.encode()))  # a shuffle that is the same everywhere
        found += [
            Labelled(line, label)
            for line in paragraphs[:PER_PART]
            if (zlib.crc32(line.encode()) % 100 < TEST_PERCENT) == (split == "test")
        ]
    if len({item.label for item in found}) < 2:
        raise FileNotFoundError("Python's documentation is not installed here; give a file of labelled texts")
    return found


def repeated_word_texts(split: Split, n: int, seed: int = 0) -> list[Labelled]:
    """Lists of five made-up words, of which one occurs twice ("repeated") or none does ("distinct"), half and half.

    Nothing about a single word helps, and the words of the tests are in no training text: a model has to compare. That
    is what a frozen one, made to predict the next word, has least reason to tell its last token.
    """
    rng = np.random.default_rng([seed, zlib.crc32(split.encode("ascii"))])
    found = []
    for i in range(n):
        words: list[str] = []
        while len(words) < 5:
            if (word := made_up_word(rng, split)) not in words:
                words.append(word)
        if i % 2:
            first, second = sorted(int(place) for place in rng.permutation(5)[:2])
            words[second] = words[first]
        found.append(Labelled(" ".join(words), "repeated" if i % 2 else "distinct"))
    return found
