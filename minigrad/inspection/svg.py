"""A graph as a picture, without Graphviz: boxes and arrows in SVG, which every browser shows.

Arrows point in the direction of the forward pass. Ops have round corners, leaves have square corners and are grey, and
the result has a thick border. If an op has several inputs, its top edge names them; if it has several outputs, its
bottom edge numbers them.
"""

from __future__ import annotations

from html import escape

from .graph import Graph, Node
from .layout import Box, Edge, place

FONT, SMALL = 12, 9  # pixels; in a monospace font each letter is 0.61 as wide as the font size
LETTER = 0.61
LINE, MARGIN, PADDING, PORT_LINE = 15, 16, 9, 12
TITLE = 44
GAP_X, GAP_Y = 18, 34
STYLE = f"""<style>
text {{ font: {FONT}px monospace }}
.small {{ font-size: {SMALL}px; fill: #444 }}
.op {{ font-weight: bold }}
.edge {{ fill: none; stroke: #333; marker-end: url(#arrow) }}
</style>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"
 markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.8 L8 4 L0 7.2 z"/></marker></defs>"""
SHAPE = {"op": 'rx="7" fill="white"', "leaf": 'fill="#e8e8e8"', "rest": 'rx="7" fill="white" stroke-dasharray="4 3"'}
RANK = {"op": 1.0, "leaf": 0.1, "rest": 0.1}  # the chain of ops runs straight down, parameters stand beside it


def svg_of(graph: Graph) -> str:
    """The SVG source."""
    boxes = {node: _box(node) for node in graph.nodes}
    edges = [edge for node in graph.nodes for edge in _edges(node, boxes)]
    width, height = place(list(boxes.values()), edges, GAP_X, GAP_Y)
    title = _title(graph)
    width = max(width, *(len(line) * FONT * LETTER for line in title)) + 2 * MARGIN
    height += 2 * MARGIN + TITLE
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        STYLE,
        '<rect width="100%" height="100%" fill="white"/>',
        *(f'<text x="{MARGIN}" y="{MARGIN + 10 + 16 * i}">{line}</text>' for i, line in enumerate(title)),
        f'<g transform="translate({MARGIN} {MARGIN + TITLE})">',
        *(_edge_path(edge) for edge in edges),
        *(_node(node, box, is_result=node is graph.result) for node, box in boxes.items()),
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts)


def _title(graph: Graph) -> list[str]:
    lines = [f"{graph.title} (grey); arrows point forward{', backward has run' * graph.released}"]
    return lines + [f"{graph.left_out:,} ops before these are not shown"] * (graph.left_out > 0)


# --- boxes ---


def _lines(node: Node) -> list[str]:
    """What stands in the box, the heading first."""
    heading = node.op if node.kind != "leaf" else node.name or "leaf"
    named = [node.name] if node.name and node.kind == "op" else []
    return [heading, *named, *([node.shapes] if node.outputs else []), *node.notes]


def _in_ports(node: Node) -> list[str]:
    return [one.name for one in node.inputs] if node.inputs_in_all > 1 else []


def _out_ports(node: Node) -> list[str]:
    return [str(i) for i in range(len(node.outputs))] if len(node.outputs) > 1 else []


def _box(node: Node) -> Box:
    text = max(len(line) for line in _lines(node)) * FONT * LETTER
    ports = max(_ports_width(_in_ports(node)), _ports_width(_out_ports(node)))
    port_lines = bool(_in_ports(node)) + bool(_out_ports(node))
    height = len(_lines(node)) * LINE + PADDING + port_lines * PORT_LINE
    return Box(max(text, ports) + 2 * PADDING, height, RANK[node.kind])


def _ports_width(ports: list[str]) -> float:
    return len(ports) * (max((len(port) for port in ports), default=0) + 2) * SMALL * LETTER


def _port_dx(box: Box, index: int, count: int) -> float:
    """Ports share the box's width evenly."""
    return ((index + 0.5) / count - 0.5) * (box.width - PADDING) if count > 1 else 0.0


def _node(node: Node, box: Box, is_result: bool) -> str:
    lines = _lines(node)
    size = f'x="{box.x - box.width / 2:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    border = f'stroke="black" stroke-width="{2.5 if is_result else 1}"'
    parts = [
        f'<g class="{node.kind}-node"><title>{escape("; ".join(lines))}</title>',
        f"<rect {size} {SHAPE[node.kind]} {border}/>",
    ]
    y = box.y + PADDING / 2
    ports = _in_ports(node)
    if ports:
        y += PORT_LINE
        parts += [_small(port, box.x + _port_dx(box, i, len(ports)), y - 3) for i, port in enumerate(ports)]
    for i, line in enumerate(lines):
        y += LINE
        style = ' class="op"' if i == 0 and node.kind == "op" else ""
        parts.append(f'<text x="{box.x:.1f}" y="{y - 3.5:.1f}" text-anchor="middle"{style}>{escape(line)}</text>')
    ports = _out_ports(node)
    parts += [_small(port, box.x + _port_dx(box, i, len(ports)), y + PORT_LINE - 2) for i, port in enumerate(ports)]
    return "".join([*parts, "</g>"])


def _small(text: str, x: float, y: float) -> str:
    return f'<text class="small" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>'


# --- arrows ---


def _edges(node: Node, boxes: dict[Node, Box]) -> list[Edge]:
    edges = []
    for i, one in enumerate(node.inputs):
        source, target = boxes[one.source], boxes[node]
        source_dx = _port_dx(source, one.output, len(one.source.outputs))
        edges.append(Edge(source, target, source_dx, _port_dx(target, i, len(node.inputs))))
    return edges


def _edge_path(edge: Edge) -> str:
    """Curved in the gaps between the layers, straight down beside the boxes: no arrow crosses a box."""
    stops = edge.stops()
    path = [f"M{edge.source.x + edge.source_dx:.1f} {edge.source.y + edge.source.height:.1f}"]
    for (box, dx), (to_box, to_dx) in zip(stops, stops[1:], strict=False):
        x, to_x, y, to_y = box.x + dx, to_box.x + to_dx, to_box.y - GAP_Y, to_box.y
        middle = (y + to_y) / 2
        path.append(f"L{x:.1f} {y:.1f} C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
    return f'<path class="edge" d="{" ".join(path)}"/>'
