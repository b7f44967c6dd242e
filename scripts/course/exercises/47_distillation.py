"""distillation: a student learns the predictions of a teacher.

    p    = softmax(teacher / temperature)           for each row
    q    = softmax(student / temperature)
    loss = temperature^2 KL(p || q)                 the mean over the rows
    KL(p || q) = sum_v p_v (ln p_v - ln q_v)

A text says which token came next; the teacher says how probable each token is. A high temperature makes both
distributions flat, so the tokens that the teacher finds improbable count as well. The teacher does not learn: its
gradient is None. np.logaddexp.reduce(x, axis=1, keepdims=True) is ln Σ_v e^x_v of each row, and cannot overflow.

Shapes: student and teacher (N, V), temperature a number, loss (): a number; dout (), dstudent (N, V).
Example: student = [[0, 0]], teacher = [[2, 0]], temperature = 2, dout = 1
         p = [0.7311, 0.2689] and q = [0.5, 0.5]  ->  loss = 0.4438, dstudent = [[-0.4621, 0.4621]]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import OP, Case, Exercise, OpCheck, beginning, some, values

STUB = beginning(__doc__, OP) + '''
class Distillation(Function):
    @staticmethod
    def forward(ctx, student, teacher, temperature):
        # TODO: the loss; keep what backward needs
        raise NotImplementedError("the loss")

    @staticmethod
    def backward(ctx, dout):
        # TODO: dstudent
        raise NotImplementedError("dstudent")
        return dstudent, None
'''

BLANKS = '''
t, s = teacher / temperature, student / temperature
log_p = t - np.logaddexp.reduce(t, axis=1, keepdims=True)
log_q = s - np.logaddexp.reduce(s, axis=1, keepdims=True)
ctx.p, ctx.q, ctx.temperature = np.exp(log_p), np.exp(log_q), temperature
kl = (ctx.p * (log_p - log_q)).sum(axis=1)  # of each row
return temperature**2 * kl.mean()

dstudent = ctx.temperature * (ctx.q - ctx.p) * dout / len(ctx.p)  # the student's prediction minus the teacher's
'''

SLIPS = [
    ("teacher / temperature", "teacher", "only the student's logits are divided: divide the teacher's as well"),
    ("ctx.p * (log_p - log_q)", "ctx.q * (log_q - log_p)", "it is the reverse divergence KL(q || p): weigh by p"),
    ("log_p - log_q", "-log_q", "the teacher's entropy is missing: the loss is 0 where both models agree"),
    ("return temperature**2 * ", "return ", "temperature^2 is missing in the loss"),
    ("= ctx.temperature * (", "= (", "temperature is missing: of temperature^2, the logits divided by it leave one"),
]  # fmt: skip


@st.composite
def cases(draw):
    logits = values((draw(st.integers(1, 3)), draw(st.integers(2, 4))))
    return Case(draw(logits), draw(logits), temperature=draw(st.sampled_from([0.5, 1.0, 2.0, 4.0])))


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="what a teacher says that a text does not",
    group="Fine-tuning", effort="25 min, medium",
    hints=(
        "It is cross_entropy with p in the place of the one-hot targets, minus a constant: the entropy of p.",
        "log_p and log_q are (N, V); sum p * (log_p - log_q) over axis 1, then take the mean over N.",
        "dstudent = temperature * (q - p) * dout / N: temperature^2 of the loss, divided by the logits' temperature",
    ),
    checks=[OpCheck("Distillation", cases(), Case(some(3, 4), some(3, 4, seed=1), temperature=3.0))],
    answer=("finetune.objectives.distillation.distillation_loss",),
)  # fmt: skip
