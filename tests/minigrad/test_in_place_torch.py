"""Changes in place, here and in PyTorch: the same numbers or the same error, but for the differences listed below."""

import re
import types

import numpy as np
import pytest

import minigrad
from minigrad import nn, optim

pytestmark = pytest.mark.oracle("torch")

MINIGRAD = types.SimpleNamespace(
    tensor=lambda x, **options: minigrad.tensor(np.array(x, np.float32), **options),
    no_grad=minigrad.no_grad,
    F=minigrad.functional,
    nn=nn,
    optim=optim,
    linear=lambda: nn.Linear(3, 2),
)


def pytorch():
    import torch

    return types.SimpleNamespace(
        tensor=lambda x, **options: torch.tensor(np.array(x, np.float32), **options),
        no_grad=torch.no_grad,
        F=torch.nn.functional,
        nn=torch.nn,
        optim=torch.optim,
        linear=lambda: torch.nn.Linear(3, 2),
    )


CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def leaf(m, values=(1.0, 2.0, 3.0)):
    return m.tensor(values, requires_grad=True)


def frozen(m, values=(4.0, 5.0, 6.0)):
    return m.nn.Parameter(m.tensor(values), requires_grad=False)


# --- operators on a leaf ---

UPDATES = {
    "iadd": "x += other",
    "isub": "x -= other",
    "imul": "x *= other",
    "itruediv": "x /= other",
    "ipow": "x **= other",
}
OTHERS = {
    "number": lambda m: 2,
    "float": lambda m: 0.5,
    "tensor": lambda m: m.tensor([2.0, 3.0, 0.5]),
    "one_element": lambda m: m.tensor([2.0]),
    "more_rows": lambda m: m.tensor([[2.0, 3.0, 0.5]] * 2),
    "leaf": lambda m: leaf(m, [2.0, 3.0, 0.5]),
}


def update(statement, x, other):
    scope = {"x": x, "other": other}
    exec(statement, scope)
    return scope["x"]


def add_updates():
    def under_no_grad(statement, other):
        def run(m):
            x = leaf(m)
            with m.no_grad():
                same = update(statement, x, other(m))
            return [x.detach(), same is x, x.requires_grad, x.is_leaf]

        return run

    def recorded(statement, other):
        return lambda m: [update(statement, leaf(m), other(m)).detach()]

    def of_a_result(statement, other):
        def run(m):
            x = leaf(m)
            h = x + 1.0
            h = update(statement, h, other(m))
            h.sum().backward()
            return [h.detach(), x.grad]

        return run

    for op, statement in UPDATES.items():
        for kind, other in OTHERS.items():
            CASES[f"{op}_{kind}_under_no_grad"] = under_no_grad(statement, other)
            CASES[f"{op}_{kind}_recorded"] = recorded(statement, other)
            CASES[f"{op}_{kind}_of_a_result"] = of_a_result(statement, other)


add_updates()

# --- a change between forward and backward ---


def add_x(x, m):
    with m.no_grad():
        x += 1


def multiply_x(x, m):
    with m.no_grad():
        x *= 2


def assign_x(x, m):
    with m.no_grad():
        x[0] = 9.0


def initialize_x(x, m):
    m.nn.init.zeros_(x)


def detach_and_initialize_x(x, m):
    m.nn.init.zeros_(x.detach())


def detach_and_assign_x(x, m):
    x.detach()[1:] = 7.0


def view_and_assign_x(x, m):
    with m.no_grad():
        x[1:][0] = 7.0


def step_x(x, m):
    asked = x.requires_grad
    x.requires_grad_()
    before, x.grad = x.grad, m.tensor(np.ones(3)) if m is not MINIGRAD else np.ones(3, np.float32)
    m.optim.SGD([x], lr=0.5).step()
    x.grad = before
    x.requires_grad_(asked)


def with_numpy(x, m):
    x.detach().numpy()[0] = 5.0


def data_with_numpy(x, m):
    x.data[0] = 5.0


CHANGES = [add_x, multiply_x, assign_x, initialize_x, detach_and_initialize_x, detach_and_assign_x]
CHANGES += [view_and_assign_x, step_x, with_numpy, data_with_numpy]

