"""The base class of all language models: the loss, generation, loading and saving.

A language model has a body, which turns ids into hidden states, and a head, which scores every token of the vocabulary
as the next token. `GPT` (gpt2.py) and `Llama` (llama.py) differ in their bodies. Training, generation, evaluation and
fine-tuning use only the methods in this file and the names of the parts (structure.py).

A new architecture is one file with a subclass, which declares the class attributes of `LanguageModel`, and a table of
its weights (gpt/weights/pretrained.py lists the tables by model_type).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from minigrad import Tensor, nn
from minigrad.backend import Array, module_of
from minigrad.functional.indexing import check_indices

from ..files import StrPath
from ..model_config import INIT_STD, Settings
from ..tokenizer.tokenizer import Tokenizer
from ..weights import hub, pretrained
from . import batch_generation
from .kv_cache import KVCache
from .structure import StructuredModel

Ids: TypeAlias = Tensor | Array | Sequence[int | Sequence[int] | Array]  # (B, T), or (T) for one sequence


class LanguageModel(StructuredModel):
    """A body and `lm_head`. `model(ids)` gives the logits of the next token at every position.

    Subclasses set `config`, their body and `lm_head`, and declare: model_type, the architecture's name in Hugging
    Face's config.json; family, its name in ours; config_class; names, of its parts.
    """

    model_type: ClassVar[str]
    family: ClassVar[str]
    config_class: ClassVar[type[Settings]]
    lm_head: nn.Linear

    def __init__(self, config: Settings):
        raise TypeError(f"{type(self).__name__} must define __init__(config)")

    def forward(self, ids: Ids, cache: KVCache | None = None, attention_mask: Any = None) -> Tensor:
        """ids (B, T) -> logits (B, T, V): logits[:, t] score every token as the one at t + 1."""
        return self.lm_head(self.hidden_states(ids, cache, attention_mask))

    def hidden_states(self, ids: Ids, cache: KVCache | None = None, attention_mask: Any = None) -> Tensor:
        """The output of the body, which the head reads: ids (B, T), or (T) for one sequence, -> (B, T, C).

        cache: read `ids` as the continuation of the cached tokens, and append them (without gradients). attention_mask
        (B, tokens so far): 0 is padding, and k is the k-th of several texts that are packed into a row. Raises what
        `checked` raises, and ValueError for more tokens than the block size.
        """
        ids, attention_mask = self.checked(ids, attention_mask)
        return self.body(ids, cache, attention_mask)

    def loss(self, ids: Ids, targets: Ids, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
        """Cross-entropy of targets (B, T) in nats per token, without targets equal to `ignore_index`.

        reduction: "mean" and "sum" give one number, "none" gives (B, T).
        """
        hidden = self.hidden_states(ids)  # (B, T, C)
        targets = self._ids(targets, "targets", ignore_index)
        if targets.shape != hidden.shape[:2]:
            raise ValueError(f"targets of shape {targets.shape} do not fit ids of shape {hidden.shape[:2]}")
        # The head computes the loss itself: with fast kernels, the logits (B*T, V) are never in memory as a whole.
        rows = hidden.reshape(-1, self.config.n_embd)  # (B*T, C)
        loss = self.lm_head.cross_entropy(rows, targets.reshape(-1), ignore_index, reduction)
        return loss.reshape(targets.shape) if reduction == "none" else loss

    def token_logprobs(self, ids: Ids, targets: Ids) -> Tensor:
        """ln p(targets[b, t] | ids[b, :t+1]): (B, T)."""
        return -self.loss(ids, targets, reduction="none")

    generate = batch_generation.generate  # model.generate(ids, max_new_tokens, temperature=0.7) continues the ids

    @classmethod
    def from_pretrained(cls, source: StrPath) -> Self:
        """Load a model, in evaluation mode, from a Hugging Face folder, a GGUF file, or by name ("gpt2").

        `LanguageModel.from_pretrained` takes any architecture, and `GPT.from_pretrained` only a GPT.
        """
        return pretrained.load(hub.find(source), cls)

    def save_pretrained(self, folder: StrPath, tokenizer: Tokenizer | None = None) -> None:
        """Save the model as a folder that transformers can load, with the tokenizer if one is given."""
        pretrained.save(self, folder, tokenizer)

    # --- checking what comes in ---

    def checked(self, ids: Ids, attention_mask: Any = None) -> tuple[Array, Array | None]:
        """Ids as an integer array (B, T), and the mask, both on the model's device.

        Raises IndexError for ids outside the vocabulary, ValueError for anything else that is not (B, T).
        """
        mask = None if attention_mask is None else self._on_device(_as_array(attention_mask, "attention_mask"))
        return self._ids(ids, "ids"), mask

    def _ids(self, ids: Ids, what: str, ignore_index: int | None = None) -> Array:
        """Ids as an integer array (B, T) on the model's device, checked while they are on the host."""
        array = _as_array(ids, what)
        array = array[None] if array.ndim == 1 else array
        if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "iu":
            got = f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"{what} must be integers of shape (batch, time) with time >= 1, got {got}")
        if isinstance(array, np.ndarray):
            counted = array if ignore_index is None else np.where(array == ignore_index, 0, array)
            check_indices(what, counted, self.config.vocab_size, "the vocabulary")
        return self._on_device(array)

    def _on_device(self, array: Array) -> Array:
        xp = module_of(next(self.parameters()).data)
        return array if isinstance(array, xp.ndarray) else xp.asarray(array)


# --- architectures ----------------------------------------------------------------------------------------------------


def architectures() -> list[type[LanguageModel]]:
    """All architectures: the direct subclasses of `LanguageModel` that declare a family."""
    return [found for found in LanguageModel.__subclasses__() if hasattr(found, "family")]


def architecture_of(config: Settings) -> type[LanguageModel]:
    """The architecture, a class, that a configuration belongs to."""
    return next(architecture for architecture in architectures() if isinstance(config, architecture.config_class))


def to_settings(config: Settings) -> dict[str, Any]:
    """A configuration for config.json. "family" is the architecture's, and is left out for GPT-2."""
    family = architecture_of(config).family
    return config.to_dict() if family == "gpt" else {"family": family, **config.to_dict()}


def from_settings(settings: dict[str, Any]) -> Settings:
    """The inverse of `to_settings`. Raises ValueError for an unknown family, and what the configuration raises."""
    settings = dict(settings)
    family = settings.pop("family", "gpt")
    for architecture in architectures():
        if architecture.family == family:
            return architecture.config_class.from_dict(settings)
    known = ", ".join(architecture.family for architecture in architectures())
    raise ValueError(f"the family must be one of {known}, got {family!r:.60}")


def init_weights(model: LanguageModel, residual_projections: tuple[str, ...]) -> None:
    """Initialize a language model: matrices from a normal distribution with INIT_STD, biases 0, norms the identity.

    residual_projections: name endings of the weights whose output is added to the residual stream. There are
    2 n_layer such additions, so these weights are smaller by 1/sqrt(2 n_layer), and the sum does not grow with depth.
    Radford et al. 2019, section 2.3.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(residual_projections):
            nn.init.normal_(parameter, std=INIT_STD / math.sqrt(2 * model.config.n_layer))
        elif parameter.ndim == 2:
            nn.init.normal_(parameter, std=INIT_STD)
        else:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)


def _as_array(values: Any, what: str) -> Array:
    if isinstance(values, Tensor):
        return values.data
    try:
        return np.asarray(values) if isinstance(values, list | tuple) else values
    except ValueError:
        raise ValueError(f"{what} must be sequences of one length; generate() pads others") from None
