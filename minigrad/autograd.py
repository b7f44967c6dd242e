"""Automatic differentiation: the whole idea in one file.

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

To see the idea first, read `backward`, below; `Function.apply` records the graph that it walks.

This is reverse-mode differentiation: Baydin et al. 2018, "Automatic differentiation in machine learning", section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import graph_checks, switches
from .accumulation import Edge, GradientSums, add_to_grad
from .backend import Array
from .dtypes import agree, is_floating

if TYPE_CHECKING:  # for annotations only: tensor.py imports this file
    from .tensor import Tensor


tensor_class: Any = None  # the class of results: Tensor, which tensor.py sets here


class _Everything:
    """The `needs_grad` of a context that was made by hand: True for every input."""

    def __getitem__(self, index: int) -> bool:
        return True


class Context:
    """One call of a Function: a node of the graph.

    Forward saves what backward will need as named attributes: `ctx.x = x`. `needs_grad[i]` tells whether the gradient
    of input i is wanted. A context made by hand, `Context()`, wants all of them.
    """

    _node = ("function", "needs_grad", "edges", "outputs", "released", "retained")  # what forward saves is not in here

    function: Any  # the Function's class
    needs_grad: Any = _Everything()
    # Where each input came from: (the Context that made it, the number of its output). For a leaf: (the Tensor, its
    # version, which counts changes in place). None if no gradient is wanted. `is_leaf` tells the two kinds apart.
    edges: Sequence[Edge | None] = ()
    outputs: list[tuple[tuple[int, ...], np.dtype]]  # the shape and dtype of each output
    released = False  # has backward been here and freed what forward saved?
    retained: dict[int, Tensor] | None = None  # outputs whose gradient is kept; see Tensor.retain_grad
    is_leaf = False

    def sources(self) -> Iterator[Context]:
        """The nodes that the inputs came from, one for each edge."""
        for edge in self.edges:
            if edge is not None and not edge[0].is_leaf:
                yield edge[0]

    def saved(self) -> dict[str, Any]:
        """What forward saved for backward, by name."""
        return {name: value for name, value in vars(self).items() if name not in self._node}

    def release(self) -> None:
        """Free what forward saved: this is where a training step gives its memory back."""
        for name in self.saved():
            delattr(self, name)
        self.released = True

    def __repr__(self) -> str:
        return f"<{self.function.__name__}>"


class Function:
    """A differentiable operation: `forward` and `backward` on arrays, side by side.

    forward(ctx, *arrays, **options) -> array, or tuple of arrays
    backward(ctx, dout, ...) -> tuple of one gradient per input, or None where there is none; one dout per output
    """

    # What happens to the inputs' dtypes. "any": nothing; "same": they must be equal; "promote": all are cast to a
    # common one, as in PyTorch; "float": as "promote", and integers become floats.
    dtype_rule = "any"
    autocast = False  # True for matrix products: mixed precision rounds their inputs
    compose: Callable[..., Tensor] | None = None  # the textbook form of a fused op, made of other ops

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Any:
        """Run forward on the inputs' arrays and record the call: the one place where arrays become graph."""
        arrays, needs_grad, edges = [], [], []
        for x in inputs:
            is_tensor = isinstance(x, tensor_class)
            wanted = is_tensor and x.requires_grad and switches.recording.get()[-1]
            arrays.append(x.data if is_tensor else x)
            needs_grad.append(wanted)
            edges.append(edge_to(x) if wanted else None)

        function = switches.choose(cls, arrays)  # this class, or a faster one that computes the same result
        if function.compose is not None:  # a fused op without a kernel: run the ops that it consists of
            return function.compose(*inputs, **options)
        arrays = agree(cls, arrays)  # cast the arrays as dtype_rule says

        ctx = Context()
        ctx.function, ctx.needs_grad, ctx.edges = function, needs_grad, edges
        switches.tell_before("forward", ctx, arrays)  # tells a profiler, if one is running
        result = function.forward(ctx, *arrays, **options)
        switches.tell_after("forward", ctx, arrays, result)

        several = type(result) is tuple
        outputs = tuple(map(tensor_class, result if several else (result,)))
        if True in needs_grad:
            record(ctx, outputs)
        return outputs if several else outputs[0]


def record(ctx: Context, outputs: tuple[Tensor, ...]) -> None:
    """Make `ctx` the `grad_fn` of its outputs, where backward will find it."""
    ctx.outputs = []
    for index, tensor in enumerate(outputs):
        shape, dtype = tensor.data.shape, tensor.data.dtype
        ctx.outputs.append((shape, dtype))
        if is_floating(dtype):  # an integer, such as the index that `max` returns, has no gradient
            tensor.requires_grad, tensor.grad_fn, tensor.output_index = True, ctx, index


def edge_to(x: Tensor) -> Edge:
    """Where x came from, as an entry of `Context.edges`."""
    return (x, x.version) if x.grad_fn is None else (x.grad_fn, x.output_index)


# --- backward --------------------------------------------------------------------------------------------------------


def backward(root: Tensor, gradient: Array, retain_graph: bool = False) -> None:
    """Add dL/dleaf to the `.grad` of every leaf that `root` was computed from, where `gradient` is dL/droot.

    A node runs once all nodes that used its outputs have run, because only then is the gradient of its outputs
    complete. retain_graph: keep what forward saved, for a second backward. Raises RuntimeError, before it changes
    anything, if the graph was already walked, or if a saved parameter that gets a gradient was changed in place.
    """
    ready = [] if root.grad_fn is None else [root.grad_fn]  # nodes that can run
    waiting_for = count_consumers(ready)  # node -> how many nodes must run before it
    graph_checks.check_graph(waiting_for)

    sums = GradientSums()  # the gradients that have arrived so far
    sums.add([edge_to(root)], [gradient])
    while ready:
        node = ready.pop()
        douts = sums.pop(node)
        dinputs = run_backward(node, douts)  # the chain rule
        sums.add(node.edges, dinputs)  # adds to the .grad of a leaf, or to what has arrived at another node
        for source in node.sources():
            waiting_for[source] -= 1
            if waiting_for[source] == 0:  # all that used its outputs have run: its gradient is complete
                ready.append(source)
        if not retain_graph:
            node.release()


def count_consumers(roots: list[Context]) -> dict[Context, int]:
    """Every node that `roots` depend on, with the number of times that these nodes use its outputs.

    There is no recursion, because a graph may be 100,000 ops deep.
    """
    consumers = dict.fromkeys(roots, 0)
    stack = list(roots)
    while stack:
        for source in stack.pop().sources():
            if source not in consumers:
                consumers[source] = 0
                stack.append(source)
            consumers[source] += 1
    return consumers


def run_backward(node: Context, douts: list[Array] | None) -> list[Any]:
    """The gradients of the node's inputs from those of its outputs: one call of the Function's backward."""
    if douts is None:  # no gradient has arrived
        return [None] * len(node.edges)
    for index, tensor in (node.retained or {}).items():
        add_to_grad(tensor, douts, index)
    switches.tell_before("backward", node, douts)
    dinputs = node.function.backward(node, *douts)  # the node is the ctx that forward filled
    switches.tell_after("backward", node, douts, dinputs)
    return graph_checks.checked_gradients(node, dinputs)
