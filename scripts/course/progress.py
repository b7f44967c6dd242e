"""What a learner has passed, as their folder says."""

from pathlib import Path
from typing import Any

from gpt.files import read_json, shortened


def read_progress(path: Path) -> dict[str, Any]:
    """Read progress.json, if there is one. Raises ValueError for one that was edited into something else."""
    state = {"passed": {}, "hints": {}, "current": None, "solutions": True} | (read_json(path) if path.exists() else {})
    for name, kind in (("passed", dict), ("hints", dict), ("current", str | None), ("solutions", bool)):
        counts = state[name].values() if name == "hints" and isinstance(state[name], dict) else ()
        if not isinstance(state[name], kind) or not all(isinstance(count, int) for count in counts):
            raise ValueError(f"{path} is damaged: {name} is {shortened(state[name])}; correct it, or delete the file")
    return state
