"""Read and write tokenizer.json, the file in which Hugging Face's library `tokenizers` stores a whole tokenizer.

The file describes a pipeline. Added tokens are found first, a normalizer changes the text, a pre-tokenizer cuts it into
words, a model cuts words into tokens, and a post-processor adds special tokens before and after. There are many kinds
of each step. We support byte-level BPE with the pre-tokenizers of GPT-2, SmolLM2, Llama 3 and Qwen2. Everything else is
refused by name, because a tokenizer that is nearly right gives the model ids that it was not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..file_checks import check_unused, check_value
from .pre_tokenization import NORMALIZED, PATTERNS
from .vocabulary import Around, Vocabulary, assemble, check_added_token, visible

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
# The options of a special token that we write.
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}


def parse_tokenizer_json(content: dict[str, Any], added: Mapping[str, int], roles: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary in a tokenizer.json. `added` and `roles` come from other files (see `vocabulary.assemble`).

    Raises ValueError if it is damaged or has unsupported steps.
    """
    try:
        model = content["model"]
        check_value("its model", model.get("type", "BPE"), ("BPE",))
        check_unused(model, _UNKNOWN_OPTIONS)
        check_unused(content, _UNKNOWN_STEPS)
        pattern = _pattern(content["pre_tokenizer"], content.get("normalizer"))
        lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        for entry in content.get("added_tokens") or []:
            check_added_token(entry, *(("normalized",) if pattern in NORMALIZED else ()))
            added = {**added, entry["content"]: entry["id"]}
        vocabulary = assemble(model["vocab"], lines, added, roles, ignore_merges=bool(model.get("ignore_merges")))
        return vocabulary._replace(pattern=pattern, around=_around(content.get("post_processor"), vocabulary))
    except (AttributeError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"damaged: it lacks a part, or has one of the wrong type ({error!r:.100})") from None


def _pattern(pre_tokenizer: Any, normalizer: Any) -> str:
    """The pattern that cuts a text like this pre-tokenizer."""
    for pattern, known in PRE_TOKENIZERS.items():
        if _steps(pre_tokenizer) == _steps(known):
            expected = {"type": NORMALIZED[pattern]} if pattern in NORMALIZED else None
            check_value("its normalizer", normalizer or None, (expected,))
            return pattern
    names = "those of GPT-2 (ByteLevel), SmolLM2 (Digits before that), Llama 3 and Qwen2"
    raise ValueError(f"its pre-tokenizer is {pre_tokenizer!r:.160}; supported here: {names}")


def _around(post_processor: Any, vocabulary: Vocabulary) -> Around:
    """The special tokens that a post-processor puts before and after a text."""
    templates = [step for step in _parts(post_processor, "processors") if step["type"] != "ByteLevel"]
    if not templates:  # ByteLevel is about places, not about ids
        return (), ()
    if [step["type"] for step in templates] == ["TemplateProcessing"]:
        (template,) = templates
        texts: list[Any] = [p["SpecialToken"]["id"] if "SpecialToken" in p else None for p in template["single"]]
        added = {text: template["special_tokens"][text]["ids"] for text in texts if text is not None}
        ids = {token: id for id, token in vocabulary.tokens.items()}
        known = {text: [ids[text.encode("utf-8")]] for text in vocabulary.special_tokens}
        if texts.count(None) == 1 and added.items() <= known.items():
            place = texts.index(None)
            return tuple(texts[:place]), tuple(texts[place + 1 :])
    raise ValueError(f"its post_processor is {post_processor!r:.160}, which is not supported here")


def _parts(step: Any, of: str) -> list[Any]:
    """A step, or the steps in a "Sequence", which has them under the name `of`."""
    if step is not None and step["type"] == "Sequence":
        return [part for inner in step[of] for part in _parts(inner, of)]
    return [] if step is None else [step]


def _steps(pre_tokenizer: Any) -> list[Any]:
    """A pre-tokenizer as a list of steps, each with all options that change its result."""
    byte_level = {"use_regex": True}  # older files do not have it
    return [
        {**(byte_level if step["type"] == "ByteLevel" else {}), **step, "trim_offsets": True}  # about places, not words
        for step in _parts(pre_tokenizer, "pretokenizers")
    ]


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
    added = [{"id": id, "content": special[token], **FLAGS} for token, id in ids.items() if token in special]
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
