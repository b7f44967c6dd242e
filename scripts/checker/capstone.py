"""The capstone: the learner's own GPT, put together from the exercises, learns, takes real weights, becomes a Llama.

    1. it trains on a text, with the learner's loop: the losses are ours, step by step
    2. it takes the weights of a model in a Hugging Face folder, and GPT-2's: every layer computes what ours does
    3. with another block it is a Llama, takes SmolLM2's weights and answers

Each step compares with the library's model, and stops at the first thing that differs. The learner's program runs in a
process of its own as always (processes.py); beside.py runs there beside it.

Simplified: the exercises are forward only, so the gradients of step 1 are those of the engine. They are gradients of
the learner's model as long as its parameters are the same as ours, which the losses tell.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.chat_template import ChatTemplate
from finetune.export import export
from gpt import GPT, GPTConfig, LanguageModel, Tokenizer
from gpt.files import write_text
from gpt.interpretability.activations import record
from gpt.training.checkpoint import has_checkpoint
from gpt.training.loading import load_model
from gpt.training.training_step import mean_gradients, training_step
from gpt.weights import gpt2_huggingface, hub
from gpt.weights.pretrained import weight_files
from gpt.weights.safetensors_file import SafetensorsFile
from gpt.weights.verification import TOLERANCE, differences, first_wrong
from minigrad import manual_seed, no_grad, optim

from . import beside, comparing, in_gpt
from .processes import Ended, Limits, Submission
from .workspace import Workspace

PARTS = ("block", "gpt", "training_loop", "load_weights")
LIMITS = Limits(seconds=1800, megabytes=16384, message=2**30)
STEPS, BATCH, NEW_TOKENS = 100, 8, 20
QUESTION = "What is the capital of France?"
# What a Llama's tensors are called, and what your gpt calls them; the names within a block stay.
LLAMA_NAMES = (("model.embed_tokens.weight", "tokens"), ("model.layers.", "blocks."), ("model.norm.", "norm."))


class Program(Submission):
    """Some of the learner's parts as one program, in a process of its own."""

    def __enter__(self) -> Program:
        self.asked_for("define", self.text, str(self.path), Path(beside.__file__).read_text(encoding="utf-8"))
        return self

    def call(self, part: str, name: str, *arguments: Any) -> Any:
        """Call the function `name` of beside.py with one of the learner's functions."""
        return self.asked_for("call", part, name, arguments, {})

    def asked_for(self, *request: Any) -> Any:
        """The answer to a request. Raises ValueError, naming the line, for what goes wrong in the program."""
        try:
            return self.ask(*request)
        except Ended as ended:
            raise ValueError(f"{self.path}: {ended.verdict.diagnosis}") from None
        except Exception as error:
            line = getattr(error, "line", None)
            raise ValueError(f"{self.path}, line {line}: {type(error).__name__}: {error}") from None


def run(workspace: Workspace, out_dir: Path) -> int:
    """Take all steps. Raises ValueError with what is wrong, or what to write next."""
    started = program(workspace, PARTS, out_dir / "my_gpt")
    print("\n1. It trains ...", flush=True)
    with started() as mine, tempfile.TemporaryDirectory() as folder:
        model, tokenizer = train(mine)
        print("\n2. It takes weights from a Hugging Face folder ...", flush=True)
        demo = Path(folder, "demo")
        if has_checkpoint("runs/demo"):
            export("runs/demo", demo)
        else:
            print("(there is no runs/demo, which scripts/demo.py makes: the model of step 1 is taken)")
            model.save_pretrained(demo, tokenizer)
        take(started, demo, "The")
    take(started, "gpt2", "Alan Turing theorized that")
    print("\n3. It becomes a Llama ...", flush=True)
    take(program(workspace, ("gpt", "llama"), out_dir / "my_llama"), "smollm2", QUESTION)
    print("\nYou have written a GPT and a Llama.")
    return 0


def program(workspace: Workspace, parts: Sequence[str], path: Path) -> Callable[[], Program]:
    """Put the learner's files together in one, and write it. Returns what starts it."""
    for name in parts:
        if not workspace.has_passed(name):
            raise ValueError(f"the capstone needs your {name}, passed: next, python scripts/exercise.py start {name}")
    text = "\n\n".join(workspace.file(name).read_text(encoding="utf-8-sig") for name in parts)
    write_text(path.with_suffix(".py"), text)
    print(f"{', '.join(parts)} are one program: {path.with_suffix('.py')}", flush=True)
    return functools.partial(Program, text, path.with_suffix(".py"), LIMITS)


