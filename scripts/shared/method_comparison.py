"""LoRA against full fine-tuning: the result and the cost of each method in one table.

The cost in memory is measured; the formulas for it are in `gpt.accounting`. Weights and Adam's moments are held from
step to step (`moment_bytes`). Activations, gradients, and what a kernel needs for a moment come and go in each step
(`added_bytes`).
"""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from finetune.objectives.sft import packed_sft_loss
from finetune.quantization import memory
from finetune.stages.lora_data import is_conversations
from finetune.stages.lora_model import LoRARunConfig
from gpt.training.log import read_log
from gpt.training.run import Run
from gpt.training.run_state import settings_of
from gpt.training.training_step import language_model_loss
from minigrad.optim import Optimizer
from scripts.shared.traced_memory import added_bytes

EXPLANATION = """\
     base   the model before fine-tuning
  trained   parameters that are learned
   before   the validation loss before training: with qlora, that of the 4-bit model
    after   and after it
 old text   the loss on text like that which the base model was trained on: how much it has forgotten
  weights   bytes of the model, adapters included; moments: of Adam's two averages
     peak   the most bytes in use at one time in a step: weights, moments, gradients, activations
       ms   per step, the median"""
LABELS = {"exact_match": "right", "own_text": "old text"}


def check_same(config: LoRARunConfig) -> None:
    """Raise FileExistsError if the run in the folder of these settings has others."""
    found = dict(vars(settings_of(LoRARunConfig, config.out_dir)))
    # The embeddings may have been added to what is trained.
    found["lora"] = dataclasses.replace(found["lora"], modules_to_save=config.lora.modules_to_save)
    for name, value in vars(config).items():
        if value != found[name]:
            raise FileExistsError(f"{config.out_dir} holds a run with another {name}: choose another --out-dir")


def measured(run: Run) -> dict[str, Any]:
    """The result and the cost of a finished run, as a row of the table; sizes in bytes."""
    config = run.config
    loss_fn = packed_sft_loss if is_conversations(config.data) else language_model_loss
    weights = memory(run.model)
    moments = moment_bytes(run.optimizer)
    return {
        "method": config.method,
        "trained": run.model.num_parameters(trainable_only=True),
        "before": run.before["scores"],
        "after": run.after["scores"],
        "weights": weights,
        "moments": moments,
        "peak": weights + moments + added_bytes(lambda: run.step(run.draw(), loss_fn)),
        "milliseconds": statistics.median(row["ms"] for row in read_log(run.log.path) if "ms" in row),
    }


def moment_bytes(optimizer: Optimizer) -> int:
    """Bytes of an optimizer's state."""
    states = optimizer.state_dict()["state"].values()
    return sum(value.nbytes for state in states for value in state.values() if hasattr(value, "nbytes"))


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table with a header line; first the base model."""
    extra = [name for name in LABELS if all(name in row["after"] for row in rows)]
    heads = ["trained", "before", "after", *(LABELS[name] for name in extra), "weights", "moments", "peak", "ms"]
    base = rows[0]["before"]
    table = [("method", heads), ("base", ["", "", *(f"{base[name]:.3f}" for name in ("val_loss", *extra))])]
    for row in rows:
        losses = [row["before"]["val_loss"], *(row["after"][name] for name in ("val_loss", *extra))]
        sizes = [f"{row[name] / 1e6:.1f} MB" for name in ("weights", "moments", "peak")]
        cells = [f"{row['trained']:,}", *(f"{loss:.3f}" for loss in losses), *sizes, f"{row['milliseconds']:.0f}"]
        table.append((row["method"], cells))
    return "\n".join(f"{name:>8}" + "".join(f"{cell:>11}" for cell in cells) for name, cells in table)
