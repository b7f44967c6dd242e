"""Corpora, downloads, token files and batches: what is drawn, what resumes, what a damaged or missing file says."""

import hashlib
import http.client
import io
import json
import os
import sys
import sysconfig
import urllib.error

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.corpora import corpus, python_corpus
from gpt.corpora.corpus import Corpus, download, load_corpus
from gpt.files import atomic_write, cache_folder, write_text
from gpt.tokenizer.tokenizer import Tokenizer
from gpt.training.batches import (
    EpochBatches,
    RandomBatches,
    encode_parts,
    get_batch,
    open_tokens,
    prepare,
    sequential_batches,
    token_dtype,
    validate_ids,
    write_tokens,
)

BYTES = Tokenizer.train("x", 257)
WRONG = np.array([0, 1, 2, 9, 3])


# -- corpora ----------------------------------------------------------------------------------------------------------


def test_english_is_prose_and_is_read_from_a_file_too(tmp_path, monkeypatch):
    corpus = load_corpus("english")
    paragraphs = corpus.text.rstrip("\n").split("\n\n")
    assert len(corpus.text) > 800_000  # 1.2 to 1.5 million, by version and what a distribution installs
    assert len(set(paragraphs)) == len(paragraphs) > 5_000
    assert not any("\n" in paragraph or ">>>" in paragraph for paragraph in paragraphs)
    letters = sum(character.isalpha() or character == " " for character in corpus.text)
    assert letters > 0.93 * len(corpus.text)
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()
    assert str(corpus).startswith("english: the documentation inside Python 3.") and corpus.sha256[:16] in str(corpus)
    # A Python without sources finds the same in a file.
    whole, helps = python_corpus.documents(), python_corpus.help_text()
    write_text(tmp_path / "english.json", json.dumps(whole))
    monkeypatch.setattr(python_corpus, "BUNDLED", tmp_path / "english.json")
    monkeypatch.setattr(python_corpus, "documents", python_corpus.documents.__wrapped__)
    assert python_corpus.documents() == whole and python_corpus.help_text() == helps


def test_english_is_kept_until_a_source_changes(tmp_path, monkeypatch):
    def text():
        python_corpus.documents.cache_clear()
        return load_corpus("english").text

    library = tmp_path / "library"
    for i in range(150):
        write_text(library / f"m{i}.py", f'"""The answer of module number x{i} is a good one."""')
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "cache"))
    first = text()
    (kept,) = (tmp_path / "cache").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(python_corpus, "_prose", None)
        assert text() == first  # without reading
    write_text(kept, "{damaged")
    assert text() == first
    write_text(library / "m7.py", '"""Another answer is better than that one."""')
    assert "Another answer" in text()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert len(text()) < len(first) / 10
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="no built-in English; give a text file of your own"):
        text()


def test_docstrings_are_read_in_order_from_valid_python_only():
    source = '"""One."""\ndef f():\n    """Two \\d."""\nif f:\n    class C:\n        """Three."""\n'
    for text, expected in ((source, ["One.", "Two \\d.", "Three."]), ("$template", [])):
        assert [found for found in python_corpus._docstrings(python_corpus._parsed(text)) if found] == expected


CODE = python_corpus.python_code.__wrapped__  # without the cache


def test_code_has_no_words_about_it(monkeypatch):
    text = CODE(30_000)
    assert len(text) == 30_000
    whole = text[: text.rindex("\n\n\n")] if "\n\n\n" in text else text[: text.rindex("\ndef ")]
    assert '"""' not in text and "\n    #" not in text and "def " in whole
    source = '"""A."""\nx = 1  # one\nclass C:\n    """No."""\nasync def f():\n    "Doc."\n    return "#"\n'
    assert python_corpus._code_only(source) == "x = 1\n\nclass C:\n    pass\n\nasync def f():\n    return '#'"
    assert python_corpus._code_only("not python at all") == python_corpus._code_only("\0") == ""
    monkeypatch.setattr("gpt.corpora.corpus.python_code", lambda: "x = 1")
    assert "python: code of the standard library of Python 3" in str(load_corpus("python"))


