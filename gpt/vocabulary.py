"""A BPE vocabulary as files: GPT-2's two text files, and what Hugging Face writes beside them or instead.

`vocab.json` says which id a token has, `merges.txt` which pairs are joined, in order. Special tokens stand in
vocab.json as they are, and three more files may say which tokens those are. `tokenizer.json` holds all of it in one
file. The files are input from outside: whatever is damaged is a ValueError that names file and place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .bpe import BYTE_ORDER, Pair, checked_special_tokens, from_visible, visible
from .files import parse_json, read_json, read_text, write_text

ENDOFTEXT = "<|endoftext|>"
# The files that hold vocabulary and merges: Hugging Face's names for them, and OpenAI's.
NAMES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
# How special tokens look that no file declares, as in OpenAI's encoder.json: <|endoftext|>, <pad>, [CLS].
_LOOKS_SPECIAL = re.compile(r"<.+>|\[.+\]", re.DOTALL)


class Vocabulary(NamedTuple):
    """What a tokenizer's folder says."""

    tokens: dict[int, bytes]
    merges: list[Pair]
    special_tokens: list[str]
    eos_token: str | None


# ---------------------------------------------------------------------------------------------------------------------
# What makes a vocabulary sound.


def check_vocabulary(tokens: Mapping[int, bytes], merges: Sequence[Pair]) -> None:
    """Raise ValueError unless ids run from 0 without holes, every byte is a token, and merges join tokens to tokens."""
    for id in range(len(tokens)):
        if id not in tokens:
            raise ValueError(f"ids must run from 0 to {len(tokens) - 1} without holes, but no token has id {id}")
    ids: dict[bytes, int] = {}
    for id, token in tokens.items():
        if token in ids:
            raise ValueError(f"ids {ids[token]} and {id} are the same token {visible(token)!r}")
        ids[token] = id
    missing = [byte for byte in BYTE_ORDER if bytes([byte]) not in ids]
    if missing:
        raise ValueError(
            f"{len(missing)} of the 256 bytes have no token (the first is 0x{missing[0]:02x}, written "
            f"{visible(bytes([missing[0]]))!r}), so that not every text could be encoded"
        )
    check_merges(merges, ids)


def check_all_made(tokens: Mapping[int, bytes], merges: Sequence[Pair], special_tokens: Iterable[str]) -> None:
    """Raise ValueError for a token that is neither a byte nor special and that no merge makes."""
    explained = {first + second for first, second in merges}
    explained.update(token.encode("utf-8") for token in special_tokens)
    unexplained = [id for id, token in tokens.items() if len(token) > 1 and token not in explained]
    if unexplained:
        raise ValueError(
            f"no merge makes {len(unexplained)} of the tokens, and they are not declared special (the first is "
            f"{visible(tokens[unexplained[0]])!r}, id {unexplained[0]}): merges are missing or of another vocabulary"
        )


def check_merges(
    merges: Sequence[Pair], tokens: Iterable[bytes], place: Callable[[int], str] = lambda i: f"merge {i + 1}"
) -> None:
    """Raise ValueError, with the `place` of the i-th merge, unless merges join known tokens to known tokens."""
    tokens = set(tokens)
    available = {bytes([byte]) for byte in range(256)}
    for i, (first, second) in enumerate(merges):
        for part in (first, second):
            if part not in available:
                raise ValueError(f"{place(i)}: {visible(part)!r} is neither a byte nor the result of an earlier merge")
        if first + second not in tokens:
            raise ValueError(
                f"{place(i)}: {visible(first)!r} and {visible(second)!r} make {visible(first + second)!r}, "
                "which the vocabulary does not have"
            )
        available.add(first + second)


# ---------------------------------------------------------------------------------------------------------------------
# Reading.


def has_tokenizer(folder: str | os.PathLike[str]) -> bool:
    """Whether there are files of a tokenizer in `folder`, whole or damaged."""
    return any((Path(folder) / name).exists() for name in (*NAMES[0], *NAMES[1], "tokenizer.json"))


