"""Cross-entropy: how surprised a model is by the right token, and the gradient: probabilities minus one-hot."""

import numpy as np

import minigrad.functional as F
from minigrad import Tensor

logits = Tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)  # (2, 3): two predictions among three tokens
targets = np.array([0, 2])

# forward
loss = F.cross_entropy(logits, targets)  # the mean over both

# backward
loss.backward()
print(loss, logits.grad)
