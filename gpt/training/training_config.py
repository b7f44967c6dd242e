"""The settings of training, and the optimizer and the learning-rate schedule that they describe."""

from __future__ import annotations

import dataclasses
from typing import Any

from minigrad import nn, optim
from minigrad.muon import Muon, muon_groups

from ..settings import Checked, setting


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Checked):
    """The settings of training. Raises ValueError for a value out of range.

    The learning rate rises to its peak during the warm-up, and then falls along a cosine to `min_lr_ratio` times the
    peak at `max_iters`. The batches of a step, `gradient_accumulation_steps`, count as one large batch. The start and
    the end of a run always have a validation and a checkpoint. precision: see minigrad/precision.py. momentum: Muon's;
    a run of a few hundred steps learns faster with less than the usual 0.95. checkpoint_activations: see
    minigrad/nn/activation_checkpointing.py.
    """

    max_iters: int = setting(1000, "training steps", ">= 1")
    gradient_accumulation_steps: int = setting(1, "batches accumulated per step", ">= 1")
    log_interval: int = setting(10, "steps between log lines; steps of more than two seconds all have one", ">= 1")
    precision: str = setting("float32", "of matrix products; tf32 needs a GPU", choices=("float32", "tf32", "bfloat16"))
    learning_rate: float = setting(1e-3, "peak learning rate", ">= 0")
    warmup_iters: int = setting(50, "warm-up steps until the peak is reached")
    min_lr_ratio: float = 0.1
    weight_decay: float = setting(0.1, "weight decay of the matrices", ">= 0")
    beta1: float = 0.9
    beta2: float = 0.99
    grad_clip: float = setting(1.0, "largest gradient norm; 0 turns clipping off", ">= 0")
    eval_interval: int = setting(100, "steps between validations and checkpoints")
    optimizer: str = setting("adamw", "muon: for the blocks' matrices, AdamW for the rest", choices=("adamw", "muon"))
    momentum: float = 0.95
    checkpoint_activations: bool = setting(False, "save memory: backward computes each block again from its input")
    sample_interval: int = setting(0, "steps between text samples; 0: none")


def check_moments(state: dict[str, Any], optimizer: str) -> None:
    """Raise ValueError unless the `state` of a state_dict, from a file, is such as the optimizer leaves.

    The step is a number, everything else an array. A parameter that never had a gradient has nothing.
    """
    adam = {"step", "exp_avg", "exp_avg_sq"}
    kinds = [set(), adam] if optimizer == "adamw" else [set(), adam, {"momentum_buffer"}]
    for place, values in state.items():
        numbers = {name for name, value in values.items() if isinstance(value, int)}
        if set(values) not in kinds or numbers != values.keys() & {"step"}:
            raise ValueError(f"for parameter {place}, the saved state is not that of the optimizer {optimizer}")


def prepare_training(model: nn.Module, config: TrainingConfig) -> tuple[optim.Optimizer, optim.WarmupCosine]:
    """The optimizer of all parameters that are not frozen, and its learning-rate schedule.

    With `checkpoint_activations`, the model computes its activations twice from now on. Raises ValueError if all
    parameters are frozen.
    """
    if all(not p.requires_grad for p in model.parameters()):
        raise ValueError("there is nothing to train: all parameters are frozen")
    if config.checkpoint_activations:
        nn.checkpoint_activations(model)
    named = model.named_parameters()
    decay = config.weight_decay
    betas = (config.beta1, config.beta2)
    if config.optimizer == "adamw":
        optimizer = optim.AdamW(optim.decay_groups(named, decay), lr=config.learning_rate, betas=betas)
    else:
        blocks = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
        groups = muon_groups(named, blocks.parameters(), decay)
        optimizer = Muon(groups, lr=config.learning_rate, momentum=config.momentum, betas=betas)
    warmup = min(config.warmup_iters, config.max_iters)
    return optimizer, optim.WarmupCosine(optimizer, warmup, config.max_iters, config.min_lr_ratio)
