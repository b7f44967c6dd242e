"""Changes in place: `p -= lr * p.grad`, `layer.weight += 1`, and backward's error where a saved array has changed."""

import ast
import gc
import operator
import threading
from pathlib import Path

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, in_place, inspection, nn, no_grad, optim, use_kernels
from minigrad.inspection.anomaly import AnomalyError
from minigrad.muon import Muon
from tests.helpers import needs_threads

ROOT = Path(__file__).resolve().parents[2]
WAY_OUT = r"write it under `with no_grad\(\):` to update a parameter, or `new = .*` to compute a new tensor"


def leaf(values=(1.0, 2.0, 3.0), dtype=np.float32):
    return Tensor(np.array(values, dtype), requires_grad=True)


# --- x += other ---

UPDATES = {
    "+=": (operator.iadd, operator.add),
    "-=": (operator.isub, operator.sub),
    "*=": (operator.imul, operator.mul),
    "/=": (operator.itruediv, operator.truediv),
    "**=": (operator.ipow, operator.pow),
}
OTHERS = {
    "number": 3,
    "array": np.array([2.0, 0.5, 4.0], np.float32),
    "tensor": Tensor([2.0, 0.5, 4.0]),
    "array without dimensions": np.array(0.3),
    "float64": np.array([2.0, 0.3, 4.0]),
    "integers": np.array([1, 2, 3]),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("symbol", UPDATES)
def test_an_update_of_a_leaf_writes_to_its_own_array(symbol, other):
    update, op = UPDATES[symbol]
    x = leaf()
    array, version = x.data, x.version
    expected = op(Tensor(array.copy()), OTHERS[other]).data.astype(np.float32)
    with no_grad():
        assert update(x, OTHERS[other]) is x
    assert x.data is array and x.version > version and x.requires_grad and x.is_leaf
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("symbol", UPDATES)
def test_an_update_of_a_leaf_cannot_be_recorded(symbol):
    x = leaf()
    with pytest.raises(RuntimeError, match=rf"`x \{symbol[0]}.* changes a tensor in place, .*: {WAY_OUT}"):
        UPDATES[symbol][0](x, 2.0)
    np.testing.assert_array_equal(x.data, [1.0, 2.0, 3.0])
    assert x.version == 0


def test_what_does_not_fit_into_a_leaf_is_refused():
    x = leaf()
    with no_grad():
        with pytest.raises(RuntimeError, match=r"`x \+= ...` .* turn shape \(3,\) and dtype .* into shape \(2, 3\)"):
            x += np.ones((2, 3), np.float32)
        with pytest.raises(RuntimeError, match=r"`x \*= ...` .* dtype float32 into .* complex"):
            x *= 1j
        with pytest.raises(RuntimeError, match=r"`x @= ...` .* turn shape \(3,\) .* into shape \(2,\)"):
            x @= np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(x.data, [1.0, 2.0, 3.0])


def test_a_product_in_place():
    x, matrix = leaf(np.eye(2)), np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    with no_grad():
        x @= matrix
        x @= x
    np.testing.assert_array_equal(x.data, matrix @ matrix)


def test_results_and_data_get_a_new_tensor():
    x, data = leaf(), Tensor([1.0, 2.0, 3.0])
    with no_grad():
        constant = x * 1.0
    for start, wants_gradient in ((x * 1.0, True), (data, False), (constant, False)):
        before, h = start.data.copy(), start
        h += h.tanh()
        h *= 2.0
        h -= np.ones((2, 3), np.float32)  # it may even grow
        assert h is not start and h.shape == (2, 3) and h.requires_grad == wants_gradient
        np.testing.assert_array_equal(start.data, before)
        if wants_gradient:
            h.sum().backward()
            np.testing.assert_allclose(x.grad, 4 * (2 - np.tanh(before) ** 2), rtol=1e-5)


def test_a_training_loop_in_plain_python_trains():
    rng = np.random.default_rng(0)
    x, target = (rng.standard_normal((16, 3)).astype(np.float32) for _ in range(2))
    ours, reference = nn.Linear(3, 3), nn.Linear(3, 3)
    reference.load_state_dict(ours.state_dict())
    optimizer = optim.SGD(reference.parameters(), lr=0.1)
    for _ in range(5):
        for model in (ours, reference):
            model.zero_grad()
            loss = F.mse_loss(model(Tensor(x)), target)
            loss.backward()
        with no_grad():
            for p in ours.parameters():
                p -= 0.1 * p.grad
        optimizer.step()
    for p, q in zip(ours.parameters(), reference.parameters()):
        np.testing.assert_array_equal(p.data, q.data)


# --- parameters of a module ---


def test_a_parameter_changed_in_place_stays_a_parameter():
    layer = nn.Linear(3, 2)
    weight = layer.weight
    with pytest.raises(RuntimeError, match=WAY_OUT):
        layer.weight += 1
    with no_grad():
        layer.weight *= 0
        layer.weight += 1
    layer.requires_grad_(False)
    layer.weight += 1  # nothing to record: as in PyTorch, it needs no no_grad
    assert layer.weight is weight and len(list(layer.parameters())) == 2
    np.testing.assert_array_equal(weight.data, np.full((2, 3), 2.0))
    with pytest.raises(RuntimeError, match=WAY_OUT):
        layer.weight += leaf()


def test_an_average_of_frozen_weights():
    average, model = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2)
    expected = 0.9 * average.weight.data + np.float32(0.1) * model.weight.data
    with no_grad():
        for p, q in zip(average.parameters(), model.parameters()):
            p *= 0.9
            p += 0.1 * q
    np.testing.assert_allclose(average.weight.data, expected, rtol=1e-6)


