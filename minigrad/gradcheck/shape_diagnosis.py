"""A gradient of the wrong shape, which the engine rejects: which change makes it fit, and is it right then?"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .. import graph_checks
from ..autograd import Context
from ..backend import Array, is_array, module_of
from .comparison import Comparison, NotFinite
from .diagnosis import IN_ORDER, Diagnosis, broadcasts, order_in_words, orders
from .vjp import Shape

# A repair takes a node and the gradients that its backward returned. It returns gradients that fit, and what was wrong,
# or None if it does not apply. A fit is the same for one gradient and the shape that it should have.
Repaired = tuple[list[Any], str] | None
Repair = Callable[[Context, Any], Repaired]
Fitted = tuple[Array, str] | None
Fit = Callable[[Array, Shape], Fitted]


def diagnose_shape(comparison: Comparison, node: Context, returned: Any) -> Diagnosis:
    """Which change makes what the backward of `node` returned fit, and is it right then?

    Each repair is applied after the op's backward, in this graph only, and the whole comparison is repeated.
    """
    results = returned if isinstance(returned, tuple) else (returned,)
    if len(results) != len(node.edges) or not _misfits(node, results):
        sentence = "backward must return a tuple, with one gradient per input of forward"
        return Diagnosis("shape", f"{sentence}: `return (dx,)` where there is one")
    original = node.function
    fitting = []
    for kind, repair in _SHAPE_REPAIRS:
        repaired = repair(node, results)
        if repaired is None:
            continue
        fitting.append(Diagnosis(kind, repaired[1]))
        # The shapes fit now. Are the values right? Another gradient may have a wrong shape too.
        backward = partial(_repaired_backward, original, repair)
        with contextlib.suppress(ValueError, TypeError, NotFinite), comparison.graph.with_backward(original, backward):
            comparison.backward()
            comparison.central()
            if not comparison.is_wrong:
                return fitting[-1]
    if not fitting:
        return Diagnosis("shape", "each gradient must have the shape of its input")
    but = "but even with the right shape the values are wrong"
    return Diagnosis("shape", f"it looks as if {fitting[0].sentence}; {but}")


def _repaired_backward(function: type[Any], repair: Repair, ctx: Context, *douts: Any) -> Any:
    results = function.backward(ctx, *douts)
    repaired = repair(ctx, results)
    return results if repaired is None else tuple(repaired[0])


def _each(fit: Fit, node: Context, gradients: Any) -> Repaired:
    """Apply `fit` to each gradient with a wrong shape."""
    repaired = list(gradients)
    words = ""
    for i, gradient, shape in _misfits(node, gradients):
        result = fit(gradient, shape)
        if result is None:
            return None
        repaired[i], sentence = result
        words = words or sentence.format(f"input {i} of {node.function.__name__}")
    return (repaired, words) if words else None


def _misfits(node: Context, gradients: Any) -> list[tuple[int, Array, Shape]]:
    """(input, gradient, the right shape) for each gradient with a wrong shape."""
    found = []
    for i, (edge, gradient) in enumerate(zip(node.edges, gradients, strict=True)):
        if edge is not None and gradient is not None:
            shape, _ = graph_checks.shape_and_dtype(edge)
            gradient = gradient if is_array(gradient) else np.asarray(gradient)
            if gradient.shape != shape:
                found.append((i, gradient, shape))
    return found


def _exchange(node: Context, gradients: Any) -> Repaired:
    for i, j in itertools.combinations(range(len(gradients)), 2):
        exchanged = list(gradients)
        exchanged[i], exchanged[j] = gradients[j], gradients[i]
        if _misfits(node, gradients) and not _misfits(node, exchanged):
            which = f"inputs {i} and {j} of {node.function.__name__}"
            return exchanged, f"the gradients of {which} are exchanged: {IN_ORDER}"
    return None


def _sum(gradient: Array, shape: Shape) -> Fitted:
    if not broadcasts(shape, gradient.shape):
        return None
    added = gradient.ndim - len(shape)
    axes = tuple(axis for axis, n in enumerate(gradient.shape) if axis < added or shape[axis - added] != n)
    words = " and ".join(f"axis {axis} (length {gradient.shape[axis]})" for axis in axes)
    sentence = f"the sum over {words} is missing: forward repeated {{}} from shape {shape} to {gradient.shape}"
    return gradient.sum(axis=axes).reshape(shape), f"{sentence}, so backward must add up what the copies received"


def _transpose(gradient: Array, shape: Shape) -> Fitted:
    for order in orders(gradient.ndim):
        if tuple(gradient.shape[axis] for axis in order) == shape:
            sentence = f"the gradient of {{}} is transposed: with {order_in_words(order)} it is right"
            return gradient.transpose(order), sentence
    return None


def _repeat(gradient: Array, shape: Shape) -> Fitted:
    for axes in itertools.combinations(range(len(shape)), max(len(shape) - gradient.ndim, 0)):
        full = module_of(gradient).expand_dims(gradient, axes)
        if broadcasts(full.shape, shape):
            sentence = f"forward reduced {{}} from shape {shape} to {gradient.shape}, so backward must repeat dout"
            return module_of(full).broadcast_to(full, shape), f"{sentence} along those axes"
    return None


def _reshape(gradient: Array, shape: Shape) -> Fitted:
    if gradient.size != math.prod(shape):
        return None
    return gradient.reshape(shape), f"the gradient of {{}} only has to be reshaped, from {gradient.shape} to {shape}"


_SHAPE_REPAIRS: list[tuple[str, Repair]] = [
    ("exchanged", _exchange),
    ("missing sum", partial(_each, _sum)),
    ("transposed", partial(_each, _transpose)),
    ("missing repeat", partial(_each, _repeat)),
    ("shape", partial(_each, _reshape)),
]


# --- NumPy's messages -------------------------------------------------------------------------------------------------


def numpy_in_words(message: str) -> str:
    """Explain NumPy's message about shapes or `^`, in words to be added to it; "" for another message."""
    words = "".join(f": {words}" for pattern, words in _NUMPY if re.search(pattern, message))
    shapes = [tuple(map(int, re.findall(r"\d+", shape))) for shape in re.findall(r"\(([\d, ]+)\)", message)]
    if "aligns" in words and len(shapes) == 2:
        short, long = shapes if re.search("requested|into", message) else sorted(shapes, key=len)
        places = itertools.combinations(range(len(long)), max(len(long) - len(short), 0))
        if any(broadcasts(np.expand_dims(np.broadcast_to(0, short), axes).shape, long) for axes in places):
            words += f"; {short} would fit with axes of length 1: keepdims=True keeps them, np.expand_dims adds them"
    return words


_NUMPY = [
    ("gufunc signature|not aligned",
     "the shapes of a matrix product do not fit: the last axis of the left factor must be as long as the last but one "
     "of the right. `.T` of a batch reverses all axes: use swapaxes(-1, -2)"),
    ("could not be broadcast together with (remapped )?shapes|could not broadcast|do not broadcast",
     "NumPy aligns the last axes of two shapes, and lengths must be equal or 1"),
    ("cannot reshape", "a reshape must keep the number of elements"),
    ("ambiguous", "a condition on arrays, which have many truth values: use np.where, or a mask"),
    (r"bitwise_xor|for \^", "Python's power is `**`; `^` is an operation on the bits of integers"),
]  # fmt: skip
