"""The stand-in for CuPy is as strict as it should be: each slip that a GPU would show, or hide, is found here."""

import re

import numpy as np
import pytest

from tests.standin.signatures import NAMES

pytestmark = pytest.mark.usefixtures("cuda")


@pytest.fixture
def xp(cuda):
    import cupy

    cuda.reset()
    return cupy


@pytest.fixture
def x(xp):
    return xp.arange(6, dtype=np.float32).reshape(2, 3).copy()


HOST = np.ones((2, 3), np.float32)

REFUSED = {
    # NumPy's hands off
    "asarray": lambda xp, x: np.asarray(x),
    "a function of NumPy": lambda xp, x: np.concatenate([x, x]),
    "a ufunc of NumPy": lambda xp, x: np.exp(x),
    "a number of NumPy before it": lambda xp, x: np.float64(2) * x,
    "written into a NumPy array": lambda xp, x: HOST.copy().__setitem__(slice(None), x),
    # mixing
    "sum": lambda xp, x: x + HOST,
    "in place": lambda xp, x: x.__iadd__(HOST),
    "product": lambda xp, x: x @ HOST.T,
    "xp.concatenate": lambda xp, x: xp.concatenate([x, HOST]),
    "xp.where": lambda xp, x: xp.where(x > 0, x, HOST),
    "xp.exp of a NumPy array": lambda xp, x: xp.exp(HOST),
    "index": lambda xp, x: x[np.array([0, 1])],
    "assigned": lambda xp, x: x.__setitem__(slice(None), HOST),
    "scattered": lambda xp, x: xp.add.at(x, xp.asarray([0, 1]), HOST),
    # names and arguments that CuPy lacks
    "errstate": lambda xp, x: xp.errstate(all="ignore"),
    "x.newbyteorder": lambda xp, x: x.newbyteorder(),
    "sum(where=)": lambda xp, x: x.sum(where=x > 0),
    "einsum(out=)": lambda xp, x: xp.einsum("ij->i", x, out=xp.zeros(2)),
    "maximum.reduce": lambda xp, x: xp.maximum.reduce(x),
    "sum of a list": lambda xp, x: xp.sum([1.0, 2.0]),
    "another order of arguments": lambda xp, x: xp.argmax(x, 1, None),
    "Generator.normal": lambda xp, x: xp.random.Generator(xp.random.Philox4x3210(0)).normal(),
    # what has no meaning on a GPU
    "float128": lambda xp, x: x.astype(np.longdouble),
    "scattering int64": lambda xp, x: xp.add.at(xp.zeros(3, np.int64), xp.asarray([0]), 1),
    "one place twice": lambda xp, x: x.__setitem__(xp.asarray([0, 0]), xp.ones((2, 3), np.float32)),
    "float in place to int": lambda xp, x: xp.ones(3, np.int64).__iadd__(0.5),
    "hash": lambda xp, x: hash(x),
    "range": lambda xp, x: range(x.size - xp.asarray(3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, xp, x):
    with pytest.raises((TypeError, ValueError, AttributeError, NotImplementedError)):
        REFUSED[name](xp, x)


WAITS = {
    "float": lambda xp, x: float(x[0, 1]),
    "if": lambda xp, x: 1 if (x > 0).any() else 2,
    "get": lambda xp, x: x.get(),
    "print": lambda xp, x: f"{x}",
    "mask": lambda xp, x: x[x > 1],
    "mask, written": lambda xp, x: x.__setitem__(x > 1, 0.0),
    "nonzero": lambda xp, x: x.nonzero(),
    "unique": lambda xp, x: xp.unique(x),
    "synchronize": lambda xp, x: xp.cuda.Device(0).synchronize(),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_is_counted(name, xp, x, cuda):
    WAITS[name](xp, x)
    assert cuda.synchronisations == 1


def test_what_does_not_wait(xp, x, cuda):
    y = xp.where(x > 0, x, 0) @ x.T + x.sum() - x.mean(axis=1, keepdims=True)
    y *= 2
    y[0] = x[0, 0]
    y[xp.arange(2), xp.arange(2)] += 1
    xp.add.at(y, (xp.arange(2), xp.arange(2)), 1.0)
    assert (y.shape, len(y), y.ndim, y.dtype, y.size) == ((2, 2), 2, 2, np.float32, 4)
    assert [row.shape for row in y] == [(2,), (2,)]
    assert (cuda.synchronisations, cuda.to_host, cuda.to_device) == (0, 0, 0)


def test_copies_to_the_device_are_counted(xp, cuda):
    xp.asarray(HOST)
    xp.array([1, 2])
    xp.zeros(3)[[0, 1]]
    assert (cuda.to_device, cuda.to_host) == (3, 0)


def test_results_without_dimensions_are_arrays(xp, x):
    for result in (x.sum(), x[0, 1], x.max(), xp.mean(x), xp.asarray(2.0) * 3, x.reshape(-1) @ x.reshape(-1)):
        assert type(result) is xp.ndarray and result.shape == ()


def test_integers_in_arrays_wrap_around(xp):
    x = xp.arange(5)
    assert x[xp.asarray([5, -6, 12])].tolist() == [0, 4, 2]
    assert xp.zeros((2, 5))[..., xp.asarray([7])].shape == (2, 1)
    with pytest.raises(IndexError):
        x[5]


def test_dtypes_that_differ_from_numpy(xp):
    assert (xp.zeros(2, np.float32) * np.float64(2)).dtype == np.float64  # as NumPy's: scalars of NumPy are strong
    assert (2.0 * xp.zeros(2, np.float32)).dtype == np.float32
    assert (xp.zeros(2, np.int32) / 2).dtype == np.float64
    assert (xp.zeros(2, bool) + 1).dtype == np.int64


def test_views_share_memory_and_know_their_owner(xp, x):
    row = x[1]
    assert row.base is x and x.base is None and x.flags.owndata and not row.flags.owndata
    assert row[1:].base is x and x.T.base is x and x.reshape(-1).base is x and x.ravel().base is x
    row[...] = 0
    assert x.tolist()[1] == [0.0, 0.0, 0.0]
    assert xp.ascontiguousarray(x) is x and x.astype(np.float32, copy=False) is x
    assert x[xp.asarray([1])].base is None and (x + 1).base is None
    assert xp.may_share_memory(x, row) and not xp.may_share_memory(x, x + 1)


def test_nothing_is_offered_that_cupy_lacks(xp):
    def public(thing):
        return {name for name in dir(thing) if not name.startswith("_")}

    assert public(xp.cuda) - set(NAMES["cuda"]) <= {"cublas"}  # which CuPy loads when it is asked for
    assert public(xp.random) <= set(NAMES["random"])
    assert public(xp.random.Generator) - {"numpy"} <= set(NAMES["generator"])
    assert public(xp.ndarray) <= {*NAMES["methods"], *NAMES["attributes"]}
    operators = {name for name, thing in vars(xp.ndarray).items() if re.fullmatch(r"__\w+__", name) and callable(thing)}
    assert operators - set(NAMES["operators"]) <= {"__weakref__"}


@pytest.mark.emulation
def test_a_kernel_gets_what_it_declares(xp, x):
    source = """extern "C" __global__ void add(float* x, float number, int n) {
        if (threadIdx.x < n) x[threadIdx.x] += number;
    }"""
    kernel, n = xp.RawKernel(source, "add"), np.int32(6)
    kernel((1,), (32,), (x, np.float32(10), n))
    assert x.get().ravel().tolist() == [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]
    for wrong in ((x, 10.0, n), (x, np.float32(10), 6), (HOST, np.float32(10), n)):  # CuPy passes 8 bytes of a number
        with pytest.raises(TypeError):
            kernel((1,), (32,), wrong)
