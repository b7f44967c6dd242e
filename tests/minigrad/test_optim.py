"""Optimizers step by step beside PyTorch's, clipping, schedules, and going on from a saved state."""

import copy
import json
import math
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minigrad import nn, optim, use_kernels

SETTINGS = {
    "SGD": dict(lr=0.1),
    "SGD-momentum": dict(lr=0.1, momentum=0.9),
    "SGD-momentum-decay": dict(lr=0.05, momentum=0.5, weight_decay=0.1),
    "SGD-nesterov": dict(lr=0.05, momentum=0.5, weight_decay=0.1, nesterov=True),
    "Adam": dict(lr=0.01),
    "Adam-decay": dict(lr=0.01, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6),
    "AdamW": dict(lr=0.01),
    "AdamW-decay": dict(lr=0.02, weight_decay=0.3, betas=(0.9, 0.95)),
    "AdamW-no-momentum": dict(lr=0.02, weight_decay=0.0, betas=(0.0, 0.0)),
}
SHAPES = [(3, 4), (5,), (), (0, 2)]


def optimizer_for(parameters, name, module=optim):
    return getattr(module, name.split("-")[0])(parameters, **SETTINGS[name])


def parameters(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [nn.Parameter(rng.normal(size=shape).astype(dtype)) for shape in SHAPES]


def gradients(step, dtype):
    """Large and small ones, some exactly 0, in the 3rd step some missing."""
    rng = np.random.default_rng([1, step])
    found = [np.asarray(rng.normal(size=shape) * 10.0 ** rng.integers(-6, 3, shape)).astype(dtype) for shape in SHAPES]
    found[1][0] = 0
    return [None if step == 3 and i == 1 else g for i, g in enumerate(found)]


@pytest.mark.oracle("torch")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_step_equals_torch(name, dtype, kernels):
    import torch

    ours = parameters(dtype)
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in ours]
    our_optimizer = optimizer_for(ours, name)
    their_optimizer = optimizer_for(theirs, name, torch.optim)
    with use_kernels(kernels):
        for step in range(6):
            for p, q, g in zip(ours, theirs, gradients(step, dtype)):
                p.grad, q.grad = (None, None) if g is None else (g, torch.from_numpy(g.copy()))
            our_optimizer.step()
            their_optimizer.step()
            for p, q in zip(ours, theirs):
                tolerance = 1e-5 if dtype == np.float32 else 1e-13
                assert_allclose(p.data, q.detach().numpy(), rtol=tolerance, atol=tolerance / 10)


