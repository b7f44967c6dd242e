"""Chat with a model in the terminal. The model remembers as much of the conversation as fits into its context.

By default, a model that was tuned on conversations answers at temperature 0.2, any other model at 0.8. Without the
repetition penalty, a small model soon repeats itself: 1.0 turns it off. SmolLM2 is told to answer in plain English: it
gave the right answer to 84 of 100 short questions then, and to 56 with its own message, which lets it turn to French.
Commands: /help, /reset (forget the conversation), exit or /quit (leave); Ctrl-C stops an answer.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from functools import partial

from start import command_line

from finetune.data.conversation import Conversation
from gpt.console import printable
from gpt.model.generation import Sampling
from gpt.weights.hub import SMOLLM2
from scripts.shared.terminal import WrappedText, ctrl_c_noted

EXAMPLES = """examples:
  python scripts/chat.py --model smollm2                             SmolLM2, 135 million parameters, on any laptop
  python scripts/chat.py --model smollm2 --packed                    the same with less memory, but slower
  python scripts/chat.py --model runs/sft                            a model tuned on conversations
  python scripts/chat.py --model runs/sft --temperature 0 --repetition-penalty 1     always the most likely answer
  python scripts/chat.py --model runs/sft --system "Answer in one word."
  python scripts/chat.py --model gpt2                                an untuned model: it continues a transcript
"""
PLAIN = "Answer in plain English."
YOU, MODEL = "you> ", "model> "
HELP = "/reset forgets the conversation, exit (or /quit) leaves, Ctrl-C stops an answer, /help shows this."


def main(argv: list[str] | None = None) -> int:
    """Load a model and answer questions until the user leaves. Stripped of all comfort, a chat is this:

    conversation = Conversation(model, tokenizer)
    while True:
        for piece in conversation.answer(input("you> "), 400, Sampling(temperature=0.2)):
            print(piece, end="", flush=True)
    """
    arguments = options().parse_args(argv)
    print(f"Loading {arguments.model} ...", flush=True)
    model, tokenizer = command_line.load(arguments, command_line.set_up(arguments))

    system = arguments.system
    if system is None and arguments.model == SMOLLM2 and not arguments.adapter:
        system = PLAIN
    conversation = Conversation(model, tokenizer, system)
    if arguments.temperature is None:
        arguments.temperature = 0.2 if conversation.knows_chat else 0.8
    sampling = command_line.build(Sampling, vars(arguments))
    introduce(conversation, arguments)
    is_noted = False  # that the beginning is forgotten
    for question in questions():
        if question.startswith("/"):
            obey(question, conversation)
        else:
            reply(conversation, question, arguments.max_new_tokens, sampling)
        if conversation.forgotten and not is_noted:
            is_noted = True
            print(
                f"(the conversation is now longer than the model's context of {model.config.block_size:,} tokens: from "
                "here on, the model forgets the oldest questions and answers)"
            )
    return 0


def reply(conversation: Conversation, question: str, max_new_tokens: int, sampling: Sampling) -> None:
    """Print the model's answer while it is generated, until it ends or Ctrl-C stops it."""
    answer = conversation.answer(question, max_new_tokens, sampling)
    text = WrappedText(len(MODEL))
    try:
        with contextlib.closing(answer), ctrl_c_noted() as stop:  # stop: true once Ctrl-C was pressed
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


def obey(command: str, conversation: Conversation) -> None:
    """Do what a line that begins with / asks for."""
    if command == "/reset":
        conversation.reset()
        print("(forgotten)")
    elif command == "/help":
        print(HELP)
    else:
        print(f"(there is no command {command.split()[0]}: /help, /reset, /quit)")


def introduce(conversation: Conversation, arguments: argparse.Namespace) -> None:
    """Print how the model chats: in the template that it was tuned with, or as a transcript."""
    if conversation.knows_chat:
        print(f"{arguments.model} was tuned on conversations with {conversation.template.name}.")
        system = PLAIN if conversation.system else conversation.template.default_system
        if system is not None and arguments.system is None:
            print(f'Its system message is "{printable(system)}" (--system replaces it).')
    else:
        print(
            f"{arguments.model} was not tuned on conversations (it has no chat template): it continues a "
            'transcript with "User:" and "Assistant:".'
        )
    print(f"{HELP}\n")


def options() -> command_line.Parser:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    command_line.add_shared(parser, "model", "packed", "adapter", model="runs/sft")
    parser.add_argument("--system", default=None, help="system message at the start, in place of the usual one")
    text = "number of tokens to generate per answer"
    parser.add_argument("--max-new-tokens", type=command_line.whole_number(0), default=400, help=text)
    usual = partial(Sampling, top_p=0.95, repetition_penalty=1.05)  # options with these defaults
    command_line.add_settings(parser, usual, temperature={"default": None})  # None: see main
    command_line.add_shared(parser, "kernels", "device", "seed", seed=None)
    return parser


if __name__ == "__main__":
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    command_line.run(main)
