"""LoRA against full fine-tuning: the result and the cost of each method in one table.

The cost in memory is measured; the formulas for it are in `gpt.accounting`. Some bytes are held from step to step:
weights, Adam's moments (`held_bytes`). Others come and go in each step: activations, gradients, and what a kernel needs
for a moment (`added_bytes`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune.objectives.sft import sft_loss
from finetune.quantization import memory
from finetune.stages.lora import train_lora
from finetune.stages.lora_data import is_conversations
from finetune.stages.lora_model import LoRARunConfig
from gpt.console import show
from gpt.files import parse_json, read_text, write_text
from gpt.training.checkpoint import has_checkpoint
from gpt.training.log import read_log
from gpt.training.plots import plot_runs
from gpt.training.run import Run, start_or_resume
from gpt.training.run_state import settings_of
from gpt.training.training_step import language_model_loss
from minigrad import nn
from minigrad.optim import Optimizer

ROW = "measured.json"  # in the folder of each method's run
EXPLANATION = """\
     base   the model before fine-tuning
  trained   parameters that are learned
   before   the validation loss before training: with qlora, that of the 4-bit model
    after   and after it
 old text   the loss on text like that which the base model was trained on: how much it has forgotten
  weights   bytes of the model, adapters included; moments: of Adam's two averages
     peak   the most bytes in use at one time in a step: weights, moments, gradients, activations
       ms   per step, the median"""


@dataclasses.dataclass(frozen=True)
class Row:
    """The result and the cost of one method; sizes in bytes. before, after: the validation, see `Task`."""

    method: str
    trained: int
    before: dict[str, float]
    after: dict[str, float]
    weights: int
    moments: int
    peak: int
    milliseconds: float


def compare(configs: Sequence[LoRARunConfig], device: str = "cpu") -> list[Row] | None:
    """Run the methods one after the other, each in a folder of its own. Returns None if Ctrl-C stopped one of them.

    Finished runs are not repeated. Raises FileExistsError if a folder holds a run with other settings, and what `start`
    and `resume` raise.
    """
    rows = []
    for config in configs:
        show(f"\n=== {config.method}, in {config.out_dir}")
        row_path = Path(config.out_dir) / ROW
        has_run = has_checkpoint(config.out_dir)
        if has_run:
            _check_same(config)
        if has_run and row_path.exists():
            show("finished already")
        else:
            run = start_or_resume(train_lora, config, device)
            if run.asked_to_stop:
                return None
            write_text(row_path, json.dumps(dataclasses.asdict(_measured(run, config)), indent=1))
        rows.append(Row(**parse_json(read_text(row_path), str(row_path))))
    return rows


def _check_same(config: LoRARunConfig) -> None:
    found = dict(vars(settings_of(LoRARunConfig, config.out_dir)))
    # The embeddings may have been added to what is trained.
    found["lora"] = dataclasses.replace(found["lora"], modules_to_save=config.lora.modules_to_save)
    for name, value in vars(config).items():
        if value != found[name]:
            raise FileExistsError(f"{config.out_dir} holds a run with another {name}: choose another --out-dir")


def _measured(run: Run, config: LoRARunConfig) -> Row:
    held = held_bytes(run.model, run.optimizer)
    milliseconds = statistics.median(row["ms"] for row in read_log(run.log.path) if "ms" in row)
    loss_fn = sft_loss if is_conversations(config.data) else language_model_loss

    def take_step() -> None:
        run.step(run.draw(), loss_fn)

    trained = run.model.num_parameters(trainable_only=True)
    before = run.before["scores"]
    after = run.after["scores"]
    peak = sum(held.values()) + added_bytes(take_step)
    return Row(config.method, trained, before, after, held["weights"], held["optimizer"], peak, milliseconds)


def held_bytes(model: nn.Module, optimizer: Optimizer | None = None) -> dict[str, int]:
    """Bytes of "weights" (buffers too, tied ones once), of the "gradients" that are there, and of "optimizer" state.

    >>> held_bytes(nn.Linear(10, 5))
    {'weights': 220, 'gradients': 0, 'optimizer': 0}
    """
    states = [] if optimizer is None else optimizer.state_dict()["state"].values()
    return {
        "weights": memory(model),
        "gradients": sum(p.grad.nbytes for p in model.parameters() if p.grad is not None),
        "optimizer": sum(value.nbytes for state in states for value in state.values() if hasattr(value, "nbytes")),
    }


def added_bytes(take_step: Callable[[], object]) -> int:
    """The most bytes that `take_step()` uses at one time, beside what is held before it.

    Python counts every allocation (tracemalloc); on the CPU only.
    """
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        take_step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before


def as_table(rows: Sequence[Row]) -> str:
    """The rows as a table with a header line."""
    extra = [name for name in LABELS if all(name in row.after for row in rows)]
    heads = ["trained", "before", "after", *(LABELS[name] for name in extra), "weights", "moments", "peak", "ms"]
    base = ["", "", f"{rows[0].before['val_loss']:.3f}", *(f"{rows[0].before[name]:.3f}" for name in extra)]
    table = [("method", heads), ("base", base)]
    for row in rows:
        losses = [row.before["val_loss"], row.after["val_loss"], *(row.after[name] for name in extra)]
        sizes = [f"{size / 1e6:.1f} MB" for size in (row.weights, row.moments, row.peak)]
        cells = [f"{row.trained:,}", *(f"{loss:.3f}" for loss in losses), *sizes, f"{row.milliseconds:.0f}"]
        table.append((row.method, cells))
    return "\n".join(f"{name:>8}" + "".join(f"{cell:>11}" for cell in cells) for name, cells in table)


LABELS = {"exact_match": "right", "own_text": "old text"}


def plot_comparison(configs: Sequence[LoRARunConfig], path: str | os.PathLike[str]) -> Path | None:
    """Draw the validation losses of all runs in one picture. Returns its path, or None without matplotlib."""
    runs = {config.method: config.out_dir for config in configs}
    title = "Fine-tuning: all weights, adapters, adapters beside 4 bits"
    return plot_runs(runs, {"val_loss": "validation loss (nats per token)"}, title, path, rows_with="val_loss")
