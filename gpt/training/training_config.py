"""The settings of training, and the optimizer and the learning-rate schedule that they describe."""

from __future__ import annotations

import dataclasses

from minigrad import nn, optim
from minigrad.muon import Muon, muon_groups

from ..ranges import check_ranges

PRECISIONS = ("float32", "tf32", "bfloat16")
OPTIMIZERS = ("adamw", "muon")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The settings of training. Intervals are in steps; eval_interval and sample_interval may be 0: never.

    learning_rate: the peak. The rate rises to it during the warm-up, the first `warmup_iters` steps, and then falls
    along a cosine to `min_lr_ratio` times the peak at `max_iters`. grad_clip: the largest gradient norm over all
    parameters (0: no clipping). gradient_accumulation_steps: batches per step, which count as one large batch.
    eval_interval: steps between evaluations, each with a checkpoint; the start and the end always have one. precision:
    of matrix products, "float32", "tf32" or "bfloat16" (see minigrad/precision.py). optimizer: "adamw", or "muon" for
    the matrices of the blocks with AdamW for the rest. momentum: Muon's; a run of a few hundred steps learns faster
    with less than the usual 0.95. checkpoint_activations: save memory, compute each block's activations twice (see
    minigrad/nn/activation_checkpointing.py). Raises ValueError for a value out of range.
    """

    max_iters: int = 1000
    learning_rate: float = 1e-3
    warmup_iters: int = 50
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    grad_clip: float = 1.0
    gradient_accumulation_steps: int = 1
    log_interval: int = 10
    eval_interval: int = 100
    sample_interval: int = 0
    precision: str = "float32"
    optimizer: str = "adamw"
    momentum: float = 0.95
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, ">= 1", "max_iters gradient_accumulation_steps log_interval")
        check_ranges(self, "a number >= 0", "warmup_iters eval_interval sample_interval")
        check_ranges(self, "a number >= 0", "grad_clip learning_rate weight_decay")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")


def prepare_training(model: nn.Module, config: TrainingConfig) -> tuple[optim.Optimizer, optim.WarmupCosine]:
    """The optimizer of all parameters that are not frozen, and its learning-rate schedule.

    With `checkpoint_activations`, the model computes its activations twice from now on. Raises ValueError if all
    parameters are frozen.
    """
    if all(not p.requires_grad for p in model.parameters()):
        raise ValueError("there is nothing to train: all parameters are frozen")
    if config.checkpoint_activations:
        nn.checkpoint_activations(model)
    named, decay, betas = model.named_parameters(), config.weight_decay, (config.beta1, config.beta2)
    optimizer: optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = optim.AdamW(optim.decay_groups(named, decay), lr=config.learning_rate, betas=betas)
    else:
        blocks = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
        groups = muon_groups(named, blocks.parameters(), decay)
        optimizer = Muon(groups, lr=config.learning_rate, momentum=config.momentum, betas=betas)
    warmup = min(config.warmup_iters, config.max_iters)
    return optimizer, optim.WarmupCosine(optimizer, warmup, config.max_iters, config.min_lr_ratio)
