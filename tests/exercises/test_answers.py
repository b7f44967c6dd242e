"""A learner's own way of writing passes, and the case shown is the case diagnosed."""

from pathlib import Path

import pytest

from scripts.course.checker import processes, trial
from tests.exercises.mistakes import WALK
from tests.exercises.planting import exercise_named, verdict_on_edit

ALONG_EACH_PATH = """waiting = [(root, 1.0)]
for node, share in waiting:
    for source, slope in node.inputs:
        source.grad += share * slope
        waiting.append((source, share * slope))"""

RIGHT = [
    ("attention", "math.sqrt(", "np.sqrt("),
    ("cross_entropy", "n = kept.sum()", "n = np.count_nonzero(kept)"),
    ("mean", "np.prod([", "np.float64(1) * np.prod(["),
    ("walk", WALK, ALONG_EACH_PATH),
]


@pytest.mark.parametrize("name, old, new", RIGHT)
def test_other_ways_are_right(name, old, new):
    assert verdict_on_edit(name, old, new).passed


NOT_LINEAR = [
    ("cross_entropy", "* dout / ctx.n", "* dout**2 / 0.7 / ctx.n", "wrong for -1 times that dout"),
    ("cross_entropy", "* dout / ctx.n", "* min(dout, 1) / ctx.n", "not linear in dout"),
    ("cross_entropy", "* dout / ctx.n", "* (dout if abs(dout) > 0.01 else 0) / ctx.n", "not linear in dout"),
    ("mean", "dout / n", "np.abs(dout) / n", "`abs(dout)` stands where `dout` belongs"),
]


@pytest.mark.parametrize("name, old, new, words", NOT_LINEAR)
def test_backward_must_be_linear_in_dout(name, old, new, words):
    verdict = verdict_on_edit(name, old, new)
    assert verdict.status == "wrong" and words in verdict.diagnosis, verdict


def test_the_case_shown_is_one_that_fails():
    verdict = verdict_on_edit("softmax", "(dout * ctx.out).sum(axis=ctx.dim, keepdims=True)", "dout * ctx.out")
    check, case, _ = verdict.shown
    assert "diagonal" in verdict.diagnosis and case.arguments[0].size < check.telling.arguments[0].size


def test_a_remark_is_the_diagnosis_and_no_part_of_the_result():
    verdict = verdict_on_edit("walk", "reversed(order)", "order")
    assert "before it has got all of it" in verdict.diagnosis and "a node hands" not in verdict.details
    assert "None" not in verdict.details


HIDDEN = """hidden = gelu(linear(normed, p, "up"))  # GELU stands between the two linear layers
return x + linear(hidden, p, "down")"""

