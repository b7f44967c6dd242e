"""Corpora, downloads, token files and batches: what is drawn, what resumes, what a damaged or missing file says."""

import hashlib
import http.server
import json
import os
import sys
import sysconfig

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.console import progress_bar
from gpt.corpora import corpus, python_corpus
from gpt.corpora.corpus import Corpus, download, load_corpus
from gpt.files import atomic_write, cache_folder, write_text
from gpt.tokenizer.tokenizer import Tokenizer
from gpt.training.batches import (
    EpochBatches,
    RandomBatches,
    get_batch,
    open_tokens,
    prepare,
    sequential_batches,
    token_dtype,
    validate_ids,
    write_tokens,
)
from tests.helpers import serving

# -- corpora ----------------------------------------------------------------------------------------------------------


def test_english_is_prose():
    corpus = load_corpus("english")
    paragraphs = corpus.text.rstrip("\n").split("\n\n")
    assert len(corpus.text) > 800_000  # 1.2 to 1.5 million, by version and what a distribution installs
    assert len(set(paragraphs)) == len(paragraphs) > 5_000
    assert not any("\n" in paragraph or ">>>" in paragraph for paragraph in paragraphs)
    letters = sum(character.isalpha() or character == " " for character in corpus.text)
    assert letters > 0.93 * len(corpus.text)
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()
    assert str(corpus).startswith("english: the documentation inside Python 3.") and corpus.sha256[:16] in str(corpus)


def test_english_without_sources_says_so(tmp_path, monkeypatch):
    python_corpus.documents.cache_clear()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(FileNotFoundError, match="no built-in English; give a text file of your own"):
        load_corpus("english")


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
    python_corpus.documents.cache_clear()


def test_docstrings_are_read_in_order_from_valid_python_only():
    def docstrings(source):
        return [text for text in python_corpus._docstrings(python_corpus._parsed(source)) if text]

    source = '"""One."""\ndef f():\n    """Two \\d."""\nif f:\n    class C:\n        """Three."""\n'
    assert docstrings(source) == ["One.", "Two \\d.", "Three."]
    assert docstrings("$template") == []


def test_a_file_is_a_corpus(tmp_path):
    path = tmp_path / "poem.txt"
    text = "Zeile eins\r\nZeile zwei ü\r\n"
    path.write_bytes(text.encode())
    assert load_corpus(path) == load_corpus(str(path)) == Corpus("poem.txt", text, str(path))


def test_errors_of_a_file(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b" \n")
    with pytest.raises(ValueError, match=r"empty\.txt contains no text: there is nothing to train on"):
        load_corpus(tmp_path / "empty.txt")
    (tmp_path / "binary").write_bytes(b"\x00\xff")
    with pytest.raises(ValueError, match=r"binary is not UTF-8 text: .* at byte 1 \(0xff\); convert the file"):
        load_corpus(tmp_path / "binary")
    with pytest.raises(FileNotFoundError, match=r"no corpus or file 'shakspeare'; give .* python, shakespeare"):
        load_corpus("shakspeare")
    with pytest.raises(IsADirectoryError, match="is a folder; give the path of one file in it"):
        load_corpus(tmp_path)


# -- download ---------------------------------------------------------------------------------------------------------

