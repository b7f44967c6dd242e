"""A conversation with a model: how it becomes a text, what still fits into the context, and where an answer ends.

A language model continues a text. To talk with it, the conversation is written as a text that ends where the answer
should begin. A model that was tuned on conversations knows a template for that (`chat_template.ChatTemplate`). Any
other model has at least read texts in which people speak in turn, so it gets a transcript. It tends to write the user's
next line as well, and is stopped there.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing

from gpt import LanguageModel, Tokenizer
from gpt.model.batch_generation import Memory, stream
from gpt.model.generation import Sampling
from gpt.tokenizer.token_text import TextStream

from .chat_template import IM_END, IM_START, ChatTemplate, Message, check_messages, without_oldest_turn

SPEAKERS = {"user": "User: ", "assistant": "Assistant: ", "system": "", "tool": "Tool: "}


class Transcript:
    """A conversation as plain text, for a model without special tokens. The user's next line ends an answer.

    >>> transcript = Transcript(Tokenizer.train("Hello!", vocab_size=257))
    >>> transcript.render([{"role": "user", "content": "Hello!"}], add_generation_prompt=True)
    'User: Hello!\\nAssistant:'
    """

    name, stop_text = "a plain transcript", "\nUser:"
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
    """The messages so far, and the model that answers them.

    system: what the model is told before everything else; it is never forgotten. template: the tokenizer's, or ChatML
    if it has the special tokens, else a `Transcript`. forgotten: how many messages no longer fit into the context.

    The prompt of an answer is the whole conversation; the part that the model has read before is in its KV cache.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, system: str | None = None):
        self.model, self.tokenizer = model, tokenizer
        has_chatml = all(token in tokenizer.special_tokens for token in (IM_START, IM_END))
        self.knows_chat = has_chatml or tokenizer.chat_template is not None
        self.template: ChatTemplate | Transcript = ChatTemplate(tokenizer) if self.knows_chat else Transcript(tokenizer)
        self.system: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[Message] = list(self.system)
        self.forgotten = 0
        self._memory = Memory()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = list(self.system)
        self.forgotten = 0

    def answer(self, question: str, max_new_tokens: int, sampling: Sampling) -> Generator[str, None, None]:
        """Ask, and yield the answer as the model writes it: a piece per token, "" if there is nothing to show yet.

        To interrupt the answer, stop iterating: the conversation keeps what was written until then. When the
        conversation no longer fits into the context (with room for an answer: `max_new_tokens`, at most half of the
        context), the oldest questions are forgotten together with their answers, a quarter of the room at once. Raises
        ValueError for a question that is too long by itself.
        """
        prompt = self._fit([*self.messages, {"role": "user", "content": question}], max_new_tokens)
        new = min(max_new_tokens, self.model.config.block_size - len(prompt))
        text = TextStream(self.tokenizer)
        stop = self.template.stop_tokens
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
        """The prompt for an answer to `messages`, without the oldest turns if they do not fit.

        More is dropped than necessary, a quarter of the room: the remaining messages are at other positions now and
        have to be read again. Otherwise this would happen at every question from then on.
        """
        block = self.model.config.block_size
        limit = block - min(max_new_tokens, block // 2)
        remaining, allowed = messages, limit
        prompt, _ = self.template.encode(remaining, add_generation_prompt=True)
        while len(prompt) > allowed and (shorter := without_oldest_turn(remaining)) is not None:
            remaining = shorter
            allowed = 3 * limit // 4
            prompt, _ = self.template.encode(remaining, add_generation_prompt=True)
        if len(prompt) > limit:
            room = f"The model reads {block}, and {block - limit} of them are kept for the answer"
            raise ValueError(f"that is too long: {len(prompt)} tokens with the template. {room}")
        self.forgotten += len(messages) - len(remaining)
        self.messages = remaining
        return prompt


def until(pieces: Iterable[str], stop: str | None) -> Iterator[str]:
    """The pieces before the text `stop`, which may be spread over several of them; None: all pieces.

    Text that may be the beginning of `stop` is held back until that is known.

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
