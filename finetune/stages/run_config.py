"""The settings that all stages have in common."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar

from gpt.settings import Checked, nested, setting
from gpt.training.training_config import TrainingConfig

from ..built_in.tasks import TASKS

BATCH_SIZES = "in [1, 65536]"
PAIRS = "tasks (built-in questions), or a file of preference pairs (prompt, chosen, rejected)"  # help of `data`

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
    batch_size: int = setting(32, "items per batch", BATCH_SIZES)
    seed: int = 1337
    training: TrainingConfig = fine_tuning()