# The one parameter 1.0 with gradients 0.1, -2.0, 0.0, 1e-4, from torch 2.13 in float64; by
#   p = torch.nn.Parameter(torch.ones((), dtype=torch.float64)); o = torch.optim.NAME([p], **SETTINGS); ...
GOLDEN = {
    "SGD-momentum-decay": [0.99, 1.08005, 1.11967475, 1.13388375125],
    "Adam-decay": [0.99000004999975, 0.9970679387108601, 1.00186655153782, 1.0052141918010982],
    "AdamW-decay": [0.9740000019999998, 0.982177097757122, 0.9872625221898326, 0.9904485417102086],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_steps(name, kernels):
    p = nn.Parameter(np.ones(()))
    optimizer = optimizer_for([p], name)
    with use_kernels(kernels):
        for gradient, expected in zip([0.1, -2.0, 0.0, 1e-4], GOLDEN[name]):
            p.grad = np.array(gradient)
            optimizer.step()
            assert_allclose(p.data, expected, rtol=1e-14)


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_are_in_place_and_leave_gradients_alone(name, kernels):
    flat, gradient = np.linspace(-1, 1, 12, dtype=np.float32), np.linspace(0, 1, 6, dtype=np.float32)
    before = flat.copy()
    ours, beside = nn.Parameter(flat[:6].reshape(2, 3)), nn.Parameter(flat[6:])
    data, version = ours.data, ours.version
    optimizer = optimizer_for([ours, beside], name)
    with use_kernels(kernels):
        for _ in range(2):
            ours.grad = gradient.reshape(2, 3)
            optimizer.step()
    assert ours.data is data and ours.data.base is not None and ours.version > version == 0
    assert (flat[:6] != before[:6]).any() and (flat[6:] == before[6:]).all()
    assert_array_equal(gradient, np.linspace(0, 1, 6, dtype=np.float32))
    assert list(optimizer.state) in ([], [0]) and beside.version == 0  # none for what has no gradient
    for value in optimizer.state.get(0, {}).values():
        assert not np.shares_memory(value, gradient)
    optimizer.zero_grad()
    assert ours.grad is None


@pytest.mark.parametrize("base, lr", [(optim.Optimizer, {"lr": 0.5}), (optim.AdamW, 0.5)])
def test_an_update_of_ones_own_runs_with_all_kernels(base, lr):
    class Sign(base):
        def update(self, p, grad, state, group):
            state["step"] = state.get("step", 0) + 1
            p.data -= group["lr"] * np.sign(grad)

    p, without, q = (nn.Parameter([1.0]) for _ in range(3))
    optimizer = Sign([{"params": [p, without]}, {"params": q, "lr": 2.0}], lr)
    p.grad, q.grad = np.array([3.0], np.float32), np.array([-3.0], np.float32)
    for kernels in ("textbook", "fast"):
        with use_kernels(kernels):
            optimizer.step()
    assert (p.item(), without.item(), q.item()) == (0.0, 1.0, 5.0)
    assert optimizer.state_dict()["state"] == {0: {"step": 2}, 2: {"step": 2}}
    with pytest.raises(TypeError, match="Optimizer must define update"):
        optim.Optimizer(p, {}).step()


# --- groups ---


def test_groups_have_their_own_settings():
    first, second = nn.Parameter([1.0]), nn.Parameter([1.0])
    optimizer = optim.SGD([{"params": first, "lr": 1.0}, {"params": [second]}], lr=0.25)
    optimizer.add_param_group({"params": nn.Parameter([1.0]), "weight_decay": 2.0})
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = np.ones(1, np.float32)
    optimizer.step()
    assert optim.SGD(first).param_groups[0]["params"] == [first]  # one tensor is enough
    assert [p.item() for group in optimizer.param_groups for p in group["params"]] == [0.0, 0.75, 0.25]


def test_decay_groups_spare_vectors_and_leave_frozen_ones_out():
    model = nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    decayed, spared = optim.decay_groups(model.named_parameters(), 0.1)
    assert [p.shape for p in decayed["params"]] == [(3, 4)] and decayed["weight_decay"] == 0.1
    assert [p.shape for p in spared["params"]] == [(4,), (4,), (2,)] and spared["weight_decay"] == 0.0
    assert len(optim.AdamW([decayed, spared]).param_groups) == 2


P = nn.Parameter([1.0, 2.0])


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: optim.SGD([]), ValueError, "got no parameters"),
        (lambda: optim.SGD([P], lr=math.nan), ValueError, "lr must be >= 0, got nan"),
        (lambda: optim.SGD([P], momentum=-0.5), ValueError, "momentum must be >= 0"),
        (lambda: optim.SGD([P], nesterov=True), ValueError, "nesterov=True needs a momentum > 0, got 0"),
        (lambda: optim.SGD([P], 0.1, 0.9, 0.1), TypeError, "positional arguments"),  # PyTorch's dampening
        (lambda: optim.AdamW([P], betas=(0.9, 1.0)), ValueError, r"betas must be in \[0, 1\), got \(0.9, 1.0\)"),
        (lambda: optim.AdamW([P], eps=-1e-8), ValueError, "eps must be >= 0"),
        (lambda: optim.AdamW([{"params": [P], "weight_decay": -1}]), ValueError, "weight_decay must be >= 0"),
        (lambda: optim.SGD([P, P]), ValueError, r"a parameter of shape \(2,\) is given twice"),
        (lambda: optim.SGD([{"params": P}, {"params": P}]), ValueError, "given twice"),
        (lambda: optim.SGD([{"params": P, "betas": 1}]), ValueError, "SGD has no setting betas; it has lr, momentum"),
        (lambda: optim.SGD([P * 2]), TypeError, "updates leaf tensors, not the result of an op"),
        (lambda: optim.SGD([np.ones(2)]), TypeError, "updates leaf tensors, not ndarray"),
        (lambda: optim.clip_grad_norm_(P, math.nan), ValueError, "max_norm must be >= 0, got nan"),
        (lambda: schedule(5, 4), ValueError, "warm-up of 5 steps"),
        (lambda: schedule(min_ratio=2), ValueError, "min_ratio must be in 0..1, got 2"),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- saved state ---


