"""Automatic differentiation: the whole idea in one file.

    >>> from minigrad import Tensor
    >>> x = Tensor([2.0, 3.0], requires_grad=True)
    >>> y = x * x                            # runs Mul, and records it
    >>> loss = (y + x).sum()                 # runs and records Add and Sum
    >>> loss.backward()                      # walks from loss back to x
    >>> x.grad                               # d loss / dx = 2x + 1
    array([5., 7.], dtype=float32)
    >>> y.grad_fn, y.grad_fn.edges[0][0] is x
    (<Mul>, True)

Running a `Function` does the arithmetic and, if an input wants a gradient, leaves a `Context` behind: what was
computed, from what, and what backward will need. The contexts form a graph. `backward` walks it from the result to the
leaves: the tensors that were not computed from others, such as parameters. At each context it applies the chain rule:
it gives the Function the gradient of its output and gets back the gradients of its inputs. Where several gradients
meet, because a tensor was used several times, they add up.

A Function works on plain arrays (NumPy or CuPy), not on Tensors, so each half can be called and stepped through alone:

    class Mul(Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.x, ctx.y = x, y
            return x * y

        @staticmethod
        def backward(ctx, dout):
            return dout * ctx.y, dout * ctx.x

`Function.apply` records the graph, and `backward` walks it. Other files cast dtypes, switch recording and kernels, and
look for mistakes. This is reverse-mode differentiation: Baydin et al. 2018, "Automatic differentiation in machine
learning".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from . import graph_checks, in_place, switches
from .backend import Array, module_of
from .dtypes import DtypeRules, is_floating, promote_inputs

if TYPE_CHECKING:  # for annotations only: tensor.py imports this file
    from .tensor import Tensor

# Where an input came from, and so where its gradient goes: (source, number of its output). The source is the Context
# that computed the input, or, for a leaf, the Tensor itself, with number 0. `is_leaf` tells the two apart.
Edge = tuple[Any, int]


class Context:
    """One call of a Function: a node of the graph.

    Forward saves what backward will need as named attributes: `ctx.x = x`. `needs_grad[i]` tells whether the gradient
    of input i is wanted. A context made by hand, `Context()`, wants all of them.
    """

    # the node's own attributes; all others are what forward saved
    _own_names = ("function", "needs_grad", "edges", "changes", "outputs", "released", "retain_grad_of")

    outputs: list[tuple[tuple[int, ...], Any]]  # the shape and dtype of each output
    changes = 0  # the number of the last change in place before it was recorded (in_place.py)
    released = False  # has backward been here and freed what forward saved?
    is_leaf = False

    def __init__(self, function: Any = None, needs_grad: Any = None, edges: Sequence[Edge | None] = ()):
        self.function = function  # the Function's class
        self.needs_grad: Any = _Everything() if needs_grad is None else needs_grad
        self.edges = edges  # one for each input; None if no gradient is wanted
        self.retain_grad_of: dict[int, Tensor] = {}  # outputs that keep their gradient: Tensor.retain_grad

    def nodes_before(self) -> Iterator[Context]:
        """The nodes that the inputs came from, one for each edge that does not end at a leaf."""
        for edge in self.edges:
            if edge is not None and not edge[0].is_leaf:
                yield edge[0]

    def saved(self) -> dict[str, Any]:
        """The values that forward saved for backward, by name."""
        return {name: value for name, value in vars(self).items() if name not in self._own_names}

    def release(self) -> None:
        """Free what forward saved: this is where a training step gives its memory back."""
        for name in self.saved():
            delattr(self, name)
        self.released = True

    def __repr__(self) -> str:
        return f"<{self.function.__name__}>"


class _Everything:
    """The `needs_grad` of a context that was made by hand: True for every input."""

    def __getitem__(self, index: int) -> bool:
        return True


class Function(DtypeRules):
    """A differentiable operation: `forward` and `backward` on arrays, side by side.

    forward(ctx, *arrays, **options) -> array, or tuple of arrays
    backward(ctx, dout, ...) -> tuple of one gradient per input, or None where there is none; one dout per output
    """

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Tensor:
        """Run forward on the inputs' arrays and record the call: the one place where arrays become graph."""
        # Gather: each input's array, whether its gradient is wanted, and where it came from.
        arrays, needs_grad, edges = gather_inputs(cls, inputs)

        # Run forward: cls.forward, or that of a faster twin, which takes the place of cls in ctx.function.
        ctx = Context(cls, needs_grad, edges)
        forward = switches.forward_of(ctx, arrays, options)
        result = forward(ctx, *arrays, **options)

        # Record: backward finds ctx through its outputs.
        several = type(result) is tuple
        outputs = tuple(map(_tensor_class, result)) if several else (_tensor_class(result),)
        if any(needs_grad):
            add_to_graph(ctx, outputs)
        return outputs if several else outputs[0]  # type: ignore[return-value]  # most have one output


def gather_inputs(function: type[Function], inputs: Sequence[Any]) -> tuple[list[Any], list[bool], list[Edge | None]]:
    """The first step of `apply`. The arrays are cast to a common dtype, as the Function's dtype_rule says."""
    arrays, needs_grad, edges = [], [], []
    for x in inputs:
        is_tensor = isinstance(x, _tensor_class)
        wanted = is_tensor and x.requires_grad and switches.is_recording()
        arrays.append(x.data if is_tensor else x)
        needs_grad.append(wanted)
        edges.append(edge_to(x) if wanted else None)
    return promote_inputs(function, arrays), needs_grad, edges


