"""adam: one step. The mean of the gradients over the root of their mean square.

    m     = beta1 m + (1 - beta1) grad
    v     = beta2 v + (1 - beta2) grad^2
    m_hat = m / (1 - beta1^t)            m and v started at 0: this corrects for it; t = 1 at first
    v_hat = v / (1 - beta2^t)
    p     = p - lr m_hat / (sqrt(v_hat) + eps)

Return new arrays, with m and v uncorrected: the next step continues from them.

Shapes: p, grad, m and v have the same shape; returns (p, m, v).
Example: p = [1], grad = [0.5], m = v = [0], t = 1, lr = 0.1, beta1 = 0.9, beta2 = 0.999, eps = 1e-8
         -> m = [0.05], v = [0.00025], p = [0.9]: the first step is lr, whatever the gradient's size
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, as_step, beginning, shapes, some, values

STUB = beginning(__doc__, NUMPY) + '''
def adam(p, grad, m, v, t, lr, beta1, beta2, eps):
    # TODO
    raise NotImplementedError("the step of Adam")
    return p, m, v
'''

BLANKS = '''
m = beta1 * m + (1 - beta1) * grad
v = beta2 * v + (1 - beta2) * grad**2
m_hat = m / (1 - beta1**t)  # bias correction
v_hat = v / (1 - beta2**t)  # bias correction
p = p - lr * m_hat / (np.sqrt(v_hat) + eps)  # downhill
'''

SLIPS = [
    ("/ (1 - beta1**t)  # bias correction\nv_hat = v / (1 - beta2**t)", "\nv_hat = v",
     "the bias correction is missing: divide m by 1 - beta1^t, v by 1 - beta2^t"),
    ("m_hat = m", "m_hat = m = m", "m is returned with its correction, and the next step would correct it again"),
    ("**t)", "**(t + 1))", "t is counted once too often: it is 1 in the first step already"),
    ("**t)", "**(t - 1))", "t is counted too low: it is 1 in the first step, so the corrections take t, not t - 1"),
]  # fmt: skip


@st.composite
def cases(draw):
    shape = draw(shapes(1, 2))
    p, grad, m = (draw(values(shape)) for _ in range(3))
    lr, eps = draw(st.sampled_from([0.2, 0.5])), draw(st.sampled_from([1e-8, 0.1]))
    return Case(p, grad, m, draw(values(shape, 0, 3)), draw(st.integers(1, 5)), lr=lr, beta1=0.9, beta2=0.99, eps=eps)


TELLING = Case(some(2, 3), some(2, 3, seed=1), some(2, 3, seed=2), np.abs(some(2, 3, seed=3)), 3,
               lr=0.3, beta1=0.9, beta2=0.99, eps=0.01)  # fmt: skip

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="each parameter's own step size",
    group="Optimizer", effort="15 min, medium",
    hints=(
        "m says where to go, sqrt(v) how far gradients usually reach: their quotient is about 1, so a step is "
        "about lr.",
        "Everything is element by element; beta1**t and beta2**t are two numbers.",
        "p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)",
    ),
    checks=[FunctionCheck("adam", cases(), TELLING)],
    place=as_step(
        "adam", "Adam", ("exp_avg", "exp_avg_sq"), lambda t, group: (t, group["lr"], *group["betas"], group["eps"])
    ),
    answer=("minigrad.optim.Adam.update",),
)
