"""A BPE vocabulary as files: GPT-2's two text files, Hugging Face's tokenizer.json, and the metadata of a GGUF file.

`vocab.json` has the id of each token, and `merges.txt` the pairs to join, in order. Special tokens are in vocab.json
too, and three more files may declare which tokens are special. `tokenizer.json` has everything in one file, including
how to cut a text into words. The files may come from anybody, so a damaged file raises a ValueError that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..file_checks import check_settings, check_unused
from ..files import MAX_MODEL_TEXT, StrPath, errors_at, read_json, read_text, shortened, write_text
from .tokenizer_json import FLAGS, parse_tokenizer_json, tokenizer_json
from .vocabulary import ENDOFTEXT, Around, Vocabulary, assemble, check_added_token, tokens_of_role

TOKENIZER_JSON, CHAT_TEMPLATE = "tokenizer.json", "chat_template.jinja"
TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
# The files that hold vocabulary and merges: Hugging Face's names for them, and OpenAI's.
NAMES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
FILES = (*NAMES[0], *NAMES[1], TOKENIZER_JSON, TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS, CHAT_TEMPLATE)

# ---------------------------------------------------------------------------------------------------------------------
# Reading.


def has_tokenizer(folder: StrPath) -> bool:
    """Whether `folder` has files of a tokenizer, even damaged ones."""
    return any((Path(folder) / name).exists() for name in (*NAMES[0], *NAMES[1], TOKENIZER_JSON))


def read_vocabulary(folder: StrPath) -> Vocabulary:
    """Read tokenizer.json, or vocab.json and merges.txt, or encoder.json and vocab.bpe from a folder.

    Special tokens are those that added_tokens.json, special_tokens_map.json or tokenizer_config.json declare, and
    tokens that no merge makes and that look like <...> or [...]. Raises FileNotFoundError, or ValueError.
    """
    folder = Path(folder)
    config = _read_if_there(folder / TOKENIZER_CONFIG)
    added, roles = _declared_special_tokens(folder, config)
    vocabulary = _read_tokens(folder, added, roles)
    with errors_at(str(folder / TOKENIZER_CONFIG)):
        vocabulary = _with_options(vocabulary, config, (folder / TOKENIZER_JSON).exists())
    return vocabulary._replace(chat_template=_read_chat_template(folder, config))


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _with_options(vocabulary: Vocabulary, options: Mapping[str, Any], has_json: bool) -> Vocabulary:
    """The vocabulary. Options of tokenizer_config.json that change ids are applied, or refused by name."""
    check_unused(options, ("add_prefix_space", "split_special_tokens"))
    wanted = [role for role in ("bos_token", "eos_token") if options.get(f"add_{role}")]
    if not wanted or any(vocabulary.around):
        return vocabulary
    if has_json:
        raise ValueError(f"add_{wanted[0]} is set, but {TOKENIZER_JSON} beside it adds none: change one of them")
    return vocabulary._replace(around=_around(wanted, vocabulary.roles))


def _around(wanted: Sequence[str], roles: Mapping[str, str]) -> Around:
    """The special tokens around a text: those of the wanted roles, bos_token before it and eos_token after it."""
    if missing := [role for role in wanted if role not in roles]:
        raise ValueError(f"add_{missing[0]} is set, but there is no such token")
    begin, end = (tuple(roles[role] for role in wanted if role == place) for place in ("bos_token", "eos_token"))
    return begin, end


def _read_tokens(folder: Path, added: Mapping[str, int], roles: Mapping[str, Any]) -> Vocabulary:
    path = folder / TOKENIZER_JSON
    if path.exists():  # goes first: the other files do not say how a text is cut into words
        content = read_json(path)
        with errors_at(str(path)):
            return parse_tokenizer_json(content, added, roles)
    for names in NAMES:
        vocab, merges_txt = (folder / name for name in names)
        if vocab.exists() and merges_txt.exists():
            ids, merges = read_json(vocab), read_text(merges_txt, MAX_MODEL_TEXT)
            with errors_at(f"{vocab} or a file beside it", caught=(TypeError, ValueError)):
                vocabulary = assemble(ids, merges_of(merges), added, roles)
            # As in transformers, where this is GPT-2's tokenizer.
            default = [role for role in ("bos_token", "eos_token", "unk_token") if role not in roles]
            if ENDOFTEXT in vocabulary.special_tokens:
                vocabulary = vocabulary._replace(roles={**dict.fromkeys(default, ENDOFTEXT), **vocabulary.roles})
            return vocabulary
        if vocab.exists() or merges_txt.exists():
            raise FileNotFoundError(f"{folder} has only one of {' and '.join(names)}; a tokenizer needs both")
    known = ", ".join(" and ".join(names) for names in NAMES)
    raise FileNotFoundError(f"{folder} has no tokenizer: it needs {known}, or {TOKENIZER_JSON}")


def merges_of(text: str) -> list[str]:
    """The merges in the text of merges.txt, one a line."""
    lines = text.removesuffix("\n").split("\n")  # not splitlines(), which would also cut at some characters of tokens
    first = 1 if lines[0].startswith("#version") else 0  # only there: a "#" may be a token as well
    return [line.removesuffix("\r") for line in lines[first:]]


def _declared_special_tokens(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, Any]]:
    """Special tokens with an id, and tokens by role (`eos_token`, ...), from the three files that may declare them."""
    added: dict[str, int] = {}
    roles: dict[str, Any] = {}
    for name, content in ((TOKENIZER_CONFIG, config), (SPECIAL_TOKENS, _read_if_there(folder / SPECIAL_TOKENS))):
        with errors_at(str(folder / name)):
            for key, value in content.items():
                if not key.endswith(("_token", "_special_tokens")) or type(value) is bool:
                    continue
                if key.endswith("_token") and roles.get(key) and value:
                    one, other = tokens_of_role(key, roles[key]), tokens_of_role(key, value)
                    if one != other:
                        raise ValueError(f"{key} is {other}, but {TOKENIZER_CONFIG} beside it says {one}")
                roles[key] = value
            try:
                for id, entry in content.get("added_tokens_decoder", {}).items():
                    check_added_token(entry)
                    added[entry["content"]] = int(id)
            except (AttributeError, KeyError, TypeError):
                raise ValueError("added_tokens_decoder must map ids to tokens") from None
    return added | _read_if_there(folder / ADDED_TOKENS), roles


def _read_chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The chat template, in Jinja: chat_template.jinja, or an entry of tokenizer_config.json."""
    if (folder / CHAT_TEMPLATE).exists():
        return read_text(folder / CHAT_TEMPLATE, MAX_MODEL_TEXT)
    template = config.get("chat_template")
    if isinstance(template, list):  # several, with names
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if not isinstance(template, str | None):
        raise ValueError(f"{folder / TOKENIZER_CONFIG} is damaged: chat_template must be a text, got {template!r:.60}")
    return template


