"""Every differentiable function, by the name that PyTorch gives it: `import minigrad.functional as F`.

One file per family; in each, an op is a class with its formula, forward and backward, and a function below that checks
its arguments.
"""

from .activation import erf, gelu, log_softmax, logsigmoid, relu, sigmoid, silu, softmax, swiglu, tanh
from .attention import scaled_dot_product_attention
from .broadcasting import Dims as Dims
from .conversion import to
from .elementwise import abs, add, clip, div, exp, log, maximum, minimum, mul, neg, pow, sqrt, sub, where
from .fused import linear_gelu
from .heads import merge_heads, split_heads
from .indexing import embedding, gather, getitem, masked_fill
from .linalg import einsum, linear, matmul
from .loss import binary_cross_entropy_with_logits, cross_entropy, kl_div, linear_cross_entropy, mse_loss, nll_loss
from .normalization import layer_norm, rms_norm
from .reduction import cumsum, logsumexp, max, mean, min, sum, var
from .rotary import rotary_embedding
from .shape import cat, expand, flip, pad, permute, reshape, split, squeeze, stack, transpose, tril, triu, unsqueeze
from .stochastic import dropout

# fmt: off
__all__ = [
    "abs", "add", "binary_cross_entropy_with_logits", "cat", "clip", "cross_entropy", "cumsum", "div", "dropout",
    "einsum", "embedding", "erf", "exp", "expand", "flip", "gather", "gelu", "getitem", "kl_div", "layer_norm",
    "linear", "linear_cross_entropy", "linear_gelu", "log", "log_softmax", "logsigmoid", "logsumexp",
    "masked_fill", "matmul", "max", "maximum", "mean", "merge_heads", "min", "minimum", "mse_loss", "mul", "neg",
    "nll_loss", "pad", "permute", "pow", "relu", "reshape", "rms_norm", "rotary_embedding",
    "scaled_dot_product_attention", "sigmoid", "silu", "softmax", "split", "split_heads", "sqrt", "squeeze", "stack",
    "sub", "sum", "swiglu", "tanh", "to", "transpose", "tril", "triu", "unsqueeze", "var", "where",
]
# fmt: on
