"""walk: carry gradients back through a graph, the heart of autograd.

Every node knows which nodes it was computed from, and its slope with respect to each:

    node.inputs = [(input node, d node / d input), ...]         a leaf has none

Beginning with root.grad = 1, each node gives each of its inputs its own gradient times that slope. Where two paths
meet again (the "diamond": c = a * a, or b = 2a, c = 3a, d = b + c) their contributions are added. A node may pass
its gradient on only when everything that uses the node has given its share: hence the order, consumers first.

Shapes: plain numbers. Every grad is 0.0 when your function is called. It returns nothing: it sets the grads.
Example: b = 2a, c = 3a, d = b + c  ->  d.grad = 1, b.grad = c.grad = 1, a.grad = 5

A case that fails is shown as `edges`: (i, j, slope) says that node j was computed from node i with this slope. Node 0
is the leaf, the last node the root; the grads of all nodes are shown as a list. The example as edges, with a, b, c, d
as nodes 0, 1, 2, 3: [(0, 1, 2.0), (0, 2, 3.0), (1, 3, 1.0), (2, 3, 1.0)]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import Case, Exercise, FunctionCheck, beginning

STUB = beginning(__doc__) + '''
def backward(root):
    """Set .grad of `root` and of every node that it was computed from."""

    def visit(node):
        for source, slope in node.inputs:
            visit(source)
        if node not in order:
            order.append(node)

    order = []
    visit(root)  # each node stands behind those it was computed from
    root.grad = 1.0
    # TODO: walk `order` in the right direction, and give each node's inputs their share
    raise NotImplementedError("the walk")
'''

BLANKS = '''
for node in reversed(order):  # consumers first
    for source, slope in node.inputs:
        source.grad += node.grad * slope
'''

SLIPS = [
    ("source.grad += node.grad * slope", "pass",
     "nothing is handed on: `order` ends with the root, so begin there, and add (+=) to each source.grad, which is 0"),
]  # fmt: skip


class Node:
    """A node that remembers all values of its gradient."""

    def __init__(self) -> None:
        self.inputs: list[tuple[Node, Slope]] = []
        self.gradients: list[float] = []
        self.grad = 0.0

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "grad":
            self.gradients.append(value)


class Slope(float):
    """A number that remembers the gradients that it was multiplied by."""

    def __init__(self, value):
        self.gradients = []

    def __mul__(self, gradient):
        self.gradients.append(gradient)
        return float(self) * gradient

    __rmul__ = __mul__


def graph(edges):
    """Nodes 0 (the leaf) to n; an edge (i, j, slope) says that j > i was computed from i."""
    nodes = [Node() for _ in range(1 + max((j for _, j, _ in edges), default=0))]
    for i, j, slope in edges:
        nodes[j].inputs.append((nodes[i], Slope(slope)))
    return nodes


def gradients(backward, edges):
    """The gradient of every node after the learner's walk from the last one, and a remark on the walk or None."""
    nodes = graph(edges)
    backward(nodes[-1])
    got, remark = [float(node.grad) for node in nodes], None
    uses = [(slope.gradients, node) for node in nodes for _, slope in node.inputs]
    wrong = [(used, node.gradients) for used, node in uses if used and sum(used) != node.grad]
    if any(got[:-1]) and wrong and all({*used} <= {*gradients} for used, gradients in wrong):
        remark = ("a node hands its gradient on before it has got all of it, or more than once: each node must hand on "
                  "once, when all its consumers have (walk `order` from its end)")  # fmt: skip
    return [*got, remark]


@st.composite
def cases(draw):
    """Every node but the first is computed from one or two nodes before it."""
    edges = []
    for j in range(1, draw(st.integers(1, 5)) + 1):
        for i in draw(st.lists(st.integers(0, j - 1), min_size=1, max_size=2)):
            edges.append((i, j, float(draw(st.integers(-3, 3)))))
    return Case(edges)


DIAMOND = [(0, 1, 2.0), (0, 2, 3.0), (1, 3, 1.0), (2, 3, 1.0), (3, 4, -2.0), (1, 4, 0.5)]

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="the diamond and the topological walk",
    group="Engine", effort="15 min, medium",
    hints=(
        "The list has sources before consumers. Gradients flow the other way, from the root to the leaves.",
        "All numbers. For every (source, slope) of a node, the source receives node.grad * slope, on top of what "
        "it has.",
        "for node in reversed(order):\n    for source, slope in node.inputs:\n        source.grad += node.grad * slope",
    ),
    checks=[FunctionCheck("backward", cases(), Case(DIAMOND), call=gradients)],
    answer=("minigrad.autograd.backward",),
)
