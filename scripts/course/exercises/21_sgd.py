"""sgd: stochastic gradient descent with momentum and weight decay.

    g        = grad + weight_decay * p
    velocity = momentum * velocity + g
    p        = p - lr * velocity

Return new arrays, and leave the inputs as they are.

Shapes: p, grad and velocity have the same shape; returns (p, velocity).
Example: p = [1.0], grad = [0.5], velocity = [2.0], lr = 0.1, momentum = 0.9, weight_decay = 0
         -> velocity = [2.3], p = [0.77]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import Case, Exercise, FunctionCheck, as_step, beginning, shapes, some, values

STUB = beginning(__doc__) + '''
def sgd(p, grad, velocity, lr, momentum, weight_decay):
    # TODO
    raise NotImplementedError("the step of SGD")
    return p, velocity
'''

BLANKS = '''
g = grad + weight_decay * p
velocity = momentum * velocity + g
p = p - lr * velocity  # downhill, along the velocity
'''

SLIPS = [
    ("g = grad + weight_decay * p\nvelocity = momentum * velocity + g\np = p - lr * velocity",
     "velocity = momentum * velocity + grad\np = p - lr * (velocity + weight_decay * p)",
     "the weight decay is decoupled, as in AdamW: here it is part of g, and so of the velocity"),
]  # fmt: skip


@st.composite
def cases(draw):
    shape = draw(shapes(1, 2))
    numbers = {"lr": draw(st.sampled_from([0.2, 0.5])), "momentum": draw(st.sampled_from([0.0, 0.9]))}
    p, grad, velocity = (draw(values(shape)) for _ in range(3))
    return Case(p, grad, velocity, **numbers, weight_decay=draw(st.sampled_from([0.0, 0.1])))


TELLING = Case(*(some(2, 3, seed=i) for i in range(3)), lr=0.3, momentum=0.9, weight_decay=0.2)

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="downhill, with momentum",
    group="Optimizer", effort="10 min, easy",
    hints=(
        "The velocity is a memory of past gradients that fades by `momentum` in each step. The step follows it.",
        "Everything is element by element, in the order of the three lines.",
        "g = grad + weight_decay * p; velocity = momentum * velocity + g; return p - lr * velocity, velocity",
    ),
    checks=[FunctionCheck("sgd", cases(), TELLING)],
    place=as_step(
        "sgd", "SGD", ("velocity",), lambda t, group: (group["lr"], group["momentum"], group["weight_decay"])
    ),
    answer=("minigrad.optim.SGD.update",),
)
