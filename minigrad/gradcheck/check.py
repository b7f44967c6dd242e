"""Is a gradient right? Move each input a little, and check that the outputs move as backward predicts.

    (f(x + h) - f(x - h)) / 2h = f'(x) + O(h²)

`numeric_gradient` is this formula, for each element of x. `gradcheck` does the same for functions with several inputs
and outputs, whose derivatives form a matrix, the Jacobian:

    f(x, y) = (x y, x + y)        J = [y  x]        row 0 is what backward gives for dout = (1, 0)
                                      [1  1]        column 0 is how both outputs change if x is moved

Backward gives its rows (jacobian.py), and differences give its columns (differences.py). If the two differ,
diagnosis.py finds out why, and report.py says it. Stanford's CS231n, "Gradient checks", describes the method.

A kink is a point where the slope jumps. At 0, for example, the slope of relu(x) is 0 on the left and 1 on the right.
There is no derivative at a kink, and backward may return any number between the two slopes.

The step h = 6e-6 is a compromise. The formula's own error is about h², and rounding adds about ε / h, where ε = 2.2e-16
is the precision of float64. At h = ε^(1/3) = 6e-6 the two are equal, and ten digits are right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import switches
from ..backend import Array
from ..precision import autocast
from .comparison import NotFinite
from .diagnosis import Diagnosis, diagnose_writing
from .jacobian import Subject
from .preconditions import check_repeatable, compute_outputs, measure_columns, run_backward
from .report import GradcheckError as GradcheckError
from .report import Report, error_of, passed, wrong_derivative, wrong_mixture


def numeric_gradient(f: Callable[[Array], float], x: Array, h: float = 6e-6) -> Array:
    """df/dx by central differences, where f turns an array of float64 into one number: the formula above as a loop.

    The simplest gradient check compares it with backward:

    >>> from minigrad import Tensor
    >>> x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    >>> (x**3).sum().backward()
    >>> x.grad, numeric_gradient(lambda x: (x**3).sum(), x.data).round(6)
    (array([ 3., 12.]), array([ 3., 12.]))
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
    max(atol, rtol * the larger of the two); the default atol is a little above rounding.

    method: "central", or "complex" for the complex step (Squire & Trapp 1998): f'(x) = Im f(x + ih) / h subtracts
    nothing, so it has no rounding error. If fn cannot compute with complex numbers, or has no complex derivative, as
    |x| has none, "central" takes its place, with a note in the report.

    With up to 200 output and 1000 input elements the whole Jacobian is compared. Larger ones would take too long:
    there, sums of all outputs with random weights are compared instead of the outputs, and all elements of an input are
    moved at once, by random amounts. At a kink (relu at 0, equal maxima) any slope between the left and the right
    one passes, and the report lists the kink. Backward must be linear in dout, so in the end it is run for random douts
    of both signs and of several sizes.

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
    # record gradients and compute in float64, regardless of no_grad and autocast around the call
    with np.errstate(all="ignore"), autocast(enabled=False), switches.enable_grad():
        comparison = compute_outputs(subject, eps, atol, rtol)  # calls fn, and records the graph
        try:
            check_repeatable(comparison, calls=2)  # the same inputs give the same outputs
            run_backward(comparison)  # the Jacobian by rows: backward, once for each output element
            method = measure_columns(comparison, method)  # by columns: fn, with each input element moved
        except NotFinite as problem:
            raise error_of(comparison, Diagnosis("non-finite", str(problem))) from None
        for k in range(len(subject.variables)):
            if comparison.wrong_columns(k):
                check_repeatable(comparison, calls=5)  # otherwise we would diagnose noise
                raise wrong_derivative(comparison, k)
        # All rows are right, but they were asked for with a dout of zeros and a single 1. Is backward right for any
        # dout, of both signs and of any size? One with `dout * dout` or `abs(dout)` where `dout` belongs would have
        # passed: the square of 0 is 0, and that of 1 is 1.
        for k, i, analytic, numeric, dout in comparison.not_linear():
            raise wrong_mixture(comparison, k, i, analytic, numeric, dout)
        if (writing := diagnose_writing(comparison)) is not None:  # into dout, which other ops hold too
            raise error_of(comparison, writing)
        return passed(comparison, method)
