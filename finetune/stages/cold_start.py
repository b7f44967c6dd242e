"""What GRPO starts from: a new small model that has learned from worked examples. And its control: more of them.

In half of the worked examples the writer thinks first, and in half the answer comes at once.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gpt import GPT, GPTConfig, LanguageModel, Tokenizer
from gpt.console import progress_bar, show
from gpt.training.checkpoint import save_checkpoint
from gpt.training.loading import load_model
from gpt.training.run import Run
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_loop import one_step, train, train_textbook

from ..built_in.chains import chains, worked_examples
from ..data.chat_template import ChatTemplate, add_chat_tokens
from ..data.datasets import Example, ShuffledBatches
from ..evaluation.pass_at_k import MEASURES
from ..objectives.sft import collate, encode_examples, sft_loss

WORKED = "worked"  # init_from: first train a new small model on worked examples
WORKED_EXAMPLES, TRAIN_ITEMS, TEST_ITEMS = 1000, 5000, 200
THINKING = 0.5  # share of the worked examples with a thought
BATCH_SIZE = 32  # conversations
CONTROL_STEPS = 4  # steps of instruction tuning that take as long as GRPO's rollout and one of its steps


def cold_start_model(examples: Sequence[Example], seed: int, steps: int) -> tuple[GPT, Tokenizer]:
    """A new small model that has learned from worked examples, in half a minute, and its tokenizer."""
    # The vocabulary: 256 bytes, and 17 merges for the words that every conversation has. Each digit is a token.
    tokenizer = Tokenizer.train(["user assistant think </ " * 2], 256 + 17, special_tokens=())
    model = GPT(GPTConfig(vocab_size=len(tokenizer), block_size=64, n_layer=2, n_head=4, n_embd=64))
    add_chat_tokens(model, tokenizer)
    conversations, _ = encode_examples(examples, ChatTemplate(tokenizer), model.config.block_size)
    config = TrainingConfig(max_iters=steps, learning_rate=3e-3, warmup_iters=steps // 10)
    stream = ShuffledBatches(conversations, BATCH_SIZE, collate, seed)
    optimizer, schedule = prepare_training(model, config)
    started = time.perf_counter()
    with progress_bar(steps, "learning from worked examples", "step") as bar:

        def drawn() -> Iterator[Any]:
            for batch in stream:
                bar.update(1)
                yield batch

        losses = train_textbook(model, drawn(), sft_loss, optimizer, schedule, steps, config.grad_clip)
    learned = f"{len(examples):,} worked examples: loss {losses[-1]:.3f}, {time.perf_counter() - started:.0f} s"
    show(f"a new model of {model.num_parameters():,} parameters has learned from {learned}")
    return model, tokenizer


def load_chains(terms: int, seed: int) -> tuple[list[Example], list[Example], list[Example]]:
    """Worked examples, questions to learn from, and questions to test on."""
    worked = worked_examples(chains("train", WORKED_EXAMPLES, terms, seed + 1), THINKING)
    train, test = chains("train", TRAIN_ITEMS, terms, seed + 2), chains("test", TEST_ITEMS, terms, seed)
    return worked, [item.example() for item in train], [item.example() for item in test]


def starting_model(run: Run, worked: Sequence[Example]) -> tuple[LanguageModel, Tokenizer]:
    """The model `init_from`; for "worked", a new one, which is kept as it is before the first step of GRPO.

    Other runs can start from it, and a KL penalty needs it.
    """
    config = run.config
    if config.init_from != WORKED:
        return load_model(config.init_from, trainable=True)
    run.make_folder()
    model, tokenizer = cold_start_model(worked, config.seed, config.sft_steps)
    tokenizer.save(run.out_dir / WORKED)
    save_checkpoint(run.out_dir / WORKED, model)  # last: with it the folder is complete
    return model, tokenizer


def reference_model(run: Run) -> LanguageModel:
    """The model at the start of training, which stays as it is. Raises CheckpointError if it has changed since."""
    source = run.config.init_from
    if source == WORKED:
        source = str(run.out_dir / WORKED)
    reference = load_model(source)[0].to(run.device)
    run.check_unchanged("reference", reference, source)
    return reference.eval()


def learn_from_examples(
    run: Run,
    model: LanguageModel,
    tokenizer: Tokenizer,
    worked: Sequence[Example],
    validate: Callable[[], dict[str, float]],
) -> None:
    """The loop of the control: instruction tuning on the worked examples, in about the time that GRPO would need."""
    grpo, training = run.config.grpo, run.config.training
    steps = grpo.num_mini_batches * CONTROL_STEPS  # as many as take the time of an iteration of GRPO
    control = dataclasses.replace(
        training,
        max_iters=steps * grpo.total_iterations,
        eval_interval=steps * training.eval_interval,
        log_interval=steps,
    )
    conversations, _ = encode_examples(worked, ChatTemplate(tokenizer), model.config.block_size)
    batches = ShuffledBatches(conversations, BATCH_SIZE, collate, run.config.seed)
    show(f"data: {len(worked):,} worked examples to learn from")
    run.explain_columns(f"       loss  of the worked examples' answers\n{MEASURES}")
    run.prepare(model, control)
    model.train()
    train(run, batches, one_step(run, sft_loss), validate)
