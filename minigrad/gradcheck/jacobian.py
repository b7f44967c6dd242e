"""The Jacobian J[i, j] = d output_i / d input_j of a function, computed in two ways that share no code.

By rows, with backward. Reverse mode does not build J. It multiplies J from the left by a vector v, which has one number
per output element. v is called the cotangent (`dout`, the incoming gradient), and vᵀJ the vector-Jacobian product or
vjp. If v is 1 for one output element and 0 elsewhere, vᵀJ is a row of J (`Graph`, `Rows`).

By columns, with differences. Move one element of an input, and measure how all outputs move (`slopes`).

comparison.py compares the two.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Context, Function
from ..backend import Array, device_of, is_array, module_of, to_device, to_numpy
from ..dtypes import is_floating, op_name
from ..inspection.graph import consumers_first
from ..switches import no_grad
from ..tensor import Tensor

EPSILON = float(np.finfo(np.float64).eps)
STEP = EPSILON ** (1 / 3)  # 6e-6, where the rounding error (EPSILON / step) is about as large as the O(step²) term
COMPLEX_STEP = 1e-30  # there is no subtraction, so the step may be very small
DENSE_OUTPUT = 200  # up to this size each output element is checked separately, beyond it random mixtures
MIXTURES = 4
DENSE_INPUT = 1000  # up to this size each input element is moved separately, beyond it all in random directions
DIRECTIONS = 6


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
        self.variables: list[Variable] = []
        self.notes: list[str] = []
        self._arguments: list[tuple[str, Any]] = []  # ("variable", its number) or ("constant", the argument itself)
        numbers: dict[int, int] = {}
        for index, (item, name) in enumerate(zip(items, _input_names(fn, len(items)), strict=True)):
            array = item.data if isinstance(item, Tensor) else item
            if not (is_array(array) and is_floating(array.dtype)):
                self._arguments.append(("constant", Tensor(_frozen(array)) if is_array(array) else item))
                continue
            if array.dtype.kind == "c":
                raise TypeError(f"gradcheck: {name} is complex; only real inputs can be checked")
            if some_ask and not getattr(item, "requires_grad", False):
                self._arguments.append(("constant", Tensor(_frozen(array, np.float64))))
                continue
            if id(item) not in numbers:
                numbers[id(item)] = len(self.variables)
                self.variables.append(Variable(index, name, _frozen(to_numpy(array), np.float64), device_of(array)))
                if array.dtype != np.float64:
                    self.notes.append(f"{name} is {array.dtype}: it was checked in float64")
            self._arguments.append(("variable", numbers[id(item)]))
        if not self.variables:
            raise ValueError(
                "gradcheck: no input is a floating-point tensor or array, so there is nothing to differentiate"
            )
        self.base = np.zeros(0)  # the flat outputs of the recorded call, with no variable moved

    def call(self, leaves: list[Tensor]) -> list[Tensor]:
        """The floating-point outputs of fn, called with `leaves` as the variables. Raises TypeError if it has none."""
        dtype = leaves[0].dtype
        arguments = []
        for kind, what in self._arguments:
            if kind == "constant" and isinstance(what, Tensor) and is_floating(what.dtype):
                what = Tensor(what.data.astype(dtype, copy=False))
            arguments.append(leaves[what] if kind == "variable" else what)
        result = self.fn(*arguments)
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

    def values(self, arrays: list[Array]) -> Array:
        """The flat outputs at `arrays`, one per variable, without recording a graph."""
        with no_grad():
            leaves = [Tensor(to_device(a, v.device)) for a, v in zip(arrays, self.variables, strict=True)]
            return flat(self.call(leaves))

    def again(self) -> Array:
        """The flat outputs of another call, with no variable moved."""
        return self.values([np.array(variable.value) for variable in self.variables])

    def moved(self, number: int, probe: Probe, distance: complex) -> Array:
        """The flat outputs after one variable has been moved by `distance` along `probe`."""
        dtype = np.complex128 if isinstance(distance, complex) else np.float64
        arrays = [np.array(variable.value, dtype) for variable in self.variables]
        moved = arrays[number].flatten()
        moved[probe.places] += distance * probe.weights
        arrays[number] = moved.reshape(arrays[number].shape)
        return self.values(arrays)


def flat(outputs: list[Tensor]) -> Array:
    return np.concatenate([to_numpy(output.data).ravel() for output in outputs])


def _input_names(fn: Callable[..., Any], count: int) -> list[str]:
    """ "input 0 (x)", with the parameter name from the signature of fn, or of forward for `SomeFunction.apply`."""
    names: list[str] = []
    function: Any = getattr(fn, "__self__", None)
    is_op = isinstance(function, type) and issubclass(function, Function)
    try:
        for parameter in inspect.signature(function.forward if is_op else fn).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                break
            names.append(f" ({parameter.name})")
        names = names[is_op:]  # without ctx
    except (TypeError, ValueError):  # a callable without a signature
        pass
    return [f"input {i}{names[i] if i < len(names) else ''}" for i in range(count)]


def _frozen(array: Array, dtype: Any = None) -> Array:
    """A read-only view of `array` in `dtype`. It shares the caller's memory and strides if the dtype is the same."""
    value = array.astype(dtype or array.dtype, copy=False).view()
    if isinstance(value, np.ndarray):  # CuPy has no read-only arrays
        value.flags.writeable = False
    return value


