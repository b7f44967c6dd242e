"""Texts that every Python installation has: the English inside its standard library, and the library's code.

English: the reference that `help()` prints (`pydoc_data.topics`) and the docstrings of the library's modules, about
1.5 MB of prose once code, tables and lists of parameters are left out. This is enough to see a small model learn words,
grammar and a topic, without a network and without a license to think about.

Code: the same modules without docstrings and comments. For a model that has learned the English this is another
language, which it has never seen: a text for fine-tuning.

Both depend on the Python version and on the installed parts of the library. Their SHA-256 identifies the text.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import inspect
import json
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from ..console import progress_bar
from ..files import cache_folder, read_text, write_text

BUNDLED = Path(__file__).resolve().parents[2] / "english.json"
BUNDLED_CODE = BUNDLED.with_name("python_code.txt")
# Not of the library, tests, or tables.
_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings", "pydoc_data"}
_HAS_DOCSTRING = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_BULLET = r"(?:[-*+•]|\d+[.)]|\([a-z0-9]\)) "
_PLAIN_WORD = re.compile(r"[\"'(“‘\[]*[A-Za-z][A-Za-z'’-]*[\"')”’\]]*[.,;:!?]*[\"')”’\]]*")
_SENTENCE_START = re.compile(r"[\"'(“]?[A-Z]")
_SENTENCE_END = re.compile(r"[.!?:][\"')”]*$")


# --- English ----------------------------------------------------------------------------------------------------------


def english_text() -> str:
    """The English of the standard library: paragraphs on one line each, with an empty line between them.

    Modules and help topics are shuffled in the same order everywhere, so the last tenth is a fair sample of the whole.
    No paragraph occurs twice. Raises FileNotFoundError if the sources are not installed.
    """
    texts = sorted(documents().values(), key=lambda text: hashlib.sha256(text.encode()).digest())
    return "\n\n".join(texts) + "\n"


def help_text() -> str:
    """A sixth of the same text, in one second: only what `help()` prints, or everything if there are no help topics."""
    if BUNDLED.exists():
        return "\n\n".join(text for name, text in documents().items() if name.startswith("help/")) + "\n"
    topics = _prose(list(_help_topics().values()), set())
    return topics + "\n" if topics else english_text()


@functools.lru_cache(maxsize=1)
def documents() -> dict[str, str]:
    """The same text by its source: a help topic such as "help/while", or a file such as "email/charset.py".

    Reading takes seconds, so the result is kept in the cache (`files.cache_folder`) until a source changes. A Python
    without sources and help topics, as in a browser, finds it in the file BUNDLED.
    """
    if BUNDLED.exists():
        return json.loads(read_text(BUNDLED))
    folder, paths, topics = Path(sysconfig.get_path("stdlib")), library_sources(), _help_topics()
    kept = f"english-{_fingerprint([Path(__file__), *paths], topics)}.json"
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # not there, damaged, or a user without a home folder
        return json.loads(read_text(cache_folder() / kept))
    seen: set[str] = set()
    found = {f"help/{name}": _prose([text], seen) for name, text in topics.items()}
    with progress_bar(len(paths), "reading the standard library", "file") as bar:
        for path in paths:
            found[path.relative_to(folder).as_posix()] = _prose(list(_docstrings(_parsed(path.read_bytes()))), seen)
            bar.update(1)
    found = {name: text for name, text in found.items() if text}
    if len(found) < 100:
        missing = f"not in {folder} (only {len(found)} files there have docstrings), so there is no built-in English"
        raise FileNotFoundError(f"the sources of Python's standard library are {missing}; give a text file of your own")
    with contextlib.suppress(OSError, RuntimeError):
        write_text(cache_folder() / kept, json.dumps(found))
    return found


def _help_topics() -> dict[str, str]:
    """The texts of `help("topics")`. Empty if a distribution leaves them out."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return {}
    return dict(sorted(topics.items()))


def _docstrings(node: ast.AST) -> Iterator[str]:
    """All docstrings of a module, in their order."""
    if isinstance(node, _HAS_DOCSTRING):
        yield ast.get_docstring(node) or ""
    for statement in getattr(node, "body", []):
        yield from _docstrings(statement)


