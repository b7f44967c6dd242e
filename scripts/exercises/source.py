"""The learner's file as text: may it be run, and which of its lines is to blame?"""

from __future__ import annotations

import ast
import traceback
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .checks import Verdict

ALLOWED = {"__future__", "bisect", "collections", "copy", "dataclasses", "functools", "heapq", "itertools", "math",
           "numpy", "operator", "statistics", "string", "typing"}  # fmt: skip
FUNCTION = "minigrad.autograd", {"Function"}
HIDDEN_WAYS = {"__import__", "__subclasses__", "__globals__", "__builtins__", "eval", "exec", "globals", "importlib"}


class UsesLibrary(RuntimeError):
    """Somebody called what the exercise asks for."""


def read(path: Path) -> tuple[str, Verdict | None]:
    """The file's text, and why it cannot be run, if so."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return "", Verdict("syntax", path.name, "the file is not UTF-8 text: save it as UTF-8 in your editor")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        sentence = f"Python cannot read the file: {getattr(error, 'msg', None) or error}"
        return text, Verdict("syntax", path.name, sentence, line=line, code=code_at(text, line))
    found = _forbidden(tree)
    if found is not None:
        node, what = found
        sentence = (
            f"{what}: this exercise is yours to write, with NumPy and math only. `solution "
            f"{path.stem.partition('_')[2]}` "
            "shows the library's way once yours passes"
        )
        line = getattr(node, "lineno", None)
        return text, Verdict("refused", path.name, sentence, line=line, code=code_at(text, line))
    return text, None


def _forbidden(tree: ast.Module) -> tuple[ast.AST, str] | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] not in ALLOWED:
                    return node, f"it imports {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names = {alias.name for alias in node.names}
            if module.partition(".")[0] not in ALLOWED and not (module == FUNCTION[0] and names <= FUNCTION[1]):
                return node, f"it imports from {module}"
        elif isinstance(node, ast.Name) and node.id in HIDDEN_WAYS:
            return node, f"it uses {node.id}"
        elif isinstance(node, ast.Attribute) and node.attr in HIDDEN_WAYS:
            return node, f"it uses {node.attr}"
    return None


def define(text: str, path: Path) -> tuple[dict[str, Any], Verdict | None]:
    """Run the file, as `import` would; its definitions, or the verdict on what it raised."""
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(text, str(path), "exec"), vars(module))
    except NotImplementedError as error:
        return {}, _verdict_of(error, "unfinished", f"a TODO is still open: {error}", text, path)
    except UsesLibrary as error:
        return {}, _verdict_of(error, "refused", str(error), text, path)
    except (Exception, SystemExit) as error:
        return {}, _verdict_of(error, "error", f"{type(error).__name__}: {error}", text, path)
    return vars(module), None


def _verdict_of(error: BaseException, status: str, sentence: str, text: str, path: Path) -> Verdict:
    line = line_of(error, str(path))
    return Verdict(status, path.name, sentence, line=line, code=code_at(text, line))


def refuse(answers: Iterable[Any]) -> None:
    """From now on, in this process, the library's own answers refuse to run, however they are reached."""
    for answer in answers:
        name = answer.__qualname__
        if isinstance(answer, type):
            for method in ("forward", "backward"):
                if method in vars(answer):
                    setattr(answer, method, staticmethod(_refusing(name)))
        elif isinstance(answer, types.FunctionType) and not answer.__code__.co_freevars:
            answer.__code__ = _refused.__code__
            answer.__kwdefaults__ = {"name": name}


def _refusing(name: str) -> Any:
    def refused(*arguments: Any, **options: Any) -> Any:
        raise UsesLibrary(f"it calls the library's own {name}; write the arithmetic yourself, with NumPy")

    return refused


def _refused(*arguments: Any, name: str = "", **options: Any) -> Any:
    import importlib  # this code runs in the place of another module's function, which knows none of our names

    refusal = importlib.import_module("scripts.exercises.source").UsesLibrary
    raise refusal(f"it calls the library's own {name}; write the arithmetic yourself, with NumPy")


# --- which line -------------------------------------------------------------------------------------------------------


def line_of(error: BaseException, path: str) -> int | None:
    """The last line of the learner's file that an exception went through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return lines[-1] if lines else None


def code_at(text: str, line: int | None) -> str:
    lines = text.splitlines()
    return lines[line - 1].strip() if line is not None and 0 < line <= len(lines) else ""


def last_return(text: str, name: str, part: str = "") -> int | None:
    """The line of the last `return` in the function `name`, or in the method `part` of the class `name`.

    >>> last_return("class A:\\n  def forward(x):\\n    return 1\\n  def backward(x):\\n    return 2", "A", "backward")
    5
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            within = [
                method for method in ast.walk(node) if isinstance(method, ast.FunctionDef) and method.name == part
            ]
            returns = [n for n in ast.walk(within[0] if within else node) if isinstance(n, ast.Return)]
            return max((n.lineno for n in returns), default=None)
    return None


def last_assignment(text: str, name: str, variable: str) -> int | None:
    """The line in backward of the class `name` that assigns `variable` alone, the last such one; None if none does."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            backward = [m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "backward"]
            assigned = [n for method in backward for n in ast.walk(method) if isinstance(n, ast.Assign | ast.AugAssign)]
            targets = [(n, n.targets if isinstance(n, ast.Assign) else [n.target]) for n in assigned]
            lines = [
                n.lineno for n, names in targets if any(isinstance(t, ast.Name) and t.id == variable for t in names)
            ]
            return max(lines, default=None)
    return None
