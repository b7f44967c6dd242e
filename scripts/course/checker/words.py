"""What the checker says: the sentence for a finding, a difference, a reason, and a case as text.

Everything that is found is data until here; nothing that is decided depends on these words.
"""

import ast
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minigrad.gradcheck.mutations import CONDITION, LESS_KEEPDIMS, MORE_KEEPDIMS, Change, in_words
from minigrad.gradcheck.shape_diagnosis import numpy_in_words

from . import source
from .checks import Case
from .comparing import REPAIRED, Difference
from .diagnosing import Reason
from .steps import words
from .trial import Answer, Finding, Reference, Trial

# --- a finding --------------------------------------------------------------------------------------------------------


def of_finding(trial: Trial, found: Finding) -> str:
    """What is wrong in a case."""
    what = found.gradient or "the result"
    part = found.where.partition(" of ")[0]
    if found.kind == "changed":
        changed = "dout or another array" if part == "backward" else "its input"
        return f"it writes to {changed}, which is not yours to change: compute into a new array, or copy it first"
    if found.kind == "count":
        advice = ": `return (dx,)` where there is one" if found.fact == 1 else ", None where there is none"
        return f"backward must return a tuple of {found.fact}, one gradient per input of forward{advice}"
    if found.kind == "not None":
        return f"the gradient of {what[1:]} must be None: by the stub it gets no gradient"
    if found.kind == "not linear":
        reason = found.answer.error and raised(found.answer, trial.names)
        reason = reason or "is there an abs, a maximum, a power, an if?"
        wrong = f"right for one dout, and wrong for {found.fact:g} times that dout"
        return f"backward is not linear in dout: {wrong} ({reason})"
    if found.kind == "dtype":
        sentence = f"{part} makes float64 of float32: the result must have the dtype of the input"
        return f"{sentence} (np.zeros(shape) and a mask divided by a number are float64; pass dtype, or astype)"
    if found.difference is None:
        assert found.answer.raised is not None
        status, sentence = source.kind_of(found.answer.raised)
        return raised(found.answer, trial.names) if status == "error" else sentence
    if found.difference.kind == "none" and found.gradient:
        return f"{what} is None: no gradient reaches {what[1:]}"
    return of_difference(found.difference, what, trial.check.tolerance)


def raised(got: Answer, names: list[str]) -> str:
    """The exception as a sentence, with NumPy's messages about shapes in words."""
    message = str(got.raised)
    if got.line is None:  # not in the learner's file: raised where it was called, or where its result was read
        if isinstance(got.raised, TypeError) and "argument" in message:
            return f"it cannot be called with ({', '.join(names)}), as the stub has it: {message}"
        return f"what it returns cannot be read: {got.error}"
    return got.error + numpy_in_words(message)


def of_difference(found: Difference, what: str, tolerance: float) -> str:
    """How a result differs from the right one."""
    kind, _, got, right, fact = found
    what += "".join(f"[{part!r}]" for part in found.path)
    if kind == "none":
        return f"{what} is None: is a `return` missing?"
    if kind == "text":
        return f"{what} is {got!r}, not {right!r}"
    if kind == "tokens":
        return f"{what} {_about_tokens(got, right)}"
    if kind == "lacks":
        return f"{what} lacks the {_entries(fact)}"
    if kind == "surplus":
        return f"{what} has the {_entries(fact)}, which must not be there"
    if kind == "dtype":
        it = "must be of" if " " in fact else "must be"
        return f"{what} {it} {fact}, it is {np.asarray(got).dtype}"
    if kind in ("no dict", "no array", "length"):
        needed = {"no dict": "a dictionary", "no array": "an array or a number"}.get(kind)
        needed = needed or f"{len(right)} values in a {type(right).__name__}"
        return f"{what} must be {needed}, got {_in_words(got)}"
    if kind == "shape":
        repairs = {
            "same numbers": ": the values are right, only the shape is not (keepdims? reshape?)",
            "transposed": ": it is right when transposed",
            "axes left": ": one axis too many is left; it should be summed or averaged",
        }
        axes = fact[0] if isinstance(fact, tuple) and len(fact) == 1 else fact
        summed = f": it is summed too far, over axis {axes} of the right result"
        repair = "" if fact is None else repairs.get(fact, summed)
        return f"{what} has shape {np.shape(got)}, and should have {np.shape(right)}{repair}"
    if kind in ("nan", "inf"):
        return f"{what} contains {kind} where numbers belong"
    if kind == "finite":
        return f"{what} is finite where it should be -inf (a masked place?), or the other way around"
    if kind not in REPAIRED:
        words = "has other values" if np.asarray(right).dtype.kind in "iub" else "has wrong values"
        return f"{what} {words}{_whereabouts(np.asarray(got), np.asarray(right), tolerance)}"
    if kind == "factor":
        times = f"{abs(fact):.6g}x too large" if abs(fact) > 1 else f"{1 / abs(fact):.6g}x too small"
        return f"{what} is {times}, everywhere" + (", and its sign is flipped" if fact < 0 else "")
    said = {
        "sign": "has its sign flipped: the negative is right",
        "transposed": "is transposed: it is right with its last two axes exchanged",
        "places": "has the right numbers in other places: are axes mixed up (reshape?), or parts joined in another "
        "order?",
    }
    return f"{what} {said[kind]}"


