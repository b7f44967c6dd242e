"""What the scripts share. They import it first: without NumPy or minigrad it ends them with the command that helps."""

import importlib.util
import os
import sys
from pathlib import Path

missing = [name for name in ("numpy", "minigrad") if importlib.util.find_spec(name) is None]
if missing:
    venv = Path(__file__).resolve().parent.parent.parent / ".venv"
    command = r".venv\Scripts\activate" if os.name == "nt" else ". .venv/bin/activate"
    if not venv.exists() or Path(sys.prefix).resolve() == venv:
        command = f"{Path(sys.executable).name} scripts/setup.py install` and `{command}"
    sys.exit(f"This Python, {sys.executable}, lacks {' and '.join(missing)}. In {venv.parent}, type `{command}`.")
