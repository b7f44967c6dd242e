"""The numbers that define a model: of a GPT, and of a Llama."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Self

from minigrad.backend import Array

from .settings import Checked, from_json, setting

size = functools.partial(setting, range=">= 1")  # a setting that counts something
INIT_STD = 0.02  # the standard deviation of weights at first
GPT2_VOCAB_SIZE = 50257


class Settings(Checked):
    """The base class of the configurations: to and from JSON, and the checks of their numbers."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    head_size: int
    tied: bool

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, as JSON can hold them."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]  # only dataclasses inherit from this

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The reverse of `to_dict`. Raises ValueError for a name that is not a setting."""
        return from_json(cls, values)

    def parameters(self) -> dict[str, int]:
        """The number of parameters of each kind of component."""
        raise TypeError(f"{type(self).__name__} must define parameters()")

    def num_parameters(self) -> int:
        """How many numbers such a model learns, without building it.

        >>> GPTConfig().num_parameters(), LlamaConfig().num_parameters()
        (124439808, 134515008)
        """
        return sum(self.parameters().values())

    def _check_heads(self) -> None:
        if self.n_embd % self.n_head:
            shared = f"n_embd {self.n_embd} cannot be divided among {self.n_head} heads"
            raise ValueError(f"{shared}; choose a multiple of n_head")


@dataclasses.dataclass(frozen=True)
class GPTConfig(Settings):
    """The shape of a GPT; the defaults are GPT-2's smallest, "gpt2". Raises ValueError for numbers that make no model.

    In formulas these are V tokens in the vocabulary, T tokens of context, L blocks, H heads, and C numbers per
    token, of which each head has D = C / H.

    norm: "pre" normalizes what a sub-layer reads (GPT-2), "post" the sum it leaves (GPT-1; Vaswani et al. 2017).
    positions: GPT-2 learned them. n_inner: numbers per token in the middle of the feed-forward network, with the
    activation function between its two layers; None: 4 C. tied: is the output layer the token embedding?
    """

    vocab_size: int = size(GPT2_VOCAB_SIZE)
    block_size: int = size(1024, "context length in tokens")
    n_layer: int = size(12, "number of blocks")
    n_head: int = size(12, "number of attention heads")
    n_embd: int = size(768, "width: numbers per token")
    dropout: float = setting(0.0, "dropout probability of a GPT, in training only", "in [0, 1)")
    norm: str = setting("pre", choices=("pre", "post"))
    positions: str = setting("learned", choices=("learned", "sinusoidal"))
    layer_norm_epsilon: float = setting(1e-5, range=">= 0")
    n_inner: int = size(None)  # __post_init__ puts a number in the place of None
    activation: str = setting("gelu_tanh", choices=("gelu_tanh", "gelu", "relu", "silu"))
    tied: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_heads()
        if self.n_inner is None:
            object.__setattr__(self, "n_inner", 4 * self.n_embd)

    @property
    def n_kv_head(self) -> int:  # type: ignore[override]
        """Heads of keys and values: one for each head of queries."""
        return self.n_head

    @property
    def head_size(self) -> int:  # type: ignore[override]
        """D: numbers per head."""
        return self.n_embd // self.n_head

    def parameters(self) -> dict[str, int]:
        """The number of parameters of each kind of component: V C + T C + L (12 C² + 13 C) + 2 C in all.

            token embedding V C (the output layer is the same matrix)     position embedding T C
            attention L (4 C² + 4 C): C -> 3C and C -> C, with biases     layer norms (2 L + 1) 2 C
            MLP L (8 C² + 5 C): C -> 4C -> C, with biases

        Sinusoidal positions are not learned, and a post-norm model has no last norm. With an inner width I in the place
        of 4C the MLPs have L (2 C I + C + I). An output layer that is not tied has V C of its own.
        """
        V, T, L, C, inner = self.vocab_size, self.block_size, self.n_layer, self.n_embd, self.n_inner
        return {
            "token embedding": V * C,
            "position embedding": T * C if self.positions == "learned" else 0,
            "attention": L * (4 * C * C + 4 * C),
            "MLP": L * (2 * C * inner + inner + C),
            "layer norms": (2 * L + (1 if self.norm == "pre" else 0)) * 2 * C,
            **({} if self.tied else {"output layer": V * C}),
        }

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
class RopeScaling(Checked):
    """How rotary positions are slowed down, for longer texts than the model was first trained on.

    factor: of how much. The others are Llama 3.1's: pairs that turn less than low_freq_factor times in original_context
    tokens are slowed down, those that turn more than high_freq_factor times are not. None: all pairs are ("linear").
    Raises ValueError for numbers that make no sense.
    """

    factor: float = setting(1.0, range="> 0")
    low_freq_factor: float | None = setting(None, range="> 0")
    high_freq_factor: float | None = setting(None, range="> 0")
    original_context: float | None = setting(None, range="> 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = dataclasses.astuple(self)
        if None in numbers and numbers[1:] != (None, None, None):
            raise ValueError("rotary positions are slowed down by one factor, or by all four numbers of Llama 3.1")
        low, high = self.low_freq_factor, self.high_freq_factor
        if low is not None and high is not None and low >= high:
            raise ValueError("the low_freq_factor of rotary positions must be less than the high_freq_factor")

    def slowed(self, speeds: Array) -> Array:
        """The speeds (D/2) of the rotations, slowed down for a model that reads longer texts.

        It is a clock with slower hands, for a longer day. Chen et al. 2023, "Extending context window of large language
        models via positional interpolation", slow all hands down by one factor. Llama 3.1 leaves hands alone that turn
        often within the original context, because they tell neighbors apart.
        """
        low, high, context = self.low_freq_factor, self.high_freq_factor, self.original_context
        if low is None or high is None or context is None:
            return speeds / self.factor  # Chen et al.: all hands alike
        turns = context * speeds / (2 * math.pi)  # in the whole original context
        kept = ((turns - low) / (high - low)).clip(0, 1)  # 1: as fast as it was, 0: slowed down
        return speeds * (kept + (1 - kept) / self.factor)  # in between, a mixture of the two


@dataclasses.dataclass(frozen=True)
class LlamaConfig(Settings):
    """The shape of a Llama; the defaults are SmolLM2-135M's.

    vocab_size, block_size, n_layer, n_head, n_embd: as in `GPTConfig`. n_kv_head K: heads of keys and values; each
    serves n_head / K heads of queries. n_inner: numbers per token in the middle of the feed-forward network; None:
    8/3 C, rounded up to a multiple of 64. Three matrices then have about as many weights as the two of a GPT.
    rope_theta: the base of the rotary positions; the slowest pair turns once in about 2 pi rope_theta tokens.
    rms_norm_epsilon: added to the mean square. tied: is the output layer the token embedding? head_size D: None is
    n_embd / n_head. rope_scaling: see there. qkv_bias: do queries, keys and values have biases (Qwen2)? qk_norm: are
    the queries and keys of each head normalized (Qwen3)?
    Raises ValueError for numbers that make no model.
    """

    vocab_size: int = size(49152)
    block_size: int = size(8192)
    n_layer: int = size(30)
    n_head: int = size(9)
    n_kv_head: int = size(3)
    n_embd: int = size(576)
    n_inner: int = size(None)  # __post_init__ puts a number in the place of None
    rope_theta: float = setting(100000.0, range="> 0")
    rms_norm_epsilon: float = setting(1e-5, range=">= 0")
    tied: bool = True
    head_size: int = size(None)  # __post_init__ puts a number in the place of None
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_inner is None:
            object.__setattr__(self, "n_inner", 64 * math.ceil(self.n_embd / 24))
        if self.head_size is None:
            self._check_heads()
            object.__setattr__(self, "head_size", self.n_embd // self.n_head)
        if isinstance(self.rope_scaling, dict):  # from JSON
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        if self.n_head % self.n_kv_head:
            shared = f"{self.n_head} query heads cannot share {self.n_kv_head} heads of keys and values"
            raise ValueError(f"{shared}; n_kv_head must divide n_head")
        if self.head_size % 2:
            odd = f"a head has {self.head_size} (n_embd / n_head)"
            raise ValueError(f"rotary positions turn pairs of numbers, but {odd}; choose an even head size")

    def parameters(self) -> dict[str, int]:
        """The number of parameters of each kind of component, where G = K D are the channels of keys and of values.

            token embedding V C     attention L (2 C H D + 2 C G)     MLP L (3 C I)     RMS norms (2 L + 1) C

        Positions are not learned. Queries, keys and values may have biases, L (H D + 2 G), and each head of queries and
        keys a norm, L 2 D. An output layer that is not tied has V C of its own.
        """
        V, L, C, D, inner = self.vocab_size, self.n_layer, self.n_embd, self.head_size, self.n_inner
        queries, keys = self.n_head * D, self.n_kv_head * D
        biases = queries + 2 * keys if self.qkv_bias else 0
        return {
            "token embedding": V * C,
            "attention": L * (2 * C * (queries + keys) + biases),
            "MLP": L * 3 * C * inner,
            "RMS norms": (2 * L + 1) * C + (2 * L * D if self.qk_norm else 0),
            **({} if self.tied else {"output layer": V * C}),
        }