def _entries(keys: list[Any]) -> str:
    """The first three keys, and how many there are.

    >>> _entries(["a", "b", "c", "d"]), _entries(["a"])
    ("entries 'a', 'b', 'c', ... (4 in all)", "entry 'a'")
    """
    more = f", ... ({len(keys)} in all)" if len(keys) > 3 else ""
    return f"entr{'ies' if len(keys) > 1 else 'y'} " + ", ".join(map(repr, keys[:3])) + more


def _about_tokens(got: list[bytes], right: list[bytes]) -> str:
    """How a text was cut into other tokens than the right ones."""
    if b"".join(got) != b"".join(right):
        return f"is another text: {b''.join(got)!r}, where {b''.join(right)!r} is right (lost or doubled?)"
    pairs = itertools.zip_longest(got, right)  # one list may be the beginning of the other, with b"" behind it
    place, g, r = next((i, g, r) for i, (g, r) in enumerate(pairs) if g != r)
    if not g:
        return f"is cut elsewhere: token {place} is " + ("missing" if g is None else "empty, and must not be there")
    should = f"joined to {g!r}, and must stay {r!r}" if len(g) > len(r) else f"{g!r}, and must be joined to {r!r}"
    return f"is cut elsewhere: token {place} is {should}"


def _whereabouts(got: np.ndarray, right: np.ndarray, tolerance: float) -> str:
    if got.dtype.kind in "iub" or right.dtype.kind in "iub":
        wrong = np.asarray(got != right)
    else:
        wrong = ~np.isclose(got, right, rtol=tolerance, atol=tolerance * 1e-3)
    if not wrong.ndim:
        return f": {got}, where {right} is right"
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    digits = 6 if f"{got[place]:.6g}" != f"{right[place]:.6g}" else 15
    numbers = f"{got[place]:.{digits}g}, not {right[place]:.{digits}g}"
    return f": {wrong.sum()} of {wrong.size} are wrong, the first at {list(place)}: {numbers}"