@pytest.mark.parametrize("value", [lambda w: w * 2, lambda w: Tensor(w.data), lambda w: w.data, lambda w: 1.0])
def test_only_a_parameter_can_take_the_place_of_a_parameter(value):
    layer = nn.Linear(3, 2)
    weight = layer.weight
    with pytest.raises(TypeError, match=r"Linear.weight is a Parameter, .*: assign nn.Parameter\(...\), not"):
        layer.weight = value(weight)
    assert layer.weight is weight
    layer.weight = other = nn.Parameter(np.ones((2, 3)))
    layer.bias = None
    assert list(layer.parameters()) == [other]
    layer.scale = Tensor(1.0)  # not a Parameter before
    layer.scale = layer.scale * 2


# --- x[index] = value ---


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, 9.0),
        (slice(1), Tensor([8.0, 7.0, 6.0])),
        ((slice(None), -1), [5.0, 4.0]),
        (Tensor([0, 1]), np.zeros(3)),
        ((Tensor([1, 0]), [2, 1]), 3),
        (Tensor([[True, False, True], [False, False, True]]), -1.0),
        (..., Tensor(2.0)),
    ],
)
def test_item_assignment(index, value):
    plain = [x.data if isinstance(x, Tensor) else x for x in (index if isinstance(index, tuple) else (index,))]
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected[tuple(plain)] = getattr(value, "data", value) if isinstance(value, Tensor) else value
    x, data = leaf(np.arange(6).reshape(2, 3)), Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    data[index] = value  # data needs no no_grad
    with no_grad():
        x[index] = value
    for tensor in (x, data):
        np.testing.assert_array_equal(tensor.data, expected)


def test_item_assignment_cannot_be_recorded():
    data, x = Tensor([1.0, 2.0]), leaf()
    for target, value in ((leaf(), 1.0), (leaf() * 2, 1.0), (data, x[0])):
        before = target.data.copy()
        with pytest.raises(RuntimeError, match=rf"`x\[index\] = ...` changes a tensor in place, .*: {WAY_OUT}"):
            target[0] = value
        np.testing.assert_array_equal(target.data, before)
    with pytest.raises(RuntimeError, match=WAY_OUT):
        x[0] += 1
    with no_grad():
        x[0] += 1
    assert x.data.tolist() == [2.0, 2.0, 3.0]


# --- a change between forward and backward ---


def update(w):
    with no_grad():
        w += 1


def assign(w):
    with no_grad():
        w[0] = 9.0


def step(w, kernels="textbook"):
    twin = nn.Parameter(w.data)
    twin.grad = np.ones_like(w.data)
    with use_kernels(kernels):
        optim.AdamW([twin]).step()


def load(w):
    model = nn.Module()
    model.w = nn.Parameter(w.data)
    model.load_state_dict({"w": np.zeros(w.shape)})


def load_buffer(w):
    model = nn.Module()
    model.register_buffer("w", w.data)
    model.load_state_dict({"w": np.zeros(w.shape)})


def clip(w):
    parameter = Tensor(np.zeros_like(w.data), requires_grad=True)
    parameter.grad = w.data
    optim.clip_grad_norm_(parameter, 0.1)


