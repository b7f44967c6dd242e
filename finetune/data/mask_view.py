"""What a conversation teaches, made visible: marked are the tokens that the model learns to write, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpt.tokenizer.token_view import MarkedToken, readable_pieces, to_html, to_terminal

from .chat_template import ChatTemplate, Message

LEARNED = 3  # the level of the mark, of 0 to 4


def mask_as_text(template: ChatTemplate, messages: Sequence[Message], color: bool | None = None) -> str:
    """The conversation as the model reads it, what is learned from in color, or (without colors) in brackets."""
    return to_terminal(_marked(template, messages), color).rstrip("\n")


def mask_as_html(template: ChatTemplate, conversations: Sequence[Sequence[Message]]) -> str:
    """The same for several conversations, as a page."""
    tokens: list[MarkedToken] = []
    learned = total = 0
    for messages in conversations:
        marked = list(_marked(template, messages))
        total += len(marked)
        learned += sum(token.level > 0 for token in marked)
        tokens += [*marked, MarkedToken("\n")]
    legend = ["given: read, not learned from", "", "", "learned: the model is to write this", ""]
    facts = [("conversations", len(conversations)), ("tokens", total), ("learned from", learned)]
    return to_html(tokens, "What is learned from", legend, facts)


def _marked(template: ChatTemplate, messages: Sequence[Message]) -> Iterator[MarkedToken]:
    ids, learned = template.encode(messages)
    for start, stop, text in readable_pieces(template.tokenizer, ids):
        note = f"{', '.join(map(str, ids[start:stop]))}: {'learned' if learned[start] else 'given'}"
        yield MarkedToken(text, LEARNED if learned[start] else 0, note)
