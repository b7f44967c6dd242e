"""Is a gradient right? Move each input a little, and check that the outputs move as backward predicts.

    (f(x + h) - f(x - h)) / 2h = f'(x) + O(h²)

`numeric_gradient` is this formula, for each element of x. `gradcheck` computes the differences for each element of each
input, and compares them with every row of the Jacobian that backward gives (jacobian.py, comparison.py). If the two
differ, diagnosis.py finds out why, and report.py says it. Stanford's CS231n, "Gradient checks", describes the method.

A kink is a point where the slope jumps. At 0, for example, the slope of relu(x) is 0 on the left and 1 on the right.
There is no derivative at a kink, and backward may return any number between the two slopes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from .. import graph_checks, switches
from ..backend import Array, to_numpy
from ..precision import autocast
from .comparison import Comparison, NotFinite, in_brackets
from .diagnosis import Diagnosis, diagnose, diagnose_not_linear, diagnose_writing
from .jacobian import NotAnalytic, Subject, place
from .report import GradcheckError, InputReport, Report, band
from .shape_diagnosis import diagnose_shape, numpy_in_words


def numeric_gradient(f: Callable[[Array], float], x: Array, h: float = 6e-6) -> Array:
    """df/dx by central differences, where f turns an array of float64 into one number: the formula above as a loop.

    `gradcheck` does the same for functions of several inputs and outputs, and looks closer where the two disagree.

    >>> numeric_gradient(lambda x: (x**3).sum(), np.array([1.0, 2.0])).round(6)
    array([ 3., 12.])
    """
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h  # move one element, and leave the others where they are
        gradient[i] = (f(x + step) - f(x - step)) / (2 * h)
    return gradient


def gradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    eps: float | None = None,
    atol: float | None = None,
    rtol: float = 1e-5,
    method: str = "central",
) -> Report:
    """Compare the gradient that backward computes for `fn` with finite differences. Raises GradcheckError, with a
    diagnosis, if they differ.

    fn: takes Tensors and returns a Tensor or a tuple of them. inputs: a Tensor or array, or a sequence of them. The
    inputs that require a gradient are checked, or all floating-point inputs if none does, in float64. Other arrays are
    passed to fn as Tensors. eps: the step, by default 6e-6 max(1, |x|). An element passes if |analytic - numeric| <=
    max(atol, rtol * the larger of the two); the default atol is a little above rounding. method: "central", or
    "complex" for the complex step (Squire & Trapp 1998), which has no rounding error. If an op is not analytic, the
    complex step is replaced by "central", with a note in the report.

    With up to 200 output and 1000 input elements the whole Jacobian is compared, otherwise random mixtures of outputs
    and random directions of the input. At a kink (relu at 0, equal maxima) any slope between the left and the right one
    passes, and the report lists the kink.

    >>> import minigrad.functional as F
    >>> print(gradcheck(F.relu, np.array([-1.0, 0.0, 2.0])))  # doctest: +ELLIPSIS
    gradcheck of relu: largest relative error ... (right), central differences
      input 0 (x) (3,): 3 elements, ...
      kink at input 0 (x)[1]: slope 0 on the left, 1 on the right
    """
    if method not in ("central", "complex"):
        raise ValueError(f"gradcheck: method must be 'central' or 'complex', got {method!r}")
    for name, value in (("eps", eps), ("atol", atol), ("rtol", rtol)):
        if value is not None and not value > 0:
            raise ValueError(f"gradcheck: {name} must be > 0, got {value}")
    subject = Subject(fn, inputs)
    with _undisturbed():
        comparison = _compute(subject, eps, atol, rtol)
        name = _name_of(comparison)
        try:
            _check_outputs(comparison)
            _check_deterministic(comparison, name, calls=2)
            _run_backward(comparison, name)  # the Jacobian by rows, then by columns:
            if method == "complex" and not _complex_step_agrees(comparison):
                method = "central"
            if method == "central":
                comparison.central()
        except NotFinite as problem:
            raise _error(name, Diagnosis("non-finite", str(problem))) from None
        for k in range(len(comparison.columns)):  # for each input
            if comparison.wrong_columns(k):
                _check_deterministic(comparison, name, calls=5)  # otherwise we would diagnose noise
                _fail(comparison, name, k)
        # All rows are right. Is backward also right for other values of dout? (dout * dout is right for 0 and 1.)
        for k, i, analytic, numeric in comparison.not_linear():
            _fail_not_linear(comparison, name, k, i, analytic, numeric)
        if (writing := diagnose_writing(comparison)) is not None:
            raise _error(name, writing)
        return _report(comparison, name, method)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Record gradients and compute in float64, regardless of no_grad and autocast around the call."""
    with np.errstate(all="ignore"), autocast(enabled=False), switches.enable_grad():
        yield