# --- rows: backward ---------------------------------------------------------------------------------------------------


class _Seed(Function):
    """Σ_o out_o · v_o. Its backward gives each output o its cotangent v_o, so one walk serves all outputs."""

    @staticmethod
    def forward(ctx: Any, *outputs: Any, cotangents: Any) -> Any:
        ctx.cotangents = cotangents
        return module_of(outputs[0]).zeros(())

    @staticmethod
    def backward(ctx: Any, *douts: Any) -> Any:
        return tuple(to_device(v.copy(), device_of(douts[0])) for v in ctx.cotangents)


class Graph:
    """One recorded call of the subject, which backward can walk many times."""

    def __init__(self, subject: Subject):
        self.leaves = [Tensor(to_device(v.value, v.device), requires_grad=True) for v in subject.variables]
        self.outputs = subject.call(self.leaves)
        self.nodes = consumers_first(list({output.grad_fn: None for output in self.outputs if output.grad_fn}))
        targets = [edge[0] for node in self.nodes for edge in node.edges if edge is not None]
        ours = {id(leaf) for leaf in self.leaves}
        self._strangers = {id(x): x for x in targets if not isinstance(x, Context) and id(x) not in ours}

    @property
    def name(self) -> str:
        """The op that computed the first output."""
        node = self.outputs[0].grad_fn
        return op_name(node.function) if node is not None else "fn"

    def root(self, cotangents: list[Array]) -> Tensor:
        return _Seed.apply(*self.outputs, cotangents=cotangents)

    def vjp(self, cotangents: list[Array]) -> list[Array | None]:
        """vᵀJ for the cotangents v: one array per variable, or None if no gradient arrived.

        Other tensors that fn uses keep their `.grad`.
        """
        kept = [(stranger, stranger.grad) for stranger in self._strangers.values()]
        try:
            for tensor in [*self.leaves, *self._strangers.values()]:
                tensor.grad = None
            root = self.root(cotangents)
            if root.requires_grad:
                root.backward(retain_graph=True)
            return [None if leaf.grad is None else to_numpy(leaf.grad).copy() for leaf in self.leaves]
        finally:
            for stranger, gradient in kept:
                stranger.grad = gradient

    def dense_vjp(self, cotangents: list[Array]) -> list[Array]:
        """Like `vjp`, with zeros if no gradient arrived."""
        pairs = zip(self.vjp(cotangents), self.leaves, strict=True)
        return [np.zeros(leaf.shape) if gradient is None else gradient for gradient, leaf in pairs]


class Rows:
    """The rows of J that are compared: one per element of a small output, random mixtures for a large output."""

    def __init__(self, outputs: list[Tensor], rng: np.random.Generator):
        self.shapes = [output.shape for output in outputs]
        sizes = [output.data.size for output in outputs]
        self.dense = [size <= DENSE_OUTPUT for size in sizes]
        self.matrices = [np.eye(n) if n <= DENSE_OUTPUT else rng.standard_normal((MIXTURES, n)) for n in sizes]
        counts = [len(matrix) for matrix in self.matrices]
        self.spans = [slice(sum(counts[:o]), sum(counts[: o + 1])) for o in range(len(counts))]
        self.cuts = np.cumsum(sizes)[:-1]

    def __len__(self) -> int:
        return self.spans[-1].stop

    def owner(self, row: int) -> int:
        """The number of the output that a row belongs to."""
        return next(o for o, span in enumerate(self.spans) if row < span.stop)

    def element(self, row: int) -> tuple[int, ...] | None:
        """The output element of a row, or None for a random mixture."""
        o = self.owner(row)
        return place(self.shapes[o], row - self.spans[o].start) if self.dense[o] else None

    def cotangents(self, coefficients: Array) -> list[Array]:
        """Σ_r coefficients[r] row_r, one array per output."""
        parts = [coefficients[span] @ matrix for span, matrix in zip(self.spans, self.matrices, strict=True)]
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def cotangents_of(self, row: int) -> list[Array]:
        return self.cotangents(np.eye(1, len(self), row)[0])

    def project(self, vector: Array) -> Array:
        """A flat vector of all outputs -> one number per row."""
        parts = np.split(vector, self.cuts)
        return np.concatenate([matrix @ part for matrix, part in zip(self.matrices, parts, strict=True)])

    def reach(self, vector: Array) -> Array:
        """The largest change of each row's number if each output changes by up to `vector` in either direction."""
        parts = np.split(np.nan_to_num(vector, posinf=0), self.cuts)
        return np.concatenate([np.abs(matrix) @ part for matrix, part in zip(self.matrices, parts, strict=True)])


