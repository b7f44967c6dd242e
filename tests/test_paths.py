"""READMEs, docstrings, comments, tables and workflows send their readers to files and names that exist."""

import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ("minigrad", "gpt", "finetune")
PLACES = [f"{name}/**/*" for name in (".ci", ".github", *LIBRARY, "scripts")] + ["*.md", "*.cfg", "*.toml", "Makefile"]
PATH = re.compile(r"(?<![\w/.-])(?:minigrad|gpt|finetune|scripts|tests)/[\w/.-]*\w(?![\w/]*[*{])")  # gpt/model/gpt2.py
LINK = re.compile(r"\]\(([^)#: ]+)[)#]")  # [text](../README.md)
FILE = re.compile(r"(?<![\w/.*}-])[a-z0-9_]+\.py\b")  # gpt2.py
NAME = re.compile(r"(?<![\w/.-])(?:minigrad|gpt|finetune|scripts|tests)(?:\.[A-Za-z_]\w*)+")  # gpt.model.gpt2.GPT


def texts(root: Path) -> list[Path]:
    paths = sorted({path for place in PLACES for path in root.glob(place) if path.is_file()})
    return [path for path in paths if path.suffix not in (".pyc", ".png", ".npz")]


def broken(root: Path, path: Path, files: set[str]) -> list[str]:
    """Return the names in the text at `path` of files and objects that do not exist. `files`: names of all files."""
    text = path.read_text(encoding="utf-8")
    found = [name for name in PATH.findall(text) if "NAME" not in name and not (root / name).exists()]
    found += [link for link in LINK.findall(text) if path.suffix == ".md" and not (path.parent / link).exists()]
    if path.relative_to(root).parts[0] in LIBRARY:  # a bare name there is that of a neighbor, or of something below
        files = {neighbor.name for neighbor in path.parent.rglob("*.py")}
    found += [name for name in FILE.findall(text) if name not in files]
    return found + [name for name in NAME.findall(text) if not resolves(name)]


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_what_texts_name_exists():
    paths = texts(ROOT)
    files = {path.name for path in (*paths, *(ROOT / "tests").rglob("*.py"))}
    assert len(paths) > 300
    found = {str(path.relative_to(ROOT)): broken(ROOT, path, files) for path in paths}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("where", "text", "is_broken"),
    [
        ("README.md", "see [attention](gpt/a.py) and [a section](#below), [elsewhere](https://example.org/x)", False),
        ("README.md", "see [attention](gpt/b.py)", True),
        ("gpt/a.py", "as in gpt/a.py, a.py, .../b.py, scripts/*.py, scripts/{name}.py and scripts/NAME.py", False),
        ("gpt/a.py", "setup.py", True),
        ("scripts/x.py", "see setup.py, `gpt.training.batches.prepare` and gpt.model.gpt2.GPT.forward.", False),
        ("gpt/a.py", "gpt.model.gpt2.GPT.backward", True),
    ],
)
def test_what_is_missing_is_found(tmp_path, where, text, is_broken):
    for name in ("gpt/a.py", "scripts/x.py", where):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text if name == where else "", encoding="utf-8")
    assert bool(broken(tmp_path, tmp_path / where, {"setup.py"})) == is_broken
