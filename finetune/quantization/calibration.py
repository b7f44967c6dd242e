"""Calibration: what a layer's inputs look like, found by letting a model read some text.

GPTQ and AWQ need two things of the inputs x (I) of a layer: the sum of x xᵀ, which says how large each is and which
go together, and the mean of |x|. Both are sums, so that the inputs themselves need not be kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from minigrad import Tensor, nn, no_grad

from .. import architectures

BATCH_TOKENS = 4096  # read at a time


@dataclasses.dataclass
class InputMoments:
    """Sums over all inputs of a layer with I inputs: gram Σ x xᵀ (I, I), magnitude Σ |x| (I), and how many they are."""

    gram: np.ndarray
    magnitude: np.ndarray
    count: int = 0

    @classmethod
    def empty(cls, size: int) -> InputMoments:
        """Of no inputs yet."""
        return cls(np.zeros((size, size), np.float32), np.zeros(size, np.float32))

    @property
    def mean_magnitude(self) -> np.ndarray:
        """Mean |x| (I)."""
        return self.magnitude / max(self.count, 1)

    def add(self, x: np.ndarray) -> None:
        """Count inputs (..., I)."""
        flat = x.reshape(-1, x.shape[-1])
        self.gram += flat.T @ flat
        self.magnitude += np.abs(flat).sum(axis=0)
        self.count += len(flat)


class _Enough(Exception):
    """All layers that are watched have been given their inputs."""


class Reader:
    """Reads the calibration text one block of the model at a time; in between it keeps the hidden states (N, T, C)."""

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
    def inputs_of(self, block: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, InputMoments]:
        """What the layers of a block, in the order in which they compute, are given, as things stand."""
        moments = {name: InputMoments.empty(layer.in_features) for name, layer in layers.items()}  # type: ignore[attr-defined]
        *_, last = layers

        def counting(name: str) -> Callable[..., None]:
            def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                moments[name].add(inputs[0].data)
                if name == last:
                    raise _Enough  # what comes after it need not be computed

            return hook

        hooks = [layer.register_forward_hook(counting(name)) for name, layer in layers.items()]
        try:
            for rows in self._batches():
                with contextlib.suppress(_Enough):
                    block(Tensor(self.hidden[rows]), *self.block_arguments)
        finally:
            for hook in hooks:
                hook.remove()
        return moments

    @no_grad()
    def pass_through(self, block: nn.Module) -> None:
        """Go on to the next block: hidden states become what this one makes of them."""
        for rows in self._batches():
            self.hidden[rows] = block(Tensor(self.hidden[rows]), *self.block_arguments).data

    def _batches(self) -> Iterator[slice]:
        for start in range(0, len(self.hidden), self.batch):
            yield slice(start, start + self.batch)


def check_ids(ids: Any, config: architectures.Config) -> None:
    """Raise ValueError for what is no calibration text: ids (N, T) of the vocabulary, T at most the block size."""
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "iu" or ids.shape[1] > config.block_size:
        raise ValueError(
            f"calibration must be token ids (N, T), with T at most {config.block_size}, got {ids.dtype} of shape "
            f"{ids.shape}"
        )
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise ValueError(f"calibration has ids outside the vocabulary of {config.vocab_size} tokens")


def check_reads(model: Any, ids: np.ndarray) -> None:
    """Raise ValueError if the model, as it is, makes numbers of the text that are not finite."""
    reader = Reader(model, ids)
    for index, block in enumerate(architectures.of(model).blocks_of(model)):
        reader.pass_through(block)
        if not np.isfinite(reader.hidden).all():
            raise ValueError(f"on the calibration text, block {index} gives numbers that are not finite (nan or inf)")
