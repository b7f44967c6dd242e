"""Find out what is wrong with a gradient, by trying.

Each hypothesis below repairs the wrong gradient in one way (turns its sign, transposes it, takes the other input's,
...) and looks whether it then agrees with the differences. The repair that works is the diagnosis. If none works,
the pattern of the Jacobian is examined, and small changes of the op's source are tried (source_repair.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import switches
from ..autograd import Context
from ..backend import Array, module_of, named_arrays, to_numpy
from ..inspection.observers import watching
from ..kernels.accumulation import add_in_place
from .comparison import Comparison, relative_errors
from .source_repair import repaired_by
from .vjp import Shape

Order = tuple[int, ...]  # of axes
DOUT_FACTORS = (1, -1, 2**20, -(2**20), 2**-20, -(2**-20))  # powers of 2, so that no rounding is added


class Diagnosis(NamedTuple):
    """An explanation of a wrong gradient, in a `sentence`, or several that fit alike.

    `kind` names the first one for programs: "sign" "factor" "transposed" "reversed" "exchanged" "missing sum"
    "missing repeat" "upstream" "diagonal" "missing term" "missing factor" "incomplete" "partial" "overwritten"
    "in place" "cut off" "source" "shape" "non-finite" "non-deterministic" "unknown".
    """

    kind: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


class Case:
    """The wrong gradient of one output by one variable, and what the comparison knows of it."""

    def __init__(self, comparison: Comparison, wrong: int, output: int):
        self.comparison, self.wrong, self.output = comparison, wrong, output
        self.graph = comparison.graph
        self.ones = np.ones(len(self.graph.rows))
        self.variables = comparison.variables
        self.name = self.variables[wrong].name
        self.x = self.variables[wrong].value
        self.shape = self.x.shape
        self.gradient = comparison.analytic[wrong]  # (R, *shape)
        self.outputs = [to_numpy(tensor.data) for tensor in self.graph.outputs]
        self.out = self.outputs[output]
        self.mine = self.graph.of_output(output)  # the rows of this output
        self.known = comparison.smooth(wrong)[self.mine]  # not at a kink
        # Both Jacobians, as (output elements, input elements), unless only mixtures of rows or columns are known.
        self.has_jacobian = (output, None) not in self.graph.rows and comparison.is_dense(wrong)
        if self.has_jacobian:
            numeric = comparison.numeric(wrong)[self.mine]
            self.analytic = self.gradient[self.mine].reshape(numeric.shape)
            self.numeric = np.where(self.known, numeric, self.analytic)
            self.tolerance = 1e-6 * np.abs([self.analytic, numeric]).max(initial=0)  # what is smaller counts as 0
            self.given = np.abs(self.analytic) > self.tolerance
            self.needed = np.abs(self.numeric) > self.tolerance
            self.right = self.is_near(self.analytic)

    def is_near(self, jacobian: Array) -> Array:
        """Which elements of a Jacobian are as the differences say."""
        return np.abs(jacobian - self.numeric) <= np.maximum(self.tolerance, 1e-4 * np.abs(self.numeric))

    def agrees(self, candidate: Array, k: int | None = None) -> bool:
        """Would `candidate` (R, *shape) be right for variable k (the wrong one)?"""
        known = self.known if k is None else self.comparison.smooth(k)[self.mine]
        return bool((self.errors(candidate, k)[known] <= 10 * self.comparison.rtol).all())

    def errors(self, candidate: Array, k: int | None = None) -> Array:
        """The relative errors (rows of the output, probes) that `candidate` would have as the gradient."""
        k = self.wrong if k is None else k
        predicted, numeric = self.comparison.predicted(k, candidate), self.comparison.numeric(k)
        return relative_errors(predicted, numeric, self.comparison.floors(k))[self.mine]

    def vjp(self, coefficients: Array) -> Array:
        return self.graph.vjp(coefficients)[self.wrong]


def diagnose(comparison: Comparison, wrong: int, output: int) -> Diagnosis:
    """Why the gradient of `output` by variable `wrong` is wrong: the most specific explanation that fits."""
    case = Case(comparison, wrong, output)
    errors = case.errors(case.gradient)
    if errors.max() <= 10 * comparison.rtol and comparison.is_uncertain(wrong):
        advice = "choose inputs between 0.1 and 10, away from kinks and from the edges of fn's domain"
        return Diagnosis("unknown", f"an error this small may come from the differences themselves: {advice}")
    if not (case.known & (errors > comparison.rtol)).any():
        reason = "where any slope between the left and the right one is accepted"
        return Diagnosis("partial", f"it is wrong at kinks only (0 for relu, equal elements for max), {reason}")
    for group in _OF_GRADIENT:
        fitting = list(filter(None, (hypothesis(case) for hypothesis in group)))
        if fitting:
            return Diagnosis(fitting[0].kind, "; or: ".join(map(str, fitting)))
    found = None
    if case.has_jacobian:
        found = next(filter(None, (pattern(case) for pattern in _OF_JACOBIAN)), None)
    if found is None or found.kind in ("incomplete", "partial"):  # vague
        sentence = repaired_by(comparison)
        if sentence:
            return Diagnosis("source", sentence)
    tried = "sign, factor, transposition, missing sum, ignored dout and others were tried"
    return found or Diagnosis("unknown", f"no single slip explains it ({tried})")


def diagnose_not_linear(comparison: Comparison, wrong: int) -> Diagnosis:
    """Why backward is right for each element of dout on its own, and wrong for a mixture of them."""
    case = Case(comparison, wrong, 0)
    found = _not_repeatable(case) or _upstream(case)
    return found or Diagnosis("upstream", "backward is not linear in the upstream gradient dout")


def diagnose_writing(comparison: Comparison) -> Diagnosis | None:
    """Does a backward change its dout? In a graph where other ops hold this array, gradients would be wrong."""
    written = _written_by(comparison)
    if "dout" not in written:
        return None
    sentence = f"{written['dout']}.backward changes dout in place, which others hold too"
    return Diagnosis("in place", f"{sentence}: write dout = dout * y, not dout *= y")


def _written_by(comparison: Comparison) -> dict[str, str]:
    """The arrays that a backward changes in place, "dout" or "ctx.x" (saved by forward) -> the Function's name."""
    with watching(_Writes()) as watch:
        comparison.graph.vjp(np.random.default_rng(3).standard_normal(len(comparison.graph.rows)))
    return watch.found


