"""Questions for reinforcement learning: which ones, and as prompts that leave room for a reply."""

from __future__ import annotations

from collections.abc import Sequence

from ..built_in.tasks import TASKS, instruction_examples
from .chat_template import ChatTemplate, without_oldest_turn
from .datasets import Example, encode_items, hold_out, read_examples

TRAIN_ITEMS, TEST_ITEMS = 6000, 300


def load_questions(data: str, seed: int) -> tuple[list[Example], list[Example]]:
    """Conversations to answer, for training and for tests. Answers that they contain are not used."""
    if data == TASKS:
        return instruction_examples("train", TRAIN_ITEMS, seed + 1), instruction_examples("test", TEST_ITEMS, seed)
    return hold_out(read_examples(data), data, "conversation")


def encode_questions(
    examples: Sequence[Example], template: ChatTemplate, block_size: int, response_length: int
) -> list[list[int]]:
    """Prompts as tokens that leave room for a reply. Longer prompts lose their oldest turns.

    Raises ValueError, naming the place, if a single question is too long.
    """
    room = block_size - response_length

    def encode(example: Example) -> tuple[list[int], bool]:
        messages = example.question
        while len(ids := template.encode(messages, add_generation_prompt=True)[0]) > room:
            if (shorter := without_oldest_turn(messages)) is None:
                fit = f"with {response_length} of reply it must fit into {block_size}"
                raise ValueError(f"the question has {len(ids)} tokens, and {fit}: use a smaller --response-length")
            messages = shorter
        return ids, len(messages) < len(example.question)

    return encode_items(examples, encode, "question")[0]
