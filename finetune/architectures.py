"""Where the parts of a model are: everything that fine-tuning needs to know about the architectures GPT-2 and Llama.

Adapters, quantization and new heads change models from outside. To find a model's layers they need their names, which
differ between the two. A third architecture would be described here, and nowhere else in this package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from gpt import GPT
from gpt.model.config import GPTConfig, LlamaConfig
from gpt.model.gpt2 import Transformer
from gpt.model.language_model import LanguageModel
from gpt.model.llama import Llama, LlamaTransformer, rotations
from gpt.weights import gpt2_huggingface, llama_huggingface
from gpt.weights.tensor_table import Row
from minigrad import Tensor, nn

Config = GPTConfig | LlamaConfig


class SharedInput(NamedTuple):
    """Layers of a block that read the same input, and the module where it comes from.

    source: a norm or a linear layer. The input is its (last) outputs, or is linear in each of them: dividing these
    outputs by a scale divides the input by it. None: there is no such module.
    """

    layers: tuple[str, ...]
    source: str | None


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The names of a model's parts.

    body: everything below the head. embedding, blocks, norm: in the body; the norm is the last one. inputs: the linear
    layers of a block, in the order in which they compute. targets: the layers that LoRA adapts by default.
    embed(body, ids): the input of the first block. block_arguments(body, T): what each block takes beside its input of
    T tokens. rows(config): all parameters, with shapes.
    """

    name: str
    model: Callable[[Any], LanguageModel]
    config: type[GPTConfig] | type[LlamaConfig]
    body_class: Callable[[Any], nn.Module]
    body: str
    embedding: str
    blocks: str
    norm: str
    inputs: tuple[SharedInput, ...]
    targets: tuple[str, ...]
    embed: Callable[[Any, np.ndarray], Tensor]
    block_arguments: Callable[[Any, int], tuple[Any, ...]]
    rows: Callable[[Any], Iterable[Row]]

    @property
    def layers(self) -> tuple[str, ...]:
        """The linear layers of a block, in the order in which they compute."""
        return tuple(layer for shared in self.inputs for layer in shared.layers)

    @property
    def embedding_name(self) -> str:
        """The token embedding's full name."""
        return f"{self.body}.{self.embedding}"

    def block_name(self, index: int) -> str:
        """The full name of a block."""
        return f"{self.body}.{self.blocks}.{index}"

    def body_of(self, model: Any) -> Any:
        """Everything below a model's head."""
        return getattr(model, self.body)

    def embedding_of(self, model: Any) -> Any:
        """A model's token embedding."""
        return getattr(self.body_of(model), self.embedding)

    def blocks_of(self, model: Any) -> list[Any]:
        """A model's blocks."""
        return list(getattr(self.body_of(model), self.blocks))

    def matrices(self, config: Config) -> dict[str, tuple[int, ...]]:
        """The weights (out, in) of all blocks' linear layers: full name of the layer -> shape.

        >>> config = LlamaConfig(vocab_size=9, n_layer=1, n_head=2, n_kv_head=1, n_embd=8, n_inner=20)
        >>> list(LLAMA.matrices(config).items())[-1]
        ('model.layers.0.mlp.down_proj', (8, 20))
        """
        shapes = {row.ours.removesuffix(".weight"): row.our_shape for row in self.rows(config)}
        blocks = [self.block_name(index) for index in range(config.n_layer)]
        return {name: shapes[name] for block in blocks for name in (f"{block}.{layer}" for layer in self.layers)}


GPT2 = Architecture(
    name="gpt",
    model=GPT,
    config=GPTConfig,
    body_class=Transformer,
    body="transformer",
    embedding="wte",
    blocks="h",
    norm="ln_f",
    inputs=(
        SharedInput(("attn.c_attn",), "ln_1"),
        SharedInput(("attn.c_proj",), "attn.c_attn"),  # its last outputs, the values: the input averages them
        SharedInput(("mlp.c_fc",), "ln_2"),
        SharedInput(("mlp.c_proj",), None),  # GELU, which is between mlp.c_fc and this layer, is not linear
    ),
    targets=("c_attn",),
    embed=lambda body, ids: body.wte(ids) + body.wpe(np.arange(ids.shape[1])),
    block_arguments=lambda body, T: (),
    rows=gpt2_huggingface.rows,
)
LLAMA = Architecture(
    name="llama",
    model=Llama,
    config=LlamaConfig,
    body_class=LlamaTransformer,
    body="model",
    embedding="embed_tokens",
    blocks="layers",
    norm="norm",
    inputs=(
        SharedInput(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "input_layernorm"),
        SharedInput(("self_attn.o_proj",), "self_attn.v_proj"),
        SharedInput(("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm"),
        SharedInput(("mlp.down_proj",), "mlp.up_proj"),  # silu(gate) * up is linear in up
    ),
    targets=("q_proj", "v_proj"),
    embed=lambda body, ids: body.embed_tokens(ids),
    block_arguments=lambda body, T: (_rotations(body.config, T, next(body.parameters()).dtype),),
    rows=llama_huggingface.rows,
)
ALL = (GPT2, LLAMA)


def _rotations(config: LlamaConfig, T: int, dtype: Any) -> Any:
    return rotations(np.arange(T), config.head_size, config.rope_theta, dtype, config.rope_scaling)


def of(model: Any) -> Architecture:
    """The architecture of a language model or a GPTWithHead. Raises ValueError for any other model."""
    for architecture in ALL:
        if isinstance(getattr(getattr(model, architecture.body, None), "config", None), architecture.config):
            return architecture
    raise ValueError(f"only GPTs and Llamas can be changed that way, not a {type(model).__name__}")


def of_config(config: Config) -> Architecture:
    """The architecture that a configuration belongs to."""
    return next(architecture for architecture in ALL if isinstance(config, architecture.config))


# --- in config.json ---------------------------------------------------------------------------------------------------


def to_settings(config: Config) -> dict[str, Any]:
    """A configuration for JSON. "family" is the architecture's name, which is left out for GPT-2."""
    family = of_config(config)
    return config.to_dict() if family is GPT2 else {"family": family.name, **config.to_dict()}


def from_settings(settings: dict[str, Any]) -> tuple[Architecture, Config]:
    """The inverse of `to_settings`. Raises ValueError for an unknown family, and what the configuration raises."""
    settings = dict(settings)
    name = settings.pop("family", GPT2.name)
    for architecture in ALL:
        if architecture.name == name:
            return architecture, architecture.config.from_dict(settings)
    known = ", ".join(architecture.name for architecture in ALL)
    raise ValueError(f"the family must be one of {known}, got {name!r:.60}")
