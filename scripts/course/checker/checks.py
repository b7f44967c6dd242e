"""Exercises, checks, cases and verdicts: the vocabulary of every exercise file.

A check names what the learner writes and draws cases for it (Hypothesis: shapes and values); the exercise's completed
stub says what is right. `telling` is one case more, with a different length for every axis, from which a diagnosis can
be read; the smallest failing case, which Hypothesis looks for, is what the learner gets to see.
"""

import dataclasses
import inspect
import pkgutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np


class Case:
    """One call: its positional arguments, and its options by name."""

    def __init__(self, *arguments: Any, **options: Any):
        self.arguments, self.options = arguments, options


@dataclasses.dataclass(frozen=True)
class Check:
    """A check of the learner's `name`, in drawn `cases` and in the `telling` one.

    examples: how many cases are drawn. tolerance: relative. reference: the completed stub and `call`, and slips:
    programs with a well-known mistake and a sentence for each; `catalogue.load` adds them.
    """

    name: str
    cases: st.SearchStrategy[Case]
    telling: Case
    _: dataclasses.KW_ONLY
    call: Callable[..., Any] | None = None
    examples: int = 50
    tolerance: float = 1e-6
    in_float32: bool = False
    reference: tuple[str, Any] = ("", None)
    slips: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class OpCheck(Check):
    """A Function: forward and backward against the completed stub's.

    in_float32: results must be float32 where the inputs are.
    """

    examples: int = 30


class FunctionCheck(Check):
    """A plain function (or class): its result against the completed stub's.

    call: how a case becomes a call of what the learner wrote; by default directly.
    """


@dataclasses.dataclass
class Verdict:
    """The result of checking a file.

    status: "passed", "unfinished" (a TODO is left), "wrong", "error" (an exception), "syntax", "refused" (it calls the
    library), "timeout", "memory", "unjudged" (the checker itself failed). line: of the learner's file, where one is to
    blame. diagnosis: the sentence to read first. details: arrays, as text. printed: the first lines that the file
    prints in this case. parts: what is right ("forward", "backward", ...), where credit is given for parts. shown: what
    the details are about, as (check, case, douts), where None stands for the usual douts.
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
        """The fields that can be written as JSON."""
        return {name: value for name, value in vars(self).items() if name != "shown"}


# --- an exercise ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A place in the GPT: `use_kernels({op: what the learner wrote as `name`})`.

    arrange: turns the arguments of the library's op into those of the learner's. fits: for which of them it is used;
    elsewhere, such as for broadcasting, the library's op is. takes: ops that have to be taken apart for this one to be
    used (in_gpt.APART).
    """

    op: str
    name: str
    arrange: Callable[..., tuple[Any, ...]] | None = None
    _: dataclasses.KW_ONLY
    fits: Callable[..., bool] = lambda *arrays, **options: True
    takes: tuple[str, ...] = ()


class Patch:
    """A place in the GPT: the learner's `name` replaces library objects, the `targets`, which are named with dots.

    adapt: to the arguments that the library's objects get.
    """

    def __init__(self, name: str, *targets: str, adapt: Callable[[Any], Any] = lambda written: written):
        self.name, self.targets, self.adapt = name, targets, adapt


