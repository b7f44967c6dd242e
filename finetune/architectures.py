"""Where the parts of a model are: all that fine-tuning has to know of an architecture, for GPT-2 and for Llama.

Adapters, quantization and new heads change models from outside. For that they must find the layers in them, under the
names that each family has given them. Whoever adds a third family describes it here, and nowhere else in this package.
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


class Fed(NamedTuple):
    """Layers of a block that are given the same input; and the module whose last outputs that input is, or is linear
    in, one by one: scaling those down scales the input down. None: there is no such module.
    """

    layers: tuple[str, ...]
    by: str | None


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """The parts of a family of models, by name.

    body: in the model, everything below the head; in the body: embedding, blocks, norm (the last one). inputs: the
    linear layers of a block, in the order in which they compute. targets: what LoRA adapts if nobody says otherwise.
    embed(body, ids): what the first block is given. beside(body, T): what every block is given beside that, for T
    tokens. rows(config): all parameters, with shapes.
    """

    name: str
    model: Callable[[Any], LanguageModel]
    config: type[GPTConfig] | type[LlamaConfig]
    body_class: Callable[[Any], nn.Module]
    body: str
    embedding: str
    blocks: str
    norm: str
    inputs: tuple[Fed, ...]
    targets: tuple[str, ...]
    embed: Callable[[Any, np.ndarray], Tensor]
    beside: Callable[[Any, int], tuple[Any, ...]]
    rows: Callable[[Any], Iterable[Row]]

    @property
    def layers(self) -> tuple[str, ...]:
        """The linear layers of a block, in the order in which they compute."""
        return tuple(layer for fed in self.inputs for layer in fed.layers)

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


GPT2 = Anatomy(
    name="gpt",
    model=GPT,
    config=GPTConfig,
    body_class=Transformer,
    body="transformer",
    embedding="wte",
    blocks="h",
    norm="ln_f",
    inputs=(
        Fed(("attn.c_attn",), "ln_1"),
        Fed(("attn.c_proj",), "attn.c_attn"),  # of its outputs, queries, keys and values, the last: averages of these
        Fed(("mlp.c_fc",), "ln_2"),
        Fed(("mlp.c_proj",), None),  # GELU is in between, which is not linear
    ),
    targets=("c_attn",),
    embed=lambda body, ids: body.wte(ids) + body.wpe(np.arange(ids.shape[1])),
    beside=lambda body, T: (),
    rows=gpt2_huggingface.rows,
)
LLAMA = Anatomy(
    name="llama",
    model=Llama,
    config=LlamaConfig,
    body_class=LlamaTransformer,
    body="model",
    embedding="embed_tokens",
    blocks="layers",
    norm="norm",
    inputs=(
        Fed(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "input_layernorm"),
        Fed(("self_attn.o_proj",), "self_attn.v_proj"),
        Fed(("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm"),
        Fed(("mlp.down_proj",), "mlp.up_proj"),  # silu(gate) * up is linear in up
    ),
    targets=("q_proj", "v_proj"),
    embed=lambda body, ids: body.embed_tokens(ids),
    beside=lambda body, T: (_rotations(body.config, T, next(body.parameters()).dtype),),
    rows=llama_huggingface.rows,
)
ALL = (GPT2, LLAMA)


def _rotations(config: LlamaConfig, T: int, dtype: Any) -> Any:
    return rotations(np.arange(T), config.head_size, config.rope_theta, dtype)


def of(model: Any) -> Anatomy:
    """The anatomy of a language model, or of one with another head. Raises ValueError for a model of neither family."""
    for anatomy in ALL:
        if isinstance(getattr(getattr(model, anatomy.body, None), "config", None), anatomy.config):
            return anatomy
    raise ValueError(f"only GPTs and Llamas can be changed that way, not a {type(model).__name__}")


def of_config(config: Config) -> Anatomy:
    """The anatomy of the models that a configuration makes."""
    return next(anatomy for anatomy in ALL if isinstance(config, anatomy.config))


# --- in config.json ---------------------------------------------------------------------------------------------------


def to_settings(config: Config) -> dict[str, Any]:
    """A configuration as JSON can hold it, with the family's name where it is not the first one."""
    family = of_config(config)
    return config.to_dict() if family is GPT2 else {"family": family.name, **config.to_dict()}


def from_settings(settings: dict[str, Any]) -> tuple[Anatomy, Config]:
    """The reverse. Raises ValueError for a family that is not known, and what the configuration raises."""
    settings = dict(settings)
    name = settings.pop("family", GPT2.name)
    for anatomy in ALL:
        if anatomy.name == name:
            return anatomy, anatomy.config.from_dict(settings)
    raise ValueError(f"the family must be one of {', '.join(anatomy.name for anatomy in ALL)}, got {name!r:.60}")
