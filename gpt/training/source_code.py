"""Program text that every Python installation carries: the code of the standard library, without words about it.

Docstrings and comments are left out, because the built-in English is made of them. So this is another language to a
model that has learned that English, and one to fine-tune it on: with a loss of its own, and nothing in it seen before.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import warnings

from ..console import progress_bar
from .english import library_sources

_HAS_DOCSTRING = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@functools.lru_cache(maxsize=1)
def python_code(characters: int = 1_000_000) -> str:
    """Modules of the standard library until there are that many characters, shuffled, in the same order everywhere.

    Raises FileNotFoundError where the sources are not installed.
    """
    paths = sorted(library_sources(), key=lambda path: hashlib.sha256("/".join(path.parts[-2:]).encode()).digest())
    modules: list[str] = []
    length = 0
    with progress_bar(characters, "reading the standard library", "char") as bar:
        for path in paths:
            text = _code_only(path.read_bytes())
            modules.append(text)
            length += len(text)
            bar.update(len(text))
            if length >= characters:
                return "\n\n".join(modules)[:characters]
    raise FileNotFoundError(
        f"the sources of Python's standard library are not installed (only {length:,} characters of code were found); "
        "give a text file of your own"
    )


def _code_only(source: str | bytes) -> str:
    """A module's code, spelled in one way; empty for what is no Python.

    >>> print(_code_only('def f(x):  # doubles\\n    "Twice x."\\n    return (x*2)'))
    def f(x):
        return x * 2
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences are not ours to report
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""  # a template, or a test of the parser
    for node in ast.walk(tree):
        if isinstance(node, _HAS_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
