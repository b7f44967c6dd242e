"""What every command imports first: it finds the rest of the project, or says what is missing.

Python looks for modules in the folder of the file that it was told to run, so a command finds this file from wherever
it is started, in a debugger as well. Without NumPy or minigrad, it ends the command with what to type. While packages
are loaded, Ctrl-C ends it with a word instead of a traceback. From here on `scripts` is a package like the others.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent


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
if ROOT / "scripts" in main.parents:  # a command was started, not a notebook or a test
    sys.excepthook, sys.unraisablehook = _show_error, _show_ignored

missing = [name for name in ("numpy", "minigrad") if importlib.util.find_spec(name) is None]
if missing:
    venv = ROOT / ".venv"
    command = r".venv\Scripts\activate" if os.name == "nt" else ". .venv/bin/activate"
    if not venv.exists() or Path(sys.prefix).resolve() == venv:
        command = f"{Path(sys.executable).name} scripts/setup.py install` and `{command}"
    sys.exit(f"This Python, {sys.executable}, lacks {' and '.join(missing)}. In {ROOT}, type `{command}`.")

sys.path.insert(0, str(ROOT))
from scripts.shared import command_line as command_line  # noqa: E402
