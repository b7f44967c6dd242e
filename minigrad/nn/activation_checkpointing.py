"""Activation checkpointing: keep only the input of each block, and compute the rest again when backward needs it.

A forward pass saves every intermediate result for backward, which takes most of the memory of training. With
checkpointing a block of a model saves its input and nothing else. Its backward runs the block forward once more, now
with a graph, and walks that graph. Memory falls from all activations to one block's, and each step computes a second
forward pass: a third more work, as backward costs twice as much as forward. Chen et al. 2016, "Training deep nets with
sublinear memory cost".
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .. import backend, switches
from ..autograd import Function
from ..tensor import Tensor
from .module import Module, ModuleList


class Recompute(Function):
    """A whole block as one op. Its parameters are inputs only to say that their gradients are wanted."""

    @staticmethod
    def forward(ctx: Any, x: Any, *parameters: Any, block: Any, arguments: Any) -> Any:
        ctx.x, ctx.block, ctx.arguments = x, block, arguments
        ctx.random, ctx.autocast = backend.random_state(), switches.autocast.get()
        with switches.no_grad():
            return block(Tensor(x), *arguments).data

    @staticmethod
    def backward(ctx: Any, dout: Any) -> Any:
        x = Tensor(ctx.x, requires_grad=ctx.needs_grad[0])
        now = backend.random_state()
        autocast = switches.autocast.set(ctx.autocast)
        backend.set_random_state(ctx.random)  # dropout draws the same masks as in forward
        try:
            with switches.enable_grad():
                out = ctx.block(x, *ctx.arguments)
        finally:
            backend.set_random_state(now)
            switches.autocast.reset(autocast)
        out.backward(dout)  # adds to the .grad of the block's parameters
        return x.grad, *[None] * (len(ctx.needs_grad) - 1)


def checkpoint_activations(model: Module) -> None:
    """Let each block of `model`, the modules in its first ModuleList, compute its activations again in backward.

    Loss and gradients stay the same to the last bit. A block must give nothing away but its output: what else it keeps
    for the loss, like the `balance` of a mixture of experts, gets no gradient. Raises ValueError for a model without a
    ModuleList.
    """
    blocks = next((module for module in model.modules() if isinstance(module, ModuleList)), None)
    if blocks is None:
        raise ValueError("checkpoint_activations: the model has no ModuleList, so it has no blocks")
    for block in blocks:
        # not a closure, which copy.deepcopy would leave as it is: a copied model would run the original's blocks
        block.forward = functools.partial(_checkpointed, block, block.forward)


def _checkpointed(block: Module, plain: Callable[..., Tensor], x: Tensor, *arguments: Any) -> Tensor:
    if not switches.is_recording():
        return plain(x, *arguments)
    wanted = [parameter for parameter in block.parameters() if parameter.requires_grad]
    return Recompute.apply(x, *wanted, block=plain, arguments=arguments)
