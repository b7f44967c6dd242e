"""The exercise "lora": the detour of low rank, and the merge."""

from typing import Any

import hypothesis.strategies as st
import numpy as np

from finetune.adapters.lora import LoRAConfig, LoRALinear
from minigrad import Tensor, nn
from scripts.exercises.adapters import as_function
from scripts.exercises.catalogue import Exercise
from scripts.exercises.checks import Case, FunctionCheck, OpCheck, Slip, some, values

STUB = '''"""lora: fine-tuning with a trainable low-rank update, added to a frozen weight.

    out = x W^T + scaling (x A^T) B^T            merged: W + scaling B A, one matrix again

W is frozen: its gradient is None, and is not computed (that is what saves the memory). x, A and B get theirs.

Shapes: x (N, I), W (O, I), A (r, I), B (O, r), out and dout (N, O); dx (N, I), dA (r, I), dB (O, r); scaling a number.
Example: x = [[1, 2]], W = [[1, 0]], A = [[1, 1]], B = [[3]], scaling = 2, dout = [[1]]
         -> x A^T = [[3]], out = [[19]], dx = [[7, 6]], dA = [[6, 12]], dB = [[6]]; merged: [[7, 6]]
"""

import numpy as np

from minigrad.autograd import Function


class LoRA(Function):
    @staticmethod
    def forward(ctx, x, weight, A, B, scaling):
        # TODO
        raise NotImplementedError("out")

    @staticmethod
    def backward(ctx, dout):
        # TODO
        raise NotImplementedError("dx, dA and dB")
        return dx, None, dA, dB


def merge(weight, A, B, scaling):
    # TODO: a new matrix (O, I)
    raise NotImplementedError("the merge")
'''

BLANKS = '''
hidden = x @ A.T
ctx.x, ctx.weight, ctx.A, ctx.B, ctx.hidden, ctx.scaling = x, weight, A, B, hidden, scaling
return x @ weight.T + scaling * (hidden @ B.T)

dhidden = ctx.scaling * (dout @ ctx.B)
dB = ctx.scaling * (dout.T @ ctx.hidden)
dA = dhidden.T @ ctx.x
dx = dout @ ctx.weight + dhidden @ ctx.A

return weight + scaling * (B @ A)
'''


@st.composite
def cases(draw: Any) -> Case:
    n, i, o, r = (draw(st.integers(1, 3)) for _ in range(4))
    arrays = (draw(values(shape)) for shape in ((n, i), (o, i), (r, i), (o, r)))
    return Case(*arrays, scaling=draw(st.sampled_from([0.5, 2.0])))


def by_einsum(x: Any, weight: Any, A: Any, B: Any, scaling: float) -> Any:
    return np.einsum("ni,oi->no", x, weight) + scaling * np.einsum("ni,ri,or->no", x, A, B)


def backward(x: bool = True, base: bool = True, a: bool = True, b: bool = True) -> Any:
    """Gradients with or without `scaling`, and dx with or without the base's part."""

    def formula(dout: Any, inputs: Any, weight: Any, A: Any, B: Any, scaling: float) -> Any:
        dx = (dout @ weight if base else 0) + (scaling if x else 1 / scaling) * (x or base) * dout @ B @ A
        dx = dx if x else dout @ weight + dout @ B @ A if base else dx
        return dx, None, (scaling if a else 1) * B.T @ dout.T @ inputs, (scaling if b else 1) * dout.T @ inputs @ A.T

    return formula


TELLING = Case(some(2, 5), some(4, 5), some(3, 5, seed=1), some(4, 3, seed=2), scaling=0.7)

EXERCISE = Exercise(
    title="the detour of low rank, and the merge",
    group="Fine-tuning", effort="30 min, hard",
    stub=STUB,
    blanks=BLANKS,
    hints=(
        "Two paths from x to out; gradients of both add up in dx. Each path consists of linear layers only.",
        "hidden = x A^T (N, r); dhidden = dout B (N, r). dB (O, r) = dout^T hidden, dA (r, I) = dhidden^T x: "
        "times scaling.",
        "dh = scaling * dout @ B; dx = dout @ W + dh @ A; dA = dh.T @ x; dB = scaling * dout.T @ hidden;  "
        "merge: weight + scaling * (B @ A)",
    ),
    checks=(
        OpCheck(
            "LoRA",
            cases(),
            TELLING,
            slips=(
                Slip(
                    lambda x, weight, A, B, scaling: by_einsum(x, weight, A, B, 1.0), "scaling is missing in the detour"
                ),
                Slip(
                    lambda x, weight, A, B, scaling: x @ weight.T,
                    "the detour is missing: this is the frozen layer only",
                ),
                Slip(
                    lambda x, weight, A, B, scaling: scaling * by_einsum(x, weight, A, B, 1.0),
                    "the frozen layer is scaled, too: scaling belongs to the detour only",
                ),
                Slip(
                    lambda x, weight, A, B, scaling: by_einsum(x, 0 * weight, A, B, scaling),
                    "the frozen layer's part is missing: both paths are added",
                ),
            ),
            backward_slips=(
                Slip(
                    backward(base=False),
                    "dx lacks the path through the frozen weight: frozen, but still passed through",
                ),
                Slip(backward(a=False, b=False), "scaling is missing in dA and dB"),
                Slip(backward(x=False), "scaling is missing in dx"),
                Slip(
                    lambda dout, x, weight, A, B, scaling: (dout @ weight, None, None, None),
                    "dx lacks the path through the detour",
                ),
            ),
            examples=15,
        ),
        FunctionCheck(
            "merge",
            cases().map(lambda case: Case(*case.arguments[1:], **case.options)),
            Case(*TELLING.arguments[1:], **TELLING.options),
            slips=(
                Slip(lambda weight, A, B, scaling: weight + B @ A, "scaling is missing in the merge"),
                Slip(lambda weight, A, B, scaling: scaling * (B @ A), "W is missing: the detour is added to it"),
                Slip(
                    lambda weight, A, B, scaling: weight - scaling * (B @ A), "the sign is flipped: the detour is added"
                ),
            ),
        ),
    ),
    adapt=lambda library: {
        "LoRA": as_function(forward_of(library["forward"]), "LoRA", differentiate=(0, 2, 3)),
        "merge": merge_of(library["delta"]),
    },
    answer=("finetune.adapters.lora.LoRALinear.forward", "finetune.adapters.lora.LoRALinear.delta"),
)


def layer(weight: Any, A: Any, B: Any, scaling: float) -> LoRALinear:
    base = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    made = LoRALinear(base, LoRAConfig(r=A.shape[0], alpha=scaling * A.shape[0]))
    base.weight, made.lora_A, made.lora_B = (a if isinstance(a, Tensor) else Tensor(a) for a in (weight, A, B))  # type: ignore[assignment]
    return made


def forward_of(forward: Any) -> Any:
    return lambda x, weight, A, B, scaling: forward(layer(weight, A, B, scaling), x)


def merge_of(delta: Any) -> Any:
    return lambda weight, A, B, scaling: weight + delta(layer(weight, A, B, scaling))
