"""Devices, arrays and random streams."""

import functools
import json
import types
from unittest import mock

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import minigrad.functional as F
from minigrad import Tensor, backend, manual_seed
from tests.standin.installing import installed


@pytest.fixture
def two_gpus():
    """CuPy's stand-in, with two GPUs."""
    with installed(devices=2):
        import cupy

        yield cupy


def test_module_of_an_array(tmp_path, two_gpus):
    mapped = np.memmap(tmp_path / "tokens", np.uint16, "w+", shape=(3,))
    for array in (np.zeros(2), np.float32(1), mapped):
        assert backend.module_of(array) is np and backend.device_of(array) == "cpu"
    assert backend.module_of(two_gpus.zeros(2)) is two_gpus and backend.is_array(two_gpus.zeros(2))
    Tensor(mapped).data[0] = 7
    assert mapped[0] == 7  # shared
    for other in ([1.0], 1.0, None, Tensor(1.0)):
        assert not backend.is_array(other)
        with pytest.raises(TypeError, match=f"{type(other).__name__} is not an array; expected a NumPy or CuPy array"):
            backend.module_of(other)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "", "tpu:0", None])
def test_unknown_devices(name):
    with pytest.raises(ValueError, match="unknown device .*expected 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        backend.resolve_device(name)


def cupy_where(available):
    """A CuPy that can say whether there is a GPU, and nothing else."""
    return types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: available))


@pytest.mark.parametrize(
    "found, reason",
    [
        (ModuleNotFoundError(name="cupy"), r"CuPy is not installed \(pip install"),
        (cupy_where(False), "CuPy is installed, but finds no NVIDIA GPU or driver"),
        (cupy_where(True), "CuPy is installed, but a first computation failed: AttributeError: "),  # it has no `ones`
    ],
)
def test_cuda_that_does_not_work(monkeypatch, found, reason):
    monkeypatch.setattr(backend, "cuda_problem", functools.cache(backend.cuda_problem.__wrapped__))
    monkeypatch.setattr(backend, "_load_cupy", mock.Mock(side_effect=[found]))
    assert backend.resolve_device("auto") == backend.resolve_device("cpu") == "cpu"
    for ask in (backend.resolve_device, Tensor(1.0).to, lambda device: Tensor(1.0, device=device)):
        with pytest.raises(RuntimeError, match=f"device 'cuda' cannot be used: {reason}"):
            ask("cuda")


def test_moving_between_devices(two_gpus):
    assert backend.resolve_device("auto") == backend.resolve_device("cuda") == "cuda:0"
    x = Tensor(np.arange(3.0), device="cuda:1")
    assert x.device == "cuda:1" and type(x.data) is two_gpus.ndarray and "device=cuda:1" in repr(x)
    assert x.to("cuda:1").data is x.data
    back = x.to("cpu")
    assert back.device == "cpu" and type(x.numpy()) is np.ndarray
    assert_array_equal(back.data, [0.0, 1.0, 2.0])
    with pytest.raises(RuntimeError, match="'cuda:2' cannot be used: this machine has 2 GPUs, counted from 0"):
        x.to("cuda:2")


def test_new_arrays_are_made_on_the_gpu_that_was_last_copied_to(two_gpus):
    x = Tensor(np.arange(3.0), requires_grad=True, device="cuda:1")
    (x * x).sum().backward()
    assert backend.device_of(x.grad) == backend.device_of(two_gpus.ones(2)) == "cuda:1"
    moved = x.detach().to("cuda:0")
    assert moved.device == backend.device_of(two_gpus.ones(2)) == "cuda:0"
    assert_array_equal(moved.to("cpu").data, [0.0, 1.0, 2.0])


def test_mixing_devices_names_both(two_gpus):
    here, there, elsewhere = np.zeros(2), Tensor(np.zeros(2), device="cuda:0"), Tensor(np.zeros(2), device="cuda:1")
    for mix in (F.add, F.matmul, F.maximum):
        message = rf"{mix.__name__}: inputs are on cpu and cuda:0; move one of them with \.to\(device\)"
        with pytest.raises(RuntimeError, match=message):
            mix(here, there)
    with pytest.raises(RuntimeError, match="comparison: inputs are on cuda:0 and cuda:1"):
        there < elsewhere  # noqa: B015
    x = Tensor(np.zeros(2), requires_grad=True)
    with pytest.raises(RuntimeError, match=r"gradient of shape \(2,\) on cuda:0 for a tensor of shape \(2,\) on cpu"):
        x.backward(there)


# --- random streams ---


@pytest.mark.parametrize("seed", [-1, 1.0, "0", None, True, np.float64(3)])
def test_seeds_are_integers_that_are_not_negative(seed):
    with pytest.raises(ValueError, match="seed must be an integer >= 0, got"):
        manual_seed(seed)


def draws():
    stream = backend.next_stream()
    return [backend.generator().random(), stream, *backend.uniform(np, stream, (2,)).tolist()]


@pytest.mark.parametrize("seed", [0, 1, np.int64(7), 2**31, 2**63, 2**64 - 1, 2**200])
def test_a_seed_starts_everything(seed):
    manual_seed(seed)
    first = [draws() for _ in range(3)]
    manual_seed(seed)
    assert [draws() for _ in range(3)] == first and first[0] != first[1]
    manual_seed(int(seed) + 1)
    assert draws() != first[0]


def test_the_random_state_goes_through_json():
    manual_seed(3)
    draws()
    state = json.loads(json.dumps(backend.random_state()))
    expected = [draws() for _ in range(3)]
    manual_seed(99)
    backend.set_random_state(state)
    assert [draws() for _ in range(3)] == expected


def test_a_wrong_random_state_changes_nothing():
    before = backend.random_state()
    for wrong in ({}, {"seed": -1}, {"host": {"bit_generator": "MT19937"}}, {"host": None}):
        with pytest.raises((KeyError, ValueError, TypeError)):
            backend.set_random_state({**before, **wrong} if wrong else {})
        assert backend.random_state() == before


def test_uniform_is_a_pure_function_of_its_key():
    stream = (5, 1)
    first = backend.uniform(np, stream, (3, 4), head=2, block=7)
    backend.generator().random()
    manual_seed(1)
    assert_array_equal(backend.uniform(np, stream, (3, 4), head=2, block=7), first)
    # A prefix is a prefix, so that the rows of a block may be drawn in part.
    assert_array_equal(backend.uniform(np, stream, (2, 4), head=2, block=7), first[:2])
    keys = [(stream, 2, 8), (stream, 3, 7), (stream, 7, 2), ((5, 2), 2, 7), ((6, 1), 2, 7), ((1, 5), 2, 7)]
    for key, head, block in keys:
        assert not np.isin(backend.uniform(np, key, (3, 4), head, block), first).any()


def test_uniform_is_uniform():
    numbers = backend.uniform(np, (0, 1), (100_000,))
    assert numbers.dtype == np.float32 and numbers.min() >= 0 and numbers.max() < 1
    counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
    assert np.abs(counts - 10_000).max() < 500  # 5 standard deviations
    assert backend.uniform(np, (0, 1), ()).shape == () and backend.uniform(np, (0, 1), (0, 3)).shape == (0, 3)
