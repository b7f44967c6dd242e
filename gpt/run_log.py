"""What a training run says: a line per logged step on the screen, and the same as JSON lines in the run's folder."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from .files import write_text

COLUMNS = """\
   step/total  steps of the optimiser so far, and planned
         loss  how surprised the model was by the next token, in nats: lower is better (e^loss = among how many tokens it wavers)
           lr  learning rate of this step: up during the warm-up, then down along a cosine
    grad norm  length of the gradient before clipping: spikes mean trouble
           ms  milliseconds for the step
     tokens/s  tokens learned from per second"""


class RunLog:
    """`log.jsonl` in a run's folder, and the lines on the screen."""

    def __init__(self, out_dir: Path):
        self.path = out_dir / "log.jsonl"

    def step(self, number: int, total: int, step: Any) -> None:
        """Log a training step (a `training.Step`)."""
        tokens_per_second = step.tokens / step.seconds
        note = "  not finite: skipped, batch kept" if step.skipped else ""
        show(
            f"{f'{number}/{total}':>13} | loss {step.loss:7.4f} | lr {step.lr:.2e} | grad norm {step.grad_norm:7.3f} | "
            f"{step.seconds * 1000:6.0f} ms | {tokens_per_second:7,.0f} tokens/s{note}"
        )
        self._append(
            {
                "step": number,
                "loss": _finite(step.loss),
                "learning_rate": step.lr,
                "grad_norm": _finite(step.grad_norm),
                "ms": round(step.seconds * 1000, 3),
                "tokens_per_second": round(tokens_per_second, 1),
                "skipped": step.skipped,
                **step.metrics,
            }
        )

    def validation(self, number: int, loss: float) -> None:
        """Log a loss on text that is not trained on."""
        show(f"{number:>13} | validation loss {loss:.4f}, perplexity {math.exp(min(loss, 700)):,.1f}")
        self._append({"step": number, "val_loss": _finite(loss), "perplexity": _finite(math.exp(min(loss, 700)))})

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`: a run that goes on from there writes them again."""
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in read_log(self.path) if row["step"] <= step))

    def _append(self, row: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(row) + "\n")


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a `log.jsonl`; a last line that was cut off by a crash is left out."""
    if not Path(path).exists():
        return []
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def show(text: str = "") -> None:
    """Print a line above the progress bar, if there is one."""
    try:
        from tqdm import tqdm
    except ImportError:
        print(text, flush=True)
    else:
        tqdm.write(text)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no nan
