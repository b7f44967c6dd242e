"""Instruction tuning: a base model continues any text; after this stage it answers questions, and then stops.

The idea: pretraining's loss on conversations, but only on what the assistant says (finetune/objectives/sft.py):

    loss = -Σ_t ln p(token_t | the tokens before it)         t: the assistant's tokens

    <|im_start|>user
    Add 2 and 3.<|im_end|>
    <|im_start|>assistant
    5<|im_end|>                                              learned from: 5 and <|im_end|>

The model answers held-out questions before and after training. It learns the format of an answer, and to do tasks of
the kinds that it has seen. It does not learn facts: its answers to questions of general knowledge do not improve.
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
from ..objectives.sft import Conversation, collate, encode_examples, packed_sft_loss

TRAIN_ITEMS, TEST_ITEMS = 20_000, 400
VALIDATION_ITEMS = 80  # test questions that are asked at each evaluation: see COLUMNS


@dataclasses.dataclass(frozen=True)
class SFTConfig(Checked):
    """The settings of an instruction-tuning run. Of a file in `data`, the last tenth is held out."""

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
    # Load conversations and the model. A resumed run finds both in its folder.
    if run.is_new:
        examples, test_examples = load_data(config.data, config.seed)
        model, tokenizer = load_model(config.init_from, trainable=True)
        added = add_chat_tokens(model, tokenizer)
        start = f"starting from the weights in {config.init_from}, {added} tokens added"
        show(f"{start}: {model.num_parameters():,} parameters")
        run.begin(model, tokenizer)
        run.keep_data(train=examples, test=test_examples)
    else:
        model, tokenizer = run.load()
        examples, test_examples = run.load_data(read_examples)
    test_examples = test_examples[: run.state.max_eval_items]  # a short run tests on fewer (gpt/training/run_state.py)

    # The data: conversations as tokens, in shuffled batches.
    template = ChatTemplate(tokenizer)
    conversations, shortened = encode_examples(examples, template, model.config.block_size)
    test_conversations, _ = encode_examples(test_examples, template, model.config.block_size)
    batches = ShuffledBatches(conversations, config.batch_size, collate, config.seed)
    show_data("conversations", conversations, test_conversations, shortened)
    _show_what_is_learned(conversations, template.marked(examples[0].messages, examples[0].completion))
    run.explain_columns(COLUMNS)

    # The test: the model's answers to held-out questions, before training and after it.
    # tasks: the same questions in the same order as in test_examples, each with a checker. Replies to questions from a
    # file cannot be checked: they are only shown, and `tasks` is empty. n_tasks: a third, because `measure_following`
    # asks in three templates.
    n_tasks = min(len(test_examples), run.state.max_eval_items // 3)
    tasks = instruction_tasks("test", n_tasks, config.seed) if config.data == TASKS else []

    # {"replies": ..., and if there are tasks, also their scores}
    def measure() -> dict[str, Any]:
        if tasks:
            return measure_following(model, tokenizer, tasks)
        questions = [example.question for example in test_examples[:SHOWN]]
        return {"replies": greedy_replies(model, tokenizer, questions, max_new_tokens=60)}

    run.measure_before(measure)
    validate = partial(validate_answers, run, model, tokenizer, test_conversations, tasks[:VALIDATION_ITEMS])

    # Training: each step makes the assistant's tokens more likely.
    run.prepare(model, config.training)  # the optimizer, and the schedule of its learning rate
    model.train()
    train(run, batches, one_step(run, packed_sft_loss), validate)  # the loop: gpt/training/training_loop.py

    # The report: the same questions again.
    if not run.interrupted:
        run.after = measure()
        if tasks:
            show_scores(run.before, run.after)
        show_replies(run.before["replies"], run.after["replies"], right_answers(test_examples))
        shares = ("exact_match", "format") if tasks else ("mean_token_accuracy",)
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
    conversations: Sequence[Conversation],
    tasks: Sequence[TaskItem],
) -> dict[str, float]:
    """The loss on held-out conversations, and the share of tasks, if there are any, that are done correctly."""
    metrics = evaluate(model, batches_of(conversations, run.config.batch_size, collate), packed_sft_loss, run.team)
    metrics = {"val_loss": metrics.pop("loss"), **metrics}  # renamed: `pop` runs before the others are copied
    if tasks:
        metrics |= run.team.once(partial(ask_and_score, model, tokenizer, tasks))  # on one process only
    return metrics


def _show_what_is_learned(conversations: Sequence[Conversation], marked: str) -> None:
    """Show how many tokens are the assistant's, and the first conversation with these tokens marked."""
    tokens = sum(len(ids) for ids, _ in conversations)
    learned = sum(sum(mask) for _, mask in conversations)
    show(f"{learned:,} of {tokens:,} tokens are the assistant's and are learned from")
    show(f"\nThe first conversation, with what is learned from in brackets:\n{marked}")
