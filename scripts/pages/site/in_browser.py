"""How a page of the site calls Python: `python.call("cells.run", {...})` calls `run` in cells.py of this folder."""

import importlib
import io
import json
import traceback
from contextlib import redirect_stderr


def answer(call: str, given: str) -> str:
    """Call MODULE.FUNCTION with its arguments as JSON; its result as JSON."""
    module, _, function = call.partition(".")
    with redirect_stderr(io.StringIO()):
        return json.dumps(getattr(importlib.import_module(f"{__package__}.{module}"), function)(**json.loads(given)))


def shown(error: BaseException, *paths: str) -> str:
    """The traceback from the code in one of these files on, or the message of an error that did not come through it."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    places = traceback.extract_tb(error.__traceback__)
    first = next((i for i, place in enumerate(places) if place.filename in paths), None)
    if first is None and not isinstance(error, SyntaxError):
        return str(error) or repr(error)
    lines = traceback.format_list(places[first:] if first is not None else []) + traceback.format_exception_only(error)
    return "Traceback (most recent call last):\n" + "".join(lines)
