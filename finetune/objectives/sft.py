"""Instruction tuning (supervised fine-tuning, SFT): the training loop of pretraining, on conversations.

Two things differ from pretraining, and both are in the data: the text is a conversation in a chat template, and only
what the assistant says is learned from. The loss of all other tokens is left out ("masked") by giving them the target
-100, so that the model learns to answer questions, not to ask them. Ouyang et al. 2022 (InstructGPT), section 3.5.

Simplified: one conversation per row, padded to the longest of the batch; no packing of several into one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import minigrad.functional as F
from minigrad import Tensor
from minigrad.backend import to_device

from ..data.chat_template import ChatTemplate
from ..data.datasets import IGNORE, Example, pad_right

Conversation = tuple[list[int], list[bool]]  # ids, and which of them are learned from
Batch = tuple[np.ndarray, np.ndarray]  # inputs and targets, (B, T)


def sft_loss(model: Any, batch: Batch) -> tuple[Tensor, int, dict[str, Any]]:
    """Cross-entropy of the tokens that are learned from, summed; their number; how many of them the model got right.

    Hidden states of the other tokens are computed, as attention needs them, but do not go through the head.
    """
    ids, targets = batch
    hidden = model.hidden_states(ids)  # (B, T, C)
    # Places, not a mask: how many there are is known here, while a GPU would have to be waited for.
    learned = np.flatnonzero(targets != IGNORE)  # (N), of N tokens that are learned from
    wanted = to_device(targets.reshape(-1)[learned], hidden.device)  # (N)
    rows = F.embedding(to_device(learned, hidden.device), hidden.reshape(-1, hidden.shape[-1]))  # (N, C)
    logits = model.lm_head(rows)  # (N, V)
    right = (logits.data.argmax(axis=1) == wanted).sum()
    return F.cross_entropy(logits, wanted, reduction="sum"), len(wanted), {"mean_token_accuracy": right}


def collate(conversations: Sequence[Conversation]) -> Batch:
    """Conversations as inputs and targets (B, T): each token is the target of the one before it, if it is learned from.

    >>> inputs, targets = collate([([7, 8, 9], [False, False, True]), ([7, 9], [False, True])])
    >>> inputs.tolist(), targets.tolist()
    ([[7, 8], [7, 0]], [[-100, 9], [9, -100]])
    """
    inputs, _ = pad_right([ids[:-1] for ids, _ in conversations], fill=0)
    wanted = [[id if learn else IGNORE for id, learn in zip(ids[1:], learned[1:])] for ids, learned in conversations]
    targets, _ = pad_right(wanted, fill=IGNORE)
    return inputs, targets


def encode_examples(
    examples: Iterable[Example], template: ChatTemplate, block_size: int
) -> tuple[list[Conversation], int]:
    """Conversations as tokens for a model that reads `block_size` of them, and how many had to be shortened for that.

    See `ChatTemplate.encode_to_fit`. Raises ValueError, naming the example's place, where nothing is learned from.
    """
    conversations, shortened = [], 0
    for number, example in enumerate(examples, start=1):
        try:
            ids, learned, cut = template.encode_to_fit(example.messages, block_size + 1)
        except ValueError as error:
            raise ValueError(f"{example.place or f'example {number}'}: {error}") from None
        conversations.append((ids, learned))
        shortened += cut
    return conversations, shortened