USES = {  # of a leaf x and of another tensor y; what is saved, and so what raises, is the same in both libraries
    "add": lambda m, x, y: x + y,
    "mul": lambda m, x, y: x * y,
    "square": lambda m, x, y: x * x,
    "div": lambda m, x, y: x / y,
    "pow": lambda m, x, y: x**2,
    "log": lambda m, x, y: x.log(),
    "exp": lambda m, x, y: x.exp(),
    "tanh": lambda m, x, y: x.tanh(),
    "abs": lambda m, x, y: x.abs(),
    "sum": lambda m, x, y: x.sum(),
    "reshape": lambda m, x, y: x.reshape(3, 1) * 2.0,
    "product": lambda m, x, y: x.reshape(1, 3) @ y.reshape(3, 1),
    "linear": lambda m, x, y: m.F.linear(x.reshape(1, 3), y.reshape(1, 3)),
    "softmax": lambda m, x, y: m.F.softmax(x, -1) * m.tensor([1.0, 2.0, 3.0]),
    "clip": lambda m, x, y: x.clip(1.5, 2.5),
    "sqrt": lambda m, x, y: x.sqrt(),
    "sigmoid": lambda m, x, y: x.sigmoid(),
    "relu": lambda m, x, y: x.relu(),
    "silu": lambda m, x, y: m.F.silu(x),
    "gelu": lambda m, x, y: m.F.gelu(x),
    "max": lambda m, x, y: x.max(),
    "mean": lambda m, x, y: x.mean() * y.mean(),
    "var": lambda m, x, y: x.var(),
    "getitem": lambda m, x, y: x[1:] * 3.0,
    "layer_norm": lambda m, x, y: m.F.layer_norm(x, (3,), y) * m.tensor([1.0, 2.0, 3.0]),
    "layer_norm_weight": lambda m, x, y: m.F.layer_norm(y, (3,), x),
    "log_softmax": lambda m, x, y: m.F.log_softmax(x, -1)[0],
    "masked_fill": lambda m, x, y: x.masked_fill(y > 4.5, 0.0),
    "mse_loss": lambda m, x, y: m.F.mse_loss(x, y),
    "prod": lambda m, x, y: x.prod(),
}


def add_changes():
    def run(use, change, target):
        def case(m):
            gradients = []
            for wanted in (False, True):
                x, y = leaf(m), leaf(m, [4.0, 5.0, 6.0]) if target == "other_leaf" else frozen(m)
                out = use(m, x, y).sum()
                if wanted:
                    change(x if target == "leaf" else y, m)
                out.backward()
                gradients.append(x.grad)
            if "numpy" not in change.__name__:  # no error means that the gradient is right
                np.testing.assert_array_equal(*gradients)
            return gradients

        return case

    for name, use in USES.items():
        for change in CHANGES:
            for target in ("leaf", "other_leaf", "frozen"):
                CASES[f"{name}_then_{change.__name__}_of_the_{target}"] = run(use, change, target)


add_changes()


@case
def two_backwards_with_a_step_between(m):
    x = leaf(m)
    out = (x * x).sum()
    out.backward(retain_graph=True)
    step_x(x, m)
    out.backward()
    return [x.grad]


@case
def a_change_before_the_use(m):
    x = leaf(m)
    h = x + 1.0
    add_x(x, m)
    (h * x).sum().backward()
    return [x.grad]


@case
def a_change_of_something_else(m):
    x, y = leaf(m), leaf(m)
    out = (x * x).sum()
    add_x(y, m)
    out.backward()
    return [x.grad]


# --- modules ---


def add_loading():
    def run(what):
        def case(m):
            layer, x = m.linear(), m.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
            m.nn.init.zeros_(layer.weight)
            m.nn.init.zeros_(layer.bias)
            layer.requires_grad_(what != "frozen")
            out = layer(x).sum()
            layer.load_state_dict(m.linear().state_dict())
            out.backward()
            return [x.grad]

        return case

    for what in ("trained", "frozen"):
        CASES[f"load_state_dict_of_a_{what}_layer"] = run(what)


add_loading()


@case
def loading_where_the_weight_was_not_saved(m):
    layer, x = m.linear(), m.tensor([[1.0, 2.0, 3.0]])
    out = layer(x).sum()
    layer.load_state_dict(m.linear().state_dict())
    out.backward()
    return [layer.weight.grad, layer.bias.grad]


@case
def augmented_assignment_to_a_weight(m):
    layer = m.linear()
    m.nn.init.zeros_(layer.weight)
    with m.no_grad():
        layer.weight += 1
    return [layer.weight.detach(), len(list(layer.parameters()))]


@case
def augmented_assignment_to_a_weight_recorded(m):
    layer = m.linear()
    layer.weight += 1
    return [len(list(layer.parameters()))]


@case
def augmented_assignment_to_a_frozen_weight(m):
    layer = m.linear()
    m.nn.init.zeros_(layer.weight)
    layer.requires_grad_(False)
    layer.weight += 1
    return [layer.weight.detach(), len(list(layer.parameters()))]


@case
def a_moving_average_of_weights(m):
    average, model = m.linear().requires_grad_(False), m.linear()
    for p in (*average.parameters(), *model.parameters()):
        m.nn.init.ones_(p)
    for p, q in zip(average.parameters(), model.parameters()):
        p *= 0.9
        with m.no_grad():
            p += 0.2 * q
    return [p.detach() for p in average.parameters()]