def _compute(subject: Subject, eps: float | None, atol: float | None, rtol: float) -> Comparison:
    try:
        return Comparison(subject, eps, atol, rtol)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        sentence = "fn writes to its inputs, which an op must leave as they are: compute into a new array"
        raise _error("fn", Diagnosis("in place", sentence)) from error


def _name_of(comparison: Comparison) -> str:
    name = getattr(comparison.subject.fn, "__name__", "<lambda>")
    return comparison.graph.name if name in ("<lambda>", "apply") else name


def _error(name: str, diagnosis: Diagnosis) -> GradcheckError:
    return GradcheckError(f"gradcheck of {name}: {diagnosis}", diagnosis)


# --- what makes a check impossible ------------------------------------------------------------------------------------


def _check_outputs(comparison: Comparison) -> None:
    for o, output in enumerate(comparison.graph.outputs):
        bad = np.isnan(to_numpy(output.data)).ravel()
        if bad.any():
            where = _output(comparison, o, place(output.shape, int(bad.argmax())))
            advice = "choose inputs inside fn's domain, or look for 0 / 0 and inf - inf in forward"
            raise NotFinite(f"{where} is nan; {advice}")


def _check_deterministic(comparison: Comparison, name: str, calls: int) -> None:
    first = comparison.subject.base
    for _ in range(calls):
        again = comparison.subject.again()
        if again.shape != first.shape or not np.allclose(again, first, rtol=1e-9, atol=0):
            sentence = "fn returns a different result each time it is called"
            advice = "call manual_seed(0) inside fn, or switch dropout off"
            raise _error(name, Diagnosis("non-deterministic", f"{sentence}; {advice}"))


def _run_backward(comparison: Comparison, name: str) -> None:
    """Run backward. A gradient of the wrong shape is diagnosed; other exceptions from backward are passed on."""
    try:
        comparison.backward()
    except NotFinite:
        raise
    except Exception as error:
        if not _is_from_engine(error):
            error.add_note(f"(raised in backward while gradcheck was checking {name}){numpy_in_words(str(error))}")
            raise
        diagnosis = diagnose_shape(comparison)
        raise GradcheckError(f"gradcheck of {name}: {error}\ndiagnosis: {diagnosis}", diagnosis) from error