def train(program: Program) -> tuple[GPT, Tokenizer]:
    """Train our model and the learner's on the same batches, and compare the losses. Returns ours."""
    tokenizer, tokens = in_gpt.corpus()
    manual_seed(0)
    model = GPT(GPTConfig(vocab_size=len(tokenizer), **in_gpt.SHAPE))  # type: ignore[arg-type]
    config = model.config
    theirs: list[float] = []
    rates: list[float] = []
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    schedule = optim.WarmupCosine(optimizer, STEPS // 10, STEPS)
    steps = np.random.default_rng(0).integers(0, len(tokens) - config.block_size, (STEPS, BATCH))

    def stored(attribute: str) -> dict[str, Any]:
        """The parameters ("data") or their gradients ("grad") as Hugging Face stores them."""
        arrays = {name: getattr(p, attribute) for name, p in model.named_parameters()}
        rows = gpt2_huggingface.rows(config)
        return {row.theirs: arrays[row.ours].T if row.transposed else arrays[row.ours] for row in rows}

    def kept(*arguments: Any) -> Any:
        result = mean_gradients(*arguments)
        program.call("gpt", "keep", "gradients", len(theirs), stored("grad"))
        return result

    for name, array in stored("data").items():
        program.call("gpt", "keep", "tensors", name, array)
    program.call("load_weights", "load")
    for begins in steps:
        windows = tokens[begins[:, None] + np.arange(config.block_size + 1)]
        batch = windows[:, :-1], windows[:, 1:]
        step = training_step(model, [batch], in_gpt.mean_loss, optimizer, schedule, 1.0, kept)
        theirs.append(step.loss)
        rates.append(step.lr)
    shape = config.n_layer, config.n_head
    losses = program.call("train", "learn", tokens, steps.tolist(), config.block_size, rates, *shape)
    if problem := comparing.difference(losses, theirs, 1e-5, "your loss"):
        raise ValueError(f"{problem} (of the library's model after as many steps): look at train, and what it calls")
    in_gpt.show_losses(theirs, losses)
    return model.eval(), tokenizer


def take(started: Callable[[], Program], source: Any, prompt: str) -> None:
    """Put a model's weights into the learner's program, compare with our model layer by layer, and let both write."""
    try:
        source = hub.find(source)
        model, tokenizer = load_model(source)
    except (OSError, ImportError) as error:
        print(f"{source} is left out: {error}")
        return
    shape = model.config.n_layer, model.config.n_head
    with started() as program:
        if isinstance(model, GPT):
            for path in weight_files(source):
                with SafetensorsFile(path) as file:
                    for name in file.entries:
                        program.call("gpt", "keep", "tensors", name, file.read(name))
            program.call("load_weights", "load")
            ids, stop = tokenizer.encode(prompt), []
        else:
            for name, p in model.named_parameters():
                old, new = next(pair for pair in LLAMA_NAMES if name.startswith(pair[0]))
                program.call("gpt", "keep", "params", name.replace(old, new), p.data)
            template = ChatTemplate(tokenizer)
            ids, _ = template.encode([{"role": "user", "content": prompt}], add_generation_prompt=True)
            stop = template.stop_tokens
        ours, yours = states(model, ids), program.call("gpt", "states", np.array([ids]), *shape)
        rows = differences({name: np.asarray(yours.get(name)) for name in ours}, ours)
        if row := first_wrong(rows, TOLERANCE["float32"]):
            size = f"by {row.relative:.0e} of its standard deviation"
            raise ValueError(f"{source.name}: your {row.name} differs first from ours, {size}; what it reads is right")
        print(f"{source.name}: the {len(rows)} states of the prompt, from the embeddings to the logits, are as ours")
        written = program.call("gpt", "write", ids, NEW_TOKENS, stop, *shape)
    right = model.generate([ids], NEW_TOKENS, temperature=0, stop_tokens=stop)[0]
    if written[: len(right)] != right:
        raise ValueError(f"yours writes {tokenizer.decode(written)!r}, and ours {tokenizer.decode(right)!r}")
    print(f"  {prompt!r} -> {tokenizer.decode(written, skip_special_tokens=True)!r}", flush=True)


def states(model: LanguageModel, ids: list[int]) -> dict[str, np.ndarray]:
    """The same as `beside.states`, of our model."""
    names, first = model.names, "drop" if isinstance(model, GPT) else "embed_tokens"
    modules = {"embeddings": first} | {f"block {i}": f"{names.blocks}.{i}" for i in range(model.config.n_layer)}
    with no_grad(), record(model, [f"{names.body}.{module}" for module in modules.values()]) as found:
        logits = model([ids]).data
    return {place: found[f"{names.body}.{module}"] for place, module in modules.items()} | {"logits": logits}