def read_vocabulary(folder: str | os.PathLike[str]) -> Vocabulary:
    """Read vocab.json and merges.txt, or encoder.json and vocab.bpe, or tokenizer.json from a folder.

    Special tokens are those that added_tokens.json, special_tokens_map.json or tokenizer_config.json declare, and
    tokens that no merge makes and that look like <...> or [...]. Raises FileNotFoundError, or ValueError.
    """
    folder = Path(folder)
    added, roles = _declared_special_tokens(folder)
    for names in NAMES:
        vocab, merges_txt = (folder / name for name in names)
        if vocab.exists() and merges_txt.exists():
            return parse_vocabulary(read_text(vocab), read_text(merges_txt), str(vocab), str(merges_txt), added, roles)
        if vocab.exists() or merges_txt.exists():
            raise FileNotFoundError(f"{folder} has only one of {' and '.join(names)}; a tokenizer needs both")
    path = folder / "tokenizer.json"
    if path.exists():
        ids, merges, more = _parse_tokenizer_json(read_json(path), str(path))
        return _assemble(ids, merges, added | more, roles, str(path), lambda i: f"{path}, merge {i + 1}")
    raise FileNotFoundError(
        f"{folder} holds no tokenizer: vocab.json and merges.txt, encoder.json and vocab.bpe, or tokenizer.json"
    )


def parse_vocabulary(
    vocab: str,
    merges: str,
    vocab_name: str,
    merges_name: str,
    added: Mapping[str, int] | None = None,
    roles: Mapping[str, Any] | None = None,
) -> Vocabulary:
    """What the texts of vocab.json and merges.txt say; their names stand in errors.

    `added` gives ids of further special tokens, `roles` is what special_tokens_map.json holds.
    """
    lines = merges.split("\n")  # not splitlines(), which would also cut at some characters of tokens
    first = 1 if lines[0].startswith("#version") else 0  # only there: a "#" may be a token as well
    if lines[-1] == "":
        lines.pop()

    def place(i: int) -> str:
        return f"{merges_name}, line {first + i + 1}"

    pairs = [_parse_pair(line.removesuffix("\r"), place(i)) for i, line in enumerate(lines[first:])]
    return _assemble(parse_json(vocab, vocab_name), pairs, added or {}, roles or {}, vocab_name, place)


def _parse_pair(line: str, place: str) -> Pair:
    parts = line.split(" ")
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"{place}: expected two tokens with one space between them, got {line!r}")
    return _to_bytes(parts[0], place), _to_bytes(parts[1], place)


def _to_bytes(text: str, place: str) -> bytes:
    try:
        return from_visible(text)
    except KeyError as error:
        raise ValueError(f"{place}: {text!r} is no token, for {error.args[0]!r} stands for no byte") from None


