"""A graph as a picture, without Graphviz: boxes and arrows in SVG, in the color of the text around them.

Arrows point in the direction of the forward pass. Ops have round corners, leaves are gray and have square corners, and
the result has a thick border. An op with several inputs names them at its top edge; an op with several outputs numbers
them at its bottom edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from .graph import Graph, Node
from .layout import Box, Edge, place

SIZE = {"op": 12, "text": 12, "port": 9}  # of the letters, in pixels
LINE = {"op": 15, "text": 15, "port": 12}  # from one line of text to the next
LETTER = 0.61  # width of a letter in a monospace font, relative to its size
MARGIN, PADDING, TITLE = 16, 9, 44
GAP_X, GAP_Y = 18, 34
STYLE = f"""<style>
text {{ font: {SIZE["text"]}px monospace; fill: currentColor }}
.op {{ font-weight: bold }}
.port {{ font-size: {SIZE["port"]}px; fill-opacity: 0.75 }}
.edge {{ fill: none; stroke: currentColor; marker-end: url(#arrow) }}
</style>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"
 markerUnits="userSpaceOnUse" orient="auto"><path fill="currentColor" d="M0 0.8 L8 4 L0 7.2 z"/></marker></defs>"""
SHAPE = {
    "op": 'rx="7" fill="none"',
    "leaf": 'fill="currentColor" fill-opacity="0.1"',
    "rest": 'rx="7" fill="none" stroke-dasharray="4 3"',
}
RANK = {"op": 1.0, "leaf": 0.1, "rest": 0.1}  # the chain of ops runs straight down, with parameters beside it


def svg_of(graph: Graph) -> str:
    """The SVG source."""
    boxes = {node: _box(node) for node in graph.nodes}
    edges = [edge for node in graph.nodes for edge in _edges(node, boxes)]
    width, height = place(list(boxes.values()), edges, GAP_X, GAP_Y)
    title = [f"{graph.title} (gray); arrows point forward{', backward has run' * graph.released}"]
    title += [f"{graph.left_out:,} ops before these are not shown"] * (graph.left_out > 0)
    width = max(width, *(len(line) * SIZE["text"] * LETTER for line in title)) + 2 * MARGIN
    height += 2 * MARGIN + TITLE
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        STYLE,
        *(f'<text x="{MARGIN}" y="{MARGIN + 10 + 16 * i}">{line}</text>' for i, line in enumerate(title)),
        f'<g transform="translate({MARGIN} {MARGIN + TITLE})" text-anchor="middle">',
        *(_edge_path(edge) for edge in edges),
        *(_node(node, box, is_result=node is graph.result) for node, box in boxes.items()),
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts)


# --- boxes ---


def _rows(node: Node) -> list[tuple[str, list[str]]]:
    """The lines of text in a box, each with its class. A line of ports has one text per arrow."""
    heading = node.op if node.kind != "leaf" else node.name or "leaf"
    name = [node.name] if node.name and node.kind == "op" else []
    rows = [("op" if node.kind == "op" else "text", [heading])]
    rows += [("text", [line]) for line in [*name, *([node.shapes] if node.outputs else []), *node.notes]]
    if node.inputs and node.inputs_in_all > 1:
        rows.insert(0, ("port", [one.name for one in node.inputs]))
    if len(node.outputs) > 1:
        rows.append(("port", [str(i) for i in range(len(node.outputs))]))
    return rows


def _box(node: Node) -> Box:
    rows = _rows(node)
    widths = [SIZE[kind] * LETTER * len(texts) * (max(map(len, texts)) + 2 * (kind == "port")) for kind, texts in rows]
    return Box(max(widths) + 2 * PADDING, sum(LINE[kind] for kind, _ in rows) + PADDING, RANK[node.kind])


def _port_dx(box: Box, index: int, count: int) -> float:
    """Ports share the box's width evenly."""
    return ((index + 0.5) / count - 0.5) * (box.width - PADDING) if count > 1 else 0.0


def _node(node: Node, box: Box, is_result: bool) -> str:
    rows = _rows(node)
    title = "; ".join(texts[0] for kind, texts in rows if kind != "port")
    size = f'x="{box.x - box.width / 2:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    border = f'stroke="currentColor" stroke-width="{2.5 if is_result else 1}"'
    parts = [
        f'<g class="{node.kind}-node"><title>{escape(title)}</title>',
        f"<rect {size} {SHAPE[node.kind]} {border}/>",
    ]
    y = box.y + PADDING / 2
    for kind, texts in rows:
        y += LINE[kind]
        for i, text in enumerate(texts):
            x = box.x + _port_dx(box, i, len(texts))
            parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y - 3.5:.1f}">{escape(text)}</text>')
    return "".join([*parts, "</g>"])


# --- arrows ---


def _edges(node: Node, boxes: dict[Node, Box]) -> Iterator[Edge]:
    for i, one in enumerate(node.inputs):
        source, target = boxes[one.source], boxes[node]
        source_dx = _port_dx(source, one.output, len(one.source.outputs))
        yield Edge(source, target, source_dx, _port_dx(target, i, len(node.inputs)))


def _edge_path(edge: Edge) -> str:
    """Curved in the gaps between the layers, straight down beside the boxes: no arrow crosses a box."""
    stops = edge.stops()
    path = [f"M{edge.source.x + edge.source_dx:.1f} {edge.source.y + edge.source.height:.1f}"]
    for (box, dx), (to_box, to_dx) in zip(stops, stops[1:]):
        x = box.x + dx
        to_x = to_box.x + to_dx
        y = to_box.y - GAP_Y
        to_y = to_box.y
        middle = (y + to_y) / 2
        path.append(f"L{x:.1f} {y:.1f} C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
    return f'<path class="edge" d="{" ".join(path)}"/>'
