"""The exercise "adamw": weight decay that Adam does not divide away."""

from typing import Any

import hypothesis.strategies as st
import numpy as np

from scripts.exercises.catalogue import Exercise
from scripts.exercises.checks import Case, FunctionCheck, Slip, shapes, some, values
from scripts.exercises.optimizers import adam_with_library, as_update

STUB = '''"""adamw: Adam with decoupled weight decay.

    p = p - lr weight_decay p - lr m_hat / (sqrt(v_hat) + eps)

m, v, m_hat and v_hat as in adam, from the gradient alone. If the decay were added to the gradient, it would be divided
by sqrt(v_hat) as well, and weights with large gradients would hardly decay.

Shapes: p, grad, m and v have the same shape; returns (p, m, v), new arrays.
Example: p = [1], grad = [0.5], m = v = [0], t = 1, lr = 0.1, weight_decay = 0.5 (others as in adam)  ->  p = [0.85]
"""

import numpy as np


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
decay = lr * weight_decay * p
p = p - decay - lr * m_hat / (np.sqrt(v_hat) + eps)
'''


@st.composite
def cases(draw: Any) -> Case:
    shape = draw(shapes(1, 2))
    p, grad, m = (draw(values(shape)) for _ in range(3))
    numbers = {"lr": draw(st.sampled_from([0.3, 0.5])), "beta1": 0.9, "beta2": 0.99, "eps": 0.1}
    decay = draw(st.sampled_from([0.0, 0.2]))
    return Case(p, grad, m, draw(values(shape, 0, 3)), draw(st.integers(1, 5)), **numbers, weight_decay=decay)


def variant(coupled: bool = False, decay: float = 1.0, with_lr: bool = True, after: bool = False) -> Any:
    def formula(
        p: Any,
        grad: Any,
        m: Any,
        v: Any,
        t: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
    ) -> Any:
        grad = grad + weight_decay * p if coupled else grad
        m, v = beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad * grad
        step = lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        if coupled:
            return p - step, m, v
        rate = decay * weight_decay * (lr if with_lr else 1)
        return ((p - step) * (1 - rate) if after else p * (1 - rate) - step), m, v

    return formula


EXERCISE = Exercise(
    title="weight decay that Adam does not divide away",
    group="Optimizer", effort="10 min, easy",
    stub=STUB,
    blanks=BLANKS,
    hints=(
        "The decay never meets the gradient: it shrinks p itself.",
        "One more factor in front of p, a number: 1 - lr * weight_decay.",
        "p * (1 - lr * weight_decay) - lr * m_hat / (np.sqrt(v_hat) + eps)",
    ),
    checks=(
        FunctionCheck(
            "adamw",
            cases(),
            Case(
                some(2, 3),
                some(2, 3, seed=1),
                some(2, 3, seed=2),
                np.abs(some(2, 3, seed=3)),
                3,
                lr=0.25,
                beta1=0.9,
                beta2=0.99,
                eps=0.01,
                weight_decay=0.3,
            ),
            slips=(
                Slip(
                    variant(coupled=True), "the decay is added to the gradient: that is Adam's, not AdamW's (decoupled)"
                ),
                Slip(variant(with_lr=False), "the decay lacks the factor lr"),
                Slip(variant(decay=0.0), "there is no weight decay: this is Adam"),
                Slip(variant(decay=-1.0), "the decay has the wrong sign: weights must shrink"),
                Slip(variant(after=True), "the step decays, too: shrink p before the step is taken"),
            ),
        ),
    ),
    adapt=lambda library: {"adamw": adam_with_library(library["update"], decoupled=True)},
    place=as_update("adamw", "AdamW"),
    answer=("minigrad.optim.Adam.update", "minigrad.optim.AdamW"),
)
