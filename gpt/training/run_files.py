"""The folder of a run, beside its checkpoints: data, and what was measured before training."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from minigrad import nn

from ..console import show
from ..files import errors_at, read_json, write_json_lines, write_text
from .checkpoint import WRONG_CONTENT, CheckpointError
from .data_parallel import ALONE, Team, weights_sha256
from .run_folder import new_folder
from .run_state import new_state, read_state


class RunFiles:
    """The part of a `Run` (run.py) that knows its folder. Of a team of processes, only the first one writes there.

    config: settings with `out_dir`, `seed` and, except for pretraining, the name of a `stage`. is_new: False for a run
    that is resumed.
    """

    def __init__(self, config: Any, device: str = "cpu", team: Team = ALONE, is_new: bool = True):
        self.config, self.device, self.team, self.is_new = config, device, team, is_new
        self.out_dir = Path(config.out_dir)
        self.lock = contextlib.ExitStack()  # holds the lock of a new run's folder, from `make_folder` on
        self._has_folder = not is_new
        self.state = new_state(config) if is_new else read_state(self.out_dir)
        # What a stage has measured: before training, see `measure_before`; after it, the stage itself sets it.
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}

    def make_folder(self) -> None:
        """Make the folder of a new run and lock it, unless that is done already: `begin` does it."""
        if self.team.rank == 0 and not self._has_folder:
            self.lock.enter_context(new_folder(self.out_dir))
            self._has_folder = True

    def keep_data(self, **data: Sequence[Any]) -> None:
        """Keep the items of each part, train=[...], as JSON lines, data/train.jsonl, so you can look at them."""
        for name, items in data.items():
            rows = [item.as_json() for item in items]
            path = self.out_dir / "data" / f"{name}.jsonl"
            self.team.once(partial(write_json_lines, path, rows))

    def load_data(self, read: Callable[[Path], Any], names: Sequence[str] = ("train", "test")) -> list[Any]:
        """What a run has kept with `keep_data` under these names. read: reads one file."""
        return [read(self.out_dir / "data" / f"{name}.jsonl") for name in names]

    def measure_before(self, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure what the model can do before training, as `before`. A resumed run reads it from data/before.json."""
        path = self.out_dir / "data" / "before.json"
        if self.is_new:
            show("measuring the model before training ...")
            found = measure()
            self.team.once(lambda: write_text(path, json.dumps(found, indent=1)))
        # Also a new run takes what is in the file, so that it continues with the same as a resumed one.
        with errors_at(f"the run in {self.out_dir} cannot be resumed", CheckpointError, WRONG_CONTENT):
            self.before = read_json(path)

    def check_unchanged(self, name: str, model: nn.Module, source: str) -> None:
        """Raise CheckpointError unless a model that the run needs beside its own is the one that it was started with.

        name: what the model is to the run, such as its reference. source: where it was loaded from.
        """
        now = weights_sha256(model.parameters())
        if name not in self.state.sha256:  # a new run
            self.state.sha256[name] = now
        if self.state.sha256[name] != now:
            raise CheckpointError(
                f"the {name.replace('_', ' ')} in {source} is not the one that the run in {self.out_dir} was started "
                "with: put the old one back, or start a new run"
            )
