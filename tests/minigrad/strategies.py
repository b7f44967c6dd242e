"""Shapes and memory that hurt, for property tests: axes of length 0 and 1, broadcast pairs, views of every kind."""

import itertools

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def shapes(min_dims=0, max_dims=3, min_side=0, max_side=3):
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side)


def broadcast_shapes(count, max_dims=3):
    """`count` shapes that broadcast together."""
    shapes = hnp.mutually_broadcastable_shapes(num_shapes=count, max_dims=max_dims, min_side=0, max_side=3)
    return shapes.map(lambda found: list(found.input_shapes))


def backwards(array):
    """The same numbers, with negative strides."""
    return np.flip(np.flip(array).copy()) if array.ndim else array


def transposed(array):
    """The same numbers, with the axes in the opposite order in memory."""
    return np.asfortranarray(array) if array.ndim else array


def every_second(array):
    """The same numbers, as every second element of a larger array along the last axis."""
    if array.ndim == 0:
        return array
    spread = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan)
    spread[..., ::2] = array
    return spread[..., ::2]


LAYOUTS = [np.asarray, transposed, backwards, every_second]


def arrays(shape, low=-2.0, high=2.0):
    """float64 numbers between `low` and `high`, no two alike, in memory of some layout.

    Two draws are alike only with the same `low` and `high`.
    """

    def array(seed):
        return LAYOUTS[seed % 4](np.asarray(np.random.default_rng(seed).uniform(low, high, shape)))

    return st.integers(0, 999).map(array)


def integers(high, shape):
    """Integers from 0 to high - 1."""
    return st.integers(0, 9).map(lambda seed: np.random.default_rng(seed).integers(0, high, shape))


def masks(shape, share=0.5):
    """Booleans, of which about this share is True."""
    return st.integers(0, 9).map(lambda seed: np.random.default_rng(seed).random(shape) < share)


def axis(ndim):
    """One axis, counted from either end."""
    size = max(ndim, 1)
    return st.integers(-size, size - 1)


def axes(ndim):
    """None, one axis, or several in any order, counted from either end."""
    several = [dims for n in range(ndim + 1) for dims in itertools.permutations(range(ndim), n) if dims or ndim == 0]
    one = range(-max(ndim, 1), max(ndim, 1))
    return st.sampled_from([None, *one, *several, *[tuple(dim - ndim for dim in dims) for dims in several]])
