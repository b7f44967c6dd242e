"""Verify a GPT-2 at three levels: its structure (1), its computation (2), its behavior (3).

(1) Every tensor of the folder has a place in the model, and the parameter count equals the closed formula. (2) Each
activation and each gradient equals that of a reference, layer by layer. (3) The model continues a text, and predicts it
better than chance. Each level finds errors that the one before cannot. The exit code is 1 if one of them fails.

The reference is transformers where it is installed. Elsewhere it is a file: write it with --save-reference where
transformers is installed, and read it with --reference.
"""

from pathlib import Path

from start import command_line

import numpy as np

from gpt import GPT, GPTConfig, Tokenizer, accounting
from gpt.console import printable
from gpt.files import read_text
from gpt.training.checkpoint import has_checkpoint
from gpt.training.evaluation import score_text
from gpt.training.loading import load_model
from gpt.weights import hub, pretrained
from scripts import compare_torch
from scripts.shared import verification
from scripts.shared.verification import Comparison, Trace

EXAMPLES = """examples:
  python scripts/verify_gpt2.py --model gpt2                       OpenAI's weights
  python scripts/verify_gpt2.py --model FOLDER --text book.txt
  python scripts/verify_gpt2.py --model gpt2 --save-reference gpt2.npz        where transformers is installed
  python scripts/verify_gpt2.py --model gpt2 --reference gpt2.npz             where it is not installed
"""
# The opening of "Alice's Adventures in Wonderland" (Lewis Carroll, 1865).
PASSAGE = (
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or "
    "twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, “and "
    "what is the use of a book,” thought Alice “without pictures or conversations?”"
)
ROWS, COLUMNS = 2, 8  # of the batch that is compared
NEW_TOKENS = 24  # of the continuation
PUBLISHED = 124_439_808  # parameters of the smallest GPT-2


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    command_line.add_shared(parser, "model", model="gpt2")
    add("--text", default=None, metavar="FILE", help="text to measure the perplexity on (a passage of Alice)")
    add("--prompt", default="Alan Turing theorized that computers would one day become", help="text to continue")
    add("--reference", default=None, metavar="FILE", help="compare with a file that --save-reference wrote")
    add("--save-reference", default=None, metavar="FILE", help="save the results of transformers (.npz)")
    add("--dtype", choices=list(verification.TOLERANCE), default="float64", help="floating-point type of both sides")
    command_line.add_shared(parser, "kernels")
    arguments = parser.parse_args(argv)
    if arguments.reference is not None and arguments.save_reference is not None:
        parser.error("--save-reference does not go with --reference, which is such a file already")
    command_line.set_up(arguments)
    folder = hub.find(arguments.model)

    print("(1) structure: is every part present, with the right size?\n")
    if problems := check_tensors(folder):  # the model cannot be built
        raise ValueError(f"structure: {problems[0]}")
    model, tokenizer = load_model(folder, trainable=True)
    if not isinstance(model, GPT):
        raise ValueError(f"{arguments.model} is a {type(model).__name__}, but this script verifies a GPT-2")
    problems = check_count(model)

    print("\n(2) computation: does every layer compute what the reference computes?\n")
    reference = None
    if arguments.reference is not None:
        reference, of = verification.load_trace(arguments.reference)
        check_comparable(model.config, of, arguments.reference)
    elif not compare_torch.missing_packages():
        reference = live_reference(folder, model, tokenizer, arguments.dtype)
    elif arguments.save_reference is not None:
        raise ValueError("--save-reference needs transformers: pip install -e '.[oracle]'")
    if reference is None:
        print(
            "Not checked: there is no reference. Install transformers (pip install -e '.[oracle]'), or pass a file "
            "that --save-reference wrote where it is installed (--reference FILE)."
        )
    else:
        problems += check_computation(model, reference, arguments.dtype)
        if arguments.save_reference is not None:
            verification.save_trace(arguments.save_reference, reference, model.config)
            print(f"\nthe reference is in {arguments.save_reference}")

    print("\n(3) behavior: what does it write, and how well does it predict a text?\n")
    continuation = model.generate([tokenizer.encode(arguments.prompt)], NEW_TOKENS, temperature=0)[0]
    print(printable(f"{arguments.prompt} ->{tokenizer.decode(continuation)}"))
    text = PASSAGE if arguments.text is None else read_text(arguments.text)
    problems += check_perplexity(model, tokenizer, text, proven=reference is not None and not problems)
    if problems:
        raise ValueError(problems[0])
    print("\nverified" if reference is not None else "\nverified, except for the computation (2)")
    return 0


