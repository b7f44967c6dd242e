"""What the debugger asks of Python in a browser: to record a script again, after a line was changed."""

import contextlib
import importlib
import linecache
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minigrad.inspection.line_recorder import record_lines
from scripts.pages.explain_data import ROOT
from scripts.pages.stepping import PACKAGES, STEPS, debugger_data

from .in_browser import shown

CHANGED = ("forward", "backward", "update")  # what a changed copy of a library's file replaces in its classes


def record(name: str, sources: dict[str, str]) -> dict[str, Any]:
    """Record a script again. sources: the texts of changed files, by their paths in the project."""
    texts = {str(ROOT / path): text for path, text in sources.items()}
    linecache.clearcache()
    for path, text in texts.items():  # for tracebacks
        linecache.cache[path] = (len(text), None, text.splitlines(True), path)
    try:
        with contextlib.ExitStack() as stack:
            for path, text in texts.items():
                if path != str(STEPS[name]):
                    stack.enter_context(changed(path, text))
            return debugger_data(record_lines(STEPS[name], PACKAGES, texts))
    except (Exception, KeyboardInterrupt) as error:
        return {"error": shown(error, *texts)}


@contextlib.contextmanager
def changed(path: str, text: str) -> Iterator[None]:
    """In the block, the classes of a file have the forward, backward and update of a changed copy of it."""
    module = importlib.import_module(".".join(Path(path).relative_to(ROOT).with_suffix("").parts))
    copy = types.ModuleType(module.__name__)
    copy.__package__ = module.__package__
    copy.__file__ = path
    exec(compile(text, path, "exec"), vars(copy))
    before = []
    for name, theirs in vars(copy).items():
        ours = getattr(module, name, None)
        if isinstance(theirs, type) and isinstance(ours, type) and ours.__module__ == module.__name__:
            before += [(ours, half, vars(ours)[half]) for half in CHANGED if half in vars(ours).keys() & vars(theirs)]
    try:
        for ours, half, _ in before:
            setattr(ours, half, vars(getattr(copy, ours.__name__))[half])
        yield
    finally:
        for ours, half, old in before:
            setattr(ours, half, old)
