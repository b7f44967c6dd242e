"""The engine on a GPU, as far as can be seen without one: no op waits for it, and nothing becomes float64 there."""

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, autocast, backend, inspection, nn, no_grad, optim
from minigrad.precision import round_bfloat16
from tests.minigrad.test_diagnosis import MUTANTS, failure
from tests.standin import arrays


def test_a_condition_of_one_bool(cuda):
    x = Tensor(np.ones(3, np.float32), requires_grad=True, device="cuda")
    F.where(np.True_, x, 0.0).sum().backward()
    assert backend.to_numpy(x.grad).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("make", [optim.SGD, lambda p: optim.SGD(p, momentum=0.9), optim.Adam, optim.AdamW])
def test_optimizers_stay_in_float32_and_wait_for_nothing(cuda, monkeypatch, make):
    """A number on the GPU is an array without dimensions, and a float64 one would widen all that it meets."""
    here = nn.Parameter(np.ones(3, np.float32))
    p = here.to("cuda").detach().requires_grad_()
    here.grad = np.full(3, 0.5, np.float32)
    p.grad = backend.to_device(here.grad, "cuda")
    optimizer, on_the_cpu = make([p]), make([here])
    made = watch_dtypes(monkeypatch)
    for _ in range(3):
        cuda.reset()
        optimizer.step()
        assert cuda.synchronisations == cuda.to_host == 0
        on_the_cpu.step()
        np.testing.assert_allclose(p.data.get(), here.data, rtol=1e-6)
    assert [state.get("step") for state in optimizer.state_dict()["state"].values()] in ([None], [3], [])
    kept = [p.data, *(value for value in optimizer.state.get(0, {}).values() if getattr(value, "shape", ()))]
    assert {array.dtype for array in kept} == {np.dtype(np.float32)} and (3,) in {shape for shape, _ in made}
    assert {dtype for shape, dtype in made if shape} <= {np.dtype(np.float32), np.dtype(bool)}


def watch_dtypes(monkeypatch):
    """(shape, dtype) of every result that is computed on the device from now on."""
    made, original = set(), arrays.elementwise

    def elementwise(*args, **options):
        result = original(*args, **options)
        made.add((result.shape, result.dtype))
        return result

    monkeypatch.setattr(arrays, "elementwise", elementwise)
    return made


def test_a_training_step_stays_in_float32(cuda, monkeypatch):
    model = nn.Sequential(nn.Embedding(7, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU("tanh"), nn.Linear(8, 7))
    model.to("cuda")
    optimizer = optim.AdamW(model.parameters())
    ids = backend.to_device(np.array([1, 2, 3, 6]), "cuda")
    made = watch_dtypes(monkeypatch)
    for _ in range(2):
        F.cross_entropy(model(ids), ids).backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()
    assert {dtype for shape, dtype in made if shape and dtype.kind == "f"} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", ["sign of sub", "square without its 2", "transposed in a square", "missing repeat"])
def test_gradcheck_names_what_is_wrong_on_a_gpu(cuda, name):
    fn, inputs, op, backward, kind, _ = MUTANTS[name]
    inputs = [Tensor(x, device="cuda") for x in (inputs if isinstance(inputs, list) else [inputs])]
    assert failure(fn, inputs, op, backward).diagnosis.kind == kind


def test_inspection_on_a_gpu(cuda, tmp_path):
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True, device="cuda")
    with inspection.profile() as profile, inspection.memory() as memory:
        loss = (F.softmax(x * 2, -1) * x).sum()
    loss.backward()
    assert "Softmax" in str(profile) and memory.peak > 0
    inspection.draw(loss, tmp_path / "graph.svg")
    assert "Softmax" in (tmp_path / "graph.svg").read_text(encoding="utf-8")
    with inspection.detect_anomaly(), pytest.raises(inspection.AnomalyError, match="Log made"):
        F.log(x * 0 - 1)


def test_bfloat16_rounding_on_a_gpu(cuda):
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    there = backend.to_device(x, "cuda")
    cuda.reset()
    rounded = round_bfloat16(there)
    with autocast():
        product = F.matmul(Tensor(there), Tensor(there).T)
    assert cuda.synchronisations == 0
    np.testing.assert_array_equal(backend.to_numpy(rounded), round_bfloat16(x))
    with autocast():
        np.testing.assert_array_equal(product.numpy(), F.matmul(Tensor(x), Tensor(x).T).data)


def test_changes_in_place_wait_for_nothing_and_are_noticed(cuda):
    w = nn.Parameter(np.arange(6, dtype=np.float32).reshape(2, 3)).to("cuda").detach().requires_grad_()
    x = Tensor(np.ones((1, 3), np.float32), requires_grad=True, device="cuda")
    out, array = F.linear(x, w).sum(), w.data
    cuda.reset()
    with no_grad():
        w -= 0.5 * w
        w *= 2
        w[0] = 7.0
        w[1:, 0] += backend.to_device(np.ones(1, np.float32), "cuda")
    assert cuda.synchronisations == cuda.to_host == 0 and w.data is array
    assert w.data.get().tolist() == [[7.0, 7.0, 7.0], [4.0, 4.0, 5.0]]
    with pytest.raises(RuntimeError, match="changed in place before"):
        out.backward()
