"""What the explorer asks of Python in a browser: to look inside a model while it reads a text."""

from __future__ import annotations

import functools
from typing import Any

from gpt.training.loading import load_model
from scripts.pages.explore_data import Looker


@functools.lru_cache(maxsize=1)
def looker(model: str) -> Looker:
    """The model NAME of the site, whose folder worker.js has fetched."""
    return Looker(*load_model(f"/models/{model}"))


def look(model: str, question: dict[str, Any]) -> dict[str, Any]:
    """The answer to a question (explore_data.py), or {"error": why there is none}."""
    try:
        return looker(model).look(question)
    except ValueError as error:
        return {"error": str(error)}
