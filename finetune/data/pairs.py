"""Preference pairs as tokens and as batches, for the reward model and for DPO.

A batch holds the chosen replies first and then the rejected ones: one forward pass reads both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .chat_template import ChatTemplate, Message, needed, without_oldest_turn
from .datasets import IGNORE, Preference, encode_items, pad_right


@dataclasses.dataclass(frozen=True)
class EncodedReply:
    """A conversation that ends with a reply: its tokens, and which of them belong to the reply (are learned from).

    What the assistant has said earlier belongs to the prompt, as in TRL.
    """

    ids: list[int]
    loss_mask: list[bool]
    reference: float = 0.0  # ln of the reply's probability under the reference model, once it is computed


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two replies to the same prompt: the chosen one is the better one."""

    chosen: EncodedReply
    rejected: EncodedReply


def encode_pairs(preferences: Sequence[Preference], template: ChatTemplate, max_tokens: int) -> tuple[list[Pair], int]:
    """Encode preferences for a model that reads `max_tokens`; also returns how many were shortened to fit.

    Both replies of a pair keep the same prompt: its oldest turns are left out until both fit. If a single turn is still
    too long, the ends of the replies are cut. Raises ValueError, which names the pair, if nothing is left to compare.
    """
    return encode_items(preferences, lambda preference: _encode(preference, template, max_tokens), "pair")


def _encode(preference: Preference, template: ChatTemplate, max_tokens: int) -> tuple[Pair, bool]:
    prompt = list(preference.prompt)
    texts = (preference.chosen, preference.rejected)
    references = (preference.ref_chosen_logps or 0.0, preference.ref_rejected_logps or 0.0)
    while any(needed(template.encode(_talk(prompt, text), completion=1)[1]) > max_tokens for text in texts):
        if (shorter := without_oldest_turn(prompt)) is None:
            break
        prompt = shorter
    replies = []
    cut = len(prompt) < len(preference.prompt)
    for text, reference in zip(texts, references):
        ids, loss_mask, was_cut = template.encode_to_fit(_talk(prompt, text), max_tokens, completion=1)
        end = needed(loss_mask)  # behind the token that ends the reply, which is its summary
        replies.append(EncodedReply(ids[:end], loss_mask[:end], reference))
        cut = cut or was_cut
    if replies[0].ids == replies[1].ids:
        raise ValueError(f"the two replies differ only after the {max_tokens} tokens that the model can read")
    return Pair(*replies), cut


def _talk(prompt: list[Message], reply: str) -> list[Message]:
    return [*prompt, Message(role="assistant", content=reply)]


class PairBatch(NamedTuple):
    """B pairs as 2B sequences: the chosen replies in rows 0 .. B-1, the rejected ones in rows B .. 2B-1.

    tokens (2B, T), padded on the right; lengths (2B); loss_mask (2B, T), True on the reply's tokens; reference (2B).
    """

    tokens: np.ndarray
    lengths: np.ndarray
    loss_mask: np.ndarray
    reference: np.ndarray

    @property
    def size(self) -> int:
        """B, the number of pairs."""
        return len(self.tokens) // 2

    def shifted(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets for a language model, (2B, T-1) each: a token is the target of the one before it."""
        return self.tokens[:, :-1], np.where(self.loss_mask, self.tokens, IGNORE)[:, 1:]


def pair_batch(pairs: Sequence[Pair]) -> PairBatch:
    """Collect pairs into a batch."""
    replies = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    tokens, lengths = pad_right([reply.ids for reply in replies], 0)
    loss_mask, _ = pad_right([[int(learn) for learn in reply.loss_mask] for reply in replies], 0)
    return PairBatch(tokens, lengths, loss_mask == 1, np.array([reply.reference for reply in replies]))
