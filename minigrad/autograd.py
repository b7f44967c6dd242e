"""Automatic differentiation: the whole idea in one file.

Running a `Function` does the arithmetic and, if an input wants a gradient, leaves a `Context` behind: what was
computed, from what, and whatever the way back will need. The contexts form a graph. `backward` walks it from the result
to the leaves and applies the chain rule at each: it gives a Function the gradient of its output, gets the gradients of
its inputs, and adds up where several meet.

A Function works on plain arrays (NumPy or CuPy), not on Tensors, so each half can be called and stepped through alone:

    class Mul(Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.x, ctx.y = x, y
            return x * y

        @staticmethod
        def backward(ctx, dout):
            return dout * ctx.y, dout * ctx.x

This is reverse-mode differentiation: Baydin et al. 2018, "Automatic differentiation in machine learning", section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks, switches
from .accumulation import GradientSums, add_to_leaf
from .backend import Array
from .dtypes import agree, is_floating

if TYPE_CHECKING:  # for annotations only: tensor.py stands on this file
    from .tensor import Tensor


tensor_class: Any = None  # what results are wrapped in; tensor.py sets it, which stands on this file


class _Everything:
    def __getitem__(self, index: int) -> bool:
        return True


class Context:
    """One call of a Function, and its node in the graph. Forward leaves here, as named attributes, what backward needs.

    `needs_grad[i]` says whether the gradient of input i is wanted. A context made by hand (`Context()`) wants them all.
    """

    _node = ("function", "needs_grad", "edges", "outputs", "released", "retained", "sums")

    function: Any  # the Function's class
    needs_grad: Any = _Everything()
    edges: Sequence[tuple[Any, int] | None] = ()  # per input: (Context, which output), or (leaf Tensor, its version)
    outputs: list[tuple[tuple[int, ...], np.dtype]]  # per output: shape and dtype
    released = False
    retained: dict[int, Tensor] | None = None  # outputs whose gradient is kept; see Tensor.retain_grad
    sums: GradientSums | None = None  # while backward runs: the gradients that have arrived anywhere
    is_leaf = False

    def gradient_so_far(self, index: int) -> Array | None:
        """The gradient that input `index` has already, if the walk or a leaf owns it; None elsewhere.

        A backward may add to it in place and return it: a few rows need no dense array of their own (see `Embedding`).
        """
        return None if self.sums is None else self.sums.lend(self.edges[index], index)

    def saved(self) -> dict[str, Any]:
        """What forward left for backward, by name."""
        return {name: value for name, value in vars(self).items() if name not in self._node}

    def release(self) -> None:
        """Let go of what forward saved: here a training step gives its memory back."""
        for observer in switches.observers:
            observer.released(self)
        for name in self.saved():
            delattr(self, name)
        self.released = True

    def __repr__(self) -> str:
        return f"<{self.function.__name__}>"


class Function:
    """A differentiable operation: `forward` and `backward` on arrays, side by side.

    forward(ctx, *arrays, **options) -> array, or tuple of arrays
    backward(ctx, dout, ...) -> tuple: one gradient per input (None where there is none), from one dout per output
    """

    dtype_rule = "any"  # "promote": cast as PyTorch does; "float": and integers to floats; "same": refuse to mix
    autocast = False  # True for matrix products, which mixed precision computes from rounded inputs
    compose: Callable[..., Tensor] | None = None  # of a fused op: its textbook form, made of other ops

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Any:
        """Run forward on the inputs' arrays and record the call: the one place where arrays become graph."""
        arrays, needs_grad, edges = [], [], []
        for x in inputs:
            is_tensor = isinstance(x, tensor_class)
            needed = is_tensor and x.requires_grad and switches.grad_enabled
            arrays.append(x.data if is_tensor else x)
            needs_grad.append(needed)
            edges.append(_edge(x) if needed else None)

        function: Any = switches.kernel_for(cls, arrays)
        if switches.autocast is not None:
            function = switches.autocast(cls, function)
        if function.compose is not None:
            return function.compose(*inputs, **options)

        arrays = agree(cls, arrays)
        ctx = Context()
        ctx.function, ctx.needs_grad, ctx.edges = function, needs_grad, edges
        if switches.observers:
            result = switches.observed("forward", ctx, arrays, function.forward, options)
        else:
            result = function.forward(ctx, *arrays, **options)

        several = type(result) is tuple
        outputs = tuple(map(tensor_class, result if several else (result,)))
        if True in needs_grad:
            _record(ctx, outputs)
        return outputs if several else outputs[0]


def _record(ctx: Context, outputs: tuple[Tensor, ...]) -> None:
    ctx.outputs = []
    for index, tensor in enumerate(outputs):
        shape, dtype = tensor.data.shape, tensor.data.dtype
        ctx.outputs.append((shape, dtype))
        if is_floating(dtype):
            tensor.requires_grad, tensor.grad_fn, tensor.output_index = True, ctx, index


def _edge(x: Tensor) -> tuple[Any, int]:
    return (x, x.version) if x.grad_fn is None else (x.grad_fn, x.output_index)


# --- the way back ----------------------------------------------------------------------------------------------------


def backward(root: Tensor, gradient: Array, retain_graph: bool = False) -> None:
    """Add d(root · gradient) / d(leaf) to the `.grad` of every leaf that `root` was computed from.

    A node runs once, when everything that used its outputs has run. Raises RuntimeError, before anything is changed, if
    the graph was already walked, or if a parameter that it saved was changed in place since.
    """
    sums = GradientSums()
    if root.grad_fn is None:
        sums.add(_edge(root), [gradient], 0)
        return
    waiting_for = _count_consumers(root.grad_fn)
    sums.add(_edge(root), [gradient], 0)
    ready = [root.grad_fn]
    while ready:
        ctx = ready.pop()
        _run_backward(ctx, sums)
        for target, _ in filter(None, ctx.edges):
            if not target.is_leaf:
                waiting_for[target] -= 1
                if waiting_for[target] == 0:
                    ready.append(target)
        if not retain_graph:
            ctx.release()


def _run_backward(ctx: Context, sums: GradientSums) -> None:
    douts = sums.pop(ctx)
    if douts is None:  # no gradient has come this far
        return
    for index, tensor in (ctx.retained or {}).items():
        add_to_leaf(tensor, douts, index)
    ctx.sums = sums
    if switches.observers:
        returned = switches.observed("backward", ctx, douts, ctx.function.backward, {})
    else:
        returned = ctx.function.backward(ctx, *douts)
    dinputs = checks.checked_gradients(ctx, returned)
    del returned  # else the arrays in it would seem to be held by somebody
    for i, edge in enumerate(ctx.edges):
        if edge is not None:
            sums.add(edge, dinputs, i)
    ctx.sums = None
    sums.lent.clear()


def _count_consumers(root: Context) -> dict[Context, int]:
    """How many edges lead to each node that `root` depends on. No recursion: a graph may be 100,000 ops deep."""
    consumers, changed = {root: 0}, []
    stack = [root]
    while stack:
        ctx = stack.pop()
        checks.check_not_released(ctx)
        for target, index in filter(None, ctx.edges):
            if target.is_leaf:
                if target.version != index:
                    changed.append(target)
                continue
            if target not in consumers:
                consumers[target] = 0
                stack.append(target)
            consumers[target] += 1
    if changed:
        checks.check_not_overwritten(consumers, changed)
    return consumers
