"""The graph behind a tensor as a list of nodes: leaves and ops, each after the nodes that it was computed from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autograd import Context, count_uses
from ..backend import Array, to_numpy
from .observers import input_names

Named = dict[tuple[Any, int], tuple[Any, str]]  # (leaf, 0) or (Context, output index) -> (tensor, name)


@dataclass(eq=False)
class Input:
    """One edge of the graph: an op's input, which is an output of another node, and its name in the op's forward."""

    source: Node
    output: int
    name: str


@dataclass(eq=False)
class Node:
    """An op (a Context), a leaf (a Tensor), or, with kind "rest", everything that the picture leaves out."""

    kind: str
    op: str
    outputs: list[tuple[tuple[int, ...], np.dtype]]
    name: str = ""
    inputs: list[Input] = field(default_factory=list)
    inputs_in_all: int = 0  # includes inputs that need no gradient, which are not in the graph
    notes: list[str] = field(default_factory=list)  # a value, a gradient

    @property
    def shapes(self) -> str:
        """Shape and dtype of each output; equal ones are written once, with their count."""
        each = [f"{shape} {dtype}" for shape, dtype in self.outputs]
        count = {one: each.count(one) for one in each}
        return ", ".join(f"{n} x {one}" if n > 1 else one for one, n in count.items())


@dataclass
class Graph:
    nodes: list[Node]
    result: Node
    released: bool  # backward has gone through it
    left_out: int  # ops that are not in `nodes`

    @property
    def title(self) -> str:
        ops, leaves = (sum(node.kind == kind for node in self.nodes) for kind in ("op", "leaf"))
        return f"{ops:,} op{'s' * (ops != 1)}, {leaves:,} {'leaf' if leaves == 1 else 'leaves'}"


def read_graph(tensor: Any, names: Any = None, limit: int = 300) -> Graph:
    """The graph behind `tensor`: the `limit` ops nearest to it, and their leaves.

    names: {tensor: "name"}, or a module, which names its parameters. Works before and after backward.
    """
    tensors = _named(tensor, names)
    root = tensor.grad_fn  # None for a leaf, which is then the whole graph
    order = consumers_first([root] if root else [])[::-1]
    shown = order[-limit:]
    rest = Node("rest", f"{len(order) - len(shown):,} ops before these are not shown", [])
    known: dict[Any, Node] = {}
    nodes: list[Node] = []

    def node_of(target: Any) -> Node:
        if target not in known:
            known[target] = _leaf(target, tensors) if target.is_leaf else rest
            if known[target] not in nodes:
                nodes.append(known[target])
        return known[target]

    for ctx in shown:
        node = Node("op", ctx.function.__name__, list(ctx.outputs), inputs_in_all=len(ctx.edges))
        for edge, name in zip(ctx.edges, input_names(ctx.function, len(ctx.edges))):
            if edge is not None:
                node.inputs.append(Input(node_of(edge[0]), edge[1], name))
        _describe(node, ctx, tensors)
        known[ctx] = node
        nodes.append(node)
    result = node_of(root or tensor)
    return Graph(nodes, result, root is not None and root.released, len(order) - len(shown))


def consumers_first(roots: list[Context]) -> list[Context]:
    """Every node that `roots` depend on, each after all nodes that use its outputs. This is the order of backward."""
    uses_left = count_uses(roots)
    ready = [node for node, count in uses_left.items() if count == 0]
    order = []
    while ready:
        order.append(ready.pop())
        for source in order[-1].nodes_before():
            uses_left[source] -= 1
            if uses_left[source] == 0:
                ready.append(source)
    return order


def _named(root: Any, names: Any) -> Named:
    """All tensors whose name or value is known."""
    if names is not None and not isinstance(names, Mapping):
        names = {parameter: name for name, parameter in names.named_parameters()}
    named = {root: "", **(names or {})}
    return {(tensor.grad_fn or tensor, tensor.output_index): (tensor, name) for tensor, name in named.items()}


def _leaf(tensor: Any, tensors: Named) -> Node:
    _, name = tensors.get((tensor, 0), (None, ""))
    node = Node("leaf", "leaf", [(tuple(tensor.shape), tensor.dtype)], name)
    node.notes = [*_value(tensor), *_gradient(tensor.grad)]
    return node


def _describe(node: Node, ctx: Any, tensors: Named) -> None:
    """Add the name, value and gradient of an op's results where they are known. The graph itself keeps no results."""
    named = [tensors[ctx, i] for i in range(len(ctx.outputs)) if (ctx, i) in tensors]
    node.name = ", ".join(name for _, name in named if name)
    kept = dict(ctx.retain_grad_of)
    for tensor, _ in named:
        kept.setdefault(tensor.output_index, tensor)
        node.notes += _value(tensor)
    for tensor in kept.values():
        node.notes += _gradient(tensor.grad)


def _value(tensor: Any) -> list[str]:
    return [f"value {tensor.item():.4g}"] if math.prod(tensor.shape) == 1 and tensor.dtype.kind in "biuf" else []


def _gradient(grad: Array | None) -> list[str]:
    """A gradient of one element is shown as a number, a larger one as its norm √(Σ g²)."""
    if grad is None:
        return []
    values = to_numpy(grad)
    if values.size == 1:
        return [f"grad {values.item():.4g}"]
    return [f"|grad| {np.linalg.norm(values.astype(np.float64).reshape(-1)):.4g}"]
