"""llama: turn your GPT-2 into a Llama. The model around the blocks (your gpt) stays; what is inside them is replaced.

    layer norm             RMS norm: x / sqrt(mean(x^2) + eps) * weight (`rms_norm` below)
    learned positions      rotary positions: queries and keys are turned by angles that depend on their position
    GELU between 2 layers  SwiGLU among 3: down(silu(gate(x)) * up(x)), silu(z) = z / (1 + e^-z)
    a key head for each    grouped-query attention: K heads of keys and values, and each serves the next H / K heads
      query head           of queries (np.repeat)

There are H = n_head heads of queries. D is how many numbers one head has: q_proj.weight has H D rows, so D is its
number of rows divided by n_head, which need not be C / H. k_proj.weight has K D rows, which gives K.

`turned`: of the D numbers x of a head, pair i is (x[i], x[i + D / 2]), i = 0 ... D / 2 - 1. At position t it is turned
by the angle t THETA^(-2 i / D):

    (a, b)  ->  (a cos - b sin, a sin + b cos)

`llama_block`, as in GPT-2: x = x + attention(norm(x)), x = x + mlp(norm(x)). There are no biases. The names in p are
Hugging Face's, p["self_attn.q_proj.weight"] for example:

    input_layernorm, post_attention_layernorm     (C)              the norms before attention and before the MLP
    self_attn.q_proj                              (H D, C)
    self_attn.k_proj, self_attn.v_proj            (K D, C)
    self_attn.o_proj                              (C, H D)
    mlp.gate_proj, mlp.up_proj                    (I, C)
    mlp.down_proj                                 (C, I)

Values are not turned. As before, no token sees a later one, scores are divided by sqrt(D), and softmax subtracts the
largest score first.

Shapes: turned: x (B, heads, T, D) -> the same;  llama_block: x (B, T, C), n_head = H -> (B, T, C)
Example: turned of two tokens [[1, 0], [1, 0]], D = 2: the first stays, the second turns by 1 radian: [0.5403, 0.8415]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, filled, some, values

STUB = beginning(__doc__, NUMPY) + '''
THETA, EPS = 100_000, 1e-5  # of SmolLM2

def rms_norm(x, p, name):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPS) * p[name + ".weight"]

def turned(x):
    # TODO: angles (T, D / 2); their cosine and sine
    raise NotImplementedError("rotary positions")

def llama_block(x, p, n_head):
    # TODO: queries and keys are turned; keys and values are repeated
    raise NotImplementedError("the block of a Llama")
'''
BLANKS = '''
T, D = x.shape[2:]
angles = np.arange(T)[:, None] * THETA ** (-np.arange(0, D, 2) / D)  # t THETA^(-2 i / D), t from 0
cos, sin = np.cos(angles), np.sin(angles)
a, b = x[..., : D // 2], x[..., D // 2 :]
return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)  # pair i is one number from each half

B, T, C = x.shape
D = len(p["self_attn.q_proj.weight"]) // n_head
h = rms_norm(x, p, "input_layernorm")  # attention reads a normalized copy
heads = [(h @ p[f"self_attn.{name}_proj.weight"].T).reshape(B, T, -1, D) for name in "qkv"]
q, k, v = (head.transpose(0, 2, 1, 3) for head in heads)  # (B, H, T, D), (B, K, T, D) twice
group = n_head // k.shape[1]
q = turned(q)  # by position, so along T of (B, H, T, D)
k = np.repeat(turned(k), group, axis=1)  # turned as queries are; each serves the next `group` query heads
v = np.repeat(v, group, axis=1)  # not turned
scores = q @ k.swapaxes(-1, -2) / np.sqrt(D)
masked = np.where(np.tri(T) > 0, scores, -np.inf)  # before softmax: a token sees itself and what came before
e = np.exp(masked - masked.max(axis=-1, keepdims=True))  # so that exp cannot overflow
out = e / e.sum(axis=-1, keepdims=True) @ v
x = x + out.transpose(0, 2, 1, 3).reshape(B, T, n_head * D) @ p["self_attn.o_proj.weight"].T
h = rms_norm(x, p, "post_attention_layernorm")  # the MLP reads a normalized copy, and has a norm of its own
gate = h @ p["mlp.gate_proj.weight"].T
up = h @ p["mlp.up_proj.weight"].T
h = gate / (1 + np.exp(-gate)) * up  # silu(gate) * up
return x + h @ p["mlp.down_proj.weight"].T
'''
SLIPS = [
    ("n_head // k.shape[1]", "1", "keys and values are not repeated: each head of them serves n_head / K of queries"),
]  # fmt: skip


def case(x, K, group, factor=1):
    """A block with K key heads of two numbers, each for `group` query heads. factor: of the weights of queries."""
    C, H = x.shape[-1], K * group
    attention = {"q_proj": (2 * H, C), "k_proj": (2 * K, C), "v_proj": (2 * K, C), "o_proj": (C, 2 * H)}
    shapes = {"input_layernorm": (C,), "post_attention_layernorm": (C,), "mlp.gate_proj": (1, C), "mlp.up_proj": (1, C),
              "mlp.down_proj": (C, 1), **{f"self_attn.{name}": shape for name, shape in attention.items()}}  # fmt: skip
    return Case(x, {f"{n}.weight": a * (factor if "q_proj" in n else 1) for n, a in filled(shapes).items()}, H)


one_or_two = st.integers(1, 2)
heads = st.tuples(one_or_two, one_or_two, st.integers(1, 3), one_or_two.map(lambda n: 2 * n)).flatmap(values)
blocks = st.builds(case, heads.map(lambda x: x[:1, 0]), one_or_two, one_or_two)

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="from GPT-2 to Llama", group="Model", effort="40 min, hard",
    hints=(
        "Copy your block and attention, and replace one thing after another. a and b are halves: (..., D / 2).",
        "np.arange(T)[:, None] * THETA ** (-np.arange(0, D, 2) / D) is (T, D / 2); np.repeat(k, n_head // K, axis=1).",
        "np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1); gate / (1 + np.exp(-gate)) * up",
    ),
    checks=[FunctionCheck("turned", heads.map(Case), Case(some(2, 3, 5, 6))),
            FunctionCheck("llama_block", blocks, case(some(2, 3, 5), 2, 2), examples=20),
            FunctionCheck("llama_block", blocks, case(some(2, 3, 5), 2, 2, factor=300), examples=1)],
    answer=("gpt.model.llama.rotations", "gpt.model.llama.LlamaBlock"),
)  # fmt: skip
