"""Files: read text, JSON and settings with clear errors, write files atomically, and a folder for downloads."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

StrPath = str | os.PathLike[str]  # a path: a text, or a pathlib.Path
MAX_MODEL_TEXT = 50_000_000  # bytes of a text file that belongs to a model; the largest vocabularies take 30 million
UNFINISHED = ".unfinished"  # how the name of a file ends that `replacing` has not finished


def open_regular(path: StrPath, max_bytes: int = sys.maxsize) -> io.BufferedReader:
    """Open a regular file for reading bytes. Pipes and devices are refused, because reading them might never end.

    Raises FileNotFoundError, IsADirectoryError, ValueError (not a regular file, or more than `max_bytes`), each naming
    the file, or another OSError.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the path of one file in it")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file, but a pipe or a device, which might never end: give a file")
    if (size := path.stat().st_size) > max_bytes:
        raise ValueError(f"{path} has {size:,} bytes, and more than {max_bytes:,} are not expected there")
    return open(path, "rb")


def sha256_of(path: StrPath, max_bytes: int = sys.maxsize) -> str:
    """The SHA-256 of a file. Raises what `open_regular` raises."""
    with open_regular(path, max_bytes) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_pieces(path: StrPath, size: int = 1 << 20, max_bytes: int = sys.maxsize) -> Iterator[str]:
    """Read a UTF-8 file as a stream of strings of `size` characters, so it need not fit into memory.

    Line ends are not changed, and a byte order mark at the start is dropped. Raises what `open_regular` raises, and
    ValueError, naming the file, if it is not UTF-8.
    """
    with open_regular(path, max_bytes) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            while piece := text.read(size):
                yield piece
        except UnicodeDecodeError as error:
            wrong = file.tell() - len(error.object) + error.start  # error.object: the last bytes that were read
            found = f"{error.reason} at byte {wrong} (0x{error.object[error.start]:02x})"
            raise ValueError(f"{path} is not UTF-8 text: {found}; convert the file to UTF-8 first") from None


def read_text(path: StrPath, max_bytes: int = sys.maxsize) -> str:
    """Read a whole UTF-8 file. Raises what `read_pieces` raises."""
    return "".join(read_pieces(path, max_bytes=max_bytes))


def read_json(path: StrPath) -> dict[str, Any]:
    """The object in a JSON file, which may come from anybody. Raises what `read_pieces` and `parse_json` raise."""
    return parse_json(read_text(path, MAX_MODEL_TEXT), str(path))


def parse_json(text: str, name: str) -> dict[str, Any]:
    """The object in a JSON text. Raises ValueError, also if two entries have the same name (JSON keeps the last)."""

    def without_duplicates(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(entries)
        if len(content) < len(entries):
            key, count = Counter(key for key, _ in entries).most_common(1)[0]
            raise ValueError(f"{key[:100]!r} occurs {count} times")
        return content

    with errors_at(f"{name} is damaged", caught=(ValueError, RecursionError)):
        content = json.loads(text, object_pairs_hook=without_duplicates)
    if not isinstance(content, dict):
        raise ValueError(f"{name} is damaged: expected a JSON object, got {type(content).__name__}")
    return content


def shortened(value: Any) -> str:
    """A value from a file for an error message: its first 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


@contextmanager
def errors_at(
    place: str, kind: type[Exception] = ValueError, caught: tuple[type[Exception], ...] = (ValueError,)
) -> Iterator[None]:
    """In the block, errors get the place before their message: `caught` ones become "PLACE: message", of this kind.

    >>> with errors_at("config.json"):
    ...     int("twelve")
    Traceback (most recent call last):
    ValueError: config.json: invalid literal for int() with base 10: 'twelve'
    """
    try:
        yield
    except caught as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else error
        raise kind(f"{place}: {reason}") from None


def replace(source: Path, target: Path) -> None:
    """Rename over `target`, with retries on Windows, where a virus scanner may have the file open for a moment."""
    for pause in (0.01, 0.1, 0.5, 2.0) if os.name == "nt" else ():
        try:
            return os.replace(source, target)
        except PermissionError:
            time.sleep(pause)
    os.replace(source, target)


@contextmanager
def replacing(path: StrPath) -> Iterator[Path]:
    """A path beside `path` to write to. After the block, the file there takes the place of `path`.

    If the block fails, what it has written is deleted. Raises OSError, which says so, if the folder cannot be made or
    written.
    """
    path = Path(path)
    make_folder(path.parent)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        yield unfinished
        replace(unfinished, path)
    except OSError as error:
        if error.filename != os.fspath(unfinished):
            raise
        raise unwritable(path.parent, error) from None
    finally:
        with suppress(OSError):  # a folder that cannot be written
            unfinished.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, if it is not there. Raises OSError, which says so, if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None


def unwritable(folder: Path, error: OSError) -> OSError:
    """The error for a folder that could not be made, or that no file could be made in."""
    return OSError(error.errno, f"this folder cannot be written ({error.strerror}): choose another", os.fspath(folder))


@contextmanager
def atomic_write(path: StrPath) -> Iterator[BinaryIO]:
    """Open a binary file that appears under its name only when it is complete.

    It is written beside the target, flushed to disk, and then renamed. Any program that opens `path` sees the old file
    or the new one, never half of one, even if this process is killed or the disk is full.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the path of a file")
    with replacing(path) as unfinished, naming(path), open(unfinished, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def naming(path: StrPath) -> Iterator[None]:
    """Add the file's name to an OSError inside the block that names no file, as for a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def write_text(path: StrPath, text: str) -> None:
    """Write `text` as UTF-8 atomically. Line ends are not changed, so the bytes are the same on every system."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def write_json_lines(path: StrPath, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write each row as a line of JSON."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def cache_folder() -> Path:
    """The folder for downloads and the built-in English: the variable MINIGRAD_CACHE, or this system's usual one."""
    if chosen := os.environ.get("MINIGRAD_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "minigrad" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "minigrad"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minigrad"
