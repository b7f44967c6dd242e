"""block: one block of GPT-2, from vectors to vectors. Forward only: from here on, the engine computes the gradients.

    x = x + attention(layer_norm(x))         tokens exchange information
    x = x + mlp(layer_norm(x))               each token processes what it has gathered
    mlp(x) = down(gelu(up(x)))               two linear layers

Attention with H heads: three linear layers make queries, keys and values, C numbers per token each. These are split
among the heads, D = C / H neighboring numbers for each. In each head,

    weights = softmax(q k^T / sqrt(D))       over the tokens up to the one that asks
    out     = weights v

softmax subtracts the largest score of each row first, so that exp cannot overflow.
The heads are joined again, (B, H, T, D) -> (B, T, C), and the layer "output" mixes them.

The parameters are in the dictionary p: p["query.weight"] and p["query.bias"] are those of the layer "query". A linear
layer computes x weight^T + bias, with `linear` below: linear(x, p, "query"). `layer_norm` takes a name in the same way.

    norm_1, norm_2                weight (C), bias (C)        the layer norms before attention and before the MLP
    query, key, value, output     weight (C, C), bias (C)     attention
    up                            weight (I, C), bias (I)     the MLP; I is usually 4 C
    down                          weight (C, I), bias (C)

Shapes: x (B, T, C), n_head = H  ->  (B, T, C), for both functions
Example: attention of x = [[[1], [3]]] with one head, where all weights are [[1]] and all biases [0]: the second token's
         scores are [3, 9], its weights [0.0025, 0.9975]  ->  [[[1], [2.9951]]]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, filled, some, values

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
masked = np.where(np.tri(T) > 0, scores, -np.inf)  # before softmax: a token sees itself and what came before
e = np.exp(masked - masked.max(axis=-1, keepdims=True))  # so that exp cannot overflow
weights = e / e.sum(axis=-1, keepdims=True)
out = weights @ v
joined = out.transpose(0, 2, 1, 3).reshape(B, T, C)
return linear(joined, p, "output")  # this layer mixes what the heads have found

read = layer_norm(x, p, "norm_1")  # attention reads a normalized copy
x = x + attention(read, p, n_head)
normed = layer_norm(x, p, "norm_2")  # the MLP reads a normalized copy of the new x, and has a norm of its own
hidden = gelu(linear(normed, p, "up"))  # GELU stands between the two linear layers
return x + linear(hidden, p, "down")  # x itself goes on
'''
SLIPS = [
    (".transpose(0, 2, 1, 3) for head", ".reshape(B, n_head, T, D) for head",
     "reshape alone mixes tokens and heads: reshape to (B, T, H, D) first, then transpose"),
]  # fmt: skip


def checks(name, *layers):
    """Checks of one function. x is drawn; the parameters of its layers, of a given size, are always the same. With
    factor 200 for those of queries, scores are so far from 0 that exp overflows, or gives 0.
    """

    def case(x, n_head, I, factor=1):
        C = x.shape[-1]
        shapes = {layer: (C,) if "norm" in layer else (C, C) for layer in layers} | {"up": (I, C), "down": (C, I)}
        p = {f"{layer}.{kind}": shapes[layer][:n] for layer in layers for kind, n in (("weight", 2), ("bias", 1))}
        return Case(x, {name: a * (factor if name == "query.weight" else 1) for name, a in filled(p).items()}, n_head)

    sizes = st.tuples(*(st.integers(1, most) for most in (2, 3, 2, 2, 2)))
    cases = sizes.flatmap(lambda n: values((n[0], n[1], n[2] * n[3])).map(lambda x: case(x, n[2], n[4])))
    return [FunctionCheck(name, cases, case(some(2, 3, 4), 2, 5), examples=20),
            FunctionCheck(name, cases, case(some(2, 3, 4), 2, 5, factor=200), examples=1)]  # fmt: skip


ATTENTION = ("query", "key", "value", "output")
EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="a block of GPT-2, out of its layers", group="Model", effort="40 min, medium",
    hints=(
        "You have written all parts: heads, mask, softmax, two products. The block is two lines that begin with x +.",
        "(B, T, C) -reshape-> (B, T, H, D) -transpose-> (B, H, T, D); scores and np.tri(T), the mask, are (T, T).",
        'x + attention(layer_norm(x, p, "norm_1"), ...); x + linear(gelu(linear(..., "up")), p, "down")',
    ),
    checks=checks("attention", *ATTENTION) + checks("block", "norm_1", *ATTENTION, "norm_2", "up", "down"),
    answer=("gpt.model.gpt2.CausalSelfAttention", "gpt.model.gpt2.MLP", "gpt.model.gpt2.Block"),
)  # fmt: skip