# What a GGUF file calls the ways to cut a text into words, and its numbers for kinds of tokens.
GGUF_PATTERNS = {"gpt-2": "gpt2", "smollm": "smollm", "llama-bpe": "llama3", "qwen2": "qwen2"}
_GGUF_KNOWN = {"tokenizer.ggml.model": ("gpt2",), "tokenizer.ggml.pre": tuple(GGUF_PATTERNS)}  # "gpt2": byte-level BPE
_GGUF_UNUSED = [f"tokenizer.ggml.{x}" for x in ("add_space_prefix", "remove_extra_whitespaces", "precompiled_charsmap")]
_GGUF_SPECIAL = (3, 4)  # control tokens, and tokens that a user has added; 1: ordinary
_GGUF_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def vocabulary_of_gguf(metadata: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary in the metadata of a GGUF file, under the keys `tokenizer.*`.

    Raises ValueError for an unknown kind of tokenizer, and for damaged metadata.
    """

    def entry(key: str, kind: type, default: Any = None) -> Any:
        value = metadata.get(f"tokenizer.{key}", default)
        if type(value) is not kind and value is not default:
            raise ValueError(f"tokenizer.{key} must be of type {kind.__name__}, got {shortened(value)}")
        return value

    def entries(key: str, kind: type) -> list[Any]:
        values = entry(key, list)
        if not values or any(type(value) is not kind for value in values):
            raise ValueError(f"tokenizer.{key} must be a list of {kind.__name__}, and not empty")
        return values

    check_settings(metadata, _GGUF_KNOWN)
    check_unused(metadata, _GGUF_UNUSED)
    pattern = GGUF_PATTERNS[entry("ggml.pre", str, "gpt-2")]
    tokens, kinds = entries("ggml.tokens", str), entries("ggml.token_type", int)
    if len(kinds) != len(tokens):
        raise ValueError(f"it has {len(tokens)} tokens, but {len(kinds)} kinds of tokens")
    roles = {}
    for role, word in _GGUF_ROLES.items():
        id = entry(f"ggml.{word}_token_id", int)
        if id is None:
            continue
        if not 0 <= id < len(tokens):
            raise ValueError(f"tokenizer.ggml.{word}_token_id is {id}, but there are {len(tokens)} tokens")
        if kinds[id] in _GGUF_SPECIAL:
            roles[role] = tokens[id]
        elif role in ("bos_token", "eos_token"):
            raise ValueError(f"its {role} is {shortened(tokens[id])}, which is an ordinary token")
    # llama.cpp has two defaults, and so have we.
    defaults = {"bos_token": pattern == "llama3", "eos_token": False}
    around = _around([role for role in defaults if entry(f"ggml.add_{role}", bool, defaults[role])], roles)

    ids = {token: id for id, token in enumerate(tokens)}
    added = {token: ids[token] for token, kind in zip(tokens, kinds) if kind in _GGUF_SPECIAL}
    vocabulary = assemble(ids, entries("ggml.merges", str), added, roles, ignore_merges=pattern == "llama3")
    return vocabulary._replace(pattern=pattern, around=around, chat_template=entry("chat_template", str))


# ---------------------------------------------------------------------------------------------------------------------
# Writing.


def write_vocabulary(folder: StrPath, vocabulary: Vocabulary) -> None:
    """Write the vocabulary, and the files that tell transformers the special tokens and the chat template.

    vocab.json and merges.txt imply GPT-2's pattern and no tokens around a text. Other vocabularies are written as
    tokenizer.json.
    """
    folder = Path(folder)
    # Without an explicit null, transformers would add <|endoftext|> in these roles to a vocabulary that lacks it.
    roles: dict[str, Any] = dict.fromkeys(("bos_token", "eos_token", "unk_token"), vocabulary.eos_token)
    roles |= vocabulary.roles
    roles["additional_special_tokens"] = [text for text in vocabulary.special_tokens if text not in roles.values()]
    content = tokenizer_json(vocabulary)
    ids = content["model"]["vocab"]
    decoder = {str(ids[text]): {"content": text, **FLAGS} for text in vocabulary.special_tokens}
    two_files = vocabulary.pattern == "gpt2" and not any(vocabulary.around) and not vocabulary.ignore_merges
    kind = "GPT2Tokenizer" if two_files else "PreTrainedTokenizerFast"  # whose words follow tokenizer.json
    config = {"tokenizer_class": kind, "add_prefix_space": False, **roles, "added_tokens_decoder": decoder}
    files = {SPECIAL_TOKENS: json.dumps({k: v for k, v in roles.items() if v}, indent=2)}
    files[TOKENIZER_CONFIG] = json.dumps(config, indent=2)
    if two_files:
        merges = "".join(" ".join(pair) + "\n" for pair in content["model"]["merges"])
        files |= {"vocab.json": json.dumps(ids, ensure_ascii=False), "merges.txt": "#version: 0.2\n" + merges}
    else:
        files[TOKENIZER_JSON] = json.dumps(content, ensure_ascii=False)
    if vocabulary.chat_template is not None:
        files[CHAT_TEMPLATE] = vocabulary.chat_template
    for name, text in files.items():
        write_text(folder / name, text)
    for name in (*NAMES[0], *NAMES[1], TOKENIZER_JSON, CHAT_TEMPLATE, ADDED_TOKENS):
        if name not in files:  # of a tokenizer that was here before
            (folder / name).unlink(missing_ok=True)
