"""Shapes and memory that hurt, for property tests: axes of length 0 and 1, broadcast pairs, views of every kind."""

import itertools

import numpy as np
from hypothesis import strategies as st

# Sizes and shapes stand in an order: Hypothesis tries the first of each, the ordinary case, before all others.
side = st.sampled_from([2, 3, 1, 0])


def shapes(min_dims=0, max_dims=3, min_side=0, max_side=3):
    """Shapes with axes of up to `max_side`; beside an axis of 0, the others are 2."""
    found = [
        shape
        for ndim in range(min_dims, max_dims + 1)
        for shape in itertools.product(range(min_side, max_side + 1), repeat=ndim)
        if 0 not in shape or set(shape) <= {0, 2} and shape.count(0) == 1
    ]
    return st.sampled_from(sorted(found, key=is_special))


def is_special(shape):
    """Whether a shape has axes of 0 or 1, few or many axes, or two that are alike."""
    return min(shape, default=0) < 2, abs(len(shape) - 2), len(set(shape)) < len(shape)


@st.composite
def broadcast_shapes(draw, count, max_dims=3):
    """`count` shapes that broadcast together: a shape without its first axes, and with 1 for some of the others."""
    full = draw(shapes(max_dims=max_dims))
    kept = [full[start:] for start in range(len(full) + 1)]
    return draw(st.tuples(*[st.sampled_from(kept).flatmap(with_ones)] * count))


def with_ones(shape):
    return st.sampled_from(list(itertools.product(*[(size, 1) for size in shape])))


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
    return st.sampled_from([*range(size), *range(-size, 0)])


def axes(ndim):
    """None, one axis, or several in any order, counted from either end."""
    several = [dims for n in range(ndim + 1) for dims in itertools.permutations(range(ndim), n) if dims or ndim == 0]
    one = range(-max(ndim, 1), max(ndim, 1))
    return st.sampled_from([*several, *[tuple(dim - ndim for dim in dims) for dims in several], *one, None])
