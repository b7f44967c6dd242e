"""The chat template: a conversation written as one text, which a language model can continue.

    <|im_start|>user
    Say hello.<|im_end|>
    <|im_start|>assistant
    Hello!<|im_end|>

This is ChatML (OpenAI 2023), in which models are tuned here. The two special tokens are new to a pretrained model: they
get rows of their own in its embedding and mean nothing before fine-tuning. Most of what instruction tuning teaches is
their meaning: "now somebody speaks" and "that was all". A model that was tuned elsewhere brings a template of its own,
which is followed (jinja_template.py).

Simplified: text only, no images. What a tool answers is a message like the user's, read and not learned from.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypedDict

from gpt import LanguageModel, Tokenizer
from gpt.files import shortened
from gpt.tokenizer.pre_tokenization import split_special
from gpt.tokenizer.token_text import readable_pieces
from gpt.tokenizer.vocabulary import ENDOFTEXT
from minigrad import nn
from minigrad.backend import module_of
from minigrad.in_place import announce_update

from .jinja_template import program

ROLES = ("system", "user", "assistant", "tool")
IM_START, IM_END = "<|im_start|>", "<|im_end|>"  # "im": input message
# `chatml`, below, in Jinja: other programs learn from it how to talk with a model that was tuned here.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Message(TypedDict):
    """One turn: who speaks (one of ROLES), and what is said."""

    role: str
    content: str


def chatml(messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """A conversation in ChatML."""
    text = "".join(f"{IM_START}{m['role']}\n{m['content']}{IM_END}\n" for m in messages)
    return text + f"{IM_START}assistant\n" if add_generation_prompt else text


class ChatTemplate:
    """Turns conversations into text or tokens, like transformers' `apply_chat_template`.

    It uses the tokenizer's own template, or ChatML if there is none. Raises ValueError for a tokenizer without the
    special tokens of ChatML (`add_chat_tokens` adds them), and for a template that cannot be run.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        if tokenizer.chat_template not in (None, CHATML):
            self.name = "its own chat template"
            self._write = program(tokenizer.chat_template, tokenizer.roles)
            return
        self.name = "the template ChatML"
        self._write = chatml
        for token in (IM_START, IM_END):
            if token not in tokenizer.special_tokens:
                unknown = f"the tokenizer has no special token {token}, so its model does not know a chat template"
                raise ValueError(f"{unknown}: fine-tune the model on conversations first")

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as text. add_generation_prompt: end with the start of an answer, for the model to continue.

        Raises ValueError for messages that are invalid, or that the template refuses.
        """
        check_messages(messages)
        return self._write(messages, add_generation_prompt)

    def encode(
        self, messages: Sequence[Message], add_generation_prompt: bool = False, completion: int | None = None
    ) -> tuple[list[int], list[bool]]:
        """The conversation as token ids, and for each id whether a model should learn to write it.

        The model learns the assistant's answers and the special token that ends each. completion: only those among the
        last `completion` messages; the messages before them are the prompt. Nothing is learned with
        `add_generation_prompt`. An answer always begins with a new token, as it does in generation. Special tokens
        inside a message are ordinary text, so nobody can speak in another role by writing one. Raises ValueError for
        what `render` refuses, and for a template in which we cannot find the answers or their ends.
        """
        plain = self.render(messages, add_generation_prompt)
        # Two characters that do not occur in the text. The separator goes between the letters of special tokens inside
        # messages, so these stay ordinary text; it is removed again in `_tokens`. The placeholder replaces an answer.
        free = (chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in plain)
        separator, placeholder = next(free), next(free)
        safe = [Message(role=m["role"], content=self._separated(m["content"], separator)) for m in messages]
        text = self._write(safe, add_generation_prompt)
        if text.replace(separator, "") != plain:
            raise ValueError("the model's chat template changes special tokens inside messages: leave them out")
        first = 0 if completion is None else max(len(messages) - completion, 0)
        said = range(len(messages) if add_generation_prompt else first, len(messages))
        answers = [i for i in said if messages[i]["role"] == "assistant"]
        ids: list[int] = []
        loss_mask: list[bool] = []
        end = 0
        for start, stop in [*(self._answer(safe, i, text, placeholder) for i in answers), (len(text), len(text))]:
            for part, learn in ((text[end:start], False), (text[start:stop], True)):
                tokens = self._tokens(part, separator)
                ids += tokens
                loss_mask += [learn] * len(tokens)
            end = stop
        return ids, loss_mask

    def _separated(self, content: str, separator: str) -> str:
        """The content with the separator between the letters of its special tokens."""
        parts = split_special(content, self.tokenizer.special_tokens)
        return "".join(separator.join(part) if i % 2 else part for i, part in enumerate(parts))

    def _tokens(self, text: str, separator: str) -> list[int]:
        ids: list[int] = []
        for i, part in enumerate(split_special(text, self.tokenizer.special_tokens)):
            if i % 2:
                ids.append(self.tokenizer.special_tokens[part])
            else:
                ids += self.tokenizer.encode(part.replace(separator, ""), (), add_special_tokens=False)
        return ids

    def _answer(self, messages: Sequence[Message], index: int, text: str, placeholder: str) -> tuple[int, int]:
        """The places in `text` where the answer `messages[index]` begins and where it ends.

        It begins at the end of its prompt. Its content is found by writing the conversation with a placeholder instead.
        """
        prompt = self._write(messages[:index], True)
        marked = [*messages[:index], Message(role="assistant", content=placeholder), *messages[index + 1 :]]
        before, _, after = self._write(marked, False).partition(placeholder)
        content = messages[index]["content"]
        said = next((said for said in (content, content.strip()) if text == before + said + after), None)
        if said is None or not before.startswith(prompt):
            differs = "the model's chat template writes an answer differently from the prompt for it"
            raise ValueError(f"message {index + 1}: {differs}, so we cannot find the tokens to learn")
        space, *rest = split_special(after, self.tokenizer.special_tokens)
        if not rest or space.strip():
            raise ValueError("the model's chat template ends answers without a special token: it cannot teach to stop")
        return len(prompt), len(before + said + space + rest[0])

    @functools.cached_property
    def end(self) -> int | None:
        """The special token that ends an answer; None if the template has none."""
        try:
            ids, loss_mask = self.encode([Message(role="user", content="?"), Message(role="assistant", content="!")])
        except ValueError:
            return None
        return ids[needed(loss_mask) - 1]

    @property
    def stop_tokens(self) -> list[int]:
        """The tokens that end an answer: the template's, and the tokenizer's end of text if it has one."""
        ends = (self.end, self.tokenizer.eos_token_id, self.tokenizer.special_tokens.get(ENDOFTEXT))
        return list(dict.fromkeys(id for id in ends if id is not None))

    @property
    def default_system(self) -> str | None:
        """The system message that the template adds to conversations that have none; None if it adds nothing."""
        question = Message(role="user", content="?")
        mark = "\U000f0000"  # a character that no template writes
        try:
            before, _, after = self.render([Message(role="system", content=mark), question]).partition(mark)
            text = self.render([question])
        except ValueError:  # there are templates without system messages
            return None
        inside = text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after)
        return (text[len(before) : len(text) - len(after)] or None) if inside else None

    def encode_to_fit(
        self, messages: Sequence[Message], max_tokens: int, completion: int | None = None
    ) -> tuple[list[int], list[bool], bool]:
        """`encode` for a model that reads at most `max_tokens`; also returns whether something was left out to fit.

        First the oldest turns are left out (the system message stays). If even the last question and answer are too
        long, the end of the answer is cut. Raises ValueError if nothing to learn from would be left.
        """
        remaining = list(messages)
        ids, loss_mask = self.encode(remaining, completion=completion)
        while needed(loss_mask) > max_tokens and (shorter := without_oldest_turn(remaining)) is not None:
            remaining = shorter
            ids, loss_mask = self.encode(remaining, completion=completion)
        cut = needed(loss_mask) > max_tokens or len(remaining) < len(messages)
        if True not in loss_mask:
            raise ValueError("there is nothing to learn from: the assistant says nothing")
        if True not in loss_mask[:max_tokens]:
            late = f"the answer begins only after the {max_tokens} tokens that the model can read"
            raise ValueError(f"there is nothing to learn from: {late}; leave it out of the file")
        return ids[:max_tokens], loss_mask[:max_tokens], cut

    def marked(self, messages: Sequence[Message], completion: int | None = None) -> str:
        """The conversation as the model reads it, with brackets around each token that it learns to write.

        completion: as in `encode`.
        """
        ids, loss_mask = self.encode(messages, completion=completion)
        pieces = readable_pieces(self.tokenizer, ids)
        return "".join(f"[{text}]" if loss_mask[start] else text for start, _, text in pieces).rstrip("\n")


def needed(loss_mask: Sequence[bool]) -> int:
    """How many tokens a model must read: all but those after the last one that is learned from.

    >>> needed([False, True, True, False])
    3
    """
    return len(loss_mask) - loss_mask[::-1].index(True) if True in loss_mask else len(loss_mask)


def check_messages(messages: Sequence[Message]) -> None:
    """Raise ValueError, naming the message, unless each has a role (of ROLES) and a content, a system one first."""
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(f"a conversation is a list of messages with role and content, got {shortened(messages)}")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise ValueError(f"message {number} must be an object with role and content, got {shortened(message)}")
        for field in ("role", "content"):
            if not isinstance(message.get(field), str):
                found = shortened(message[field]) if field in message else "none"
                raise ValueError(f"message {number}: {field} must be a text, got {found}")
        if message["role"] not in ROLES:
            raise ValueError(f"message {number}: role must be one of {', '.join(ROLES)}, got {message['role']!r:.60}")
        if message["role"] == "system" and number > 1:
            raise ValueError(f"message {number}: a system message must be the first one")


def without_oldest_turn(messages: Sequence[Message]) -> list[Message] | None:
    """The conversation without its first question and answer, the system message kept; None if only one is left.

    >>> talk = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    >>> [message["role"] for message in without_oldest_turn(talk)]
    ['system', 'user']
    """
    system = [m for m in messages if m["role"] == "system"]
    questions = [i for i, m in enumerate(messages) if m["role"] == "user"]
    return [*system, *messages[questions[1] :]] if len(questions) > 1 else None


# --- new tokens -------------------------------------------------------------------------------------------------------


def add_chat_tokens(model: LanguageModel, tokenizer: Tokenizer) -> int:
    """Give the model a chat template, if it has none: ChatML, with its two special tokens; returns how many were new.

    A new token's row in the embedding is the mean of the old rows. The output layer is the same matrix, so the model
    finds the token as likely as an average one, and its other predictions hardly change (Hewitt 2021, "Initializing new
    word embeddings for pretrained language models").
    """
    known = len(tokenizer)
    new = add_chatml(tokenizer)
    if not new:
        return 0
    resize_token_embeddings(model, len(tokenizer))
    layers: list[Any] = [model.embedding] if model.config.tied else [model.embedding, model.lm_head]
    for layer in layers:
        announce_update([layer.weight])
        layer.weight.data[known : known + new] = layer.weight.data[:known].mean(axis=0)
    return new


def add_chatml(tokenizer: Tokenizer) -> int:
    """Give the tokenizer ChatML and its special tokens, unless it brings another template; returns how many are new."""
    if tokenizer.chat_template not in (None, CHATML):
        return 0
    new = tokenizer.add_special_tokens([IM_START, IM_END])
    tokenizer.chat_template = CHATML  # also where the tokenizer knew the tokens already
    return new


def resize_token_embeddings(model: LanguageModel, vocab_size: int) -> None:
    """Give the model at least `vocab_size` tokens, in place: new rows are the mean of the old ones.

    A head that is tied to the embedding stays so. Raises ValueError if an embedding that is too small is wrapped or
    quantized.
    """
    embedding, head = model.embedding, model.lm_head
    old, tied = model.config.vocab_size, model.config.tied
    if vocab_size <= old:
        return
    if type(embedding) is not nn.Embedding or type(head) is not nn.Linear or tied != (head.weight is embedding.weight):
        raise ValueError("only a plain model can get more tokens: do it before adapters or quantization")
    embedding.weight = _with_mean_rows(embedding.weight, vocab_size - old)
    head.weight = embedding.weight if tied else _with_mean_rows(head.weight, vocab_size - old)
    embedding.num_embeddings = head.out_features = vocab_size
    model.config = model.body.config = dataclasses.replace(model.config, vocab_size=vocab_size)  # type: ignore[type-var]


def _with_mean_rows(weight: nn.Parameter, count: int) -> nn.Parameter:
    """weight (V, C) -> (V + count, C): more rows, each the mean of those that are there."""
    rows = weight.data
    new_rows = rows.mean(axis=0, keepdims=True).repeat(count, axis=0)
    return nn.Parameter(module_of(rows).concatenate([rows, new_rows]), weight.requires_grad)
