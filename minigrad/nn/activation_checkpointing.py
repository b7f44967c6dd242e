"""Activation checkpointing: keep only the input of each block, and compute the rest again when backward needs it.

A forward pass saves every intermediate result for backward, which takes most of the memory of training. With
checkpointing a block of a model saves its input and nothing else. Its backward runs the block forward once more, now
with a graph, and walks that graph. Memory falls from all activations to one block's, and each step computes a second
forward pass: a third more work, as backward costs twice as much as forward. Chen et al. 2016, "Training deep nets with
sublinear memory cost".

The second forward must compute what the first did, whatever happened in between: somebody called `model.eval()`, drew
random numbers or left an `autocast` block. `BlockCall` keeps what a block's result depends on, and puts it back.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Sequence
from typing import Any

from .. import backend, switches
from ..autograd import Function
from ..tensor import Tensor
from .module import Module, ModuleList


class Recompute(Function):
    """A whole block as one op, which saves what goes in, and in backward runs the block again.

    Its inputs are all tensors that the block reads: its arguments and what its modules hold, such as weights. Its
    outputs are the block's result and the tensors that it leaves in attributes, such as a mixture's balance loss.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any, call: BlockCall, outputs: tuple[Any, ...]) -> Any:
        ctx.inputs, ctx.call = inputs, call  # with the weights, so the engine notices if one is overwritten
        return outputs  # the block has run already, without a graph

    @staticmethod
    def backward(ctx: Any, *douts: Any) -> Any:
        # The second graph gets leaves of its own. It ends at them, and adds to no other tensor's gradient.
        leaves = [Tensor(array, wanted) for array, wanted in zip(ctx.inputs, ctx.needs_grad, strict=True)]
        outputs = ctx.call.repeat(leaves)
        root, dout = outputs[0], douts[0]
        if len(outputs) > 1:
            with switches.enable_grad():  # backward may have been called inside of no_grad
                root = Join.apply(*outputs, douts=douts)
                dout = None
        if root.requires_grad:
            root.backward(dout)
        return tuple(leaf.grad for leaf in leaves)


class Join(Function):
    """One root for a backward that starts at several outputs, each with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, *outputs: Any, douts: Any) -> Any:
        ctx.douts = douts
        return backend.module_of(outputs[0]).zeros(())

    @staticmethod
    def backward(ctx: Any, dout: Any) -> Any:
        return ctx.douts  # backward starts here, so dout is 1


class TensorOfAnEarlierCall:
    """Stands where this call found a tensor of an earlier one and left another. A block that computes with it fails.

    Most blocks do not read the old tensor. As an input, it would keep the graph of the earlier call alive.
    """


class BlockCall:
    """One call of a block, with all that its result depends on at that time: `run` makes it, `repeat` repeats it."""

    def __init__(self, block: Module, forward: Callable[..., Tensor], arguments: Sequence[Any]):
        self.forward, self.arguments = forward, arguments
        self.held = {  # the attributes of each module: weights, hooks, training or inference mode, ...
            module: {**vars(module), "_forward_hooks": dict(module._forward_hooks)} for module in block.modules()
        }
        self.random = backend.random_state()
        self.thread = contextvars.copy_context()  # the switches of this thread: is a graph recorded, autocast

    def run(self) -> list[Tensor]:
        """Run the block without a graph. Returns its result, then the tensors that it left in attributes."""
        with switches.no_grad():
            result = self.forward(*self.arguments)
        self.left = []
        for module, held in self.held.items():
            for name, value in vars(module).items():
                if type(value) is Tensor and value is not held.get(name):
                    self.left.append((module, name))
                    if getattr(held.get(name), "grad_fn", None):
                        held[name] = TensorOfAnEarlierCall()
        read = [*self.arguments, *(value for held in self.held.values() for value in held.values())]
        self.inputs = list({id(x): x for x in read if isinstance(x, Tensor)}.values())  # a tied weight once
        return [result, *(vars(module)[name] for module, name in self.left)]

    def repeat(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        """Do what `run` did, now with a graph, and with `leaves` in the place of `inputs`. All else stays as it is."""
        instead = {id(x): leaf for x, leaf in zip(self.inputs, leaves, strict=True)}
        attributes = {module: vars(module) for module in self.held}
        random = backend.random_state()
        try:
            for module, held in self.held.items():
                module.__dict__ = {name: instead.get(id(value), value) for name, value in held.items()}
            backend.set_random_state(self.random)  # dropout draws the same masks as in forward
            result = self.thread.run(self.forward, *[instead.get(id(x), x) for x in self.arguments])
            return [result, *(vars(module)[name] for module, name in self.left)]
        finally:
            for module, now in attributes.items():
                module.__dict__ = now
            backend.set_random_state(random)

    def __deepcopy__(self, memo: dict[int, Any]) -> BlockCall:
        return self  # a copy of the graph repeats the same call


def checkpoint_activations(model: Module) -> None:
    """Let each block of `model`, the modules in its first ModuleList, compute its activations again in backward.

    Loss and gradients stay the same to the last bit, unless other kernels are selected before backward. A block may
    leave tensors for the loss in attributes of its modules, like the `balance` of a mixture of experts. A tensor that
    leaves the block in another way, such as through a hook that appends it to a list, has no gradient. Nor has one that
    enters it in another way than as an argument or an attribute: in a tuple, say. Hooks inside a block run twice.
    Raises ValueError for a model without a ModuleList.
    """
    blocks = next((module for module in model.modules() if isinstance(module, ModuleList)), None)
    if blocks is None:
        raise ValueError("checkpoint_activations: the model has no ModuleList, so it has no blocks")
    for block in blocks:
        # not a closure, which copy.deepcopy would leave as it is: a copied model would run the original's blocks
        block.forward = functools.partial(_checkpointed, block, block.forward)


def _checkpointed(block: Module, plain: Callable[..., Tensor], *arguments: Any) -> Tensor:
    if not switches.is_recording():
        return plain(*arguments)
    call = BlockCall(block, plain, arguments)
    outputs = tuple(output.data for output in call.run())
    result, *left = Recompute.apply(*call.inputs, call=call, outputs=outputs)
    for (module, name), tensor in zip(call.left, left, strict=True):
        setattr(module, name, tensor)
    return result
