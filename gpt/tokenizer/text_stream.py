"""Tokens to text while they come: what a script shows as the model writes."""

from __future__ import annotations

import codecs

from ..training.log import printable
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
        """What can be shown now that `token` has come; -1, for no token, is nothing."""
        if token < 0 or token in self.tokenizer.special_tokens.values():
            return ""
        return printable(self._decoder.decode(self.tokenizer.decode_bytes([token])))

    def rest(self) -> str:
        """What is left at the end: "\ufffd" for a character that was not finished."""
        return self._decoder.decode(b"", final=True)
