"""The positions of a graph's boxes: in layers, with every arrow pointing down.

1. Layers: each node is one layer above the highest of the nodes that use it.
2. Bends: an edge that crosses a layer gets a narrow invisible box there, a bend. It keeps a gap open for the arrow.
3. Order: from the result upward, each layer is sorted by which inputs of the layer below its boxes are.
4. x: each box should be in line with its neighbors. Sweeps up and down move the boxes there as far as there is room.

This is a simple form of the method of Sugiyama, Tagawa & Toda 1981. Graphviz also searches for the order with the
fewest crossings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

BEND_WIDTH = 10.0
BEND_RANK = 2.0
SWEEPS = 24


@dataclass(eq=False)
class Box:
    """A node to place: its size, and after `place` the x of its center and the y of its top."""

    width: float
    height: float
    rank: float  # if two boxes want the same place, the higher rank gets it
    x: float = 0.0
    y: float = 0.0
    packed: float = 0.0  # x if all boxes of its layer were packed to the left
    layer: int = 0  # counted from the bottom
    # Neighbors in the layers above and below, and how far to the right of them this box should be.
    above: list[tuple[Box, float]] = field(default_factory=list)
    below: list[tuple[Box, float]] = field(default_factory=list)


@dataclass(eq=False)
class Edge:
    """An arrow from the bottom of one box to the top of another. Each dx is the distance from the box's center."""

    source: Box
    target: Box
    source_dx: float = 0.0
    target_dx: float = 0.0
    bends: list[Box] = field(default_factory=list)  # filled by `place`

    def stops(self) -> list[tuple[Box, float]]:
        """The boxes that the arrow runs through, and its distance from the center of each."""
        return [(self.source, self.source_dx), *((bend, 0.0) for bend in self.bends), (self.target, self.target_dx)]


def place(boxes: list[Box], edges: list[Edge], gap_x: float, gap_y: float) -> tuple[float, float]:
    """Set x and y of each box and the bends of each edge. `boxes` has sources before targets. -> (width, height)."""
    _assign_layers(boxes, edges)
    layers: list[list[Box]] = [[] for _ in range(max(box.layer for box in boxes) + 1)]  # from the bottom up
    for box in boxes:
        layers[box.layer].append(box)
    for edge in edges:
        _add_bends(edge, layers)
    for layer, below in zip(layers, [[], *layers]):
        _sort(layer, below, gap_x)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 1  # the last sweep goes down: bends end up straight below where their arrow starts
        for layer in reversed(layers) if down else layers:
            _shift(layer, down)
    left = min(box.x - box.width / 2 for layer in layers for box in layer)
    y = 0.0
    for layer in reversed(layers):
        for box in layer:
            box.x -= left
            box.y = y
        y += max(box.height for box in layer) + gap_y
    return max(box.x + box.width / 2 for layer in layers for box in layer), y - gap_y


def _assign_layers(boxes: list[Box], edges: list[Edge]) -> None:
    targets: dict[Box, list[Box]] = {box: [] for box in boxes}
    for edge in edges:
        targets[edge.source].append(edge.target)
    for box in reversed(boxes):
        box.layer = max((target.layer + 1 for target in targets[box]), default=0)


def _add_bends(edge: Edge, layers: list[list[Box]]) -> None:
    for layer in layers[edge.source.layer - 1 : edge.target.layer : -1]:
        edge.bends.append(Box(BEND_WIDTH, 0.0, BEND_RANK))
        layer.append(edge.bends[-1])
    stops = edge.stops()
    for (upper, upper_dx), (lower, lower_dx) in zip(stops, stops[1:]):
        lower.above.append((upper, upper_dx - lower_dx))
        upper.below.append((lower, lower_dx - upper_dx))


def _sort(layer: list[Box], below: list[Box], gap: float) -> None:
    """Sort a layer in the order in which the layer below uses its boxes, and pack it to the left."""
    order = {box: i for i, box in enumerate(below)}
    places = {box: [order[target] + dx / target.width for target, dx in box.below] for box in layer}
    layer.sort(key=lambda box: sum(places[box]) / max(1, len(places[box])))
    right = 0.0
    for box in layer:
        box.packed = right + box.width / 2
        right += box.width + gap


def _shift(layer: list[Box], down: bool) -> None:
    """Move each box from its packed place toward the place it should have, boxes of high rank first.

    Boxes do not overlap as long as none is moved further right than the boxes on its right.
    """
    shifts: dict[Box, float] = {}
    for box in sorted(layer, key=lambda box: -box.rank):
        i = layer.index(box)
        low = max((shifts[other] for other in layer[:i] if other in shifts), default=-math.inf)
        high = min((shifts[other] for other in layer[i:] if other in shifts), default=math.inf)
        shifts[box] = min(max(_wanted_x(box, down) - box.packed, low), high)
        box.x = box.packed + shifts[box]


def _wanted_x(box: Box, down: bool) -> float:
    """The x that is in line with the neighbors above or below: their mean, weighted by rank."""
    neighbors = (box.above or box.below) if down else (box.below or box.above)
    ranks = sum(other.rank for other, _ in neighbors)
    return sum(other.rank * (other.x + dx) for other, dx in neighbors) / ranks if neighbors else 0.0