# --- columns: differences ---------------------------------------------------------------------------------------------


class Probe(NamedTuple):
    """A direction in which to move a variable: `weights` at flat `places`. One place with weight 1 is one element."""

    places: Array
    weights: Array
    step: float

    def along(self, gradients: Array) -> Array:
        """The slopes (R,) along this direction that `gradients` (R, *shape) predict."""
        return as_matrix(gradients)[:, self.places] @ self.weights

    def halves(self) -> list[Probe]:
        middle = len(self.places) // 2
        return [self._part(slice(middle)), self._part(slice(middle, None))]

    def _part(self, part: slice) -> Probe:
        places, weights = self.places[part], self.weights[part]
        if len(places) > 1:
            return Probe(places, weights, self.step)
        return Probe(places, np.ones(1), self.step * abs(float(weights[0])))


def probes_of(value: Array, step: float | None, rng: np.random.Generator) -> list[Probe]:
    """Each element of a small array, or random directions through a large one. Larger values get larger steps."""
    sizes = np.maximum(1, np.abs(value.ravel())) if step is None else np.ones(value.size)
    step = STEP if step is None else step
    if value.size <= DENSE_INPUT:
        return [Probe(np.array([i]), np.ones(1), step * float(sizes[i])) for i in range(value.size)]
    everywhere = np.arange(value.size)
    weights = rng.choice([-1, 1], (DIRECTIONS, value.size)) * rng.uniform(0.5, 1, (DIRECTIONS, value.size))
    return [Probe(everywhere, w * sizes, step) for w in weights]


class Slopes(NamedTuple):
    """One column of J by differences, for all outputs. `noise` is a bound of the rounding error."""

    left: Array
    central: Array
    right: Array
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


def slopes(subject: Subject, number: int, probe: Probe, shrink: float = 1.0) -> Slopes:
    """(f(x) - f(x-h)) / h, (f(x+h) - f(x-h)) / 2h and (f(x+h) - f(x)) / h.

    Where these are not finite, h was too large for the domain of fn (ln x near 0), so smaller ones are tried.
    """
    for smaller in (1, 1e-1, 1e-2, 1e-3):
        h = probe.step * shrink * smaller
        before, here, after = subject.moved(number, probe, -h), subject.base, subject.moved(number, probe, h)
        noise = 16 * EPSILON * np.maximum(np.abs(before), np.abs(after)) / h
        left, right = _difference(here, before) / h, _difference(after, here) / h
        result = Slopes(left, _difference(after, before) / (2 * h), right, noise, h)
        if result.is_finite:
            break
    return result


def _difference(a: Array, b: Array) -> Array:
    return np.where(a == b, 0, a - b)  # an output that stays at -inf (a mask) does not change


def extrapolated(wide: Slopes, narrow: Slopes) -> Array:
    """Central differences of two steps, with the error in step² taken out (Richardson 1911)."""
    return narrow.central + (narrow.central - wide.central) / ((wide.step / narrow.step) ** 2 - 1)


def kinks(wide: Slopes, narrow: Slopes) -> Array:
    """Which outputs have a kink: those whose left and right slopes still differ for a step ten times smaller.

    If f is smooth, the slopes differ by h f'', which is ten times less for the smaller step; rounding makes them differ
    ten times more. A kink a little beside x appears weaker from close by, so a fifth is enough. This uses only f, not
    its gradient.
    """
    gap, narrow_gap = wide.right - wide.left, narrow.right - narrow.left
    ratio = np.divide(narrow_gap, gap, out=np.zeros_like(gap), where=gap != 0)
    return (ratio > 0.2) & (ratio < 2) & (np.abs(narrow_gap) > 5 * np.nan_to_num(narrow.noise))


class NotAnalytic(Exception):
    """The function does not accept complex numbers."""


def complex_slope(subject: Subject, number: int, probe: Probe) -> Array:
    """Im f(x + ih) / h. Because f(x + ih) = f(x) + ih f'(x) + O(h²), it is exact up to rounding. Squire & Trapp 1998.

    This is right only if f is analytic; |x|, for example, is not. Raises NotAnalytic if fn rejects complex numbers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)  # an imaginary part was discarded
        try:
            moved = subject.moved(number, probe, 1j * COMPLEX_STEP)
        except (TypeError, ValueError, np.exceptions.ComplexWarning) as error:
            raise NotAnalytic(str(error)) from error
    return np.imag(moved) / COMPLEX_STEP


def as_matrix(gradients: Array) -> Array:
    """(R, *shape) -> (R, elements)."""
    return gradients.reshape(len(gradients), math.prod(gradients.shape[1:]))


def place(shape: tuple[int, ...], flat_index: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat_index, shape)) if math.prod(shape) else ()
