"""gelu: a smooth relu, in the form that GPT-2 was trained with.

    u   = sqrt(2/pi) (x + 0.044715 x^3)
    out = x/2 (1 + tanh u)

The output is a product of two things that depend on x: product rule first, then the chain rule through tanh and u.

Shapes: x, out, dout and dx have the same shape.
Example: x = [1.0], dout = [1.0]  ->  out = [0.8412], dx = [1.0830]
"""

from scripts.course.checker.checks import OP, Case, Exercise, Kernel, OpCheck, beginning, shapes, some, values

STUB = beginning(__doc__, "import math", OP) + '''
class Gelu(Function):
    @staticmethod
    def forward(ctx, x):
        u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        ctx.x, ctx.tanh = x, np.tanh(u)
        return 0.5 * x * (1 + ctx.tanh)

    @staticmethod
    def backward(ctx, dout):
        x, tanh = ctx.x, ctx.tanh
        # TODO: du, the derivative of u with respect to x; then dx
        raise NotImplementedError("dx of gelu")
        return (dx,)
'''

BLANKS = '''
du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)  # the inner derivative, for the chain rule
dx = dout * (0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * du)  # product rule: two halves, then the chain rule
'''

SLIPS = [
    ("(1 - tanh**2)", "tanh", "the derivative of tanh is missing: 1 - tanh² stands there, not tanh"),
]  # fmt: skip
EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="GPT-2's smooth gate: product and chain rule",
    group="MLP", effort="20 min, medium",
    hints=(
        "d(fg) = df g + f dg with f = x/2 and g = 1 + tanh u. And d tanh u = (1 - tanh^2 u) du.",
        "All of it is element by element. du = sqrt(2/pi) (1 + 3 * 0.044715 x^2) has the shape of x.",
        "dx = dout * (0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * du)",
    ),
    checks=[OpCheck("Gelu", shapes().flatmap(values).map(Case), Case(some(3, 4)))],
    place=Kernel("gelu", "Gelu", lambda x, approximate: (x,), fits=lambda x, approximate: approximate == "tanh"),
    answer=("minigrad.functional.activation.Gelu",),
)
