"""Options in a tokenizer's files that are followed: the ids of `tokenizers`. (test_damaged_files.py has the others.)"""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.tokenizer.pre_tokenization import LLAMA3_PATTERN, NORMALIZED, PATTERNS, QWEN2_PATTERN
from gpt.tokenizer.tokenizer import Tokenizer
from gpt.tokenizer.tokenizer_json import tokenizer_json
from gpt.tokenizer.vocabulary import Vocabulary, check_all_made
from tests.gpt.smollm import metadata
from tests.gpt.test_tokenizer import CORPUS, END, OLD
from tests.helpers import change_json, write_json

BOS, EOS = "<|begin|>", "<|end|>"
PARTS = [*CORPUS[:160].split(" "), BOS, EOS, " ", "  ", "\n", "\r\n", "!\n\n", "N'T", "'LL", "12345", "e\u0301", "\t"]
TEXT = st.text(OLD) | st.lists(st.sampled_from(PARTS)).map("".join)


def tokenizer(pattern="gpt2", around=((), ()), ignore_merges=False):
    base = Tokenizer.train(CORPUS, 370, [BOS, EOS, END])
    options = {"roles": {"bos_token": BOS, "eos_token": EOS}, "around": around, "ignore_merges": ignore_merges}
    return Tokenizer(base.vocab, base.merges, base.special_tokens, EOS, pattern, **options)


def content_of(t):
    """Its tokenizer.json, as it is written."""
    kept = t.eos_token, t.pattern, None, t.roles, t.around, t.ignore_merges
    return tokenizer_json(Vocabulary(t.vocab, t.merges, list(t.special_tokens), *kept))


def reference(content):
    import tokenizers

    return tokenizers.Tokenizer.from_str(json.dumps(content))


# --- honored ---------------------------------------------------------------------------------------------------------

AROUND = [((), ()), ((BOS,), ()), ((BOS, BOS), (EOS,))]
ALL = [(pattern, around, ignore) for pattern in PATTERNS for around in AROUND[:2] for ignore in (False, True)]


@pytest.mark.oracle("tokenizers")
@pytest.mark.parametrize("pattern, around, ignore_merges", [*ALL, ("gpt2", AROUND[2], False)])
def test_tokenizers_makes_the_same_ids_of_what_is_written(pattern, around, ignore_merges):
    ours = tokenizer(pattern, around, ignore_merges)
    theirs = reference(content_of(ours))

    @given(text=TEXT)
    def same(text):
        ids = theirs.encode(text).ids
        assert ours.encode(text) == ours.encode(text, textbook=True) == list(ours.encode_iterable([text])) == ids
        part = ours.encode(text, add_special_tokens=False)
        assert part == theirs.encode(text, add_special_tokens=False).ids
        assert ids == [ours.special_tokens[t] for t in around[0]] + part + [ours.special_tokens[t] for t in around[1]]
        whole = unicodedata.normalize("NFC", text) if pattern in NORMALIZED else text
        assert ours.decode(part) == whole or any(token in text for token in (BOS, EOS))

    same()


@pytest.mark.parametrize("pattern, around, ignore_merges", ALL)
def test_what_is_saved_loads_as_the_same(tmp_path, pattern, around, ignore_merges):
    ours = tokenizer(pattern, around, ignore_merges)
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    for name in ("vocab", "merges", "special_tokens", "pattern", "around", "ignore_merges", "eos_token"):
        assert getattr(again, name) == getattr(ours, name)
    assert {role: again.roles[role] for role in ours.roles} == ours.roles


@pytest.mark.oracle("transformers")
def test_the_patterns_are_those_of_transformers():
    import importlib.util

    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    assert QWEN2_PATTERN == PRETOKENIZE_REGEX
    source = Path(importlib.util.find_spec("transformers.convert_slow_tokenizer").origin)
    assert f'r"""{LLAMA3_PATTERN}"""' in source.read_text(encoding="utf-8")


def test_a_word_that_is_a_token_is_not_cut():
    base = tokenizer()
    vocab = {**base.vocab, len(base): b" quickest"}  # which no merge makes
    with pytest.raises(ValueError, match="no merge makes"):
        check_all_made(vocab, base.merges, base.special_tokens)
    ours = Tokenizer(vocab, base.merges, base.special_tokens, EOS, ignore_merges=True)
    assert ours.encode(" quickest") == [len(base)] and len(ours.encode(" quickests")) > 1


SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}


def special(token):
    return {"SpecialToken": {"id": token, "type_id": 0}}


def template(single):
    named = {part["SpecialToken"]["id"] for part in single if "SpecialToken" in part}
    known = tokenizer().special_tokens
    tokens = {t: {"id": t, "ids": [known[t]], "tokens": [t]} for t in named}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
HONOURED = {
    "none": None,
    "byte level": BYTE_LEVEL,
    "a template": template([special(BOS), SEQUENCE]),
    "at the end": template([SEQUENCE, special(EOS), special(EOS)]),
    "nothing around": template([SEQUENCE]),
    "Llama 3": {"type": "Sequence", "processors": [BYTE_LEVEL, template([special(BOS), SEQUENCE])]},
}


@pytest.mark.oracle("tokenizers")
@pytest.mark.parametrize("name", HONOURED)
def test_what_a_post_processor_puts_around_a_text(tmp_path, name):
    content = {**content_of(tokenizer()), "post_processor": HONOURED[name]}
    write_json(tmp_path / "tokenizer.json", content)
    text = "the fox"
    assert Tokenizer.load(tmp_path).encode(text) == reference(content).encode(text).ids


@pytest.mark.oracle("transformers")
@pytest.mark.parametrize("options", [{"add_bos_token": True}, {"add_eos_token": True, "add_bos_token": True}])
def test_options_beside_two_files(tmp_path, options):
    import transformers

    tokenizer().save(tmp_path)
    change_json(tmp_path / "tokenizer_config.json", **options)
    theirs = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    assert Tokenizer.load(tmp_path).encode("the fox") == theirs("the fox")["input_ids"]


# --- GGUF -------------------------------------------------------------------------------------------------------------


def test_a_gguf_file_says_what_is_put_around_a_text():
    plain = Tokenizer.from_gguf(metadata(ggml__bos_token_id=1))
    both = Tokenizer.from_gguf(metadata(ggml__bos_token_id=1, ggml__add_bos_token=True, ggml__add_eos_token=True))
    assert both.encode("a fox") == [1, *plain.encode("a fox"), 2]
    assert both.roles["bos_token"] == "<|im_start|>" and both.roles["eos_token"] == "<|im_end|>"
    llama = Tokenizer.from_gguf(metadata(ggml__bos_token_id=1, ggml__pre="llama-bpe"))
    assert llama.ignore_merges and llama.pattern == "llama3" and llama.encode("a fox")[0] == 1
    without = Tokenizer.from_gguf(metadata(ggml__bos_token_id=1, ggml__pre="llama-bpe", ggml__add_bos_token=False))
    assert without.encode("a fox") == llama.encode("a fox")[1:]
