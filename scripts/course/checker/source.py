"""The learner's file as text: whether it may be run, and which of its lines is to blame."""

import ast
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .checks import Verdict
from .worker import LIBRARIES, YOURS, UsesLibrary, last_line

ALLOWED = {"__future__", *LIBRARIES}
REACHING = {"__import__", "__subclasses__", "__builtins__", "__globals__"}  # names that lead to all modules


def read(content: bytes, path: Path) -> tuple[str, Verdict | None]:
    """The text of the file at `path`, and why it cannot be run, if so."""
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return "", Verdict("syntax", path.name, "the file is not UTF-8 text: save it as UTF-8 in your editor")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        sentence = f"Python cannot read the file: {getattr(error, 'msg', None) or error}"
        return text, Verdict("syntax", path.name, sentence, line=line, code=code_at(text, line))
    if (found := _forbidden(tree)) is not None:
        line, what = found
        return text, Verdict("refused", path.name, f"{what}: {YOURS}", line=line, code=code_at(text, line))
    return text, None


def _forbidden(tree: ast.Module) -> tuple[int, str] | None:
    """The line of the first import that is not allowed, or of a name that gets around it, and what it does."""
    for node in ast.walk(tree):
        name = getattr(node, "id", None) or getattr(node, "attr", None)
        if name in REACHING:
            return node.lineno, f"it uses {name}"  # type: ignore[attr-defined]
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] not in ALLOWED:
                    return node.lineno, f"it imports {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            is_function = module == "minigrad.autograd" and {alias.name for alias in node.names} == {"Function"}
            if module.partition(".")[0] not in ALLOWED and not is_function:
                return node.lineno, f"it imports from {module}"
    return None


def define(text: str, path: Path) -> tuple[dict[str, Any], Verdict | None]:
    """Run the file, as `import` would. Returns its definitions, and the verdict on what it raised, if anything."""
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(text, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        return {}, verdict_of(error, text, path)
    return vars(module), None


def verdict_of(error: BaseException, text: str, path: Path) -> Verdict:
    """The verdict on a file that raises this when it is run."""
    line = line_of(error, str(path))
    status, sentence = kind_of(error)
    return Verdict(status, path.name, sentence, line=line, code=code_at(text, line))


def kind_of(error: BaseException) -> tuple[str, str]:
    """The status of a solution that raises this, and the sentence that says so."""
    if isinstance(error, NotImplementedError):
        return "unfinished", f"a TODO is still open: {error}".rstrip(": ")
    if isinstance(error, UsesLibrary):
        return "refused", str(error)
    if isinstance(error, MemoryError):
        return "memory", "it needs more memory than it may have"
    return "error", f"{type(error).__name__}: {error}"


def fault(error: Exception) -> str:
    """What went wrong in the checker itself, and where, for whoever can mend it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"the checker itself failed ({type(error).__name__}: {error}; {Path(place.filename).name}:{place.lineno})"


def with_helpers(function: Callable[..., Any]) -> str:
    """The source of a function and of the functions and classes of its file that it uses."""
    tree = ast.parse(Path(function.__code__.co_filename).read_text(encoding="utf-8"))
    definitions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    needed: dict[str, str] = {}
    waiting = [function.__name__]
    while waiting:
        name = waiting.pop()
        if name in definitions and name not in needed:
            needed[name] = ast.unparse(definitions[name])
            nodes = list(ast.walk(definitions[name]))
            parameters = {node.arg for node in nodes if isinstance(node, ast.arg)}  # not what else has their names
            waiting += [node.id for node in nodes if isinstance(node, ast.Name) and node.id not in parameters]
    return "\n\n".join(needed.values())


# --- which line -------------------------------------------------------------------------------------------------------


def line_of(error: BaseException, path: str) -> int | None:
    """The last line of the learner's file that an exception went through."""
    return error.line if hasattr(error, "line") else last_line(error, path)  # a worker has looked already


def code_at(text: str, line: int | None) -> str:
    lines = text.splitlines()
    return lines[line - 1].strip() if line is not None and 0 < line <= len(lines) else ""
