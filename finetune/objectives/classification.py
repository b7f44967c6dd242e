"""Classification: the loss of a pretrained model with a new head that has one output per class.

    loss = -ln softmax(logits)[class]           logits (labels): the head's output at the text's last token

The training loop is the same as in pretraining. How much of the model is trained with the head (`freeze`) is a choice:

    head only      the model extracts fixed features, and keeps all its abilities
    last blocks    the middle ground
    everything     the most accurate, but the model forgets: no loss asks it to remain a language model

Radford et al. 2018 (GPT-1), section 3.2; Howard and Ruder 2018 (ULMFiT) on what to freeze; McCloskey and Cohen 1989 on
catastrophic forgetting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import minigrad.functional as F
from gpt import Tokenizer
from minigrad import Tensor
from minigrad.backend import to_device

from ..data.datasets import Labelled, encode_items, pad_right
from .model_with_head import ModelWithHead

Item = tuple[list[int], int]  # the ids of a text, and the number of its class
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]  # ids (B, T), lengths (B), classes (B)


def classification_loss(model: ModelWithHead, batch: Batch) -> tuple[Tensor, int, dict[str, Any]]:
    """The cross-entropy of B texts, -Σ_b ln softmax(logits_b)[class_b]; B; and how many are classified correctly."""
    ids, lengths, classes = batch
    logits = model(ids, lengths)  # (B, labels), from the hidden state of each text's last token
    wanted = to_device(classes, logits.device)  # (B)
    correct = (logits.data.argmax(axis=1) == wanted).sum()
    return F.cross_entropy(logits, wanted, reduction="sum"), len(ids), {"accuracy": correct}


def collate(items: Sequence[Item]) -> Batch:
    """Texts padded on the right, their lengths, their classes.

    >>> ids, lengths, classes = collate([([7, 8, 9], 0), ([7], 1)])
    >>> ids.tolist(), lengths.tolist(), classes.tolist()
    ([[7, 8, 9], [7, 0, 0]], [3, 1], [0, 1])
    """
    ids, lengths = pad_right([text for text, _ in items], fill=0)
    return ids, lengths, np.array([number for _, number in items])


def encode_texts(
    texts: Iterable[Labelled], labels: Sequence[str], tokenizer: Tokenizer, block_size: int
) -> tuple[list[Item], int]:
    """Encode texts, keeping the first `block_size` tokens of each; also returns how many were cut.

    Each label is one of `labels`.
    """

    def encode(text: Labelled) -> tuple[Item, bool]:
        ids = tokenizer.encode(text.text, allowed_special=())
        return (ids[:block_size], labels.index(text.label)), len(ids) > block_size

    return encode_items(texts, encode, "text")
