"""READMEs, docstrings, comments, tables and workflows send their readers to files and names that exist."""

import functools
import os
import pkgutil
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ("minigrad", "gpt", "finetune")
PLACES = [f"{name}/**/*" for name in (".ci", ".github", *LIBRARY, "scripts")] + ["*.md", "*.cfg", "*.toml", "Makefile"]
PATH = re.compile(r"(?<![\w/.-])(?:minigrad|gpt|finetune|scripts|tests)/[\w/.-]*\w(?![\w/]*[*{])")  # gpt/model/gpt2.py
FILE = re.compile(r"(?<![\w/.*}-])[a-z0-9_]+\.py\b")  # gpt2.py
BELOW = re.compile(r"(?<![\w/.*}-])(([a-z0-9_]+)/[a-z0-9_/]+\.py)\b")  # model/gpt2.py
NAME = re.compile(r"(?<![\w/.-])(?:minigrad|gpt|finetune|scripts|tests)(?:\.[A-Za-z_]\w*)+")  # gpt.model.gpt2.GPT
REMARK = re.compile(r'^ *"""\S.*?"""|(?:^|  ) *# [^\n]*', re.MULTILINE | re.DOTALL)  # in Python: docstrings, comments
HREF = r'\b(?:href|src)="([^"]+)"'
LINKS = {
    # [text](../README.md), [text](../README.md "title"), [text][name], a line "[name]: ../README.md", and HTML.
    ".md": r"\]\(<?([^)>\s]+)|(?<!\w)\[[^\]]+\](\[[^\]]+\])|^ *\[[^\]]+\]: *<?([^>\s]+)|" + HREF,
    ".py": r"\]\(([^)\s]*[./#][^)\s]*)\)",
}
# A page of the site, and what its script names: "step.html", `../explore/index.html?...`. What it adds after "#" or "?"
# is for the script of the other page, which draws what it names.
PAGE = HREF + r'|["`]((?:\.\./)?(?:\w+/)*\w+\.(?:html|js))["?]'


@functools.cache
def known(root: Path) -> set[Path]:
    """All files that a text may name, and the folders above them; not what a moved file has left behind."""
    found = {path for place in (*PLACES, "tests/**/*", "LICENSE", "CITATION.cff") for path in root.glob(place)}
    files = {path for path in found if path.is_file() and path.suffix != ".pyc"}
    return {path for file in files for path in (file, *file.parents) if path.is_relative_to(root)}


@functools.cache
def names(root: Path, folder: Path) -> set[str]:
    """What the files and folders in a folder may be called: gpt2.py, model/gpt2.py and gpt/model/gpt2.py."""
    parts = [path.relative_to(root).parts for path in known(root) if path.is_relative_to(folder)]
    return {"/".join(part[i:]) for part in parts for i in range(len(part))}


def texts(root: Path) -> list[Path]:
    paths = sorted(path for path in known(root) if path.is_file() and path.suffix not in (".png", ".npz"))
    return [path for path in paths if path.suffix == ".py" or path.relative_to(root).parts[0] != "tests"]


def broken_links(path: Path, text: str, files: set[Path]) -> list[str]:
    """Return the links in a text that lead to nothing: to none of the files and folders, to no heading or id there."""
    links = map("".join, re.findall(LINKS.get(path.suffix, PAGE), text, re.MULTILINE))
    return [link for link in links if f"\n{link}: " not in text and not leads_somewhere(path, link, files)]


def leads_somewhere(path: Path, link: str, files: set[Path]) -> bool:
    if re.match(r"https://[\w-]+\.[\w.-]+(/|$)|data:", link):  # not followed: no test uses the network
        return True
    place, _, anchor = link.partition("#")
    if not place:
        return anchor in anchors(path)
    target = Path(os.path.normpath(path.parent / unquote(place.partition("?")[0])))
    return target in files and (not anchor or anchor in anchors(target))


@functools.cache
def anchors(path: Path) -> set[str]:
    """The ids in a text, and those that GitHub gives to its headings: "A `b`, c" is a-b-c, and another one a-b-c-1."""
    text = re.sub(r"^```.*?^```|\]\(.*?\)", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+)", text, re.MULTILINE)
    slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    again = [f"{slug}-{slugs[:i].count(slug)}" for i, slug in enumerate(slugs) if slug in slugs[:i]]
    return {*slugs, *again, *re.findall(r'\bid="([^"]+)"', text)}


def broken(root: Path, path: Path) -> list[str]:
    """Return the links and names in the text at `path` that lead to no file, folder or object."""
    text = path.read_text(encoding="utf-8")
    files = known(root)
    top = path.relative_to(root).parts[0]
    prose = {".md": text, ".py": "\n".join(REMARK.findall(text))}.get(path.suffix, "")  # a page's are for the site
    found = broken_links(path, prose, files)
    if top == "tests":
        text = prose  # the strings there name what is not there
    found += [name for name in PATH.findall(text) if "NAME" not in name and root / name not in files]
    # A bare name in the library is that of a neighbor, or of something below; other projects have other folders.
    near, ours = names(root, path.parent if top in LIBRARY else root), names(root, root)
    found += [name for name in FILE.findall(text) if name not in near]
    found += [name for name, folder in BELOW.findall(text) if folder in ours and name not in ours]
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
    assert len(paths) > 300
    found = {str(path.relative_to(ROOT)): broken(ROOT, path) for path in paths}
    assert {path: missing for path, missing in found.items() if missing} == {}


@pytest.mark.parametrize(
    "where, text, missing",
    [
        ("x.md", '[text](gpt/b.py "title"), ![picture](Gpt/a.py), [slip](https:/x.y)', "gpt/b.py Gpt/a.py https:/x.y"),
        ("x.md", "# A\n```\n# B\n```\n[in code](#b) [none](gpt/a.py#a) [one](#a-1)", "#b gpt/a.py#a #a-1"),
        ("x.md", '[one][1] [two][2]\n\n[1]: gpt/a.py\n[3]: ./c.md\n<a id="d" href="#d"><a href="#e">', "[2] ./c.md #e"),
        ("scripts/x.html", '<img src="a.js"><a href="#b"> "../c.html"', "a.js #b ../c.html"),
        ("gpt/a.py", "x.py, model/gpt2.py and gpt/b.py; scripts/b.py", "x.py gpt/b.py scripts/b.py"),
        ("gpt/a.py", "gpt.model.gpt2.GPT.backward", "gpt.model.gpt2.GPT.backward"),
        ("tests/a.py", '"""As in b.py."""\nwrite("c.py")\n# gpt/d.py', "b.py gpt/d.py"),
    ],
)
def test_what_is_missing_is_found(tmp_path, where, text, missing):
    for name in ("gpt/a.py", "scripts/x.py", where):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text if name == where else "", encoding="utf-8")
    path = tmp_path / where
    is_page = where.endswith("html")
    found = broken_links(path, text, known(tmp_path)) if is_page else broken(tmp_path, path)
    assert set(found) == set(missing.split())
