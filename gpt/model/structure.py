"""The parts of a model, and their names, for code that looks into a model or changes it from outside.

Adapters and quantization replace layers, the logit lens reads what leaves each block, verification compares every
step. None of them knows an architecture. Each `LanguageModel` declares its `names` (part_names.py), and everybody
asks the model:

    >>> from gpt.model.gpt2 import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=9, block_size=4, n_layer=2, n_head=2, n_embd=8))
    >>> model.part_names("attention")
    ['transformer.h.0.attn', 'transformer.h.1.attn']
    >>> model.blocks[1] is model.transformer.h[1], model.embedding is model.transformer.wte
    (True, True)
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from minigrad import nn

from ..model_config import Settings


class SharedInput(NamedTuple):
    """Layers of a block that read the same input, and the module where it comes from.

    source: a norm or a linear layer. The input is its (last) outputs, or is linear in each of them: dividing these
    outputs by a scale divides the input by it. None: there is no such module.
    """

    layers: tuple[str, ...]
    source: str | None


@dataclasses.dataclass(frozen=True)
class Names:
    """The names of a model's parts.

    body: everything below the head. In the body: embeddings, the token embedding first; blocks; norm, the last one. In
    a block: attention; projection, the W_O of attention, whose input has the heads side by side; mlp; lora_targets, the
    layers that LoRA adapts by default; inputs, all linear layers in the order in which they compute.
    """

    body: str
    embeddings: tuple[str, ...]
    blocks: str
    norm: str
    attention: str
    projection: str
    mlp: str
    lora_targets: tuple[str, ...]
    inputs: tuple[SharedInput, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The linear layers of a block, in the order in which they compute."""
        return tuple(layer for shared in self.inputs for layer in shared.layers)

    @property
    def embedding(self) -> str:
        """The token embedding's full name."""
        return f"{self.body}.{self.embeddings[0]}"

    def block(self, index: int) -> str:
        """The full name of a block."""
        return f"{self.body}.{self.blocks}.{index}"


class StructuredModel(nn.Module):
    """A model whose parts can be asked for. Subclasses set `names` and `config`."""

    names: Names
    config: Settings
    new_cache: Any = None  # (batch, capacity) -> another cache than KVCache (sliding_window.py, linear_attention.py)

    @property
    def body(self) -> nn.Module:
        """Everything below the head."""
        return getattr(self, self.names.body)

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding."""
        return getattr(self.body, self.names.embeddings[0])

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, from first to last."""
        return list(getattr(self.body, self.names.blocks))

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the head."""
        return getattr(self.body, self.names.norm)

    def part_names(self, part: str = "block") -> list[str]:
        """The full names of all blocks, or of a part of each: "attention", "projection" or "mlp"."""
        inner = "" if part == "block" else f".{getattr(self.names, part)}"
        return [self.names.block(index) + inner for index in range(self.config.n_layer)]
