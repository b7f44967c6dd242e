"""The output of a training run: a line per logged step on the screen, and the same as JSON lines in its folder."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..console import show
from ..files import StrPath, naming, open_regular, write_json_lines
from .training_step import Step

COLUMNS = """\
  step/total  steps of the optimizer so far, and planned
        loss  how surprised the model was by the next token, in nats (as unsure as among e^loss equally likely tokens)
          lr  learning rate: how far a step goes; up during the warm-up, then down along a cosine
   grad norm  length of the gradient before clipping: a spike means trouble
          ms  milliseconds for the step
    tokens/s  tokens learned from per second
  validation  the loss on held-out text; bits per byte is comparable between tokenizers"""


class RunLog:
    """`log.jsonl` in a run's folder, and the lines on the screen. `unit` is what training counts: tokens, pairs, ...

    silent: no file, as it is another process that writes it.
    """

    def __init__(self, out_dir: Path, unit: str = "tokens", silent: bool = False):
        self.path = out_dir / "log.jsonl"
        self.unit, self.silent = unit, silent
        self.shown: Collection[str] | None = None  # the metrics of a step that the screen has room for; None: all

    def step(self, number: int, total: int, step: Step, seconds: float, learned: int) -> None:
        """Log step `number` of `total`, which took so many seconds. learned: the sum of the counts of all steps so far
        that were not skipped.
        """
        per_second = step.count / seconds
        shown = step.metrics if self.shown is None else [name for name in self.shown if name in step.metrics]
        more = "".join(f" | {name} {step.metrics[name]:.4f}" for name in shown)
        note = "  not finite: skipped" if step.skipped else ""
        speed = f"{seconds * 1000:5.0f} ms | {per_second:7,.0f} {self.unit}/s"
        learning = f"loss {step.loss:7.4f} | lr {step.lr:.2e} | grad norm {step.grad_norm:7.3f}"
        show(f"{f'{number}/{total}':>11} | {learning} | {speed}{more}{note}")
        row = {"step": number, "loss": step.loss, "learning_rate": step.lr, "grad_norm": step.grad_norm}
        row |= {"ms": round(seconds * 1000, 3), f"{self.unit}_per_second": round(per_second, 1)}
        self._append({**row, f"num_{self.unit}": learned, "skipped": step.skipped, **step.metrics})

    def validation(self, number: int, metrics: Mapping[str, float]) -> None:
        """Log what was measured on data that is not trained on; "val_loss" comes first."""
        names = {"val_loss": "validation loss"}
        parts = [f"{names.get(name, name.replace('_', ' '))} {_short(value)}" for name, value in metrics.items()]
        show(f"{number:>11} | {', '.join(parts)}")
        self._append({"step": number, **metrics})

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`: a run that goes on from there writes them again."""
        if not self.silent:
            write_json_lines(self.path, (row for row in read_log(self.path) if row["step"] <= step))

    def _append(self, row: dict[str, Any]) -> None:
        if self.silent:
            return
        # JSON has no nan.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        if not self.path.parent.exists():
            raise FileNotFoundError(f"{self.path.parent} was moved or deleted while the run was training: it ends here")
        with naming(self.path), open(self.path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(finite) + "\n")


def mean_step(steps: Sequence[Step], metrics: Mapping[str, float]) -> Step:
    """Several steps as one: means over them, weighted by their counts. metrics: to be shown before those of the steps.

    >>> steps = [Step(1, 0.1, loss=2.0, metrics={}, grad_norm=1.0, skipped=False)]
    >>> steps.append(Step(3, 0.1, loss=4.0, metrics={}, grad_norm=1.0, skipped=False))
    >>> mean_step(steps, {"reward": 0.5})
    Step(count=4, lr=0.1, loss=3.5, metrics={'reward': 0.5}, grad_norm=1.0, skipped=False)
    """
    count = sum(step.count for step in steps)

    def mean(values: Sequence[float]) -> float:
        return sum(value * step.count for value, step in zip(values, steps)) / count

    means = {name: mean([step.metrics[name] for step in steps]) for name in steps[0].metrics}
    loss, norm = mean([step.loss for step in steps]), mean([step.grad_norm for step in steps])
    return Step(count, steps[-1].lr, loss, {**metrics, **means}, norm, any(step.skipped for step in steps))


def read_log(path: StrPath) -> list[dict[str, Any]]:
    """The rows of a `log.jsonl`. Lines without a step, such as a last line that a crash cut off, are left out."""
    if not Path(path).exists():
        return []
    rows = []
    with open_regular(path) as file:
        text = file.read().decode("utf-8", errors="replace")
    for line in text.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            row["step"] + 0
            rows.append(row)
    return rows


def _short(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.4f}"
