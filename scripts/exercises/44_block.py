"""block: one block of GPT-2, from vectors to vectors. Forward only: from here on, the engine goes back.

    x = x + attention(layer_norm(x))         tokens exchange information
    x = x + mlp(layer_norm(x))               each token processes what it has gathered
    mlp(x) = down(gelu(up(x)))               two linear layers

Attention with H heads: three linear layers make queries, keys and values, C numbers per token each. These are split
among the heads, D = C / H neighboring numbers for each. In each head,

    weights = softmax(q k^T / sqrt(D)) over the tokens up to the one that asks;   out = weights v

The heads are joined again, (B, H, T, D) -> (B, T, C), and the layer "output" mixes them.

The parameters are in the dictionary p. A linear layer computes x weight^T + bias (`linear` below does):

    norm_1, norm_2                weight (C), bias (C)        the two layer norms
    query, key, value, output     weight (C, C), bias (C)     attention
    up                            weight (I, C), bias (I)     the MLP; I is usually 4 C
    down                          weight (C, I), bias (C)

Shapes: x (B, T, C), n_head = H  ->  (B, T, C), for both functions
Example: attention of x = [[[1], [3]]] with one head, where all weights are [[1]] and all biases [0]: the second token's
         scores are [3, 9], its weights [0.0025, 0.9975]  ->  [[[1], [2.9951]]]
"""

import hypothesis.strategies as st

from scripts.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, filled, some, values

STUB = beginning(__doc__, NUMPY) + '''
def layer_norm(x, p, name):
    x_hat = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return x_hat * p[name + ".weight"] + p[name + ".bias"]

def gelu(x):
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))

def linear(x, p, name):
    return x @ p[name + ".weight"].T + p[name + ".bias"]

def attention(x, p, n_head):
    # TODO: linear(x, p, "query"), ...; heads; scores, mask, softmax; join the heads; linear(..., p, "output")
    raise NotImplementedError("attention")

def block(x, p, n_head):
    # TODO: two additions to x
    raise NotImplementedError("the block")
'''
BLANKS = '''
B, T, C = x.shape
D = C // n_head
heads = [linear(x, p, name).reshape(B, T, n_head, D) for name in ("query", "key", "value")]
q, k, v = (head.transpose(0, 2, 1, 3) for head in heads)  # (B, H, T, D)
scores = q @ k.swapaxes(-1, -2) / np.sqrt(D)  # the scale is 1 / sqrt(D)
scores = np.where(np.tri(T) > 0, scores, -np.inf)  # a token sees itself and what came before
e = np.exp(scores - scores.max(axis=-1, keepdims=True))
out = e / e.sum(axis=-1, keepdims=True) @ v
out = out.transpose(0, 2, 1, 3).reshape(B, T, C)
return linear(out, p, "output")

before = x
x = x + attention(layer_norm(x, p, "norm_1"), p, n_head)
return x + linear(gelu(linear(layer_norm(x, p, "norm_2"), p, "up")), p, "down")  # the MLP reads the new x
'''
SLIPS = [
    ("-np.inf", "0", "hidden scores are 0 where they must be -inf: e^0 = 1 is a weight as large as others"),
    ("out = e /", "e = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(D))\nout = np.tri(T) * e /",
     "the mask comes after softmax: hidden keys must get -inf before it, or the weights do not sum to 1"),
    ("np.tri(T) > 0", "np.tri(T) == 0", "the mask is the wrong way round: it hides s <= t, and s > t is right"),
    ("np.tri(T)", "np.tri(T).T", "the mask is the wrong way round: it hides what came before"),
    ("np.tri(T)", "np.tri(T, k=-1)", "a token does not see itself: the mask hides s > t, and not s = t"),
    ("np.tri(T) > 0, scores, -np.inf", "np.tri(T, k=-1) > 0, scores, -1e9",
     "a token does not see itself: the mask hides s > t, and not s = t"),
    (".transpose(0, 2, 1, 3) for head", ".reshape(B, n_head, T, D) for head",
     "reshape alone mixes tokens and heads: reshape to (B, T, H, D) first, then transpose"),
    ('linear(out, p, "output")', "out", "the output layer is missing: it mixes what the heads have found"),
    ('layer_norm(x, p, "norm_1")', "x", "attention reads x as it is: it must read a normalized copy, norm_1"),
    ('layer_norm(x, p, "norm_2")', "x", "the MLP reads x as it is: it must read a normalized copy, norm_2"),
    ('"norm_2"', '"norm_1"', "norm_1 is used twice: the MLP has a norm of its own, norm_2"),
    ("gelu", "", "GELU is missing between up and down"),
    ("x = x + attention(", 'x = layer_norm(x, p, "norm_1")\nx = x + attention(x, p, n_head) + 0 * attention(',
     "the normalized copy is what attention reads: x itself goes on as it was, and the result is added to it"),
    ("return x + linear", 'return layer_norm(x, p, "norm_2") + linear',
     "the normalized copy is what the MLP reads: its result is added to x itself"),
    ("before = x", "x = layer_norm(x + attention(x, p, n_head), p, 'norm_1')\n"
     "return layer_norm(x + linear(gelu(linear(x, p, 'up')), p, 'down'), p, 'norm_2')",
     "the norms come after the additions (post-norm): in GPT-2, a part reads a normalized copy and x stays as it is"),
]  # fmt: skip


def check(name, *layers):
    """A check of one function. x is drawn; the parameters of its layers, of a given size, are always the same."""

    def case(x, n_head, I):
        C = x.shape[-1]
        shapes = {layer: (C,) if "norm" in layer else (C, C) for layer in layers} | {"up": (I, C), "down": (C, I)}
        p = {f"{layer}.{kind}": shapes[layer][:n] for layer in layers for kind, n in (("weight", 2), ("bias", 1))}
        return Case(x, filled(p), n_head)

    sizes = st.tuples(*(st.integers(1, most) for most in (2, 3, 2, 2, 2)))
    cases = sizes.flatmap(lambda n: values((n[0], n[1], n[2] * n[3])).map(lambda x: case(x, n[2], n[4])))
    return FunctionCheck(name, cases, case(some(2, 3, 4), 2, 5), examples=20)


ATTENTION = ("query", "key", "value", "output")
EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="a block of GPT-2, out of its layers", group="Model", effort="40 min, medium",
    hints=(
        "You have written all parts: heads, mask, softmax, two products. The block is two lines that begin with x +.",
        "(B, T, C) -reshape-> (B, T, H, D) -transpose-> (B, H, T, D); scores and np.tri(T), the mask, are (T, T).",
        'x + attention(layer_norm(x, p, "norm_1"), ...); x + linear(gelu(linear(..., "up")), p, "down")',
    ),
    checks=[check("attention", *ATTENTION), check("block", "norm_1", *ATTENTION, "norm_2", "up", "down")],
    answer=("gpt.model.gpt2.CausalSelfAttention", "gpt.model.gpt2.MLP", "gpt.model.gpt2.Block"),
)  # fmt: skip
