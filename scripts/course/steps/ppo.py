"""PPO: the loss of four tokens of a reply, and its gradient; one token has moved too far and is clipped."""

import numpy as np

from finetune.objectives.ppo import gae, ppo_loss
from minigrad import Tensor

rewards = np.array([[0.0, 0.0, 0.0, 1.0]])  # (B, T): the judge scores the whole reply, at its last token
old_values = np.array([[0.1, 0.2, 0.3, 0.6]])
mask = np.ones((1, 4), bool)

# advantages
advantages, returns = gae(rewards, old_values, mask)  # (1, 4): how much better each token did than expected

# loss
old = np.log(np.array([0.5, 0.5, 0.5, 0.5]))
logprobs = Tensor(np.log([0.5, 0.55, 0.7, 0.4]), requires_grad=True)  # the policy has changed since it wrote the reply
values = Tensor(old_values[0], requires_grad=True)
losses, policy, value = ppo_loss(logprobs, values, old, old_values[0], advantages[0], returns[0])

# backward
losses.mean().backward()  # the third token is 1.4 times as likely as before: no gradient
print(logprobs.grad)
