"""Talk with a model in the terminal: it remembers what was said, as long as that fits into its context.

Without --temperature, a model that was tuned on conversations always says what is most likely (0), which is what a
small model knows best; one that was not would soon repeat itself, and gets 0.8.
/reset forgets the conversation, /quit (or Ctrl-D) leaves, Ctrl-C stops an answer.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

from finetune.data.conversation import Conversation
from finetune.loading import load_model
from gpt.console import printable
from gpt.model.generation import Sampling
from scripts.shared import command_line

EXAMPLES = """examples:
  python scripts/chat.py --model smollm2                             SmolLM2, 135 million parameters, on any laptop
  python scripts/chat.py --model smollm2 --packed                    the same in less memory, somewhat slower
  python scripts/chat.py --model runs/sft                            a model that was tuned on conversations
  python scripts/chat.py --model runs/sft --system "Answer in one word." --temperature 0.5
  python scripts/chat.py --model gpt2                                a model that was not: it continues a transcript
"""
YOU, MODEL = "you> ", "model> "


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    add = parser.add_argument
    text = "a run's folder, a Hugging Face folder, a GGUF file, or a name (smollm2, gpt2)"
    add("--model", default="runs/sft", help=text)
    command_line.add_packed(parser)
    add("--system", default=None, help="what the model is told before the conversation, in place of its own default")
    command_line.add_sampling(parser, max_new_tokens=400, temperature=None)
    command_line.add_kernels(parser)
    command_line.add_device(parser)
    command_line.add_seed(parser, default=None)
    arguments = parser.parse_args(argv)
    device = command_line.set_up(arguments)
    model, tokenizer = load_model(arguments.model, arguments.packed)
    model.to(device)

    conversation = Conversation(model, tokenizer, arguments.system)
    if arguments.temperature is None:
        arguments.temperature = 0.0 if conversation.knows_chat else 0.8
    names = ("temperature", "top_k", "top_p", "repetition_penalty")
    sampling = Sampling(**{name: getattr(arguments, name) for name in names})
    if conversation.knows_chat:
        print(f"{arguments.model} was tuned on conversations, in the template ChatML.")
        told = conversation.template.default_system
        if told is not None and arguments.system is None:
            print(f'It is told first: "{printable(told)}" (--system tells it something else).')
    else:
        print(
            f"{arguments.model} was not tuned on conversations (it has no token <|im_start|>): it will continue a "
            'transcript of "User:" and "Assistant:".'
        )
    print("/reset forgets the conversation, /quit leaves, Ctrl-C stops an answer.\n")
    noted = False
    for question in questions():
        if question == "/reset":
            conversation.reset()
            print("(forgotten)")
        elif question.startswith("/"):
            print(f"(there is no command {question.split()[0]}: /reset, /quit)")
        else:
            reply(conversation, question, arguments.max_new_tokens, sampling)
        if conversation.forgotten and not noted:
            noted = True
            print(
                f"(the conversation is longer now than the {model.config.block_size:,} tokens that the model can read: "
                "from here on it forgets the oldest questions and answers)"
            )
    return 0


def questions() -> Iterator[str]:
    """What the user types, line by line, until /quit or the end of the input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys in the line that is typed; not on Windows)
    while True:
        try:
            question = input(YOU).strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/quit or Ctrl-D leaves)")
            continue
        if question == "/quit":
            return
        if question:
            yield question


def reply(conversation: Conversation, question: str, max_new_tokens: int, sampling: Sampling) -> None:
    """Print the model's answer while it comes, until it ends or Ctrl-C stops it."""
    answer = conversation.answer(question, max_new_tokens, sampling)
    print(MODEL, end="", flush=True)
    try:
        with contextlib.closing(answer), ctrl_c_noted() as stop:
            for piece in answer:
                print(piece, end="", flush=True)
                if stop:
                    print(" (stopped)", end="")
                    break
    except ValueError as error:  # a question that is too long; the conversation goes on
        print(f"({error})", end="")
    print()


@contextlib.contextmanager
def ctrl_c_noted() -> Iterator[list[bool]]:
    """The first Ctrl-C is only noted in the list, so that no computation is torn apart; a second stops at once."""
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
