"""A recorded training step as a flat NumPy script: no engine, no graph, and the same numbers to the last bit.

The lines are those of the ops. Each call's `forward` and `backward` are run again on the recorded arrays, one statement
at a time, and each statement that runs is written down: with the `ctx` of call 4 as ctx_4, its variable x as x_4, the
inputs under the names of the arrays that they were, and without the branches that this call does not take. What
backward's walk over the graph does is one line per gradient: the first one that arrives at an array is assigned, each
later one is added.

A script is right to the last bit, or it is refused with a sentence that says why. What is known to have no flat form is
refused first; then each finished script is run once, and must compute the recorded numbers.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from minigrad.autograd import Function
from minigrad.dtypes import op_name
from minigrad.inspection.recorder import Call, Recording, Value
from minigrad.optim import AdamW
from scripts.pages.explain_data import shown_path

HEAD = '''"""One training step without an engine: forward, backward, clipping and AdamW, as plain NumPy.

Written by scripts/explain.py --as-script. Each line comes from the op that is named above it.
"""

from __future__ import annotations

import math
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import numpy as np

Array = np.ndarray
'''
STUBS = {
    "module_of": "def module_of(x):\n    return np",
    "is_array": "def is_array(x):\n    return isinstance(x, np.ndarray)",
    "device_of": "def device_of(x):\n    return None",
    "to_device": "def to_device(x, device):\n    return x",
}
UPDATE = """
# --- clip: one factor for all gradients, so that their norm is at most {max_norm} ---
norm = np.sqrt(sum(g.reshape(-1) @ g.reshape(-1) for g in gradients.values()))
factor = np.minimum(1.0, {max_norm} / (norm + 1e-6)) if np.isfinite(norm) else np.ones_like(norm)
clipped = {{name: g * factor.astype(g.dtype) for name, g in gradients.items()}}

