"""How a page of the site calls Python: `python.call("cells.run", {...})` calls `run` in cells.py of this folder."""

from __future__ import annotations

import importlib
import io
import json
from contextlib import redirect_stderr


def answer(call: str, given: str) -> str:
    """Call MODULE.FUNCTION with its arguments as JSON; its result as JSON."""
    module, _, function = call.partition(".")
    with redirect_stderr(io.StringIO()):
        return json.dumps(getattr(importlib.import_module(f"{__package__}.{module}"), function)(**json.loads(given)))
