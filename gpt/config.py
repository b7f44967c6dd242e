"""The numbers that define a GPT."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

INIT_STD = 0.02  # the standard deviation of weights at first
GPT2_VOCAB_SIZE = 50257


@dataclasses.dataclass(frozen=True)
class GPTConfig:
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
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd {self.n_embd} cannot be divided among {self.n_head} heads; choose a multiple of n_head"
            )
        if not isinstance(self.dropout, float | int) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a number in [0, 1), got {self.dropout!r}")
        if not isinstance(self.layer_norm_epsilon, float | int) or not 0 <= self.layer_norm_epsilon < math.inf:
            raise ValueError(f"layer_norm_epsilon must be a number >= 0, got {self.layer_norm_epsilon!r}")
        if self.norm not in ("pre", "post"):
            raise ValueError(f"norm must be 'pre' or 'post', got {self.norm!r}")
        if self.positions not in ("learned", "sinusoidal"):
            raise ValueError(f"positions must be 'learned' or 'sinusoidal', got {self.positions!r}")

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

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, as JSON can hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GPTConfig:
        """The reverse of `to_dict`. Raises ValueError for a name that is no setting."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown setting {', '.join(unknown)}; GPTConfig has {', '.join(sorted(known))}")
        return cls(**values)


PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},  # 124,439,808 parameters
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},  # 354,823,168
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},  # 774,030,080
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},  # 1,557,611,200
    "distilgpt2": {"n_layer": 6, "n_head": 12, "n_embd": 768},  # 81,912,576
    "baby": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "vocab_size": 65},  # 10,770,816
    "tiny": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "vocab_size": 1024},  # 932,608
}
