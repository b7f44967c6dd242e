"""The Jacobian of a function, measured twice: by columns from differences, and by rows from backward.

    J[i, j] = d output_i / d input_j

A column of J says how all outputs move if one input element is moved a little. A row is what backward computes:
reverse mode multiplies J from the left by a vector v, which has one number per output element: the cotangent (`dout`,
the incoming gradient). If v is 1 for one output element and 0 elsewhere, vᵀJ is a row of J.

The page has four parts: columns, for which backward is never called; the function, as one from arrays to arrays; rows;
and the comparison, which decides for each difference whether it is rounding, a kink, or a wrong gradient.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Context, Function
from ..backend import Array, array_of, device_of, is_array, to_device, to_numpy
from ..dtypes import is_floating, op_name
from ..inspection.graph import consumers_first
from ..nn.activation_checkpointing import Join  # several outputs as one, whose backward starts with a dout for each
from ..switches import no_grad
from ..tensor import Tensor

Shape = tuple[int, ...]
Index = tuple[int, ...]  # the place of an element

EPSILON = float(np.finfo(np.float64).eps)
STEP = EPSILON ** (1 / 3)  # 6e-6, where the rounding error (EPSILON / step) is about as large as the O(step²) term
COMPLEX_STEP = 1e-30  # there is no subtraction, so the step may be very small

DENSE_INPUT = 1000  # up to this size each input element is moved separately, beyond it all in random directions
DIRECTIONS = 6
DENSE_OUTPUT = 200  # up to this size each output element is checked separately, beyond it random mixtures
MIXTURES = 4
MOST_SPLITS = 400  # directions through kinks are halved at most this often
PRECISE = 1e-8  # with a relative error below this, the differences are precise enough


class NotFinite(Exception):
    """A nan or infinity makes the comparison impossible. The message says where."""


# --- columns: move the input ------------------------------------------------------------------------------------------


class Probe(NamedTuple):
    """How to move a variable: `direction` has its shape. One element is moved alone by a single 1 among zeros."""

    direction: Array
    step: float

    @property
    def places(self) -> Array:
        return np.flatnonzero(self.direction)

    def along(self, gradients: Array) -> Array:
        """The slopes along this direction that R rows of gradients (R, *shape) predict: (R,)."""
        return np.tensordot(gradients, self.direction, self.direction.ndim)


def one_element(x: Array, i: int, eps: float | None) -> Probe:
    """Move element i alone. Larger values get larger steps."""
    direction = np.zeros(x.shape)
    direction.flat[i] = 1
    return Probe(direction, eps or STEP * max(1.0, abs(float(x.flat[i]))))


def probes_of(x: Array, eps: float | None, rng: np.random.Generator) -> list[Probe]:
    """Each element of a small array. For a large one, random directions, which move all elements at once."""
    if x.size <= DENSE_INPUT:
        return [one_element(x, i, eps) for i in range(x.size)]
    sizes = 1 if eps else np.maximum(1, np.abs(x))
    signs, lengths = rng.choice([-1, 1], (DIRECTIONS, *x.shape)), rng.uniform(0.5, 1, (DIRECTIONS, *x.shape))
    return [Probe(direction, eps or STEP) for direction in signs * lengths * sizes]


def halves(x: Array, probe: Probe, eps: float | None) -> list[Probe]:
    """A direction as the sum of two, each of which moves half of the elements."""
    parts = [(half, np.zeros(x.shape)) for half in np.array_split(probe.places, 2)]
    for half, direction in parts:
        direction.flat[half] = probe.direction.flat[half]
    return [one_element(x, half[0], eps) if len(half) == 1 else Probe(d, probe.step) for half, d in parts]


class Slopes(NamedTuple):
    """How fast each output changes along a probe. `noise` is a bound of the rounding error."""

    left: Array  # (f(x) - f(x-h)) / h
    central: Array  # (f(x+h) - f(x-h)) / 2h
    right: Array  # (f(x+h) - f(x)) / h
    noise: Array
    step: float

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.left).all() and np.isfinite(self.right).all())

    @property
    def may_have_kinks(self) -> bool:
        """A first look: whether left and right differ by more than rounding, relative to their size."""
        gap, size = np.abs(self.right - self.left), np.maximum(np.abs(self.left), np.abs(self.right))
        return bool((gap > np.maximum(1e-3 * size, 5 * np.nan_to_num(self.noise))).any())


def slopes(f: Callable[[complex], Array], here: Array, step: float) -> Slopes:
    """The slopes at 0 of f, a function of the distance that an input is moved; here = f(0).

    Where these are not finite, h was too large for the domain of fn (ln x near 0), so smaller ones are tried.
    """

    def difference(a: Array, b: Array) -> Array:
        return np.where(a == b, 0, a - b)  # an output that stays at -inf (a mask) does not change

    for smaller in (1, 1e-1, 1e-2, 1e-3):
        h = step * smaller
        before, after = f(-h), f(h)
        noise = 16 * EPSILON * np.maximum(np.abs(before), np.abs(after)) / h
        left, central, right = difference(here, before), difference(after, before) / 2, difference(after, here)
        result = Slopes(left / h, central / h, right / h, noise, h)
        if result.is_finite:
            break
    return result


def complex_slope(f: Callable[[complex], Array]) -> Array:
    """Im f(ih) / h. Because f(ih) = f(0) + ih f'(0) + O(h²), it is exact up to rounding. Squire & Trapp 1998.

    This is right only if f is analytic; |x|, for example, is not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)  # an imaginary part was discarded
        return np.imag(f(1j * COMPLEX_STEP)) / COMPLEX_STEP


