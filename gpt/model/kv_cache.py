"""The KV cache: the keys and values of all tokens read so far, so each new token needs the work of one token.

The keys and values of a token depend only on the token itself and on earlier tokens, so they never change. Without a
cache, generating the n-th token reads n tokens again; with a cache it reads one. n new tokens then cost n instead of
about n²/2.
"""

from __future__ import annotations

from collections.abc import Sequence

from minigrad import Tensor
from minigrad.backend import Array, module_of

from .structure import StructuredModel


class KVCache:
    """Keys and values of up to `capacity` tokens for each of `batch` sequences, in every layer that stores some.

    `model(ids, cache=cache)` fills it. If several query heads share a head of keys and values (grouped-query attention;
    Ainslie et al. 2023), the cache is smaller by that factor. Raises ValueError for more tokens than its capacity.
    """

    always_has_room = False  # True where a cache forgets old tokens by itself

    def __init__(self, batch: int, capacity: int):
        self.batch = batch
        self.capacity = capacity
        self.length = 0  # tokens read so far
        self.keys: dict[int, Array] = {}  # layer -> (B, H, capacity, D)
        self.values: dict[int, Array] = {}

    @classmethod
    def for_model(cls, model: StructuredModel, batch: int = 1, capacity: int | None = None) -> KVCache:
        """An empty cache for `model`, of the kind that it asks for. The default capacity is the model's block size."""
        # new_cache is None where a model asks for no special kind: this class.
        return (model.new_cache or cls)(batch, model.config.block_size if capacity is None else capacity)

    @property
    def nbytes(self) -> int:
        """Bytes of memory: of all tokens that it has room for."""
        return sum(array.nbytes for array in (*self.keys.values(), *self.values.values()))

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, D) to those of a layer; returns all of them, (B, H, length + T, D)."""
        if keys.requires_grad:
            raise RuntimeError("a KV cache keeps no gradients: call the model inside `with no_grad():`")
        all_keys, all_values = self.store(layer, keys.data, values.data)
        return Tensor(all_keys), Tensor(all_values)

    def store(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Append like `append`, but take and return plain arrays."""
        start = self.length
        stop = self.length + keys.shape[2]
        if stop > self.capacity:
            raise ValueError(f"the KV cache has room for {self.capacity} tokens, holds {start}, and got {stop - start}")
        if keys.shape[0] != self.batch:
            raise ValueError(f"the KV cache is for {self.batch} sequences, got {keys.shape[0]}")
        all_keys = self._room(self.keys, layer, keys)
        all_values = self._room(self.values, layer, values)
        all_keys[:, :, start:stop] = keys  # in place: there is room for the whole text
        all_values[:, :, start:stop] = values
        return all_keys[:, :, :stop], all_values[:, :, :stop]

    def _room(self, arrays: dict[int, Array], layer: int, like: Array) -> Array:
        """The array of a layer. The first time, it is made: for tokens like those of `like` (B, H, T, D)."""
        if layer not in arrays:
            _, heads, _, size = like.shape
            arrays[layer] = module_of(like).empty((self.batch, heads, self.capacity, size), like.dtype)
        return arrays[layer]

    def advance(self, tokens: int) -> None:
        """Add `tokens` to the length, after every layer has stored them."""
        self.length += tokens

    def copy(self, other: KVCache, rows: Sequence[int]) -> None:
        """Copy another cache: row i from its row rows[i]."""
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for layer, array in theirs.items():
                self._room(mine, layer, array)[:, :, : other.length] = array[rows, :, : other.length]
        self.length = other.length

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.length = min(self.length, length)  # what lies behind stays in memory, and is overwritten later