# The words of the diagnosis and the line of the file that is shown.
STEPS = [
    ("adam", "np.sqrt(v_hat)", "np.sqrt(-1 - v_hat)", "`-1 - v_hat` stands where `v_hat` belongs", "p = p -"),
    ("gpt", 'norm(x, params, "norm") @', "x @", "`norm` is missing: `x` stands where", "logits ="),
    ("warmup_cosine", "math.pi * progress", "180 * progress", "belongs `cosine = (1 + cos(pi", "cosine ="),
    ("relu", "ctx.x > 0", "(np.sign(ctx.x) + 1) / 2", "belongs `dx = dout * (x > 0)`", "dx ="),  # wrong at 0 only
    ("sgd", "weight_decay * p", "weight_decay * p * abs(p)", "stands where `weight_decay * p` belongs", "g = grad"),
    ("adam", "m / (1 - beta1**t)", "m / (1 - beta1**t) ** 3", "stands where `1 - beta1^t` belongs", "m_hat ="),
    ("sgd", "+ g\n", "+ (1 - momentum) * g\n", "`(1 - momentum) * g` stands where `g` belongs", "velocity ="),
    ("clipping", "np.sqrt(sum((g * g).sum() for g in gradients))", "max(np.abs(g).max() for g in gradients)",
     "belongs `norm = sqrt(sum(((g * g)", "norm ="),
    ("gpt", "blocks.{layer}.", "blocks.0.", "belongs `x = block(x, part_of", "x = block"),
    ("gpt", '["positions"][', '["positions"][1:][', "where `params['positions'][:-1]` belongs", "x = x + params"),
    ("block", "scores, -np.inf", "scores, 0", "belongs `masked = where(tri(T) > 0, scores, -inf)", "masked ="),
    ("block", "np.tri(T)", "np.tri(T, k=-1)", "`-1` stands where `0` belongs", "masked ="),
    ("block", '"norm_2"', '"norm_1"', "'norm_1' stands where 'norm_2' belongs", "normed ="),
    ("block", "gelu(linear", "(linear", "`gelu` is missing", "hidden ="),
    ("training_loop", "np.sqrt(sum((g * g).sum() for g in gradients.values()))",
     "sum(np.linalg.norm(g) for g in gradients.values())", "not among yours is `norm = sqrt", "norm ="),
    ("training_loop", "update(name, p, gradients[name] * factor, rate(step))",
     "p - rate(step) * gradients[name] * factor", "among yours is `params[name] = update(name, p", "params[name] ="),
    ("llama", "repeat(turned(k)", "repeat((k)", "`turned` is missing: `k` stands", "k = np.repeat"),
    ("llama", "gate / (1", "1 / (1", "belongs `h = gate / (1", "h = 1"),
    # hidden, which this file has not, comes with its formula.
    ("block", HIDDEN, 'return linear(gelu(linear(normed, p, "up")), p, "down")', "; hidden is `gelu(linear", "return"),
    # Two mistakes at once: both are named, or the first step that is wrong.
    ("adam", "(1 - beta2) * grad**2\n", "(1 - beta1) * grad**2\nt = t + 1\n",
     "`beta1` stands where `beta2` belongs; in line 23, `t + 1` stands where `t` belongs", "v ="),
    ("sgd", "weight_decay * p\nvelocity = momentum *", "p\nvelocity =", "`g = grad + weight_decay", "g ="),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, old, new, words, line",
    [*STEPS[:3], *(pytest.param(*step, marks=pytest.mark.slow) for step in STEPS[3:])],
)
def test_the_step_and_the_line_where_values_part_are_named(name, old, new, words, line):
    exercise = exercise_named(name)
    verdict = processes.judge(exercise, exercise.completed(old, new).encode(), Path("planted.py"))
    assert words in verdict.diagnosis and verdict.code.startswith(line), verdict


def test_what_is_kept_between_two_calls_is_said():
    exercise = exercise_named("sgd")
    text = exercise.completed("g = grad", "CALLS.append(1)\ng = len(CALLS) * grad") + "\n\nCALLS = []\n"
    assert "kept from one call to the next" in processes.judge(exercise, text.encode(), Path("planted.py")).diagnosis


def test_the_first_exercise_shows_one_number():
    exercise = exercise_named("mul")
    verdict = processes.judge(exercise, exercise.stub.encode(), Path("planted.py"))
    assert verdict.diagnosis == "dy: the sign of dy is flipped"
    assert verdict.shown[1].arguments[0].size == 1


def test_a_change_that_breaks_a_right_result_explains_nothing():
    verdict = verdict_on_edit("gae", "advantages + values", "np.cumsum(rewards[::-1])[::-1] + 0 * values")
    assert "gamma" not in verdict.diagnosis, verdict


KEYS_OF_ALL = """K = np.einsum("hdl,sl->hsd", W_UK, c)
scores = (np.einsum("hd,hsd->hs", q, K) + q_rope @ k_rope.T)"""
ALL_SCORES = "S = np.einsum('td,sd->ts', q, k)\nfor start in range(0, len(k), tile):"
COPIED = """g = np.array(dout)
if g.ndim > len(shape):
    g = np.add.reduce(g, axis=0)
dout = g"""
EACH_ITS_OWN = """for name, g in gradients.items():
    gradients[name] = g * min(1, max_norm / np.sqrt((g * g).sum()))
norm = 0"""