def kinks(wide: Slopes, narrow: Slopes, noise: Array) -> Array:
    """Which outputs have a kink: those whose left and right slopes still differ for a step ten times smaller.

    If f is smooth, the slopes differ by h f'', which is ten times less for the smaller step; rounding makes them differ
    ten times more. A kink a little beside x appears weaker from close by, so a fifth is enough. This uses only f, not
    its gradient.
    """
    gap, narrow_gap = wide.right - wide.left, narrow.right - narrow.left
    ratio = np.divide(narrow_gap, gap, out=np.zeros_like(gap), where=gap != 0)
    return (ratio > 0.2) & (ratio < 2) & (np.abs(narrow_gap) > 5 * np.nan_to_num(noise))


# --- the function -----------------------------------------------------------------------------------------------------


class Variable(NamedTuple):
    """An input that we differentiate with respect to. Its value is a read-only float64 array on the host."""

    position: int  # among the inputs
    name: str
    value: Array
    device: str


class Subject:
    """The function under test, as a function from its `variables` to one flat vector of all floating-point outputs.

    The variables are the inputs that require a gradient, or all floating-point inputs if none does. A tensor that is
    passed twice is one variable.
    """

    def __init__(self, fn: Callable[..., Any], inputs: Any):
        items = [inputs] if isinstance(inputs, Tensor) or is_array(inputs) else list(inputs)
        some_ask = any(isinstance(item, Tensor) and item.requires_grad for item in items)
        self.fn = fn
        self.notes: list[str] = []
        self._arguments: list[Any] = []  # a Variable, or what is passed to fn as it is
        variables: dict[int, Variable] = {}
        for position, (item, name) in enumerate(zip(items, _input_names(fn, len(items)))):
            array = array_of(item)
            is_float = is_array(array) and is_floating(array.dtype)
            if is_float and array.dtype.kind == "c":
                raise TypeError(f"gradcheck: {name} is complex; only real inputs can be checked")
            if is_float and (not some_ask or getattr(item, "requires_grad", False)):
                if id(item) not in variables:
                    value = _frozen(to_numpy(array), np.float64)
                    variables[id(item)] = Variable(position, name, value, device_of(array))
                    if array.dtype != np.float64:
                        self.notes.append(f"{name} is {array.dtype}: it was checked in float64")
                item = variables[id(item)]
            elif is_array(array):
                item = Tensor(_frozen(array, np.float64 if is_float else array.dtype))
            self._arguments.append(item)
        self.variables = list(variables.values())
        if not self.variables:
            raise ValueError(
                "gradcheck: no input is a floating-point tensor or array, so there is nothing to differentiate"
            )

    def call(self, leaves: list[Tensor]) -> list[Tensor]:
        """The floating-point outputs of fn, called with `leaves` as the variables. Raises TypeError if it has none."""
        given: dict[int, Any] = dict(zip(map(id, self.variables), leaves))
        for argument in self._arguments:
            if isinstance(argument, Tensor) and is_floating(argument.dtype):  # as complex as the leaves
                given[id(argument)] = Tensor(argument.data.astype(leaves[0].dtype, copy=False))
        result = self.fn(*(given.get(id(argument), argument) for argument in self._arguments))
        outputs = list(result) if isinstance(result, tuple | list) else [result]
        for output in outputs:
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"gradcheck: fn must return a Tensor or a tuple of Tensors, it returned {type(output).__name__}"
                )
            if output.dtype.kind == "f" and output.dtype != np.float64:
                raise TypeError(
                    f"gradcheck: fn turns float64 into {output.dtype}, too coarse to measure a derivative; look for a "
                    ".to(), .astype() or dtype= in it"
                )
        outputs = [output for output in outputs if is_floating(output.dtype)]
        if not outputs:
            raise TypeError("gradcheck: fn returns no floating-point Tensor, so there is nothing to differentiate")
        return outputs

    def moved(self, k: int, direction: Array | float, distance: complex) -> Array:
        """The flat outputs after variable k has been moved by `distance` along `direction`. Records no graph."""
        arrays = [np.array(v.value, np.result_type(distance, np.float64)) for v in self.variables]
        arrays[k] += distance * direction
        with no_grad():
            leaves = [Tensor(to_device(a, v.device)) for a, v in zip(arrays, self.variables)]
            return flat(self.call(leaves))


