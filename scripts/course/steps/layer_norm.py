"""Layer norm: each row brought to mean 0 and variance 1, and its gradient."""

import numpy as np

import minigrad.functional as F
from minigrad import Tensor

x = Tensor([[1.0, 2.0, 3.0, 6.0], [10.0, 20.0, 30.0, 60.0]], requires_grad=True)  # (2, 4): the first row times ten
weight, bias = Tensor([1.0] * 4, requires_grad=True), Tensor([0.0] * 4, requires_grad=True)

# forward
y = F.layer_norm(x, (4,), weight, bias)  # both rows become the same

# backward
y.backward(np.array([[1, 0, 0, 0], [1, 0, 0, 0]], np.float32))
print(x.grad)
