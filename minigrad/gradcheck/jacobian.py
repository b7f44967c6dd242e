"""The Jacobian J[i, j] = d output_i / d input_j of a function, found in two ways that share no code.

By rows: backward. Reverse mode never builds J; it multiplies it from the left with a vector v, which has one number for
each output element. v is called the cotangent (`dout`, the gradient that arrives), vᵀJ the vector-Jacobian product, or
vjp. With a 1 for one output element and 0 elsewhere, vᵀJ is a row of J (`Graph`, `Rows`).

By columns: differences. Move one element of an input, and see how all outputs move (`slopes`).

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
STEP = EPSILON ** (1 / 3)  # 6e-6: here rounding (EPSILON / step) and the neglected term (step²) are about equal
COMPLEX_STEP = 1e-30  # nothing is subtracted, so it may be as small as it likes
DENSE_OUTPUT = 200  # up to this size each output element is checked on its own, beyond it random mixtures of them
MIXTURES = 4
DENSE_INPUT = 1000  # up to this size each input element is moved on its own, beyond it all in random directions
DIRECTIONS = 6


# --- the function -----------------------------------------------------------------------------------------------------


class Variable(NamedTuple):
    """An input that is differentiated: its value is a read-only float64 array on the host."""

    position: int  # among the inputs
    name: str
    value: Array
    device: str


class Subject:
    """A function of Tensors seen as one of `variables`, with all its floating-point outputs as one flat vector.

    The variables are the inputs that ask for a gradient, or all floating-point ones if none does. One tensor given
    twice is one variable.
    """

    def __init__(self, fn: Callable[..., Any], inputs: Any):
        items = [inputs] if isinstance(inputs, Tensor) or is_array(inputs) else list(inputs)
        some_ask = any(isinstance(item, Tensor) and item.requires_grad for item in items)
        self.fn = fn
        self.variables: list[Variable] = []
        self.notes: list[str] = []
        self._arguments: list[tuple[str, Any]] = []  # ("variable", its number) or ("constant", what fn gets)
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
        self.base = np.zeros(0)  # the flat outputs at the variables' values, from the recorded call

    def call(self, leaves: list[Tensor]) -> list[Tensor]:
        """fn's floating-point outputs, with `leaves` in the variables' places; TypeError where there are none."""
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
                    f"gradcheck: fn makes {output.dtype} of float64, too coarse to see a derivative; look for a .to(), "
                    ".astype() or dtype= in it"
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
        """The flat outputs once more, nothing moved."""
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
    """ "input 0 (x)", with fn's own parameter names where it has them; those of forward for `SomeFunction.apply`."""
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
    """`array` read-only, and in `dtype`: the caller's own memory, strides and all, where it has that dtype already."""
    value = array.astype(dtype or array.dtype, copy=False).view()
    if isinstance(value, np.ndarray):  # CuPy has no read-only arrays
        value.flags.writeable = False
    return value


# --- rows: backward ---------------------------------------------------------------------------------------------------


class _Seed(Function):
    """Σ_o out_o · v_o: its backward gives each output o its cotangent v_o, so that one walk serves several outputs."""

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
        """The op that made the first output."""
        node = self.outputs[0].grad_fn
        return op_name(node.function) if node is not None else "fn"

    def root(self, cotangents: list[Array]) -> Tensor:
        return _Seed.apply(*self.outputs, cotangents=cotangents)

    def vjp(self, cotangents: list[Array]) -> list[Array | None]:
        """vᵀJ for the cotangents v: one array per variable, None where no gradient arrived.

        Tensors that fn uses besides its inputs keep their `.grad`.
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
        """As `vjp`, with zeros where no gradient arrived."""
        pairs = zip(self.vjp(cotangents), self.leaves, strict=True)
        return [np.zeros(leaf.shape) if gradient is None else gradient for gradient, leaf in pairs]


class Rows:
    """The rows of J that are looked at: one per element of a small output, random mixtures of those of a large one."""

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
        """The output that a row belongs to."""
        return next(o for o, span in enumerate(self.spans) if row < span.stop)

    def element(self, row: int) -> tuple[int, ...] | None:
        """The output element that a row is about; None for a mixture of several."""
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
        """How far the rows' numbers may move if each output moves by up to `vector`, either way."""
        parts = np.split(np.nan_to_num(vector, posinf=0), self.cuts)
        return np.concatenate([np.abs(matrix) @ part for matrix, part in zip(self.matrices, parts, strict=True)])


# --- columns: differences ---------------------------------------------------------------------------------------------


class Probe(NamedTuple):
    """A direction to move a variable in: `weights` at the flat `places`; for a single element one place of weight 1."""

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
    """Each element of a small array, random directions through all of a large one; large values get larger steps."""
    sizes = np.maximum(1, np.abs(value.ravel())) if step is None else np.ones(value.size)
    step = STEP if step is None else step
    if value.size <= DENSE_INPUT:
        return [Probe(np.array([i]), np.ones(1), step * float(sizes[i])) for i in range(value.size)]
    everywhere = np.arange(value.size)
    weights = rng.choice([-1, 1], (DIRECTIONS, value.size)) * rng.uniform(0.5, 1, (DIRECTIONS, value.size))
    return [Probe(everywhere, w * sizes, step) for w in weights]


class Slopes(NamedTuple):
    """One column of J by differences, all outputs at once; `noise` is what rounding may have added."""

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
        """A first look: do left and right differ by more than rounding, and by much of their size?"""
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
    """Where the outputs have a kink: where left and right slopes differ, and still do so for a step ten times smaller.

    Where f is smooth they differ by h f'', ten times less for the smaller step; rounding makes them differ ten times
    more. A kink a little beside x looks weaker from close by, so a fifth is enough. Only f is looked at, not its
    gradient.
    """
    gap, narrow_gap = wide.right - wide.left, narrow.right - narrow.left
    ratio = np.divide(narrow_gap, gap, out=np.zeros_like(gap), where=gap != 0)
    return (ratio > 0.2) & (ratio < 2) & (np.abs(narrow_gap) > 5 * np.nan_to_num(narrow.noise))


class NotAnalytic(Exception):
    """The function does not accept complex numbers."""


def complex_slope(subject: Subject, number: int, probe: Probe) -> Array:
    """Im f(x + ih) / h: as f(x + ih) = f(x) + ih f'(x) + O(h²), exact to rounding. Squire & Trapp 1998.

    Only right where f is the restriction of an analytic function; |x|, for one, is not. Raises NotAnalytic where fn
    says so itself.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)  # an imaginary part was thrown away
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
