"""Is a gradient right? Move each input a little, and check that the output moves as backward predicts.

    (f(x + h) - f(x - h)) / 2h = f'(x) + O(h²)

`numeric_gradient` is this formula, for each element of x. A gradient check compares it with what backward computes:

    >>> from minigrad import Function, Tensor
    >>> def check(op, x):
    ...     leaf = Tensor(x, requires_grad=True)
    ...     op(leaf).sum().backward()
    ...     numeric = numeric_gradient(lambda x: op(Tensor(x)).sum().item(), x)
    ...     error = np.abs(leaf.grad - numeric) / np.maximum(np.abs(leaf.grad), np.abs(numeric))
    ...     return "right" if (error < 1e-5).all() else f"{leaf.grad} by backward, {numeric.round(3)} by differences"

    >>> class Cube(Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.x = x
    ...         return x**3
    ...     @staticmethod
    ...     def backward(ctx, dout):
    ...         return (2 * ctx.x**2 * dout,)  # 3 x² would be right
    >>> check(Cube.apply, np.array([1.0, 2.0]))
    '[2. 8.] by backward, [ 3. 12.] by differences'

`gradcheck` does the same for functions with several inputs and outputs, whose derivatives form a matrix, the Jacobian:

    f(x, y) = (x y, x + y)        J = [y  x]        row 0 is what backward gives for dout = (1, 0)
                                      [1  1]        column 0 is how both outputs change if x is moved

Differences give its columns (differences.py), and backward gives its rows (vjp.py). comparison.py finds where the two
differ, diagnosis.py finds out why, and report.py says it. Stanford's CS231n, "Gradient checks", describes the method.

A kink is a point where the slope jumps. At 0, for example, the slope of relu(x) is 0 on the left and 1 on the right.
There is no derivative at a kink, and backward may return any number between the two slopes.

The step h = 6e-6 is a compromise. The formula's own error is about h², and rounding adds about ε / h, where ε = 2.2e-16
is the precision of float64. At h = ε^(1/3) = 6e-6 the two are equal, and ten digits are right.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import graph_checks, switches
from ..backend import Array, to_numpy
from ..precision import autocast
from .comparison import Comparison, NotFinite
from .diagnosis import DOUT_FACTORS, Diagnosis, diagnose_writing
from .differences import one_element
from .report import GradcheckError as GradcheckError
from .report import Report, error_of, output_name, passed, wrong_derivative, wrong_mixture
from .shape_diagnosis import diagnose_shape, numpy_in_words
from .vjp import Subject, unravel


def numeric_gradient(f: Callable[[Array], float], x: Array, h: float = 6e-6) -> Array:
    """df/dx by central differences, where f turns an array of float64 into one number: the formula above as a loop.

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

    >>> import minigrad.functional as F
    >>> print(gradcheck(F.relu, np.array([-1.0, 0.0, 2.0])))  # doctest: +ELLIPSIS
    gradcheck of relu: largest relative error ... (right), central differences
      input 0 (x) (3,): 3 elements, ...
      kink at input 0 (x)[1]: slope 0 on the left, 1 on the right

    fn: takes Tensors and returns a Tensor or a tuple of them. inputs: a Tensor or array, or a sequence of them. The
    inputs that require a gradient are checked, or all floating-point inputs if none does, in float64. Other arrays are
    passed to fn as Tensors. eps: the step, by default 6e-6 max(1, |x|). An element passes if |analytic - numeric| <=
    max(atol, rtol * the larger of the two); the default atol is a little above rounding.

    method: "central", or "complex" for the complex step (Squire & Trapp 1998): f'(x) = Im f(x + ih) / h subtracts
    nothing, so it has no rounding error. If fn cannot compute with complex numbers, or has no complex derivative, as
    |x| has none, "central" takes its place, with a note in the report.

    With up to 200 output and 1000 input elements the whole Jacobian is compared. Larger ones would take too long:
    there, sums of all outputs with random weights are compared instead of the outputs, and all elements of an input are
    moved at once, by random amounts. At a kink (relu at 0, equal maxima) any slope between the left and the right
    one passes, and the report lists the kink. Backward must be linear in dout, so in the end it is run for random douts
    of both signs and of several sizes.
    """
    if method not in ("central", "complex"):
        raise ValueError(f"gradcheck: method must be 'central' or 'complex', got {method!r}")
    subject = Subject(fn, inputs)
    # record gradients and compute in float64, regardless of no_grad and autocast around the call
    with np.errstate(all="ignore"), autocast(enabled=False), switches.enable_grad():
        comparison = call_fn(subject, eps, atol, rtol)  # and record the graph
        try:
            check_outputs(comparison)
            run_backward(comparison)  # the Jacobian by rows: backward, once for each output element
            method = run_differences(comparison, method)  # by columns: fn, with inputs moved
        except NotFinite as error:
            raise error_of(comparison, Diagnosis("non-finite", str(error))) from None
        for k in range(len(comparison.variables)):
            if comparison.wrong_columns(k):
                raise wrong_derivative(comparison, k)
        check_linear(comparison)
        writing = diagnose_writing(comparison)  # into dout, which other ops hold too
        if writing is not None:
            raise error_of(comparison, writing)
        return passed(comparison, method)


# --- the steps of gradcheck -------------------------------------------------------------------------------------------


def call_fn(subject: Subject, eps: float | None, atol: float | None, rtol: float) -> Comparison:
    """Call fn, which must not write to its inputs."""
    try:
        return Comparison(subject, eps, atol, rtol)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        sentence = "fn writes to its inputs, which an op must leave as they are: compute into a new array"
        diagnosis = Diagnosis("in place", sentence)
        raise GradcheckError(f"gradcheck of fn: {diagnosis}", diagnosis) from error


def check_outputs(comparison: Comparison) -> None:
    """No output may be nan, and fn must return the same when it is called again."""
    for o, output in enumerate(comparison.graph.outputs):
        bad = np.isnan(to_numpy(output.data)).ravel()
        if bad.any():
            where = output_name(comparison, o, unravel(output.shape, int(bad.argmax())))
            advice = "choose inputs inside fn's domain, or look for 0 / 0 and inf - inf in forward"
            raise NotFinite(f"{where} is nan; {advice}")
    for _ in range(5):
        again = comparison.subject.moved(k=0, direction=0, distance=0)
        if again.shape != comparison.outputs.shape or not np.allclose(again, comparison.outputs, rtol=1e-9, atol=0):
            sentence = "fn returns a different result each time it is called"
            advice = "call manual_seed(0) inside fn, or switch dropout off"
            raise error_of(comparison, Diagnosis("non-deterministic", f"{sentence}; {advice}"))


def run_backward(comparison: Comparison) -> None:
    """Run backward: its gradients must be finite, and have the shapes of the inputs. Its own errors are passed on."""
    try:
        comparison.backward()
    except Exception as error:
        name = comparison.name
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)  # the function that raised the error
        engine_rejects_shape = frame.f_code is graph_checks.check_returned.__code__
        if not engine_rejects_shape:
            error.add_note(f"(raised in backward while gradcheck was checking {name}){numpy_in_words(str(error))}")
            raise
        node, returned = frame.f_locals["ctx"], frame.f_locals["returned"]  # what the engine was checking
        diagnosis = diagnose_shape(comparison, node, returned)
        raise GradcheckError(f"gradcheck of {name}: {error}\ndiagnosis: {diagnosis}", diagnosis) from error
    for k, (variable, gradients) in enumerate(zip(comparison.variables, comparison.analytic)):
        # Look for infinity before nan: an infinite slope also turns other rows into nan (0 * inf).
        bad = np.isinf(gradients) if np.isinf(gradients).any() else np.isnan(gradients)
        if bad.any():
            row, i = divmod(int(bad.argmax()), variable.value.size)
            column = comparison.measure(k, one_element(variable.value, i, comparison.eps))
            sentence = f"backward gives {gradients[bad][0]} for {comparison.describe(k, i)}"
            advice = "look for 0 * inf, inf - inf or 0 / 0 in backward"
            raise NotFinite(f"{sentence}, where differences give {column.numeric[row]:.6g}; {advice}")


def run_differences(comparison: Comparison, method: str) -> str:
    """Move the inputs, and measure how the outputs move. Returns the method that was possible."""
    if method == "complex":
        problem = comparison.complex_step()
        if problem is None:
            return "complex"
        comparison.subject.notes.append(f"{problem}: central differences were used")
    comparison.central()
    return "central"


def check_linear(comparison: Comparison) -> None:
    """A mixture of rows must give the mixture of their gradients.

    All rows were asked for with a dout of zeros and a single 1, where `dout * dout` is right too: the square of 0 is 0,
    and that of 1 is 1. So are |dout|, max(dout, 0), and a backward that is wrong only for a large or a small dout. So
    mixtures of both signs and of several sizes are tried.
    """
    mixture = comparison.rng.standard_normal(len(comparison.graph.rows))
    for factor in DOUT_FACTORS:
        dout = factor * mixture
        for k, mixed in enumerate(comparison.graph.vjp(dout)):
            expected = np.tensordot(dout, comparison.analytic[k], 1)
            size = max(float(np.abs(expected).max(initial=0)), float(np.abs(mixed).max(initial=0)))
            # what rounding allows the mixture: rtol * floor for each row, times the row's share
            rounding = comparison.rtol * float((np.abs(dout) @ comparison.floors(k))[0])
            near = (np.abs(mixed - expected) <= 1e-7 * size + rounding) & np.isfinite(mixed)  # nan is not near
            wrong = ~(near | (mixed == expected))
            if wrong.any():
                i = int(wrong.argmax())
                raise wrong_mixture(comparison, k, i, mixed.flat[i], expected.flat[i], dout)
