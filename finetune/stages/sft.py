"""A run of instruction tuning: from a base model to a model that answers, with measurements of what has changed.

    loss = -Σ_t ln p(token_t | the tokens before it), over the assistant's tokens    (finetune/objectives/sft.py)

Before and after training, the model answers held-out questions, whose wording and words do not occur in the training
data, three times: in the chat template, without it, and in another model's template. Questions of general knowledge
come on top. These do not improve: instruction tuning teaches the format, not the knowledge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

from gpt import LanguageModel, Tokenizer
from gpt.console import show
from gpt.settings import Checked, nested, setting
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.plots import plot_run
from gpt.training.run import Run
from gpt.training.training_config import TrainingConfig
from gpt.training.training_loop import one_step, train

from ..built_in.tasks import TASKS, TaskItem, instruction_examples, instruction_tasks
from ..data.chat_template import ChatTemplate, add_chat_tokens
from ..data.datasets import Example, ShuffledBatches, batches_of, hold_out, read_examples, show_data
from ..evaluation.answering import (
    SHOWN,
    ask_and_score,
    greedy_replies,
    measure_following,
    right_answers,
    show_replies,
    show_scores,
)
from ..objectives.sft import Conversation, collate, encode_examples, sft_loss

TRAIN_ITEMS, TEST_ITEMS = 20_000, 400
VALIDATION_ITEMS = 80  # test items that are asked at each evaluation, as the legend of the columns says


@dataclasses.dataclass(frozen=True)
class SFTConfig(Checked):
    """The settings of an instruction-tuning run. data: for `read_examples`; the last tenth of a file is held out."""

    stage = "sft"

    init_from: str = "runs/demo"
    data: str = setting(TASKS, "tasks (built-in questions), or a file of conversations, in one of four formats")
    out_dir: str = "runs/sft"
    batch_size: int = setting(32, "conversations per batch", "in [1, 65536]")
    seed: int = 1337
    training: TrainingConfig = nested(
        TrainingConfig, max_iters=800, warmup_iters=40, weight_decay=0.0, eval_interval=150, log_interval=20
    )


COLUMNS = """\
                 loss  of the assistant's tokens only; all others are masked
  mean_token_accuracy  how often the most likely token is the right one
             tokens/s  tokens learned from, per second: a few of each conversation
          exact match  share of up to 80 held-out questions answered with the right words, nothing more, and <|im_end|>
               format  share of replies that look like an answer, right or wrong, and then end"""


def train_sft(run: Run, config: SFTConfig) -> None:
    """Tune a language model on conversations. The chat tokens are added to its vocabulary."""
    # The model, and conversations. (The data first: if a file cannot be read, you should not wait for the model.)
    # held_out: the test conversations. tests: the same as tokens. items: built-in questions with a checker.
    if run.is_new:
        examples, held_out = load_data(config.data, config.seed)
        model, tokenizer = load_model(config.init_from, trainable=True)
        added = add_chat_tokens(model, tokenizer)
        n = model.num_parameters()
        show(f"starting from the weights in {config.init_from}, {added} tokens added: {n:,} parameters")
        run.begin(model, tokenizer)
        run.keep_data(train=examples, test=held_out)
    else:
        model, tokenizer = run.load()
        examples, held_out = run.load_data(read_examples)
    held_out = held_out[: run.state.max_eval_items]

    # The conversations as tokens. The loss is only of the assistant's tokens; all others are masked.
    template = ChatTemplate(tokenizer)
    conversations, shortened = encode_examples(examples, template, model.config.block_size)
    tests, _ = encode_examples(held_out, template, model.config.block_size)
    batches = ShuffledBatches(conversations, config.batch_size, collate, config.seed)
    show_data("conversations", conversations, tests, shortened)
    _show_what_is_learned(conversations, template.marked(examples[0].messages, examples[0].completion))
    run.explain_columns(COLUMNS)

    # The test, before training and after it: held-out questions; general knowledge comes on top.
    n_items = min(len(held_out), run.state.max_eval_items // 3)  # a third, because each is asked three times
    # The built-in questions again, made from the same seed, with a checker.
    items = instruction_tasks("test", n_items, config.seed) if config.data == TASKS else []
    # Code cannot check replies to questions from a file: they are only shown.
    questions = [example.question for example in held_out[:SHOWN]]

    def measure() -> dict[str, Any]:
        if items:
            return measure_following(model, tokenizer, items)
        return {"replies": greedy_replies(model, tokenizer, questions, max_new_tokens=60)}

    run.measure_before(measure)

    # Training: each step makes the assistant's tokens more likely.
    run.prepare(model, config.training)
    model.train()
    validate = partial(validate_answers, run, model, tokenizer, tests, items[:VALIDATION_ITEMS])
    train(run, batches, one_step(run, sft_loss), validate)

    # The report: the same questions again.
    if not run.interrupted:
        run.after = measure()
        if items:
            show_scores(run.before, run.after)
        show_replies(run.before["replies"], run.after["replies"], right_answers(held_out))
        shares = ("exact_match", "format") if items else ("mean_token_accuracy",)
        run.report(plot_run(run.out_dir, "Learning to answer", shares=shares))


def load_data(data: str, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and test conversations: the built-in ones of a seed, or those of a file with the last tenth held out."""
    if data == TASKS:
        return instruction_examples("train", TRAIN_ITEMS, seed), instruction_examples("test", TEST_ITEMS, seed)
    return hold_out(read_examples(data), data, "conversation")


def validate_answers(
    run: Run,
    model: LanguageModel,
    tokenizer: Tokenizer,
    tests: Sequence[Conversation],
    items: Sequence[TaskItem],
) -> dict[str, float]:
    """The loss on conversations, and the share of questions, if there are any, that are answered correctly."""
    metrics = evaluate(model, batches_of(tests, run.config.batch_size, collate), sft_loss, run.team)
    metrics = {"val_loss": metrics.pop("loss"), **metrics}
    if items:
        metrics |= run.team.once(partial(ask_and_score, model, tokenizer, items))  # on one process only
    return metrics


def _show_what_is_learned(conversations: Sequence[Conversation], marked: str) -> None:
    """Show how many tokens are the assistant's, and the first conversation with these tokens marked."""
    tokens = sum(len(ids) for ids, _ in conversations)
    learned = sum(sum(mask) for _, mask in conversations)
    show(f"{learned:,} of {tokens:,} tokens are the assistant's and are learned from")
    show(f"\nThe first conversation, with what is learned from in brackets:\n{marked}")
