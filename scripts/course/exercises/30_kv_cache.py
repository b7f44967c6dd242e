"""kv_cache: keep the keys and values of the tokens read so far.

A token's keys and values depend only on what came before it, so they need not be computed again. New tokens are
appended behind the old ones, and their queries see all of them. One layer's cache:

    append(keys, values)  ->  (all keys so far, all values so far)

Shapes: keys and values (B, H, T, D), T new tokens -> (B, H, tokens so far, D). A result must not change when more is
appended later.
Example (B = H = D = 1): append([[[[1]]]], [[[[2]]]]) -> [[[[1]]]], [[[[2]]]];
                         append([[[[3]]]], [[[[4]]]]) -> [[[[1], [3]]]], [[[[2], [4]]]]
"""

import hypothesis.strategies as st

from gpt.model import kv_cache
from minigrad import Tensor
from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, Patch, beginning, some, values

STUB = beginning(__doc__, NUMPY) + '''
class KVCache:
    def __init__(self):
        # TODO
        raise NotImplementedError("an empty cache")

    def append(self, keys, values):
        # TODO
        raise NotImplementedError("append")
'''

BLANKS = '''
self.keys, self.values = None, None

if self.keys is not None:
    keys = np.concatenate([self.keys, keys], axis=2)  # all so far, then the new: time is axis 2 of (B, H, T, D)
    values = np.concatenate([self.values, values], axis=2)  # all tokens so far, and behind them the new ones
self.keys, self.values = keys, values
return keys, values
'''

SLIPS = [
    ("self.keys is not None", "False", "only the new tokens come back: the old ones must stand before them"),
    ("self.keys, self.values = keys, values\nreturn keys, values",
     "first, self.keys, self.values = self.keys is None, keys, values\nreturn None if first else (keys, values)",
     "the first append returns nothing: what is stored comes back there as well"),
]  # fmt: skip


@st.composite
def cases(draw):
    b, h, d = (draw(st.integers(1, 2)) for _ in range(3))
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    return Case([draw(values((2, b, h, t, d))) for t in lengths])


def reading(cache_class, chunks):
    """The results of all appends, looked at after the last one."""
    cache = cache_class()
    return [tuple(cache.append(keys, values)) for keys, values in chunks]


def one_per_layer(cache_class):
    """The library's `append`, with a cache of the learner's for each layer; new ones when nothing has been read."""
    caches = {}

    def append(self: kv_cache.KVCache, layer, keys, values):
        if self.length == 0:
            caches[layer] = cache_class()
        return tuple(Tensor(array) for array in caches[layer].append(keys.data, values.data))

    return append


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="what was computed once is not computed again",
    group="Writing", effort="10 min, easy",
    hints=(
        "Hold what there is, put the new behind it, return all of it. The first append has nothing to put it behind.",
        "Time is axis 2 of (B, H, T, D).",
        "self.keys = keys if self.keys is None else np.concatenate([self.keys, keys], axis=2); the same for values",
    ),
    checks=[FunctionCheck("KVCache", cases(), Case([some(2, 2, 2, 3, 2, seed=i) for i in range(3)]), call=reading)],
    place=Patch("KVCache", "gpt.model.kv_cache.KVCache.append", adapt=one_per_layer),
    answer=("gpt.model.kv_cache.KVCache.append",),
)
