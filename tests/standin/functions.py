"""The functions of the stand-in: those of `cupy` that NumPy has under the same name, with its arguments and limits."""

import numpy as np

from . import counters
from .arrays import Device, device_arrays, elementwise, matrix_product, ndarray, result, scatter, unwrap, view, wrap
from .signatures import NAMES, check_call, check_positions, signature

# These make arrays from numbers, shapes and lists; the others need a device array among their arguments.
CREATES = {"zeros", "ones", "empty", "full", "arange", "tri"}
CONVERTS = {"array", "asarray", "ascontiguousarray"}
ANSWERS = {"promote_types", "may_share_memory"}  # with Python objects
# The size of what these return depends on the numbers, so the host waits for them.
SYNCHRONISES = {
    *("argwhere", "nonzero", "flatnonzero", "unique", "extract", "compress", "bincount", "histogram", "repeat"),
    *("array_repr", "array_str", "array2string", "trim_zeros", "intersect1d", "setdiff1d", "union1d", "in1d", "isin"),
}


def convert(name, obj, *args, **options):
    """`cupy.asarray` and its kin: from the host (counted), or an array that is on the device already."""
    options.pop("blocking", None)
    if isinstance(obj, ndarray) and obj.device != Device():
        return wrap(obj._host.copy())  # from one GPU to another
    if isinstance(obj, ndarray):
        return result(getattr(np, name)(obj._host, *args, **options), obj)
    counters.upload()
    return wrap(np.array(getattr(np, name)(obj, *args, **options)))


def einsum(*operands, **options):
    """As NumPy's, without `out`."""
    if set(options) - {"dtype", "optimize"}:
        raise TypeError(f"einsum() got unexpected keyword arguments {sorted(set(options) - {'dtype', 'optimize'})}")
    arrays = device_arrays(*operands)
    return result(np.einsum(*map(unwrap, operands), **options), *arrays)


def where(condition, x, y):
    """x where the condition is True, y elsewhere."""
    if not isinstance(condition, ndarray):
        raise TypeError(f"cupy.where needs a CuPy array as its condition, not {type(condition)}")
    arrays = device_arrays(condition, x, y)
    return result(np.where(condition._host, unwrap(x), unwrap(y)), *arrays)


class Ufunc:
    """An elementwise function: `xp.exp`, with `xp.add.at` and the like where CuPy has them."""

    def __init__(self, name):
        self.__name__ = self.name = name
        self.parameters, self.types = NAMES["ufuncs"][name]["parameters"], NAMES["ufuncs"][name]["types"]
        if NAMES["ufuncs"][name].get("at"):
            self.at = lambda a, indices, b=None: scatter(a, indices, b, getattr(np, name))

    def __call__(self, *args, **options):
        check_call(self.name, self.parameters, args, options)
        count = len([p for p in signature(self.parameters).parameters.values() if p.kind is p.POSITIONAL_ONLY])
        if len(args) > count:
            options["out"] = args[count]
        return elementwise(self.name, *args[:count], **options)


def unwritten(host):
    """A new array, full of what is noticed if nobody overwrites it; NumPy leaves in it what was last in its memory."""
    host.fill(np.nan if host.dtype.kind in "fcV" else 90)
    return host


def function(name):
    """CuPy's function `name`, computed by NumPy's."""
    parameters = NAMES["functions"][name]
    compute = getattr(np, name, None)
    if compute is None:
        raise NotImplementedError(f"CuPy has `{name}`, but NumPy has not: the stand-in cannot compute it")

    def run(*args, **options):
        check_call(name, parameters, args, options)
        check_positions(name, parameters, compute, args)
        if name in CONVERTS:
            return convert(name, *args, **options)
        arrays = device_arrays(*args, options)
        if name in SYNCHRONISES:
            counters.synchronise()
        hosts = [unwrap(x) for x in args]
        named = {key: unwrap(value) for key, value in options.items()}
        if name in ANSWERS:
            return compute(*hosts, **named)
        if name.startswith("empty"):
            return result(unwritten(compute(*hosts, **named)), *arrays)
        if name in CREATES:
            return result(compute(*hosts, **named))
        if not arrays:
            raise TypeError(f"cupy.{name} got no CuPy array, but {', '.join(str(type(x)) for x in args)}")
        with np.errstate(all="ignore"):
            found = compute(*hosts, **named)
        return None if found is None else result(found, *arrays)

    run.__name__ = name
    return run


def matmul(x1, x2, out=None):
    """x1 @ x2."""
    product = matrix_product(x1, x2)
    return product if out is None else elementwise("positive", product, out=out)


def broadcast_to(array, shape):
    """A view of `array`; what CuPy calls `array`, it takes from the device only."""
    if not isinstance(array, ndarray):
        raise TypeError(f"cupy.broadcast_to takes a CuPy array, not {type(array)}")
    return view(array, np.broadcast_to(array._host, shape))


OWN = {"broadcast_to": broadcast_to, "einsum": einsum, "matmul": matmul, "ndarray": ndarray}
OWN |= {"where": where}
