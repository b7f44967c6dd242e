"""clipping: keep the gradients' common norm at or below max_norm.

    norm   = sqrt(sum(g^2))                                     g: all elements of all arrays
    factor = min(1, max_norm / norm)                            one factor for all of them

One factor keeps the direction of the step. Gradients that are small enough stay as they are.

Shapes: a list of arrays of any shapes -> (the list of scaled arrays, norm before scaling)
Example: clip([[3.0], [4.0]], 1.0)  ->  ([[0.6], [0.8]], 5.0);   clip([[3.0], [4.0]], 10.0)  ->  unchanged, 5.0
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, Patch, beginning, shapes, some, values

STUB = beginning(__doc__, NUMPY) + '''
def clip(gradients, max_norm):
    # TODO: the norm may be 0
    raise NotImplementedError("clipping")
'''

BLANKS = '''
norm = np.sqrt(sum((g * g).sum() for g in gradients))  # one norm for all arrays
factor = min(1, max_norm / norm) if norm > 0 else 1
return [g * factor for g in gradients], float(norm)  # the same factor for all, max_norm / norm
'''

SLIPS = [
    ("float(norm)", "float(min(norm, max_norm))", "the norm that is returned is the one before scaling"),
]  # fmt: skip

gradients = st.lists(shapes(1, 2).flatmap(values), min_size=1, max_size=3)
cases = st.builds(Case, gradients, st.sampled_from([0.5, 1.0, 5.0]))


def in_place(clip):
    """As the library has it: on parameters."""

    def clip_grad_norm_(parameters, max_norm):
        moved = [p for p in parameters if p.grad is not None]
        scaled, norm = clip([p.grad for p in moved], max_norm)
        for p, gradient in zip(moved, scaled, strict=True):
            p.grad = np.asarray(gradient, p.grad.dtype)
        return np.asarray(norm)

    return clip_grad_norm_


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="bound the length of a step, keep its direction",
    group="Optimizer", effort="15 min, medium",
    hints=(
        "All gradients together are one long vector. How long is it, and by what must it be multiplied?",
        "norm and factor are two numbers for the whole list.",
        "norm = math.sqrt(sum((g * g).sum() for g in gradients)); factor = min(1, max_norm / norm) if norm else 1",
    ),
    # The library adds 1e-6 to the norm.
    checks=[FunctionCheck("clip", cases, Case([some(2, 3), some(4), some(2, 2)], 1.5), tolerance=1e-5)],
    place=Patch("clip", "minigrad.optim.clip_grad_norm_", adapt=in_place),
    answer=("minigrad.optim.clip_grad_norm_",),
)
