"""LoRA for a part of a layer: GPT-2 computes query, key and value in one layer, and the paper adapts only q and v.

The weight of `c_attn` is three matrices one below the other, W_q, W_k and W_v. Each of the adapted ones gets an A and a
B of its own:

    q = W_q x + scaling * B_q A_q x
    k = W_k x
    v = W_v x + scaling * B_v A_v x
"""

from __future__ import annotations

import minigrad.functional as F
from minigrad import Tensor, nn
from minigrad.nn.module import empty_parameter

from .lora import SLICES, LoRALinear

FUSED = "c_attn"  # the layer that computes query, key and value in one product, each a third of its outputs


class LoRASlices(LoRALinear):
    """LoRA for some of the query, key and value that `c_attn` computes: each slice has its own A (r, in), B (out/3, r).

    The pairs of the n `slices` are stored one below the other: lora_A (n r, in), lora_B (n out/3, r). `forward` is that
    of LoRALinear, with whole_B() as B.
    """

    def __init__(self, base: nn.Linear, r: int, scaling: float, dropout: float, slices: tuple[str, ...]):
        super().__init__(base, r * len(slices), scaling, dropout)  # makes A (n r, in), and a B, which is replaced
        self.slices = slices
        # (n out/3, r): B without the zeros that `whole_B` adds
        self.lora_B = nn.init.zeros_(empty_parameter(self.out_features // len(SLICES) * len(slices), r))

    def whole_B(self) -> Tensor:
        """B (out, n r): each slice's own B in its place, and zeros elsewhere.

        For ("q", "v"), rows being the outputs of q, k and v, and columns the rows of A:

            [ B_q   0  ]
            [  0    0  ]
            [  0   B_v ]
        """
        third = self.out_features // len(SLICES)
        parts = []
        for B, name in zip(F.split(self.lora_B, third), self.slices):  # each (out/3, r)
            above = SLICES.index(name) * third
            below = self.out_features - above - third
            parts.append(F.pad(B, (0, 0, above, below)))  # (out, r): zeros left, right, above, below
        return F.cat(parts, dim=1)  # (out, n r)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()} of {', '.join(self.slices)}"
