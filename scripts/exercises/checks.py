"""What is tested of a solution, and what a test finds: the vocabulary of every exercise file.

A check names what the learner writes and draws cases for it (Hypothesis: shapes and values); the exercise's completed
stub says what is right. `telling` is one case more, with a different length for every axis, from which a diagnosis can
be read; the smallest failing case, which Hypothesis looks for, is what the learner gets to see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np


class Case:
    """One call: its positional arguments, and its options by name."""

    def __init__(self, *arguments: Any, **options: Any):
        self.arguments, self.options = arguments, options

    def __repr__(self) -> str:
        return f"Case{self.arguments}{self.options}"


@dataclasses.dataclass(frozen=True)
class OpCheck:
    """A Function: forward and backward against the completed stub's, for drawn `cases` and for the `telling` one.

    in_float32: results must be float32 where the inputs are. reference: the completed stub and `call`, and slips:
    programs with a well-known mistake and a sentence for each; `catalogue.load` adds them.
    """

    name: str
    cases: st.SearchStrategy[Case]
    telling: Case
    in_float32: bool = False
    examples: int = 40
    tolerance: float = 1e-6
    reference: tuple[str, Any] = ("", None)
    slips: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class FunctionCheck:
    """A plain function (or class): what it returns against what the completed stub's returns.

    call: how a case becomes a call of what the learner wrote; by default directly. tolerance: relative.
    """

    name: str
    cases: st.SearchStrategy[Case]
    telling: Case
    call: Callable[..., Any] | None = None
    examples: int = 100
    tolerance: float = 1e-6
    reference: tuple[str, Any] = ("", None)
    slips: tuple[tuple[str, str], ...] = ()


Check = OpCheck | FunctionCheck


@dataclasses.dataclass
class Verdict:
    """What a check found.

    status: "passed", "unfinished" (a TODO is left), "wrong", "error" (an exception), "syntax", "refused" (it calls the
    library), "timeout", "memory". line: of the learner's file, where one is to blame. diagnosis: the sentence to read
    first. details: arrays, as text. printed: the first lines that the file prints in this case. parts: what is right
    ("forward", "backward", ...), where credit is given for parts. shown: (check, case) that the details are about.
    """

    status: str
    where: str = ""
    diagnosis: str = ""
    details: str = ""
    line: int | None = None
    code: str = ""
    cases: int = 0
    seconds: float = 0.0
    printed: list[str] = dataclasses.field(default_factory=list)
    parts: dict[str, bool] = dataclasses.field(default_factory=dict)
    shown: Any = dataclasses.field(default=None, repr=False)

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    def facts(self) -> dict[str, Any]:
        """What can be written as JSON."""
        return {name: value for name, value in vars(self).items() if name != "shown"}


# --- drawing ----------------------------------------------------------------------------------------------------------


def shapes(least: int = 1, most: int = 3, longest: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes with `least` to `most` axes of length 1 to `longest`."""
    return st.lists(st.integers(1, longest), min_size=least, max_size=most).map(tuple)


def values(shape: int | tuple[int, ...], low: float = -3, high: float = 3) -> st.SearchStrategy[np.ndarray]:
    """float64 arrays of numbers with one decimal, easy to read and to shrink."""
    tenths = st.integers(round(low * 10), round(high * 10))
    return hnp.arrays(np.int64, shape, elements=tenths, fill=st.nothing()).map(lambda array: np.asarray(array / 10))


def ids(shape: int | tuple[int, ...], below: int) -> st.SearchStrategy[np.ndarray]:
    """Integers from 0 to below - 1."""
    return hnp.arrays(np.int64, shape, elements=st.integers(0, below - 1), fill=st.nothing())


def some(*shape: int, seed: int = 0, low: float = -2, high: float = 2) -> np.ndarray:
    """Fixed float64 numbers with two decimals, for a `telling` case; never 0, no two alike by chance."""
    array = np.random.default_rng([seed, *shape]).uniform(low, high, shape).round(2)
    return np.where(np.abs(array) < 0.05, 0.07, array)
