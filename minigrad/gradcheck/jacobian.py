"""The Jacobian J[i, j] = d output_i / d input_j of a function, row by row, as backward computes it.

Reverse mode does not build J. It multiplies J from the left by a vector v, which has one number per output element:
the cotangent (`dout`, the incoming gradient). vᵀJ is the vector-Jacobian product or vjp. If v is 1 for one output
element and 0 elsewhere, vᵀJ is a row of J. The columns of J, measured without backward, are in differences.py.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Context, Function
from ..backend import Array, device_of, is_array, to_device, to_numpy
from ..dtypes import is_floating
from ..inspection.graph import consumers_first
from ..nn.activation_checkpointing import Join
from ..switches import no_grad
from ..tensor import Tensor

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
            is_float = is_array(array) and is_floating(array.dtype)
            if is_float and array.dtype.kind == "c":
                raise TypeError(f"gradcheck: {name} is complex; only real inputs can be checked")
            if not is_float or (some_ask and not getattr(item, "requires_grad", False)):
                dtype = np.float64 if is_float else None
                self._arguments.append(("constant", Tensor(_frozen(array, dtype)) if is_array(array) else item))
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


class Graph:
    """One recorded call of the subject, which backward can walk many times."""

    def __init__(self, subject: Subject):
        self.leaves = [Tensor(to_device(v.value, v.device), requires_grad=True) for v in subject.variables]
        self.outputs = subject.call(self.leaves)
        self.nodes = consumers_first(list({output.grad_fn: None for output in self.outputs if output.grad_fn}))
        targets = [edge[0] for node in self.nodes for edge in node.edges if edge is not None]
        ours = {id(leaf) for leaf in self.leaves}
        self._other_leaves = {id(x): x for x in targets if not isinstance(x, Context) and id(x) not in ours}

    def root(self, cotangents: list[Array]) -> Tensor:
        """One tensor whose backward gives each output its cotangent, so one walk serves all outputs."""
        douts = [to_device(v.copy(), out.device) for v, out in zip(cotangents, self.outputs, strict=True)]
        return Join.apply(*self.outputs, douts=tuple(douts))

    def vjp(self, cotangents: list[Array]) -> list[Array | None]:
        """vᵀJ for the cotangents v: one array per variable, or None if no gradient arrived.

        Other tensors that fn uses keep their `.grad`.
        """
        kept = [(stranger, stranger.grad) for stranger in self._other_leaves.values()]
        try:
            for tensor in [*self.leaves, *self._other_leaves.values()]:
                tensor.grad = None
            root = self.root(cotangents)
            if root.requires_grad:
                root.backward(retain_graph=True)
            return [None if leaf.grad is None else to_numpy(leaf.grad).copy() for leaf in self.leaves]
        finally:
            for stranger, gradient in kept:
                stranger.grad = gradient

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

    def output_of(self, row: int) -> int:
        """The number of the output that a row belongs to."""
        return next(o for o, span in enumerate(self.spans) if row < span.stop)

    def element(self, row: int) -> tuple[int, ...] | None:
        """The output element of a row, or None for a random mixture."""
        o = self.output_of(row)
        return unravel(self.shapes[o], row - self.spans[o].start) if self.dense[o] else None

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

    def largest_change(self, vector: Array) -> Array:
        """The largest change of each row's number if each output changes by up to `vector` in either direction."""
        parts = np.split(np.nan_to_num(vector, posinf=0), self.cuts)
        return np.concatenate([np.abs(matrix) @ part for matrix, part in zip(self.matrices, parts, strict=True)])


def as_matrix(gradients: Array) -> Array:
    """(R, *shape) -> (R, elements)."""
    return gradients.reshape(len(gradients), math.prod(gradients.shape[1:]))


def unravel(shape: tuple[int, ...], flat_index: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat_index, shape)) if math.prod(shape) else ()