def _in_words(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"{len(value)} in a {type(value).__name__}"
    return " ".join(dict.fromkeys((type(value).__name__, f"{value!r:.60}")))  # only once, if they are the same


# --- a reason ---------------------------------------------------------------------------------------------------------


def of_reason(trial: Trial, found: Finding, reason: Reason) -> str:
    """Why the result is wrong, in a sentence."""
    said = of_finding(trial, found)
    fact = reason.fact
    error = f" ({said})" if found.kind == "error" else ""
    if reason.kind == "random":
        return "it draws random numbers: the same arguments must give the same result (keep the mask of forward)"
    if reason.kind == "remembers":
        return "the first run is right: something is kept from one call to the next (in a class, a global)"
    if reason.kind in ("slip", "remark"):
        return f"{fact}{error}"
    if reason.kind == "gradcheck":
        return f"{fact[0]}: {fact[1]}".removeprefix(": ")
    if reason.kind == "changes":
        changes = (of_change(change, found.gradient, trial.reference) for change in fact)
        return with_names(trial, "; or, with the same numbers: ".join(changes)) + error
    if reason.kind == "graft":
        belongs = of_step(trial.reference, fact.right, fact.said)
        sentence = f"{said}; in line {fact.line} belongs {belongs}: with its value there, it is right"
        return with_names(trial, sentence, is_sure=False)
    if reason.kind == "repair":
        return with_names(trial, "; ".join([said, *map(of_repair, fact)]))
    if (step := reason.step) is not None:
        lacking = (
            f"the first step of a right solution that is not among yours is {of_step(trial.reference, step.line, '=')}"
            + ", from its second time on" * step.is_later
        )
        return with_names(trial, f"{said}; no single slip explains it: {lacking}", is_sure=False)
    cut = found.difference is not None and found.difference.kind == "tokens"
    remarks = "; ".join(remark for remark in trial.reference.comments.values() if cut and remark not in ("", "TODO"))
    return f"{said} ({remarks})" if remarks else said


def of_step(reference: Reference, line: int, said: str) -> str:
    """A step of a right solution: an expression, or the statement in its line with the comment."""
    if not said.endswith("="):
        return in_words(ast.parse(said))
    comment = reference.comments.get(line, "")
    return reference.formula(line) + (f" ({comment})" if comment else "")


def with_names(trial: Trial, sentence: str, is_sure: bool = True) -> str:
    """A sentence with formulas, and what those names of the right solution stand for that the learner does not use.

    is_sure: whether a name that the learner uses is the same thing; otherwise it is explained as well.
    """
    said = [formula.rpartition(" = ")[2] for formula in re.findall("`(.*?)`", sentence)]
    used, known = words(" ".join(said)), words(trial.text)
    explained = [
        f"{name} is `{formula}`"
        for name, formula in trial.reference.formulas.items()
        if name in used and formula not in sentence and not (name in known if is_sure else name in words(formula))
    ]
    return "; ".join([sentence, *explained])


def of_repair(change: Change) -> str:
    """What is wrong in a line of the learner's file, if a change of it makes it right."""
    old, new = change.old, change.new
    off = " (it is off by one)" if old.strip("`") in (f"{new[1:-1]} + 1", f"{new[1:-1]} - 1") else ""
    kinds = {CONDITION: "without this condition it is right", LESS_KEEPDIMS: f"keepdims=True is too much in {old}",
             MORE_KEEPDIMS: f"keepdims=True is missing in {old}"}  # fmt: skip
    return f"in line {change.line}, " + kinds.get(change.kind, f"{old} stands where {new} belongs{off}")


def of_change(change: Change, gradient: str, reference: Reference) -> str:
    """The sentence of a change, with the gradient that is wrong and the place where it is computed."""
    where = f"where {change.target} is computed, " if change.target not in ("", gradient) else ""
    is_clear = " = " in change.old or change.old.strip("`") in change.sentence
    inside = "" if is_clear else f", in {change.old.splitlines()[0].rstrip('`')}`"
    comment = reference.comments.get(change.line, "")
    sentence = f"{gradient}: " * bool(gradient) + where + change.sentence + inside
    return sentence + (f" ({comment})" if comment else "")


# --- a case -----------------------------------------------------------------------------------------------------------


def of_case(trial: Trial, case: Case, more: dict[str, Any]) -> str:
    """The case as text: a row for each input and each result."""
    names = trial.names + [f"argument {i}" for i in range(len(trial.names), len(case.arguments))]
    right = more.get("right")
    if isinstance(right, list) and right and right[-1] is None:  # the place of a remark, which is the diagnosis
        more = {name: value[:-1] for name, value in more.items()}
    rows = {**dict(zip(names, case.arguments, strict=False)), **case.options, **more}
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:{width}} = {shown(value, ' ' * (width + 3))}" for name, value in rows.items())


def shown(value: Any, indent: str = "") -> str:
    """A value as a learner reads it, arrays in full if they are small."""
    if isinstance(value, np.ndarray):
        return np.array2string(value + 0.0 if value.dtype.kind == "f" else value, precision=4, suppress_small=True,
                               threshold=80, separator=", ", prefix=indent)  # fmt: skip
    if isinstance(value, np.generic | float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return f"\n{indent}".join(f"{name}: {shown(part, f'{indent}{name}: ')}" for name, part in value.items())
    if isinstance(value, list | tuple) and any(isinstance(part, np.ndarray | Mapping) for part in value):
        brackets = "[]" if isinstance(value, list) else "()"
        inner = f",\n{indent} ".join(shown(part, indent + " ") for part in value)
        return brackets[0] + inner + brackets[1]
    return repr(value)