def assign_to_a_view(w):
    w.detach()[1:][0] = 5.0


def initialize_a_view(w):
    nn.init.zeros_(w.detach()[1:])


CHANGES = [update, assign, step, lambda w: step(w, "fast"), load, load_buffer, clip, nn.init.zeros_, nn.init.normal_]
CHANGES += [lambda w: nn.init.ones_(w.detach()), lambda w: assign(Tensor(w.numpy())), assign_to_a_view]
CHANGES += [initialize_a_view]


def test_a_window_that_slides_over_an_array_shares_its_memory():
    data = Tensor(np.ones(8, np.float32))
    windows = Tensor(np.lib.stride_tricks.sliding_window_view(data.data, 3))  # has no base, by its own account
    loss = (leaf() * windows).sum()
    data[0] = 3.0
    with pytest.raises(RuntimeError, match="<Mul> saved a tensor .* as ctx.y, and it was changed in place"):
        loss.backward()


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
@pytest.mark.parametrize(
    "make", [lambda a: nn.Parameter(a), lambda a: nn.Parameter(a, requires_grad=False), Tensor, lambda a: a]
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_saved_array_that_changed_is_noticed(change, make, kernels):
    """Whether it gets a gradient, is frozen, data or a plain array, and whoever changes it, through whatever tensor."""
    x, array = leaf(np.ones((4, 3))), np.ones((2, 3), np.float32)
    weight = make(array)
    with use_kernels(kernels):
        out = F.linear(x, weight)
        with no_grad():
            F.linear(x, weight)
        change(weight if isinstance(weight, nn.Parameter) else nn.Parameter(array))
        with pytest.raises(RuntimeError, match=r"<\w*Linear> saved a tensor of shape .* as ctx.weight, .* in place"):
            out.sum().backward()
    assert x.grad is None
    F.linear(x, weight).sum().backward()  # a new forward pass is fine


def test_the_result_of_an_op_and_the_input_of_a_trained_layer():
    x = leaf()
    for saved in (x.exp(), Tensor([1.0, 2.0, 3.0])):
        out = (saved * x).sum()
        with no_grad():
            saved[0] = 7.0
        with pytest.raises(RuntimeError, match="changed in place before"):
            out.backward()


def test_a_change_through_a_recorded_view_that_has_died():
    x = leaf()
    out, view = (x * x).sum(), x.reshape(3, 1)
    with no_grad():
        view[0] = 7.0
    del view
    with pytest.raises(RuntimeError, match="changed in place before"):
        out.backward()


def test_a_step_of_a_leaf_that_is_a_view_and_has_died():
    x = leaf()
    out = (x * x).sum()
    view = x.detach()[1:].requires_grad_()
    (view * 2).sum().backward()
    optim.SGD([view]).step()
    del view
    with pytest.raises(RuntimeError, match="changed in place before"):
        out.backward()


@pytest.mark.parametrize("indexed", [lambda x, index: x[index], lambda x, index: x[None, index]])
def test_a_list_of_indices_that_changes_before_backward(indexed):
    x, index = leaf(), [0, 1]
    out = indexed(x, index).sum()
    index[0] = 2
    out.backward()
    assert x.grad.tolist() == [1, 1, 0]


def test_a_second_backward_after_a_step():
    model = nn.Linear(3, 3)
    out = model(model(leaf())).sum()
    out.backward(retain_graph=True)
    optim.SGD(model.parameters()).step()
    with pytest.raises(RuntimeError, match="changed in place before"):
        out.backward()


def test_changes_before_forward_of_other_arrays_and_of_what_was_not_saved_are_no_mistake():
    x, weight, other = leaf(), nn.Parameter(np.ones(3, np.float32)), nn.Linear(3, 3)
    for change in CHANGES:
        x.zero_grad()
        change(weight)
        out = (x + weight).sum() + x.clip(-9, 9).sum()
        change(weight)
        change(other.weight)
        out.backward()
        np.testing.assert_array_equal(x.grad, [2.0, 2.0, 2.0])


def test_a_dead_array_is_forgotten():
    gc.collect()
    before = len(in_place._changed)
    for _ in range(100):
        step(nn.Parameter(np.ones(3)))
        Tensor(np.ones(3))[0] = 2.0
    assert len(in_place._changed) == before
    assert in_place.version(np.ones(3)) == 0


@needs_threads
def test_threads_may_train_beside_each_other():
    """Each has its own model; a change in another thread is not one of this graph."""
    failures = []

    def train():
        try:
            model, x = nn.Linear(3, 3), Tensor(np.ones((2, 3), np.float32))
            optimizer = optim.SGD(model.parameters(), lr=0.01)
            for _ in range(200):
                model.zero_grad()
                model(model(x)).sum().backward()
                optimizer.step()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_write_with_numpy_is_noticed_by_anomaly_mode_only():
    for write in (lambda x: operator.setitem(x.data, 0, 5.0), lambda x: operator.setitem(x.numpy(), 0, 5.0)):
        x = leaf()
        out = (x * x).sum()
        write(x)
        out.backward()
        np.testing.assert_array_equal(x.grad, [10.0, 4.0, 6.0])  # of the new numbers: in_place.py says so
        with inspection.detect_anomaly(), pytest.raises(AnomalyError, match="changed before backward"):
            out = (x * x).sum()
            write(x)
            x.data[1] += 1
            out.backward()


def overwrites_data(node):
    """Is this `x.data[...] = y`, `x.data[...] += y` or `x.data += y`?"""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    arrays = [target.value for target in targets if isinstance(target, ast.Subscript)]
    if isinstance(node, ast.AugAssign):
        arrays.append(node.target)
    return any(isinstance(array, ast.Attribute) and array.attr == "data" for array in arrays)


def test_whoever_overwrites_the_array_of_a_tensor_announces_it():
    """But for the rules of optimizers, whose step does so, and a layer that is being made."""
    silent = set()
    for package in ("minigrad", "gpt", "finetune"):
        for path in (ROOT / package).rglob("*.py"):
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef) and any(map(overwrites_data, ast.walk(function))):
                    names = {getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(function)}
                    if not names & {"announce", "announce_update"}:
                        silent.add(f"{path.name}: {function.name}")
    assert silent == {"optim.py: update", "muon.py: update", "layers.py: __init__"}


