"""What the scripts share. They import it first: without NumPy or minigrad it ends them with the command that helps, and
while the packages are loaded, Ctrl-C ends them with a word instead of a traceback.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any, NoReturn


def _end() -> NoReturn:
    print("\ninterrupted", file=sys.stderr, flush=True)
    os._exit(130)


def _show_error(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    """Show an error that nobody caught. While a script is still being loaded, nobody catches Ctrl-C."""
    if issubclass(kind, KeyboardInterrupt):
        _end()
    show_error(kind, error, traceback)


def _show_ignored(ignored: Any) -> None:
    """Show an error that Python cannot pass on. For Ctrl-C this happens while it loads a module or ends threads."""
    if ignored.exc_type is KeyboardInterrupt:
        _end()
    show_ignored(ignored)


show_error, show_ignored = sys.excepthook, sys.unraisablehook
main = Path(getattr(sys.modules["__main__"], "__file__", None) or "none").resolve()
if Path(__file__).resolve().parent.parent in main.parents:  # a script was started, not a notebook or a test
    sys.excepthook, sys.unraisablehook = _show_error, _show_ignored

missing = [name for name in ("numpy", "minigrad") if importlib.util.find_spec(name) is None]
if missing:
    venv = Path(__file__).resolve().parent.parent.parent / ".venv"
    command = r".venv\Scripts\activate" if os.name == "nt" else ". .venv/bin/activate"
    if not venv.exists() or Path(sys.prefix).resolve() == venv:
        command = f"{Path(sys.executable).name} scripts/setup.py install` and `{command}"
    sys.exit(f"This Python, {sys.executable}, lacks {' and '.join(missing)}. In {venv.parent}, type `{command}`.")
