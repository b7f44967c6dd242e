"""The graph of a tensor as text, and as a picture."""

from __future__ import annotations

import os
from typing import Any

from .graph import Graph, Input, Node, read_graph
from .svg import svg_of


def draw(tensor: Any, path: str | os.PathLike[str] | None = None, names: Any = None, limit: int = 300) -> Drawing:
    """Show how `tensor` was computed: as text, or as a picture (SVG). Returns it, and writes it to `path` if given.

    A notebook shows the picture, also of the text.

    path: ends in .txt (text) or .svg (a picture for a browser). names: {tensor: "name"}, or a module, which names its
    parameters. limit: the number of ops shown, those nearest to `tensor`. Raises ValueError for another ending of
    `path`.

    The text has one line per node, below the nodes that it was computed from: forward reads down, backward up. In
    `x=%3`, x is the name of the input in the op's forward, and %3 is the node it came from. Inputs that need no
    gradient are not in the graph. Gradients are shown where they are kept: for leaves, and after `retain_grad()`.

        >>> from minigrad import Tensor
        >>> w, x = Tensor(3.0, requires_grad=True), Tensor(2.0, requires_grad=True)
        >>> y = w * x + w
        >>> y.backward()
        >>> print(draw(y, names={w: "w", x: "x", y: "y"}))
        2 ops, 2 leaves; forward reads down, backward up (it has run)
        w   leaf            () float32   value 3   grad 3
        x   leaf            () float32   value 2   grad 3
        %1  Mul(x=w, y=x)   () float32
        y   Add(x=%1, y=w)  () float32   value 9
    """
    ending = ".txt" if path is None else os.path.splitext(path)[1].lower()
    if ending not in (".txt", ".svg"):
        raise ValueError(f"draw: the path must end in .svg (a picture) or .txt, got {str(path)!r}")
    graph = read_graph(tensor, names, limit)
    drawn = svg_of(graph) if ending == ".svg" else text_of(graph)
    if path is not None:
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(drawn + "\n")
    return Drawing(drawn, graph)


class Drawing(str):
    """A drawn graph: the text, which a notebook shows as a picture."""

    _graph: Graph

    def __new__(cls, drawn: str, graph: Graph) -> Drawing:
        drawing = super().__new__(cls, drawn)
        drawing._graph = graph
        return drawing

    def _repr_svg_(self) -> str:
        return svg_of(self._graph)


def text_of(graph: Graph) -> str:
    """One line per node: its name, the op and the nodes it reads, shape and dtype, value and gradient."""
    labels = _labels(graph.nodes)
    rows = [(labels[node], _call(node, labels), node) for node in graph.nodes if node.kind != "rest"]
    first = max(len(label) for label, _, _ in rows)
    second = min(60, max(len(call) for _, call, _ in rows))
    lines = [f"{graph.title}; forward reads down, backward up{' (it has run)' * graph.released}"]
    if graph.left_out:
        lines.append(f"... {graph.left_out:,} ops before these are not shown")
    for label, call, node in rows:
        notes = "".join(f"   {note}" for note in node.notes)
        lines.append(f"{label:{first}}  {call:{second}}  {node.shapes}{notes}")
    return "\n".join(lines)


def _labels(nodes: list[Node]) -> dict[Node, str]:
    """The given names; without one, %1, %2, ... for ops and leaf1, leaf2, ... for leaves."""
    labels: dict[Node, str] = {}
    count = {"op": 0, "leaf": 0}
    for node in nodes:
        if node.kind == "rest":
            labels[node] = "..."
        elif node.name:
            labels[node] = node.name
        else:
            count[node.kind] += 1
            labels[node] = f"{'%' if node.kind == 'op' else 'leaf'}{count[node.kind]}"
    return labels


def _call(node: Node, labels: dict[Node, str]) -> str:
    if node.kind == "leaf":
        return "leaf"
    given = [_given(one, labels, named=node.inputs_in_all > 1) for one in node.inputs]
    return f"{node.op}({', '.join(given)})"


def _given(one: Input, labels: dict[Node, str], named: bool) -> str:
    source = labels[one.source] + (f"[{one.output}]" if len(one.source.outputs) > 1 else "")
    return f"{one.name}={source}" if named else source