# What a learner was told that sent them elsewhere, and what they are told now.
MISLED = [
    ("dpo", "(policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)",
     "policy_chosen - policy_rejected", "belongs `h = policy_chosen - reference_chosen", "where reference_chosen"),
    ("walk", "node.grad * slope", "root.grad * slope", "a factor is missing: `node.grad`", "before it has got all"),
    ("unbroadcast", "dout.sum(axis=tuple(range(added)))", "dout.sum(axis=0) if added else dout", "in line 19", "None"),
    ("sum", "if ctx.keepdim else", "if not ctx.keepdim else", "`keepdim` is the wrong way", "taken 1 too small"),
    ("latent_attention", "scores = (absorbed @ c.T + q_rope @ k_rope.T)", KEYS_OF_ALL, "multiply q by W_UK", "among"),
    ("online_softmax", "for start in range(0, len(k), tile):", ALL_SCORES, "(T, S) matrix of scores", "not among"),
    ("induction", "follows[:, 1:] = ids[:, None] == ids[None, :-1]", "follows = ids[:, None] == np.roll(ids, 1)",
     "before it is none", "belongs `follows &="),
    ("induction", "follows[:, 1:] = ids[:, None] == ids[None, :-1]",
     "follows = ids[:, None] == np.append(ids[:1], ids[:-1])", "`follows[:, 1:] = ids", "belongs `follows &="),
    ("speculative", "missing / missing.sum()", "p / p.sum() if True else np.random.random()", "drawn from p", "random"),
    ("training_loop", "norm = np.sqrt(sum((g * g).sum() for g in gradients.values()))", EACH_ITS_OWN, "`norm = sqrt",
     "`loss = backward"),
    ("newton_schulz", "for _ in range(steps):\n        A = X @ X.T",
     "A = np.einsum('ik,jk', X, X)\n    for _ in range(steps):",
     "A is computed once", "None"),
    ("newton_schulz", "for _ in range(steps):\n        A = X @ X.T",
     "first = np.einsum('ik,jk', X, X)\n    for i in range(steps):\n"
     "        A = [first, first, first, *[np.einsum('ik,jk', X, X)] * steps][i]",
     "`A = X @ X^T`, from its second time on", "None"),
    ("unbroadcast", "added = dout.ndim - len(shape)\ndout = dout.sum(axis=tuple(range(added)))",
     COPIED, "`dout = dout.sum", "in line 18"),
]  # fmt: skip


@pytest.mark.parametrize("name, old, new, words, never", MISLED)
def test_nobody_is_sent_elsewhere(name, old, new, words, never):
    diagnosis = verdict_on_edit(name, old, new).diagnosis
    assert words in diagnosis and never not in diagnosis, diagnosis


HELPER = """

def log_sigmoid(z):
    return -np.logaddexp(0, -z)
"""


def test_a_repair_of_backward_leaves_forward_right():
    exercise = exercise_named("bradley_terry")
    text = exercise.completed("0.5 * (1 + np.tanh(-ctx.d / 2))", "np.exp(log_sigmoid(ctx.d))") + HELPER
    text = text.replace("return np.logaddexp(0, -ctx.d)", "return -log_sigmoid(ctx.d)")
    verdict = processes.judge(exercise, text.encode(), Path("planted.py"))
    assert "log_sigmoid(ctx.d)" in verdict.code and "logaddexp" not in verdict.code, verdict


def test_a_loop_that_walks_forwards_is_not_a_missing_term():
    verdict = processes.judge(exercise_named("gae"), FORWARDS.encode(), Path("planted.py"))
    assert "where `reversed(range(" in verdict.diagnosis and verdict.code == "for t in range(len(values)):", verdict


FORWARDS = """import numpy as np
def gae(rewards, values, gamma, lam):
    A, V = np.zeros(len(values) + 1), np.append(values, 0.0)
    for t in range(len(values)):
        A[t] = rewards[t] + gamma * V[t + 1] - V[t] + gamma * lam * A[t + 1]
    return A[:-1], A[:-1] + values
"""


def test_no_line_is_shown_where_none_is_known():
    for name, old, new in [
        ("bpe_encode", "key=lambda pair: ranks[pair]", "key=lambda pair: (pair,)"),
        ("online_softmax", "range(0, len(k), tile)", "range(0, len(k) // tile * tile, tile)"),
    ]:
        verdict = verdict_on_edit(name, old, new)
        assert verdict.status == "wrong" and verdict.line is None, verdict


def test_a_changed_solution_that_never_ends_is_ended():
    with pytest.raises(RuntimeError, match="does not end"), trial.bounded():
        exec(compile("while True:\n    pass", "<mutant>", "exec"))


@pytest.mark.parametrize(
    "name, old, new, words",
    [
        ("walk", "reversed(order)", "reversed(order[:-1])", "begin there, and add (+=)"),
        ("bpe_encode", "key=lambda pair: ranks[pair]", "key=lambda pair: (pair,)", "must be joined to"),
        ("cross_entropy", "= 1  #", "= -1  #", "the sign of onehot[rows, classes] is flipped"),
    ],
)
def test_a_line_that_is_as_it_should_be_is_not_blamed(name, old, new, words):
    verdict = verdict_on_edit(name, old, new)
    assert words in verdict.diagnosis and "is not treated" not in verdict.diagnosis, verdict


def test_the_formula_of_a_step_is_the_one_of_its_line():
    exercise = exercise_named("newton_schulz")
    text = exercise.completed("c * A @ A", "c * A")
    assert "X = matrix / sqrt" not in processes.judge(exercise, text.encode(), Path("planted.py")).diagnosis
