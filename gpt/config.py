"""The numbers that define a GPT."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT; the defaults are GPT-2's smallest, "gpt2".

    vocab_size V: different tokens. block_size: the longest sequence it can read. n_layer: blocks. n_head H: attention heads.
    n_embd C: numbers per token; each head works on D = C / H of them. dropout: probability, in training only.
    norm: "pre" normalizes what a sub-layer reads (GPT-2), "post" the sum it leaves (Vaswani et al. 2017).
    positions: "learned" (GPT-2) or "sinusoidal".
    Raises ValueError for numbers that make no model.
    """

    vocab_size: int = 50257
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
            raise ValueError(f"n_embd {self.n_embd} cannot be divided among {self.n_head} heads; choose a multiple of n_head")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.norm not in ("pre", "post"):
            raise ValueError(f"norm must be 'pre' or 'post', got {self.norm!r}")
        if self.positions not in ("learned", "sinusoidal"):
            raise ValueError(f"positions must be 'learned' or 'sinusoidal', got {self.positions!r}")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> GPTConfig:
        """A known shape by name, with some numbers changed. Raises ValueError for an unknown name, listing the known ones."""
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; known are {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})

    def to_dict(self) -> dict[str, Any]:
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
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
    "distilgpt2": {"n_layer": 6, "n_head": 12, "n_embd": 768},
    "baby": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "vocab_size": 65},
    "tiny": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "vocab_size": 1024},
}
