"""A new small model that has learned from worked examples, whose writers think in half of the cases."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from gpt import GPT, GPTConfig, Tokenizer
from gpt.console import progress_bar, show
from gpt.training.training_config import TrainingConfig
from gpt.training.training_step import training_steps

from ..data.chat_template import ChatTemplate, add_chat_tokens
from ..data.datasets import Example, ShuffledBatches
from ..objectives.sft import collate, encode_examples, sft_loss

SHAPE: dict[str, Any] = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 64}
BATCH_SIZE = 32  # conversations


def worked_model(examples: Sequence[Example], seed: int, steps: int) -> tuple[GPT, Tokenizer]:
    """A new small model that has learned from worked examples, in half a minute, and its tokenizer."""
    # The vocabulary: 256 bytes, and 17 merges for the words that every conversation has. Each digit is a token.
    tokenizer = Tokenizer.train(["user assistant think </ " * 2], 256 + 17, special_tokens=())
    model = GPT(GPTConfig(vocab_size=len(tokenizer), **SHAPE))
    add_chat_tokens(model, tokenizer)
    conversations, _ = encode_examples(examples, ChatTemplate(tokenizer), model.config.block_size)
    config = TrainingConfig(max_iters=steps, learning_rate=3e-3, warmup_iters=steps // 10)
    stream = ShuffledBatches(conversations, BATCH_SIZE, collate, seed)
    started = time.perf_counter()
    with progress_bar(steps, "learning from worked examples", "step") as bar:
        for step in training_steps(model, stream, sft_loss, config):
            bar.update(1)
            loss = step.loss
    show(
        f"a new model of {model.num_parameters():,} parameters has learned from {len(examples):,} worked examples: "
        f"loss {loss:.3f}, {time.perf_counter() - started:.0f} s"
    )
    return model, tokenizer