def as_step(name: str, optimizer: str, kept: tuple[str, ...], numbers: Callable[..., tuple[Any, ...]]) -> Patch:
    """The learner's function `name` in the place of an optimizer's `update`.

    kept: what the optimizer calls the arrays that the function gets after p and grad, and returns after the new p.
    numbers(t, group): what comes after the arrays, at step t.
    """

    def adapt(step: Callable[..., Any]) -> Any:
        def update(self: Any, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
            state["step"] = state.get("step", 0) + 1
            arrays = [state.get(key, np.zeros_like(p.data)) for key in kept]
            p.data[...], *arrays = step(p.data, grad, *arrays, *numbers(state["step"], group))
            state.update(zip(kept, arrays))

        return update

    return Patch(name, f"minigrad.optim.{optimizer}.update", adapt=adapt)


@dataclasses.dataclass(frozen=True)
class Exercise:
    """One exercise.

    stub: the file that the learner completes. blanks: what completes it, one block of lines for each TODO that raises,
    with an empty line between two blocks; a comment in it explains a mistake in its line. slips: a part of blanks, what
    stands there in a well-known mistake, and the sentence for it. title: half a sentence. group: the part of the GPT
    that it belongs to, or "Assessment". effort: minutes and difficulty, "10 min, easy". checks: what is tested, in this
    order. hints: the idea, the shapes, the line; none for an assessment. answer: dotted names of library objects, which
    show the library's way. place: how it gets into the GPT (Kernel, Patch), if it does.
    """

    stub: str
    blanks: str
    slips: Sequence[tuple[str, str, str]] = ()
    _: dataclasses.KW_ONLY
    title: str
    group: str
    checks: Sequence[Check]
    hints: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()
    effort: str = ""
    place: Any = None
    name: str = ""
    path: Path = Path()

    @property
    def is_assessment(self) -> bool:
        """Whether it is graded. Then there are no hints, and a check says what is wrong, but not why."""
        return self.group == "Assessment"

    def completed(self, old: str = "", new: str = "") -> str:
        """The stub with its blanks filled, which is a right solution; or with `new` in place of `old` in them."""
        blanks = self.blanks.replace(old, new) if old else self.blanks
        blocks = iter(blanks.strip("\n").split("\n\n"))
        lines = []
        for line in self.stub.splitlines():
            indent, todo, _ = line.partition("raise NotImplementedError")
            lines.append(textwrap.indent(next(blocks), indent) if todo else line)
        return "\n".join(lines) + "\n" if list(blocks) == [] else blanks

    def solution(self) -> str:
        """A right answer, and the library's, with the place where it stands."""
        parts = [f"# A right answer, TODO by TODO\n\n{self.blanks.strip()}\n"]
        for name in self.answer:
            found = pkgutil.resolve_name(name)  # "minigrad.optim.SGD.update", for example
            lines, first = inspect.getsourcelines(found)
            where = "/".join(Path(inspect.getsourcefile(found) or "").parts[-3:])
            parts.append(f"# {name}  ({where}, line {first})\n\n{''.join(lines)}")
        return "\n\n".join(parts)


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


@st.composite
def reductions(draw: st.DrawFn) -> Case:
    """An array, the axes `dims` that are to be reduced, and `keepdim`."""
    shape = draw(shapes(1, 3))
    dims = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    return Case(draw(values(shape)), dims=tuple(sorted(dims)), keepdim=draw(st.booleans()))


@st.composite
def rows(draw: st.DrawFn) -> Case:
    """An array, now and then of large numbers, and the axis `dim` along which its rows are."""
    shape = draw(shapes(1, 3))
    scale = draw(st.sampled_from([1.0, 1.0, 1000.0]))
    return Case(draw(values(shape)) * scale, dim=draw(st.integers(0, len(shape) - 1)))


def some(*shape: int, seed: int = 0, low: float = -2, high: float = 2) -> np.ndarray:
    """Fixed float64 numbers with two decimals, for a `telling` case; never 0, no two alike by chance."""
    array = np.random.default_rng([seed, *shape]).uniform(low, high, shape).round(2)
    return np.where(np.abs(array) < 0.05, 0.07, array)


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Fixed arrays of these shapes, by name."""
    return {name: some(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}


# Added to three rows, it makes one of them far larger than 0, and one far smaller: e^x is inf there, or 0.
FAR = np.array([[0], [1000], [-1000]])


# --- the beginning of a learner's file --------------------------------------------------------------------------------

NUMPY = "import numpy as np"
OP = f"{NUMPY}\n\nfrom minigrad.autograd import Function"


def beginning(statement: str | None, *imports: str) -> str:
    """The exercise's statement, which is the docstring of its own file, and the imports that the learner needs.

    An exercise puts its unfinished functions and classes behind it.
    """
    return "\n\n".join([f'"""{statement}"""', *imports]) + "\n\n"
