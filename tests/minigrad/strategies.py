"""Shapes and memory that hurt, for property tests: axes of length 0 and 1, broadcast pairs, views of every kind."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def shapes(min_dims=0, max_dims=3, min_side=0, max_side=3):
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side)


def broadcast_shapes(count, max_dims=3):
    """`count` shapes that broadcast together."""
    shapes = hnp.mutually_broadcastable_shapes(num_shapes=count, max_dims=max_dims, min_side=0, max_side=3)
    return shapes.map(lambda found: list(found.input_shapes))


@st.composite
def arrays(draw, shape, low=-2.0, high=2.0):
    """float64 numbers between `low` and `high`, no two alike, in memory of some layout.

    Two draws are alike only with the same `low` and `high`.
    """
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    return draw(layouts(np.asarray(rng.uniform(low, high, shape))))


@st.composite
def layouts(draw, array):
    """The same numbers: contiguous, in another order of axes, backwards, or every second of a larger array."""
    layout = draw(st.sampled_from(["contiguous", "transposed", "backwards", "every second"]))
    if array.ndim == 0:
        return array
    if layout == "transposed":
        return np.asfortranarray(array)
    if layout == "backwards":
        return np.flip(np.flip(array).copy())
    if layout == "every second":
        spread = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan)
        spread[..., ::2] = array
        return spread[..., ::2]
    return array


def axis(ndim):
    """One axis, counted from either end."""
    size = max(ndim, 1)
    return st.integers(-size, size - 1)


def axes(ndim):
    """None, one axis, or several in any order, counted from either end."""
    several = st.permutations(range(ndim)).flatmap(
        lambda order: st.integers(1, max(ndim, 1)).map(lambda n: tuple(order[:n]))
    )
    several = several.flatmap(lambda dims: st.sampled_from([dims, tuple(dim - ndim for dim in dims)]))
    return st.none() | axis(ndim) | (several if ndim else st.just(()))
