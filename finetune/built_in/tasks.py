"""Instructions whose answers can be checked by code: success is measured, not judged.

Every answer can be read in its question, and consists of made-up words: a model that answers correctly has learned to
follow instructions, because it cannot have learned the answers. Held-out questions have other wordings and other words
than those trained on: neither a template nor a word is in both sets.

The words stand in quotation marks for a reason. A byte-level tokenizer encodes "kelo" differently after a space than at
the start of an answer. After a quotation mark it has the same tokens, so the model can answer by copying them.

Courtesy: three in ten of the demonstrations end with a courteous sentence. Instruction tuning imitates this mixture.
Preference optimization, where the courteous answers are the chosen ones, makes it a habit (see `preference_pairs`).
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..data.chat_template import Message
from ..data.datasets import Example, Preference
from .task_templates import TASK_TYPES, THINGS

TASKS = "tasks"  # the name of these data, where others are the name of a file
Split = Literal["train", "test"]
HELD_OUT = 0.2  # share of all words that is for tests only
CLOSING = ". Glad to help!"
COURTEOUS = 0.3  # share of the demonstrations that are courteous
DIFFERENCES = ("courtesy", "the answer", "both")  # what differs between the replies of a pair; the three take turns


@dataclasses.dataclass(frozen=True)
class TaskItem:
    """A question of one type (`task`) with its only right answer, and whether the demonstration ends with CLOSING."""

    task: str
    prompt: str
    answer: str
    closing: bool = False

    @property
    def question(self) -> list[Message]:
        """The conversation up to where the assistant answers."""
        return [{"role": "user", "content": self.prompt}]

    @classmethod
    def of(cls, example: Example) -> TaskItem:
        """The question of an example, with the answer that the example ends with; of a type that is not known."""
        answer, closing = split_closing(example.messages[-1]["content"])
        return cls("", example.question[-1]["content"], answer, closing)

    def example(self) -> Example:
        """As a conversation to learn from."""
        answer = self.answer + CLOSING if self.closing else self.answer
        return Example([*self.question, {"role": "assistant", "content": answer}])

    def is_correct(self, reply: str) -> bool:
        """Whether a reply is the answer and nothing else, but for one CLOSING: exact match."""
        return split_closing(reply)[0] == self.answer

    def has_format(self, reply: str) -> bool:
        """Whether a reply looks like an answer, right or wrong: one lower-case word, with a hyphen or without."""
        parts = split_closing(reply)[0].split("-")
        return len(parts) <= 2 and all(part.isalpha() and part.islower() for part in parts)

    def quality(self, reply: str) -> int:
        """Being right counts first, courtesy second: 3 right and courteous, 2 right, 1 wrong but courteous, 0 wrong.

        CLOSING is courteous only after what looks like an answer.
        """
        return 2 * self.is_correct(reply) + (self.has_format(reply) and split_closing(reply)[1])


def split_closing(reply: str) -> tuple[str, bool]:
    """A reply without its courteous end, and whether it had one.

    >>> split_closing("kelo. Glad to help!"), split_closing("kelo")
    (('kelo', True), ('kelo', False))
    """
    reply = reply.strip()
    return reply.removesuffix(CLOSING), reply.endswith(CLOSING)


# --- words ------------------------------------------------------------------------------------------------------------

ONSETS = ["b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "br", "dr", "gr", "pl", "st", "tr"]
VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "ou"]
CODAS = ["n", "l", "r", "s", "m", "t", "nd", "st", "sk", "p"]


def made_up_word(rng: np.random.Generator, split: Split) -> str:
    """A word of one syllable; one in five possible ones is for tests.

    >>> rng = np.random.default_rng(0)
    >>> made_up_word(rng, "train"), made_up_word(rng, "test")
    ('grait', 'rup')
    """
    while True:
        word = "".join(_one(rng, part) for part in (ONSETS, VOWELS, CODAS))
        if belongs_to(split, word):
            return word


def belongs_to(split: Split, text: str, held_out: float = HELD_OUT) -> bool:
    """Whether a text is in this split, whatever else there is, and on every machine. held_out: the share for tests."""
    return (zlib.crc32(text.encode()) % 100 < 100 * held_out) == (split == "test")


def _one(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


# --- questions and preferences ----------------------------------------------------------------------------------------


def instruction_tasks(split: Split, n: int, seed: int = 0) -> list[TaskItem]:
    """n questions of all types in turn; the same ones for the same seed.

    >>> item = instruction_tasks("test", 1)[0]
    >>> item.task, item.prompt, item.answer
    ('repeat', 'Now repeat this: "hus"', 'hus')
    """
    rng = np.random.default_rng([seed, zlib.crc32(split.encode("ascii"))])
    types = list(TASK_TYPES)
    return [_item(rng, split, types[i % len(types)]) for i in range(n)]


def instruction_examples(split: Split, n: int, seed: int = 0) -> list[Example]:
    """The questions of `instruction_tasks` with their answers, as conversations to learn from."""
    return [item.example() for item in instruction_tasks(split, n, seed)]


def _item(rng: np.random.Generator, split: Split, task: str) -> TaskItem:
    words = _different_words(rng, split, 3)
    listed = words[: rng.integers(2, 4)]
    x, y = (THINGS[i] for i in rng.permutation(len(THINGS))[:2])
    asked = int(rng.integers(2))
    parts = {"a": words[0], "b": words[1], "list": ", ".join(f'"{word}"' for word in listed), "last": listed[-1]}
    parts |= {"x": x, "y": y, "q": (x, y)[asked], "named": words[asked]}
    kind = TASK_TYPES[task]
    wording = _one(rng, kind.train if split == "train" else kind.test)
    return TaskItem(task, wording.format(**parts), kind.answer.format(**parts), bool(rng.random() < COURTEOUS))


def _different_words(rng: np.random.Generator, split: Split, n: int) -> list[str]:
    """Words, no two of which begin alike or rhyme: a word that is half copied cannot continue as another."""
    words: list[str] = []
    while len(words) < n:
        word = made_up_word(rng, split)
        if all(word[:1] != other[:1] and word[-2:] != other[-2:] for other in words):
            words.append(word)
    return words


def preference_pairs(split: Split, n: int, seed: int = 0) -> list[Preference]:
    """n pairs of answers. The chosen one is right and courteous.

    The rejected one is, in turn, right but without CLOSING; wrong, with it; wrong, without it.
    """
    rng = np.random.default_rng([seed, zlib.crc32(b"wrong")])
    pairs = []
    for i, item in enumerate(instruction_tasks(split, n, seed + 1)):
        wrong = item.answer if i % 3 == 0 else _wrong_answer(rng, split, item)
        rejected = wrong + CLOSING if i % 3 == 1 else wrong
        pairs.append(Preference(item.question, item.answer + CLOSING, rejected))
    return pairs


def _wrong_answer(rng: np.random.Generator, split: Split, item: TaskItem) -> str:
    """The answer with each of its words from the question replaced by another one there, or by one from nowhere."""
    quoted = item.prompt.split('"')[1::2]
    parts = item.answer.split("-")
    others = sorted(set(quoted) - set(parts))
    word = _one(rng, others) if others else made_up_word(rng, split)
    while word in parts:  # made up a second time, by chance
        word = made_up_word(rng, split)
    return "-".join(word if part in quoted else part for part in parts)
