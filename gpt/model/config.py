"""The numbers that define a model: of a GPT, and of a Llama."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Self

INIT_STD = 0.02  # the standard deviation of weights at first
GPT2_VOCAB_SIZE = 50257


class Settings:
    """What the configurations share: to and from JSON, and the checks of their numbers."""

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, as JSON can hold them."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]  # only dataclasses inherit from this

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The reverse of `to_dict`. Raises ValueError for a name that is no setting."""
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown setting {', '.join(unknown)}; {cls.__name__} has {', '.join(sorted(known))}")
        return cls(**values)

    def _check_counts(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")

    def _check_epsilon(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, float | int) or not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number >= 0, got {value!r}")

    def _check_heads(self, n_embd: int, n_head: int) -> None:
        if n_embd % n_head:
            raise ValueError(f"n_embd {n_embd} cannot be divided among {n_head} heads; choose a multiple of n_head")


@dataclasses.dataclass(frozen=True)
class GPTConfig(Settings):
    """The shape of a GPT; the defaults are GPT-2's smallest, "gpt2".

    vocab_size V: different tokens. block_size T: the longest sequence it can read. n_layer L: blocks. n_head H:
    attention heads. n_embd C: numbers per token; each head works on D = C / H of them. dropout: probability, in
    training only.
    norm: "pre" normalizes what a sub-layer reads (GPT-2), "post" the sum it leaves (GPT-1; Vaswani et al. 2017).
    positions: "learned" (GPT-2) or "sinusoidal".
    Raises ValueError for numbers that make no model.

    >>> GPTConfig().num_parameters()
    124439808
    """

    vocab_size: int = GPT2_VOCAB_SIZE
    block_size: int = 1024
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    norm: str = "pre"
    positions: str = "learned"
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        self._check_counts("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
        self._check_heads(self.n_embd, self.n_head)
        if not isinstance(self.dropout, float | int) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a number in [0, 1), got {self.dropout!r}")
        self._check_epsilon("layer_norm_epsilon")
        if self.norm not in ("pre", "post"):
            raise ValueError(f"norm must be 'pre' or 'post', got {self.norm!r}")
        if self.positions not in ("learned", "sinusoidal"):
            raise ValueError(f"positions must be 'learned' or 'sinusoidal', got {self.positions!r}")

    @property
    def n_kv_head(self) -> int:
        """Heads of keys and values: one for each head of queries."""
        return self.n_head

    @property
    def tied(self) -> bool:
        """Is the output layer the token embedding? In GPT-2 always."""
        return True

    @property
    def n_inner(self) -> int:
        """Numbers per token in the middle of the feed-forward network."""
        return 4 * self.n_embd

    def num_parameters(self) -> int:
        """How many numbers such a model learns, without building it: V C + T C + L (12 C² + 13 C) + 2 C.

        The embeddings of tokens (which is the output layer, too) and positions; per block four matrices (C x 3C, C x C,
        C x 4C, 4C x C) with their biases and two norms; one norm at the end. Sinusoidal positions are not learned, and
        post-norm has no norm at the end.
        """
        V, T, L, C = self.vocab_size, self.block_size, self.n_layer, self.n_embd
        positions = T * C if self.positions == "learned" else 0
        last_norm = 2 * C if self.norm == "pre" else 0
        return V * C + positions + L * (12 * C * C + 13 * C) + last_norm

    @classmethod
    def preset(cls, name: str, **changes: Any) -> GPTConfig:
        """A known shape by name, with some numbers changed. Raises ValueError for an unknown name."""
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; known are {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})


PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},  # 124,439,808 parameters
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},  # 354,823,168
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},  # 774,030,080
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},  # 1,557,611,200
    "distilgpt2": {"n_layer": 6, "n_head": 12, "n_embd": 768},  # 81,912,576
    "baby": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "vocab_size": 65},  # 10,770,816
    "tiny": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "vocab_size": 1024},  # 932,608
}


@dataclasses.dataclass(frozen=True)
class LlamaConfig(Settings):
    """The shape of a Llama; the defaults are SmolLM2-135M's.

    vocab_size, block_size, n_layer, n_head, n_embd: as in `GPTConfig`. n_kv_head K: heads of keys and values, of which
    each serves n_head / K heads of queries. n_inner: numbers per token in the middle of the feed-forward network.
    rope_theta: the base of the rotary positions; the slowest pair turns once in about 2 pi rope_theta tokens.
    rms_norm_epsilon: added to the mean square. tied: is the output layer the token embedding?
    Raises ValueError for numbers that make no model.

    >>> LlamaConfig().num_parameters()
    134515008
    """

    vocab_size: int = 49152
    block_size: int = 8192
    n_layer: int = 30
    n_head: int = 9
    n_kv_head: int = 3
    n_embd: int = 576
    n_inner: int = 1536
    rope_theta: float = 100000.0
    rms_norm_epsilon: float = 1e-5
    tied: bool = True

    def __post_init__(self) -> None:
        self._check_counts("vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "n_inner")
        self._check_heads(self.n_embd, self.n_head)
        if self.n_head % self.n_kv_head:
            raise ValueError(
                f"{self.n_head} query heads cannot share {self.n_kv_head} heads of keys and values; n_kv_head must "
                "divide n_head"
            )
        if self.head_size % 2:
            raise ValueError(
                f"rotary positions turn pairs of numbers, but a head has {self.head_size} (n_embd / n_head); choose "
                "an even head size"
            )
        if not isinstance(self.rope_theta, float | int) or not 0 < self.rope_theta < math.inf:
            raise ValueError(f"rope_theta must be a number > 0, got {self.rope_theta!r}")
        self._check_epsilon("rms_norm_epsilon")
        if not isinstance(self.tied, bool):
            raise ValueError(f"tied must be true or false, got {self.tied!r}")

    @property
    def head_size(self) -> int:
        """D: numbers per head."""
        return self.n_embd // self.n_head

    def num_parameters(self) -> int:
        """How many numbers such a model learns: V C (twice if not tied) + L (2 C² + 2 C K D + 3 C I + 2 C) + C.

        Per block: queries and the output projection C x C, keys and values C x K D, three matrices C x I, two norms
        without a shift; no biases anywhere, and no positions, which are not learned.
        """
        V, L, C, inner = self.vocab_size, self.n_layer, self.n_embd, self.n_inner
        keys_and_values = 2 * C * self.n_kv_head * self.head_size
        return V * C * (1 if self.tied else 2) + L * (2 * C * C + keys_and_values + 3 * C * inner + 2 * C) + C
