"""Read and write tokenizer.json, the file in which Hugging Face's library `tokenizers` stores a whole tokenizer.

The file describes a pipeline. Added tokens are found first, a normalizer changes the text, a pre-tokenizer cuts it into
words, a model cuts words into tokens, and a post-processor adds special tokens before and after. There are many kinds
of each step. We support byte-level BPE with the pre-tokenizers of GPT-2, SmolLM2, Llama 3 and Qwen2. Everything else is
refused by name, because a tokenizer that is nearly right gives the model ids that it was not trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .pre_tokenization import NORMALIZED, PATTERNS
from .vocabulary import Vocabulary, assemble, check_added_token, visible

# How a pre-tokenizer cuts a text into words: by GPT-2's pattern; and before that, each digit by itself; or by a pattern
# that the file spells out.
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt2": _BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTE_LEVEL]},
}
for _name in ("llama3", "qwen2"):
    _split = {"type": "Split", "pattern": {"Regex": PATTERNS[_name]}, "behavior": "Isolated", "invert": False}
    PRE_TOKENIZERS[_name] = {"type": "Sequence", "pretokenizers": [_split, {**_BYTE_LEVEL, "use_regex": False}]}
# What makes `tokenizers` merge otherwise than by the list of merges alone, or cut off and fill up the result.
_UNKNOWN_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
_UNKNOWN_STEPS = ("truncation", "padding")


def parse_tokenizer_json(
    content: dict[str, Any], added: Mapping[str, int], roles: Mapping[str, Any], name: str
) -> Vocabulary:
    """The vocabulary in a tokenizer.json. `added` and `roles` come from other files (see `vocabulary.assemble`).

    Raises ValueError, naming the file, if it is damaged or has unsupported steps.
    """
    try:
        model = content["model"]
        if model["type"] != "BPE":
            raise ValueError(f"{name}: its model is {model['type']!r:.60}, and only byte-level BPE is known here")
        for part, options in ((model, _UNKNOWN_OPTIONS), (content, _UNKNOWN_STEPS)):
            if option := next((option for option in options if part.get(option)), None):
                raise ValueError(f"{name}: its option {option} is {_short(part[option])}, and only null is known here")
        pattern = _pattern(content["pre_tokenizer"], content.get("normalizer"), name)
        lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        for entry in content.get("added_tokens") or []:
            check_added_token(entry, name)
            if entry.get("normalized") and pattern in NORMALIZED:
                raise ValueError(f"{name}: the option normalized of {entry['content']!r:.60} is not supported here")
            added = {**added, entry["content"]: entry["id"]}
        vocabulary = assemble(model["vocab"], lines, added, roles, name, ignore_merges=bool(model.get("ignore_merges")))
        around = _around(content.get("post_processor"), vocabulary, name)
        return vocabulary._replace(pattern=pattern, around=around)
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{name} is damaged: it lacks a part, or has one of the wrong type ({error!r})") from None


def _pattern(pre_tokenizer: Any, normalizer: Any, name: str) -> str:
    """The pattern that cuts a text like this pre-tokenizer."""
    for pattern, known in PRE_TOKENIZERS.items():
        if _steps(pre_tokenizer) == _steps(known):
            expected = {"type": NORMALIZED[pattern]} if pattern in NORMALIZED else None
            if (normalizer or None) != expected:
                raise ValueError(f"{name}: its normalizer {_short(normalizer)} is not known here; {expected} would be")
            return pattern
    names = "those of GPT-2 (ByteLevel), SmolLM2 (Digits before that), Llama 3 and Qwen2"
    raise ValueError(f"{name}: its pre-tokenizer {_short(pre_tokenizer)} is not known here; known are {names}")


def _around(step: Any, vocabulary: Vocabulary, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The special tokens that a post-processor puts before and after a text."""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    kind = None if step is None else step["type"]
    if kind == "Sequence":
        for part in step["processors"]:
            found = _around(part, vocabulary, name)
            if any(found) and (before or after):
                raise ValueError(f"{name}: its post_processor {_short(step)} is not known here")
            before, after = found if any(found) else (before, after)
    elif kind in ("RobertaProcessing", "BertProcessing"):
        before, after = (step["cls"][0],), (step["sep"][0],)
    elif kind == "TemplateProcessing":
        texts: list[Any] = [part["SpecialToken"]["id"] if "SpecialToken" in part else None for part in step["single"]]
        place = texts.index(None) if texts.count(None) == 1 else len(texts)
        before, after = tuple(texts[:place]), tuple(texts[place + 1 :])
        ids = [id for text in before + after for id in step["special_tokens"][text]["ids"]]
        if place == len(texts) or any(vocabulary.tokens[id].decode() != t for id, t in zip(ids, before + after)):
            raise ValueError(f"{name}: its post_processor {_short(step)} is not known here")
    elif kind not in (None, "ByteLevel"):  # that one is about places, not about ids
        raise ValueError(f"{name}: its post_processor {_short(step)} is not known here")
    if unknown := next((text for text in before + after if text not in vocabulary.special_tokens), None):
        raise ValueError(f"{name}: its post_processor adds {unknown!r:.60}, which is not one of its special tokens")
    return before, after


def _steps(pre_tokenizer: Any) -> list[Any]:
    """A pre-tokenizer as a list of steps, each with all options that change its result."""
    if not isinstance(pre_tokenizer, dict):
        return [pre_tokenizer]
    if pre_tokenizer["type"] == "Sequence":
        return [step for part in pre_tokenizer["pretokenizers"] for step in _steps(part)]
    defaults = {"use_regex": True} if pre_tokenizer["type"] == "ByteLevel" else {}  # older files do not have it
    return [{**defaults, **pre_tokenizer, "trim_offsets": True}]  # that one is about places, not about words


def _short(part: Any) -> str:
    text = json.dumps(part)
    return text if len(text) <= 160 else text[:157] + "..."


def _post_processor(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """The inverse of `_around`."""
    if not any(vocabulary.around):
        return None
    ids = {token: id for id, token in vocabulary.tokens.items()}
    before, after = ([{"SpecialToken": {"id": text, "type_id": 0}} for text in part] for part in vocabulary.around)
    single = [*before, {"Sequence": {"id": "A", "type_id": 0}}, *after]
    texts = sum(vocabulary.around, ())
    special = {text: {"id": text, "ids": [ids[text.encode("utf-8")]], "tokens": [text]} for text in texts}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}, *after]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """The contents of tokenizer.json for a vocabulary. `tokenizers` then encodes and decodes as we do."""
    ids = {token: id for id, token in sorted(vocabulary.tokens.items())}
    special = {text.encode("utf-8"): text for text in vocabulary.special_tokens}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    added = [{"id": id, "content": special[token], **flags} for token, id in ids.items() if token in special]
    return {
        "version": "1.0",
        **dict.fromkeys(("truncation", "padding")),
        "normalizer": {"type": NORMALIZED[vocabulary.pattern]} if vocabulary.pattern in NORMALIZED else None,
        "post_processor": _post_processor(vocabulary),
        "added_tokens": added,
        "pre_tokenizer": PRE_TOKENIZERS[vocabulary.pattern],
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
            **dict.fromkeys(("fuse_unk", "byte_fallback"), False),
            "ignore_merges": vocabulary.ignore_merges,
            "vocab": {special.get(token) or visible(token): id for token, id in ids.items()},
            "merges": [[visible(first), visible(second)] for first, second in vocabulary.merges],
        },
    }