def test_the_order_does_not_depend_on_where_python_is_installed(tmp_path, monkeypatch):
    texts = []
    for place in ("here", "there/deeper"):
        for i in range(20):
            write_text(tmp_path / place / "lib" / f"module{i}.py", f"value = {i}")
        paths = sorted((tmp_path / place / "lib").iterdir())
        monkeypatch.setattr(python_corpus, "library_sources", lambda paths=paths: paths)
        texts.append(CODE(100))
    assert texts[0] == texts[1] and texts[0] != "\n\n".join(sorted(texts[0].split("\n\n")))


def test_code_without_sources_is_from_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(python_corpus, "library_sources", lambda: [])
    monkeypatch.setattr(python_corpus, "BUNDLED_CODE", tmp_path / "code.txt")
    write_text(tmp_path / "code.txt", "x = 1\n" * 10)
    assert CODE(50) == ("x = 1\n" * 10)[:50]
    with pytest.raises(FileNotFoundError, match="sources of Python's standard library are not installed"):
        CODE(100)


def test_a_file_is_a_corpus(tmp_path):
    path = tmp_path / "poem.txt"
    text = "Zeile eins\r\nZeile zwei ü\r\n"
    path.write_bytes(text.encode())
    assert load_corpus(path) == load_corpus(str(path)) == Corpus("poem.txt", text, str(path))


