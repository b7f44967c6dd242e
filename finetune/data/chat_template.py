"""The chat template: a conversation written as one text, which a language model can continue.

    <|im_start|>user
    Say hello.<|im_end|>
    <|im_start|>assistant
    Hello!<|im_end|>

This is ChatML (OpenAI 2023). The two special tokens are new to a pretrained model: they get rows of their own in its
embedding and mean nothing before fine-tuning. Most of what instruction tuning teaches is their meaning: "now somebody
speaks" and "that was all". Some models were tuned with a default system message before every conversation that has
none. `chatml.py` reads it from the model's files, and it is added here as well.

Simplified: text only, no images. What a tool answers is a message like the user's, read and not learned from.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TypedDict

from gpt import LanguageModel, Tokenizer
from gpt.console import show
from gpt.files import shortened
from gpt.tokenizer.vocabulary import ENDOFTEXT
from minigrad import nn
from minigrad.backend import module_of

from .. import architectures
from .chatml import CHATML, IM_END, IM_START, UnknownTemplate, default_system

ROLES = ("system", "user", "assistant", "tool")


class Message(TypedDict):
    """One turn: who speaks (one of ROLES), and what is said."""

    role: str
    content: str


class ChatTemplate:
    """Writes conversations in ChatML, as text or as tokens, like transformers' `apply_chat_template`.

    default_system: the system message of conversations that have none, if the model's own template has one.
    Raises ValueError for a tokenizer without the two special tokens; `add_chat_tokens` adds them.
    """

    def __init__(self, tokenizer: Tokenizer):
        for token in (IM_START, IM_END):
            if token not in tokenizer.special_tokens:
                raise ValueError(
                    f"the tokenizer has no special token {token}, so that its model knows no chat template: "
                    "fine-tune the model on conversations first"
                )
        self.tokenizer = tokenizer
        self.start, self.end = (tokenizer.special_tokens[token] for token in (IM_START, IM_END))
        self.default_system = _default_system(tokenizer.chat_template)

    @property
    def stop_tokens(self) -> list[int]:
        """The tokens that end an answer: <|im_end|>, and the tokenizer's end of text if it has one."""
        ends = (self.end, self.tokenizer.eos_token_id, self.tokenizer.special_tokens.get(ENDOFTEXT))
        return list(dict.fromkeys(id for id in ends if id is not None))

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as text; `add_generation_prompt` opens the assistant's answer, for the model to write it."""
        text = "".join(f"{IM_START}{m['role']}\n{m['content']}{IM_END}\n" for m in self._complete(messages))
        return text + f"{IM_START}assistant\n" if add_generation_prompt else text

    def encode(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> tuple[list[int], list[bool]]:
        """The conversation as token ids, and for each id whether a model should learn to write it.

        The model learns what the assistant says and the <|im_end|> after it; the rest is given when the model is used.
        An answer always begins with a new token, as when the model writes it, even if its first character and the line
        break before it could be one token. Special tokens inside a message are ordinary text: nobody can speak in
        another role by writing one. Raises ValueError for invalid messages.
        """
        ids: list[int] = []
        learned: list[bool] = []

        def add(tokens: list[int], learn: bool) -> None:
            ids.extend(tokens)
            learned.extend([learn] * len(tokens))

        for message in self._complete(messages):
            if message["role"] == "assistant":
                add(self._opening, False)
                add([*self._plain(message["content"]), self.end], True)
            else:
                add([self.start, *self._plain(f"{message['role']}\n{message['content']}"), self.end], False)
            add(self._plain("\n"), False)
        if add_generation_prompt:
            add(self._opening, False)
        return ids, learned

    def encode_to_fit(self, messages: Sequence[Message], max_tokens: int) -> tuple[list[int], list[bool], bool]:
        """`encode` for a model that reads at most `max_tokens`; also returns whether something was left out to fit.

        First the oldest turns are left out (the system message stays). If even the last question and answer are too
        long, the end of the answer is cut. Raises ValueError if nothing to learn from would be left.
        """
        kept = list(messages)
        ids, learned = self.encode(kept)
        # The line break after the last <|im_end|> only belongs to a next turn.
        while len(ids) - 1 > max_tokens and (shorter := without_oldest_turn(kept)) is not None:
            kept = shorter
            ids, learned = self.encode(kept)
        cut = len(ids) - 1 > max_tokens or len(kept) < len(messages)
        if not any(learned[:max_tokens]):
            raise ValueError(
                f"there is nothing to learn from: the answer begins only after the {max_tokens} tokens that the model "
                "can read"
                if any(learned)
                else "there is nothing to learn from: the assistant says nothing"
            )
        return ids[:max_tokens], learned[:max_tokens], cut

    def _complete(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages; the default system message, if there is one, comes before messages that have none."""
        check_messages(messages)
        if self.default_system is None or messages[0]["role"] == "system":
            return messages
        return [Message(role="system", content=self.default_system), *messages]

    @property
    def _opening(self) -> list[int]:
        """The tokens before an answer."""
        return [self.start, *self._plain("assistant\n")]

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, allowed_special=())


@functools.cache  # its warning is shown once
def _default_system(template: str | None) -> str | None:
    """The system message that a Jinja template adds by itself. None, with a warning, if it is not ChatML."""
    try:
        return None if template is None else default_system(template)
    except UnknownTemplate as error:
        show(f"{error}: conversations are written in plain ChatML, which the model may not know as well")
        return None


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
    """Add ChatML's two special tokens to the tokenizer and to the model; returns how many were new.

    A new token's row in the embedding is the mean of the old rows. The output layer is the same matrix, so the model
    finds the token as likely as an average one, and its other predictions hardly change (Hewitt 2021, "Initializing new
    word embeddings for pretrained language models").
    """
    known = len(tokenizer)
    new = tokenizer.add_special_tokens([IM_START, IM_END])
    if not new:
        return 0
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHATML
    if len(tokenizer) > model.config.vocab_size:
        resize_token_embeddings(model, len(tokenizer))
    embedding = architectures.of(model).embedding_of(model)
    for weight in {id(layer.weight): layer.weight for layer in (embedding, model.lm_head)}.values():
        weight.data[known : known + new] = weight.data[:known].mean(axis=0)
    return new


def resize_token_embeddings(model: LanguageModel, vocab_size: int) -> None:
    """Give the model `vocab_size` tokens, in place: new rows are the mean of the old ones, and stay tied to the head.

    Raises ValueError for fewer tokens than the model has, and if its embedding is wrapped or quantized.
    """
    parts = architectures.of(model)
    embedding, head = parts.embedding_of(model), model.lm_head
    old = model.config.vocab_size
    tied = model.config.tied
    if type(embedding) is not nn.Embedding or type(head) is not nn.Linear or tied != (head.weight is embedding.weight):
        raise ValueError("only a plain model can get more tokens: do it before adapters or quantization")
    if vocab_size < old:
        raise ValueError(f"the model knows {old} tokens, and would lose some of them with {vocab_size}")
    embedding.weight = _with_mean_rows(embedding.weight, vocab_size - old)
    head.weight = embedding.weight if tied else _with_mean_rows(head.weight, vocab_size - old)
    embedding.num_embeddings = head.out_features = vocab_size
    model.config = parts.body_of(model).config = dataclasses.replace(model.config, vocab_size=vocab_size)


def _with_mean_rows(weight: nn.Parameter, count: int) -> nn.Parameter:
    """weight (V, C) -> (V + count, C): more rows, each the mean of those that are there."""
    rows = weight.data
    new_rows = rows.mean(axis=0, keepdims=True).repeat(count, axis=0)
    return nn.Parameter(module_of(rows).concatenate([rows, new_rows]), weight.requires_grad)
