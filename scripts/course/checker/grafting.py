"""Which line of the learner's file would be right with a value of a right solution?

Where no small change of the file helps (repairing.py), what one statement computes is replaced by the value of one step
of a right solution, in every round of a loop. If the result is right then, in other cases as well, this is the line,
and the step's formula is what belongs there:

    h = policy_chosen - policy_rejected         with the values of  h = (policy_chosen - reference_chosen) - ...  right
"""

import ast
import itertools
import re
from typing import Any, NamedTuple

from minigrad.gradcheck.mutations import target_of

from .repairing import Repairs
from .steps import Runs, by_place, computing, stands, words
from .trial import bare

Place = tuple[int, str]  # a line and an expression in it, or "name ="


class Graft(NamedTuple):
    """With the values of a right solution's step, `said` in its line `right`, the learner's `line` is right."""

    line: int
    right: int
    said: str


def graft(repairs: Repairs, all_runs: list[Runs], of_line: int | None = None) -> Graft | None:
    """A line of the learner's in whose place the values of a right step help; None if there is none.

    all_runs: of the case that is looked at, and of others that fail. of_line: only steps of this line of the right
    solution.
    """
    for place in places(repairs):
        for step in right_steps(repairs.runs):
            cases = itertools.chain(all_runs, repairs.other_runs(fails=False))
            if of_line in (None, step[0]) and all(fits(repairs, runs, place, step) for runs in cases):
                known = same_form(repairs.runs, place, step) or stands(repairs.trial, step[0])
                return None if of_line is None and known else Graft(place[0], *step)
    return None


def places(repairs: Repairs) -> list[Place]:
    """What each of the learner's statements computes from what is right.

    In the wrong method before others; what is wrong before what is right; then in the order of the run.
    """
    runs = repairs.runs
    tree = ast.parse(repairs.trial.text)
    order = {step[:2]: i for i, step in reversed([*enumerate(runs.steps)])}
    found = []
    for statement in [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]:
        value = getattr(statement, "value", None)
        for part in value.elts if isinstance(value, ast.Tuple) else [value]:
            place = statement.lineno, ast.unparse(part) if isinstance(part, ast.AST) else ""
            is_copy = re.fullmatch(r"np\.(as)?array\(\w+\)", place[1])
            if place in order and not is_copy and not words(place[1]) & unsure(runs, tree, order[place]):
                mine = [step for step in runs.steps if step[:2] == place]
                # not a count, which the right run may have by chance
                is_right = all(step[2].dtype.kind == "f" and runs.is_right(step) for step in mine)
                found.append((repairs.is_elsewhere(tree, place[0]), is_right, order[place], place))
    return [place for *_, place in sorted(found)]


def right_steps(runs: Runs) -> list[Place]:
    """The steps of a right solution that compute something, those with a name first."""
    computes = computing(runs.trial.reference.text)
    steps = [step for step in by_place(runs.right_steps) if step[1][-1] != "=" or step[0] in computes]
    return sorted(steps, key=lambda step: step[1][-1] != "=")


def fits(repairs: Repairs, runs: Runs, place: Place, step: Place) -> bool:
    """Whether the result of a case is right with the values of a right step in the place of the learner's."""
    mine, values = by_place(runs.steps).get(place, []), by_place(runs.right_steps).get(step, [])
    values = values * len(mine) if len(values) == 1 else values
    given = [*place, values] if len(mine) == len(values) else None
    return repairs.helps(runs.trial.text, runs, given)


def same_form(runs: Runs, place: Place, step: Place) -> bool:
    """Whether a learner's statement does with its names what a right step does with others: `exp(a - max(a))` and
    `exp(shifted)`, or `x_t @ dout` and `x^T @ dout`. Then it is not this line that is wrong.
    """
    return form(runs.trial.text, place) == form(runs.trial.reference.text, step)


def form(program: str, place: Place) -> str:
    """What is done there, without names: "np.exp" for exp(a - b), "_ @ _" for x^T @ dout."""
    line, said = place
    if said.endswith("="):
        statements = [n for n in ast.walk(ast.parse(program)) if isinstance(n, ast.stmt) and n.lineno == line]
        node: Any = getattr(statements[0], "value", statements[0])
    else:
        node = ast.parse(said, mode="eval").body
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        return ast.unparse(node.func)
    text = ast.unparse(node).replace(".swapaxes(-1, -2)", "").replace(".T", "")
    return re.sub(r"[A-Za-z_][\w.]*(?![\w.(])", "_", text)


def unsure(runs: Runs, tree: ast.Module, begun: int) -> set[str]:
    """The names whose values are not known to be right before a step: where one is used, the mistake may be earlier."""
    last = {bare(step[1]): step for step in runs.steps[:begun] if step[1].endswith("=")}
    nodes, lines = list(ast.walk(tree)), computing(runs.trial.text)
    computed = {bare(target_of(node)) for node in nodes if isinstance(node, ast.stmt) and node.lineno in lines}
    apart = {name for name, step in last.items() if step[2].dtype.kind == "f" and not runs.is_right(step)}
    inputs = {node.arg for node in nodes if isinstance(node, ast.arg)}
    found = computed - last.keys() - inputs | apart
    loops = [node for node in nodes if isinstance(node, ast.For) and words(ast.unparse(node.iter)) & found]
    return found.union(*(words(ast.unparse(node.target)) for node in loops))