# --- is the way back intact? ------------------------------------------------------------------------------------------


def _cut_off(case: Case) -> Diagnosis | None:
    if np.any(case.gradient[case.graph.of_output(case.output)]):
        return None
    case.vjp(case.ones)
    reason = "backward returns zeros"
    if case.graph.leaves[case.wrong].grad is None:
        reason = "backward returns None for it, or fn leaves the graph (.data, .detach(), .numpy())"
    return Diagnosis("cut off", f"no gradient reaches {case.name}: {reason}")


def _not_repeatable(case: Case) -> Diagnosis | None:
    if np.array_equal(case.vjp(case.ones), case.vjp(case.ones), equal_nan=True):
        return None
    for name, function in _written_by(case.comparison).items():
        if name != "dout":
            sentence = f"{function}.backward changes {name} in place, so each call gives another result"
            return Diagnosis("in place", f"{sentence}: change a copy, as in {name}.copy()")
    sentence = "backward gives something else each time it is called, as it draws new random numbers"
    return Diagnosis("non-deterministic", f"{sentence}: it must use what forward drew (keep the mask in ctx)")


def _upstream(case: Case) -> Diagnosis | None:
    """Backward must be linear in dout, the gradient that arrives: twice as much in, twice as much out."""
    one, other = np.random.default_rng(1).standard_normal((2, len(case.ones)))
    of_one, of_minus, of_other, of_both = (case.vjp(mixture) for mixture in (one, -one, other, one + other))
    rounding = 1e-9 * np.abs([of_one, of_other, of_both]).max(initial=0)

    def same(a: Array, b: Array) -> bool:
        return bool((np.abs(a - b) <= rounding).all())

    if same(of_one, of_minus) and same(of_one, of_other) and same(of_one, of_both):
        sentence = "backward ignores the upstream gradient dout: its result is the same for every dout"
        return Diagnosis("upstream", f"{sentence}; multiply by dout (chain rule)")
    problem = None
    if not same(case.vjp(2 * one), 2 * of_one):
        problem = "does not use the upstream gradient dout as a factor: twice the dout must give twice the gradient"
    elif not same(of_minus, -of_one):
        problem = "does not follow the sign of the upstream gradient dout: -dout must give the gradient times -1"
    elif not all(same(case.vjp(factor * one) / factor, of_one) for factor in DOUT_FACTORS):
        problem = "is not linear in the upstream gradient dout: it is right for some sizes of dout only"
    elif not same(of_both, of_one + of_other):
        problem = "is not linear in the upstream gradient dout: a sum of two douts must give the sum of their gradients"
    return None if problem is None else Diagnosis("upstream", f"backward {problem}")


