"""tokenizer.json, the one file in which Hugging Face's library `tokenizers` keeps a whole tokenizer.

It describes a pipeline: a normalizer changes the text, a pre-tokenizer cuts it into words, a model cuts words into
tokens, added tokens are found before all that. Every step may be of many kinds; known here are byte-level BPE without a
normalizer, and the two ways to cut that GPT-2 and SmolLM2 use. Whatever else a file asks for is refused by name, since
a tokenizer that is nearly the same gives a model other ids than it was trained on.
"""

from __future__ import annotations

import json
from typing import Any

from .bpe import visible
from .vocabulary import Vocabulary

# How a pre-tokenizer cuts a text into words: by GPT-2's pattern; and before that, each digit by itself.
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt2": _BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTE_LEVEL]},
}
# What makes `tokenizers` merge otherwise than by the list of merges alone.
_UNKNOWN_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")


def parse_tokenizer_json(content: dict[str, Any], name: str) -> tuple[dict[str, int], list[str], dict[str, int], str]:
    """Ids, merges as lines of merges.txt, added tokens and pattern (a name in `bpe.PATTERNS`).

    Raises ValueError, with the file's `name`, for what is damaged and for steps that are not known here.
    """
    try:
        model, normalizer = content["model"], content.get("normalizer")
        if model["type"] != "BPE":
            raise ValueError(f"{name}: its model is {model['type']!r:.60}, and only byte-level BPE is known here")
        if normalizer:
            raise ValueError(f"{name}: its normalizer {_short(normalizer)} is not known here; GPT-2 has none")
        if option := next((option for option in _UNKNOWN_OPTIONS if model.get(option)), None):
            raise ValueError(f"{name}: its model has the option {option}, which is not known here")
        pattern = _pattern(content["pre_tokenizer"], name)
        lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        added = {entry["content"]: entry["id"] for entry in content.get("added_tokens", [])}
        return {**model["vocab"]}, lines, added, pattern
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{name} is damaged: it lacks a part, or has one of the wrong type ({error!r})") from None


def _pattern(pre_tokenizer: Any, name: str) -> str:
    """The pattern that cuts a text as this pre-tokenizer does."""
    for pattern, known in PRE_TOKENIZERS.items():
        if _steps(pre_tokenizer) == _steps(known):
            return pattern
    raise ValueError(
        f"{name}: its pre-tokenizer {_short(pre_tokenizer)} is not known here; known are ByteLevel as GPT-2 uses it, "
        "and Digits before that as SmolLM2 does"
    )


def _steps(pre_tokenizer: Any) -> list[Any]:
    """A pre-tokenizer as a list of steps, each with all options that change what it does."""
    if not isinstance(pre_tokenizer, dict):
        return [pre_tokenizer]
    if pre_tokenizer["type"] == "Sequence":
        return [step for part in pre_tokenizer["pretokenizers"] for step in _steps(part)]
    defaults = {"use_regex": True} if pre_tokenizer["type"] == "ByteLevel" else {}  # older files do not have it
    return [{**defaults, **pre_tokenizer, "trim_offsets": True}]  # that one is about places, not about words


def _short(part: Any) -> str:
    text = json.dumps(part)
    return text if len(text) <= 160 else text[:157] + "..."


def tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of tokenizer.json for a vocabulary; `tokenizers` encodes and decodes with it as we do."""
    ids = {token: id for id, token in sorted(vocabulary.tokens.items())}
    special = {text.encode("utf-8"): text for text in vocabulary.special_tokens}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    added = [{"id": id, "content": special[token], **flags} for token, id in ids.items() if token in special]
    return {
        "version": "1.0",
        **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor")),
        "added_tokens": added,
        "pre_tokenizer": PRE_TOKENIZERS[vocabulary.pattern],
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
            **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
            "vocab": {special.get(token) or visible(token): id for token, id in ids.items()},
            "merges": [[visible(first), visible(second)] for first, second in vocabulary.merges],
        },
    }
