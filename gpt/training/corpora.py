"""Texts to train on: the built-in English and Python code, Shakespeare by download, or a file of your own."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass, field
from functools import cached_property

from ..files import read_text
from .download import download
from .english import english_text
from .source_code import python_code

# "Tiny Shakespeare", 1,115,394 bytes, from Karpathy's char-rnn (2015); a mirror may be named in the environment.
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
NAMES = ("english", "python", "shakespeare")


@dataclass(frozen=True)
class Corpus:
    """A text, where it is from, and the SHA-256 of its UTF-8 bytes, to stand beside every figure published on it."""

    name: str
    text: str = field(repr=False)
    source: str

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()

    def __str__(self) -> str:
        size = len(self.text.encode("utf-8"))
        return f"{self.name}: {self.source}, {size:,} bytes, SHA-256 {self.sha256[:16]}..."


def load_corpus(name_or_path: str | os.PathLike[str]) -> Corpus:
    """The corpus of a name ("english", "python", "shakespeare"), or the text of a UTF-8 file.

    "english" and "python" are on every Python installation (see the modules `english` and `source_code`);
    "shakespeare" is downloaded once, from the address in the variable MINIGRAD_SHAKESPEARE_URL if there is one. Raises
    FileNotFoundError, IsADirectoryError, ValueError for a file that is empty or not UTF-8, and what `download` raises.
    """
    if name_or_path == "english":
        return Corpus("english", english_text(), f"the documentation inside Python {platform.python_version()}")
    if name_or_path == "python":
        return Corpus("python", python_code(), f"code of the standard library of Python {platform.python_version()}")
    if name_or_path == "shakespeare":
        url = os.environ.get("MINIGRAD_SHAKESPEARE_URL", SHAKESPEARE_URL)
        path = download(url, "tinyshakespeare.txt", SHAKESPEARE_SHA256)
        return Corpus("shakespeare", read_text(path), url)
    try:
        text = read_text(name_or_path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no corpus or file {os.fspath(name_or_path)!r}; give the path of a UTF-8 text file, or "
            f"one of {', '.join(NAMES)}"
        ) from None
    if not text.strip():
        raise ValueError(f"{os.fspath(name_or_path)} holds no text: there is nothing to train on; give another file")
    return Corpus(os.path.basename(name_or_path), text, os.fspath(name_or_path))
