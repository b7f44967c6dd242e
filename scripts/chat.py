"""Chat with a model in the terminal. The model remembers as much of the conversation as fits into its context.

By default, a model that was tuned on conversations answers at temperature 0.2, any other model at 0.8. Without the
repetition penalty, a small model soon repeats itself: 1.0 turns it off.
Commands: /help, /reset (forget the conversation), exit or /quit (leave); Ctrl-C stops an answer.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import sys
import unicodedata
from collections.abc import Iterator
from functools import partial

from start import command_line

from finetune.data.conversation import Conversation
from gpt.console import printable
from gpt.model.generation import Sampling

EXAMPLES = """examples:
  python scripts/chat.py --model smollm2                             SmolLM2, 135 million parameters, on any laptop
  python scripts/chat.py --model smollm2 --packed                    the same with less memory, but slower
  python scripts/chat.py --model runs/sft                            a model tuned on conversations
  python scripts/chat.py --model runs/sft --temperature 0 --repetition-penalty 1     always the most likely answer
  python scripts/chat.py --model runs/sft --system "Answer in one word."
  python scripts/chat.py --model gpt2                                an untuned model: it continues a transcript
"""
YOU, MODEL = "you> ", "model> "
HELP = "/reset forgets the conversation, exit (or /quit) leaves, Ctrl-C stops an answer, /help shows this."


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    command_line.add_shared(parser, "model", "packed", "adapter", model="runs/sft")
    parser.add_argument("--system", default=None, help="system message at the start, in place of the model's own")
    text = "number of tokens to generate per text"
    parser.add_argument("--max-new-tokens", type=command_line.whole_number(0), default=400, help=text)
    usual = partial(Sampling, top_p=0.95, repetition_penalty=1.05)
    command_line.add_settings(parser, usual, temperature={"default": None})
    command_line.add_shared(parser, "kernels", "device", "seed", seed=None)
    arguments = parser.parse_args(argv)
    print(f"Loading {arguments.model} ...", flush=True)
    model, tokenizer = command_line.load(arguments, command_line.set_up(arguments))

    conversation = Conversation(model, tokenizer, arguments.system)
    if arguments.temperature is None:
        arguments.temperature = 0.2 if conversation.knows_chat else 0.8
    sampling = command_line.build(Sampling, vars(arguments))
    if conversation.knows_chat:
        print(f"{arguments.model} was tuned on conversations with {conversation.template.name}.")
        told = conversation.template.default_system
        if told is not None and arguments.system is None:
            print(f'Its system message is "{printable(told)}" (--system replaces it).')
    else:
        print(
            f"{arguments.model} was not tuned on conversations (it has no chat template): it continues a "
            'transcript with "User:" and "Assistant:".'
        )
    print(f"{HELP}\n")
    noted = False
    for question in questions():
        if question == "/reset":
            conversation.reset()
            print("(forgotten)")
        elif question == "/help":
            print(HELP)
        elif question.startswith("/"):
            print(f"(there is no command {question.split()[0]}: /help, /reset, /quit)")
        else:
            reply(conversation, question, arguments.max_new_tokens, sampling)
        if conversation.forgotten and not noted:
            noted = True
            print(
                f"(the conversation is now longer than the model's context of {model.config.block_size:,} tokens: from "
                "here on, the model forgets the oldest questions and answers)"
            )
    return 0


def questions() -> Iterator[str]:
    """The lines that the user types, until exit or the end of the input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys while typing; not on Windows)
    while True:
        try:
            question = input(YOU).strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(exit leaves)")
            continue
        if question.lower() in ("exit", "quit", "/exit", "/quit"):
            return
        if question:
            yield question


def reply(conversation: Conversation, question: str, max_new_tokens: int, sampling: Sampling) -> None:
    """Print the model's answer while it is generated, until it ends or Ctrl-C stops it."""
    answer = conversation.answer(question, max_new_tokens, sampling)
    text = WrappedText(len(MODEL))
    try:
        with contextlib.closing(answer), ctrl_c_noted() as stop:
            print(MODEL, end="", flush=True)
            for piece in answer:
                text.write(piece)
                if stop:
                    text.write(" (stopped)")
                    break
            text.end()
    except ValueError as error:  # a question that is too long; the conversation goes on
        print(f"({error})", end="")
    print()


class WrappedText:
    """Prints a text that comes in pieces, with line breaks between words where the terminal ends.

    The last word is held back until its end is known, or it fills a line. Where standard output is not a terminal,
    nothing is changed.
    """

    def __init__(self, column: int):
        """column: where the first piece is printed."""
        self.column, self.held = column, ""
        self.width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize

    def write(self, piece: str) -> None:
        """Print the words that are complete."""
        *words, self.held = re.split(r"(?<=[\s\u2e80-\uffff])", self.held + piece)  # Chinese breaks anywhere
        for word in words:
            self._print(word)
        if len(self.held) >= self.width:  # it does not fit on any line
            self.end()

    def end(self) -> None:
        """Print what is held back."""
        self._print(self.held)
        self.held = ""

    def _print(self, word: str) -> None:
        length = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in word.rstrip())
        if self.column > 0 and self.column + length > self.width:
            print()
            self.column = 0
        print(word, end="", flush=True)
        end = self.column + length + len(word) - len(word.rstrip())
        self.column = 0 if word.endswith("\n") else end % self.width


@contextlib.contextmanager
def ctrl_c_noted() -> Iterator[list[bool]]:
    """Inside the block, the first Ctrl-C only adds an entry to the list, so that no computation is interrupted.

    A second Ctrl-C raises KeyboardInterrupt.
    """
    noted: list[bool] = []

    def on_interrupt(number: int, frame: object) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(True)

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, previous)


if __name__ == "__main__":
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    command_line.run(main)
