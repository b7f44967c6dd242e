"""Softmax: from scores to probabilities, and its gradient."""

import numpy as np

import minigrad.functional as F
from minigrad import Tensor

scores = Tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]], requires_grad=True)  # (2, 3)

# forward
probs = F.softmax(scores, dim=-1)  # each row sums to 1

# backward
probs.backward(np.array([[0, 0, 1], [0, 1, 0]], np.float32))  # the gradient of one probability in each row
print(scores.grad)
