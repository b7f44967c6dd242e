"""gpt: the whole model, from ids to logits. Forward only.

    x = tokens[ids] + positions[0 ... T - 1]                   what each token is, plus where it is
    x = block(x, parameters of block i, n_head)                for each block, i = 0 ... n_layer - 1
    logits = norm(x) tokens^T                                  tied: the matrix that embeds tokens scores them, too

The caller gives you two functions to call, `block` and `norm`. In a GPT-2 they are `block` and `layer_norm` of the
exercise "block". This check gives you simpler ones, with numbers that are easy to follow:

    block(x, p, n_head)    returns x * p["scale"] + p["shift"] * n_head
    norm(x, params, name)  returns x * params[name + ".weight"]; you call it once, with all params and the name "norm"

`params` is a dictionary of arrays. The names in it:

    "tokens" (V, C), "positions" (the longest text, C)         embeddings: a row for each token, and for each position
    "blocks.0.scale", "blocks.0.shift", "blocks.1.scale", ...  p of block 0 has only its own, as "scale" and "shift"
    "norm.weight"                                              of the norm behind the last block

The blocks of a GPT-2 have other names ("blocks.0.query.weight"), so your code must work with any. A model without
"positions" adds none: the Llama of the exercise llama.

Shapes: ids (B, T) integers, x (B, T, C)  ->  logits (B, T, V): scores of all tokens, before softmax
Example: ids = [[1]], tokens = [[2, 0], [0, 1]], positions = [[0, 2]], no block, norm.weight = [1, 2]
         x = [0, 3], after the norm [0, 6]  ->  logits = [[[0, 6]]]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, filled, ids

STUB = beginning(__doc__, NUMPY) + '''
def part_of(params, prefix):
    return {name.removeprefix(prefix): p for name, p in params.items() if name.startswith(prefix)}

def gpt(params, ids, n_layer, n_head, block, norm):
    # TODO: part_of(params, "blocks.0.") is the p of block 0, with the names that it knows
    raise NotImplementedError("the logits")
'''
BLANKS = '''
x = params["tokens"][ids]
if "positions" in params:
    x = x + params["positions"][: ids.shape[1]]  # the token at t gets row t
for layer in range(n_layer):
    x = block(x, part_of(params, f"blocks.{layer}."), n_head)
logits = norm(x, params, "norm") @ params["tokens"].T  # (B, T, V)
return logits
'''
SLIPS = [
    ('part_of(params, f"blocks.{layer}.")', "params",
     "a block gets its own parameters, with names without prefix and dot: part_of(params, f'blocks.{layer}.')"),
    ('part_of(params, f"blocks.{layer}.")', '{n[-5:]: p for n, p in part_of(params, f"blocks.{layer}").items()}',
     "the prefix needs its last dot: blocks.10 begins with blocks.1, but not with `blocks.1.`"),
    ("block(x,", "x + block(x,", "x is added to what a block returns: a block has added it already"),
]  # fmt: skip
POSITIONS = {"positions": (4, 2)}


def simple_parts(gpt, params, ids, n_layer, n_head):
    """Blocks that scale and shift, and a norm that scales."""

    def block(x, n_head, scale, shift):
        return x * scale + shift * n_head

    return gpt(params, ids, n_layer, n_head, lambda x, p, n_head: block(x, n_head, **p),
               lambda x, p, name: x * p[name + ".weight"])  # fmt: skip


def case(ids, V, n_layer, n_head, more):
    shapes = {f"blocks.{layer}.{name}": (2,) for layer in range(n_layer) for name in ("scale", "shift")}
    return Case(filled({"tokens": (V, 2), **more, "norm.weight": (2,), **shapes}), ids, n_layer, n_head)


@st.composite
def cases(draw):
    B, T, V, n_layer, n_head = (draw(st.integers(least, 3)) for least in (1, 1, 2, 0, 1))
    return case(draw(ids((B, T), V)), V, n_layer, n_head, draw(st.sampled_from([POSITIONS, {}])))


EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="GPT-2, from ids to logits", group="Model", effort="20 min, easy",
    hints=(
        "Four lines and a loop: embed, go through the blocks one by one, normalize, compare with every token.",
        'params["tokens"][ids] is (B, T, C), params["positions"][:T] is (T, C); the logits are (B, T, C) @ (C, V).',
        'x = block(x, part_of(params, f"blocks.{layer}."), n_head); norm(x, params, "norm") @ params["tokens"].T',
    ),
    checks=[FunctionCheck("gpt", cases(), case(np.array([[2, 0, 4]]), 5, 3, 2, POSITIONS), call=simple_parts),
            # 11 blocks: "blocks.10" begins with "blocks.1"
            FunctionCheck("gpt", cases(), case(np.array([[1]]), 2, 11, 2, POSITIONS), call=simple_parts, examples=1)],
    answer=("gpt.model.gpt2.Transformer.forward", "gpt.model.gpt2.GPT.forward"),
)  # fmt: skip