def _overwritten(case: Case) -> Diagnosis | None:
    """Walk back once more, and let the fast kernels' function add up where gradients meet: is it right then?"""
    previous = switches.accumulate
    switches.accumulate = add_in_place
    try:
        walked = np.stack([case.vjp(row) for row in np.eye(len(case.ones))])
    finally:
        switches.accumulate = previous
    if np.allclose(walked, case.gradient, rtol=1e-9, atol=0) or not case.agrees(walked):
        return None
    leaf = case.graph.leaves[case.wrong]
    edges = [edge for node in case.graph.nodes for edge in node.edges]
    uses = sum(edge is not None and edge[0] is leaf for edge in edges)
    what = f"a result between {case.name} and the output is used more than once"
    if uses > 1:
        what = f"{case.name} is used {uses} times"
    advice = "the gradients of all uses must be added (+=), not replaced (=)"
    return Diagnosis("overwritten", f"accumulation overwritten: {what}, and {advice}")


class _Writes(switches.Observer):
    """Finds the Functions whose backward changes an array that it is given: its dout, or what forward saved."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._before: list[tuple[str, Array, Array]] = []

    def before(self, phase: str, ctx: Context, arrays: list[Any]) -> None:
        self._before = []
        if phase == "backward":
            given = [("dout", array) for array in arrays if array is not None]
            given += [(f"ctx.{name}", array) for name, array in named_arrays(ctx.saved().items())]
            self._before = [(name, array, array.copy()) for name, array in given]

    def after(self, phase: str, ctx: Context, arrays: list[Any], results: tuple[Any, ...]) -> None:
        for name, array, old in self._before:
            if not module_of(old).array_equal(old, array, equal_nan=True):
                self.found.setdefault(name, ctx.function.__name__)


# --- the whole gradient, repaired -------------------------------------------------------------------------------------


def _sign(case: Case) -> Diagnosis | None:
    return Diagnosis("sign", "the sign is flipped: the negative is right") if case.agrees(-case.gradient) else None


def _exchanged(case: Case) -> Diagnosis | None:
    for k, other in _same_shape(case):
        if case.agrees(case.comparison.analytic[k]) and case.agrees(case.gradient, k):
            return Diagnosis("exchanged", f"the gradients of {case.name} and {other} are exchanged: {IN_ORDER}")
    return None


def _of_another_input(case: Case) -> Diagnosis | None:
    for k, other in _same_shape(case):
        if case.agrees(case.gradient, k):
            return Diagnosis("exchanged", f"{case.name} gets the gradient of {other}: {IN_ORDER}")
        if case.agrees(case.comparison.analytic[k]):
            return Diagnosis("exchanged", f"{other} gets the gradient of {case.name}: {IN_ORDER}")
    return None


IN_ORDER = "backward must return them in the order of forward's inputs"


def _same_shape(case: Case) -> list[tuple[int, str]]:
    return [(k, v.name) for k, v in enumerate(case.variables) if k != case.wrong and v.value.shape == case.shape]


def _transposed(case: Case) -> Diagnosis | None:
    for order in orders(len(case.shape)):
        fits = tuple(case.shape[axis] for axis in order) == case.shape
        if fits and case.agrees(case.gradient.transpose(0, *(axis + 1 for axis in order))):
            return Diagnosis("transposed", f"the gradient is transposed: with {order_in_words(order)} it is right")
    for axis, length in enumerate(case.shape):
        if length > 1 and case.agrees(np.flip(case.gradient, axis + 1)):
            return Diagnosis("reversed", f"the gradient runs backwards along axis {axis}: flipped there it is right")
    return None


def orders(ndim: int) -> list[Order]:
    """All orders of up to 4 axes but the usual one, exchanges of two first."""
    orders = list(itertools.permutations(range(ndim)))[1:] if ndim <= 4 else []
    return sorted(orders, key=lambda order: sum(place != axis for place, axis in enumerate(order)))


def order_in_words(order: Order) -> str:
    moved = [axis for place, axis in enumerate(order) if place != axis]
    return f"axes {min(moved)} and {max(moved)} exchanged" if len(moved) == 2 else f"its axes in the order {order}"


def _factor(case: Case) -> Diagnosis | None:
    # The factor that fits analytic = factor * numeric best.
    numeric = np.where(case.known, case.comparison.numeric(case.wrong)[case.mine], 0)
    analytic = case.comparison.predicted(case.wrong, case.gradient)[case.mine]
    square = float((numeric * numeric).sum())
    factor = float((analytic * numeric).sum()) / square if square else 0.0
    is_one = abs(abs(factor) - 1) < 1e-4  # then it is the sign, or none
    if factor == 0 or not math.isfinite(factor) or is_one or not case.agrees(case.gradient / factor):
        return None
    informative = (np.abs(numeric) > 1e-6 * np.abs(numeric).max()).sum()
    size = abs(factor)
    sentence = _factor_in_words(size, _lengths(case))
    if sentence is None and informative < 3:  # any two numbers have a ratio
        return None
    if sentence is None:
        sentence = f"{size:.6g}x too large" if size > 1 else f"{1 / size:.6g}x too small"
        sentence += ": a constant factor, the same for all elements"
    return Diagnosis("factor", f"the sign is flipped, and it is {sentence}" if factor < 0 else sentence)


def _lengths(case: Case) -> dict[int, str]:
    """Each length of an axis or of several together, and whose it is: first the wrong input's, last the outputs'."""
    wrong_first = sorted(case.variables, key=lambda variable: variable.name != case.name)
    tensors = [(variable.name, variable.value.shape) for variable in wrong_first]
    many = len(case.outputs) > 1
    tensors += [(f"output {o}" if many else "the output", out.shape) for o, out in enumerate(case.outputs)]
    found: dict[int, tuple[str, list[str]]] = {}  # length -> the first tensor that has it, and its axes
    for name, shape in tensors:
        long = [axis for axis, length in enumerate(shape) if length > 1]
        for count in range(1, len(long) + 1):
            for axes in itertools.combinations(long, count):
                words = f"axis {axes[0]}" if count == 1 else f"axes {', '.join(map(str, axes[:-1]))} and {axes[-1]}"
                words = "all elements" if count == len(shape) > 1 else words
                first, words_of = found.setdefault(math.prod(shape[axis] for axis in axes), (name, []))
                if first == name:
                    words_of.append(words)
    return {n: f"{' or '.join(words_of)} of {name} (length {n})" for n, (name, words_of) in found.items()}


def _factor_in_words(size: float, lengths: dict[int, str]) -> str | None:
    """A reason for a gradient `size` times too large. Several are given where lengths coincide."""
    common: list[tuple[float, str]] = []  # (factor, reason)
    rare: list[tuple[float, str]] = []
    for n, axes in lengths.items():
        per_element = f"{n}x too large: a sum over {axes} is counted per element"
        confused = f"off by the factor {n}/{n - 1}: n and n - 1 are confused, n being {axes}"
        common += [
            (n, f"{per_element}, or a mean over it is not divided by {n}"),
            (1 / n, f"{n}x too small: this is the gradient of a mean over {axes}, not of a sum"),
        ]
        rare += [
            (n / 2, f"{size:.6g}x too large: a factor 2/n is missing, n being {axes}"),
            (math.sqrt(n), f"√{n} times too large: the scale 1/√n is missing, n being {axes}"),
            (1 / math.sqrt(n), f"√{n} times too small: the scale 1/√n is applied once too often, n being {axes}"),
            (n / (n - 1), confused),
            ((n - 1) / n, confused),
        ]
    common += [
        (2, "2x too large: a factor 1/2 is missing, or something is counted twice"),
        (1 / 2, "2x too small: a factor 2 is missing (d x² = 2x dx), or one of two equal parts"),
    ]
    for reasons in (common, rare):
        fitting = [reason for factor, reason in reasons if abs(size - factor) <= 1e-4 * factor]
        if fitting:
            return "; or: ".join(fitting)
    return None


def _missing_factor(case: Case) -> Diagnosis | None:
    """Is an input or the output, element by element, what the gradient lacks or has too much?"""
    values = [(variable.name, variable.value) for variable in case.variables] + [("the output", case.out)]
    for name, value in values:
        if not broadcasts(value.shape, case.shape):
            continue
        if case.agrees(case.gradient * value):
            return Diagnosis("missing factor", f"a factor is missing: multiplied by {name} it is right")
        if value.all() and case.agrees(case.gradient / value):
            return Diagnosis("missing factor", f"a factor is too much: divided by {name} it is right")
    return None


def broadcasts(shape: Shape, to: Shape) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape[::-1], to[::-1]))


# --- the pattern of the Jacobian --------------------------------------------------------------------------------------


def _diagonal(case: Case) -> Diagnosis | None:
    """Softmax's classic: out (1 - out) is only d out_i / d x_i, and d out_i / d x_j is forgotten."""
    if case.out.shape != case.shape or case.x.size < 2:
        return None
    elsewhere = ~np.eye(case.x.size, dtype=bool)
    if case.given[elsewhere].any() or not case.needed[elsewhere].any():
        return None
    if case.right[~elsewhere].all():
        sentence = "this is only the diagonal of the Jacobian: each output element depends on other input elements too"
        return Diagnosis("diagonal", f"{sentence}, and those terms are missing")
    sentence = "backward treats each element on its own, but each output element depends on several input elements"
    path = "through a sum, a mean or a variance"
    return Diagnosis("missing term", f"{sentence} ({path}): the terms of that path are missing")


