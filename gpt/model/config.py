"""The numbers that define a model: of a GPT, and of a Llama."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Self

ACTIVATIONS = ("gelu_tanh", "gelu", "relu", "silu")
INIT_STD = 0.02  # the standard deviation of weights at first
GPT2_VOCAB_SIZE = 50257


class Settings:
    """What the configurations share: to and from JSON, and the checks of their numbers."""

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, as JSON can hold them."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]  # only dataclasses inherit from this

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The reverse of `to_dict`. Raises ValueError for a name that is not a setting."""
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

    def _check_flags(self, *names: str) -> None:
        for name in names:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")

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
    n_inner: numbers per token in the middle of the feed-forward network; None: 4 C. activation: the function between
    its two layers, one of ACTIVATIONS. tied: is the output layer the token embedding?
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
    n_inner: int = None  # type: ignore[assignment]  # __post_init__ puts a number in the place of None
    activation: str = "gelu_tanh"
    tied: bool = True

    def __post_init__(self) -> None:
        self._check_counts("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
        self._check_heads(self.n_embd, self.n_head)
        if self.n_inner is None:
            object.__setattr__(self, "n_inner", 4 * self.n_embd)
        self._check_counts("n_inner")
        self._check_flags("tied")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
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
    def head_size(self) -> int:
        """D: numbers per head."""
        return self.n_embd // self.n_head

    def num_parameters(self) -> int:
        """How many numbers such a model learns, without building it: V C + T C + L (12 C² + 13 C) + 2 C.

        The embeddings of tokens (also the output layer) and positions; per block four matrices (C x 3C, C x C,
        C x 4C, 4C x C) with their biases and two norms; one norm at the end. Sinusoidal positions are not learned, and
        post-norm has no norm at the end. An inner width I in the place of 4C has 4 C² + 2 C I + 9 C + I in a block, and
        a head that is not tied has V C more.
        """
        V, T, L, C, inner = self.vocab_size, self.block_size, self.n_layer, self.n_embd, self.n_inner
        positions = T * C if self.positions == "learned" else 0
        last_norm = 2 * C if self.norm == "pre" else 0
        block = 4 * C * C + 2 * C * inner + 9 * C + inner
        return V * C * (1 if self.tied else 2) + positions + L * block + last_norm

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
class RopeScaling:
    """How rotary positions are slowed down, for longer texts than the model was first trained on (`positions.slowed`).

    factor: of how much. The others are Llama 3.1's: pairs that turn less than low_freq_factor times in original_context
    tokens are slowed down, those that turn more than high_freq_factor times are not. None: all pairs are ("linear").
    Raises ValueError for numbers that make no sense.
    """

    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_context: int | None = None

    def __post_init__(self) -> None:
        numbers = dataclasses.astuple(self)
        if None in numbers and numbers[1:] != (None, None, None):
            raise ValueError("rotary positions are slowed down by one factor, or by all four numbers of Llama 3.1")
        for field, value in zip(dataclasses.fields(self), numbers):
            optional = value is None and field.name != "factor"
            if not optional and (type(value) not in (int, float) or not 0 < value < math.inf):
                raise ValueError(f"the {field.name} of rotary positions must be a number > 0, got {value!r:.60}")
        low, high = self.low_freq_factor, self.high_freq_factor
        if low is not None and high is not None and low >= high:
            raise ValueError("the low_freq_factor of rotary positions must be less than the high_freq_factor")


@dataclasses.dataclass(frozen=True)
class LlamaConfig(Settings):
    """The shape of a Llama; the defaults are SmolLM2-135M's.

    vocab_size, block_size, n_layer, n_head, n_embd: as in `GPTConfig`. n_kv_head K: heads of keys and values; each
    serves n_head / K heads of queries. n_inner: numbers per token in the middle of the feed-forward network.
    rope_theta: the base of the rotary positions; the slowest pair turns once in about 2 pi rope_theta tokens.
    rms_norm_epsilon: added to the mean square. tied: is the output layer the token embedding? head_size D: None is
    n_embd / n_head. rope_scaling: see there. qkv_bias: do queries, keys and values have biases (Qwen2)? qk_norm: are
    the queries and keys of each head normalized (Qwen3)?
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
    head_size: int = None  # type: ignore[assignment]  # __post_init__ puts a number in the place of None
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        self._check_counts("vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "n_inner")
        if self.head_size is None:
            self._check_heads(self.n_embd, self.n_head)
            object.__setattr__(self, "head_size", self.n_embd // self.n_head)
        self._check_counts("head_size")
        if isinstance(self.rope_scaling, dict):  # from JSON
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
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
        self._check_flags("tied", "qkv_bias", "qk_norm")

    def num_parameters(self) -> int:
        """How many numbers such a model learns: V C (twice if not tied) + L (2 C H D + 2 C K D + 3 C I + 2 C) + C.

        Per block: queries and the output projection C x H D, keys and values C x K D, three matrices C x I, two norms
        without a shift; no positions, which are not learned, and mostly no biases ((H + 2 K) D, if queries, keys and
        values have them) and no norms of queries and keys (2 D).
        """
        V, L, C, D, inner = self.vocab_size, self.n_layer, self.n_embd, self.head_size, self.n_inner
        queries, keys = self.n_head * D, self.n_kv_head * D
        small = (queries + 2 * keys if self.qkv_bias else 0) + (2 * D if self.qk_norm else 0)
        block = 2 * C * (queries + keys) + 3 * C * inner + 2 * C + small
        return V * C * (1 if self.tied else 2) + L * block + C