def _is_from_engine(error: Exception) -> bool:
    """Whether the engine's own check of the returned gradients raised this error."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_code is graph_checks.check_returned.__code__


def _complex_step_agrees(comparison: Comparison) -> bool:
    notes = comparison.subject.notes
    try:
        comparison.complex_step()
    except NotAnalytic as error:
        notes.append(f"no complex step, as fn does not take complex numbers ({error}): central differences were used")
        return False
    if comparison.is_wrong:
        notes.append("the complex step disagrees, as an op of fn is not analytic: central differences were used")
        return False
    return True


# --- the outcome ------------------------------------------------------------------------------------------------------


def _report(comparison: Comparison, name: str, method: str) -> Report:
    notes = list(comparison.subject.notes)
    if comparison.given_up:
        notes.append(f"{comparison.given_up} directions have so many kinks that they were not checked")
    if comparison.kinks and len(comparison.kinks) == sum(map(len, comparison.columns)):
        notes.append("every element is at a kink, so this check proves little: choose other inputs")
    inputs = [_input_report(comparison, k) for k in range(len(comparison.columns))]
    return Report(name, method, inputs, list(comparison.kinks.values()), notes)


def _input_report(comparison: Comparison, k: int) -> InputReport:
    variable, columns = comparison.subject.variables[k], comparison.columns[k]
    errors = [float(comparison.errors_of(k, column).max(initial=0)) for column in columns]
    numeric, checked = None, f"{len(columns)} directions"
    if comparison.is_dense(k):
        numeric = comparison.numeric(k).reshape(comparison.analytic[k].shape)
        checked = f"{len(columns)} element{'' if len(columns) == 1 else 's'}"
    return InputReport(
        variable.name, variable.value.shape, checked, max(errors, default=0.0), comparison.analytic[k], numeric
    )


def _fail(comparison: Comparison, name: str, k: int) -> NoReturn:
    column = comparison.worst_element(k)
    row = int(np.argmax(np.abs(column.analytic - column.numeric)))
    output, out_element = comparison.rows.owner(row), comparison.rows.element(row)
    diagnosis = diagnose(comparison, k, output)
    error = _located(comparison, k, int(column.probe.places[0]), column.analytic[row], column.numeric[row], diagnosis)
    error.output_index, error.output_element = output, out_element

    variable, numerator = comparison.subject.variables[k], f"d {_output(comparison, output, out_element)}"
    lines = [
        f"gradcheck of {name}: {numerator} / d {variable.name}{in_brackets(error.element or ())} is "
        f"{error.numeric:.6g} by central differences, and {error.analytic:.6g} by backward "
        f"(relative error {error.relative_error:.1e}: {band(error.relative_error or 0)})",
        f"diagnosis: {diagnosis}",
    ]
    if comparison.is_dense(k) and variable.value.ndim:
        lines.append(f"{numerator} / d {variable.name}, of shape {variable.value.shape}:")
        numeric = comparison.numeric(k)[row].reshape(variable.value.shape)
        for side, array in (("  differences ", numeric), ("  backward    ", comparison.analytic[k][row])):
            digits = np.array2string(array + 0.0, precision=4, suppress_small=True, threshold=60, prefix=side)
            lines.append(side + digits)
    error.args = ("\n".join([*lines, _overview(comparison)]),)
    raise error


def _fail_not_linear(comparison: Comparison, name: str, k: int, i: int, analytic: float, numeric: float) -> NoReturn:
    error = _located(comparison, k, i, analytic, numeric, diagnose_not_linear(comparison, k))
    error.args = (
        f"gradcheck of {name}: for a random dout, backward gives {analytic:.6g} at {comparison.describe(k, i)}, and "
        f"{numeric:.6g} would follow from its gradients for single elements of dout\ndiagnosis: {error.diagnosis}",
    )
    raise error


def _located(
    comparison: Comparison, k: int, i: int, analytic: float, numeric: float, diagnosis: Diagnosis
) -> GradcheckError:
    """An error about element i of variable k. The caller adds the message."""
    error, variable = GradcheckError("", diagnosis), comparison.subject.variables[k]
    error.input_index, error.element = variable.position, place(variable.value.shape, i)
    error.analytic, error.numeric = float(analytic), float(numeric)
    size = max(abs(error.analytic), abs(error.numeric))
    error.relative_error = abs(error.analytic - error.numeric) / size if size else 0.0
    return error


def _output(comparison: Comparison, output: int, element: tuple[int, ...] | None) -> str:
    """ "output[0, 2]", with the number of the output if there are several."""
    number = f" {output}" if len(comparison.graph.outputs) > 1 else ""
    return f"(a random mixture of output{number})" if element is None else f"output{number}{in_brackets(element)}"


def _overview(comparison: Comparison) -> str:
    """How many elements are wrong, and which inputs are right."""
    wrong, right = [], []
    for k, variable in enumerate(comparison.subject.variables):
        what = "elements" if comparison.is_dense(k) else "directions"
        count = len(comparison.wrong_columns(k))
        if count:
            wrong.append(f"{count} of {len(comparison.columns[k])} {what} of {variable.name}")
        else:
            right.append(variable.name)
    return f"wrong: {', '.join(wrong)}" + (f"; right: {', '.join(right)}" if right else "")