def _prose(texts: list[str], seen: set[str]) -> str:
    """The paragraphs of some texts that are English prose and not in `seen`. They are added to `seen`."""
    kept = []
    for text in texts:
        for block in re.split(r"\n\s*\n", text):
            for paragraph in re.split(rf"\n(?=\s*{_BULLET})", inspect.cleandoc(block)):
                line = _one_line(paragraph)
                if _is_prose(line) and line not in seen:
                    seen.add(line)
                    kept.append(line)
    return "\n\n".join(kept)


def _one_line(paragraph: str) -> str:
    """A paragraph without line breaks, bullet and markup, and with a full stop.

    >>> _one_line("* Return the ``name`` of a sub-\\nclass of :class:`Path`")
    'Return the name of a sub-class of Path.'
    """
    text = re.sub(r"(?<=\w-)\n\s*(?=\w)", "", paragraph)
    text = re.sub(r"\s+", " ", re.sub(rf"^\s*{_BULLET}", "", text)).strip()
    text = re.sub(r":[a-z:]+:`~?([^`]+)`", r"\1", text)  # :class:`Path`
    text = re.sub(r"``?([^`]+?)``?", r"\1", text)  # ``code``
    text = re.sub(r"(?<![\w*])\*{1,2}([\w.\s-]+?)\*{1,2}(?![\w*])", r"\1", text)  # *emphasis*
    return text + "." if re.search(r"\w$", text) and text.count(" ") >= 3 else text


def _is_prose(text: str) -> bool:
    """Whether a line begins and ends like a sentence, and four in five of its words are plain words.

    >>> _is_prose("Return the name of a path."), _is_prose("x = f(y) + g(z), 17 | 18.")
    (True, False)
    """
    words = text.split()
    return (
        len(words) >= 4
        and _SENTENCE_START.match(text) is not None
        and _SENTENCE_END.search(text) is not None
        and not any(code in text for code in (">>>", "::=", " | "))
        and sum(_PLAIN_WORD.fullmatch(word) is not None for word in words) >= 0.8 * len(words)
    )


# --- code -------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def python_code(characters: int = 1_000_000) -> str:
    """Modules of the standard library, shuffled in the same order everywhere, up to a number of characters.

    A Python without sources, as in a browser, finds the beginning in the file BUNDLED_CODE. Raises FileNotFoundError if
    that is not enough.
    """
    if BUNDLED_CODE.exists() and len(text := read_text(BUNDLED_CODE)) >= characters:
        return text[:characters]
    paths = sorted(library_sources(), key=lambda path: hashlib.sha256("/".join(path.parts[-2:]).encode()).digest())
    modules: list[str] = []
    length = 0
    for path in paths:
        modules.append(_code_only(path.read_bytes()))
        length += len(modules[-1])
        if length >= characters:
            return "\n\n".join(modules)[:characters]
    missing = f"not installed (only {length:,} characters of code were found)"
    raise FileNotFoundError(f"the sources of Python's standard library are {missing}; give a text file of your own")


def _code_only(source: str | bytes) -> str:
    """The code of a module in a uniform layout; empty for text that is not Python.

    >>> print(_code_only('def f(x):  # doubles\\n    "Twice x."\\n    return (x*2)'))
    def f(x):
        return x * 2
    """
    tree = _parsed(source)
    for node in ast.walk(tree):
        if isinstance(node, _HAS_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


# --- the sources of both ----------------------------------------------------------------------------------------------


def library_sources() -> list[Path]:
    """The source files of the standard library, sorted; without tests, tables and other people's packages."""
    folder = Path(sysconfig.get_path("stdlib"))
    paths = (path for path in folder.rglob("*.py") if path.is_file())
    return sorted(path for path in paths if not _SKIPPED.intersection(path.relative_to(folder).parts))


def _fingerprint(paths: list[Path], topics: dict[str, str]) -> str:
    """Sixteen characters that change if a file does, or Python, or its help topics."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr((sys.version, files, topics)).encode()).hexdigest()[:16]


def _parsed(source: str | bytes) -> ast.Module:
    """The syntax tree of a source file, which is not imported; an empty tree for text that is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences are not ours to report
            return ast.parse(source)
    except (SyntaxError, ValueError):
        return ast.Module([], [])  # a template, or a test of the parser
