"""A recorded training step as data for its page: everything that explain.js draws, in a form that JSON can hold.

Arrays of at most `limit` numbers are in the data whole, as base64 of their bytes, so the page shows exactly what the
run computed. Of larger ones there are the shape, the statistics and the first rows and columns. The limit is as large
as fits into PAGE bytes.
"""

import inspect
import itertools
import json
import linecache
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigrad.functional.attention import ScaledDotProductAttention, hide, softmax_or_zeros
from minigrad.inspection.layout import Box, Edge, place
from minigrad.inspection.recorder import Call, Recording, Value
from scripts.pages.formula import formulas
from scripts.pages.markup import python_to_html
from scripts.shared.web_page import packed

PAGE = 4_000_000  # bytes of ops and arrays
LIMITS = (65536, 16384, 4096, 1024, 256, 64)
LETTER = 6.0  # pixels, of the graph's labels
Inside = tuple[dict[str, Value], dict[str, Value]]  # of an op in forward and in backward
ROOT = Path(__file__).resolve().parents[2]


def explain_data(recording: Recording, title: str, ids: list[int], vocabulary: Sequence[str]) -> dict[str, Any]:
    """The whole data of a page. ids: of the text. vocabulary: the texts of all tokens."""
    inside = [inside_attention(call, recording) for call in recording.calls]
    read: Any = recording.calls[0].inputs[0]  # (B, T): a model begins by looking up the embeddings of its tokens
    optimizer: Any = recording.optimizer
    for limit in LIMITS:
        table = Table(limit)
        calls = [call_data(call, matrices, table) for call, matrices in zip(recording.calls, inside, strict=True)]
        updates = [
            {
                "name": update.name,
                "label": f"{optimizer.__name__} {short(update.name)}",
                **{name: table.add(getattr(update, name)) for name in ("before", "gradient", "clipped", "after")},
                "state": {k: table.add(v) for k, v in update.state.items() if isinstance(v, Value)},
                "t": update.state.get("step"),
                "settings": update.settings,
            }
            for update in recording.updates
        ]
        if len(json.dumps([calls, table.rows])) <= PAGE:
            break
    return {
        "title": title,
        "tokens": [vocabulary[i] for i in ids],
        "read": [[vocabulary[i] for i in row] for row in read.array],
        "vocabulary": list(vocabulary) if len(vocabulary) <= LIMITS[2] else [],
        "calls": calls,
        "values": table.rows,
        "functions": {call.function.__name__: function_data(call.function) for call in recording.calls},
        "updates": updates,
        "rule": rule_data(optimizer),
        "norm": recording.norm,
        "max_norm": recording.max_norm,
        "limit": limit,
        "graph": graph_data(recording),
    }


class Table:
    """Values, each once; others refer to them by number."""

    def __init__(self, limit: int):
        self.limit = limit
        self.rows: list[dict[str, Any]] = []
        self.numbers: dict[Value, int] = {}

    def add(self, value: Value | None) -> int | None:
        if value is None:
            return None
        if value not in self.numbers:
            self.numbers[value] = len(self.rows)
            is_whole = value.array is not None and value.array.size <= self.limit
            shown: Any = value.array if is_whole else value.corner
            row: dict[str, Any] = {"shape": value.shape, "name": value.name, "made_by": value.made_by}
            row |= {"dtype": str(value.dtype), "data": packed(shown)}
            if not is_whole:
                row["corner"] = value.corner.shape
                row["statistics"] = {k: x if np.isfinite(x) else str(x) for k, x in value.statistics.items()}
            self.rows.append(row)
        return self.numbers[value]


def call_data(call: Call, inside: Inside, table: Table) -> dict[str, Any]:
    """One op, with its place in the code, its derivatives, and which of its inputs its output is a sum of."""
    small = call.jacobian if table.limit > LIMITS[-1] else None
    return {
        "op": call.function.__name__,
        "label": label(call),
        "inside": [{name: table.add(value) for name, value in half.items()} for half in inside],
        "names": call.names,
        "inputs": [table.add(value) for value in call.inputs],
        "outputs": [table.add(value) for value in call.outputs],
        "options": {name: repr(option) for name, option in call.options.items() if option is not None},
        "where": [
            {**place._asdict(), "path": shown_path(place.path), "text": linecache.getline(*place[:2]).strip()}
            for place in call.where
        ],
        "jacobian": {i: packed(rows) for i, rows in small.items()} if small else None,
        "terms": terms(call),
        "order": call.order,
        "douts": [table.add(value) for value in call.douts],
        "dinputs": [table.add(value) for value in call.dinputs],
    }


def label(call: Call) -> str:
    """The op and the module whose parameter it uses: "Linear h.0.attn.c_attn"."""
    names = [value.name for value in call.inputs if value is not None and value.name]
    return " ".join([call.function.__name__, *(short(name.rpartition(".")[0]) for name in names[:1])])


