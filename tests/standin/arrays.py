"""The stand-in for `cupy.ndarray`: a NumPy array that behaves as if it were on a GPU.

It is a wrapper, not a subclass, so NumPy cannot get at the numbers by itself. What CuPy refuses is refused:
implicit conversion (`np.asarray(x)`), arithmetic between the two kinds of arrays, names and arguments that CuPy lacks.
What CuPy allows although it waits for the device (`float(x)`, `if x`, masks as indices) is counted. And some of what
CuPy allows silently is refused as well, because it is a slip whenever it happens in this project: `np.exp(x)`,
`np.float64(2) * x`, writing a NumPy array into a device array, indexing with one, assigning twice to one place.
"""

import functools
import importlib.util

import numpy as np

from minigrad.precision import bfloat16

from . import counters
from .signatures import NAMES, check_call

DTYPES = "?bBhHiIlLqQefdFD"


def _waits(question):
    """A method that waits for the numbers, to answer a question about them."""

    def ask(self):
        counters.synchronise(copies=1)
        return question(self._host)

    return ask


class ndarray:
    """A strict device array; see the top of this file. `_host` is where the numbers are."""

    __slots__ = ("_host", "base", "device", "__weakref__")
    __array_priority__ = 100
    __hash__ = None

    # --- attributes ---

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    T = property(lambda self: view(self, self._host.T))
    real = property(lambda self: view(self, self._host.real))
    flags = property(lambda self: Flags(self))
    data = property(lambda self: Pointer(self))

    # --- what NumPy must not do with it ---

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one.")

    def __array_function__(self, function, *arguments, **options):
        name = function.__name__
        raise TypeError(f"np.{name} of a CuPy array: ask xp = module_of(x), and call xp.{name}")

    __array_ufunc__ = __array_function__

    # --- what waits for the device ---

    def get(self, stream=None, order="C"):
        """A copy on the host."""
        counters.synchronise(copies=1)
        return self._host.copy(order)

    def nonzero(self):
        counters.synchronise()
        return tuple(wrap(found) for found in self._host.nonzero())

    item, tolist, tobytes = _waits(np.ndarray.item), _waits(np.ndarray.tolist), _waits(np.ndarray.tobytes)
    __bool__, __int__, __float__, __complex__ = _waits(bool), _waits(int), _waits(float), _waits(complex)
    __repr__, __str__ = _waits(repr), _waits(str)

    # --- copies, views and the rest ---

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        return result(self._host.astype(_supported(dtype), order=order, copy=copy), self)

    def view(self, dtype=None, type=None):
        return view(self, self._host.view() if dtype is None else self._host.view(_supported(dtype)))

    # --- indexing ---

    def __getitem__(self, index):
        found = self._host[host_index(index, self.shape)]
        return view(self, found) if isinstance(found, np.ndarray) and found.base is not None else wrap(found)

    def __setitem__(self, index, value):
        if isinstance(value, np.ndarray):
            raise TypeError("a NumPy array is written into a CuPy array, which copies silently: use xp.asarray first")
        index = host_index(index, self.shape)
        if isinstance(value, ndarray) and value.size > 1:
            _check_places_differ(index, self.shape)
        self._host[index] = unwrap(value)


class Flags:
    """Where the numbers lie. As in CuPy, an array owns its memory unless it is a view of another."""

    def __init__(self, array):
        self.c_contiguous = array._host.flags.c_contiguous
        self.owndata = array.base is None


class Pointer:
    """The address of an array's first element, on the (imagined) device."""

    def __init__(self, array):
        self.ptr = array._host.__array_interface__["data"][0]


def _supported(dtype):
    dtype = np.dtype(dtype)
    if dtype.char not in DTYPES and dtype.name != "bfloat16":
        raise ValueError(f"Unsupported dtype {dtype}")
    return dtype


# --- between the two sides -------------------------------------------------------------------------------------------

device_count = 1
_current = [0]  # the number of the current device


class CUDARuntimeError(RuntimeError):
    """An error that the CUDA driver reports."""


class Device:
    """A GPU, by its number; the current one if none is given."""

    def __init__(self, device=None):
        self.id = _current[0] if device is None else int(device)
        if not 0 <= self.id < device_count:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    def use(self):
        """New arrays are made here from now on."""
        _current[0] = self.id

    def synchronize(self):
        """Wait."""
        counters.synchronise()


def wrap(host):
    """The result of a NumPy function as CuPy returns it: arrays (0-d ones too) on the device."""
    array = object.__new__(ndarray)
    array._host = np.asarray(host)
    array.base = None
    array.device = Device()
    _supported(array._host.dtype)
    return array


