"""The tokenizer of SmolLM2: each digit a word, equal to the library `tokenizers`, from a GGUF file and from folders."""

import json
import string
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.tokenizer.pre_tokenization import split_words
from gpt.tokenizer.tokenizer import Tokenizer
from tests.gpt.smollm import CORPUS, IM_END, SPECIAL, TOKENLESS, metadata, smollm_tokenizer

TOKENIZER = smollm_tokenizer()
GOLDEN = json.loads((Path(__file__).parent / "golden" / "smollm_tokens.json").read_text(encoding="utf-8"))

# As old as Unicode 3.2: the newest characters differ between the tables of tiktoken, regex, tokenizers and Python.
OLD = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.ucd_3_2_0.category(chr(code)) not in ("Cn", "Cs")]
DIGITS = [character for character in OLD if unicodedata.category(character)[0] == "N"]
MARKS = [character for character in OLD if unicodedata.category(character)[0] == "M"]
PARTS = [*CORPUS[:160].split(" "), *SPECIAL, "<|im_", " ", "  ", "\n", "\r\n", "'", "'s", "5", " 42"]
PARTS += ["👩\u200d👩\u200d👧", "\x04"]
CHARACTERS = st.one_of(*map(st.sampled_from, (OLD, DIGITS, MARKS, string.whitespace)))
TEXT = st.lists(st.sampled_from(PARTS) | CHARACTERS).map("".join)


def everything(tokenizer):
    return (tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, tokenizer.eos_token, tokenizer.pattern,
            tokenizer.chat_template)  # fmt: skip


# -- words and ids -----------------------------------------------------------------------------------------------------


@given(TEXT)
def test_the_pattern_is_digits_first_and_then_gpt2s_pattern(text):
    """In two steps, as `tokenizers` goes: the one pattern has to come to the same."""
    parts = []
    start = 0
    for place, character in enumerate(text):
        if unicodedata.category(character)[0] == "N":
            parts += [text[start:place], character]
            start = place + 1
    assert split_words(text, "smollm") == [word for part in [*parts, text[start:]] for word in split_words(part)]


@pytest.mark.parametrize("text, ids", GOLDEN)
def test_golden_ids_of_tokenizers(text, ids):
    assert TOKENIZER.encode(text) == TOKENIZER.encode(text, textbook=True) == ids
    kept = text.encode().translate(None, delete=TOKENLESS)
    assert TOKENIZER.decode(ids) == kept.decode("utf-8", "replace")


# -- a GGUF file's metadata -------------------------------------------------------------------------------------------


def test_what_a_gguf_file_says_decides():
    assert (TOKENIZER.pattern, TOKENIZER.eos_token, TOKENIZER.eos_token_id) == ("smollm", IM_END, 2)
    assert TOKENIZER.special_tokens == {token: id for id, token in enumerate(SPECIAL)}
    assert "system" in TOKENIZER.chat_template
    silent = metadata()
    del silent["tokenizer.ggml.pre"]
    for content in (metadata(ggml__pre="gpt-2"), silent):
        other = Tokenizer.from_gguf(content)
        assert other.pattern == "gpt2" and other.encode("  5") != TOKENIZER.encode("  5")
    content = metadata()
    del content["tokenizer.ggml.eos_token_id"], content["tokenizer.chat_template"]
    plain = Tokenizer.from_gguf(content)
    assert (plain.eos_token, plain.chat_template) == ("<|endoftext|>", None)


# -- folders ----------------------------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path):
    Tokenizer.train(CORPUS, 300).save(tmp_path)  # is replaced
    TOKENIZER.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "tokenizer.json", "special_tokens_map.json", "tokenizer_config.json", "chat_template.jinja"
    }  # fmt: skip
    assert everything(Tokenizer.load(tmp_path)) == everything(TOKENIZER)
    plain = Tokenizer.train(CORPUS, 300)
    plain.save(tmp_path)
    assert everything(Tokenizer.load(tmp_path)) == everything(plain)
    assert not (tmp_path / "tokenizer.json").exists() and not (tmp_path / "chat_template.jinja").exists()


def test_a_chat_template_goes_with_any_pattern(tmp_path):
    plain = Tokenizer.train(CORPUS, 300)
    plain.chat_template = "{{ messages }}\n"
    plain.save(tmp_path)
    assert Tokenizer.load(tmp_path).chat_template == "{{ messages }}\n"


@pytest.mark.parametrize("entry, template", [
    ("{{ a }}", "{{ a }}"), (None, None),
    ([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}], "d"),
])  # fmt: skip
def test_chat_template_in_the_configuration(tmp_path, entry, template):
    TOKENIZER.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"chat_template": entry, "eos_token": IM_END}), encoding="utf-8")
    assert Tokenizer.load(tmp_path).chat_template == template


# -- tokenizers and transformers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    TOKENIZER.save(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(saved):
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))


@pytest.mark.oracle("tokenizers")
def test_characters_between_letters_digits_and_spaces(theirs):
    characters = DIGITS + OLD[::4]
    for start in range(0, len(characters), 500):
        text = "".join(f"a{character}5{character} {character}" for character in characters[start : start + 500])
        assert TOKENIZER.encode(text) == theirs.encode(text).ids


@pytest.mark.oracle("transformers")
def test_transformers_reads_what_we_save_and_we_what_it_saves(saved, tmp_path):
    import transformers

    other = transformers.AutoTokenizer.from_pretrained(saved)
    assert (len(other), other.eos_token_id, other.chat_template) == (len(TOKENIZER), 2, TOKENIZER.chat_template)
    for text, ids in GOLDEN:
        assert other(text)["input_ids"] == ids
    other.save_pretrained(tmp_path)
    assert everything(Tokenizer.load(tmp_path)) == everything(TOKENIZER)