def is_huggingface(place: Path) -> bool:
    """Whether the model is in a Hugging Face folder, not in a run or a GGUF file."""
    return place.is_dir() and not has_checkpoint(place)


# --- (1) structure ----------------------------------------------------------------------------------------------------


def check_tensors(folder: Path) -> list[str]:
    """Print the tensors of a Hugging Face folder with their places in our model; returns what does not fit."""
    if not is_huggingface(folder):
        print(f"{folder} is not a Hugging Face folder: its tensors are compared with the model's when it is loaded.")
        return []
    matches = list(pretrained.report(folder))
    print(*matches, sep="\n")
    return [f"{match.name} {match.problem}" for match in matches if match.problem]


def check_count(model: GPT) -> list[str]:
    """Print the parameters per component and compare them with the closed formula; returns the differences."""
    config = model.config
    problems = []
    expected = accounting.parameters(config)
    counted = dict.fromkeys(expected, 0)
    for name, parameter in model.named_parameters():
        counted[accounting.component_of(name)] += parameter.data.size
    print(f"\n{'component':20} {'formula':>14} {'counted':>14} {'share':>7}")
    for name, share in accounting.shares_of_total(counted).items():
        print(f"{name:20} {expected[name]:14,} {counted[name]:14,} {share:7.1%}")
        if expected[name] != counted[name]:
            problems.append(f"structure: {name} has {counted[name]:,} parameters, not {expected[name]:,}")
    print(f"{'all':20} {config.num_parameters():14,} {sum(counted.values()):14,} {1:7.1%}")
    if config.num_parameters() == PUBLISHED:
        print(f"{PUBLISHED:,} is the size of OpenAI's smallest GPT-2.")
    return problems


# --- (2) computation --------------------------------------------------------------------------------------------------


def live_reference(folder: Path, model: GPT, tokenizer: Tokenizer, dtype: str) -> Trace:
    """The results of transformers for the passage, computed from the folder's own files where it can read them."""
    if is_huggingface(folder):
        other = compare_torch.from_folder(folder, dtype)
    else:
        other = compare_torch.carried_over(model.to(dtype))
    columns = min(COLUMNS, model.config.block_size)
    ids = np.resize(tokenizer.encode(PASSAGE), ROWS * columns + 1)
    inputs, targets = ids[:-1].reshape(ROWS, columns), ids[1:].reshape(ROWS, columns)
    return compare_torch.torch_trace(other, model.config, inputs, targets)


def check_comparable(config: GPTConfig, of: GPTConfig, path: str) -> None:
    """Raise ValueError unless the reference is of a model of the same size."""
    for name in ("n_layer", "n_embd", "vocab_size", "block_size"):
        ours, theirs = getattr(config, name), getattr(of, name)
        if ours != theirs:
            raise ValueError(f"{path} is the reference of another model: its {name} is {theirs}, this one's {ours}")


def check_computation(model: GPT, reference: Trace, dtype: str) -> list[str]:
    """Print every activation and gradient beside the reference's; returns the first difference. Leaves float32."""
    model.to(dtype)
    ours = verification.trace(model, reference.ids, reference.targets)
    comparison = Comparison(ours, reference, model.config, verification.TOLERANCE[dtype])
    model.to("float32")
    problem = comparison.problem()
    print(f"{comparison}\n\n{f'FAILED: {problem}' if problem else 'the same everywhere'}")
    return [f"computation: {problem}"] if problem else []


# --- (3) behavior -----------------------------------------------------------------------------------------------------


def check_perplexity(model: GPT, tokenizer: Tokenizer, text: str, proven: bool) -> list[str]:
    """Print the perplexity of a text; returns a complaint if it is that of chance, unless the computation is proven."""
    score = score_text(model, tokenizer, text)
    chance = model.config.vocab_size
    print(f"\nperplexity {score.perplexity:,.1f} on {len(score.ids):,} tokens; a uniform guess: {chance:,}")
    if score.perplexity < chance:
        return []
    print("That is no better than chance: the model has learned nothing, or its weights are in the wrong places.")
    return [] if proven else ["behavior: the model's perplexity is no better than chance"]


if __name__ == "__main__":
    command_line.run(main)
