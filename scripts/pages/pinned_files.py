"""The files of the site that are not ours (Pyodide, the editor, wheels), pinned by their SHA-256."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from gpt.console import progress_bar
from gpt.corpora.corpus import download
from gpt.files import make_folder, read_json, write_text

SITE = Path(__file__).resolve().parent / "site"


def pinned() -> dict[str, Any]:
    """The files that are not ours: name -> sha256, url; and Pyodide's packages."""
    return read_json(SITE / "assets.json")


def fetch(folder: Path) -> None:
    """Fetch what is not in the folder yet. Raises what `download` raises."""
    files = pinned()["files"]
    make_folder(folder)
    with progress_bar(len(files), "fetching", "file") as bar:
        for name, entry in files.items():
            download(entry["url"], folder / name, entry["sha256"])
            bar.update(1)


def copy_assets(assets: Path, out: Path) -> None:
    """Copy the pinned files. Raises ValueError for one that is missing or different."""
    known = pinned()
    for name, entry in known["files"].items():
        source = assets / name
        if not source.is_file():
            raise ValueError(f"{source} is missing: python scripts/site.py --fetch --assets {assets}")
        if hashlib.sha256(source.read_bytes()).hexdigest() != entry["sha256"]:
            raise ValueError(f"{source} is not the pinned file (its SHA-256 differs): delete it, and fetch it again")
        make_folder(out / "pyodide")
        shutil.copyfile(source, out / "pyodide" / name)
    lock = {"info": known["info"], "packages": known["packages"]}
    write_text(out / "pyodide" / "pyodide-lock.json", json.dumps(lock))