# --- AdamW, step 1: its means m and v start at 0 ---
lr, (beta1, beta2), eps, decay = {lr!r}, {betas!r}, {eps!r}, {weight_decay!r}
after = {{}}
for name, p in parameters.items():
    g = clipped[name]
    m = beta1 * 0 + (1 - beta1) * g
    v = beta2 * 0 + (1 - beta2) * g * g
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

    Raises ValueError, which says why, for a step that a script cannot repeat to the last bit: it can repeat one
    backward() of textbook ops and the first step of AdamW, with a single group of parameters.
    """
    _check_recording(recording)
    writer = _Writer(recording)
    text = writer.text()
    _check_numbers(text, writer.names, recording.updates)
    return text


def _check_recording(recording: Recording) -> None:
    """Raise ValueError for what is known to have no flat form."""
    updates = recording.updates
    if recording.optimizer is not AdamW:
        name = getattr(recording.optimizer, "__name__", None)
        raise ValueError(f"a flat script has a step of AdamW, but the recording has one of {name}")
    if any(update.settings != updates[0].settings for update in updates):
        raise ValueError("a flat script has a single group of parameters, but this optimizer has several")
    if any(update.state["step"] > 1 for update in updates):
        raise ValueError("a flat script has the optimizer's first step, but this optimizer had taken steps before")
    names = [update.name.replace(".", "_") for update in updates]
    if not names or "" in names or len(set(names)) < len(names):
        raise ValueError("a flat script needs a name for each parameter: pass the module that has them to update()")
    for call in recording.calls:
        name, module = call.function.__name__, call.function.__module__
        if module.startswith("minigrad.") and not module.startswith("minigrad.functional."):
            way_out = "take the step with textbook kernels, without autocast and checkpoint_activations"
            raise ValueError(f"{name} of {module} has no flat form: {way_out}")
    values = [value for call in recording.calls for value in (*call.inputs, *call.outputs, *call.douts)]
    values += [value for u in updates for value in (u.before, u.gradient, u.clipped, u.after)]
    if any(value is not None and value.array is None for value in values):
        raise ValueError("an array did not fit into the recording, so the step cannot be written as a script")


def _check_numbers(text: str, names: dict[Any, str], updates: list[Any]) -> None:
    """Run the script, and raise ValueError unless it computes the recorded numbers."""
    found: dict[str, Any] = {}
    try:
        exec(text, found)
    except Exception as error:
        raise ValueError(f"this step has no flat form: its script ends in {type(error).__name__}: {error}") from error
    for value, name in names.items():
        if not np.array_equal(found[name], value.array, equal_nan=True):
            cause = "one of its arrays has been changed in place, or is not contiguous in memory"
            raise ValueError(f"a flat script would compute another {name}: {cause}")
    for update in updates:
        for what, value in (("gradients", update.gradient), ("clipped", update.clipped), ("after", update.after)):
            if not np.array_equal(found[what][update.name], value.array, equal_nan=True):
                cause = "it has a single backward() and no fast kernels"
                raise ValueError(f"a flat script would compute another {what}[{update.name!r}]: {cause}")


class _Writer:
    def __init__(self, recording: Recording):
        self.recording = recording
        self.names: dict[Value, str] = {}
        self.inputs: list[str] = []  # lines that define parameters and constants
        self.lines: list[str] = []
        self.helpers: dict[str, str] = {}  # functions that the lines call, each after those that it calls
        self.contexts: dict[int, SimpleNamespace] = {}

    def text(self) -> str:
        calls, updates = self.recording.calls, self.recording.updates
        for update in updates:
            self._define(update.before, f"p_{update.name.replace('.', '_')}")
        self.lines.append("\n# --- forward ---")
        for call in calls:
            self._forward(call)
        self.lines.append("\n# --- backward ---")
        back = sorted((call for call in calls if call.order is not None), key=lambda call: call.order or 0)
        if not back or len(back[0].outputs) > 1:
            raise ValueError("a flat script needs a backward() that begins at an op with a single output")
        (loss,) = back[0].outputs
        gradient: Any = back[0].douts[0]
        self.lines += [f"loss = {self.names[loss]}", f"d_{self.names[loss]} = {_array(gradient.array)}"]
        self.arrived = {loss}
        for call in back:
            self._backward(call)
        for title, prefix, copy in (("parameters", "", ""), ("gradients", "d_", ".copy()")):
            rows = [f'    "{update.name}": {prefix}{self.names[update.before]}{copy},' for update in updates]
            self.lines += ["", f"{title} = {{", *rows, "}"]
        parts = [HEAD, *(f"\n\n{source}" for source in self.helpers.values()), "\n\n# --- parameters and data ---"]
        settings = {"max_norm": self.recording.max_norm, **updates[0].settings}
        return "\n".join([*parts, *self.inputs, *self.lines]) + "\n" + UPDATE.format(**settings)

    # --- arrays ---

    def _define(self, value: Value, name: str) -> None:
        self.names[value] = name
        self.inputs.append(f"{name} = {_array(value.array)}")

    def _input(self, call: Call, i: int) -> str:
        value = call.inputs[i]
        if value is None or value.number is not None:
            return "None" if value is None else repr(value.number)
        if value not in self.names:
            name = call.names[i].replace("[", "_").rstrip("]")  # tensors[1] of *tensors
            self._define(value, f"{name}_in_{call.number}")
        return self.names[value]

    # --- calls ---

    def _forward(self, call: Call) -> None:
        name = f"{op_name(call.function)}_{call.number}"
        outputs = [name] if len(call.outputs) == 1 else [f"{name}_{i}" for i in range(len(call.outputs))]
        self.names.update(zip(call.outputs, outputs, strict=True))
        where = f"  ({shown_path(call.where[0].path)}:{call.where[0].line})" if call.where else ""
        shapes = ", ".join(str(output.shape) for output in call.outputs)
        self.lines.append(f"\n# {call.function.__name__}{where} -> {shapes}")
        self.lines.append(f"ctx_{call.number} = SimpleNamespace(needs_grad={call.needs_grad})")
        self.contexts[call.number] = SimpleNamespace(needs_grad=call.needs_grad)
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
            target = self.recording.calls[value.made_by[0]].outputs[value.made_by[1]] if value.made_by else value
            if gradient.dtype != target.dtype:
                made = f"({made}).astype(np.{target.dtype.name})"
            name = f"d_{self.names[target]}"
            self.lines.append(f"{name} = {f'{name} + {made}' if target in self.arrived else made}")
            self.arrived.add(target)

    def _run(self, call: Call, half: Any, given: list[Any], texts: list[str], options: dict[str, Any]) -> Any:
        """Run `forward` or `backward` statement by statement and write these down; returns what it returns, as code."""
        try:
            (function,) = ast.parse(textwrap.dedent(inspect.getsource(half))).body
            assert isinstance(function, ast.FunctionDef)
            written = {name: _literal(option, f"option {name}") for name, option in options.items()}
            bind = inspect.signature(half).bind  # which parameter gets what
            scope = half.__globals__ | bind(self.contexts[call.number], *given, **options).arguments
            code = {}
            for name, text in bind(f"ctx_{call.number}", *texts, **written).arguments.items():
                several = isinstance(text, tuple)  # *tensors
                code[name] = _expression(f"({''.join(part + ', ' for part in text)})" if several else text)
            inliner = _Inliner(call.number, scope, code)
            returned = inliner.body(function.body)
            for node in [ast.parse(line) for line in inliner.lines] + [returned]:
                self._need(node, half.__globals__)
        except Exception as error:  # the code is somebody's own, and may be anything
            raise ValueError(f"{call.function.__name__}.{half.__name__} has no flat form: {error}") from error
        self.lines += inliner.lines
        self.is_tuple = inliner.is_tuple
        return returned

    def _need(self, tree: ast.AST, scope: dict[str, Any]) -> None:
        """Write down the functions and constants of the op's file that the code uses."""
        for node in ast.walk(tree):
            name = node.id if isinstance(node, ast.Name) else ""
            if name not in scope or name in self.helpers or name in ("np", "math"):
                continue
            found = scope[name]
            if isinstance(found, ModuleType) and found.__name__ in sys.stdlib_module_names:
                self.helpers[name] = f"import {found.__name__} as {name}"
            elif name in STUBS:
                self.helpers[name] = STUBS[name]
            elif isinstance(found, FunctionType):
                source = textwrap.dedent(inspect.getsource(found))
                self._need(ast.parse(source), found.__globals__)
                self.helpers[name] = source.rstrip()
            elif isinstance(found, int | float | str | np.ndarray | np.dtype):
                self.helpers[name] = f"{name} = {_literal(found, name)}"
            elif isinstance(found, type) and issubclass(found, Function):
                raise ValueError(f"it calls {name}")


