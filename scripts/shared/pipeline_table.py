"""The table at the end of the pipeline: the models of all stages, measured in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.built_in.tasks import instruction_tasks
from finetune.data.chat_template import add_chat_tokens
from finetune.evaluation.answering import ask, chat_template, scores, shorten
from finetune.evaluation.judge import judge, qualities, quality_rates, sampled
from finetune.quantization import memory
from gpt import LanguageModel, Tokenizer
from gpt.console import show
from gpt.training.batches import sequential_batches
from gpt.training.evaluation import mean_loss

TEXT_TOKENS = 4096  # as COLUMNS says

COLUMNS = """\
    seconds  of training
  text loss  nats per token on the first 4,096 tokens of pretraining's held-out text: what is forgotten shows here
     format  share of held-out questions answered in the form that was taught, right or wrong (most likely reply)
      right  share answered rightly (most likely reply)
  courteous  share answered rightly and courteously, which is what was preferred (replies at temperature 1)
    against  how often these replies are better than the sft model's: right counts first, courtesy second, draws half
         KL  how far the model has moved from the sft model, in nats per reply
         MB  megabytes of weights in memory"""


def measure(
    model: LanguageModel,
    tokenizer: Tokenizer,
    reference: LanguageModel | None,
    tokens: np.ndarray,
    seed: int,
    questions: int = 300,
) -> dict[str, Any]:
    """A row of the table, JSON-able; reference: the model before preferences, or None for the stages up to it."""
    text_loss = mean_loss(model, sequential_batches(tokens[:TEXT_TOKENS], 16, model.config.block_size))
    add_chat_tokens(model, tokenizer)  # to a base model
    items = instruction_tasks("test", questions, seed)
    replies = ask(model, tokenizer, [item.question for item in items], chat_template(tokenizer))
    found = scores(items, replies)
    row: dict[str, Any] = {"text loss": text_loss, "format": found["format"], "right": found["exact_match"]}
    row |= {"MB": memory(model) / 1e6, "asked": items[0].prompt, "reply": replies[0].text}
    if reference is None:
        return row | {"courteous": quality_rates(qualities(items, sampled(model, tokenizer, items, seed)))["courteous"]}
    _, verdict = judge(model, reference, tokenizer, items, seed)
    return row | {"courteous": verdict.courteous, "against": verdict.win_rate, "KL": verdict.kl}


_FORMATS = {"seconds": ".0f", "text loss": ".3f", "KL": ".2f", "MB": ".1f"}  # the others are shares


def show_table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table: a row for each stage."""
    names = ["seconds", "text loss", "format", "right", "courteous", "against", "KL", "MB"]
    show(f"{'stage':12}" + "".join(f"{name:>11}" for name in names))
    for stage, row in rows.items():
        cells = [format(row[name], _FORMATS.get(name, ".1%")) if name in row else "" for name in names]
        line = f"{stage:12}" + "".join(f"{cell:>11}" for cell in cells)
        show(f"{line.rstrip()}  {row.get('note', '')}".rstrip())


def show_samples(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what each stage's model replies to the same question."""
    written = {stage: row for stage, row in rows.items() if "reply" in row}
    show(f"\n{'asked':>12} | {shorten(next(iter(written.values()))['asked'])}")
    for stage, row in written.items():
        show(f"{stage:>12} | {shorten(row['reply'], 80)}")
