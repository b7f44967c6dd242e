"""Is it the same function? Compare every step of a model with a reference, so a mistake shows where it is.

A parameter count shows that the parts have the right sizes. It cannot find a matrix that was transposed, an epsilon of
another model, or two blocks that were exchanged. The computation shows these: on the same tokens every activation must
be the same, from the embeddings through each block to the logits, and so must the gradient of every parameter. The
first activation that differs names the wrong part, because all inputs of that part are right.

A reference is a `Trace` from other software (scripts/compare_torch.py makes one with transformers), stored in an .npz
file or computed on the spot. Compare in float64, where rounding hides nothing.
"""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gpt.files import StrPath, atomic_write, open_regular
from gpt.interpretability.activations import hooked
from gpt.model.language_model import LanguageModel, architecture_of, from_settings, to_settings
from gpt.model.structure import Names
from gpt.model_config import Settings
from minigrad import Tensor, nn, no_grad
from minigrad.backend import to_numpy
from minigrad.nn.module import evaluating
from minigrad.notebook import NotebookReport

# How far apart two right computations may be, as a part of the standard deviation of what they compute.
TOLERANCE = {"float64": 1e-7, "float32": 1e-3}


class Stage(NamedTuple):
    """A place to compare: the output (or input) of a module, what it is, and what to suspect if it differs."""

    name: str
    module: str
    meaning: str
    suspect: str
    of_input: bool = False


_EMBEDDING = "its table, and the ids that it is given"
_NORM = "its weight, its bias, epsilon; the order of the blocks"
_LINEAR = "its weight (transposed?) and its bias"
_OUTPUT = "what is added to the residual stream, and what is normalized"
_GELU = "which GELU: GPT-2 takes the tanh form"
_ATTENTION = "the scale 1/sqrt(D), the mask, the order of heads"
_RMS_NORM = "its weight and epsilon; the order of the blocks"
_ROWS = "its weight, and the order of its rows"
_ROTATION = "the rotation (direction, pairs, theta), which heads share keys, the scale, the mask"
_GATED = "which of the two goes through silu"
_LOGITS = Stage("logits", "lm_head", "scores of the next token", "whether the output layer is tied")

# Three lists for each architecture: before the blocks, in a block, and after the blocks, in the order in which they
# compute. An input is taken where the step before it is not a module: attention itself, and the activation function.
# fmt: off
_GPT2_START = [
    Stage("wte",           "wte",              "token embeddings",         _EMBEDDING),
    Stage("wpe",           "wpe",              "position embeddings",      _EMBEDDING),
    Stage("embeddings",    "drop",             "the two added",            "how they are added"),
]
_GPT2_BLOCK = [
    Stage("ln_1",          "ln_1",             "first layer norm",         _NORM),
    Stage("attn.c_attn",   "attn.c_attn",      "queries, keys and values", _LINEAR),
    Stage("attn.heads",    "attn.c_proj",      "what the heads found",     _ATTENTION, of_input=True),
    Stage("attn",          "attn",             "attention's output",       "c_proj: " + _LINEAR),
    Stage("ln_2",          "ln_2",             "second layer norm",        _NORM),
    Stage("mlp.c_fc",      "mlp.c_fc",         "the MLP's first layer",    _LINEAR),
    Stage("mlp.gelu",      "mlp.c_proj",       "GELU of it",               _GELU, of_input=True),
    Stage("mlp",           "mlp",              "the MLP's output",         "c_proj: " + _LINEAR),
    Stage("",              "",                 "what leaves the block",    _OUTPUT),
]
_GPT2_NORM = [Stage("ln_f", "ln_f",            "last layer norm",          _NORM)]

_LLAMA_START = [Stage("embed_tokens", "embed_tokens", "token embeddings",      _EMBEDDING)]
_LLAMA_BLOCK = [
    Stage("input_layernorm",  "input_layernorm",  "first norm",              _RMS_NORM),
    Stage("self_attn.q_proj", "self_attn.q_proj", "queries, not turned yet", _ROWS),
    Stage("self_attn.k_proj", "self_attn.k_proj", "keys, not turned yet",    _ROWS),
    Stage("self_attn.v_proj", "self_attn.v_proj", "values",                  "its weight"),
    Stage("self_attn.heads",  "self_attn.o_proj", "what the heads found",    _ROTATION, of_input=True),
    Stage("self_attn",        "self_attn",        "attention's output",      "o_proj: its weight"),
    Stage("post_attention_layernorm", "post_attention_layernorm", "second norm", _RMS_NORM),
    Stage("mlp.gate_proj",    "mlp.gate_proj",    "the gate",                "its weight"),
    Stage("mlp.up_proj",      "mlp.up_proj",      "what the gate lets pass", "its weight"),
    Stage("mlp.gated",        "mlp.down_proj",    "SwiGLU of them",          _GATED, of_input=True),
    Stage("mlp",              "mlp",              "the MLP's output",        "down_proj: its weight"),
    Stage("",                 "",                 "what leaves the block",   _OUTPUT),
]
_LLAMA_NORM = [Stage("norm", "norm",               "last norm",               _RMS_NORM)]
# fmt: on
_STAGES = {"gpt2": (_GPT2_START, _GPT2_BLOCK, _GPT2_NORM), "llama": (_LLAMA_START, _LLAMA_BLOCK, _LLAMA_NORM)}


