"""The result of gradcheck: a Report if nothing is wrong; otherwise a GradcheckError, which shows the wrong number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..backend import Array
from ..notebook import NotebookReport
from .comparison import MOST_SPLITS, Comparison, Kink, in_brackets
from .diagnosis import Diagnosis, diagnose, diagnose_not_linear
from .vjp import Index, Shape, unravel

_BANDS = [(1e-2, "wrong"), (1e-4, "suspicious"), (1e-7, "high, unless there are kinks"), (0.0, "right")]


def band(error: float) -> str:
    """Say in words how large a relative error in float64 is: the bands of Stanford's CS231n, "Gradient checks".

    >>> band(2.0), band(3e-9)
    ('wrong', 'right')
    """
    return next((words for limit, words in _BANDS if error >= limit), "wrong")  # nan is wrong too


class GradcheckError(AssertionError):
    """A gradient is wrong, or cannot be checked; `diagnosis` says why.

    input_index: which input has the wrong gradient; None if the function as a whole is wrong.
    """

    def __init__(self, message: str, diagnosis: Diagnosis, input_index: int | None = None):
        super().__init__(message)
        self.diagnosis, self.input_index = diagnosis, input_index


@dataclass
class InputReport:
    """One input: its largest relative error, and the rows (R, *shape) of both Jacobians.

    `numeric` is None if the input is so large that only random directions were checked.
    """

    name: str
    shape: Shape
    checked: str
    max_error: float
    analytic: Array
    numeric: Array | None


@dataclass
class Report(NotebookReport):
    """The result of a check that found nothing wrong."""

    name: str
    method: str
    inputs: list[InputReport]
    kinks: list[Kink]
    notes: list[str]

    @property
    def max_error(self) -> float:
        """The largest relative error of all inputs."""
        return max(x.max_error for x in self.inputs)

    def __str__(self) -> str:
        method = "complex step" if self.method == "complex" else "central differences"
        lines = [
            f"gradcheck of {self.name}: largest relative error {self.max_error:.1e} ({band(self.max_error)}), {method}"
        ]
        lines += [f"  {x.name} {x.shape}: {x.checked}, {x.max_error:.1e}" for x in self.inputs]
        lines += [f"  {kink}" for kink in self.kinks[:5]]
        if len(self.kinks) > 5:
            lines.append(f"  and {len(self.kinks) - 5} more kinks")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


# --- nothing is wrong -------------------------------------------------------------------------------------------------


def passed(comparison: Comparison, method: str) -> Report:
    """The report of a comparison in which everything agrees."""
    notes = list(comparison.subject.notes)
    if comparison.splits > MOST_SPLITS:
        notes.append(f"{comparison.splits - MOST_SPLITS} directions have so many kinks that they were not checked")
    if comparison.kinks and len(comparison.kinks) == sum(map(len, comparison.columns)):
        notes.append("every element is at a kink, so this check proves little: choose other inputs")
    inputs = []
    for k, (variable, columns) in enumerate(zip(comparison.variables, comparison.columns)):
        analytic = comparison.analytic[k]
        numeric = None
        checked = f"{len(columns)} directions"
        if comparison.is_dense(k):
            numeric = comparison.numeric(k).reshape(analytic.shape)
            checked = f"{len(columns)} element{'' if len(columns) == 1 else 's'}"
        max_error = max((float(column.errors.max(initial=0)) for column in columns), default=0.0)
        inputs.append(InputReport(variable.name, variable.value.shape, checked, max_error, analytic, numeric))
    return Report(comparison.name, method, inputs, list(comparison.kinks.values()), notes)


# --- something is wrong -----------------------------------------------------------------------------------------------


def error_of(comparison: Comparison, diagnosis: Diagnosis) -> GradcheckError:
    """An error that is about the function as a whole, not about one number."""
    return GradcheckError(f"gradcheck of {comparison.name}: {diagnosis}", diagnosis)


def wrong_derivative(comparison: Comparison, k: int) -> GradcheckError:
    """An error that shows the derivative by an element of input k that is wrong by the largest amount."""
    column = comparison.worst_element(k)
    variable = comparison.variables[k]
    row = int(np.argmax(np.where(column.errors > comparison.rtol, column.differences, -1)))
    output, out_element = comparison.graph.rows[row]
    element = unravel(variable.value.shape, int(column.probe.places[0]))
    analytic, numeric = column.analytic[row], column.numeric[row]
    error = abs(analytic - numeric) / max(abs(analytic), abs(numeric))
    diagnosis = diagnose(comparison, k, output)
    numerator = f"d {output_name(comparison, output, out_element)}"
    lines = [
        f"gradcheck of {comparison.name}: {numerator} / d {variable.name}{in_brackets(element)} is {numeric:.6g} by "
        f"central differences, and {analytic:.6g} by backward (relative error {error:.1e}: {band(error)})",
        f"diagnosis: {diagnosis}",
    ]
    if comparison.is_dense(k) and variable.value.ndim:
        lines.append(f"{numerator} / d {variable.name}, of shape {variable.value.shape}:")
        of_all = comparison.numeric(k)[row].reshape(variable.value.shape)
        for side, array in (("  differences ", of_all), ("  backward    ", comparison.analytic[k][row])):
            digits = np.array2string(array + 0.0, precision=4, suppress_small=True, threshold=60, prefix=side)
            lines.append(side + digits)
    return GradcheckError("\n".join([*lines, _overview(comparison)]), diagnosis, variable.position)


def wrong_mixture(
    comparison: Comparison, k: int, i: int, analytic: float, numeric: float, dout: Array
) -> GradcheckError:
    """An error about a backward that is right where one element of dout is 1 and the others 0, but not for any dout."""
    diagnosis = diagnose_not_linear(comparison, k)
    size = f"dout = {dout[0]:.3g}" if dout.size == 1 else f"a random dout from {dout.min():.3g} to {dout.max():.3g}"
    message = (
        f"gradcheck of {comparison.name}: for {size}, backward gives {analytic:.6g} at "
        f"{comparison.describe(k, i)}, and {numeric:.6g} would follow from its gradients for single elements of dout\n"
        f"diagnosis: {diagnosis}"
    )
    return GradcheckError(message, diagnosis, comparison.variables[k].position)


def output_name(comparison: Comparison, output: int, element: Index | None) -> str:
    """ "output[0, 2]", with the number of the output if there are several."""
    number = f" {output}" if len(comparison.graph.outputs) > 1 else ""
    return f"(a random mixture of output{number})" if element is None else f"output{number}{in_brackets(element)}"


def _overview(comparison: Comparison) -> str:
    """The number of wrong elements, and the inputs that are right."""
    wrong, right = [], []
    for k, variable in enumerate(comparison.variables):
        kind = "elements" if comparison.is_dense(k) else "directions"
        count = len(comparison.wrong_columns(k))
        if count:
            wrong.append(f"{count} of {len(comparison.columns[k])} {kind} of {variable.name}")
        else:
            right.append(variable.name)
    return f"wrong: {', '.join(wrong)}" + (f"; right: {', '.join(right)}" if right else "")
