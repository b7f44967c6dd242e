"""The reward: the learner's parts at work in a GPT, with its loss beside that of the library's parts.

Two models with the same weights see the same batches; one runs with the learner's parts in it. Some of the exercises'
ops are inside fused ones in GPT-2 (softmax inside attention, tanh inside GELU). Then both models run a form that is
taken apart into small ops.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import minigrad.functional as F
from gpt import GPT, GPTConfig, Tokenizer
from gpt.console import printable
from gpt.corpora.python_corpus import help_text
from gpt.files import write_text
from gpt.training.batches import RandomBatches
from gpt.training.training_step import training_step
from minigrad import Function, Tensor, manual_seed, optim, use_kernels
from minigrad.kernels.dispatch import textbook_functions

from . import my_gpt, source
from .checks import Kernel, Patch
from .workspace import Workspace

STEPS = {False: 80, True: 160}  # of one part, of all of them
SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 32}


# --- fused ops, taken apart -------------------------------------------------------------------------------------------


def attention(q: Any, k: Any, v: Any, mask: Any, is_causal: bool, scale: float, dropout_p: float, stream: Any) -> Any:
    """Attention, composed of matmul, mul, softmax and masked_fill; without a mask, as nothing here is padded."""
    scores = F.matmul(q, k.transpose(-1, -2)) * Tensor(np.full(q.shape[:-1] + k.shape[-2:-1], scale, q.dtype))
    if is_causal:
        scores = F.masked_fill(scores, Tensor(np.tri(scores.shape[-2], scores.shape[-1]) == 0), -math.inf)
    return F.matmul(F.softmax(scores, -1), v)


def gelu(x: Any, approximate: str) -> Any:
    """GELU, composed of tanh and mul."""
    u = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
    return x * (F.tanh(u) + 1.0) * 0.5


def layer_norm(x: Any, weight: Any, bias: Any, axes: Any, eps: float) -> Any:
    """Layer norm, composed of mean, mul and sqrt."""
    centered = x - F.mean(x, -1, keepdim=True)
    variance = F.mean(centered * centered, -1, keepdim=True)
    return centered / F.sqrt(variance + eps) * weight + bias


def cross_entropy(logits: Any, targets: Any, ignore_index: int, reduction: str) -> Any:
    """Cross-entropy, composed of log_softmax, mul and sum, as training here needs it: the mean over all targets."""
    onehot = np.arange(logits.shape[1]) == np.asarray(targets)[:, None]
    return F.sum(F.log_softmax(logits, 1) * Tensor(onehot.astype(logits.dtype))) * (-1 / len(onehot))


# op -> its form out of small ops; "op to another": another op in its place, which computes something else
APART: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": attention,
    "gelu": gelu,
    "gelu to relu": lambda x, approximate: F.relu(x),
    "layer_norm": layer_norm,
    "layer_norm to rms_norm": lambda x, w, b, axes, eps: F.rms_norm(x, x.shape[-1], w, eps) + b,
    "cross_entropy": cross_entropy,
}


# --- putting parts in -------------------------------------------------------------------------------------------------


def in_place_of(library: Any, written: Any, place: Kernel) -> Any:
    """An op: the learner's where it fits; elsewhere, for example for broadcasting, the library's."""

    class Chosen(library):
        @staticmethod
        def forward(ctx: Any, *arrays: Any, **options: Any) -> Any:
            ctx.chosen = written if place.fits(*arrays, **options) else library
            if ctx.chosen is written and place.arrange is not None:
                return written.forward(ctx, *place.arrange(*arrays, **options))
            return ctx.chosen.forward(ctx, *arrays, **options)

        @staticmethod
        def backward(ctx: Any, *douts: Any) -> Any:
            return tuple(ctx.chosen.backward(ctx, *douts))[: len(ctx.needs_grad)]

    return Chosen


class Parts:
    """The learner's parts: kernels by op, objects by dotted name, and the ops that are taken apart for them."""

    def __init__(self) -> None:
        self.kernels: dict[str, type[Function]] = {}
        self.patches: dict[str, Any] = {}
        self.apart: dict[str, Callable[..., Any]] = {}
        self.used: list[str] = []

    def add(self, name: str, place: Any, definitions: dict[str, Any]) -> None:
        """Add the parts that the file of one exercise defines, if they have a place in the GPT."""
        if place is None:
            return
        self.used.append(name)
        for part in place if isinstance(place, tuple) else (place,):
            written = definitions[part.name]
            if isinstance(part, Patch):
                self.patches |= dict.fromkeys(part.targets, part.adapt(written))
                continue
            self.kernels[part.op] = in_place_of(textbook_functions()[part.op], written, part)
            for form in part.takes:
                self.apart.setdefault(form.partition(" to ")[0], APART[form])

    @contextlib.contextmanager
    def installed(self, mine: bool) -> Iterator[None]:
        """Inside the block, fused ops are taken apart as the learner's parts need it; with `mine`, these are used."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(use_kernels("textbook"))
            for op in set(self.apart) - set(self.kernels):
                stack.enter_context(mock.patch.object(textbook_functions()[op], "apply", self.apart[op]))
            stack.enter_context(use_kernels(self.kernels if mine else {}))
            for target, new in self.patches.items() if mine else ():
                stack.enter_context(mock.patch(target, new))
            yield


# --- training ---------------------------------------------------------------------------------------------------------


@functools.cache
def corpus(mine: bool = False) -> tuple[Tokenizer, np.ndarray]:
    """The English that Python's `help()` prints, as tokens. mine: those that the learner's merge finds, if it is in."""
    text = help_text()
    tokenizer = Tokenizer.train([text], 384)
    return tokenizer, np.array(tokenizer.encode(text))


def mean_loss(model: GPT, batch: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, int, dict[str, Any]]:
    """The mean as one number, because the learner's cross-entropy computes the mean and not the sum."""
    return model.loss(*batch), 1, {}