def stages(config: Settings) -> list[Stage]:
    """All places to compare in a model of this configuration, by the names of our modules (`LanguageModel.names`)."""
    architecture = architecture_of(config)
    names = architecture.names
    start, block, last = _STAGES.get(architecture.model_type) or plain_stages(names)
    if getattr(config, "norm", "pre") == "post":  # the last block ends with a norm
        last = []

    def placed(stage: Stage, inside: str = "") -> Stage:
        name, module = (f"{inside}{part}".rstrip(".") for part in (stage.name, stage.module))
        return stage._replace(name=name, module=f"{names.body}.{module}")

    blocks = [placed(stage, f"{names.blocks}.{layer}.") for layer in range(config.n_layer) for stage in block]
    return [*map(placed, start), *blocks, *map(placed, last), _LOGITS]


def plain_stages(names: Names) -> tuple[list[Stage], list[Stage], list[Stage]]:
    """The stages of an architecture without lists above: the outputs of its embeddings, layers, blocks and norm."""

    def outputs(*parts: str) -> list[Stage]:
        return [Stage(part, part, f"output of {part or 'the block'}", "its weights and its input") for part in parts]

    return outputs(*names.embeddings), outputs(*names.layers, ""), outputs(names.norm)


@dataclasses.dataclass
class Trace:
    """All results of a model for a batch.

    ids, targets: (B, T). activations: by the names of `stages`, in the order of computation. loss: the mean
    cross-entropy. gradients: those of the loss, by parameter name, in the order of backward. continuation: the greedy
    continuation of each row of ids.
    """

    ids: np.ndarray
    targets: np.ndarray
    activations: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    loss: float
    continuation: list[list[int]]


def trace(model: LanguageModel, ids: np.ndarray, targets: np.ndarray, new_tokens: int = 8) -> Trace:
    """Run a language model on ids (B, T), without dropout: first with hooks for the activations, then without hooks for
    loss and gradients.

    The second run equals that of training, with the selected kernels. No gradients are left behind.
    """
    with evaluating(model):
        activations = _activations(model, ids)
        model.zero_grad()
        loss = model.loss(ids, targets)
        loss.backward()
        # In the order of backward, the last parameter first: a wrong backward shows in the first that differs.
        parameters = reversed(list(model.named_parameters()))
        gradients = {name: to_numpy(p.grad) for name, p in parameters if p.grad is not None}
        model.zero_grad()
        room = max(model.config.block_size - ids.shape[1], 0)
        continuation = model.generate(ids, min(new_tokens, room), temperature=0)
    return Trace(ids, targets, activations, gradients, loss.item(), continuation)


