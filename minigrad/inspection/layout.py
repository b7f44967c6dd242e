"""Where to put the boxes of a graph: a small layered layout, after Sugiyama, Tagawa & Toda 1981.

1. Layers: each node one layer above the highest of those that use it, so as many layers above the result as the longest
   path there has edges: parameters stand beside the op that uses them.
2. Bends: an edge that crosses layers gets a narrow invisible node in each, so that no box is put on it.
3. Order within the layers: by the mean place of the neighbours in the layer above, then below, and again; the order
   with the fewest crossings wins.
4. x: each node wants to stand where its neighbours do; of all places without overlap, those with the least squared
   distance to the wishes are taken (isotonic regression). Then long edges are pulled straight where there is room.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

BEND_WIDTH = 10.0
ROUNDS = 12
INFINITY = float("inf")


@dataclass(eq=False)
class Box:
    """A node to place: its size, and after `place` its centre x, its top y, and the top and bottom of its layer."""

    width: float
    height: float
    pull: float = 1.0  # how much its neighbours want to stand in line with it
    is_bend: bool = False
    x: float = 0.0
    y: float = 0.0
    layer_top: float = 0.0
    layer_bottom: float = 0.0
    layer: int = 0
    order: float = 0.0
    above: list[Link] = field(default_factory=list)
    below: list[Link] = field(default_factory=list)


@dataclass(eq=False)
class Link:
    """A piece of an edge, from one layer to the next; `dx` is how far from the centre of its box each end is."""

    source: Box
    target: Box
    source_dx: float
    target_dx: float


@dataclass(eq=False)
class Edge:
    """An edge to draw, from the bottom of one box to the top of another; after `place`, through its bends."""

    source: Box
    target: Box
    source_dx: float = 0.0
    target_dx: float = 0.0
    bends: list[Box] = field(default_factory=list)


def place(boxes: list[Box], edges: list[Edge], gap_x: float = 18.0, gap_y: float = 34.0) -> tuple[float, float]:
    """Give each box its x and y, each edge its bends; `boxes` has sources before targets. Returns (width, height)."""
    _assign_layers(boxes, edges)
    layers: list[list[Box]] = [[] for _ in range(max(box.layer for box in boxes) + 1)]
    for box in boxes:
        layers[box.layer].append(box)
    for edge in edges:
        _link(edge, layers)
    _order(layers)
    _assign_x(layers, gap_x)
    _straighten(edges, layers, gap_x)
    left = min(box.x - box.width / 2 for layer in layers for box in layer)
    y = 0.0
    for layer in layers:
        height = max(box.height for box in layer)
        for box in layer:
            box.x -= left
            box.y = y + (height - box.height) / 2
            box.layer_top, box.layer_bottom = y, y + height
        y += height + gap_y
    return max(box.x + box.width / 2 for layer in layers for box in layer), y - gap_y


def _assign_layers(boxes: list[Box], edges: list[Edge]) -> None:
    users: dict[Box, list[Box]] = {box: [] for box in boxes}
    for edge in edges:
        users[edge.source].append(edge.target)
    for box in reversed(boxes):
        box.layer = min((user.layer for user in users[box]), default=0) - 1
    first = min(box.layer for box in boxes)
    for box in boxes:
        box.layer -= first


def _link(edge: Edge, layers: list[list[Box]]) -> None:
    source, dx = edge.source, edge.source_dx
    for layer in range(edge.source.layer + 1, edge.target.layer):
        bend = Box(BEND_WIDTH, 0.0, is_bend=True, layer=layer)
        layers[layer].append(bend)
        edge.bends.append(bend)
        _join(Link(source, bend, dx, 0.0))
        source, dx = bend, 0.0
    _join(Link(source, edge.target, dx, edge.target_dx))


def _join(link: Link) -> None:
    link.source.below.append(link)
    link.target.above.append(link)


# --- order within the layers ---


def _order(layers: list[list[Box]]) -> None:
    _number(layers)
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(2 * ROUNDS):
        if fewest == 0:
            break
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            wishes = {box: _mean_order(box, down) for box in layer}
            layer.sort(key=lambda box: wishes[box])  # noqa: B023 (used at once)
            _number([layer])
        crossings = _crossings(layers)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    layers[:] = best
    _number(layers)


def _number(layers: list[list[Box]]) -> None:
    for layer in layers:
        for i, box in enumerate(layer):
            box.order = i


def _mean_order(box: Box, down: bool) -> float:
    places = [_source_order(link) for link in box.above] if down else [_target_order(link) for link in box.below]
    return sum(places) / len(places) if places else box.order


def _source_order(link: Link) -> float:
    return link.source.order + link.source_dx / link.source.width


def _target_order(link: Link) -> float:
    return link.target.order + link.target_dx / link.target.width


def _crossings(layers: list[list[Box]]) -> int:
    """Pairs of links between the same layers whose ends are in opposite order."""
    total = 0
    for layer in layers[1:]:
        links = sorted((_source_order(link), _target_order(link)) for box in layer for link in box.above)
        seen: list[float] = []
        for _, target in links:
            total += len(seen) - bisect_left(seen, target + 1e-9)
            insort(seen, target)
    return total


# --- x ---


def _assign_x(layers: list[list[Box]], gap: float) -> None:
    for layer in layers:
        right = 0.0
        for box in layer:
            box.x = right + box.width / 2
            right += box.width + gap
    for sweep in range(2 * ROUNDS):
        both = sweep >= 2 * ROUNDS - 2
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            _settle(layer, gap, up_counts=down or both, down_counts=not down or both)


def _settle(layer: list[Box], gap: float, up_counts: bool, down_counts: bool) -> None:
    wishes, weights = [], []
    for box in layer:
        above, below = box.above if up_counts else [], box.below if down_counts else []
        pulls = [(link.source.pull, link.source.x + link.source_dx - link.target_dx) for link in above]
        pulls += [(link.target.pull, link.target.x + link.target_dx - link.source_dx) for link in below]
        total = sum(pull for pull, _ in pulls)
        wishes.append(sum(pull * x for pull, x in pulls) / total if total else box.x)
        weights.append((8.0 if box.is_bend else box.pull) if pulls else 0.01)  # who has no wish gives way
    apart = [(a.width + b.width) / 2 + gap for a, b in zip(layer, layer[1:], strict=False)]
    for box, x in zip(layer, spread(wishes, weights, apart), strict=True):
        box.x = x


def _straighten(edges: list[Edge], layers: list[list[Box]], gap: float) -> None:
    """Give the bends of each edge one x, as far down as the boxes beside them allow, then another one."""
    for edge in edges:
        run: list[Box] = []
        low, high = -INFINITY, INFINITY
        for bend in edge.bends:
            left, right = _room(bend, layers[bend.layer], gap)
            if max(low, left) > min(high, right):
                _align(run, low, high)
                run, low, high = [], -INFINITY, INFINITY
            run.append(bend)
            low, high = max(low, left), min(high, right)
        _align(run, low, high)


def _room(box: Box, layer: list[Box], gap: float) -> tuple[float, float]:
    """How far to the left and right the centre of `box` may move."""
    i = int(box.order)
    left = layer[i - 1].x + (layer[i - 1].width + box.width) / 2 + gap if i > 0 else -INFINITY
    right = layer[i + 1].x - (layer[i + 1].width + box.width) / 2 - gap if i + 1 < len(layer) else INFINITY
    return left, max(left, right)  # rounding may have taken the room away


def _align(run: list[Box], low: float, high: float) -> None:
    x = sum(box.x for box in run) / (len(run) or 1)
    for box in run:
        box.x = min(max(x, low), high)


def spread(wishes: list[float], weights: list[float], apart: list[float]) -> list[float]:
    """The x that minimise Σ weight (x - wish)² with x[i + 1] - x[i] >= apart[i].

    Without the distances, y[i] = x[i] - (apart[0] + ... + apart[i - 1]), this asks for rising y: those that are out
    of order are pooled and stand at their mean (the pool-adjacent-violators algorithm).

    >>> spread([0.0, 0.0, 10.0], [1.0, 1.0, 1.0], [4.0, 4.0])
    [-2.0, 2.0, 10.0]
    """
    offsets = [0.0]
    for distance in apart:
        offsets.append(offsets[-1] + distance)
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for wish, weight, offset in zip(wishes, weights, offsets, strict=True):
        mean, size = wish - offset, 1
        while pools and pools[-1][0] > mean:
            other, other_weight, other_size = pools.pop()
            mean = (mean * weight + other * other_weight) / (weight + other_weight)
            weight, size = weight + other_weight, size + other_size
        pools.append((mean, weight, size))
    ys = [mean for mean, _, size in pools for _ in range(size)]
    return [y + offset for y, offset in zip(ys, offsets, strict=True)]