def edge_to(x: Tensor) -> Edge:
    """Where the gradient of x goes: to the node that computed it or, if x is a leaf, to x itself."""
    return (x, 0) if x.grad_fn is None else (x.grad_fn, x.output_index)


def add_to_graph(ctx: Context, outputs: tuple[Tensor, ...]) -> None:
    """Make `ctx` the `grad_fn` of its outputs, where backward will find it."""
    ctx.changes = in_place.changes
    ctx.outputs = []
    for index, tensor in enumerate(outputs):
        shape, dtype = tensor.data.shape, tensor.data.dtype
        ctx.outputs.append((shape, dtype))
        if is_floating(dtype):  # an integer, such as the index that `max` returns, has no gradient
            tensor.requires_grad = True
            tensor.grad_fn = ctx
            tensor.output_index = index


T = TypeVar("T")
_tensor_class: Any = None  # it is Tensor


def register_tensor_class(cls: type[T]) -> type[T]:
    """Decorate the class of tensors: `Function.apply` reads the arrays of its instances, and makes its results of it.

    Tensor's operators call Functions, so tensor.py imports this file, and this file cannot import Tensor.
    """
    global _tensor_class
    _tensor_class = cls
    return cls


# --- backward --------------------------------------------------------------------------------------------------------


def backward(root: Tensor, gradient: Array, retain_graph: bool = False) -> None:
    """Add dL/dleaf to the `.grad` of every leaf that `root` was computed from, where `gradient` is dL/droot.

    A node runs once all uses of its outputs have sent their gradients, because only then is the gradient of its outputs
    complete. retain_graph: keep what forward saved, for a second backward. Raises RuntimeError, before it changes
    anything, if the graph was already walked, or if an array that it saved has been changed in place (in_place.py).
    """
    ready = [] if root.grad_fn is None else [root.grad_fn]  # nodes that can run
    uses_left = count_uses(ready)  # node -> how many uses of its outputs have not sent a gradient yet
    graph_checks.check_graph(uses_left)

    sums: dict[Edge, Any] = {}  # (node, number of its output) -> the sum of the gradients that have arrived there
    accumulate = switches.accumulate or add_up  # the fast twin of add_up adds in place
    accumulate(sums, [edge_to(root)], [gradient])
    while ready:
        node = ready.pop()
        douts = [sums.pop((node, index), None) for index in range(len(node.outputs))]
        dinputs = run_backward(node, douts)  # the chain rule
        accumulate(sums, node.edges, dinputs)
        del douts, dinputs  # nothing here should keep these arrays in memory while the next node runs
        for source in node.nodes_before():
            uses_left[source] -= 1
            if uses_left[source] == 0:
                ready.append(source)
        if not retain_graph:
            node.release()


def add_up(sums: dict[Edge, Any], edges: Sequence[Edge | None], gradients: list[Any]) -> None:
    """Add each gradient to what has arrived at its edge: at the output of another node, or in the `.grad` of a leaf."""
    for edge, gradient in zip(edges, gradients, strict=True):
        if edge is None or gradient is None:
            continue
        if edge[0].is_leaf:  # the end of this path
            add_to_grad(edge[0], gradient)
        else:
            sums[edge] = sums[edge] + gradient if edge in sums else gradient


def add_to_grad(tensor: Tensor, gradient: Array) -> None:
    """Add to `tensor.grad`. The first gradient is copied, because z = x + y sends the same array to x and to y."""
    if tensor.requires_grad:  # it may have been frozen since forward
        total = gradient.copy() if tensor.grad is None else tensor.grad + gradient
        tensor.grad = module_of(total).asarray(total)  # an array even if it has no dimensions


def count_uses(roots: list[Context]) -> dict[Context, int]:
    """Every node that `roots` depend on, with the number of times that these nodes use its outputs: 2 for y in y * y.

    There is no recursion, because a graph may be 100,000 ops deep.
    """
    uses = dict.fromkeys(roots, 0)
    stack = list(roots)
    while stack:
        for source in stack.pop().nodes_before():
            if source not in uses:
                uses[source] = 0
                stack.append(source)
            uses[source] += 1
    return uses


def run_backward(node: Context, douts: list[Any]) -> list[Any]:
    """The chain rule at one node: the gradients of its inputs from those of its outputs, `douts`."""
    if all(dout is None for dout in douts):  # no use of its outputs had a gradient
        return [None] * len(node.edges)
    douts = complete(node, douts)
    for index, tensor in node.retain_grad_of.items():
        add_to_grad(tensor, douts[index])
    chain_rule = switches.backward_of(node)
    return graph_checks.check_returned(node, chain_rule(node, *douts))  # the node is the ctx that forward filled


def complete(node: Context, douts: list[Any]) -> list[Any]:
    """`douts` as arrays, with zeros where another output of the node got a gradient and this one none."""
    xp = module_of(next(dout for dout in douts if dout is not None))
    for index, (shape, dtype) in enumerate(node.outputs):
        if douts[index] is None and is_floating(dtype):
            douts[index] = xp.zeros(shape, dtype)
        elif shape == () and douts[index] is not None:  # NumPy adds up arrays without dimensions to a plain number
            douts[index] = xp.asarray(douts[index])
    return douts