# --- read-only arrays ---


def from_file(tmp_path, array):
    np.save(tmp_path / "weight.npy", array)
    return np.load(tmp_path / "weight.npy", mmap_mode="r")


def with_a_flag(tmp_path, array):
    array = array.copy()
    array.flags.writeable = False
    return array


def broadcast(tmp_path, array):
    return np.broadcast_to(array[:1, :1].copy(), array.shape)


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Muon", "load", "init", "update", "assign"])
@pytest.mark.parametrize("source", [from_file, with_a_flag, broadcast])
def test_a_read_only_parameter_becomes_a_copy(tmp_path, source, name, kernels):
    given = source(tmp_path, np.arange(6, dtype=np.float32).reshape(2, 3))
    before, gradient = given.copy(), np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    read_only, writable = nn.Parameter(given), nn.Parameter(np.array(given))
    assert np.shares_memory(read_only.data, given)
    for p in (read_only, writable):
        p.grad = gradient.copy()
        if name in ("SGD", "Adam", "AdamW", "Muon"):
            optimizer = (Muon if name == "Muon" else getattr(optim, name))([p], lr=0.1)
            with use_kernels(kernels):
                optimizer.step()
                optimizer.step()
        else:
            {"load": load_into, "init": nn.init.ones_, "update": update, "assign": assign}[name](p)
    np.testing.assert_array_equal(read_only.data, writable.data)
    np.testing.assert_array_equal(given, before)
    assert (read_only.data != before).any() and type(read_only.data) is np.ndarray


def test_other_arrays_that_are_read_only_are_refused():
    read_only = np.broadcast_to(np.float32(1), 3)
    model, parameter = nn.Linear(3, 3), leaf()
    model.register_buffer("buffer", read_only)
    before = model.weight.data.copy()
    with pytest.raises(ValueError, match=r"an array of shape \(3,\) is read-only, .*: pass a copy"):
        model.load_state_dict({**nn.Linear(3, 3).state_dict(), "buffer": np.ones(3)})
    np.testing.assert_array_equal(model.weight.data, before)
    parameter.grad = read_only
    with pytest.raises(ValueError, match="read-only, but must be overwritten"):
        optim.clip_grad_norm_(parameter, 1.0)


def load_into(parameter):
    model = nn.Module()
    model.parameter = parameter
    model.load_state_dict({"parameter": np.ones(parameter.shape)})
