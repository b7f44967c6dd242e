"""Is a difference between two Jacobians a mistake in backward?

    J[i, j] = d output_i / d input_j

Each column of J says how all outputs move if one input element is moved; differences measure it without backward
(differences.py). Each row is what backward gives for one output element (vjp.py). For small functions this is all:

    >>> def f(x):
    ...     return np.array([x[0] * x[1], x[0] + x[1]])
    >>> x, h = np.array([2.0, 5.0]), 6e-6
    >>> columns = [(f(x + step) - f(x - step)) / (2 * h) for step in h * np.eye(2)]
    >>> rows = np.array([[5.0, 3.0],  # from a backward with a mistake: d (x0 x1) / dx1 is 2, not 3
    ...                  [1.0, 1.0]])
    >>> relative_errors(rows, np.stack(columns, axis=1), floor=1e-3) > 1e-5
    array([[False,  True],
           [False, False]])

`Comparison` does this for any function. It looks closer where a difference need not be a mistake: at a kink, and where
rounding disturbs the measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from ..backend import Array
from ..dtypes import op_name
from .differences import (
    EPSILON,
    Probe,
    Slopes,
    cancellation,
    complex_slope,
    halves,
    kinks,
    may_have_kinks,
    probes_of,
    richardson,
    saturation,
    slopes_inside,
    vanishing,
)
from .vjp import Graph, Index, Subject, flat, unravel

MOST_SPLITS = 400  # at most this many directions through kinks are halved
PRECISE = 1e-8  # with a relative error below this, the differences are precise enough


def relative_errors(a: Array, b: Array, floor: Array | float) -> Array:
    """|a - b| relative to the larger of the two. If it exceeds rtol (1e-5), the gradient is wrong.

    Where both are smaller than `floor`, the error is relative to `floor`: 1e-12 beside 0 is rounding, not a mistake.

    >>> relative_errors(np.array([3.0, 3.3, 1e-12]), np.array([3.0, 3.0, 0.0]), floor=1e-3).round(6)
    array([0.      , 0.090909, 0.      ])
    """
    size = np.maximum(np.maximum(np.abs(a), np.abs(b)), floor)
    return np.abs(a - b) / np.where(size > 0, size, 1)


@dataclass
class Column:
    """The slopes of all R rows along one probe, from backward and from differences."""

    probe: Probe
    analytic: Array  # (R,), from backward
    numeric: Array  # (R,), from differences
    floor: Array  # (R,), above rounding: see `relative_errors`
    smooth: Array  # (R,), False at a kink, where `numeric` is the allowed slope that is nearest to `analytic`

    @property
    def differences(self) -> Array:
        return np.abs(self.analytic - self.numeric)

    @property
    def errors(self) -> Array:
        return relative_errors(self.analytic, self.numeric, self.floor)


class Kink(NamedTuple):
    """A place where left and right slopes differ, so backward may return anything between them."""

    input: str
    element: Index
    left: float
    right: float

    def __str__(self) -> str:
        where = f"{self.input}{in_brackets(self.element)}"
        return f"kink at {where}: slope {self.left:.4g} on the left, {self.right:.4g} on the right"


def in_brackets(element: Index) -> str:
    return f"[{', '.join(map(str, element))}]" if element else ""


class NotFinite(Exception):
    """A nan or infinity makes the comparison impossible. The message says where."""


class Comparison:
    """Both Jacobians of one function at one point.

    A probe (differences.py) is a direction in which one variable is moved: one element of it or, for a large variable,
    a random mixture of several, its `places`. `probe.along(gradients)` is the slope in that direction.

    The R rows are the output elements or, for a large output, random mixtures of them. `graph.cotangents` (R, outputs)
    holds the weights of each row: the identity for a small fn (see Graph in vjp.py).

    `analytic[k]` is (R, *shape of variable k), from R calls of backward; `columns[k]` has one Column per probe.
    """

    def __init__(self, subject: Subject, eps: float | None, atol: float | None, rtol: float):
        self.subject, self.eps, self.atol, self.rtol = subject, eps, atol, rtol
        self.rng = np.random.default_rng(0)  # its own, so that a check does not disturb other random numbers
        self.variables = subject.variables
        self.graph = Graph(subject, self.rng)
        self.outputs = flat(self.graph.outputs)
        self.probes = [probes_of(variable.value, eps, self.rng) for variable in self.variables]
        self.columns: list[list[Column]] = []
        self.kinks: dict[tuple[int, int], Kink] = {}
        self.splits = 0  # how many directions through kinks were found; those after MOST_SPLITS stay unchecked

    # --- the two sides ---

    def backward(self) -> None:
        """Run backward for every row."""
        R = len(self.graph.rows)
        self.analytic = [np.zeros((R, *variable.value.shape)) for variable in self.variables]
        for row, coefficients in enumerate(np.eye(R)):  # 1 for this row, else 0: vjp gives one row of the Jacobian
            for gradients, gradient in zip(self.analytic, self.graph.vjp(coefficients)):
                gradients[row] = gradient

        # By variable and row: the largest gradient of the row's output.
        self.largest = np.zeros((len(self.analytic), R))
        for o in range(len(self.graph.outputs)):
            mine = self.graph.of_output(o)
            for k, gradients in enumerate(self.analytic):
                self.largest[k, mine] = np.abs(gradients[mine]).max(initial=0)

    def central(self) -> None:
        """Measure every probe by central differences."""
        self.columns = [
            [settled for probe in probes for settled in self._settled(k, probe)] for k, probes in enumerate(self.probes)
        ]

    def complex_step(self) -> str | None:
        """Measure every probe by a complex step. Returns why its result does not count, or None if it does."""
        rounding = 8 * EPSILON * np.abs(self.outputs)  # slopes that cancel, as in x / x, leave rounding errors
        try:
            for k, probes in enumerate(self.probes):
                self.columns.append([])  # if the result does not count, `central` fills columns anew
                for probe in probes:
                    slope = complex_slope(partial(self.subject.moved, k, probe.direction))
                    self.columns[k].append(self._column(k, probe, slope, rounding))
        except (TypeError, ValueError, np.exceptions.ComplexWarning) as error:
            return f"no complex step, as fn does not take complex numbers ({error})"
        return "the complex step disagrees, as an op of fn is not analytic" if self.is_wrong else None

    def measure(self, k: int, probe: Probe, factor: float = 1) -> Column:
        """One column by central differences, with a step that is `factor` times the usual one."""
        measured = self._slopes(k, probe, factor)
        return self._column(k, probe, measured.central, measured.noise)

    def _slopes(self, k: int, probe: Probe, factor: float) -> Slopes:
        """The slopes of all outputs along a probe. Raises NotFinite at the edge of the domain of fn."""
        f = partial(self.subject.moved, k, probe.direction)
        measured = slopes_inside(f, self.outputs, factor * probe.step)
        if not measured.is_finite and factor <= 1:  # a larger step may leave the domain
            places, name = probe.places, self.variables[k].name
            x = self.describe(k, int(places[0])) if len(places) == 1 else name
            raise NotFinite(f"fn is not finite right beside {x}, at the edge of its domain; choose inputs inside it")
        return measured

    def _column(self, k: int, probe: Probe, slope: Array, noise: Array) -> Column:
        """The slopes of all rows along a probe. slope, noise: of each output, and a bound of its rounding error."""
        numeric = self.graph.cotangents @ slope  # (R, outputs) @ (outputs) -> (R)
        return Column(probe, probe.along(self.analytic[k]), numeric, self._floor(k, noise), np.ones(len(numeric), bool))

    def _floor(self, k: int, noise: Array) -> Array:
        """The floor of each row: atol / rtol. A slope below the floor may be wrong by atol.

        With atol 1e-8 and rtol 1e-5 the floor is 1e-3, so slopes below 1e-3 may be wrong by 1e-8. By default, atol is a
        little above rounding.
        """
        atol = np.maximum(1e-8 * self.largest[k], self._largest_change(noise)) if self.atol is None else self.atol
        return np.broadcast_to(atol / self.rtol, len(self.graph.rows))

    def _largest_change(self, vector: Array) -> Array:
        """How far each row's number can move if each output moves by up to `vector`, up or down."""
        return np.abs(self.graph.cotangents) @ np.nan_to_num(vector, posinf=0)

    # --- the verdict ---

    def wrong_columns(self, k: int) -> list[Column]:
        """The columns of variable k with a relative error above rtol."""
        return [column for column in self.columns[k] if not (column.errors <= self.rtol).all()]  # nan is wrong

    @property
    def is_wrong(self) -> bool:
        return any(map(self.wrong_columns, range(len(self.columns))))

    def worst_element(self, k: int) -> Column:
        """The column of the element of variable k with the largest error. A direction is halved down to one element."""
        columns = self.wrong_columns(k)
        while True:
            worst = max(columns, key=lambda column: float(column.differences.max()))
            if len(worst.probe.places) == 1:
                return worst
            parts = halves(self.variables[k].value, worst.probe, self.eps)
            columns = [self.measure(k, part) for part in parts]

    # --- a closer look ---

    def _settled(self, k: int, probe: Probe) -> list[Column]:
        """Measure a probe, and look closer if the result is not precise, or may come from a kink.

        *Kinks* are found from fn alone, without its gradient (`kinks`). A direction through a kink is halved until only
        the element with the kink is left. There, any slope between the left and the right one is right, and no other.

        *The estimate nearest to the gradient* counts. Each estimate is a valid measurement for some fn:

            a small step    fn has a kink or an edge of its domain beside x
            `vanishing`     the slope of fn shrinks to 0 at x
            `richardson`    fn is smooth

        A wrong gradient is far from all of them.
        """
        usual = self._slopes(k, probe, 1)
        column = self._column(k, probe, usual.central, usual.noise)
        if not may_have_kinks(usual) and (column.errors <= PRECISE).all():
            return [column]

        # Four things follow: measure more, find kinks, choose an estimate of each slope, forgive what may be rounding.
        #
        # The steps of the new measurements, as multiples of the usual step:
        #   300    with 150: the most precise slope of a smooth fn (`richardson`)
        #   150    is fn saturated? (`saturation`)
        #   0.1    does it have a kink? (`kinks`)
        #   0.01   how large is the rounding error? (`cancellation`)
        #          with 0.1: does the slope shrink to 0? (`vanishing`)
        #   0.001  like 0.01, avoids a kink or an edge beside x
        large = self._slopes(k, probe, 150)
        narrow = self._slopes(k, probe, 0.1)
        tiny = self._slopes(k, probe, 0.01)

        # How much is rounding? It grows with the values inside fn. `scale`, the largest that we see, stands for them.
        scale = max(float(np.abs(x).max(initial=0)) for x in (self.variables[k].value, self.outputs))
        rounding = np.maximum(cancellation(usual, tiny, scale), saturation(usual, large, scale))

        # Which outputs have a kink?
        kinked = kinks(usual, narrow, np.maximum(narrow.noise, rounding / narrow.step))
        if kinked.any() and len(probe.places) > 1:
            self.splits += 1
            if self.splits > MOST_SPLITS:
                return []  # too many: this direction is left unchecked
            parts = halves(self.variables[k].value, probe, self.eps)
            return [settled for part in parts for settled in self._settled(k, part)]

        # For each row, take the estimate that is nearest to the gradient.
        estimates = [tiny.central, self._slopes(k, probe, 0.001).central, vanishing(narrow, tiny)]
        larger = self._slopes(k, probe, 300)
        if larger.is_finite and large.is_finite:
            estimates.append(richardson(larger, large))
        for estimate in estimates:
            numeric = self.graph.cotangents @ estimate
            nearer = np.abs(column.analytic - numeric) < column.differences
            column.numeric = np.where(nearer, numeric, column.numeric)

        # What still looks wrong may be rounding: raise the floor there.
        fails = column.errors > self.rtol
        if fails.any():
            floor = self._floor(k, np.maximum(usual.noise, rounding / usual.step))
            column.floor = np.where(fails, floor, column.floor)
        if kinked.any():
            self._allow_kinks(k, column, kinked, tiny)
        return [column]

    def _allow_kinks(self, k: int, column: Column, kinked: Array, tiny: Slopes) -> None:
        """Accept any slope between the left and the right one for outputs that have a kink."""
        variable = self.variables[k]
        i = int(column.probe.places[0])
        left, right = float(tiny.left[kinked][0]), float(tiny.right[kinked][0])
        self.kinks[k, i] = Kink(variable.name, unravel(variable.value.shape, i), left, right)
        # The allowed slopes of each row are middle - either_way to middle + either_way.
        # For a row without a kink, either_way is 0.
        middle = self.graph.cotangents @ tiny.central
        either_way = self._largest_change(np.where(kinked, np.abs(tiny.right - tiny.left) / 2, 0))
        column.smooth = either_way == 0
        allowed = np.clip(column.analytic, middle - either_way, middle + either_way)
        column.numeric = np.where(column.smooth, column.numeric, allowed)

    # --- for the diagnosis and the report ---

    @property
    def name(self) -> str:
        """The name of the function, or of the op that computed its output if the function has no name."""
        name = getattr(self.subject.fn, "__name__", "<lambda>")
        node = self.graph.outputs[0].grad_fn
        if name not in ("<lambda>", "apply"):
            return name
        return "fn" if node is None else op_name(node.function)

    def describe(self, k: int, i: int) -> str:
        """ "input 0 (x)[1, 2] = 0.5" """
        name, value = self.variables[k].name, self.variables[k].value
        element = unravel(value.shape, i)
        return f"{name}{in_brackets(element)} = {float(value[element]):.6g}"

    def is_uncertain(self, k: int) -> bool:
        """Whether another step changes the slope of the worst element by more than a tenth of its error."""
        column = self.worst_element(k)
        usual, narrow = (self.measure(k, column.probe, factor).numeric for factor in (1, 0.1))
        return bool(np.abs(usual - narrow).max() > 0.1 * column.differences.max())

    def is_dense(self, k: int) -> bool:
        """Whether each element of variable k was moved separately."""
        return len(self.columns[k]) == self.variables[k].value.size

    def numeric(self, k: int) -> Array:
        """(R, number of probes)."""
        return self._side(k, "numeric")

    def smooth(self, k: int) -> Array:
        return self._side(k, "smooth").astype(bool)

    def floors(self, k: int) -> Array:
        """The largest floor of each row: (R, 1)."""
        return self._side(k, "floor").max(axis=1, initial=0, keepdims=True)

    def _side(self, k: int, side: str) -> Array:
        columns = [getattr(column, side) for column in self.columns[k]]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self.graph.rows), 0))

    def predicted(self, k: int, gradients: Array) -> Array:
        """The slopes (R, number of probes) that gradients (R, *shape) of variable k predict."""
        return np.stack([column.probe.along(gradients) for column in self.columns[k]], axis=1)
