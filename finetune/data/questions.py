"""Questions for reinforcement learning: as prompts that leave room for a reply."""

from __future__ import annotations

from collections.abc import Sequence

from .chat_template import ChatTemplate, without_oldest_turn
from .datasets import Example, encode_items


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
