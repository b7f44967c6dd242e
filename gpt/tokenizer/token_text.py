"""Tokens as text that a person can read: while a model writes them, and each on its own."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence

from ..console import printable
from .tokenizer import Tokenizer


class TextStream:
    """Turns one sequence's tokens into text, piece by piece; special tokens show as nothing.

    A character whose bytes are spread over several tokens waits for the last of them.

    >>> stream = TextStream(Tokenizer.train("a", vocab_size=257))
    >>> tokens = stream.tokenizer.encode("né")
    >>> [stream.text(token) for token in tokens], stream.rest()
    (['n', '', 'é'], '')
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def text(self, token: int) -> str:
        """The text that can be shown after `token` has arrived. -1, which means no token, gives ""."""
        if token < 0 or token in self.tokenizer.special_tokens.values():
            return ""
        return printable(self._decoder.decode(self.tokenizer.decode_bytes([token])))

    def rest(self) -> str:
        """The remaining text at the end: "\ufffd" for an unfinished character."""
        return self._decoder.decode(b"", final=True)


def readable_pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """(start, stop, text) for each run ids[start:stop] that can be shown as text, usually a single token.

    Tokens that share a character form one piece. Bytes that are not text become U+FFFD.

    >>> tokenizer = Tokenizer.train("a", vocab_size=257)
    >>> list(readable_pieces(tokenizer, tokenizer.encode("aé!")))
    [(0, 1, 'a'), (1, 3, 'é'), (3, 4, '!')]
    """
    start, pending = 0, b""
    for stop, id in enumerate(ids, start=1):
        pending += tokenizer.decode_bytes([id])
        try:
            text = pending.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and stop < len(ids):
                continue  # the character is not complete yet
            text = pending.decode("utf-8", "replace")
        yield start, stop, text
        start = stop
        pending = b""
