"""Before gradients can be compared: fn must be repeatable, everything finite, and the gradients of the right shape."""

from __future__ import annotations

import traceback

import numpy as np

from .. import graph_checks
from ..backend import to_numpy
from .comparison import Comparison, NotFinite
from .diagnosis import Diagnosis
from .differences import NotAnalytic
from .jacobian import Subject, unravel
from .report import GradcheckError, error_of, output_name
from .shape_diagnosis import diagnose_shape, numpy_in_words


def compute_outputs(subject: Subject, eps: float | None, atol: float | None, rtol: float) -> Comparison:
    """Call fn and record its graph."""
    try:
        return Comparison(subject, eps, atol, rtol)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        sentence = "fn writes to its inputs, which an op must leave as they are: compute into a new array"
        diagnosis = Diagnosis("in place", sentence)
        raise GradcheckError(f"gradcheck of fn: {diagnosis}", diagnosis) from error


def check_repeatable(comparison: Comparison, calls: int) -> None:
    """Raise an error if an output is nan, or if fn returns something else when it is called again."""
    for o, output in enumerate(comparison.graph.outputs):
        bad = np.isnan(to_numpy(output.data)).ravel()
        if bad.any():
            where = output_name(comparison, o, unravel(output.shape, int(bad.argmax())))
            advice = "choose inputs inside fn's domain, or look for 0 / 0 and inf - inf in forward"
            raise NotFinite(f"{where} is nan; {advice}")
    first = comparison.subject.base
    for _ in range(calls):
        again = comparison.subject.values([np.array(variable.value) for variable in comparison.subject.variables])
        if again.shape != first.shape or not np.allclose(again, first, rtol=1e-9, atol=0):
            sentence = "fn returns a different result each time it is called"
            advice = "call manual_seed(0) inside fn, or switch dropout off"
            raise error_of(comparison, Diagnosis("non-deterministic", f"{sentence}; {advice}"))


def run_backward(comparison: Comparison) -> None:
    """Run backward. A gradient of the wrong shape is diagnosed; other exceptions from backward are passed on."""
    try:
        comparison.backward()
    except NotFinite:
        raise
    except Exception as error:
        name = comparison.name
        if not _is_from_engine(error):
            error.add_note(f"(raised in backward while gradcheck was checking {name}){numpy_in_words(str(error))}")
            raise
        diagnosis = diagnose_shape(comparison)
        raise GradcheckError(f"gradcheck of {name}: {error}\ndiagnosis: {diagnosis}", diagnosis) from error


def _is_from_engine(error: Exception) -> bool:
    """Whether the engine's own check of the returned gradients raised this error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code is graph_checks.check_returned.__code__


def measure_columns(comparison: Comparison, method: str) -> str:
    """Measure the Jacobian's columns, and return the method that was possible: "complex" or "central"."""
    if method == "complex":
        try:
            comparison.complex_step()
            if not comparison.is_wrong:
                return "complex"
            problem = "the complex step disagrees, as an op of fn is not analytic"
        except NotAnalytic as error:
            problem = f"no complex step, as fn does not take complex numbers ({error})"
        comparison.subject.notes.append(f"{problem}: central differences were used")
    comparison.central()
    return "central"
