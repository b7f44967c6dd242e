"""adamw: Adam with decoupled weight decay.

    p = p - lr * weight_decay * p - lr * m_hat / (sqrt(v_hat) + eps)

m, v, m_hat and v_hat as in adam, from the gradient alone. If the decay were added to the gradient, it would be divided
by sqrt(v_hat) as well, and weights with large gradients would hardly decay.

Shapes: p, grad, m and v have the same shape; returns (p, m, v), new arrays.
Example: p = [1], grad = [0.5], m = v = [0], t = 1, lr = 0.1, weight_decay = 0.5 (others as in adam)  ->  p = [0.85]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, as_step, beginning, shapes, some, values

STUB = beginning(__doc__, NUMPY) + '''
def adamw(p, grad, m, v, t, lr, beta1, beta2, eps, weight_decay):
    # TODO
    raise NotImplementedError("the step of AdamW")
    return p, m, v
'''

BLANKS = '''
m = beta1 * m + (1 - beta1) * grad
v = beta2 * v + (1 - beta2) * grad**2
m_hat = m / (1 - beta1**t)  # bias correction
v_hat = v / (1 - beta2**t)  # bias correction
decay = lr * weight_decay * p  # of p itself: not divided by sqrt(v_hat), and with the factor lr
p = p - decay - lr * m_hat / (np.sqrt(v_hat) + eps)  # Adam's step, and the decay
'''

SLIPS = [
    ("m = beta1", "grad, weight_decay = grad + weight_decay * p, 0\nm = beta1",
     "the decay is added to the gradient: that is Adam's, not AdamW's (decoupled)"),
    ("decay - lr * m_hat", "lr * (m_hat + weight_decay * p)",
     "the decay is divided by sqrt(v_hat) as well: decoupled, it stands outside of the fraction"),
]  # fmt: skip


@st.composite
def cases(draw):
    shape = draw(shapes(1, 2))
    p, grad, m = (draw(values(shape)) for _ in range(3))
    numbers = {"lr": draw(st.sampled_from([0.3, 0.5])), "beta1": 0.9, "beta2": 0.99, "eps": 0.1}
    decay = draw(st.sampled_from([0.0, 0.2]))
    return Case(p, grad, m, draw(values(shape, 0, 3)), draw(st.integers(1, 5)), **numbers, weight_decay=decay)


def numbers(t, group):
    return t, group["lr"], *group["betas"], group["eps"], group["weight_decay"]


TELLING = Case(some(2, 3), some(2, 3, seed=1), some(2, 3, seed=2), np.abs(some(2, 3, seed=3)), 3,
               lr=0.25, beta1=0.9, beta2=0.99, eps=0.01, weight_decay=0.3)  # fmt: skip

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="weight decay that Adam does not divide away",
    group="Optimizer", effort="10 min, easy",
    hints=(
        "The decay never meets the gradient: it shrinks p itself.",
        "One more factor in front of p, a number: 1 - lr * weight_decay.",
        "p * (1 - lr * weight_decay) - lr * m_hat / (np.sqrt(v_hat) + eps)",
    ),
    checks=[FunctionCheck("adamw", cases(), TELLING)],
    place=as_step("adamw", "AdamW", ("exp_avg", "exp_avg_sq"), numbers),
    answer=("minigrad.optim.Adam.update", "minigrad.optim.AdamW.update"),
)
