"""The capstone: the learner's own GPT, put together from the exercises, learns, takes real weights, becomes a Llama.

    1. it trains on a text, with the learner's loop: every layer computes what ours does, and the losses are ours
    2. it takes a trained model's weights as Hugging Face stores them, and GPT-2's: it continues a text as ours does
    3. with another block it is a Llama, takes SmolLM2's weights and answers

Each step compares with the library's model, and stops at the first thing that differs. The learner's program runs in a
process of its own as always (processes.py); beside.py runs there beside it.

Simplified: the exercises are forward only, so the gradients of step 1 are those of the engine. They are gradients of
the learner's model as long as its parameters are the same as ours, which the losses tell.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.chat_template import ChatTemplate
from gpt import GPT, GPTConfig, LanguageModel, Tokenizer, load_model
from gpt.files import StrPath, write_text
from gpt.interpretability.activations import record_activations
from gpt.training.checkpoint import has_checkpoint
from gpt.training.training_step import mean_gradients, training_step
from gpt.weights import gpt2_huggingface, hub
from minigrad import manual_seed, no_grad, optim
from scripts.shared.verification import TOLERANCE, differences, first_wrong

from . import beside, comparing, in_gpt, processes, words
from .processes import Ended, Limits
from .source import code_at
from .workspace import Workspace

PROGRAMS = {"GPT": ("block", "gpt", "training_loop", "load_weights"), "Llama": ("gpt", "llama")}  # and their parts
LIMITS = Limits(seconds=1800, megabytes=16384, message=2**30)
STEPS, BATCH, NEW_TOKENS = 100, 8, 12
QUESTION = "What is the capital of France?"
# Call a function of beside.py: one of the learner's functions, the name in beside.py, arguments.
Call = Callable[..., Any]
Load = Callable[..., tuple[LanguageModel, Tokenizer]]


def run(workspace: Workspace, out_dir: Path) -> int:
    """Take all steps. Raises ValueError with what is wrong, or what to write next."""
    if workspace.has_passed("llama") and importlib.util.find_spec("jinja2") is None:
        raise ValueError("step 3 needs jinja2, in which SmolLM2's chat template is written: pip install jinja2")
    demo = Path("runs/demo")
    if not has_checkpoint(demo):
        print("(there is no runs/demo: step 2 uses the model of step 1; scripts/demo.py trains one that can write)")
        demo = out_dir / "small_gpt"
    build(workspace, "GPT", out_dir, [(demo, "The"), ("gpt2", "Alan Turing theorized that")])
    build(workspace, "Llama", out_dir, [("smollm2", QUESTION)])
    return 0


def build(
    workspace: Workspace, kind: str, out_dir: Path, models: Sequence[tuple[StrPath, str]], load: Load = load_model
) -> None:
    """Run one of PROGRAMS: it trains if it has a training loop, and takes the weights of models.

    models: where they are, and what each continues or answers. load: the function that reads a model.
    """
    with program(workspace, PROGRAMS[kind], out_dir / f"my_{kind.lower()}.py") as call:
        if kind == "GPT":
            print("\n1. It trains ...", flush=True)
            train(call, out_dir / "small_gpt")
        print("\n3. It becomes a Llama ..." if kind == "Llama" else "\n2. It takes trained weights ...", flush=True)
        if any([take(call, source, text, load) for source, text in models]):
            print(f"\nYou have written a {kind}.", flush=True)


@contextlib.contextmanager
def program(workspace: Workspace, parts: Sequence[str], path: Path) -> Iterator[Call]:
    """Put the learner's files together at `path`, and run them, in a process of its own where there are processes.
    Raises ValueError, naming the line, for what goes wrong there.
    """
    text = "\n\n".join(map(workspace.passed_text, parts))
    write_text(path, text)
    print(f"\n{', '.join(parts)} are one program: {path}", flush=True)
    try:
        with processes.RUNS(text, path, LIMITS) as mine:
            mine.ask("define", text, str(path), Path(beside.__file__).read_text(encoding="utf-8"))
            yield lambda part, name, *arguments: mine.ask("call", part, name, arguments, {})
    except Ended as ended:
        raise ValueError(f"{path}: {ended.verdict.diagnosis}") from None
    except Exception as error:
        if not hasattr(error, "line"):  # not from the learner's process
            raise
        place = f"{path}, line {error.line} ({code_at(text, error.line)})"
        raise ValueError(f"{place}: {type(error).__name__}: {error}") from None


def train(call: Call, folder: Path) -> None:
    """Train our model and the learner's on the same batches, from the same weights, and compare the losses. Our trained
    model is saved in the folder.
    """
    tokenizer, tokens = in_gpt.corpus()
    manual_seed(0)
    model = GPT(GPTConfig(vocab_size=len(tokenizer), **in_gpt.SHAPE))  # type: ignore[arg-type]
    length = model.config.block_size
    compare(call, model, folder.name, tokens[:length].tolist())
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    schedule = optim.WarmupCosine(optimizer, STEPS // 10, STEPS)
    begins = np.random.default_rng(0).integers(0, len(tokens) - length, (STEPS, BATCH))
    gradients: list[dict[str, np.ndarray]] = []

    def kept(*arguments: Any) -> Any:
        """Compute the gradients of a step, and keep them as Hugging Face would store them."""
        result = mean_gradients(*arguments)
        gradients.append(stored(model, {name: p.grad for name, p in model.named_parameters()}))
        return result

    windows = tokens[begins[..., None] + np.arange(length + 1)]
    steps = [training_step(model, [(w[:, :-1], w[:, 1:])], in_gpt.mean_loss, optimizer, schedule, 1.0, kept)
             for w in windows]  # fmt: skip
    rates, theirs = [step.lr for step in steps], [step.loss for step in steps]
    losses = call("train", "learn", tokens, begins.tolist(), length, rates, gradients)
    if found := comparing.difference(losses, theirs, 1e-5):
        problem = words.of_difference(found, "your loss", 1e-5)
        raise ValueError(f"{problem} (of the library's model after as many steps): look at train and batch")
    in_gpt.show_losses(theirs, losses)
    model.save_pretrained(folder, tokenizer)


def take(call: Call, source: StrPath, prompt: str, load: Load) -> bool:
    """Give a model's weights to the learner's program, compare the two, and let both write. Returns whether it ran."""
    try:
        source = hub.find(source)
        model, tokenizer = load(source)
    except (OSError, ImportError) as error:
        print(f"{source} is skipped: {error}")
        return False
    ids = tokenizer.encode(prompt)
    stop = []
    if not isinstance(model, GPT):
        template = ChatTemplate(tokenizer)
        ids, _ = template.encode([{"role": "user", "content": prompt}], add_generation_prompt=True)
        stop = template.stop_tokens
    compare(call, model, Path(source).name, ids)
    right = model.generate([ids], NEW_TOKENS, temperature=0, stop_tokens=stop)[0]
    print(f"  {prompt}\n   ours:  {tokenizer.decode(right)}\n   yours: ", end="", flush=True)
    for place, token in enumerate(right):
        found = call("gpt", "following", ids + right[:place])
        print(tokenizer.decode([found]), end="" if found == token else "\n", flush=True)
        if found != token:
            raise ValueError(f"yours writes token {found}, where ours writes {token}")
    print("\n  (this model has learned too little to write words)" * (right == right[:1] * NEW_TOKENS))
    return True


def compare(call: Call, model: LanguageModel, title: str, ids: list[int]) -> None:
    """Give a model's weights to the learner's program, and compare all that the two compute for a text."""
    for name, array in stored(model, {name: p.data for name, p in model.named_parameters()}).items():
        call("gpt", "keep", name, np.broadcast_to(array, array.shape))  # the same numbers, which cannot be written to
    call("gpt", "load", model.config.n_layer, model.config.n_head)
    rows = differences(call("gpt", "states", np.array([ids])), states(model, ids))
    if row := first_wrong(rows, TOLERANCE["float32"]):
        raise ValueError(
            f"{title}: your {row.name} differs first from ours, by {row.relative:.0e} of its standard deviation "
            "(nan: or in its shape). What it reads is right, and each of your parts has passed alone: does it also "
            "work in float32, and do two of your files define the same name?"
        )
    print(f"{title}: the {len(rows)} states of a text, from the embeddings to the logits, equal ours")


def stored(model: LanguageModel, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """Copies of the arrays of a GPT's parameters as Hugging Face stores them. Those of a Llama, which are not copied,
    get the names that the learner's gpt knows.
    """
    if isinstance(model, GPT):
        rows = gpt2_huggingface.rows(model.config)
        return {row.theirs: np.array(arrays[row.ours].T if row.transposed else arrays[row.ours]) for row in rows}
    pairs = ((name.removeprefix("model."), array) for name, array in arrays.items())
    return {name.replace("layers.", "blocks.").replace("embed_tokens.weight", "tokens"): array for name, array in pairs}


def states(model: LanguageModel, ids: list[int]) -> dict[str, np.ndarray]:
    """The same as `beside.states`, of our model."""
    names = model.names
    first = "drop" if isinstance(model, GPT) else "embed_tokens"
    modules = {"embeddings": first} | {f"block {i}": f"{names.blocks}.{i}" for i in range(model.config.n_layer)}
    with no_grad(), record_activations(model, [f"{names.body}.{module}" for module in modules.values()]) as found:
        logits = model([ids]).data
    return {place: found[f"{names.body}.{module}"] for place, module in modules.items()} | {"logits": logits}
