"""Show what a conversation teaches: the tokens that the model learns to write are marked, the others are not."""

from __future__ import annotations

from collections.abc import Sequence

from gpt.tokenizer.token_view import MarkedToken, readable_pieces, to_terminal

from .chat_template import ChatTemplate, Message

LEARNED = 3  # the level of the mark, of 0 to 4


def mask_as_text(
    template: ChatTemplate, messages: Sequence[Message], color: bool | None = None, completion: int | None = None
) -> str:
    """The conversation as the model reads it, what is learned from in color, or (without colors) in brackets.

    completion: see `ChatTemplate.encode`.
    """
    ids, loss_mask = template.encode(messages, completion=completion)
    pieces = readable_pieces(template.tokenizer, ids)
    marked = [MarkedToken(text, LEARNED if loss_mask[start] else 0) for start, _, text in pieces]
    return to_terminal(marked, color).rstrip("\n")
