"""A learner's own way of writing passes, and the case shown is the case diagnosed."""

import pytest

from scripts.checker import diagnosing
from tests.exercises.planting import verdict_on_edit

RIGHT = [
    ("attention", "math.sqrt(", "np.sqrt("),
    ("cross_entropy", "n = kept.sum()", "n = np.count_nonzero(kept)"),
    ("mean", "np.prod([", "np.float64(1) * np.prod(["),
]


@pytest.mark.parametrize(("name", "old", "new"), RIGHT)
def test_numpy_scalars_are_right(name, old, new):
    assert verdict_on_edit(name, old, new).passed


def test_the_case_shown_is_one_that_fails():
    verdict = verdict_on_edit("softmax", "(dout * ctx.out).sum(axis=ctx.dim, keepdims=True)", "dout * ctx.out")
    check, case = verdict.shown
    assert "diagonal" in verdict.diagnosis and case.arguments[0].size < check.telling.arguments[0].size


def test_a_changed_solution_that_never_ends_is_ended():
    with pytest.raises(RuntimeError, match="does not end"), diagnosing._bounded():
        exec(compile("while True:\n    pass", "<mutant>", "exec"))
