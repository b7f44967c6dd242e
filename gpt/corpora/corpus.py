"""Texts to train on: built-in stories, English and Python code, Shakespeare by download, or a file of your own."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..files import StrPath, atomic_write, cache_folder, read_text, sha256_of
from .python_corpus import english_text, python_code
from .stories import stories

# "Tiny Shakespeare", 1,115,394 bytes, from Karpathy's char-rnn (2015); a mirror may be named in the environment.
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
NAMES = ("stories", "english", "python", "shakespeare")


@dataclass(frozen=True)
class Corpus:
    """A text, its source, and the SHA-256 of its UTF-8 bytes, which belongs beside every published figure."""

    name: str
    text: str = field(repr=False)
    source: str

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()

    def __str__(self) -> str:
        return f"{self.name}: {self.source}, {len(self.text.encode()):,} bytes, SHA-256 {self.sha256[:16]}..."


def load_corpus(name_or_path: StrPath) -> Corpus:
    """Load a corpus by name ("stories", "english", "python", "shakespeare"), or the text of a UTF-8 file.

    "stories" are made by a program (see stories.py), and are the same everywhere. Every Python installation has
    "english" and "python" (see python_corpus.py). "shakespeare" is downloaded once, from the address in
    MINIGRAD_SHAKESPEARE_URL if this variable is set. Raises FileNotFoundError, IsADirectoryError, ValueError for a file
    that is empty or not UTF-8, and what `download` raises.
    """
    if name_or_path == "stories":
        return Corpus("stories", stories(), "short stories that a program tells (gpt/corpora/stories.py)")
    if name_or_path == "english":
        return Corpus("english", english_text(), f"the documentation inside Python {platform.python_version()}")
    if name_or_path == "python":
        return Corpus("python", python_code(), f"code of the standard library of Python {platform.python_version()}")
    if name_or_path == "shakespeare":
        url = os.environ.get("MINIGRAD_SHAKESPEARE_URL", SHAKESPEARE_URL)
        path = download(url, cache_folder() / "tinyshakespeare.txt", SHAKESPEARE_SHA256)
        return Corpus("shakespeare", read_text(path), url)
    try:
        text = read_text(name_or_path)
    except FileNotFoundError:
        ways = f"give the path of a UTF-8 text file, or one of {', '.join(NAMES)}"
        raise FileNotFoundError(f"there is no corpus or file {os.fspath(name_or_path)!r}; {ways}") from None
    if not text.strip():
        raise ValueError(f"{os.fspath(name_or_path)} contains no text: there is nothing to train on; give another file")
    return Corpus(os.path.basename(name_or_path), text, os.fspath(name_or_path))


def check_corpus(name_or_path: StrPath) -> None:
    """Raise what `load_corpus` raises for a file, before something that takes longer. Nothing built in is made."""
    if name_or_path not in NAMES:
        load_corpus(name_or_path)


def download(url: str, path: Path, sha256: str) -> Path:
    """Download the file `path` from `url` if it is not there. Returns the path.

    Raises ConnectionError if the network or the server fails, and ValueError if the file does not have the expected
    SHA-256; then nothing is kept.
    """
    if path.is_file() and sha256_of(path) == sha256:
        return path
    import urllib.request  # only here: loading it takes 20 ms, and most runs download nothing
    from http.client import HTTPException

    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            content = response.read()
    except (OSError, HTTPException, ValueError) as error:
        ways = f"Go online and try again, or put the file at {path}"
        raise ConnectionError(f"could not download {path.name} from {url} ({error}). {ways}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        perhaps = "nothing was kept; perhaps a proxy or a login page answered in its place"
        raise ValueError(f"{url} is not the file expected: SHA-256 {found} instead of {sha256}; {perhaps}")
    with atomic_write(path) as file:
        file.write(content)
    return path