def train(parts: Parts, mine: bool, steps: int) -> tuple[list[float], str]:
    """The loss of every step, and a sample of the model's text."""
    with parts.installed(mine):
        tokenizer, tokens = corpus(mine)
        manual_seed(0)
        positions = "sinusoidal" if "positions" in parts.used else "learned"
        dropout = 0.1 if "dropout" in parts.used else 0.0
        model = GPT(GPTConfig(vocab_size=len(tokenizer), dropout=dropout, positions=positions, **SHAPE))  # type: ignore[arg-type]
        use = next((name for name in ("adamw", "adam", "sgd") if name in parts.used), "adamw")
        settings = {"lr": 0.1, "momentum": 0.9} if use == "sgd" else {"lr": 3e-3}
        optimizer = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}[use](model.parameters(), **settings)
        schedule = optim.WarmupCosine(optimizer, steps // 10, steps)
        batches = RandomBatches(tokens, 8, SHAPE["block_size"], seed=0)
        losses = [training_step(model, [next(batches)], mean_loss, optimizer, schedule, max_norm=1.0).loss
                  for _ in range(steps)]  # fmt: skip
        new = model.generate([tokenizer.encode("The", textbook=True)], 40, temperature=0.8, top_p=0.95, seed=0)[0]
        return losses, " ".join(printable("The" + tokenizer.decode(new)).split())


def run(workspace: Workspace, names: list[str], out_dir: Path, whole: bool) -> int:
    """Train with the learner's parts and with the library's, and say how they compare; `whole`: write the page, too."""
    if not names:
        raise ValueError("no exercise has passed yet: start with `python scripts/exercise.py`")
    parts = Parts()
    for name in names:
        definitions, _ = source.define(workspace.passed_text(name), workspace.file(name))
        parts.add(name, workspace.exercise(name).place, definitions)
    if not parts.used and not whole:
        print(f"{names[0]} has no part in pretraining a GPT, so there is no curve to show: scripts/sft.py, reward.py, "
              "dpo.py, ppo.py, lora.py and quantize.py show what is done with one")  # fmt: skip
        return 0
    steps = STEPS[whole]
    print(f"Training a small GPT twice, {steps} steps each: with the library's parts, and with yours ...", flush=True)
    (theirs, _), (mine, text) = (train(parts, side, steps) for side in (False, True))
    worst = show_losses(theirs, mine)
    print(f"your parts in it: {', '.join(parts.used) or 'none'}")
    print(f"it writes: {text}")
    if whole:
        path = out_dir / "my_gpt.html"
        exercises = [workspace.exercise(name) for name in workspace.paths]
        write_text(path, my_gpt.html(exercises, names, parts.used, theirs, mine, text))
        print(f"the page: {path}")
    return 0 if worst < 0.1 else 1


def show_losses(theirs: list[float], mine: list[float]) -> float:
    """Print the losses of some steps side by side. Returns the largest difference of all."""
    steps = len(theirs)
    print(f"{'step':>6}  {'library':>9}  {'yours':>9}")
    for step in sorted({0, *range(max(steps // 8, 1) - 1, steps, max(steps // 8, 1))}):
        print(f"{step + 1:6}  {theirs[step]:9.4f}  {mine[step]:9.4f}")
    worst = max(abs(a - b) for a, b in zip(theirs, mine, strict=True))
    print(f"largest difference {worst:.1e}")
    return worst
