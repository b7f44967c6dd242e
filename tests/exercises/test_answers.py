"""What a stub asks for is tested, a learner's own way of writing passes, and the case shown is the case diagnosed.

Each answer is the completed stub with one edit.
"""

from pathlib import Path

import pytest

from scripts.exercises import diagnosing, judging, source
from tests.exercises import planting

PLAIN = """e = np.exp(q @ k.T / math.sqrt(q.shape[1]))
    return e / e.sum(1, keepdims=True) @ v
    m, l ="""
TWO_PASSES = "for start in range(0, len(k), tile):\n        k[start : start + tile].max()\n    m, l ="
ORDER = "ranks = {pair: i for i, pair in enumerate(ranks)}\n    for _ in word:"
WRONG = [
    ("online_softmax", "m, l =", PLAIN, "matrix of scores"),
    ("online_softmax", "np.maximum(m, s.max(axis=1, keepdims=True))", "np.zeros_like(m)", "overflow"),
    ("lora", "return dx, None", "return dx, dout.T @ ctx.x", "must be None"),
    ("dpo", "dpolicy_rejected, None, None", "dpolicy_rejected, dout, None", "must be None"),
    ("ppo_clip", "dlogprobs, None, None", "dlogprobs, dlogprobs, None", "must be None"),
    ("relu", "dx = dout * (ctx.x > 0)", "dout *= ctx.x > 0\n        dx = dout", "writes to dout"),
    ("relu", "ctx.x > 0", "ctx.x >= 0", "at the border"),
    ("clipping", "factor = min", "gradients.append(0)\n    factor = min", "writes to its input"),
    ("embedding", ", dout.dtype", "", "float64"),
    ("cross_entropy", "logits - logits.max(axis=1, keepdims=True)", "logits", "overflow"),
    ("attention", "scores - scores.max(axis=-1, keepdims=True)", "scores", "overflow"),
    ("sampling", "logits - logits.max()", "logits", "max()"),
    ("dpo", "np.logaddexp(0, -beta * h)", "np.log(1 + np.exp(-beta * h))", "overflow"),
    ("absmax", "np.where(largest > 0, largest, 1)", "largest", "divide 0 by 0"),
    ("bpe_encode", "for _ in word:", ORDER, "the order of the dict"),
    ("causal_mask", "return np.arange(keys) <= asking", "return (np.arange(keys) <= asking) * 1", "boolean"),
    ("matmul", "ctx.y.swapaxes(-1, -2)", "ctx.y.T", "swapaxes(-1, -2)"),
    ("adam", "beta1**t", "beta1 * t", "bias correction"),
    ("online_softmax", "m, l =", TWO_PASSES, "read twice"),
    ("dropout", "dx = dout * ctx.scaled_mask", "dx = dout * np.random.default_rng(0).random(dout.shape)", "random"),
    ("softmax", "ctx.out * (dout - dot)", "ctx.out * dout - dot", "`dot` lacks the factor `out`"),
    ("rms_norm", "(dx_hat - through_rms) / ctx.rms", "dx_hat / ctx.rms - through_rms", "is not divided by `rms`"),
    ("adam", "beta1 * m + (1 - beta1) * grad", "(1 - beta1) * m + beta1 * grad", "1 - `beta1` are exchanged"),
    ("positions", "10000", "1000", "1000 stands where 10000"),
    ("unbroadcast", "sum(axis=tuple", "mean(axis=tuple", "`mean` stands where `sum`"),
    ("warmup_cosine", " / 2", "", "not divided by `2`"),
]
RIGHT = [
    ("attention", "math.sqrt(", "np.sqrt("),
    ("cross_entropy", "n = kept.sum()", "n = np.count_nonzero(kept)"),
    ("online_softmax", "math.sqrt(", "np.sqrt("),
    ("mean", "np.prod([", "np.float64(1) * np.prod(["),
]


def verdict_on(name, old, new):
    exercise = planting.exercise_named(name)
    text = exercise.completed()
    assert old in text
    text = text.replace(old, new)
    definitions, problem = source.define(text, Path("edited.py"))
    assert problem is None
    return judging.judge(exercise.checks, definitions, text, "edited.py")


@pytest.mark.parametrize(("name", "old", "new", "word"), WRONG)
def test_what_the_stub_asks_for_is_tested(name, old, new, word):
    verdict = verdict_on(name, old, new)
    assert not verdict.passed and word in verdict.diagnosis, verdict


@pytest.mark.parametrize(("name", "old", "new"), RIGHT)
def test_numpy_scalars_are_right(name, old, new):
    assert verdict_on(name, old, new).passed


def test_the_case_shown_is_one_that_fails():
    verdict = verdict_on("softmax", "(dout * ctx.out).sum(axis=ctx.dim, keepdims=True)", "dout * ctx.out")
    check, case = verdict.shown
    assert "diagonal" in verdict.diagnosis and case.arguments[0].size < check.telling.arguments[0].size


def test_a_changed_solution_that_never_ends_is_ended():
    with pytest.raises(RuntimeError, match="does not end"), diagnosing._bounded():
        exec(compile("while True:\n    pass", "<mutant>", "exec"))
