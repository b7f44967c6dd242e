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


NOT_LINEAR = [
    ("cross_entropy", "* dout / ctx.n", "* abs(dout) / ctx.n", "sign of dout"),
    ("cross_entropy", "* dout / ctx.n", "* max(dout, 0) / ctx.n", "sign of dout"),
    ("cross_entropy", "* dout / ctx.n", "* dout**2 / 0.7 / ctx.n", "sign of dout"),
    ("cross_entropy", "* dout / ctx.n", "* min(dout, 1) / ctx.n", "not linear in dout"),
    ("cross_entropy", "* dout / ctx.n", "* max(dout, -1) / ctx.n", "not linear in dout"),
    ("cross_entropy", "* dout / ctx.n", "* (dout if abs(dout) > 0.01 else 0) / ctx.n", "not linear in dout"),
    ("mean", "dout / n", "np.abs(dout) / n", "sign of the upstream gradient dout"),
    ("softplus", "dout * sigmoid", "np.clip(dout, -100, 100) * sigmoid", "not linear in dout"),
]


@pytest.mark.parametrize(("name", "old", "new", "words"), NOT_LINEAR)
def test_backward_must_be_linear_in_dout(name, old, new, words):
    verdict = verdict_on_edit(name, old, new)
    assert verdict.status == "wrong" and words in verdict.diagnosis, verdict


def test_the_case_shown_is_one_that_fails():
    verdict = verdict_on_edit("softmax", "(dout * ctx.out).sum(axis=ctx.dim, keepdims=True)", "dout * ctx.out")
    check, case, _ = verdict.shown
    assert "diagonal" in verdict.diagnosis and case.arguments[0].size < check.telling.arguments[0].size


def test_a_changed_solution_that_never_ends_is_ended():
    with pytest.raises(RuntimeError, match="does not end"), diagnosing._bounded():
        exec(compile("while True:\n    pass", "<mutant>", "exec"))