def _incomplete(case: Case) -> Diagnosis | None:
    """Is the Jacobian zero wherever it is not right? Then the pattern of what is left tells why."""
    needed = case.needed
    lost = needed & ~case.given
    kept = needed & case.given
    if not lost.any() or not case.right[~lost].all():
        return None
    for axis, i in _indices(case.out.shape):
        if np.array_equal(kept, needed & (np.indices(case.out.shape)[axis].ravel() == i)[:, None]):
            sentence = f"the sum over axis {axis} of the output (length {case.out.shape[axis]}) is missing"
            reason = f"only index {i} of dout is passed on, and {case.name} went into all of them"
            return Diagnosis("missing sum", f"{sentence}: {reason}")
    cut = lost.any(axis=0)  # input elements
    if (kept[:, cut].sum(axis=0) == 1).all() and (needed[:, cut].sum(axis=0) > 1).all():
        sentence = f"some elements of {case.name} are used several times, and get the gradient of one use only"
        advice = "use scatter_add, as x[index] += ... keeps only the last of a repeated index"
        return Diagnosis("overwritten", f"accumulation overwritten: {sentence}; {advice}")
    sentence = f"of the {needed.sum()} derivatives that are not 0, {kept.sum()} are right and the others are 0"
    return Diagnosis("incomplete", f"part of the gradient is missing: {sentence}{_whereabouts(case, cut)}")


