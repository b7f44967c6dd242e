"""Build a vocabulary and check it: every token has bytes, ids have no gaps, and merges join known tokens.

The readers of the file formats (vocabulary_files.py, tokenizer_json.py) return ids, merges and special tokens. Here
they are combined and checked. An error is a ValueError, to which the reader adds the file's name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..file_checks import check_unused
from .bpe import Pair
from .bpe_training import BYTE_ORDER
from .pre_tokenization import checked_special_tokens

ENDOFTEXT = "<|endoftext|>"
# How special tokens look that no file declares, as in OpenAI's encoder.json: <|endoftext|>, <pad>, [CLS].
_LOOKS_SPECIAL = re.compile(r"<.+>|\[.+\]", re.DOTALL)
# Bytes without which English cannot be written. SmolLM2's vocabulary lacks others: control characters, and bytes that
# no text has in UTF-8.
_INDISPENSABLE = b"\n" + bytes(range(0x20, 0x7F))


# ---------------------------------------------------------------------------------------------------------------------
# Spelling. In vocab.json and merges.txt each byte of a token is one visible character. Bytes that are not visible
# characters in Latin-1 borrow the characters U+0100, U+0101, ... (`bytes_to_unicode` in OpenAI's code).

BYTE_TO_CHARACTER = {byte: chr(byte) for byte in range(256)}
BYTE_TO_CHARACTER |= {byte: chr(256 + i) for i, byte in enumerate(BYTE_ORDER[BYTE_ORDER.index(0) :])}  # 0: invisible
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}


def visible(token: bytes) -> str:
    """Spell a token as GPT-2's files do, one visible character per byte.

    >>> visible(b" the"), visible("é".encode())
    ('Ġthe', 'Ã©')
    """
    return "".join(map(BYTE_TO_CHARACTER.__getitem__, token))


def from_visible(text: str) -> bytes:
    """The inverse of `visible`. Raises ValueError for a character that does not represent a byte.

    >>> from_visible("Ġthe")
    b' the'
    """
    try:
        return bytes(map(CHARACTER_TO_BYTE.__getitem__, text))
    except KeyError as error:
        raise ValueError(f"{text!r:.60} is not a token: {error.args[0]!r} does not stand for a byte") from None


# ---------------------------------------------------------------------------------------------------------------------
# A vocabulary.


Around = tuple[tuple[str, ...], tuple[str, ...]]  # the special tokens that are put before a text, and after it


class Vocabulary(NamedTuple):
    """The contents of a tokenizer's files.

    pattern: one of `pre_tokenization.PATTERNS`. chat_template: a text in Jinja. roles: special tokens by their roles,
    such as bos_token. ignore_merges: a word that is a token is not cut, whatever the merges make of it.
    """

    tokens: dict[int, bytes]
    merges: list[Pair]
    special_tokens: list[str]
    eos_token: str | None
    pattern: str = "gpt2"
    chat_template: str | None = None
    roles: Mapping[str, str] = {}
    around: Around = ((), ())
    ignore_merges: bool = False


def assemble(
    ids: Mapping[str, Any],
    lines: Sequence[str],
    added: Mapping[str, Any],
    roles: Mapping[str, Any],
    ignore_merges: bool = False,
) -> Vocabulary:
    """From spellings to bytes: put together what the files say. (What any vocabulary needs, `Tokenizer` checks.)

    `ids` are all tokens as vocab.json spells them, `lines` the merges as merges.txt does, `added` special tokens beside
    or among the others, `roles` what special_tokens_map.json holds.
    """
    merges = [parse_pair(line, number) for number, line in enumerate(lines, start=1)]
    made = {first + second for first, second in merges}
    of_roles = {role: tokens_of_role(role, value) for role, value in roles.items()}
    special_tokens = [*added, *itertools.chain(*of_roles.values())]
    # and those that look special and that no merge makes, as <|endoftext|> in OpenAI's encoder.json
    undeclared = filter(_LOOKS_SPECIAL.fullmatch, ids)
    special_tokens += [text for text in undeclared if text.encode("utf-8", "replace") not in made]
    special_tokens = checked_special_tokens(special_tokens)
    tokens: dict[int, bytes] = {}
    for text, id in {**ids, **added}.items():
        if type(id) is not int:
            raise ValueError(f"the id of {text!r:.60} must be a whole number, got {id!r:.60}")
        if id in tokens:
            raise ValueError(f"id {id} stands for {visible(tokens[id])!r} and for {text!r:.60}")
        tokens[id] = text.encode("utf-8") if text in special_tokens else from_visible(text)
    # Roles may name a token that has no id yet, as a padding token: it gets the next one, as in transformers.
    known = set(tokens.values())
    named = {role: token for role, found in of_roles.items() if role.endswith("_token") for token in found}
    for role in ("bos_token", "eos_token"):
        if role in named and named[role].encode("utf-8", "replace") not in known:
            raise ValueError(f"the {role} {named[role]!r:.60} is not in the vocabulary")
    for text in special_tokens:
        if text.encode("utf-8") not in known:
            tokens[len(tokens)] = text.encode("utf-8")
    if not ignore_merges:
        check_all_made(tokens, merges, special_tokens)
    eos = named.get("eos_token", None if "eos_token" in roles else ENDOFTEXT)
    eos = eos if eos in special_tokens else None
    return Vocabulary(tokens, merges, special_tokens, eos, roles=named, ignore_merges=ignore_merges)


def tokens_of_role(role: str, value: Any) -> list[str]:
    """The tokens in an entry of special_tokens_map.json, which is one or a list of them; a token may be an object.

    Raises ValueError for other values, and for tokens that take more than themselves.
    """
    tokens = []
    for token in value if isinstance(value, list) else [value]:
        if isinstance(token, dict):
            check_added_token(token)
            token = token.get("content")
        if not isinstance(token, str | None):
            raise ValueError(f"{role} must be a token, got {token!r:.60}")
        if token:
            tokens.append(token)
    return tokens


def check_added_token(token: Mapping[str, Any], *more: str) -> None:
    """Raise ValueError for an option that makes a token match more or less than its own text. more: such options."""
    check_unused(token, ("lstrip", "rstrip", "single_word", *more), f" of {token.get('content')!r:.60}")


def parse_pair(line: str, number: int) -> Pair:
    """The two tokens of a line of merges.txt, the merge of this number."""
    first, *rest = line.split(" ")
    if len(rest) != 1 or not first or not rest[0]:
        raise ValueError(f"merge {number} must be two tokens with one space between them, got {line!r:.60}")
    return from_visible(first), from_visible(rest[0])


# ---------------------------------------------------------------------------------------------------------------------
# Checks.


def check_tokens(tokens: Mapping[int, bytes]) -> None:
    """Raise ValueError unless ids run from 0 without gaps, no two tokens are equal, and all bytes are tokens.

    A byte that plain English does not need may lack a token. It is left out when a text is encoded.
    """
    if holes := [id for id in range(len(tokens)) if id not in tokens]:
        raise ValueError(f"ids must run from 0 to {len(tokens) - 1} without holes, but no token has id {holes[0]}")
    ids: dict[bytes, int] = {}
    for id, token in tokens.items():
        if token in ids:
            raise ValueError(f"ids {ids[token]} and {id} are the same token {visible(token)!r}")
        ids[token] = id
    if missing := [byte for byte in _INDISPENSABLE if bytes([byte]) not in ids]:
        first = f"0x{missing[0]:02x}, written {visible(bytes(missing[:1]))!r}"
        raise ValueError(f"{len(missing)} of the bytes of plain English have no token (the first is {first})")


def check_all_made(tokens: Mapping[int, bytes], merges: Sequence[Pair], special_tokens: Iterable[str]) -> None:
    """Raise ValueError for a token that is not a byte, not special, and not the result of a merge."""
    explained = {first + second for first, second in merges} | {token.encode("utf-8") for token in special_tokens}
    if found := [id for id, token in tokens.items() if len(token) > 1 and token not in explained]:
        first = f"{visible(tokens[found[0]])!r}, id {found[0]}"
        which = f"{len(found)} of the tokens, which are not special (the first is {first})"
        raise ValueError(f"no merge makes {which}: merges are missing or of another vocabulary")


def check_merges(merges: Sequence[Pair], tokens: Iterable[bytes]) -> None:
    """Raise ValueError unless merges join known tokens to known tokens."""
    tokens = set(tokens)
    available = {token for token in tokens if len(token) == 1}
    for number, pair in enumerate(merges, start=1):
        if unknown := [visible(part) for part in pair if part not in available]:
            raise ValueError(f"merge {number}: {unknown[0]!r} is neither a byte nor the result of an earlier merge")
        made = b"".join(pair)
        if made not in tokens:
            one, other = map(visible, pair)
            made_of = f"{one!r} and {other!r} make {visible(made)!r}"
            raise ValueError(f"merge {number}: {made_of}, which the vocabulary lacks")
        available.add(made)
