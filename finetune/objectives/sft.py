"""Instruction tuning (supervised fine-tuning, SFT): pretraining's loss, but only on what the assistant says.

    loss = -Σ_t ln p(token_t | all tokens before it),  over the tokens t of the assistant's messages

Two things differ from pretraining, and both are in the data. The text is a conversation in a chat template. And the
loss of all other tokens is left out ("masked") by giving them the target -100: the model learns to answer questions,
not to ask them. Ouyang et al. 2022 (InstructGPT), section 3.5.

`collate` puts one conversation in each row, padded to the longest of the batch: `sft_loss` is the whole idea. Training
uses `packed_sft_loss`, which has the same value in less time: it packs short conversations into common rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import minigrad.functional as F
from gpt.model.language_model import LanguageModel
from minigrad import Tensor
from minigrad.backend import to_device

from ..data.chat_template import ChatTemplate
from ..data.datasets import IGNORE, Example, encode_items, pad_right

Conversation = tuple[list[int], list[bool]]  # ids, and which of them are learned from
Batch = tuple[np.ndarray, np.ndarray]  # inputs and targets, (B, T)


def sft_loss(
    model: LanguageModel, batch: Batch, attention_mask: np.ndarray | None = None
) -> tuple[Tensor, int, dict[str, Any]]:
    """The cross-entropy of the N tokens that are learned from, summed; N; and how many the model predicts correctly.

    Attention needs the hidden states of all tokens, but only those N go through the output layer. attention_mask: see
    `packed_sft_loss`.
    """
    ids, targets = batch
    hidden = model.hidden_states(ids, attention_mask=attention_mask)  # (B, T, C)
    # Indices instead of a mask: NumPy counts them here, while a mask on a GPU would have to be waited for.
    learned = np.flatnonzero(targets != IGNORE)  # (N), of N tokens that are learned from
    wanted = to_device(targets.reshape(-1)[learned], hidden.device)  # (N)
    rows = F.embedding(to_device(learned, hidden.device), hidden.reshape(-1, hidden.shape[-1]))  # (N, C)
    logits = model.lm_head(rows)  # (N, V)
    right = (logits.data.argmax(axis=1) == wanted).sum()
    return F.cross_entropy(logits, wanted, reduction="sum"), len(wanted), {"mean_token_accuracy": right}


def collate(conversations: Sequence[Conversation]) -> Batch:
    """Conversations as inputs and targets (B, T): each token that is learned from is the target of the one before it.

    >>> inputs, targets = collate([([7, 8, 9], [False, False, True]), ([7, 9], [False, True])])
    >>> inputs.tolist(), targets.tolist()
    ([[7, 8], [7, 0]], [[-100, 9], [9, -100]])
    """
    inputs, _ = pad_right([ids[:-1] for ids, _ in conversations], fill=0)
    # the targets are the ids shifted by one, so that targets[t] is the token after inputs[t]
    wanted = [[id if learn else IGNORE for id, learn in zip(ids[1:], mask[1:])] for ids, mask in conversations]
    targets, _ = pad_right(wanted, fill=IGNORE)
    return inputs, targets


# --- packing: several conversations in one row ------------------------------------------------------------------------
#
# Every row of a batch is as long as the longest conversation, and the rest of it is padding, which is computed for
# nothing. The same conversations fit into fewer tokens if a row holds several of them:
#
#     1 1 1 1 1 1 1 .
#     1 1 1 . . . . .              1 1 1 1 1 1 1 1 2 2 2
#     1 1 1 1 . . . .      ->      1 1 1 1 1 1 1 2 2 2 2
#     1 1 1 1 1 1 1 1
#
# The model must not see that they are neighbors. The numbers on the right are the attention_mask, which tells it where
# each conversation is: positions begin again at 0, and no token attends to another conversation.

MAX_ROW = 512  # tokens in a row of several conversations; attention computes a mask of all pairs of them


def packed_sft_loss(model: LanguageModel, batch: Batch) -> tuple[Tensor, int, dict[str, Any]]:
    """The same as `sft_loss` up to rounding, in less time. (Dropout, if there is any, draws other numbers.)

    `collate` cannot do this: processes that train together share out a batch by its rows, one for each conversation.
    Then each of them packs its own.
    """
    ids, targets, attention_mask = pack(*batch, min(MAX_ROW, model.config.block_size))
    return sft_loss(model, (ids, targets), attention_mask)


def pack(ids: np.ndarray, targets: np.ndarray, max_row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Conversations (B, T) in fewer, longer rows: inputs, targets, and k for each token of a row's k-th conversation.

    A row has at most `max_row` tokens, or T if this is more.

    >>> batch = collate([([1, 2], [0, 1]), ([3, 4, 5, 6], [0, 0, 0, 1]), ([7, 8], [0, 1])])
    >>> ids, targets, attention_mask = pack(*batch, max_row=4)
    >>> ids.tolist(), targets.tolist(), attention_mask.tolist()
    ([[3, 4, 5], [1, 7, 0]], [[-100, -100, 6], [2, 8, -100]], [[1, 1, 1], [1, 2, 0]])
    """
    T = ids.shape[1]
    # A conversation ends at its last target: nothing is learned from what follows, which is padding as a rule.
    lengths = np.where(targets != IGNORE, np.arange(1, T + 1), 1).max(axis=1)  # (B)
    rows = balanced_rows(lengths, max(T, max_row))

    def packed(array: np.ndarray, fill: int) -> np.ndarray:
        return pad_right([np.concatenate([array[i, : lengths[i]] for i in row]).tolist() for row in rows], fill)[0]

    numbers = [np.repeat(np.arange(1, len(row) + 1), lengths[row]).tolist() for row in rows]
    return packed(ids, 0), packed(targets, IGNORE), pad_right(numbers, 0)[0]


def balanced_rows(lengths: np.ndarray, max_row: int) -> list[list[int]]:
    """The conversations of each row: few rows of about the same length, which is at most `max_row` tokens.

    >>> balanced_rows(np.array([7, 3, 4, 8]), max_row=12)
    [[3, 1], [0, 2]]
    """
    longest_first = np.argsort(-lengths, kind="stable").tolist()
    n = math.ceil(lengths.sum() / max_row)
    while True:
        rows: list[list[int]] = [[] for _ in range(n)]
        tokens = [0] * n
        for i in longest_first:
            shortest = tokens.index(min(tokens))
            rows[shortest].append(i)
            tokens[shortest] += int(lengths[i])
        if max(tokens) <= max_row:
            return rows
        n += 1  # they do not fit: take one row more


# --- from examples to conversations -----------------------------------------------------------------------------------


def encode_examples(
    examples: Iterable[Example], template: ChatTemplate, block_size: int
) -> tuple[list[Conversation], int]:
    """Encode conversations for a model that reads `block_size` tokens; also returns how many were shortened to fit.

    See `ChatTemplate.encode_to_fit`. Raises ValueError, which names the example's place, if nothing is learned from.
    """

    def encode(example: Example) -> tuple[Conversation, bool]:
        ids, loss_mask, shortened = template.encode_to_fit(example.messages, block_size + 1, example.completion)
        return (ids, loss_mask), shortened

    return encode_items(examples, encode, "example")
