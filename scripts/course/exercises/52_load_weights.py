"""load_weights: from the tensors of a GPT-2, as Hugging Face stores them, to the parameters of your gpt and block.

    theirs                          yours                                           what changes
    wte.weight, wpe.weight          tokens, positions                               the name
    h.0.ln_1, h.0.ln_2              blocks.0.norm_1, blocks.0.norm_2                the name
    h.0.attn.c_attn                 blocks.0.query, blocks.0.key, blocks.0.value    transposed, and one becomes three
    h.0.attn.c_proj                 blocks.0.output                                 transposed
    h.0.mlp.c_fc, h.0.mlp.c_proj    blocks.0.up, blocks.0.down                      transposed
    ln_f                            norm                                            the name

From h.0 on, each has a .weight and a .bias. OpenAI stored the weights of linear layers as (in, out), and yours are
(out, in). attn.c_attn.weight is (C, 3 C): the outputs of the queries, then of the keys, then of the values. Its bias,
(3 C), is cut in the same way.

Some files put "transformer." before every name. Some have more than you need, to be left out: h.0.attn.bias and
h.0.attn.masked_bias are causal masks, and lm_head.weight is wte.weight once more (tied).

Shapes: a dictionary name -> array  ->  a dictionary with your names, in any order. It may have only a few of the
        tensors: take what comes.
Example: {"wpe.weight": w, "transformer.h.0.mlp.c_fc.bias": b}  ->  {"positions": w, "blocks.0.up.bias": b}
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, filled

STUB = beginning(__doc__, NUMPY) + '''
def load_weights(tensors):
    params = {}
    for name, array in tensors.items():
        # TODO: params[your name] = array, transposed or cut into three where necessary; leave out what you do not need
        raise NotImplementedError("your names")
    return params
'''
BLANKS = '''
name = name.removeprefix("transformer.")
if name.endswith((".attn.bias", ".masked_bias")) or name == "lm_head.weight":
    continue  # causal masks, and a copy of wte
if name in ("wte.weight", "wpe.weight"):
    params[{"wte.weight": "tokens", "wpe.weight": "positions"}[name]] = array
    continue
name = name.replace("ln_f", "norm").replace("h.", "blocks.", 1).replace("ln_", "norm_")
name = name.replace("attn.c_proj", "output").replace("mlp.c_fc", "up").replace("mlp.c_proj", "down")
array = array.T  # (in, out) -> (out, in); a bias stays as it is
if "c_attn" in name:
    for ours, part in zip(("query", "key", "value"), np.split(array, 3)):
        params[name.replace("attn.c_attn", ours)] = part
else:
    params[name] = array
'''
SLIPS = [
    ("np.split(array, 3)", "(array[i::3] for i in range(3))",
     "every third row is taken: all queries come first, then all keys, then all values"),
]  # fmt: skip


BLOCK = {"ln_1": (2,), "attn.c_attn": (2, 6), "attn.c_proj": (2, 2), "ln_2": (2,), "mlp.c_fc": (2, 3),
         "mlp.c_proj": (3, 2)}  # fmt: skip
LAYERS = {f"h.{i}.{name}": shape for i in (0, 10) for name, shape in BLOCK.items()} | {"ln_f": (2,)}
SHAPES = {"h.0.attn.bias": (1, 1, 2, 2), "h.10.attn.bias": (1, 1, 2, 2), "h.0.attn.masked_bias": ()}
SHAPES |= {"wte.weight": (3, 2), "wpe.weight": (2, 2), "lm_head.weight": (3, 2)}
SHAPES |= {f"{name}.weight": shape for name, shape in LAYERS.items()}
TENSORS = filled(SHAPES | {f"{name}.bias": shape[-1:] for name, shape in LAYERS.items()})


def case(names, prefix):
    return Case({("" if "lm_head" in name else prefix) + name: TENSORS[name] for name in names})


some_names = st.lists(st.sampled_from(sorted(TENSORS)), min_size=1, max_size=4, unique=True)
cases = st.builds(case, some_names, st.sampled_from(["", "transformer."]))

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="real weights under your own names", group="Model", effort="30 min, medium",
    hints=(
        "Remove the prefix and leave out what you do not need; then some are renamed, some transposed, one cut.",
        "All matrices of the blocks are transposed, no embedding is. c_attn: (C, 3 C) -> (3 C, C) -> three (C, C).",
        'for part, piece in zip(("query", "key", "value"), np.split(array.T, 3)): ...; the T of a bias is the bias',
    ),
    checks=[FunctionCheck("load_weights", cases, case(TENSORS, "transformer."))],
    answer=("gpt.weights.gpt2_huggingface.rows",),
)  # fmt: skip
