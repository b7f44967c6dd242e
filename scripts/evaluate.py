"""Measure how well a model predicts a text (--data), or how many questions of an exam it answers right (--choices).

Of a text: loss, perplexity, bits per byte, and the surprise at each token. The model reads the text through a window of
its block size that moves by --stride tokens. Each token counts once, and (except at the start) has at least
block size - stride + 1 tokens before it. In an exam, the most probable choice is the model's answer.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from start import command_line

from finetune.evaluation.exam_questions import BUILT_IN, exam_questions
from finetune.evaluation.multiple_choice import accuracy, exam_scores, read_questions
from gpt import Tokenizer
from gpt.files import read_pieces, write_text
from gpt.tokenizer.token_text import readable_pieces
from gpt.training.evaluation import TextScore, likely_tokens, score_text
from scripts.pages import marked_text
from scripts.pages.marked_text import MarkedToken, to_terminal

EXAMPLES = """examples:
  python scripts/evaluate.py --model runs/demo --data book.txt
  python scripts/evaluate.py --model gpt2 --data book.txt --stride 64       slower, and a little better
  python scripts/evaluate.py --model smollm2 --packed --data book.txt       with 4-bit weights
  python scripts/evaluate.py --model gpt2 --data poem.txt --show            show what surprises it, in colors
  python scripts/evaluate.py --model gpt2 --data poem.txt --html poem.html  also show what it expected instead
  python scripts/evaluate.py --model smollm2 --choices builtin              an exam of 200 questions
  python scripts/evaluate.py --model smollm2 --choices exam.jsonl --shots 5 --form letters