def run(optimizer, ours, steps):
    for step in steps:
        for p, g in zip(ours, gradients(step, ours[0].dtype)):
            p.grad = g
        optimizer.step()


def through_json(state):
    """A state after a checkpoint: settings and numbers went through JSON, arrays stayed as they are."""
    groups = json.loads(json.dumps(state["param_groups"]))
    return {"state": {str(key): {**value} for key, value in state["state"].items()}, "param_groups": groups}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_saved_state_goes_on_bit_by_bit(name, kernels):
    with use_kernels(kernels):
        ours = parameters(np.float32)
        optimizer = optimizer_for(ours, name)
        run(optimizer, ours, range(3))
        others = [nn.Parameter(p.data.copy()) for p in ours]
        other = type(optimizer)(others, lr=77.0)
        saved = through_json(optimizer.state_dict())
        other.load_state_dict(saved)
        for key, values in saved["state"].items():  # as copies
            for value_name, value in values.items():
                assert other.state[int(key)][value_name] is not value or isinstance(value, int)
        run(optimizer, ours, range(3, 6))
        run(other, others, range(3, 6))
    for p, q in zip(ours, others):
        assert_array_equal(p.data, q.data)


def adamw():
    ours = parameters(np.float32)
    optimizer = optim.AdamW([{"params": ours[:2]}, {"params": ours[2:]}], lr=0.5)
    run(optimizer, ours, range(2))
    return optimizer


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s["param_groups"].pop(), r"groups of \[2, 2\] parameters, its saved state of \[2\]"),
        (lambda s: s["param_groups"].__setitem__(0, {"params": [0], "lr": 1.0}), r"saved state of \[1, 2\]"),
        (lambda s: s["param_groups"].__setitem__(1, {"params": [0, 1], "lr": -1.0}), "lr must be >= 0"),
        (lambda s: s["param_groups"].__setitem__(1, {"params": [0, 1], "momentum": 0}), "no setting momentum"),
        (lambda s: s["state"][3].update(exp_avg=np.zeros(2)), r"exp_avg has shape \(2,\), its parameter \(0, 2\)"),
        (lambda s: s["state"].update({4: {}}), "has 4 parameters, its saved state names 4"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    optimizer, state = adamw(), copy.deepcopy(adamw().state_dict())
    before = copy.deepcopy(optimizer.state_dict())
    change(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for key, values in before["state"].items():
        for name, value in values.items():
            assert_array_equal(after["state"][key][name], value)


def test_a_state_is_cast_to_the_parameters_dtype():
    optimizer, doubles = adamw(), parameters(np.float64)
    other = optim.AdamW([{"params": doubles[:2]}, {"params": doubles[2:]}])
    other.load_state_dict(optimizer.state_dict())
    assert other.state[0]["exp_avg"].dtype == np.float64
    assert_array_equal(other.state[0]["exp_avg"], optimizer.state[0]["exp_avg"])


# --- clipping ---

GRADIENTS = [np.array([[3.0, 4.0], [0.0, 12.0]]), np.array(84.0), np.zeros((0, 3)), np.array([1.0, -2.0, 3.0])[::-1]]


def with_gradients(arrays, dtype=np.float32):
    tensors = []
    for array in arrays:
        tensor = nn.Parameter(np.zeros(np.shape(array), dtype))
        tensor.grad = None if array is None else np.array(array, dtype)
        tensors.append(tensor)
    return tensors


@pytest.mark.oracle("torch")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("max_norm", [0.0, 1.0, 85.0, 1e6, math.inf])
def test_clipping_equals_torch(max_norm, dtype, kernels):
    import torch

    ours = with_gradients(GRADIENTS, dtype)
    theirs = []
    for p in ours:
        theirs.append(torch.nn.Parameter(torch.zeros(p.shape, dtype=torch.from_numpy(p.grad).dtype)))
        theirs[-1].grad = torch.from_numpy(p.grad.copy())
    with use_kernels(kernels), warnings.catch_warnings():
        warnings.simplefilter("error")
        norm = optim.clip_grad_norm_(iter(ours), max_norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert type(norm) is np.ndarray and norm.shape == () and norm.dtype == dtype
    assert_allclose(norm, expected.item(), rtol=1e-6)
    for p, q in zip(ours, theirs):
        assert_allclose(p.grad, q.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize("n, size, max_norm", [(5_000, 300.0, 1e3), (70_000, 1.0, 1.0), (5_000, 6e4, 1e-2)])
def test_clipping_in_float16(n, size, max_norm, kernels):
    (p,) = with_gradients([np.full(n, size)], np.float16)
    with use_kernels(kernels):
        norm = optim.clip_grad_norm_(p, max_norm)
    assert_allclose(norm, size * n**0.5, rtol=1e-3)
    assert p.grad.dtype == np.float16
    assert_allclose(p.grad, max_norm / n**0.5, rtol=1e-3, atol=3e-8)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("max_norm", [1.0, math.inf])
def test_a_norm_that_is_not_finite_scales_nothing(bad, max_norm, kernels):
    tensors = with_gradients([[1.0, bad], [2.0]])
    with use_kernels(kernels), warnings.catch_warnings():
        warnings.simplefilter("error")
        norm = optim.clip_grad_norm_(tensors, max_norm)
    assert not np.isfinite(norm)
    assert_array_equal(tensors[0].grad, np.array([1.0, bad], np.float32))
    assert_array_equal(tensors[1].grad, [2.0])


def test_clipping_without_gradients_and_of_one_tensor():
    assert optim.clip_grad_norm_([], 1.0) == optim.clip_grad_norm_([nn.Parameter([1.0])], 1.0) == 0
    (tensor,) = with_gradients([[30.0, 40.0]])
    assert optim.clip_grad_norm_(tensor, 5.0) == 50
    assert_allclose(tensor.grad, [3.0, 4.0], rtol=1e-6)


def test_gradients_in_any_memory_order(kernels):
    gradient = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    results = []
    for order in "CF":
        (p,) = with_gradients([gradient])
        p.grad = gradient.copy(order)
        with use_kernels(kernels):
            norm = optim.clip_grad_norm_(p, 1.0)
            optim.AdamW([p], lr=0.1).step()
        results.append((norm.item(), p.data.tolist()))
    assert results[0] == results[1]


# --- the schedule ---


def schedule(warmup=4, total=12, min_ratio=0.1, lr=2.0):
    """For two groups, the second of which learns half as fast."""
    groups = [{"params": P, "lr": lr}, {"params": nn.Parameter([1.0]), "lr": lr / 2}]
    return optim.WarmupCosine(optim.SGD(groups), warmup, total, min_ratio)


def test_warmup_and_cosine():
    cosine = schedule()
    rates = []
    for _ in range(15):
        rate, half = cosine.get_last_lr()
        assert half == rate / 2 == cosine.optimizer.param_groups[1]["lr"]
        rates.append(rate)
        cosine.step()
    assert_allclose(rates[:5], [0.4, 0.8, 1.2, 1.6, 2.0])  # never 0, so that the first step does something
    assert_allclose(rates[8], 2 * (0.1 + 0.9 / 2))  # the middle of the way down
    assert_allclose(rates[12:], [0.2, 0.2, 0.2])
    assert all(high > low for high, low in zip(rates[4:], rates[5:13]))
    assert_allclose(rates[6], 2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))))


def test_schedules_without_warmup_or_without_descent():
    assert schedule(warmup=0).get_last_lr() == [2.0, 1.0]
    only_warmup = schedule(warmup=3, total=3)
    assert [only_warmup.ratio(step) for step in range(5)] == [0.25, 0.5, 0.75, 0.1, 0.1]
    assert schedule(0, 0).ratio(0) == 0.1
    assert schedule(min_ratio=1.0).ratio(9) == 1.0 and schedule(min_ratio=0.0).ratio(12) == 0.0


def test_a_schedule_goes_on_from_its_state():
    cosine = schedule()
    for _ in range(7):
        cosine.step()
    state = json.loads(json.dumps(cosine.state_dict()))
    other = schedule(lr=99.0)
    other.load_state_dict(state)
    for _ in range(8):
        assert other.get_last_lr() == cosine.get_last_lr()
        cosine.step()
        other.step()
    with pytest.raises(ValueError, match="1 saved learning rates for 2 parameter groups"):
        other.load_state_dict({"steps_done": 0, "peaks": [1.0]})
    assert other.get_last_lr() == cosine.get_last_lr()
