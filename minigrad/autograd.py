"""Automatic differentiation: the whole idea in one file.

Running a `Function` does the arithmetic and, if an input wants a gradient, leaves a `Context` behind: what was computed, from what,
and whatever the way back will need. The contexts form a graph. `backward` walks it from the result to the leaves and applies the
chain rule at each: it gives a Function the gradient of its output, gets the gradients of its inputs, and adds up where several meet.

A Function works on plain arrays (NumPy or CuPy), never on Tensors, so each half can be called and stepped through on its own:

    class Mul(Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.x, ctx.y = x, y
            return x * y

        @staticmethod
        def backward(ctx, dout):
            return dout * ctx.y, dout * ctx.x

This is reverse-mode differentiation; Baydin et al. 2018, "Automatic differentiation in machine learning: a survey", section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks, switches
from .accumulation import GradientSums, add_to_leaf, is_fresh
from .backend import Array
from .dtypes import agree

if TYPE_CHECKING:  # for annotations only: tensor.py stands on this file
    from .tensor import Tensor


class _Everything:
    def __getitem__(self, index: int) -> bool:
        return True


class Context:
    """One call of a Function, and its node in the graph. Forward leaves here, as named attributes, what backward needs.

    `needs_grad[i]` says whether the gradient of input i is wanted. A context made by hand (`Context()`) wants all of them.
    """

    _node = ("function", "needs_grad", "edges", "outputs", "released", "retained", "so_far")

    function: type[Function]
    needs_grad: Any = _Everything()
    edges: tuple[tuple[Any, int] | None, ...] = ()  # per input: (Context, which of its outputs) or (leaf Tensor, its version)
    outputs: list[tuple[tuple[int, ...], np.dtype]]  # per output: shape and dtype
    released = False
    retained: dict[int, Tensor] | None = None  # outputs whose gradient is kept; see Tensor.retain_grad
    so_far: tuple[Array | None, ...] = ()

    def gradient_so_far(self, index: int) -> Array | None:
        """The gradient that input `index` has already, where the walk owns it; None elsewhere.

        A backward may add to it in place and return it: a few rows then need no dense array of their own (see `Embedding`).
        """
        return self.so_far[index] if self.so_far else None

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

    dtype_rule = "any"  # "promote": cast as PyTorch does; "float": the same, integers become floats; "same": refuse to mix
    autocast = False  # True for matrix products, which mixed precision computes from rounded inputs
    compose: Callable[..., Tensor] | None = None  # of a fused op: its textbook form, made of other ops

    @staticmethod
    def forward(ctx: Any, *arrays: Any, **options: Any) -> Any:
        raise TypeError("a Function must define forward")

    @staticmethod
    def backward(ctx: Any, *douts: Any) -> Any:
        raise TypeError("a Function must define backward")

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Any:
        """Run forward on the inputs' arrays and record the call: the one place where arrays become graph."""
        function: Any = switches.kernels.get(cls, cls)
        if function.compose is not None:
            return function.compose(*inputs, **options)
        if cls.autocast and switches.autocast is not None:
            function = switches.autocast(function)

        arrays, needs_grad = [], []
        for x in inputs:
            if isinstance(x, _tensor_class):
                arrays.append(x.data)
                needs_grad.append(x.requires_grad and switches.grad_enabled)
            else:
                arrays.append(x)
                needs_grad.append(False)
        arrays = agree(cls, arrays)
        ctx = Context()
        ctx.function, ctx.needs_grad = function, needs_grad
        if switches.observers:
            result = switches.observed("forward", ctx, arrays, function.forward, options)
        else:
            result = function.forward(ctx, *arrays, **options)

        if type(result) is not tuple:
            out = _tensor_class(result)
            if True in needs_grad:
                _record(ctx, inputs, (out,))
            return out
        outs = tuple([_tensor_class(array) for array in result])
        if True in needs_grad:
            _record(ctx, inputs, outs)
        return outs


def _record(ctx: Context, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    edges: list[Any] = []
    for x, needed in zip(inputs, ctx.needs_grad, strict=True):
        edges.append(None if not needed else (x, x.version) if x.grad_fn is None else (x.grad_fn, x.output_index))
    ctx.edges = tuple(edges)
    ctx.outputs = []
    for index, tensor in enumerate(outputs):
        array = tensor.data
        ctx.outputs.append((array.shape, array.dtype))
        if array.dtype.kind in "fc":
            tensor.requires_grad, tensor.grad_fn, tensor.output_index = True, ctx, index


# --- the way back ------------------------------------------------------------------------------------------------------------


def backward(root: Tensor, gradient: Array, retain_graph: bool = False) -> None:
    """Add d(root · gradient) / d(leaf) to the `.grad` of every leaf that `root` was computed from.

    A node runs once, when everything that used its output has run. Raises RuntimeError if the graph was already walked, or if a
    parameter was changed in place since it was used.
    """
    if root.grad_fn is None:
        add_to_leaf(root, gradient, fresh=False)
        return
    waiting_for = _count_consumers(root.grad_fn)
    sums = GradientSums()
    sums.add(root.grad_fn, root.output_index, gradient, fresh=False)
    ready = [root.grad_fn]
    while ready:
        ctx = ready.pop()
        douts = sums.pop(ctx)
        for index, tensor in (ctx.retained or {}).items():
            add_to_leaf(tensor, douts[index], fresh=False)
        ctx.so_far = tuple(sums.owned(edge) for edge in ctx.edges)
        if switches.observers:
            returned = switches.observed("backward", ctx, douts, ctx.function.backward, {})
        else:
            returned = ctx.function.backward(ctx, *douts)
        dinputs = checks.checked_gradients(ctx, returned)
        for edge, dinput in zip(ctx.edges, dinputs, strict=True):
            if edge is None:
                continue
            target, index = edge
            if dinput is not None:
                fresh = is_fresh(dinput, [*douts, *ctx.saved().values()], dinputs)
                if isinstance(target, Context):
                    sums.add(target, index, dinput, fresh)
                else:
                    add_to_leaf(target, dinput, fresh)
            if isinstance(target, Context):
                waiting_for[target] -= 1
                if waiting_for[target] == 0:
                    ready.append(target)
        ctx.so_far = ()
        if not retain_graph:
            ctx.release()


def _count_consumers(root: Context) -> dict[Context, int]:
    """How many edges lead to each node that `root` depends on; a stack, not recursion: a graph may be 10,000 ops deep."""
    consumers = {root: 0}
    stack = [root]
    while stack:
        ctx = stack.pop()
        checks.check_usable(ctx)
        for edge in ctx.edges:
            if edge is not None and isinstance(edge[0], Context):
                if edge[0] not in consumers:
                    consumers[edge[0]] = 0
                    stack.append(edge[0])
                consumers[edge[0]] += 1
    return consumers


_tensor_class: Any = None


def set_tensor_class(tensor_class: type) -> None:
    """tensor.py says here what results are wrapped in, as it stands on this file and not the other way round."""
    global _tensor_class
    _tensor_class = tensor_class