def _indices(shape: Shape) -> list[tuple[int, int]]:
    return [(axis, i) for axis, length in enumerate(shape) for i in range(length if length > 1 else 0)]


def _too_much(case: Case) -> Diagnosis | None:
    """Right wherever there is a derivative, but not 0 where there is none: a mask is missing, or inverted."""
    needed, given = case.needed, case.given
    if needed.any() and given.any() and not (needed & given).any():
        sentence = "backward gives 0 where there is a derivative, and a gradient where there is none"
        return Diagnosis("partial", f"{sentence}: a mask is the wrong way around, or an index is a wrong one")
    extra = given & ~needed
    if not extra.any() or not case.right[~extra].all():
        return None
    wrong = extra.any(axis=0)
    sentence = f"{wrong.sum()} of {wrong.size} elements of {case.name} are wrong{_whereabouts(case, wrong)}"
    return Diagnosis("partial", f"{sentence}: they get a gradient from outputs that do not depend on them (a mask?)")


def _operand_transposed(case: Case) -> Diagnosis | None:
    """dout @ y for dout @ yᵀ: in the Jacobian, an axis of the output and one of the input have changed places."""
    tensor = case.analytic.reshape(case.out.shape + case.shape)
    ndim = case.out.ndim
    for a, b in itertools.product(range(ndim), range(len(case.shape))):
        swapped = tensor.swapaxes(a, ndim + b)
        if swapped.shape != tensor.shape or case.shape[b] == 1:
            continue
        if case.is_near(swapped.reshape(case.numeric.shape)).all():
            axes = f"axis {a} of the output and axis {b} of {case.name} have changed places"
            return Diagnosis("transposed", f"something that dout is multiplied by is transposed (y for y.T?): {axes}")
    return None


