"""What is quantized how, under the names that other libraries' folders use for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from .array import WHOLE_ROW, QuantizedArray, check_bits
from .nf4 import nf4
from .rounding import round_to_nearest

METHODS = ("absmax", "zeropoint", "nf4", "gptq", "awq")
CALIBRATED = ("gptq", "awq")  # these look at a layer's inputs


@dataclasses.dataclass(frozen=True)
class QuantizationConfig:
    """How the layers of a GPT's blocks are quantized. Norms, biases and positions stay as they are.

    method: "absmax" and "zeropoint" round to nearest, "nf4" to the quantiles of a normal distribution; "gptq" and
    "awq" look at the inputs that the layers get. bits: 8 or 4; None: 8 for absmax and zeropoint, 4 for the others.
    group_size: numbers of a row that share a scale, -1 for a whole row, 0 for the whole matrix; None: a row with 8
    bits, 64 with 4. zero_point: for gptq and awq, a grid that need not be symmetric. desc_act: gptq's act-order.
    double_quant: nf4's scales in 8 bits. embedding: the token embedding, which is the output layer too, with 8 bits
    and a scale per row. Raises ValueError for what does not exist, or is an option of another method.

    >>> config = QuantizationConfig("nf4")
    >>> config.bits, config.group_size
    (4, 64)
    """

    method: str = "absmax"
    bits: int = None  # type: ignore[assignment]  # __post_init__ puts a number in the place of None
    group_size: int = None  # type: ignore[assignment]
    zero_point: bool = False
    desc_act: bool = False
    double_quant: bool = False
    embedding: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"there is no quantization method {self.method!r}; there are {', '.join(METHODS)}")
        if self.bits is None:
            object.__setattr__(self, "bits", 8 if self.method in ("absmax", "zeropoint") else 4)
        check_bits(self.bits)
        if self.group_size is None:
            object.__setattr__(self, "group_size", WHOLE_ROW if self.bits == 8 else 64)
        if not isinstance(self.group_size, int) or isinstance(self.group_size, bool) or self.group_size < WHOLE_ROW:
            raise ValueError(f"group_size must be an integer >= {WHOLE_ROW}, got {self.group_size!r}")
        if self.method == "nf4" and self.bits != 4:
            raise ValueError(f"NF4 has 4 bits, not {self.bits}")
        if self.method == "zeropoint":
            object.__setattr__(self, "zero_point", True)
        options = {"zero_point": ("zeropoint", *CALIBRATED), "desc_act": ("gptq",), "double_quant": ("nf4",)}
        for name, methods in options.items():
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
            if getattr(self, name) and self.method not in methods:
                raise ValueError(f"{name} is an option of {' and '.join(methods)}, not of {self.method}")
        if not isinstance(self.embedding, bool):
            raise ValueError(f"embedding must be true or false, got {self.embedding!r}")

    @property
    def rounding(self) -> Callable[[np.ndarray], QuantizedArray]:
        """Rounding to this grid without a look at the inputs: what nf4, absmax and zeropoint are."""
        if self.method == "nf4":
            return lambda weight: nf4(weight, self.group_size, self.double_quant)
        return lambda weight: round_to_nearest(weight, self.bits, self.group_size, symmetric=not self.zero_point)

    def to_dict(self) -> dict[str, Any]:
        """The content of `quantization_config` in a model's config.json."""
        values = dataclasses.asdict(self)
        return {"quant_method": values.pop("method"), **values, "sym": not self.zero_point}

    @classmethod
    def from_dict(cls, values: Any) -> QuantizationConfig:
        """The reverse of `to_dict`. Raises ValueError for what `to_dict` never makes."""
        if not isinstance(values, dict):
            raise ValueError(f"quantization_config must be an object, got {values!r:.80}")
        settings = dict(values)
        try:
            config = cls(method=settings.pop("quant_method"), **{k: v for k, v in settings.items() if k != "sym"})
        except (KeyError, TypeError) as error:
            raise ValueError(f"quantization_config is not one of ours: {error}") from None
        if config.to_dict() != values:
            raise ValueError("quantization_config contradicts itself or is incomplete")
        return config