def file_with(content, folder):
    (folder / "file").write_bytes(content)
    return folder / "file"


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda at: load_corpus(file_with(b" \n", at)), ValueError, "file contains no text: there is nothing"),
        (lambda at: load_corpus(file_with(b"\0\xff", at)), ValueError, r"not UTF-8 text: .* at byte 1 \(0xff\);"),
        (lambda at: load_corpus("shakspeare"), FileNotFoundError, "no corpus or file 'shakspeare'; give .* python"),
        (lambda at: load_corpus(at), IsADirectoryError, "is a folder; give the path of one file in it"),
        (lambda at: open_tokens(at / "a.bin"), FileNotFoundError, r"there is no token file .*a\.bin; write it"),
        (lambda at: open_tokens(file_with(b"", at)), ValueError, "has 0 bytes, not whole tokens of 2 bytes"),
        (lambda at: open_tokens(file_with(b"odd", at)), ValueError, "has 3 bytes, not whole tokens of 2 bytes"),
        (lambda at: write_tokens(at / "a", [1, 300], 300), ValueError, "id 300 at position 1 is not"),
        (lambda at: encode_parts("", BYTES), ValueError, "the text is empty: there is nothing to train on"),
        (lambda at: encode_parts("text", BYTES, 0), ValueError, "validation_fraction 0 of 4 characters leaves"),
        (lambda at: encode_parts("text", BYTES, 1), ValueError, "validation_fraction 1 of 4 characters leaves"),
        (lambda at: encode_parts("ab", BYTES), ValueError, "validation_fraction 0.1 of 2 characters leaves"),
        (lambda at: next(RandomBatches(np.arange(10), 1, 10)), ValueError, "10 tokens are .* at most 9$"),
        (lambda at: list(sequential_batches(np.arange(1), 1, 10)), ValueError, "1 tokens are too few: a"),
        (lambda at: get_batch(WRONG, 2, 4, np.random.default_rng(0), 5), ValueError, r"id 9 at position \(0, 3\)"),
        (lambda at: list(sequential_batches(WRONG, 2, 2, 5)), ValueError, r"token id 9 at position \(1, 1\)"),
        (lambda at: validate_ids([-1], 5), ValueError, "id -1 at position 0 is not in the vocabulary: ids are 0 to"),
        (lambda at: validate_ids(np.array([1, 2**64 - 1], np.uint64), 5), ValueError, "1844674407370955"),
        (lambda at: validate_ids(5, 5), ValueError, r"token id 5 at position \(\) is"),
        *(
            (lambda at, ids=ids: validate_ids(ids, 5), TypeError, "token ids must be integers, got")
            for ids in ([1.0], [True], ["1"], [2**70], [None])
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_from_is_refused(tmp_path, call, error, words):
    with pytest.raises(error, match=words):
        call(tmp_path)


def test_damaged_token_files_are_refused(tmp_path):
    path = tmp_path / "train.bin"
    write_tokens(path, [1, 2, 3], 100_000)
    path.write_bytes(path.read_bytes()[:8])
    with pytest.raises(ValueError, match=r"train\.bin has 8 bytes, not 3 tokens of 4 bytes; prepare the data again"):
        open_tokens(path)
    for content in ("{}", "[]", "{", '{"vocab_size": "x", "tokens": 3}'):
        write_text(f"{path}.json", content)
        with pytest.raises(ValueError, match=r"train\.bin\.json is damaged"):
            open_tokens(path)


# -- download ---------------------------------------------------------------------------------------------------------

CONTENT = b"First Citizen: Before we proceed any further, hear me speak.\n" * 5000


@pytest.fixture
def requests(monkeypatch):
    """The addresses that were asked for. There is CONTENT at /whole, half of it at /half, and nothing else."""

    def answer(url, timeout):
        asked.append(url)
        if url == "/half":
            raise http.client.IncompleteRead(b"First", 300_000)
        if url != "/whole":
            raise urllib.error.HTTPError(url, 404, "Not Found", None, None)
        return io.BytesIO(CONTENT)

    asked = []
    monkeypatch.setattr("urllib.request.urlopen", answer)
    return asked


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_shakespeare_is_downloaded_once(requests, cache, monkeypatch):
    monkeypatch.setenv("MINIGRAD_SHAKESPEARE_URL", "/whole")
    monkeypatch.setattr(corpus, "SHAKESPEARE_SHA256", SHA256)
    first, second = load_corpus("shakespeare"), load_corpus("shakespeare")
    assert first == second and first.text.encode() == CONTENT and first.sha256 == SHA256
    assert requests == ["/whole"]
    assert [path.name for path in cache.iterdir()] == ["tinyshakespeare.txt"]


def test_a_damaged_copy_in_the_cache_is_fetched_again(requests, cache):
    write_text(cache / "file", "damaged")
    assert download("/whole", cache / "file", SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url, error, words",
    [
        ("/whole", ValueError, f"/whole is not the file expected: SHA-256 {SHA256} instead of 86c4e6aa"),
        ("/half", ConnectionError, "could not download file from .*IncompleteRead.* put the file at .*file"),
        ("/missing", ConnectionError, r"\(HTTP Error 404.* Go online and try again, or put the file at .*file"),
    ],
)
def test_a_download_that_fails_keeps_nothing(requests, cache, url, error, words):
    with pytest.raises(error, match=words):
        download(url, cache / "file", corpus.SHAKESPEARE_SHA256)
    assert not cache.exists()


@pytest.mark.parametrize("platform, variable, expected", [
    ("linux", "XDG_CACHE_HOME", ["minigrad"]),
    ("win32", "LOCALAPPDATA", ["minigrad", "cache"]),
])  # fmt: skip
def test_cache_folder_of_the_system(tmp_path, monkeypatch, platform, variable, expected):
    monkeypatch.delenv("MINIGRAD_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_folder() == tmp_path.joinpath(*expected)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder().parts[-3:] == ("Library", "Caches", "minigrad")


# -- files ------------------------------------------------------------------------------------------------------------


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old\n")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"half of the ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old\n" and list(tmp_path.iterdir()) == [path]


@given(st.lists(st.integers(0, 299), min_size=1), st.sampled_from([300, 65_536, 65_537, 200_000]))
def test_token_files_are_lossless(tmp_path_factory, ids, vocab_size):
    path = tmp_path_factory.mktemp("tokens") / "train.bin"
    write_tokens(path, [*ids, vocab_size - 1], vocab_size)
    tokens = open_tokens(path)
    assert isinstance(tokens, np.memmap) and tokens.tolist() == [*ids, vocab_size - 1]
    assert tokens.dtype == token_dtype(vocab_size) == (np.uint16 if vocab_size <= 65_536 else np.uint32)


def test_token_files_are_nanogpts(tmp_path):
    np.array([1, 50256, 3], dtype=np.uint16).tofile(tmp_path / "train.bin")
    assert open_tokens(tmp_path / "train.bin").tolist() == [1, 50256, 3]
    write_tokens(tmp_path / "val.bin", [1, 50256, 3], 50257)
    assert np.fromfile(tmp_path / "val.bin", dtype="<u2").tolist() == [1, 50256, 3]
    assert json.loads((tmp_path / "val.bin.json").read_bytes()) == {"dtype": "uint16", "vocab_size": 50257, "tokens": 3}


def test_prepare_splits_the_text_and_encodes_the_parts(tmp_path):
    text = "the cat sat on the mat, and the dog ate the cat. " * 4000  # more than one chunk
    tokenizer = Tokenizer.train(text, 300)
    train, validation = prepare(text, tokenizer, tmp_path / "new" / "data", validation_fraction=0.25)
    split = len(text) * 3 // 4
    assert train.tolist() == tokenizer.encode(text[:split])
    assert validation.tolist() == tokenizer.encode(text[split:])
    assert sorted(os.listdir(tmp_path / "new" / "data")) == ["train.bin", "train.bin.json", "val.bin", "val.bin.json"]


# -- batches ----------------------------------------------------------------------------------------------------------


def assert_windows(inputs, targets):
    """Of tokens that count from 0."""
    assert (targets == inputs + 1).all() and (np.diff(inputs, axis=1) == 1).all()


@given(st.integers(2, 60), st.integers(1, 9), st.integers(1, 9), st.sampled_from([np.uint16, np.uint32, np.int64]))
def test_batches_are_windows_and_targets_are_shifted_by_one(size, batch_size, block_size, dtype):
    tokens = np.arange(size, dtype=dtype)
    block_size = min(block_size, size - 1)
    inputs, targets = get_batch(tokens, batch_size, block_size, np.random.default_rng(0), vocab_size=size)
    assert inputs.shape == targets.shape == (batch_size, block_size)
    assert inputs.dtype == targets.dtype == np.int64
    assert_windows(inputs, targets)


def test_every_window_is_equally_likely():
    inputs, _ = get_batch(np.arange(10), 60_000, 4, np.random.default_rng(0))
    starts, counts = np.unique(inputs[:, 0], return_counts=True)
    assert starts.tolist() == [0, 1, 2, 3, 4, 5]
    assert abs(counts - 10_000).max() < 500  # five standard deviations


@given(st.integers(2, 100), st.sampled_from([2, 4, 6]), st.integers(1, 12), st.integers(0, 9))
def test_an_epoch_takes_each_token_at_most_once(size, batch_size, block_size, seed):
    block_size = min(block_size, size - 1)

    def stream(taken=0):
        batches = EpochBatches(np.arange(size), batch_size, block_size, seed, size)
        batches.load_state_dict(json.loads(json.dumps({**batches.state_dict(), "taken": taken})))
        return batches

    batches = stream()
    n = stream().per_epoch
    drawn = [next(batches) for _ in range(2 + 2 * n // batch_size)]  # two epochs and more
    inputs, targets = (np.concatenate(part) for part in zip(*drawn))
    assert_windows(inputs, targets)
    for epoch in (inputs[:n], inputs[n : 2 * n]):
        assert np.unique(epoch).size == epoch.size > size - 1 - 2 * block_size
    # It resumes exactly, also in the middle of a text.
    assert np.array_equal(next(stream(taken=batch_size)), drawn[1])


def test_epochs_differ_and_begin_anywhere():
    batches = EpochBatches(np.arange(41), 9, 4)  # a batch is an epoch
    epochs = [next(batches)[0][:, 0] for _ in range(60)]
    assert {start for epoch in epochs for start in epoch} == set(range(37))
    assert len({tuple(epoch) for epoch in epochs}) == 60


@given(st.integers(2, 100), st.integers(1, 5), st.integers(1, 12))
def test_sequential_batches_predict_every_token_once(size, batch_size, block_size):
    batches = list(sequential_batches(np.arange(size), batch_size, block_size, vocab_size=size))
    assert np.concatenate([inputs.ravel() for inputs, _ in batches]).tolist() == list(range(size - 1))
    assert np.concatenate([targets.ravel() for _, targets in batches]).tolist() == list(range(1, size))
    shapes = [inputs.shape for inputs, _ in batches]
    whole, rest = divmod(size - 1, block_size)
    assert all(shape == (batch_size, block_size) for shape in shapes[: whole // batch_size])
    assert (shapes[-1] == (1, rest)) == bool(rest)
