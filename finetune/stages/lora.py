"""Three ways to fine-tune a model: all weights ("full"), adapters ("lora"), adapters on 4-bit weights ("qlora").

    full     W changes
    lora     W + (lora_alpha / r) B A, and only A and B change; B starts at 0      (finetune/adapters/lora.py)
    qlora    the same with W in 4 bits

The training loop is that of pretraining. The data and the loss are those of pretraining (a text) or of instruction
tuning (conversations). The methods differ in which parameters need a gradient, and in what a checkpoint holds
(lora_model.py).
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from gpt.console import show
from gpt.model.language_model import LanguageModel
from gpt.training.plots import plot_run
from gpt.training.pretraining_parts import show_sample
from gpt.training.run import Run
from gpt.training.training_loop import one_step, train

from ..adapters.adapter_files import CONFIG, save_adapter
from ..data.chat_template import add_chatml
from ..evaluation.answering import SHOWN, greedy_replies, right_answers, show_replies
from .lora_data import conversations_task, loss_on_own_text, read_data, text_task
from .lora_model import LoRARunConfig, adapt, adapter_format, base_model

ADAPTER = "adapter"  # the folder of PEFT's files, in that of a run
REPLY_TOKENS = 40  # length of the replies that are shown
PROMPTS = {"python": "import os\n\ndef"}  # what samples begin with, by corpus; "The" for all others
LABELS = {
    "val_loss": "validation loss",
    "own_text": "loss on its old text",
    "mean_token_accuracy": "mean token accuracy",
    "exact_match": "exact match",
}


def train_lora(run: Run, config: LoRARunConfig) -> None:
    """Fine-tune a model with the `method` in its settings, on a text or on conversations."""
    # The data, before the model: if a file cannot be read, you should not wait for the model. `examples` is empty for a
    # text.
    examples, held_out = read_data(run)

    # The model.
    if run.is_new:
        model, tokenizer = base_model(config)
        new_tokens = add_chatml(tokenizer) if examples else 0
        if new_tokens:  # their rows of the embedding have to be trained
            config = _with_embeddings(config, model)
        # By config.method, all weights are trained, or adapters beside them, or adapters beside the weights in 4 bits.
        adapt(model, config, len(tokenizer))
        # adapter_format: what a checkpoint stores, the whole model or only what is trained. config may have changed:
        # run.begin saves it; a resumed run reads it.
        run.begin(model, tokenizer, adapter_format(config), config)
        total, trained = model.config.num_parameters(), model.num_parameters(trainable_only=True)
        share = f"of {total:,} parameters, {trained:,} ({trained / total:.1%} as many) are trained"
        show(f"starting from the weights in {config.init_from}; {share}")
    else:
        model, tokenizer = run.load(adapter_format(config))

    # The task: conversations to answer, or a text to continue. It has batches, loss_fn, validate, size (lora_data.py).
    if examples:
        task = conversations_task(run, model, tokenizer, examples, held_out)
    else:
        task = text_task(run, model, tokenizer)
    show(f"data: {task.size}")

    # The test, before training and after it: held-out data, and text of the kind that the base model was trained on,
    # which it may forget. Of conversations, the replies to some held-out ones are shown.
    shown = held_out[:SHOWN]

    def measure() -> dict[str, Any]:
        scores = {**task.validate(whole=True), **loss_on_own_text(model, config.init_from, run.state.max_eval_items)}
        if not shown:  # a model for plain text may have no chat template
            return {"scores": scores, "replies": {}}
        questions = [example.question for example in shown]
        return {"scores": scores, "replies": greedy_replies(model, tokenizer, questions, REPLY_TOKENS)}

    run.measure_before(measure)

    # A resumed run may have exported its adapter for PEFT at an earlier step, which is now out of date.
    _remove_adapter(run.out_dir / ADAPTER)

    # Training: the same step as in pretraining. Only A and B, or all weights, have gradients and Adam's moments.
    sample = partial(show_sample, model, tokenizer, PROMPTS.get(config.data, "The"), 60, config.seed)
    validate = partial(task.validate, whole=False)
    run.prepare(model, config.training)
    model.train()
    train(run, task.batches, one_step(run, task.loss_fn), validate, None if examples else sample)

    # The report, and for adapters the files of PEFT.
    if not run.interrupted:
        run.after = measure()
        if shown:
            show("\nReplies before and after (the most likely ones):")
            show_replies(run.before["replies"], run.after["replies"], right_answers(shown))
        _show_change(run.before["scores"], run.after["scores"])
        run.report(plot_run(run.out_dir, "Fine-tuning"))
        if config.method != "full":
            _export_adapter(run, config.init_from)


def _with_embeddings(config: LoRARunConfig, model: LanguageModel) -> LoRARunConfig:
    """The settings, with the embedding and `lm_head` among what is trained: new tokens can only be learned there."""
    whole = tuple(dict.fromkeys([*config.lora.modules_to_save, model.names.embeddings[0], "lm_head"]))
    return dataclasses.replace(config, lora=dataclasses.replace(config.lora, modules_to_save=whole))


def _show_change(before: dict[str, float], after: dict[str, float]) -> None:
    show(f"\n{'':>24}{'before':>10}{'after':>10}")
    for name, value in after.items():
        if name in before:
            show(f"{LABELS.get(name, name):>24}{before[name]:>10.3f}{value:>10.3f}")


def _remove_adapter(folder: Path) -> None:
    """Remove the settings of an adapter, if there are any: without them nobody loads it."""
    settings = folder / CONFIG
    if settings.exists():
        settings.unlink()
        show(f"the adapter in {folder} is of an earlier step: removed, and written again when the run ends")


def _export_adapter(run: Run, init_from: str) -> None:
    """Write the adapter of a finished run as PEFT's files."""
    folder = run.out_dir / ADAPTER
    save_adapter(run.model, folder, init_from)
    size = sum(path.stat().st_size for path in folder.iterdir())
    show(f"adapter for PEFT: {folder} ({size / 1e6:.2f} MB)")
