"""The files of the site that are not ours (Pyodide, the editor, wheels), pinned by their SHA-256."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

from gpt.console import progress_bar
from gpt.files import atomic_write, read_json, write_text

SITE = Path(__file__).resolve().parent / "site"


def pinned() -> dict[str, Any]:
    """The files that are not ours: name -> sha256, url; and Pyodide's packages."""
    found: dict[str, Any] = read_json(SITE / "assets.json")
    return found


def fetch(folder: Path) -> None:
    """Fetch what is not in the folder yet. Raises ValueError for a file that is not the pinned one."""
    files = pinned()["files"]
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar(len(files), "fetching", "file") as bar:
        for name, entry in files.items():
            if not (folder / name).exists():
                with urllib.request.urlopen(entry["url"], timeout=60) as response:
                    content = response.read()
                if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                    raise ValueError(f"{entry['url']} is not the pinned file: its SHA-256 differs; nothing was kept")
                with atomic_write(folder / name) as file:
                    file.write(content)
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
        (out / "pyodide").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, out / "pyodide" / name)
    lock = {"info": known["info"], "packages": known["packages"]}
    write_text(out / "pyodide" / "pyodide-lock.json", json.dumps(lock))
