"""One file from the network into the cache: checked, and never half of it under its name."""

from __future__ import annotations

import hashlib
import urllib.request
from http.client import HTTPException
from pathlib import Path

from ..console import progress_bar
from ..files import atomic_write, cache_folder

_SECONDS_WITHOUT_ANSWER = 30


def download(url: str, name: str, sha256: str) -> Path:
    """The path of file `name` in the cache (`files.cache_folder`), fetched from `url` unless it is there already.

    Raises ConnectionError where the network or the server fails, and ValueError where what came does not have the
    SHA-256 expected; nothing is kept then.
    """
    path = cache_folder() / name
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
        return path
    digest, received = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS_WITHOUT_ANSWER) as response, atomic_write(path) as file:
            total = int(response.headers.get("Content-Length") or 0)
            with progress_bar(total or None, f"downloading {name}", "B") as bar:
                while block := response.read(1 << 16):
                    file.write(block)
                    digest.update(block)
                    received += len(block)
                    bar.update(len(block))
            if received < total:
                raise ConnectionError(f"it stopped after {received:,} of {total:,} bytes")
            if digest.hexdigest() != sha256:
                raise _WrongChecksum
    except _WrongChecksum:
        raise ValueError(
            f"{url} is not the file expected: SHA-256 {digest.hexdigest()} instead of {sha256}; nothing was kept. "
            "Perhaps a proxy or a login page answered in its place"
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        raise ConnectionError(
            f"could not download {name} from {url} ({error}). Go online and try again, or put the file at {path}"
        ) from error
    return path


class _WrongChecksum(Exception):
    """Leaves `atomic_write` before it would rename."""