class _Inliner(ast.NodeTransformer):
    """Runs statements in `scope` and rewrites them in the variables of the script."""

    def __init__(self, number: int, scope: dict[str, Any], code: dict[str, ast.expr]):
        self.number, self.scope, self.code = number, scope, code
        self.lines: list[str] = []
        self.is_tuple = False  # is that what the statements return?

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
        if assigned and self.scope[assigned[0]] is np:  # xp = module_of(x)
            self.code[assigned[0]] = ast.Name("np")
            return
        if isinstance(statement, ast.Assign):  # the right side before the left side gets its new name
            statement.value = self.visit(statement.value)
        for name in assigned:
            self.code[name] = ast.Name(f"{name}_{self.number}")
        self.lines.append(ast.unparse(self.visit(statement)))

    def _value(self, expression: ast.expr) -> Any:
        return eval(ast.unparse(expression), self.scope)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        try:
            return self.visit(node.body if self._value(node.test) else node.orelse)
        except NameError:  # in a comprehension, where the test has another answer each time
            return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        is_module = isinstance(node.func, ast.Name) and node.func.id == "module_of"
        return ast.Name("np") if is_module else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> Any:
        return self.code.get(node.id, node)


def _array(array: Any) -> str:
    """An array as code, exact to the last bit."""
    if not array.size:
        return f"np.zeros({array.shape}, np.{array.dtype.name})"
    text = np.array2string(array, threshold=np.inf, floatmode="unique", separator=", ", max_line_width=110)  # type: ignore
    return f"np.array({text}, np.{array.dtype.name})"


def _literal(value: Any, what: str) -> str:
    """A value as code. Raises ValueError, which says `what` it was, for one that has none."""
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, tuple | list):
        inner = "".join(f"{_literal(part, what)}, " for part in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, np.dtype):
        return f"np.dtype({value.name!r})"
    if value is None or isinstance(value, int | float | str | slice | type(...) | np.generic):
        return repr(value)
    raise ValueError(f"{what} cannot be written down")


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body
