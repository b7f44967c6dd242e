"""The settings that all stages have in common, and the memory that a step on their batches takes."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar

from gpt.accounting import activation_bytes
from gpt.memory_check import check_memory
from gpt.settings import Checked, nested, setting
from gpt.training.training_config import TrainingConfig

from ..built_in.tasks import TASKS

SMALLEST_ITEM = 1000  # a lower bound of the bytes that an item of a batch takes
PAIRS = "tasks (built-in questions), or a file of preference pairs (prompt, chosen, rejected)"  # help of `data`
SHORTEST_ITEM = 8  # tokens of an item: fewer than in any realistic data


# The training of a stage, with other defaults: a trained model needs no weight decay.
fine_tuning = partial(nested, TrainingConfig, weight_decay=0.0)


@dataclasses.dataclass(frozen=True)
class RunConfig(Checked):
    """The settings that stages have in common. Each has its own defaults for them, and adds its own settings.

    stage: the name of the stage, stored in checkpoints. init_from: the model to start from
    (`gpt.training.loading.load_model`). data: a built-in set by its name, or a file.
    """

    stage: ClassVar[str]

    init_from: str = "runs/sft"
    data: str = TASKS
    out_dir: str = "runs/stage"
    batch_size: int = setting(32, "items per batch", ">= 1")
    seed: int = 1337
    training: TrainingConfig = fine_tuning()


def check_batch_memory(model: Any, batch_size: int, training: TrainingConfig) -> None:
    """Raise ValueError for batches that do not fit into this machine's memory together with the model."""
    needed = SMALLEST_ITEM * batch_size * training.gradient_accumulation_steps
    if all(parameter.requires_grad for parameter in model.parameters()):
        needed += activation_bytes(model.config, batch_size, SHORTEST_ITEM, kernels="fast")
    else:  # some frozen layers save nothing for backward: the tokens' hidden states in one MLP remain
        needed += 4 * batch_size * SHORTEST_ITEM * (model.config.n_embd + model.config.n_inner)
    check_memory(needed, f"a step on batches of {batch_size:,}")