def flat(outputs: list[Tensor]) -> Array:
    return np.concatenate([to_numpy(output.data).ravel() for output in outputs])


def _input_names(fn: Callable[..., Any], count: int) -> list[str]:
    """ "input 0 (x)", with the parameter name from the signature of fn, or of forward for `SomeFunction.apply`."""
    names: list[str] = []
    op: Any = getattr(fn, "__self__", None)
    is_op = isinstance(op, type) and issubclass(op, Function)
    with contextlib.suppress(TypeError, ValueError):  # a callable without a signature
        parameters = inspect.signature(op.forward if is_op else fn).parameters.values()
        names = [f" ({p.name})" for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = names[is_op:] + count * [""]  # without ctx
    return [f"input {i}{names[i]}" for i in range(count)]


def _frozen(array: Array, dtype: Any) -> Array:
    """A read-only view of `array` in `dtype`. It shares the caller's memory and strides if the dtype is the same."""
    value = array.astype(dtype, copy=False).view()
    if isinstance(value, np.ndarray):  # CuPy has no read-only arrays
        value.flags.writeable = False
    return value


# --- rows: run backward -----------------------------------------------------------------------------------------------


class Graph:
    """One recorded call of the subject, which backward can walk many times.

    `rows` says what is compared, as (output, element): each element of a small output, and for a large one random
    mixtures of its elements, whose element is None. In `coefficients` there is one number per row.
    """

    def __init__(self, subject: Subject, rng: np.random.Generator):
        self.leaves = [Tensor(to_device(v.value, v.device), requires_grad=True) for v in subject.variables]
        self.outputs = subject.call(self.leaves)
        self.nodes = consumers_first(list({output.grad_fn: None for output in self.outputs if output.grad_fn}))
        targets = [edge[0] for node in self.nodes for edge in node.edges if edge is not None]
        ours = set(map(id, self.leaves))
        self._other_leaves = {id(x): x for x in targets if not isinstance(x, Context) and id(x) not in ours}.values()
        self.rows: list[tuple[int, Index | None]] = []
        self._mixtures: list[Array] = []  # for each output (its rows, its elements)
        for o, output in enumerate(self.outputs):
            is_small, size = output.data.size <= DENSE_OUTPUT, output.data.size
            self._mixtures.append(np.eye(size) if is_small else rng.standard_normal((MIXTURES, size)))
            self.rows += [(o, unravel(output.shape, i) if is_small else None) for i in range(len(self._mixtures[o]))]
        self.output_of_row = np.array([o for o, _ in self.rows], int)

    def of_output(self, output: int) -> Array:
        """Which rows belong to an output."""
        return self.output_of_row == output

    def vjp(self, coefficients: Array) -> list[Array]:
        """vᵀJ, one array per variable, for the cotangents v = Σ_r coefficients[r] row_r; zeros if no gradient arrived.

        Other tensors that fn uses keep their `.grad`.
        """
        douts = []
        for o, (output, mixture) in enumerate(zip(self.outputs, self._mixtures)):
            dout = coefficients[self.of_output(o)] @ mixture
            douts.append(to_device(dout.reshape(output.shape), output.device))
        root = Join.apply(*self.outputs, douts=tuple(douts))  # whose backward gives each output its cotangent
        kept = [(other, other.grad) for other in self._other_leaves]
        try:
            for leaf in [*self.leaves, *self._other_leaves]:
                leaf.grad = None
            if root.requires_grad:
                root.backward(retain_graph=True)
        finally:
            for other, gradient in kept:
                other.grad = gradient
        return [np.zeros(x.shape) if x.grad is None else to_numpy(x.grad).copy() for x in self.leaves]

    @contextlib.contextmanager
    def with_backward(self, function: Any, backward: Callable[..., Any]) -> Iterator[None]:
        """In the block, the nodes of the op `function` run another backward."""
        nodes = [node for node in self.nodes if node.function is function]
        changed = type(function.__name__, (function,), {"backward": staticmethod(backward)})
        try:
            for node in nodes:
                node.function = changed
            yield
        finally:
            for node in nodes:
                node.function = function

    def project(self, vector: Array) -> Array:
        """A flat vector of all outputs -> one number per row."""
        return np.concatenate([mixture @ part for mixture, part in self._parts(vector)])

    def largest_change(self, vector: Array) -> Array:
        """The largest change of each row's number if each output changes by up to `vector` in either direction."""
        vector = np.nan_to_num(vector, posinf=0)
        return np.concatenate([np.abs(mixture) @ part for mixture, part in self._parts(vector)])

    def _parts(self, vector: Array) -> Iterator[tuple[Array, Array]]:
        ends = np.cumsum([mixture.shape[1] for mixture in self._mixtures])
        return zip(self._mixtures, np.split(vector, ends[:-1]))


def unravel(shape: Shape, flat_index: int) -> Index:
    return tuple(int(i) for i in np.unravel_index(flat_index, shape)) if math.prod(shape) else ()


# --- compare ----------------------------------------------------------------------------------------------------------


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


@dataclass
class Column:
    """The slopes of all R rows along one probe, from backward and from differences."""

    probe: Probe
    analytic: Array
    numeric: Array
    floor: Array  # the smallest size for relative errors, so that rounding does not count as a large error
    smooth: Array  # False at a kink, where `numeric` is the allowed slope that is nearest to `analytic`

    @property
    def differences(self) -> Array:
        return np.abs(self.analytic - self.numeric)

    @property
    def errors(self) -> Array:
        return relative_errors(self.analytic, self.numeric, self.floor)


def relative_errors(a: Array, b: Array, floor: Array) -> Array:
    size = np.maximum(np.maximum(np.abs(a), np.abs(b)), floor)
    return np.abs(a - b) / np.where(size > 0, size, 1)


class Comparison:
    """Both Jacobians of one function at one point.

    `analytic[k]` is (R, *shape of variable k), from R calls of backward; `columns[k]` has one Column per probe.
    """

    def __init__(self, subject: Subject, eps: float | None, atol: float | None, rtol: float):
        self.subject, self.eps, self.atol, self.rtol = subject, eps, atol, rtol
        self.rng = np.random.default_rng(0)  # its own, so that a check does not disturb other random numbers
        self.graph = Graph(subject, self.rng)
        self.outputs = flat(self.graph.outputs)
        self.probes = [probes_of(variable.value, eps, self.rng) for variable in subject.variables]
        self.columns: list[list[Column]] = []
        self.kinks: dict[tuple[int, int], Kink] = {}
        self.given_up = 0  # directions that were not checked because of their many kinks
        self._splits = 0

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
        name, value = self.subject.variables[k].name, self.subject.variables[k].value
        element = unravel(value.shape, i)
        return f"{name}{in_brackets(element)} = {float(value[element]):.6g}"

    # --- the two sides ---

    def backward(self) -> None:
        """Run backward for every row."""
        rows = [self.graph.vjp(row) for row in np.eye(len(self.graph.rows))]
        self.analytic = [
            np.array([gradients[k] for gradients in rows]).reshape(len(rows), *variable.value.shape)
            for k, variable in enumerate(self.subject.variables)
        ]
        # by variable and row: the largest gradient of the row's output
        outputs = [self.graph.of_output(o) for o in range(len(self.graph.outputs))]
        largest = [[np.abs(gradients[mine]).max(initial=0) for mine in outputs] for gradients in self.analytic]
        self.largest = np.array(largest)[:, self.graph.output_of_row]

    def central(self) -> None:
        """Measure every probe by central differences."""
        self.columns = [
            [settled for probe in probes for settled in self._settled(k, probe)] for k, probes in enumerate(self.probes)
        ]

    def complex_step(self) -> str | None:
        """Measure every probe by a complex step. Returns why that was not possible, or None if it was."""
        rounding = 8 * EPSILON * np.abs(self.outputs)  # slopes that cancel, as in x / x, leave rounding errors
        try:
            self.columns = [
                [self._column(k, probe, complex_slope(self._along(k, probe)), rounding) for probe in probes]
                for k, probes in enumerate(self.probes)
            ]
        except (TypeError, ValueError, np.exceptions.ComplexWarning) as error:
            return f"no complex step, as fn does not take complex numbers ({error})"
        return "the complex step disagrees, as an op of fn is not analytic" if self.is_wrong else None

    def _along(self, k: int, probe: Probe) -> Callable[[complex], Array]:
        return functools.partial(self.subject.moved, k, probe.direction)

    def _column(self, k: int, probe: Probe, slope: Array, noise: Array) -> Column:
        """The slopes of all rows along a probe, from those of all outputs and a bound of their rounding errors."""
        analytic, numeric = probe.along(self.analytic[k]), self.graph.project(slope)
        return Column(probe, analytic, numeric, self._floor(k, noise), np.ones(len(numeric), bool))

    def _floor(self, k: int, noise: Array) -> Array:
        if self.atol is not None:
            return np.full(len(self.graph.rows), self.atol / self.rtol)
        return np.maximum(1e-8 * self.largest[k], self.graph.largest_change(noise)) / self.rtol

    def measure(self, k: int, probe: Probe) -> tuple[Column, Slopes]:
        """One column by central differences. Raises NotFinite at the edge of the domain of fn."""
        measured = self._slopes(k, probe)
        return self._column(k, probe, measured.central, measured.noise), measured

    def _slopes(self, k: int, probe: Probe, factor: float = 1) -> Slopes:
        measured = slopes(self._along(k, probe), self.outputs, factor * probe.step)
        if not measured.is_finite and factor <= 1:
            places, name = probe.places, self.subject.variables[k].name
            x = self.describe(k, int(places[0])) if len(places) == 1 else name
            raise NotFinite(f"fn is not finite right beside {x}, at the edge of its domain; choose inputs inside it")
        return measured

    # --- a closer look ---

    def _settled(self, k: int, probe: Probe) -> list[Column]:
        """Measure a probe, and look closer if the result is not precise, or may come from a kink.

        Kinks are found from f alone (`kinks`), and a kink allows only slopes between the left and the right one, so it
        never excuses a gradient that is wrong for another reason. A direction through a kink is halved until only the
        element with the kink is left.
        """
        column, wide = self.measure(k, probe)
        if not wide.may_have_kinks and (column.errors <= PRECISE).all():
            return [column]
        large, half, narrow, tiny, tiniest = (self._slopes(k, probe, f) for f in (300, 150, 1e-1, 1e-2, 1e-3))
        rounding = self._rounding_inside(k, half, wide, tiny)
        at = kinks(wide, narrow, np.maximum(narrow.noise, rounding / narrow.step))
        if at.any() and len(probe.places) > 1:
            self._splits += 1
            if self._splits > MOST_SPLITS:
                self.given_up += 1
                return []
            parts = halves(self.subject.variables[k].value, probe, self.eps)
            return [settled for part in parts for settled in self._settled(k, part)]

        # Of several estimates, take the one that is nearest to the gradient, because fn decides which is the best. A
        # wrong gradient is not near any of them. Small steps avoid a kink or an edge beside x. A slope that shrinks
        # with the step is 0, as that of max(x, 0)² at 0, whose second derivative jumps.
        shrinks = np.abs(tiny.central) < 0.2 * np.abs(narrow.central)
        estimates = [tiny.central, tiniest.central, np.where(shrinks, 0, tiny.central)]
        if large.is_finite and half.is_finite:  # the most precise if f is smooth: without the error in step²
            ratio = (large.step / half.step) ** 2  # Richardson 1911
            estimates.append(half.central + (half.central - large.central) / (ratio - 1))
        for numeric in map(self.graph.project, estimates):
            nearer = np.abs(column.analytic - numeric) < column.differences
            column.numeric = np.where(nearer, numeric, column.numeric)

        if (fails := column.errors > self.rtol).any():
            floor = self._floor(k, np.maximum(wide.noise, rounding / wide.step))
            column.floor = np.where(fails, floor, column.floor)
        if at.any():
            self._allow_kinks(k, column, at, tiny)
        return [column]

    def _rounding_inside(self, k: int, large: Slopes, wide: Slopes, tiny: Slopes) -> Array:
        """A bound of each output's rounding error, where values inside fn are larger than the output.

        Where terms cancel inside fn, as in x - mean(x), rounding makes the slope of a tiny step differ from that of a
        wide one. The difference, times the step, shows how large the error is.

        A saturated output does not show it. ln(1 + e^-x) is 0 at x = 40 and around it, because 1 + e^-40 is 1 in
        float64; near x = 33 it is constant over many small steps, and then jumps. So an output whose slope is 0, or
        changes by half for a large step, counts as saturated. Its bound is EPSILON times the size of the values inside
        fn. These we cannot see; the inputs and outputs stand for them.

        e^-x at x = 40 is as small, but its slope is the same for both steps: it is not saturated, and a wrong gradient
        of it is found.
        """
        scale = max(float(np.abs(x).max(initial=0)) for x in (self.subject.variables[k].value, self.outputs))
        rounds = np.abs(tiny.central) * tiny.step <= 1e-12 * scale  # a jump grows like noise, but is larger
        rounding = np.where(rounds, np.abs(tiny.central - wide.central) * tiny.step, 0)
        saturated = np.abs(large.central - wide.central) >= np.abs(wide.central) / 2
        return 16 * np.where(saturated, np.maximum(rounding, EPSILON * max(1, scale)), rounding)

    def _allow_kinks(self, k: int, column: Column, at: Array, tiny: Slopes) -> None:
        """Accept any slope between the left and the right one for outputs that have a kink."""
        variable, i = self.subject.variables[k], int(column.probe.places[0])
        left, right = float(tiny.left[at][0]), float(tiny.right[at][0])
        self.kinks[k, i] = Kink(variable.name, unravel(variable.value.shape, i), left, right)
        middle = self.graph.project(tiny.central)
        either_way = self.graph.largest_change(np.where(at, np.abs(tiny.right - tiny.left) / 2, 0))
        column.smooth = either_way == 0
        allowed = np.clip(column.analytic, middle - either_way, middle + either_way)
        column.numeric = np.where(column.smooth, column.numeric, allowed)

    # --- the verdict ---

    def wrong_columns(self, k: int) -> list[Column]:
        return [column for column in self.columns[k] if not (column.errors <= self.rtol).all()]  # nan is wrong

    @property
    def is_wrong(self) -> bool:
        return any(map(self.wrong_columns, range(len(self.columns))))

    def worst_element(self, k: int) -> Column:
        """The column of the element of variable k with the largest error. A direction is halved until it is found."""

        def largest(column: Column) -> float:
            return float(column.differences.max())

        column = max(self.wrong_columns(k), key=largest)
        while len(column.probe.places) > 1:
            parts = halves(self.subject.variables[k].value, column.probe, self.eps)
            column = max([self.measure(k, part)[0] for part in parts], key=largest)
        return column

    # --- for the diagnosis ---

    def is_uncertain(self, k: int) -> bool:
        """Whether the slopes of two step sizes differ by a tenth of the largest error of variable k, or by more."""
        column = self.worst_element(k)
        wide, narrow = (self.graph.project(self._slopes(k, column.probe, factor).central) for factor in (1, 0.1))
        return bool(np.abs(wide - narrow).max() > 0.1 * column.differences.max())

    def is_dense(self, k: int) -> bool:
        """Whether each element of variable k was moved separately."""
        return len(self.columns[k]) == self.subject.variables[k].value.size

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