"""
BITS = (1, 3, 6, 10)  # where the levels of surprise begin: one of 2, of 8, of 64, of 1024 equally likely tokens
LEGEND = ["expected: below 1 bit", "1 to 3 bits", "3 to 6", "6 to 10", "10 or more: a surprise"]
ALTERNATIVES = 5
TOKENS = 100_000  # a few minutes for GPT-2 on two cores
EXAM = 'a file with a question on each line, {"question": "...", "choices": ["...", ...], "answer": 0}, or '


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    add, number = parser.add_argument, command_line.whole_number
    command_line.add_shared(parser, "model", "packed", "adapter")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", metavar="FILE", help="a UTF-8 text file")
    what.add_argument("--choices", metavar="FILE", help=EXAM + BUILT_IN)
    add("--stride", type=number(1), default=None, help="how many tokens the window moves (half the block size)")
    add("--tokens", type=number(0), default=TOKENS, help="read only the first N tokens; 0: all")
    add("--show", action="store_true", help="print the text with the surprise at each token")
    add("--html", default=None, metavar="FILE", help="write an HTML page that also shows what the model expected")
    add("--shots", type=number(0), default=0, help="show so many questions of the exam with their answers first")
    add("--form", choices=["cloze", "letters"], default="cloze", help="score the choices' texts, or A, B, C, ...")
    command_line.add_shared(parser, "kernels", "device")
    arguments = parser.parse_args(argv)
    if arguments.html is not None and not arguments.html.endswith(".html"):  # it might be the user's text, or a model
        parser.error(f"--html writes a page: its name must end in .html, got {arguments.html}")
    if arguments.choices is not None:
        parser.refuse(("stride", "tokens", "show", "html"), "is for a text (--data)")
        return examine(arguments)
    parser.refuse(("shots", "form"), "is for an exam (--choices)")
    model, tokenizer = command_line.load(arguments, command_line.set_up(arguments))
    score = score_text(model, tokenizer, read_pieces(arguments.data), arguments.stride, arguments.tokens or None)
    facts = summary(score, model.config.vocab_size)
    if len(score.ids) == arguments.tokens:
        share = score.n_bytes / Path(arguments.data).stat().st_size
        facts.insert(1, ("read", f"the first {share:.0%} of the text (--tokens 0 reads all of it, which takes longer)"))
    for name, value in facts:
        print(f"{name:15} {value}")
    if arguments.show:
        print(f"\n{to_terminal(marked(score, tokenizer))}")
        print("\n" + " | ".join(to_terminal([MarkedToken(text, level)]) for level, text in enumerate(LEGEND)))
    if arguments.html is not None:
        best = likely_tokens(model, score.ids, ALTERNATIVES, arguments.stride)
        title = f"How surprising is {arguments.data} to {arguments.model}?"
        write_text(arguments.html, marked_text.html(marked(score, tokenizer, best), title, LEGEND, facts))
        print(f"\nthe page is in {arguments.html}")
    return 0


def examine(arguments: argparse.Namespace) -> int:
    """Print the accuracy in an exam."""
    letters = arguments.form == "letters"
    shots = arguments.shots
    try:
        questions = exam_questions() if arguments.choices == BUILT_IN else read_questions(arguments.choices)
    except FileNotFoundError as missing:
        raise FileNotFoundError(f"{missing}; {BUILT_IN} is the exam that comes with this project") from None
    if shots >= len(questions):
        raise ValueError(f"--shots {shots} leaves no question to ask: {arguments.choices} has {len(questions)}")
    scores = exam_scores(*command_line.load(arguments, command_line.set_up(arguments)), questions, shots, letters)
    chance = sum(1 / len(question.choices) for question in questions) / len(questions)
    print(f"{'questions':15} {len(questions):,} in {arguments.form} form; solved examples before each: {shots}")
    print(f"{'chance':15} {chance:.1%}")
    for name, what in {"acc": "choice", **({} if letters else {"acc_norm": "choice per character"})}.items():
        share, error = accuracy(questions, scores, name == "acc_norm")
        print(f"{name:15} {share:.1%}, standard error {error:.1%}: the most probable {what} is right")
    return 0


def summary(score: TextScore, vocab_size: int) -> list[tuple[str, str]]:
    """The figures, each with its meaning."""
    chance = f"a uniform guess: {math.log(vocab_size):.4f}"
    return [
        ("tokens", f"{len(score.ids):,}, all but the first predicted ({score.n_bytes:,} bytes)"),
        ("loss", f"{score.loss:.4f} nats per token, standard error {score.standard_error:.4f} ({chance})"),
        ("perplexity", f"{score.perplexity:,.2f}: as uncertain as a choice among that many equally likely tokens"),
        ("bits per byte", f"{score.bits_per_byte:.4f} (comparable across tokenizers)"),
    ]


def marked(score: TextScore, tokenizer: Tokenizer, best: Any = None) -> list[MarkedToken]:
    """The text in pieces, each with its level of surprise and a note. best: the result of `likely_tokens`."""
    tokens = []
    for start, stop, text in readable_pieces(tokenizer, score.ids.tolist()):
        predicted = range(max(start, 1), stop)  # the first token has nothing before it
        bits = sum(score.losses[t - 1] for t in predicted) / math.log(2)
        level = sum(bits >= least for least in BITS)
        notes = [_note(score, tokenizer, t, best) for t in predicted]
        tokens.append(MarkedToken(text, level, "\n".join(notes) or "the first token is given"))
    return tokens


def _note(score: TextScore, tokenizer: Tokenizer, t: int, best: Any) -> str:
    """The surprise at token t, and the tokens that the model expected in its place."""
    loss = score.losses[t - 1]
    note = f"{_quoted(tokenizer, score.ids[t])}: {loss / math.log(2):.2f} bits, probability {math.exp(-loss):.2%}"
    if best is None:
        return note
    ids, probabilities = (array[t - 1] for array in best)
    expected = [f"{p:6.1%}  {_quoted(tokenizer, id)}" for id, p in zip(ids, probabilities)]
    return "\n".join([note, "expected:", *expected])


def _quoted(tokenizer: Tokenizer, id: Any) -> str:
    return repr(tokenizer.decode([int(id)])) if int(id) in tokenizer.vocab else f"token {id}"


if __name__ == "__main__":
    command_line.run(main)
