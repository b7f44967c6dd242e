"""DPO: the loss of one pair of replies, and its gradient: up with the chosen one, down with the other."""

from finetune import dpo_loss
from minigrad import Tensor

chosen, rejected = Tensor([-5.0], requires_grad=True), Tensor([-4.0], requires_grad=True)  # ln of their probabilities
reference_chosen, reference_rejected = Tensor([-5.0]), Tensor([-5.0])  # the same before training

# forward
loss = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=0.5)

# backward
loss.sum().backward()
print(loss, chosen.grad, rejected.grad)
