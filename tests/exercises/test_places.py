"""A learner's part really runs in the GPT: the library's own op in its place changes nothing, and it is called."""

import pytest

from scripts.course.checker import in_gpt
from tests.exercises import library, planting

PLACED = [name for name in planting.PATHS if planting.exercise_named(name).place is not None]


def parts_of(*names):
    parts = in_gpt.Parts()
    for name in names:
        exercise = planting.exercise_named(name)
        parts.add(name, exercise.place, library.definitions(exercise))
    return parts


def test_all_parts_together_train_as_the_librarys():
    parts = parts_of(*PLACED)
    theirs, mine = (in_gpt.train(parts, side, 3) for side in (False, True))
    assert theirs[0] == pytest.approx(mine[0], abs=1e-4) and theirs[1] == mine[1]
    assert len(parts.used) == len(PLACED) >= 25


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACED)
def test_each_part_alone_trains_as_the_librarys(name):
    parts = parts_of(name)
    theirs, mine = (in_gpt.train(parts, side, 2) for side in (False, True))
    assert theirs[0] == pytest.approx(mine[0], abs=1e-4)


@pytest.mark.parametrize("name", PLACED)
def test_each_part_is_called(name):
    parts = parts_of(name)
    called = []

    def spy(original):
        def wrapped(*arguments, **options):
            called.append(name)
            return original(*arguments, **options)

        return wrapped

    for op, kernel in parts.kernels.items():
        parts.kernels[op] = type(kernel.__name__, (kernel,), {"forward": staticmethod(spy(kernel.forward))})
    parts.patches = {target: spy(new) for target, new in parts.patches.items()}
    if name.startswith("bpe"):
        in_gpt.corpus.cache_clear()  # of tokens that others have merged
    in_gpt.train(parts, True, 1)
    assert called, f"{name} is never used by the GPT of `run`"