def view(owner, host):
    """`host`, which shares memory with the device array `owner`."""
    array = wrap(host)
    array.base = owner if owner.base is None else owner.base
    array.device = owner.device
    return array


def result(host, *inputs):
    """`host` as a device array: one of the inputs itself, a view of one, or a new array."""
    if isinstance(host, tuple | list):
        return type(host)([result(part, *inputs) for part in host])
    host = np.asarray(host)
    for x in inputs:
        if host is x._host:
            return x
        if host.base is not None and np.may_share_memory(host, x._host):
            return view(x, host)
    array = wrap(host)
    if inputs:
        array.device = inputs[0].device
    return array


def unwrap(value):
    """The NumPy side of a device array, a number or a dtype. Raises TypeError for a NumPy array."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: move it to the device first, with xp.asarray")
    if type(value) in (tuple, list):
        return type(value)(map(unwrap, value))
    return value


def device_arrays(*values):
    """The device arrays among the values, and inside tuples, lists and dictionaries.

    They must be on the current device, which is where kernels run.
    """
    found = []
    for value in values:
        if isinstance(value, ndarray):
            found.append(value)
        elif isinstance(value, tuple | list | dict):
            found += device_arrays(*(value.values() if isinstance(value, dict) else value))
    if any([array.device.id != _current[0] for array in found]):
        where = ", ".join(str(array.device.id) for array in found)
        raise ValueError(f"Array device must be same as the current device: arrays on {where}, current {_current[0]}")
    return found


# --- indices ---------------------------------------------------------------------------------------------------------


def host_index(index, shape):
    """An index for the NumPy side. Integers in arrays wrap around as on a GPU; masks make the host wait."""
    parts = list(index) if isinstance(index, tuple) else [index]
    parts = [_index_part(part) for part in parts]
    axis = 0
    axes_named = sum(_axes_of(part) for part in parts)
    for place, part in enumerate(parts):
        if part is Ellipsis:
            axis += len(shape) - axes_named
        elif isinstance(part, np.ndarray) and part.dtype.kind in "iu":
            if shape[axis] == 0 and part.size:
                raise IndexError("Index is out of bounds for an axis of length 0")
            parts[place] = part.astype(np.int64) % max(shape[axis], 1)
        axis += _axes_of(part)
    return tuple(parts)


def _index_part(part):
    if isinstance(part, np.ndarray):
        raise TypeError("a CuPy array is indexed with a NumPy array, which copies silently: use xp.asarray first")
    if isinstance(part, list):
        counters.upload()
        part = wrap(np.asarray(part, None if part else np.int64))
    if not isinstance(part, ndarray):
        return part
    if part.dtype.kind == "b":
        counters.synchronise()  # how many are True?
    return part._host


def _axes_of(part):
    """How many axes of the array this part of an index uses up."""
    if part is None or part is Ellipsis or isinstance(part, bool | np.bool_):
        return 0
    return part.ndim if isinstance(part, np.ndarray) and part.dtype.kind == "b" else 1


def _check_places_differ(index, shape):
    arrays = [part for part in index if isinstance(part, np.ndarray) and part.dtype.kind in "iu"]
    if not arrays or any(isinstance(part, np.ndarray) and part.dtype.kind == "b" for part in index):
        return
    places = np.stack([array.ravel() for array in np.broadcast_arrays(*arrays)])
    if np.unique(places, axis=1).shape[1] < places.shape[1]:
        raise ValueError("one place is assigned twice, and which value wins is undefined on a GPU: use scatter_add")


SCATTERS = "ifdFD" + "IQLe"  # int64 is missing: there is no atomic addition for it


def scatter(array, slices, value, ufunc):
    """`ufunc.at(array, slices, value)`, for the dtypes that a GPU can add atomically."""
    if array.dtype.char not in SCATTERS:
        raise TypeError(f"cupy.{ufunc.__name__}.at does not take {array.dtype}")
    ufunc.at(array._host, host_index(slices, array.shape), np.asarray(unwrap(value)).astype(array.dtype, copy=False))


# --- elementwise functions and operators -----------------------------------------------------------------------------


def elementwise(name, *inputs, out=None):
    """CuPy's ufunc `name`: NumPy's arithmetic in the dtypes that CuPy would compute in."""
    arrays = device_arrays(*inputs, out)
    for x in inputs:
        if not isinstance(x, ndarray | np.generic | bool | int | float | complex):
            raise TypeError(f"Unsupported type {type(x)} in cupy.{name}")
    hosts = [unwrap(x) for x in inputs]
    takes, gives = loop(name, NAMES["ufuncs"][name]["types"], hosts)
    hosts = [np.asarray(x).astype(kind, copy=False) for x, kind in zip(hosts, takes, strict=True)]
    with np.errstate(all="ignore"):  # a GPU does not warn
        found = getattr(np, name)(*hosts)
    found = [np.asarray(x) for x in (found if isinstance(found, tuple) else (found,))]
    found = [x.astype(kind, copy=False) for x, kind in zip(found, gives, strict=True)]
    if out is not None:
        return _written(out, found[0])
    outputs = result(tuple(found), *arrays)
    return outputs if len(outputs) > 1 else outputs[0]


def _written(out, found):
    if not isinstance(out, ndarray):
        raise TypeError(f"return arrays must be of ArrayType, not {type(out)}")
    if not np.can_cast(found.dtype, out.dtype, "same_kind"):
        raise TypeError(f"output (typecode {found.dtype.char!r}) could not be coerced to {out.dtype}")
    if np.broadcast_shapes(found.shape, out.shape) != out.shape:
        raise ValueError(f"Out shape is mismatched: {out.shape} for {found.shape}")
    out._host[...] = found
    return out


def loop(name, types, hosts):
    """The dtypes (in, out) of the first of CuPy's loops that takes the inputs; Python numbers adapt to the arrays."""
    kinds = tuple([x.dtype if isinstance(x, np.ndarray | np.generic) else type(x) for x in hosts])
    return _loop(name, tuple(types), kinds)