def short(name: str) -> str:
    """A module's or parameter's name without that of the whole model."""
    return re.sub(r"^(policy\.)?(transformer|model)\.", "", name)


def inside_attention(call: Call, recording: Recording) -> Inside:
    """The matrices (..., T, S) that attention computes on its way: scores and probs, and in backward their gradients.

    A model that is loaded is in evaluation mode, without the dropout that would come between probs and out.
    """
    arrays: list[Any] = [value.array for value in (*call.inputs, *call.douts) if value is not None]
    if call.function is not ScaledDotProductAttention or any(array is None for array in arrays):
        return {}, {}
    q, k, v = arrays[:3]
    mask = call.inputs[3] and call.inputs[3].array
    scores = hide(q @ k.swapaxes(-1, -2) * call.options["scale"], mask, call.options["is_causal"])
    probs = softmax_or_zeros(scores)
    forward = {"scores": recording.value(scores), "probs": recording.value(probs)}
    if call.order is None:
        return forward, {}
    dprobs = arrays[-1] @ v.swapaxes(-1, -2)
    dscores = probs * (dprobs - (dprobs * probs).sum(axis=-1, keepdims=True))
    return forward, {"dprobs": recording.value(dprobs), "dscores": recording.value(dscores)}


def terms(call: Call) -> list[int] | None:
    """The inputs that every output number is a sum of, each number times its derivative: out = Σ d out/d x * x.

    This holds where the op is linear in these inputs together: in x for x * y, in x and bias for x @ weightᵀ + bias.
    """
    jacobian: dict[int, np.ndarray] = call.jacobian or {}
    inputs: dict[int, Any] = {i: call.inputs[i] for i in jacobian}
    if not jacobian or any(value.array is None for value in inputs.values()):
        return None
    out = np.concatenate([flat(value) for value in call.outputs])
    parts = {i: jacobian[i].astype(np.float64) @ flat(value) for i, value in inputs.items()}
    for count in (1, 2, len(parts)):
        for chosen in itertools.combinations(parts, count):
            total = sum(parts[i] for i in chosen)
            if np.allclose(total, out, rtol=1e-4, atol=1e-6 * (1 + np.abs(out).max())):
                return list(chosen)
    return None


def flat(value: Any) -> np.ndarray:
    """The numbers of an array that was kept, one after the other."""
    return value.array.reshape(-1).astype(np.float64)


def shown_path(path: str) -> str:
    """The path relative to the project if the file is in it, else the name of the file."""
    return Path(path).relative_to(ROOT).as_posix() if Path(path).is_relative_to(ROOT) else os.path.basename(path)


def function_data(function: Any) -> dict[str, Any]:
    """Formulas and source of an op."""
    backward = source_data(function.backward) if hasattr(function, "backward") else None
    return {"formulas": formulas(function), "forward": source_data(function.forward), "backward": backward}


def rule_data(optimizer: Any) -> dict[str, Any]:
    """Formulas and source of an optimizer's rule. AdamW has its own formula, and the rest from Adam."""
    lines = [line for cls in optimizer.__mro__ for line in formulas(cls)[0]]
    return {"formulas": lines, "update": source_data(optimizer.update)}


def source_data(half: Any) -> dict[str, Any]:
    """Where a function is and its lines in color."""
    lines, first = inspect.getsourcelines(half)
    html = python_to_html(inspect.cleandoc("\n" + "".join(lines)))
    return {"path": shown_path(inspect.getsourcefile(half) or ""), "line": first, "html": html}


def graph_data(recording: Recording) -> dict[str, Any]:
    """The graph: a box for each op with its label, a small one for each parameter, and the arrows between them."""
    boxes: dict[Any, Box] = {}
    edges = []
    for call in recording.calls:
        sources: list[Any] = []
        for value in call.inputs:
            if value is not None and value.made_by is not None:
                sources.append(value.made_by[0])
            elif value is not None and value.name:
                boxes.setdefault(value.name, Box(15.0, 15.0, 0.1))
                sources.append(value.name)
        boxes[call.number] = Box(LETTER * len(label(call)) + 10, 19.0, 1.0)
        edges += [Edge(boxes[source], boxes[call.number]) for source in sources]
    width, height = place(list(boxes.values()), edges, 6.0, 15.0)
    lines = []
    for edge in edges:
        (source, _), *bends, (target, _) = edge.stops()
        middle = [(bend.x, bend.y) for bend, _ in bends]
        lines.append([(source.x, source.y + source.height), *middle, (target.x, target.y)])
    drawn = [
        {"key": key, "x": b.x - b.width / 2, "y": b.y, "width": b.width, "height": b.height} for key, b in boxes.items()
    ]
    return {"width": width, "height": height, "boxes": drawn, "lines": lines}
