"""Old names of modules, for one release: notebooks and exercise files that were written before the move keep working.

`from scripts.checker.checks import Exercise` gives what is in scripts/course/checker now, and says so once.
"""

from __future__ import annotations

import functools
import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

MOVED = {name: f"course.{name}" for name in ("checker", "exercises", "lessons", "steps")} | {"gpu": "benchmarks.gpu"}
GONE = {"checker.places": "give Kernel the function itself as `arrange`, in place of with_arguments"}


class OldNames(MetaPathFinder, Loader):
    """Finds a module of the old name, and gives the one of the new name in its place."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """None for a name that is not old. Raises RuntimeError for a module that has no new name."""
        top, _, rest = name.partition(".")
        if top != "scripts" or rest.partition(".")[0] not in MOVED:
            return None
        if rest in GONE:
            raise RuntimeError(f"{name} is gone: {GONE[rest]}")
        return ModuleSpec(name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the new name in the place of an empty one."""
        _, old, *rest = module.__name__.split(".")
        say(f"scripts.{old}", f"scripts.{MOVED[old]}")
        sys.modules[module.__name__] = importlib.import_module(".".join(["scripts", MOVED[old], *rest]))


def new_place(folder: str) -> str:
    """The folder, or the one of ours that it has become."""
    moved = folder.replace("/exercises", "/course/exercises", 1)
    if Path(folder).exists() or not Path(moved).exists():
        return folder
    say(folder, moved)
    return moved


@functools.cache  # said once
def say(old: str, new: str) -> None:
    """Say what a name has become."""
    print(f"{old} has moved to {new}; the old name works until the next release.", file=sys.stderr)
