"""LoRA: one training step of a low-rank change of a layer whose own weight stays as it is."""

import numpy as np

from finetune.adapters.lora import LoRALinear
from minigrad import Tensor, nn, optim

base = nn.Linear(4, 3)
base.requires_grad_(False)
layer = LoRALinear(base, r=2, scaling=1.0)  # x Wᵀ + x Aᵀ Bᵀ; B is 0 at first, so nothing changes yet
optimizer = optim.AdamW([p for p in layer.parameters() if p.requires_grad], lr=0.1)
x, wanted = Tensor([[1.0, 0.0, 2.0, 0.0]]), Tensor([[1.0, 1.0, 1.0]])

# forward
loss = ((layer(x) - wanted) ** 2).mean()

# backward
loss.backward()  # A gets no gradient in the first step, because B is 0

# step
optimizer.step()
print(np.abs(layer.delta()).max())  # how far A and B would move the weight
