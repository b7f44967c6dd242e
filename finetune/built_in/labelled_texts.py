"""Texts with labels for classification that need no network: one set of real sentences, one that is made up."""

from __future__ import annotations

import zlib

from gpt.corpora.python_corpus import documents

from ..data.datasets import Labelled
from .tasks import Split, belongs_to, instruction_tasks

# Which part of Python's documentation is a paragraph from? label -> where its documents are
PARTS = {"language": "help/", "asyncio": "asyncio/", "email": "email/", "logging": "logging/"}
PER_PART = 400  # paragraphs at most, so that no label dominates
HELD_OUT = 0.25  # share of the paragraphs that is for tests only


def documentation_texts(split: Split) -> list[Labelled]:
    """Paragraphs of Python's own documentation, labelled with the part that they are from.

    A paragraph is in the same split on every machine. Raises FileNotFoundError where the documentation is missing.
    """
    labelled = []
    for label, place in PARTS.items():
        texts = [text for name, text in documents().items() if name.startswith(place)]
        paragraphs = [line for text in texts for line in text.split("\n\n") if len(line.split()) >= 8]
        paragraphs.sort(key=lambda line: zlib.crc32(line.encode()))  # a shuffle that is the same everywhere
        labelled += [Labelled(line, label) for line in paragraphs[:PER_PART] if belongs_to(split, line, HELD_OUT)]
    if len({item.label for item in labelled}) < 2:
        raise FileNotFoundError("Python's documentation is not installed here; give a file of labeled texts")
    return labelled


def question_texts(split: Split, n: int, seed: int = 0) -> list[Labelled]:
    """The questions of `tasks`, labelled with what they ask for: nine classes, held out in wording and in words."""
    return [Labelled(item.prompt, item.task) for item in instruction_tasks(split, n, seed)]