CONTENT = b"First Citizen: Before we proceed any further, hear me speak.\n" * 5000


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at /whole, half of it at /half, and nothing else."""

    requests = 0

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.requests += 1
        if self.path not in ("/whole", "/half"):
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[: len(CONTENT) // 2])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with serving(Server(("127.0.0.1", 0), Handler)) as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_shakespeare_is_downloaded_once(server, cache, monkeypatch):
    monkeypatch.setenv("MINIGRAD_SHAKESPEARE_URL", server.url("/whole"))
    monkeypatch.setattr(corpus, "SHAKESPEARE_SHA256", SHA256)
    first, second = load_corpus("shakespeare"), load_corpus("shakespeare")
    assert first == second and first.text.encode() == CONTENT and first.sha256 == SHA256
    assert server.requests == 1
    assert [path.name for path in cache.iterdir()] == ["tinyshakespeare.txt"]


def test_a_damaged_copy_in_the_cache_is_fetched_again(server, cache):
    write_text(cache / "file", "damaged")
    assert download(server.url("/whole"), cache / "file", SHA256).read_bytes() == CONTENT


def test_wrong_checksum(server, cache, monkeypatch):
    monkeypatch.setenv("MINIGRAD_SHAKESPEARE_URL", server.url("/whole"))
    with pytest.raises(ValueError, match=rf"/whole is not the file expected: SHA-256 {SHA256} instead of 86c4e6aa"):
        load_corpus("shakespeare")
    assert not cache.exists()


@pytest.mark.parametrize(("path", "message"), [
    ("/half", r"\(it stopped after 152,500 of 305,000 bytes\)|IncompleteRead"),
    ("/missing", r"\(HTTP Error 404"),
])  # fmt: skip
def test_interrupted_and_refused_downloads(server, cache, path, message):
    with pytest.raises(ConnectionError, match=rf"could not download file from .*{path} .*{message}") as caught:
        download(server.url(path), cache / "file", SHA256)
    assert f"put the file at {cache / 'file'}" in str(caught.value)
    assert not cache.exists()


def test_offline(cache):
    with pytest.raises(ConnectionError, match=r"Go online and try again, or put the file at"):
        download("http://127.0.0.1:9/whole", cache / "file", SHA256)  # nobody listens there


@pytest.mark.parametrize(("platform", "variable", "expected"), [
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


def test_progress_is_silent_without_a_terminal_and_without_tqdm(monkeypatch, capfd):
    for _ in range(2):
        with progress_bar(10, "working") as bar:
            bar.update(10)
        monkeypatch.setitem(sys.modules, "tqdm", None)
    assert capfd.readouterr() == ("", "")


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


def test_errors_of_token_files(tmp_path):
    path = tmp_path / "train.bin"
    with pytest.raises(FileNotFoundError, match=r"there is no token file .*train\.bin; write it with"):
        open_tokens(path)
    for content in (b"", b"odd"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"train\.bin has {len(content)} bytes, not whole tokens of 2 bytes"):
            open_tokens(path)
    write_tokens(path, [1, 2, 3], 100_000)
    path.write_bytes(path.read_bytes()[:8])
    with pytest.raises(ValueError, match=r"train\.bin has 8 bytes, not 3 tokens of 4 bytes; prepare the data again"):
        open_tokens(path)
    for content in ("{}", "[]", "{", '{"vocab_size": "x", "tokens": 3}'):
        write_text(f"{path}.json", content)
        with pytest.raises(ValueError, match=r"train\.bin\.json is damaged"):
            open_tokens(path)
    with pytest.raises(ValueError, match=r"token id 300 at position 1 is not in the vocabulary: ids are 0 to 299"):
        write_tokens(path, [1, 300], 300)


def test_prepare_splits_the_text_and_encodes_the_parts(tmp_path):
    text = "the cat sat on the mat, and the dog ate the cat. " * 4000  # more than one chunk
    tokenizer = Tokenizer.train(text, 300)
    train, validation = prepare(text, tokenizer, tmp_path / "new" / "data", validation_fraction=0.25)
    split = len(text) * 3 // 4
    assert train.tolist() == tokenizer.encode(text[:split])
    assert validation.tolist() == tokenizer.encode(text[split:])
    assert sorted(os.listdir(tmp_path / "new" / "data")) == ["train.bin", "train.bin.json", "val.bin", "val.bin.json"]


def test_errors_of_prepare(tmp_path):
    tokenizer = Tokenizer.train("x", 257)
    with pytest.raises(ValueError, match="the text is empty: there is nothing to train on"):
        prepare("", tokenizer, tmp_path)
    for text, fraction in (("some text", 0), ("some text", 1), ("some text", -3.0), ("ab", 0.1)):
        with pytest.raises(ValueError, match=rf"validation_fraction {fraction} of {len(text)} characters leaves none"):
            prepare(text, tokenizer, tmp_path, fraction)


# -- batches ----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 60), st.integers(1, 9), st.integers(1, 9), st.sampled_from([np.uint16, np.uint32, np.int64]))
def test_batches_are_windows_and_targets_are_shifted_by_one(size, batch_size, block_size, dtype):
    tokens = np.arange(size, dtype=dtype)
    block_size = min(block_size, size - 1)
    inputs, targets = get_batch(tokens, batch_size, block_size, np.random.default_rng(0), vocab_size=size)
    assert inputs.shape == targets.shape == (batch_size, block_size)
    assert inputs.dtype == targets.dtype == np.int64
    assert (targets == inputs + 1).all() and (np.diff(inputs, axis=1) == 1).all()


def test_every_window_is_equally_likely():
    inputs, _ = get_batch(np.arange(10), 60_000, 4, np.random.default_rng(0))
    starts, counts = np.unique(inputs[:, 0], return_counts=True)
    assert starts.tolist() == [0, 1, 2, 3, 4, 5]
    assert abs(counts - 10_000).max() < 500  # five standard deviations


def test_random_batches_resume_exactly_from_json():
    tokens = np.arange(1000)
    batches = RandomBatches(tokens, 3, 7, seed=5)
    next(iter(batches))
    saved = json.dumps(batches.state_dict())
    expected = [next(batches) for _ in range(5)]
    resumed = RandomBatches(tokens, 3, 7, seed=99)
    resumed.load_state_dict(json.loads(saved))
    assert all(np.array_equal(next(resumed), batch) for batch in expected)
    assert np.array_equal(next(RandomBatches(tokens, 3, 7, seed=5)), next(RandomBatches(tokens, 3, 7, seed=5)))
    assert not np.array_equal(next(RandomBatches(tokens, 3, 7, seed=5)), next(RandomBatches(tokens, 3, 7, seed=6)))


@given(st.integers(2, 100), st.sampled_from([2, 4, 6]), st.integers(1, 12), st.integers(0, 9))
def test_an_epoch_takes_no_token_twice_and_leaves_out_less_than_two_windows(size, batch_size, block_size, seed):
    block_size = min(block_size, size - 1)

    def stream(rows=slice(None), taken=0):
        batches = EpochBatches(np.arange(size), batch_size, block_size, seed, size, rows)
        batches.load_state_dict(json.loads(json.dumps({**batches.state_dict(), "taken": taken})))
        return batches

    batches, n = stream(), stream().per_epoch
    drawn = [next(batches) for _ in range(2 + 2 * n // batch_size)]  # two epochs and more
    inputs, targets = (np.concatenate(part) for part in zip(*drawn))
    assert (targets == inputs + 1).all() and (np.diff(inputs, axis=1) == 1).all()
    for epoch in (inputs[:n], inputs[n : 2 * n]):
        assert np.unique(epoch).size == epoch.size > size - 1 - 2 * block_size
    # It resumes exactly, also in the middle of a text, and several processes share a batch.
    assert np.array_equal(next(stream(taken=batch_size)), drawn[1])
    halves = [next(stream(rows))[0] for rows in (slice(batch_size // 2), slice(batch_size // 2, None))]
    assert np.array_equal(np.concatenate(halves), drawn[0][0])


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


def test_a_corpus_shorter_than_the_block_is_named_with_the_way_out():
    assert next(RandomBatches(np.arange(11), 1, 10))[0].shape == (1, 10)
    message = "10 tokens are too few for block_size 10, which needs 11: take more text, or a --block-size of at most 9"
    with pytest.raises(ValueError, match=message):
        next(RandomBatches(np.arange(10), 1, 10))
    with pytest.raises(ValueError, match="1 tokens are too few: a target needs a token before it"):
        list(sequential_batches(np.arange(1), 1, 10))


def test_ids_are_checked_where_batches_are_made():
    tokens = np.array([0, 1, 2, 9, 3])
    with pytest.raises(ValueError, match=r"token id 9 at position \(0, 3\) is not in the vocabulary: ids are 0 to 4"):
        get_batch(tokens, 2, 4, np.random.default_rng(0), vocab_size=5)
    with pytest.raises(ValueError, match=r"token id 9 at position \(1, 1\)"):
        list(sequential_batches(tokens, 2, 2, vocab_size=5))


def test_validate_ids():
    assert validate_ids(np.array([[0, 4]], dtype=np.uint8), 5).tolist() == [[0, 4]]
    assert validate_ids([], 5).dtype == np.int64
    with pytest.raises(ValueError, match=r"token id -1 at position 0 is not in the vocabulary: ids are 0 to 4"):
        validate_ids([-1], 5)
    with pytest.raises(ValueError, match=r"token id 18446744073709551615 at position 1"):
        validate_ids(np.array([1, 2**64 - 1], dtype=np.uint64), 5)
    with pytest.raises(ValueError, match=r"token id 5 at position \(\) is"):
        validate_ids(5, 5)
    for ids in ([1.0], [True], ["1"], [2**70], [None]):
        with pytest.raises(TypeError, match="token ids must be integers, got"):
            validate_ids(ids, 5)


def test_a_python_without_sources_reads_the_same_english_from_a_file(tmp_path, monkeypatch):
    whole, helps = python_corpus.documents(), python_corpus.help_text()
    (tmp_path / "english.json").write_text(json.dumps(whole), encoding="utf-8")
    monkeypatch.setattr(python_corpus, "BUNDLED", tmp_path / "english.json")
    monkeypatch.setattr(python_corpus, "documents", python_corpus.documents.__wrapped__)
    assert python_corpus.documents() == whole and python_corpus.help_text() == helps