def _declared_special_tokens(folder: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Special tokens with an id, and tokens by role (`eos_token`, ...), from the three files that may declare them."""
    added: dict[str, int] = {}
    roles: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        path = folder / name
        if not path.exists():
            continue
        content = read_json(path)
        if name == "added_tokens.json":
            added |= content
            continue
        roles |= {key: value for key, value in content.items() if key.endswith(("_token", "_special_tokens"))}
        try:
            added |= {entry["content"]: int(id) for id, entry in content.get("added_tokens_decoder", {}).items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(f"{path} is damaged: added_tokens_decoder must map ids to tokens") from None
    return added, roles


def _parse_tokenizer_json(content: dict[str, Any], name: str) -> tuple[dict[str, int], list[Pair], dict[str, int]]:
    """Vocabulary, merges and special tokens from the one file of Hugging Face's `tokenizers`."""
    try:
        model, splitter = content["model"], content["pre_tokenizer"]
        kind = model.get("type"), splitter and splitter["type"], splitter and splitter.get("use_regex", True)
        if kind != ("BPE", "ByteLevel", True) or splitter["add_prefix_space"] or content.get("normalizer"):
            raise ValueError(f"{name} is not GPT-2's kind of tokenizer: byte-level BPE with GPT-2's pattern")
        merges = []
        for i, merge in enumerate(model["merges"], start=1):
            line = merge if isinstance(merge, str) else " ".join(merge)
            merges.append(_parse_pair(line, f"{name}, merge {i}"))
        added = {entry["content"]: entry["id"] for entry in content.get("added_tokens", [])}
        return {**model["vocab"]}, merges, added
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{name} is damaged: it lacks a part, or has one of the wrong type ({error!r})") from None


def _assemble(
    ids: Mapping[str, Any],
    merges: list[Pair],
    added: Mapping[str, Any],
    roles: Mapping[str, Any],
    name: str,
    place: Callable[[int], str],
) -> Vocabulary:
    """From spellings to bytes: put together what the files say, and check that it fits."""
    made = {first + second for first, second in merges}
    special_tokens = list(dict.fromkeys([*added, *_tokens_with_roles(roles)]))
    special_tokens += [text for text in ids if text not in special_tokens and _is_undeclared_special(text, made)]
    try:
        special_tokens = checked_special_tokens(special_tokens)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} or a file beside it is damaged: {error}") from None
    tokens: dict[int, bytes] = {}
    for text, id in {**ids, **added}.items():
        if type(id) is not int:
            raise ValueError(f"{name}: the id of {text!r} must be a whole number, got {id!r}")
        if id in tokens:
            raise ValueError(f"{name}: id {id} stands for {visible(tokens[id])!r} and for {text!r}")
        tokens[id] = text.encode("utf-8") if text in special_tokens else _to_bytes(text, name)
    # Roles may name a token that has no id yet, as a padding token: it gets the next one, as in transformers.
    known = set(tokens.values())
    for text in special_tokens:
        if text.encode("utf-8") not in known:
            tokens[len(tokens)] = text.encode("utf-8")
    check_merges(merges, tokens.values(), place)
    try:
        check_vocabulary(tokens, merges)
        check_all_made(tokens, merges, special_tokens)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    eos = next(iter(_tokens_with_roles({"eos_token": roles.get("eos_token", ENDOFTEXT)})), None)
    return Vocabulary(tokens, merges, special_tokens, eos if eos in special_tokens else None)


def _tokens_with_roles(roles: Mapping[str, Any]) -> list[str]:
    """The tokens of special_tokens_map.json: each value is a token, or a list of them; a token may be an object."""
    tokens = []
    for value in roles.values():
        for token in value if isinstance(value, list) else [value]:
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str) and text:
                tokens.append(text)
    return tokens


def _is_undeclared_special(text: str, made: set[bytes]) -> bool:
    """Whether a token of vocab.json looks special and no merge makes it, as <|endoftext|> in OpenAI's encoder.json."""
    return bool(_LOOKS_SPECIAL.fullmatch(text)) and text.encode("utf-8", "replace") not in made


# ---------------------------------------------------------------------------------------------------------------------
# Writing.


def write_vocabulary(folder: str | os.PathLike[str], vocabulary: Vocabulary) -> None:
    """Write vocab.json, merges.txt, and the two files from which transformers learns which tokens are special."""
    folder = Path(folder)
    special = {text.encode("utf-8"): text for text in vocabulary.special_tokens}
    ids = {special.get(token) or visible(token): id for id, token in sorted(vocabulary.tokens.items())}
    lines = [f"{visible(first)} {visible(second)}\n" for first, second in vocabulary.merges]
    # Without an explicit null, transformers would add <|endoftext|> in these roles to a vocabulary that lacks it.
    roles: dict[str, Any] = dict.fromkeys(("bos_token", "eos_token", "unk_token"), vocabulary.eos_token)
    roles["additional_special_tokens"] = [text for text in vocabulary.special_tokens if text != vocabulary.eos_token]
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False) | {"special": True}
    decoder = {str(ids[text]): {"content": text, **flags} for text in vocabulary.special_tokens}
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **roles, "added_tokens_decoder": decoder}

    write_text(folder / "vocab.json", json.dumps(ids, ensure_ascii=False))
    write_text(folder / "merges.txt", "#version: 0.2\n" + "".join(lines))
    write_text(folder / "special_tokens_map.json", json.dumps({k: v for k, v in roles.items() if v}, indent=2))
    write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2))
    for outdated in ("tokenizer.json", "added_tokens.json"):  # of a tokenizer that was here before
        (folder / outdated).unlink(missing_ok=True)