def _missing_term(case: Case) -> Diagnosis | None:
    """Is the error the same along an axis (a mean's), or proportional to the input or output there (a norm's)?"""
    error = (case.analytic - case.numeric).reshape(-1, *case.shape)
    error = np.where(np.abs(error) > 10 * case.tolerance, error, 0)
    for axis, length in enumerate(case.shape):
        if length < 4:  # a pattern in three numbers may be chance
            continue
        centered = case.x - case.x.mean(axis=axis, keepdims=True)
        patterns = [
            ("the same for all elements, as the gradient through a mean", np.ones(case.shape)),
            ("proportional to the input, as the gradient through a norm or mean square", case.x),
            ("proportional to the input minus its mean, as the gradient through a variance", centered),
            ("proportional to the output, as the gradient through a normalizing sum", case.out),
        ]
        for words, pattern in patterns:
            if pattern.shape == case.shape and _is_multiple(error, pattern, axis):
                error_in_words = f"along axis {axis} of {case.name} the error is {words} is"
                return Diagnosis("missing term", f"a term is missing or too much: {error_in_words}")
    return None


def _is_multiple(error: Array, pattern: Array, axis: int) -> bool:
    """Is `error` (rows, *shape), along one axis, always some number times `pattern` (*shape)?"""
    square = (pattern * pattern).sum(axis=axis, keepdims=True)
    factor = (error * pattern).sum(axis=axis + 1, keepdims=True) / np.where(square > 0, square, 1)
    return bool(np.abs(error - factor * pattern).max() < 1e-4 * np.abs(error).max())


def _partial(case: Case) -> Diagnosis | None:
    wrong = np.any(~case.right, axis=0)
    if not wrong.any() or wrong.all():
        return None
    sentence = f"{wrong.sum()} of {wrong.size} elements of {case.name} are wrong{_whereabouts(case, wrong)}"
    return Diagnosis("partial", f"{sentence}; the others are right")


def _whereabouts(case: Case, wrong: Array) -> str:
    """Say what the wrong elements of the input (flat, True or False) have in common, if anything."""
    places = {"that are negative": case.x < 0, "that are positive": case.x > 0}
    for axis, i in _indices(case.shape):
        places[f"at index {i} of axis {axis}"] = np.indices(case.shape)[axis] == i
    for words, there in places.items():
        if np.array_equal(wrong.reshape(case.shape), there):
            return f", exactly those {words}"
    return ""


_OF_GRADIENT: list[tuple[Callable[[Case], Diagnosis | None], ...]] = [
    (_cut_off,),
    (_not_repeatable,),
    (_upstream,),
    (lambda case: diagnose_writing(case.comparison),),
    (_overwritten,),
    (_sign, _exchanged, _transposed, _factor),
    (_of_another_input, _missing_factor),
]
_OF_JACOBIAN = [_diagonal, _incomplete, _operand_transposed, _missing_term, _too_much, _partial]
