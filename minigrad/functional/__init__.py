"""What does each operation compute, and what is its gradient? Functions of tensors, under PyTorch's names.

    import minigrad.functional as F

An op is a class with its formula, forward and backward; directly below it stands the function that you call, which
checks its arguments. The files in reading order:

    elementwise.py      add, mul, exp, where: one element of each input gives one output
    broadcasting.py     unbroadcast: the sum that reverses broadcasting in backward
    argument_checks.py  which axes `dim` names, and errors that say what is wrong with an argument
    shape.py            reshape, transpose, cat, split: the same elements in another arrangement
    reduction.py        sum, mean, max, logsumexp: many elements to few
    indexing.py         getitem, gather, embedding: picking elements
    sorting.py          sort, topk: elements in order
    linalg.py           matmul, linear, einsum: matrix products
    activation.py       relu, gelu, softmax: the nonlinearities between matrix products
    error_function.py   the integral in GELU, which NumPy does not have
    normalization.py    layer_norm, rms_norm: features brought to one scale
    stochastic.py       dropout, of activations and of attention's weights
    loss.py             cross_entropy and its relatives: how wrong a prediction is
    attention.py        scaled_dot_product_attention, and the heads
    rotary.py           rotary_embedding: positions as rotations

Each function takes Tensors or arrays and returns Tensors; elementwise functions of two inputs also take a number for
one of them. Anything else raises TypeError. In the docstrings, dx is the gradient of the loss with respect to x, and
dout that with respect to the result. "Elementwise" means that the result has the shape of its input.
"""

from .activation import erf, gelu, log_softmax, logsigmoid, relu, sigmoid, silu, softmax, softplus, swiglu, tanh
from .attention import merge_heads, scaled_dot_product_attention, split_heads
from .elementwise import abs, add, clip, div, exp, log, maximum, minimum, mul, neg, pow, sqrt, sub, to, where
from .indexing import embedding, flip, gather, getitem, index_select, masked_fill, one_hot, tril, triu
from .linalg import einsum, linear, linear_gelu, matmul
from .loss import binary_cross_entropy_with_logits, cross_entropy, kl_div, linear_cross_entropy, mse_loss, nll_loss
from .normalization import layer_norm, rms_norm
from .reduction import amax, amin, argmax, argmin, cumsum, logsumexp, max, mean, min, prod, std, sum, var
from .rotary import rotary_embedding
from .shape import cat, chunk, expand, flatten, pad, permute, reshape, split, squeeze, stack, transpose, unsqueeze, view
from .sorting import sort, topk
from .stochastic import dropout

__all__ = [
    "abs", "add", "amax", "amin", "argmax", "argmin", "binary_cross_entropy_with_logits", "cat", "chunk", "clip",
    "cross_entropy", "cumsum", "div", "dropout", "einsum", "embedding", "erf", "exp", "expand", "flatten", "flip",
    "gather", "gelu", "getitem", "index_select", "kl_div", "layer_norm", "linear", "linear_cross_entropy",
    "linear_gelu", "log", "log_softmax", "logsigmoid", "logsumexp", "masked_fill", "matmul", "max", "maximum",
    "mean", "merge_heads", "min", "minimum", "mse_loss", "mul", "neg", "nll_loss", "one_hot", "pad", "permute",
    "pow", "prod", "relu", "reshape", "rms_norm", "rotary_embedding", "scaled_dot_product_attention", "sigmoid",
    "silu", "softmax", "softplus", "sort", "split", "split_heads", "sqrt", "squeeze", "stack", "std", "sub", "sum",
    "swiglu", "tanh", "to", "topk", "transpose", "tril", "triu", "unsqueeze", "var", "view", "where",
]  # fmt: skip


def __dir__() -> list[str]:
    """The names that an editor or a notebook offers after `F.`: the functions, not the files."""
    return __all__