HAS_BFLOAT16 = importlib.util.find_spec("ml_dtypes") is not None  # not in a browser


@functools.cache
def _loop(name, types, kinds):
    common = np.result_type(*[kind for kind in kinds if isinstance(kind, np.dtype)])
    kinds = [kind if isinstance(kind, np.dtype) else _adapted(kind, common) for kind in kinds]
    known = [signature for signature in types if "E" not in signature or HAS_BFLOAT16]
    for takes, gives in [[list(map(_dtype, side)) for side in signature.split("->")] for signature in known]:
        if all(map(np.can_cast, kinds, takes)):
            return takes, gives
    raise TypeError(f"cupy.{name} has no loop for {', '.join(map(str, kinds))}; it has {' '.join(types)}")


def _adapted(kind, common):
    """The dtype of a Python number beside arrays whose dtype is `common`."""
    if common.name == "bfloat16" and kind is not complex:  # which NumPy does not know as a floating dtype
        return common
    return np.result_type(common, kind(0))


@functools.cache
def _dtype(char):
    return bfloat16() if char == "E" else np.dtype(char)


def matrix_product(x, y):
    """x @ y: two device arrays with at least one dimension each."""
    if not (isinstance(x, ndarray) and isinstance(y, ndarray)):
        other = y if isinstance(x, ndarray) else x
        raise TypeError(f"Unsupported type {type(other)} in matmul")
    device_arrays(x, y)
    return result(np.asarray(x._host @ y._host), x, y)


def _operator(name, reflected=False):
    def run(self, other):
        if not isinstance(other, ndarray | np.ndarray | np.generic | bool | int | float | complex):
            return NotImplemented  # a Tensor takes over; lists and strings are refused
        return elementwise(name, other, self) if reflected else elementwise(name, self, other)

    return run


_BINARY = {
    **{"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide"},
    **{"mod": "remainder", "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"},
    **{"lshift": "left_shift", "rshift": "right_shift"},
}
_COMPARE = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
_UNARY = {"neg": "negative", "abs": "absolute", "invert": "invert", "pos": "positive"}

for _short, _name in _BINARY.items():
    setattr(ndarray, f"__{_short}__", _operator(_name))
    setattr(ndarray, f"__r{_short}__", _operator(_name, reflected=True))
    setattr(ndarray, f"__i{_short}__", lambda self, other, _name=_name: elementwise(_name, self, other, out=self))
for _short, _name in _COMPARE.items():
    setattr(ndarray, f"__{_short}__", _operator(_name))
for _short, _name in _UNARY.items():
    setattr(ndarray, f"__{_short}__", lambda self, _name=_name: elementwise(_name, self))
ndarray.__matmul__ = lambda self, other: matrix_product(self, other)
ndarray.__rmatmul__ = lambda self, other: matrix_product(other, self)


def _method(name, parameters):
    """A method that NumPy has too, with CuPy's arguments."""

    def run(self, *args, **options):
        check_call(f"ndarray.{name}", parameters, args, options)
        arrays = device_arrays(self, *args, options)
        named = {key: unwrap(value) for key, value in options.items()}
        found = getattr(self._host, name)(*map(unwrap, args), **named)
        return found if found is None else result(found, *arrays)

    run.__name__ = name
    return run


for _name, _parameters in NAMES["methods"].items():
    if not hasattr(ndarray, _name) and hasattr(np.ndarray, _name):
        setattr(ndarray, _name, _method(_name, _parameters))
