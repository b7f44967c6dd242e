"""Merging: the adapters of a run become a part of the base model's weights, W <- W + (lora_alpha / r) B A."""

from __future__ import annotations

import dataclasses

from gpt import Tokenizer
from gpt.console import show
from gpt.files import StrPath
from gpt.model.language_model import LanguageModel
from gpt.training.checkpoint import load_checkpoint, save_checkpoint
from gpt.training.loading import NotTrainableError, load_model
from gpt.training.run_folder import check_unused, new_folder
from gpt.training.run_state import settings_of

from ..adapters.applying import lora_layers
from ..adapters.merging import merge_lora, why_not_mergeable
from .lora_model import LoRARunConfig, adapt, adapter_format


def merge_run(run_dir: StrPath, out_dir: StrPath) -> None:
    """Merge the adapters of a run into its base model and save the result in `out_dir`.

    Raises CheckpointError if there is no such run, FileExistsError if `out_dir` is in use, ValueError for method "full"
    and for adapters that cannot be merged.
    """
    if settings_of(LoRARunConfig, str(run_dir)).method == "full":
        raise ValueError(f"the run in {run_dir} trained all weights: it has no adapters to merge, use it as it is")
    check_unused(out_dir, can_resume=False)
    model, tokenizer = load_merged(run_dir)
    if lora_layers(model):  # still there: they could not be merged
        raise NotTrainableError(run_dir)
    with new_folder(out_dir, can_resume=False):
        tokenizer.save(out_dir)
        save_checkpoint(out_dir, model)


def load_merged(run_dir: StrPath) -> tuple[LanguageModel, Tokenizer]:
    """The model of a run of adapters, merged into the float weights of its base model, and its tokenizer.

    4 bits cannot represent the sum. So where the base has only quantized weights, the adapters stay beside them.
    `load_model` calls this for runs of adapters (finetune/loading.py).
    """
    model = float_model_of(str(run_dir))
    if why_not_mergeable(model) is None:
        merge_lora(model)  # W <- W + (lora_alpha / r) B A
        if settings_of(LoRARunConfig, str(run_dir)).beside_quantized:
            show("note: the adapters were trained beside 4-bit weights, and are now in the float ones")
    return model.eval(), Tokenizer.load(run_dir)


def float_model_of(run_dir: str) -> LanguageModel:
    """The model of a run with its adapters on float weights, even if they were trained on quantized weights."""
    config = settings_of(LoRARunConfig, run_dir)
    trained = load_checkpoint(run_dir, with_optimizer=False, format=adapter_format(config)).model
    if not config.beside_quantized:
        return trained
    # The float base model with adapters of the same shape, which get the trained numbers.
    model, _ = load_model(config.init_from)
    adapt(model, dataclasses.replace(config, method="lora"), trained.config.vocab_size)
    learned = dict(trained.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = learned[name].data
    return model
