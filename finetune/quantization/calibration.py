"""Calibration: measure the inputs of each layer while the model reads some text.

GPTQ and AWQ need two statistics of the inputs x (I) of a layer: the sum of x xᵀ, which shows how large the inputs are
and which of them are correlated, and the mean of |x|. Both are sums, so the inputs themselves need not be stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gpt.interpretability.activations import hooked
from minigrad import Tensor, nn, no_grad

from .. import architectures

BATCH_TOKENS = 4096  # tokens per batch


class InputMoments:
    """Sums over all inputs of a layer: hessian Σ x xᵀ (I, I), named as in gptq.py; magnitude Σ |x| (I); count."""

    def __init__(self, size: int):
        self.hessian = np.zeros((size, size), np.float32)
        self.magnitude = np.zeros(size, np.float32)
        self.count = 0

    @property
    def mean_magnitude(self) -> np.ndarray:
        """Mean |x| (I)."""
        return self.magnitude / max(self.count, 1)

    def add(self, x: np.ndarray) -> None:
        """Add inputs (..., I) to the sums."""
        flat = x.reshape(-1, x.shape[-1])
        self.hessian += flat.T @ flat
        self.magnitude += np.abs(flat).sum(axis=0)
        self.count += len(flat)


class _Enough(Exception):
    """Raised to stop the forward pass when all watched layers have received their inputs."""


class Reader:
    """Reads the calibration text one block of the model at a time and keeps the hidden states (N, T, C) in between."""

    def __init__(self, model: Any, ids: np.ndarray):
        parts = architectures.of(model)
        body = parts.body_of(model)
        self.batch = max(1, BATCH_TOKENS // ids.shape[1])
        dtype = next(body.parameters()).dtype
        self.hidden = np.empty((*ids.shape, body.config.n_embd), dtype)
        self.block_arguments = parts.block_arguments(body, ids.shape[1])
        with no_grad():
            for rows in self._batches():
                self.hidden[rows] = parts.embed(body, ids[rows]).data

    @no_grad()
    def inputs_of(self, block: nn.Module, names: Sequence[str]) -> dict[str, InputMoments]:
        """The moments of the inputs of a block's layers, with the block as it is now. names: in computing order."""
        layers: dict[str, Any] = {name: block.get_submodule(name) for name in names}
        moments = {name: InputMoments(layer.in_features) for name, layer in layers.items()}

        def counting(name: str) -> Callable[..., None]:
            def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                moments[name].add(inputs[0].data)
                if name == names[-1]:
                    raise _Enough  # the rest of the block is not needed

            return hook

        with hooked(block, {name: counting(name) for name in names}):
            for rows in self._batches():
                with contextlib.suppress(_Enough):
                    block(Tensor(self.hidden[rows]), *self.block_arguments)
        return moments

    @no_grad()
    def pass_through(self, block: nn.Module) -> None:
        """Replace the hidden states by the output of `block`, the input of the next block."""
        for rows in self._batches():
            self.hidden[rows] = block(Tensor(self.hidden[rows]), *self.block_arguments).data

    def _batches(self) -> Iterator[slice]:
        for start in range(0, len(self.hidden), self.batch):
            yield slice(start, start + self.batch)


def check_ids(ids: Any, config: architectures.Config) -> None:
    """Raise ValueError unless ids (N, T) are a calibration text: in the vocabulary, with T at most the block size."""
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "iu" or ids.shape[1] > config.block_size:
        raise ValueError(
            f"calibration must be token ids (N, T), with T at most {config.block_size}, got {ids.dtype} of shape "
            f"{ids.shape}"
        )
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise ValueError(f"calibration has ids outside the vocabulary of {config.vocab_size} tokens")


def check_reads(model: Any, ids: np.ndarray) -> None:
    """Raise ValueError if the model has activations on this text that are not finite."""
    reader = Reader(model, ids)
    for index, block in enumerate(architectures.of(model).blocks_of(model)):
        reader.pass_through(block)
        if not np.isfinite(reader.hidden).all():
            raise ValueError(f"on the calibration text, block {index} gives numbers that are not finite (nan or inf)")
