"""A recorded training step as a flat NumPy script: no engine, no graph, and the same numbers to the last bit.

The lines are those of the ops. Each call's `forward` and `backward` are run again on the recorded arrays, one statement
at a time, and each statement that runs is written down: with `ctx.x` of call 4 as the variable x_4, the inputs under
the names of the arrays that they were, and without the branches that this call does not take. What backward's walk over
the graph does is one line per gradient: the first one that arrives at an array is assigned, each later one is added.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from minigrad.autograd import Context
from minigrad.dtypes import op_name
from minigrad.inspection.recorder import Call, Recording, Value
from scripts.pages.step_data import shown_path

HEAD = '''"""One training step without an engine: forward, backward, clipping and AdamW, as plain NumPy.

Written by scripts/explain.py --as-script. Each line comes from the op that is named above it.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

Array = np.ndarray
'''
STUBS = {
    "module_of": "def module_of(x):\n    return np",
    "is_array": "def is_array(x):\n    return isinstance(x, np.ndarray)",
}
UPDATE = """
# --- clip: one factor for all gradients, so that their norm is at most {max_norm} ---
norm = np.sqrt(sum(g.reshape(-1) @ g.reshape(-1) for g in gradients.values()))
factor = np.minimum(1.0, {max_norm} / (norm + 1e-6))
clipped = {{name: g * factor.astype(g.dtype) for name, g in gradients.items()}}

# --- AdamW, step 1: its means m and v start at 0 ---
lr, (beta1, beta2), eps, decay = {lr}, {betas}, {eps}, {weight_decay}
after = {{}}
for name, p in parameters.items():
    g = clipped[name]
    m = (1 - beta1) * g
    v = (1 - beta2) * g * g
    m_hat = m / (1 - beta1**1)
    v_hat = v / (1 - beta2**1)
    after[name] = p * (1 - lr * decay) - lr * m_hat / (np.sqrt(v_hat) + eps)

if __name__ == "__main__":
    print("loss", loss, " gradient norm", norm)
    for name, g in gradients.items():
        print(name, "gradient norm", np.linalg.norm(g))
"""


def flat_script(recording: Recording) -> str:
    """The script. After it has run, `loss`, `parameters`, `gradients`, `clipped` and `after` hold the step.

    Raises ValueError for an array that did not fit into the recording, or an op whose code has no flat form.
    """
    return _Writer(recording).text()


class _Writer:
    def __init__(self, recording: Recording):
        self.recording = recording
        self.names: dict[Value, str] = {}
        self.inputs: list[str] = []  # lines that define parameters and constants
        self.lines: list[str] = []
        self.helpers: dict[str, str] = {}  # functions that the lines call, each after those that it calls
        self.contexts: dict[int, Context] = {}

    def text(self) -> str:
        calls, updates = self.recording.calls, self.recording.updates
        for update in updates:
            self._define(update.before, update.name.replace(".", "_"))
        self.lines.append("\n# --- forward ---")
        for call in calls:
            self._forward(call)
        self.lines.append("\n# --- backward ---")
        back = sorted((call for call in calls if call.order is not None), key=lambda call: call.order or 0)
        (loss,) = back[0].outputs
        self.lines += [f"loss = {self.names[loss]}", f"d_{self.names[loss]} = np.ones_like(loss)"]
        self.arrived = {loss}
        for call in back:
            self._backward(call)
        for title, prefix in (("parameters", ""), ("gradients", "d_")):
            rows = [f'    "{update.name}": {prefix}{self.names[update.before]},' for update in updates]
            self.lines += ["", f"{title} = {{", *rows, "}"]
        settings = {"max_norm": self.recording.max_norm, **updates[0].settings}
        parts = [HEAD, *(f"\n\n{source}" for source in self.helpers.values()), "\n\n# --- parameters and data ---"]
        return "\n".join([*parts, *self.inputs, *self.lines]) + "\n" + UPDATE.format(**settings)

    # --- arrays ---

    def _define(self, value: Value, name: str) -> None:
        if value.array is None:
            raise ValueError(f"{name} did not fit into the recording, so the step cannot be written as a script")
        self.names[value] = name
        numbers = np.array2string(value.array, threshold=np.inf, floatmode="unique", separator=", ", max_line_width=110)  # type: ignore
        exact = np.array(ast.literal_eval(numbers.replace("nan", "None")), value.dtype)
        numbers = numbers if np.array_equal(exact, value.array) else str(value.array.tolist())
        self.inputs.append(f"{name} = np.array({numbers}, np.{value.dtype})")

    def _input(self, call: Call, i: int) -> str:
        value = call.inputs[i]
        if value is None or value.number is not None:
            return "None" if value is None else repr(value.number)
        if value not in self.names:
            self._define(value, f"{call.names[i]}_in_{call.number}")
        return self.names[value]

    # --- calls ---

    def _forward(self, call: Call) -> None:
        name = f"{op_name(call.function)}_{call.number}"
        outputs = [name] if len(call.outputs) == 1 else [f"{name}_{i}" for i in range(len(call.outputs))]
        self.names.update(zip(call.outputs, outputs, strict=True))
        where = f"  ({shown_path(call.where[0].path)}:{call.where[0].line})" if call.where else ""
        shapes = ", ".join(str(output.shape) for output in call.outputs)
        self.lines.append(f"\n# {call.function.__name__}{where} -> {shapes}")
        ctx = self.contexts[call.number] = Context()
        ctx.needs_grad = call.needs_grad
        given = [None if x is None else x.array if x.number is None else x.number for x in call.inputs]
        texts = [self._input(call, i) for i in range(len(given))]
        returned = self._run(call, call.function.forward, given, texts, call.options)
        targets = ", ".join(outputs) + "," * (self.is_tuple and len(outputs) == 1)
        self.lines.append(f"{targets} = {ast.unparse(returned)}")

    def _backward(self, call: Call) -> None:
        self.lines.append(f"\n# {call.function.__name__}: backward of {self.names[call.outputs[0]]}")
        for output in call.outputs:
            if output not in self.arrived:
                self.lines.append(f"d_{self.names[output]} = np.zeros_like({self.names[output]})")
        given = [None if value is None else value.array for value in call.douts]
        texts = [f"d_{self.names[output]}" for output in call.outputs]
        returned = self._run(call, call.function.backward, given, texts, {})
        results = returned.elts if isinstance(returned, ast.Tuple) else None
        if results is None:
            self.lines.append(f"gradients_{call.number} = {ast.unparse(returned)}")
        for i, (value, gradient) in enumerate(zip(call.inputs, call.dinputs, strict=True)):
            if value is None or gradient is None or not call.needs_grad[i]:
                continue
            made = ast.unparse(results[i]) if results else f"gradients_{call.number}[{i}]"
            name = f"d_{self.names[self._target(value)]}"
            self.lines.append(f"{name} = {f'{name} + {made}' if self._target(value) in self.arrived else made}")
            self.arrived.add(self._target(value))

    def _target(self, value: Value) -> Value:
        return value if value.made_by is None else self.recording.calls[value.made_by[0]].outputs[value.made_by[1]]

    def _run(self, call: Call, half: Any, given: list[Any], texts: list[str], options: dict[str, Any]) -> Any:
        """Run `forward` or `backward` statement by statement and write these down; returns what it returns, as code."""
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(half))).body
        assert isinstance(function, ast.FunctionDef)
        title = call.function.__name__
        written = {name: _literal(option, f"{title}: option {name}") for name, option in options.items()}
        bind = inspect.signature(half).bind  # which parameter gets what
        scope = half.__globals__ | bind(self.contexts[call.number], *given, **options).arguments
        code = {}
        for name, text in bind("ctx", *texts, **written).arguments.items():
            several = isinstance(text, tuple)  # *tensors
            code[name] = _expression(f"({''.join(part + ', ' for part in text)})" if several else text)
        inliner = _Inliner(call, scope, code)
        returned = inliner.body(function.body)
        if returned is None:
            raise ValueError(f"{call.function.__name__}.{half.__name__} has no flat form")
        self.lines += inliner.lines
        self.is_tuple = inliner.is_tuple
        for node in [ast.parse(line) for line in inliner.lines] + [returned]:
            self._need(node, half.__globals__)
        return returned

    def _need(self, tree: ast.AST, scope: dict[str, Any]) -> None:
        """Write down the functions and constants of the op's file that the code uses."""
        for node in ast.walk(tree):
            name = node.id if isinstance(node, ast.Name) else ""
            if name not in scope or name in self.helpers or name in ("np", "math"):
                continue
            found = scope[name]
            if isinstance(found, ModuleType):
                self.helpers[name] = f"import {found.__name__} as {name}"
            elif name in STUBS:
                self.helpers[name] = STUBS[name]
            elif isinstance(found, FunctionType):
                source = textwrap.dedent(inspect.getsource(found))
                self._need(ast.parse(source), found.__globals__)
                self.helpers[name] = source.rstrip()
            elif isinstance(found, int | float | str):
                self.helpers[name] = f"{name} = {found!r}"


class _Inliner(ast.NodeTransformer):
    """Runs statements in `scope` and rewrites them in the variables of the script."""

    def __init__(self, call: Call, scope: dict[str, Any], code: dict[str, ast.expr]):
        self.number, self.scope, self.code = call.number, scope, code
        self.lines: list[str] = []
        self.is_tuple = False  # is that what the statements return?
        halves = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(call.function))))
        self.saved = {node.attr for node in halves if isinstance(node, ast.Attribute) and _is_ctx(node)}

    def body(self, statements: list[ast.stmt]) -> Any:
        """The value that the statements return, as code; None if they return nothing."""
        for statement in statements:
            if isinstance(statement, ast.If):
                returned = self.body(statement.body if self._value(statement.test) else statement.orelse)
                if returned is not None:
                    return returned
            elif isinstance(statement, ast.Return) and statement.value is not None:
                self.is_tuple = isinstance(self._value(statement.value), tuple)
                return self.visit(statement.value)
            elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                self._statement(statement)
        return None

    def _statement(self, statement: ast.stmt) -> None:
        source = ast.unparse(statement)
        exec(source, self.scope)
        names = [node for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        assigned = [node.id for node in names if node.id in self.scope]  # others exist inside a comprehension only
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if len(assigned) == 1 and len(targets) == 1 and self.scope[assigned[0]] is np:  # xp = module_of(x)
            self.code[assigned[0]] = ast.Name("np")
            return
        if isinstance(statement, ast.Assign):  # the right side before the left side gets its new name
            statement.value = self.visit(statement.value)
        for name in assigned:
            self.code[name] = ast.Name(f"{name}_{self.number}" + "_" * (name in self.saved))
        if isinstance(statement, ast.Assign):
            statement.targets = [self.visit(target) for target in statement.targets]
        else:
            statement = self.visit(statement)
        line = ast.unparse(statement)
        if not (isinstance(statement, ast.Assign) and line.partition(" = ")[0] == line.rpartition(" = ")[2]):
            self.lines.append(line)

    def _value(self, expression: ast.expr) -> Any:
        return eval(ast.unparse(expression), self.scope)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        return self.visit(node.body if self._value(node.test) else node.orelse)

    def visit_Call(self, node: ast.Call) -> Any:
        is_module = isinstance(node.func, ast.Name) and node.func.id == "module_of"
        return ast.Name("np") if is_module else self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        if not _is_ctx(node):
            return self.generic_visit(node)
        if node.attr == "needs_grad":
            return _expression(repr(self.scope["ctx"].needs_grad))
        return ast.Name(f"{node.attr}_{self.number}")

    def visit_Name(self, node: ast.Name) -> Any:
        if node.id == "ctx":  # as a whole, for a function that reads from it
            ctx = self.scope["ctx"]
            parts = [*(f"{name}={name}_{self.number}" for name in ctx.saved()), f"needs_grad={ctx.needs_grad}"]
            return _expression(f"SimpleNamespace({', '.join(parts)})")
        return self.code.get(node.id, node)


def _literal(value: Any, what: str) -> str:
    """A value as code. Raises ValueError, which says `what` it was, for one that has none."""
    if isinstance(value, np.ndarray):
        return f"np.array({value.tolist()}, np.{value.dtype})"
    if isinstance(value, tuple | list):
        inner = "".join(f"{_literal(part, what)}, " for part in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if value is None or isinstance(value, int | float | str | slice | type(...)):
        return repr(value)
    raise ValueError(f"{what} cannot be written down")


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _is_ctx(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "ctx"