def _activations(model: LanguageModel, ids: np.ndarray) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def keep(stage: Stage, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        if stage.name.endswith("mlp.c_fc"):  # which applies GELU as well; what is compared comes before it
            output = module.forward(*arguments)
        found[stage.name] = to_numpy((arguments[0] if stage.of_input else output).data)

    with no_grad(), hooked(model, {stage.module: partial(keep, stage) for stage in stages(model.config)}):
        model(ids)
    return found


# --- comparing --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest difference of an array from the reference, and the standard deviation of the reference."""

    name: str
    shape: tuple[int, ...]
    largest: float
    spread: float

    @property
    def relative(self) -> float:
        return self.largest / self.spread

    def exceeds(self, tolerance: float) -> bool:
        return not self.relative <= tolerance  # nan exceeds everything


def differences(ours: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> list[Difference]:
    """One row per array of ours, in order. An array that the reference lacks, or has in another shape, differs by inf.

    >>> row, = differences({"x": np.array([1.0, 2.0, 3.5])}, {"x": np.array([1.0, 2.0, 3.0])})
    >>> row.largest, round(row.relative, 2)
    (0.5, 0.61)
    """
    rows = []
    for name, array in ours.items():
        expected = reference.get(name)
        if expected is None or expected.shape != array.shape:
            rows.append(Difference(name, array.shape, np.inf, 1.0))
            continue
        distance = np.abs(np.subtract(array, expected, dtype=np.float64))
        spread = float(np.std(expected, dtype=np.float64)) or float(np.abs(expected).max(initial=0)) or 1.0
        rows.append(Difference(name, array.shape, float(distance.max(initial=0)), spread))
    return rows + [Difference(name, reference[name].shape, np.inf, 1.0) for name in reference.keys() - ours.keys()]


def first_wrong(rows: list[Difference], tolerance: float) -> Difference | None:
    """The first row whose difference exceeds `tolerance` times the spread; None if there is none."""
    return next((row for row in rows if row.exceeds(tolerance)), None)


def table(rows: list[Difference], tolerance: float) -> str:
    """The rows as text. Rows that exceed the tolerance are marked, the first of them twice."""
    first = first_wrong(rows, tolerance)
    width = max([12, *(len(row.name) for row in rows)])
    lines = [f"{'':{width}}  {'shape':>16}  {'largest difference':>18}  {'of the spread':>13}"]
    for row in rows:
        mark = "  <-- the first that differs" if row is first else "  <-- differs" if row.exceeds(tolerance) else ""
        shape = " x ".join(map(str, row.shape))
        lines.append(f"{row.name:{width}}  {shape:>16}  {row.largest:18.1e}  {row.relative:13.1e}{mark}")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Comparison(NotebookReport):
    """A trace compared with a reference. `print` shows every row; `problem()` describes the first problem, or None."""

    ours: Trace
    reference: Trace
    config: Settings
    tolerance: float

    def activations(self) -> list[Difference]:
        return differences(self.ours.activations, self.reference.activations)

    def gradients(self) -> list[Difference]:
        return differences(self.ours.gradients, self.reference.gradients)

    def __str__(self) -> str:
        parts = [
            "activations, in the order of forward\n" + table(self.activations(), self.tolerance),
            "gradients of the parameters, in the order of backward\n" + table(self.gradients(), self.tolerance),
            f"loss          {self.ours.loss:.9f}   reference {self.reference.loss:.9f}",
        ]
        for ours, reference in zip(self.ours.continuation, self.reference.continuation):
            parts[-1] += f"\ncontinuation  {ours}   reference {reference}"
        return "\n\n".join(parts)

    def problem(self) -> str | None:
        """A sentence about the first difference and where to look, or None if everything agrees."""
        if row := first_wrong(self.activations(), self.tolerance):
            stage = next((stage for stage in stages(self.config) if stage.name == row.name), None)
            if stage is None or not np.isfinite(row.largest):
                return f"the activation {row.name} has no finite counterpart of the shape {row.shape}"
            where = f"the first activation that differs is {row.name} ({stage.meaning})"
            return f"{where}: what goes into it is right, so look at {stage.suspect}"
        if not abs(self.ours.loss - self.reference.loss) <= self.tolerance * abs(self.reference.loss):
            return "all activations agree, but the loss does not: look at the cross-entropy and its kernels"
        if row := first_wrong(self.gradients(), self.tolerance):
            where = f"in backward, the first gradient that differs is that of {row.name}"
            look = "look at the backward of the op that uses it, and of the op after it"
            return f"all activations agree, but {where}: {look}"
        if self.ours.continuation != self.reference.continuation:
            return "activations and gradients agree, but the greedy continuation differs: look at the KV cache"
        return None


# --- files ------------------------------------------------------------------------------------------------------------


def save_trace(path: StrPath, trace: Trace, config: Settings) -> None:
    """Write a reference as .npz: config (JSON), ids, targets, loss, continuation, activation/NAME, gradient/NAME."""
    arrays: dict[str, Any] = {"config": json.dumps(to_settings(config)), "ids": trace.ids, "targets": trace.targets}
    arrays |= {"loss": trace.loss, "continuation": np.array(trace.continuation, np.int64)}
    arrays |= {f"activation/{name}": array for name, array in trace.activations.items()}
    arrays |= {f"gradient/{name}": array for name, array in trace.gradients.items()}
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def load_trace(path: StrPath) -> tuple[Trace, Any]:
    """Load what `save_trace` has written. Raises ValueError for any other file, or a damaged one."""
    try:
        with open_regular(path) as opened, np.load(opened, allow_pickle=False) as file:
            arrays = dict(file)
        config = from_settings(json.loads(str(arrays["config"])))

        def named(kind: str) -> dict[str, np.ndarray]:
            return {key.removeprefix(kind): array for key, array in arrays.items() if key.startswith(kind)}

        results = named("activation/"), named("gradient/"), float(arrays["loss"]), arrays["continuation"].tolist()
        return Trace(arrays["ids"], arrays["targets"], *results), config
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a reference from --save-reference, or is damaged ({error})") from None
