"""LoRA and two other ways to fine-tune a model: how much of it has to change to learn something new?

The idea: the model of pretraining, its loop and its loss, but other data; and not all weights are trained.

    full     W                          all weights are trained
    lora     W + scaling * B A          W is frozen; A and B, which are small, are trained       (adapters/lora.py)
    qlora    the same with W in 4 bits

The data are a text, with the loss of pretraining, or conversations, with that of instruction tuning (sft.py). What the
model knew before may be forgotten, so the loss on its old text is measured as well. A checkpoint holds only what is
trained (lora_model.py).
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from gpt import Tokenizer
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
    # Load conversations (there are none if the data are a text) and the model. A resumed run finds both in its folder.
    examples, test_examples = read_data(run)
    if run.is_new:
        model, tokenizer = base_model(config)
        if examples:
            # If the tokens are new, the embedding and `lm_head` are then trained as a whole.
            config = _add_chat_tokens(config, model, tokenizer)
        # Freeze the weights and put adapters beside them, or, for the method "full", leave all weights to be trained.
        adapt(model, config, len(tokenizer))
        run.begin(model, tokenizer, adapter_format(config), config)
        # total: of the base model. With adapters, the model has more.
        total, trained = model.config.num_parameters(), model.num_parameters(trainable_only=True)
        share = f"of {total:,} parameters, {trained:,} ({trained / total:.1%} as many) are trained"
        show(f"starting from the weights in {config.init_from}; {share}")
    else:
        model, tokenizer = run.load(adapter_format(config))
        _remove_adapter(run.out_dir / ADAPTER)

    # The data: conversations to answer, or a text to continue. A task (lora_data.py) has batches, a loss_fn (that
    # of sft.py or of pretraining), and validate(whole): of a long text on all of it, or on a sample.
    if examples:
        task = conversations_task(run, model, tokenizer, examples, test_examples)
    else:
        task = text_task(run, model, tokenizer)
    show(f"data: {task.size}")

    # The test, before training and after it: held-out data, the old text, which is of the kind that the base model was
    # trained on, and replies to some held-out conversations.
    shown = test_examples[:SHOWN]

    def measure() -> dict[str, Any]:
        scores = task.validate(whole=True)
        scores |= loss_on_own_text(model, config.init_from, run.state.max_eval_items)
        replies = {}
        if shown:  # a model for plain text may have no chat template
            replies = greedy_replies(model, tokenizer, [example.question for example in shown], REPLY_TOKENS)
        return {"scores": scores, "replies": replies}

    run.measure_before(measure)
    validate = partial(task.validate, whole=False)
    sample = partial(show_sample, model, tokenizer, PROMPTS.get(config.data, "The"), 60, config.seed)

    # Training: the same step as in pretraining. What is frozen has no gradient.
    run.prepare(model, config.training)  # the optimizer, and the schedule of its learning rate
    model.train()
    train(run, task.batches, one_step(run, task.loss_fn), validate, None if examples else sample)

    # The report: the same measurements again. And for adapters the files of PEFT.
    if not run.interrupted:
        run.after = measure()
        if shown:
            show("\nReplies before and after (the most likely ones):")
            show_replies(run.before["replies"], run.after["replies"], right_answers(shown))
        _show_change(run.before["scores"], run.after["scores"])
        run.report(plot_run(run.out_dir, "Fine-tuning"))
        if config.method != "full":
            _export_adapter(run, config.init_from)


def _add_chat_tokens(config: LoRARunConfig, model: LanguageModel, tokenizer: Tokenizer) -> LoRARunConfig:
    """Add the tokens of the chat template. If they are new, returns settings by which the embedding and `lm_head` are
    trained as a whole: new tokens can only be learned there.
    """
    if not add_chatml(tokenizer):
        return config
    whole = tuple(dict.fromkeys([*config.lora.modules_to_save, model.names.embeddings[0], "lm_head"]))
    return dataclasses.replace(config, lora=dataclasses.replace(config.lora, modules_to_save=whole))


def _show_change(before: dict[str, float], after: dict[str, float]) -> None:
    show(f"\n{'':>24}{'before':>10}{'after':>10}")
    for name, value in after.items():
        if name in before:
            show(f"{LABELS.get(name, name):>24}{before[name]:>10.3f}{value:>10.3f}")


def _remove_adapter(folder: Path) -> None:
    """Remove the settings of the adapter that a run has exported at an earlier step: without them nobody loads it."""
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
