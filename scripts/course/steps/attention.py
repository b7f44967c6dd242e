"""Attention: three tokens, each looking at itself and those before it, and the gradients of q, k and v."""

import numpy as np

import minigrad.functional as F
from minigrad import Tensor

rng = np.random.default_rng(0)
q, k, v = (Tensor(rng.normal(size=(1, 1, 3, 2)), requires_grad=True) for _ in range(3))  # (B, H, T, D)

# forward
out = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (1, 1, 3, 2)

# backward
out.sum().backward()
print(q.grad, k.grad, v.grad)
