"""Bugs that do not crash: a model learns with each of them. scripts/break.py trains with all, lesson 435 with three."""

from typing import Any

import numpy as np

import minigrad.functional as F
from gpt import GPT
from gpt.model.gpt2 import Block
from gpt.training.batches import Batch, RandomBatches
from minigrad import Tensor, nn
from minigrad.functional.activation import Gelu
from minigrad.functional.indexing import Embedding

attention = F.scaled_dot_product_attention


def unmasked(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    """Attention without the causal mask: each token sees all tokens."""
    return attention(q, k, v)


def unscaled(*arguments: Any, **more: Any) -> Tensor:
    """Attention whose scores are not divided by sqrt(D)."""
    return attention(*arguments, **more, scale=1.0)


def without_residual(block: Block, x: Tensor, *more: Any) -> Tensor:
    """The forward of a block whose sub-layers replace x instead of adding to it."""
    return block.mlp(block.ln_2(block.attn(block.ln_1(x), *more)))


class OverwritingEmbedding(Embedding):
    """Backward with = instead of +=: only the last occurrence of a token counts."""

    @staticmethod
    def backward(ctx, dout):
        dweight = np.zeros(ctx.shape, dout.dtype)
        dweight[ctx.ids.reshape(-1)] = dout.reshape(ctx.ids.size, ctx.shape[1])
        return None, dweight


class FlippedGelu(Gelu):
    """Backward with the wrong sign: the MLP's first layer ascends the loss."""

    @staticmethod
    def backward(ctx, dout):
        (dx,) = Gelu.backward(ctx, dout)
        return (-dx,)


def drop_positions(model: GPT) -> None:
    """No position embeddings."""
    model.transformer.wpe.weight.data[...] = 0
    model.transformer.wpe.weight.requires_grad_(False)


def untie(model: GPT) -> None:
    """A head with a matrix of its own, in place of the embedding's."""
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.data.copy())


class Unshifted(RandomBatches):
    """Targets that are the inputs."""

    def __next__(self) -> Batch:
        inputs, _ = super().__next__()
        return inputs, inputs