def add_assignments():
    def run(value):
        def case(m):
            layer = m.linear()
            layer.weight = value(m, layer)
            return [len(list(layer.parameters()))]

        return case

    for name, value in {
        "a_result": lambda m, layer: layer.weight * 2,
        "a_leaf": lambda m, layer: m.tensor(np.ones((2, 3)), requires_grad=True),
        "data": lambda m, layer: m.tensor(np.ones((2, 3))),
        "an_array": lambda m, layer: np.ones((2, 3)),
        "a_number": lambda m, layer: 1.0,
        "None": lambda m, layer: None,
        "a_parameter": lambda m, layer: m.nn.Parameter(m.tensor(np.ones((2, 3)))),
        "a_module": lambda m, layer: m.linear(),
        "the_same": lambda m, layer: layer.weight,
    }.items():
        CASES[f"assign_{name}_to_a_weight"] = run(value)


add_assignments()

# --- item assignment ---


def add_items():
    def run(make, index, value, recorded):
        def case(m):
            x = make(m)
            if recorded:
                x[index] = value(m)
            else:
                with m.no_grad():
                    x[index] = value(m)
            return [x.detach()]

        return case

    makers = {"leaf": leaf, "data": lambda m: m.tensor([1.0, 2.0, 3.0]), "frozen": frozen}
    makers["result"] = lambda m: leaf(m) * 2.0
    values = {"number": lambda m: 9.0, "tensor": lambda m: m.tensor(8.0), "leaf": lambda m: leaf(m, 7.0)}
    for kind, make in makers.items():
        for name, value in values.items():
            for recorded in (False, True):
                for index in (0, slice(1, None), [0, 2]):
                    where = "recorded" if recorded else "under_no_grad"
                    CASES[f"item_{index}_of_{kind}_{name}_{where}"] = run(make, index, value, recorded)


add_items()

# What we do in another way, on purpose: a part of the case's name, how the case ends here and in PyTorch, and why.
DIFFERENT = [
    ("more_rows_of_a_result", "numbers", "RuntimeError", "h += x is h = h + x: a new tensor, which may be larger"),
    ("of_result_.*_recorded", "RuntimeError", "numbers", "the graph does not record it; it records F.where"),
    ("of_(data|frozen)_leaf_recorded", "RuntimeError", "numbers", "the same"),
    ("plus_a_leaf_recorded", "RuntimeError", "numbers", "a parameter does not become the result of an op"),
    ("saved_result", "numbers", "RuntimeError", "h += x is a new tensor, so what was saved of h stays"),
    ("^(var|layer_norm|layer_norm_weight|mse_loss)_then", "numbers", "RuntimeError", "x - mean is saved, not x"),
    ("then_(data_)?with_numpy", "numbers", "numbers", "neither notices it; what is saved decides how wrong it gets"),
    ("times_itself", "numbers", "RuntimeError", "h *= h is a new tensor, so h, which is saved, stays"),
    ("data_keeps_its_name_only", "numbers", "numbers", "h += x is a new tensor, also of data"),
]


@case
def a_frozen_parameter_plus_a_leaf_recorded(m):
    p = frozen(m)
    p += leaf(m)
    return [p.detach()]


@case
def a_saved_result_plus_1(m):
    x = leaf(m)
    h = x.exp()
    h += 1
    h.sum().backward()
    return [x.grad]


@case
def a_result_times_itself(m):
    x = leaf(m)
    h = x + 1.0
    h *= h
    h.sum().backward()
    return [x.grad]


@case
def data_keeps_its_name_only(m):
    h = x = m.tensor([1.0, 2.0])
    h += 1
    return [x]


def outcome(m, run):
    try:
        results = run(m)
    except (RuntimeError, TypeError) as error:
        return type(error).__name__
    return [x.tolist() if hasattr(x, "tolist") else x for x in results]


def kind(result):
    return result if isinstance(result, str) else "numbers"


def agree(ours, theirs):
    if isinstance(ours, str) or isinstance(theirs, str):
        return ours == theirs
    return len(ours) == len(theirs) and all(np.allclose(x, y, 1e-6, 1e-6) for x, y in zip(ours, theirs))


def test_as_in_pytorch():
    torch, wrong, met = pytorch(), {}, set()
    for name, run in CASES.items():
        ours, theirs = outcome(MINIGRAD, run), outcome(torch, run)
        if not agree(ours, theirs):
            known = [d for d in DIFFERENT if re.search(d[0], name) and (kind(ours), kind(theirs)) == d[1:3]]
            met.update(known)
            if not known:
                wrong[name] = ours, theirs
    assert not wrong
    assert met == set(DIFFERENT)
    print(f"{len(CASES)} cases")
