"""A conversation with a model: how it is written down, what still fits into the context, and where an answer ends.

A language model continues a text. To talk with it, the conversation is written as a text that ends where its answer
should begin. A model that was tuned on conversations knows a template for that (`chat.ChatTemplate`). One that was not
has at least read texts in which people speak in turn, so it is given a transcript; it then tends to write the user's
next line as well, and is stopped there.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Protocol

from gpt import LanguageModel, Tokenizer
from gpt.model.generation import Memory, Sampling, stream
from gpt.tokenizer.token_view import TextStream

from .chat_template import IM_END, IM_START, ChatTemplate, Message, check_messages, without_oldest_turn

SPEAKERS = {"user": "User: ", "assistant": "Assistant: ", "system": ""}


class Template(Protocol):
    """How a conversation is written down; `ChatTemplate` is one."""

    default_system: str | None  # what the model is told first if the user does not say

    @property
    def stop_tokens(self) -> list[int]: ...
    def encode(
        self, messages: Sequence[Message], add_generation_prompt: bool = False
    ) -> tuple[list[int], list[bool]]: ...


class Transcript:
    """A conversation as a plain text, for a model that knows no special tokens. The user's next line ends an answer.

    >>> transcript = Transcript(Tokenizer.train("Hello!", vocab_size=257))
    >>> transcript.render([{"role": "user", "content": "Hello!"}], add_generation_prompt=True)
    'User: Hello!\\nAssistant:'
    """

    stop_text = "\nUser:"
    default_system: str | None = None

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    @property
    def stop_tokens(self) -> list[int]:
        eos = self.tokenizer.eos_token_id
        return [] if eos is None else [eos]

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        check_messages(messages)
        lines = [SPEAKERS[message["role"]] + message["content"] for message in messages]
        return "\n".join(lines) + ("\nAssistant:" if add_generation_prompt else "\n")

    def encode(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> tuple[list[int], list[bool]]:
        """Token ids; none is marked as to be learned from."""
        ids = self.tokenizer.encode(self.render(messages, add_generation_prompt), allowed_special=())
        return ids, [False] * len(ids)


class Conversation:
    """What was said so far, and the model's answers to it.

    `template` is ChatML where the tokenizer has its tokens, and a `Transcript` where not. system: what the model is
    told before everything else; it is never forgotten. `forgotten` counts the messages that no longer fit.

    An answer's prompt is the whole conversation, but what the model has read of it before stays in its memory.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, system: str | None = None):
        self.model, self.tokenizer = model, tokenizer
        self.knows_chat = all(token in tokenizer.special_tokens for token in (IM_START, IM_END))
        self.template: Template = ChatTemplate(tokenizer) if self.knows_chat else Transcript(tokenizer)
        self.system: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[Message] = list(self.system)
        self.forgotten = 0
        self._memory = Memory()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages, self.forgotten = list(self.system), 0

    def answer(self, question: str, max_new_tokens: int, sampling: Sampling) -> Generator[str, None, None]:
        """Ask, and yield the answer as the model writes it: a piece per token, "" where there is nothing to show yet.

        Stop iterating to interrupt it.

        What has been answered until then belongs to the conversation. Where the conversation has become too long for
        the model's context (with room for an answer: `max_new_tokens`, at most half of the context), the oldest
        questions are forgotten together with their answers, a quarter of the room at once. Raises ValueError for a
        question that is too long alone.
        """
        prompt = self._fit([*self.messages, {"role": "user", "content": question}], max_new_tokens)
        room = self.model.config.block_size - len(prompt)
        text = TextStream(self.tokenizer)
        stop = self.template.stop_tokens
        new = min(max_new_tokens, room)
        steps = stream(self.model, [prompt], new, sampling, stop_tokens=stop, memory=self._memory)
        said = ""
        try:
            with closing(steps):
                pieces = (text.text(tokens[0]) for tokens in steps)
                for piece in until(pieces, getattr(self.template, "stop_text", None)):
                    piece = piece if said else piece.lstrip()
                    said += piece
                    yield piece
        finally:
            self.messages.append({"role": "assistant", "content": said.strip()})

    def _fit(self, messages: list[Message], max_new_tokens: int) -> list[int]:
        """The prompt for an answer to `messages`, of which the oldest turns are dropped if they do not fit.

        Then more than must be is dropped, a quarter of the room: what is left stands in another place now and has to be
        read anew, which would otherwise happen at every question from then on.
        """
        block = self.model.config.block_size
        limit = block - min(max_new_tokens, block // 2)
        kept = messages
        prompt, _ = self.template.encode(kept, add_generation_prompt=True)
        if len(prompt) > limit:
            while len(prompt) > 3 * limit // 4 and (shorter := without_oldest_turn(kept)) is not None:
                kept = shorter
                prompt, _ = self.template.encode(kept, add_generation_prompt=True)
        if len(prompt) > limit:
            raise ValueError(
                f"that is too long: {len(prompt)} tokens with the template, and the model reads {block}, of which "
                f"{block - limit} are kept for the answer"
            )
        self.forgotten += len(messages) - len(kept)
        self.messages = kept
        return prompt


def until(pieces: Iterable[str], stop: str | None) -> Iterator[str]:
    """The pieces up to a text that ends them (which may be spread over several); None: all of them.

    What may turn out to be the beginning of it is held back until that is known.

    >>> list(until(["Hel", "lo\\nUs", "ual\\nUse", "r: and", " more"], "\\nUser:"))
    ['Hel', 'lo', '\\nUsual', '']
    """
    if stop is None:
        yield from pieces
        return
    held = ""
    for piece in pieces:
        held += piece
        end = held.find(stop)
        if end < 0:
            end = len(held) - max(n for n in range(len(stop)) if held.endswith(stop[:n]))
        yield held[:end]
        if held.startswith(stop, end):
            return
        held = held[end:]
    if held:
        yield held
