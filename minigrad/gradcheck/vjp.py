"""The function under test, and what its backward computes: vᵀJ, the vector-Jacobian product.

Reverse mode multiplies the Jacobian J[i, j] = d output_i / d input_j from the left by a vector v, which has one number
per output element: the cotangent (`dout`, the incoming gradient). If v is 1 for one output element and 0 elsewhere, vᵀJ
is a row of J:

    >>> product_and_sum = Subject(lambda x, y: (x * y, x + y), [np.array(2.0), np.array(5.0)])
    >>> graph = Graph(product_and_sum, np.random.default_rng(0))
    >>> graph.vjp(np.array([1, 0]))  # d (x y) / dx = y and d (x y) / dy = x
    [array(5.), array(2.)]

`Subject` turns a function of tensors into one of arrays, with all outputs in one flat vector. `Graph` records a call.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Function
from ..backend import Array, array_of, device_of, is_array, to_device, to_numpy
from ..dtypes import is_floating
from ..inspection.graph import consumers_first
from ..nn.activation_checkpointing import Join  # several outputs as one, whose backward starts with a dout for each
from ..switches import no_grad
from ..tensor import Tensor

Shape = tuple[int, ...]
Index = tuple[int, ...]  # the place of an element

DENSE_OUTPUT = 200  # up to this size each output element is checked separately, beyond it random mixtures
MIXTURES = 4


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
        items = [inputs] if is_array(array_of(inputs)) else list(inputs)
        asks = [getattr(item, "requires_grad", False) for item in items]
        self.fn = fn
        self.notes: list[str] = []
        self._arguments: list[Any] = []  # a Variable, or what is passed to fn as it is
        variables: dict[int, Variable] = {}
        for position, (item, name) in enumerate(zip(items, _input_names(fn, len(items)))):
            array = array_of(item)
            is_float = is_array(array) and is_floating(array.dtype)
            if is_float and array.dtype.kind == "c":
                raise TypeError(f"gradcheck: {name} is complex; only real inputs can be checked")
            if is_float and (asks[position] or not any(asks)):  # a variable
                if id(item) not in variables:
                    value = _frozen(to_numpy(array), np.float64)
                    variables[id(item)] = Variable(position, name, value, device_of(array))
                    if array.dtype != np.float64:
                        self.notes.append(f"{name} is {array.dtype}: it was checked in float64")
                item = variables[id(item)]
            elif is_array(array):  # a constant
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
    op: Any = getattr(fn, "__self__", None)
    is_op = isinstance(op, type) and issubclass(op, Function)
    names: list[str] = []
    with contextlib.suppress(TypeError, ValueError):  # a callable without a signature
        parameters = inspect.signature(op.forward if is_op else fn).parameters.values()
        names = [f" ({p.name})" for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if is_op:
        names = names[1:]  # without ctx
    names += count * [""]
    return [f"input {i}{names[i]}" for i in range(count)]


def _frozen(array: Array, dtype: Any) -> Array:
    """A read-only view of `array` in `dtype`. It shares the caller's memory and strides if the dtype is the same."""
    value = array.astype(dtype, copy=False).view()
    if isinstance(value, np.ndarray):  # CuPy has no read-only arrays
        value.flags.writeable = False
    return value


class Graph:
    """One recorded call of the subject, which backward can walk many times.

    What is compared are R rows vᵀJ. `cotangents` (R, number of output elements) has the v of each row: for a small
    output a 1 at each of its elements, and for a large one random mixtures of its elements. `rows` says which, as
    (output, element), where the element of a mixture is None.
    """

    def __init__(self, subject: Subject, rng: np.random.Generator):
        self.leaves = [Tensor(to_device(v.value, v.device), requires_grad=True) for v in subject.variables]
        self.outputs = subject.call(self.leaves)
        self.nodes = consumers_first(list({output.grad_fn: None for output in self.outputs if output.grad_fn}))
        # Leaves of the graph that are not inputs, such as a weight of fn.
        sources = [edge[0] for node in self.nodes for edge in node.edges if edge is not None]
        ours = set(map(id, self.leaves))
        self._other_leaves = [x for x in sources if isinstance(x, Tensor) and id(x) not in ours]
        self._ends = np.cumsum([output.data.size for output in self.outputs])  # in the flat vector of all outputs

        self.rows: list[tuple[int, Index | None]] = []
        cotangents = []
        for o, (output, end) in enumerate(zip(self.outputs, self._ends)):
            size = output.data.size
            if size <= DENSE_OUTPUT:
                vectors = np.eye(size)
                self.rows += [(o, unravel(output.shape, i)) for i in range(size)]
            else:
                vectors = rng.standard_normal((MIXTURES, size))
                self.rows += [(o, None)] * MIXTURES
            cotangents.append(np.pad(vectors, [(0, 0), (end - size, self._ends[-1] - end)]))  # 0 for other outputs
        self.cotangents = np.concatenate(cotangents)

    def of_output(self, output: int) -> Array:
        """Which rows belong to an output."""
        return np.array([o == output for o, _ in self.rows], bool)

    def vjp(self, coefficients: Array) -> list[Array]:
        """vᵀJ, one array per variable, for v = coefficients @ cotangents; zeros if no gradient arrived.

        Other tensors that fn uses keep their `.grad`.
        """
        flat_douts = np.split(coefficients @ self.cotangents, self._ends[:-1])  # one per output
        douts = [to_device(dout.reshape(out.shape), out.device) for dout, out in zip(flat_douts, self.outputs)]
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


def unravel(shape: Shape, flat_index: int) -> Index:
    return tuple(map(int, np.unravel_index(flat_index, shape)))
