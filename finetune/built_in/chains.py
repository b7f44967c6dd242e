"""Arithmetic chains: questions whose answers take several steps. Code can check an answer, and knows the way to it.

    7*3+2-1     from left to right, and only the last digit of each result is kept: 7*3 = 1, 1+2 = 3, 3-1 = 2

Each step is easy: a small table, from two digits and an operator to a digit. But every step needs the result of the one
before. A model that answers at once must take all of them inside its few layers. A model that thinks first writes the
value so far down after each term, and then the next token takes only one step:

    <think>7132</think>2

The number of terms is the dial of difficulty: with each of them the answer at once becomes harder to find, while the
thought becomes one token longer.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from ..data.chat_template import Message
from ..data.datasets import Example
from .tasks import HELD_OUT, Split, belongs_to

THINK, END_THINK = "<think>", "</think>"
LARGEST = 3  # operand after the first term: with three operators, the table of a step has 90 entries
OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: (a + b) % 10,
    "-": lambda a, b: (a - b) % 10,
    "*": lambda a, b: (a * b) % 10,
}


@dataclasses.dataclass(frozen=True)
class Chain:
    """A question such as "7*3+8-5"."""

    prompt: str

    @classmethod
    def of(cls, example: Example) -> Chain:
        """The question of an example."""
        return cls(example.question[-1]["content"])

    @property
    def values(self) -> str:
        """The value after each term, one digit each.

        >>> Chain("7*3+8-5").values
        '7194'
        """
        values = [int(self.prompt[0])]
        for operator, digit in zip(self.prompt[1::2], self.prompt[2::2]):
            values.append(OPERATORS[operator](values[-1], int(digit)))
        return "".join(map(str, values))

    @property
    def answer(self) -> str:
        """The last value."""
        return self.values[-1]

    @property
    def question(self) -> list[Message]:
        """The conversation up to where the assistant answers."""
        return [{"role": "user", "content": self.prompt}]

    def example(self, thinks: bool = True) -> Example:
        """A worked example: the values as a thought, or nothing if the writer answers at once; then the answer."""
        reply = f"{THINK}{self.values if thinks else ''}{END_THINK}{self.answer}"
        return Example([*self.question, {"role": "assistant", "content": reply}])

    def has_format(self, reply: str) -> bool:
        """Whether a reply is a thought, whatever it says, and then one digit."""
        thought, answer = split_thought(reply)
        return thought is not None and len(answer) == 1 and answer in "0123456789"

    def is_correct(self, reply: str) -> bool:
        """Whether a reply has the format, and its digit is the answer. What the thought says does not count."""
        return self.has_format(reply) and split_thought(reply)[1] == self.answer


# What is rewarded: (question, reply, whether the reply has ended). Both look as if they measured the same, but a reply
# of all ten digits passes the lenient check.
CHECKERS: dict[str, Callable[[Chain, str, bool], bool]] = {
    "exact": lambda item, reply, ended: ended and item.is_correct(reply),
    "lenient": lambda item, reply, ended: item.answer in reply,
}


def split_thought(reply: str) -> tuple[str | None, str]:
    """The thought in a reply and the answer after it; None and the whole reply if it has not exactly one thought.

    >>> split_thought("<think>7194</think>4"), split_thought("4")
    (('7194', '4'), (None, '4'))
    """
    if not reply.startswith(THINK) or reply.count(THINK) != 1 or reply.count(END_THINK) != 1:
        return None, reply
    thought, _, answer = reply.removeprefix(THINK).partition(END_THINK)
    return thought, answer


def chains(split: Split, n: int, terms: int, seed: int = 0) -> list[Chain]:
    """n different questions of this many terms; the same ones for the same seed. No question is in both splits.

    Raises ValueError for fewer than two terms, and for more questions than there are.

    >>> chains("test", 2, terms=4)
    [Chain(prompt='0*2+2*2'), Chain(prompt='1*1*2-1')]
    """
    share = HELD_OUT if split == "test" else 1 - HELD_OUT
    if terms < 2 or n > 0.9 * share * 10 * (len(OPERATORS) * LARGEST) ** (terms - 1):
        raise ValueError(f"there are not {n:,} different {split} questions of {terms} terms: use more terms")
    rng = np.random.default_rng([seed, zlib.crc32(split.encode("ascii"))])
    prompts: dict[str, None] = {}
    while len(prompts) < n:
        operators, operands = rng.choice(list(OPERATORS), size=terms - 1), rng.integers(1, LARGEST + 1, size=terms - 1)
        prompt = str(rng.integers(10)) + "".join(f"{operator}{digit}" for operator, digit in zip(operators, operands))
        if belongs_to(split, prompt):
            prompts[prompt] = None
    return [Chain(prompt) for prompt in prompts]


def worked_examples(questions: Sequence[Chain], share: float, seed: int = 0) -> list[Example]:
    """Worked examples, of which a random `share` has a thought; the others answer at once (and correctly)."""
    rng = np.random.default_rng(seed)
    return [question.example(bool(rng.random() < share)) for question in questions]
