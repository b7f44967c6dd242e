"""Calibration: measure the inputs of each layer while the model reads some text.

GPTQ and AWQ need two statistics of the inputs x (I) of a layer: the sum of x xᵀ, which shows how large the inputs are
and which of them are correlated, and the mean of |x|. Both are sums, so the inputs themselves need not be stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from gpt.interpretability.activations import hooked
from gpt.model.structure import SharedInput, StructuredModel
from minigrad import Tensor, nn, no_grad
from minigrad.functional.indexing import check_indices

BATCH_TOKENS = 4096  # tokens per batch


class InputMoments:
    """Sums over all inputs of a layer: hessian Σ x xᵀ (I, I), named as in gptq.py; magnitude Σ |x| (I); count."""

    def __init__(self, size: int):
        self.hessian = np.zeros((size, size), np.float32)
        self.magnitude = np.zeros(size, np.float32)
        self.count = 0

    def add(self, x: np.ndarray) -> None:
        """Add inputs (..., I) to the sums."""
        flat = x.reshape(-1, x.shape[-1])
        self.hessian += flat.T @ flat
        self.magnitude += np.abs(flat).sum(axis=0)
        self.count += len(flat)


class _Enough(Exception):
    """Raised by a hook to stop the forward pass when it has what it is waiting for."""


class Reader:
    """Reads the calibration text one block of the model at a time and keeps the hidden states (N, T, C) in between."""

    @no_grad()
    def __init__(self, model: StructuredModel, ids: np.ndarray):
        rows_at_once = max(1, BATCH_TOKENS // ids.shape[1])
        self.batches = [slice(start, start + rows_at_once) for start in range(0, len(ids), rows_at_once)]
        self.hidden = np.empty((*ids.shape, model.config.n_embd), next(model.body.parameters()).dtype)
        self.block_arguments: tuple[Any, ...] = ()  # the arguments after x, which are the same for all blocks

        def keep(block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.hidden[rows] = inputs[0].data
            self.block_arguments = inputs[1:]
            raise _Enough

        with hooked(model, {model.names.block(0): keep}):
            for rows in self.batches:
                with contextlib.suppress(_Enough):
                    model.body(ids[rows])

    @no_grad()
    def inputs_of(self, block: Any, inputs: Sequence[SharedInput]) -> dict[str, InputMoments]:
        """The moments of each layer's input, with the block as it is now. Layers that share an input share them."""
        moments: dict[str, InputMoments] = {}
        for layers, _ in inputs:
            moments |= dict.fromkeys(layers, InputMoments(block.get_submodule(layers[0]).in_features))

        def count(name: str, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            moments[name].add(args[0].data)
            if name in inputs[-1].layers:
                raise _Enough  # the rest of the block is not needed

        with hooked(block, {layers[0]: partial(count, layers[0]) for layers, _ in inputs}):
            for rows in self.batches:
                with contextlib.suppress(_Enough):
                    block(Tensor(self.hidden[rows]), *self.block_arguments)
        return moments

    @no_grad()
    def pass_through(self, block: nn.Module) -> None:
        """Replace the hidden states by the output of `block`, the input of the next block."""
        for rows in self.batches:
            self.hidden[rows] = block(Tensor(self.hidden[rows]), *self.block_arguments).data


def check_calibration(model: StructuredModel, ids: np.ndarray) -> None:
    """Raise ValueError, or IndexError, unless ids (N, T) are a text that the model can read."""
    config = model.config
    if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "iu" or ids.shape[1] > config.block_size:
        got = f"{ids.dtype} of shape {ids.shape}"
        raise ValueError(f"calibration must be token ids (N, T), with T at most {config.block_size}, got {got}")
    check_indices("calibration", ids, config.vocab_size, "the vocabulary")
