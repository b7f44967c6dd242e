"""The KV cache: the keys and values of all tokens read so far, so each new token needs the work of one token.

The keys and values of a token depend only on the token itself and on earlier tokens, so they never change. Without a
cache, generating the n-th token reads n tokens again; with a cache it reads one. n new tokens then cost n instead of
about n²/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad import Tensor
from minigrad.backend import Array, module_of

from .structure import StructuredModel


class KVCache:
    """Keys and values of up to `capacity` tokens for each of `batch` sequences, in every layer.

    `model(ids, cache=cache)` fills it. If several query heads share a head of keys and values (grouped-query attention;
    Ainslie et al. 2023), the cache is smaller by that factor. Raises ValueError for more tokens than its capacity.
    """

    def __init__(self, n_layer: int, batch: int, n_kv_head: int, capacity: int, head_size: int, xp: Any, dtype: Any):
        self.capacity = capacity
        self.length = 0  # tokens read so far
        self.keys = [xp.empty((batch, n_kv_head, capacity, head_size), dtype) for _ in range(n_layer)]
        self.values = [xp.empty((batch, n_kv_head, capacity, head_size), dtype) for _ in range(n_layer)]

    @classmethod
    def for_model(cls, model: StructuredModel, batch: int = 1, capacity: int | None = None) -> KVCache:
        """An empty cache for `model`. The default capacity is the model's block size."""
        config = model.config
        like = next(model.parameters()).data
        capacity = config.block_size if capacity is None else capacity
        shape = config.n_layer, batch, config.n_kv_head, capacity, config.head_size
        return cls(*shape, module_of(like), like.dtype)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, D) to those of a layer; returns all of them, (B, H, length + T, D)."""
        if keys.requires_grad:
            raise RuntimeError("a KV cache keeps no gradients: call the model inside `with no_grad():`")
        all_keys, all_values = self.store(layer, keys.data, values.data)
        return Tensor(all_keys), Tensor(all_values)

    def store(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Append like `append`, but take and return plain arrays."""
        start, stop = self.length, self.length + keys.shape[2]
        if stop > self.capacity:
            raise ValueError(f"the KV cache has room for {self.capacity} tokens, holds {start}, and got {stop - start}")
        if keys.shape[0] != self.keys[layer].shape[0]:
            raise ValueError(f"the KV cache is for {self.keys[layer].shape[0]} sequences, got {keys.shape[0]}")
        # in place: the memory for the whole text was reserved at the beginning
        self.keys[layer][:, :, start:stop] = keys
        self.values[layer][:, :, start:stop] = values
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]

    def advance(self, tokens: int) -> None:
        """Add `tokens` to the length, after every layer has stored them."""
        self.length += tokens

    def copy(self, other: KVCache, rows: Sequence[int]) -> None:
        """Hold what another cache holds: sequence i of this one what sequence rows[i] of the other has read."""
        for mine, theirs in zip(self.keys + self.values, other.keys + other.values, strict=True):
            mine[:, :, : other.length] = theirs[rows, :, : other.length]
        self.length = other.length

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.length = min(self.length, length)  # what lies behind stays in memory, and is overwritten later
