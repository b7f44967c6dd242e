r"""Answers in a given form: one of several choices, or a JSON object with given keys, which a program can read.

At each step only those tokens may be chosen with which the text remains a beginning of what the form allows. The logits
of all others become -inf, so their probability is 0. A token is chosen among the rest as always: the distribution is
the model's own, restricted and scaled to sum to 1. (Not its distribution over whole answers: it may choose a token that
leads only to an answer which it finds unlikely.)

A form is a pair of regular expressions: of whole texts, and of their beginnings. For an integer of up to three digits
these could be

    whole        -?[0-9]{1,3}      perhaps a minus, then one to three digits       7    -12    380
    beginning    -?[0-9]{0,3}      the digits may still be missing                 (nothing)    -    -1    38

With the text "-1", a token "2" gives "-12", which is a beginning: it may come. A token "x" gives "-1x", which is not.
The text is also whole, so it may end here. Every beginning can be completed by bytes (a vocabulary may lack the token),
and lengths are bounded, so a text always ends, and is whole. The expressions are of bytes, because tokens are: one may
hold half a character.

Forms are put together. {"age": a number} begins with a part of `{"age": `, or with all of it and a part of the number:

>>> whole, beginning = (re.compile(pattern) for pattern in json_object({"age": "number"}))
>>> [bool(beginning.fullmatch(text)) for text in (b"", b'{"a', b'{"age": ', b'{"age": -', b'{"age": x')]
[True, True, True, True, False]
>>> [bool(whole.fullmatch(text)) for text in (b'{"age": -', b'{"age": -7', b'{"age": -7}')]
[False, False, True]

Willard & Louf 2023, "Efficient guided generation for large language models" (arXiv 2307.09702), section 3. Simplified:
they compute the tokens of each state of an automaton in advance; we try every token at each step. Objects have one
spacing, their keys in the given order, nothing nested, short strings without escapes, and numbers without exponent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ..tokenizer import Tokenizer

Form = tuple[bytes, bytes]  # patterns: of whole texts, and of their beginnings


def one_of(choices: Sequence[str]) -> Form:
    """The form of a text that is one of the choices. Raises ValueError if there are none."""
    if not choices:
        raise ValueError("there are no choices: a text that is one of them needs at least one")
    texts = [choice.encode() for choice in choices]
    beginnings = {text[:length] for text in texts for length in range(len(text) + 1)}
    return any_of(texts), any_of(beginnings)


def any_of(texts: Iterable[bytes]) -> bytes:
    """The pattern of a text that is one of these.

    >>> any_of([b"yes", b"no?"])
    b'(?:yes|no\\\\?)'
    """
    return b"(?:" + b"|".join(map(re.escape, texts)) + b")"


# For each kind of value, the patterns of whole values and of their beginnings. (?: ) groups, and {0,40}+ takes as many
# as there are and gives none back.
KINDS = {
    "string": (
        rb'"'  # a quote
        rb'[^"\\\x00-\x1f]{0,40}+'  # up to 40 bytes other than quotes, backslashes and control characters
        rb"[\x80-\xbf]{0,3}+"  # up to 3 bytes from 80 to BF: the rest of a character in which the 40 bytes ended
        rb'"',  # a quote. (The `+` after {0,40} stops the two parts from sharing bytes.)
        rb'(?:"[^"\\\x00-\x1f]{0,40}+[\x80-\xbf]{0,3}"?)?',
    ),
    "number": (rb"-?(?:0|[1-9]\d{0,11})(?:\.\d{1,6})?", rb"-?(?:(?:0|[1-9]\d{0,11})(?:\.\d{0,6})?)?"),
    "boolean": one_of(["true", "false"]),
}


def json_object(kinds: Mapping[str, str]) -> Form:
    """The form of a JSON object. kinds: for each key, what its value is: "string", "number" or "boolean".

    Raises ValueError for another kind.
    """
    parts = []
    before = "{"
    for key, kind in kinds.items():
        if kind not in KINDS:
            raise ValueError(f"the value of {key!r} must be one of {', '.join(KINDS)}, got {kind!r}")
        # Two parts for each key: the fixed text up to the value, then the value.
        parts += [one_of([before + json.dumps(key) + ": "]), KINDS[kind]]
        before = ", "
    # From the last part to the first. A beginning is: part + beginning of the rest, or a beginning of part.
    whole, beginning = one_of(["}" if kinds else "{}"])
    for part, part_begins in reversed(parts):
        beginning = b"(?:%b%b|%b)" % (part, beginning, part_begins)
        whole = part + whole
    return whole, beginning


def in_form(form: Form, tokenizer: Tokenizer) -> Callable[[np.ndarray, list[int]], np.ndarray]:
    """The `process` of `batch_generation.stream` that keeps a text in a form. After the last byte follows eos_token.

    Raises ValueError for a tokenizer without eos_token, and later for one with more tokens than the logits have, and
    where no token can continue the text in the form.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("a form needs a tokenizer with an eos_token: it is what ends the text")
    whole, beginning = map(re.compile, form)
    tokens = [tokenizer.vocab[id] for id in range(len(tokenizer))]

    def restricted(logits: np.ndarray, new: list[int]) -> np.ndarray:
        if logits.size < len(tokens):
            raise ValueError(f"the tokenizer has {len(tokens)} tokens, but the model knows {logits.size}")
        text = tokenizer.decode_bytes(new)
        allowed = np.array([beginning.fullmatch(text + token) and begins_utf8(text + token) for token in tokens], bool)
        allowed[[*tokenizer.special_tokens.values()]] = False
        allowed[tokenizer.eos_token_id] = whole.fullmatch(text) is not None
        if not allowed.any():
            raise ValueError(f"the vocabulary has no token with which {text!r} can go on in this form")
        return np.where(allowed, logits[: len(allowed)], -np.inf)

    return restricted


def begins_utf8(text: bytes) -> bool:
    """Whether a text is UTF-8, apart from a last character that is not complete."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True
