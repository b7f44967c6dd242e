"""Make preferences.npz: PPO's losses with their gradients, by TRL's formulas in PyTorch.

    python tests/finetune/golden/make_preference_golden.py

The formulas are those of TRL 0.12 (trl/trainer/ppo_trainer.py), because newer versions lack PPO, copied as closely as
arrays without a trainer allow; whitening divides by n, as in OpenAI's lm-human-preferences (TRL divides by n - 1).
"""

import sys
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent
GAMMA, LAM, CLIP_POLICY, CLIP_VALUE, KL_COEF = 0.98, 0.9, 0.2, 0.15, 0.07


def masked_mean(values, mask):
    return (values * mask).sum() / mask.sum()


def ppo_arrays(rng):
    B, T = 4, 5
    mask = torch.arange(T) < torch.tensor([[5], [3], [1], [4]])
    logprobs = torch.tensor(-3 * rng.random((B, T)))
    ref_logprobs = logprobs + 0.5 * torch.tensor(rng.standard_normal((B, T)))
    values, scores = torch.tensor(rng.standard_normal((B, T))), torch.tensor(rng.standard_normal(B))
    values = torch.where(mask, values, 0)

    kl = logprobs - ref_logprobs
    rewards = torch.where(mask, -KL_COEF * kl, 0)
    rewards[torch.arange(B), mask.sum(1) - 1] += scores
    lastgaelam = 0
    advantages_reversed = []
    for t in reversed(range(T)):
        nextvalues = values[:, t + 1] if t < T - 1 else 0.0
        delta = rewards[:, t] + GAMMA * nextvalues - values[:, t]
        lastgaelam = delta + GAMMA * LAM * lastgaelam
        advantages_reversed.append(lastgaelam)
    advantages = torch.where(mask, torch.stack(advantages_reversed[::-1], axis=1), 0)
    returns = advantages + values
    mean = masked_mean(advantages, mask)
    whitened = (advantages - mean) * torch.rsqrt(masked_mean((advantages - mean) ** 2, mask) + 1e-8)
    whitened = torch.masked_fill(whitened, ~mask, 0)

    new_logprobs = (logprobs + 0.4 * torch.tensor(rng.standard_normal((B, T)))).requires_grad_()
    vpred = (values + 0.4 * torch.tensor(rng.standard_normal((B, T)))).requires_grad_()
    ratio = torch.exp(new_logprobs - logprobs)
    pg_losses = -whitened * ratio
    pg_losses2 = -whitened * torch.clamp(ratio, 1.0 - CLIP_POLICY, 1.0 + CLIP_POLICY)
    pg_loss = masked_mean(torch.max(pg_losses, pg_losses2), mask)
    vpredclipped = torch.clamp(vpred, values - CLIP_VALUE, values + CLIP_VALUE)
    vf_losses = torch.max(torch.square(vpred - returns), torch.square(vpredclipped - returns))
    vf_loss = 0.5 * masked_mean(vf_losses, mask)
    pg_loss.backward()
    vf_loss.backward()
    arrays = {
        "mask": mask, "logprobs": logprobs, "ref_logprobs": ref_logprobs, "values": values, "scores": scores,
        "rewards": rewards, "advantages": advantages, "returns": returns, "whitened": whitened,
        "new_logprobs": new_logprobs, "vpred": vpred, "pg_loss": pg_loss, "vf_loss": vf_loss,
        "gradient/new_logprobs": new_logprobs.grad, "gradient/vpred": vpred.grad,
    }  # fmt: skip
    return {name: value.detach().numpy() for name, value in arrays.items()}


def compute():
    """Everything that the file holds."""
    rng = np.random.default_rng(0)
    settings = {"gamma": GAMMA, "lam": LAM, "kl_coef": KL_COEF, "clip_policy": CLIP_POLICY, "clip_value": CLIP_VALUE}
    return {**settings, **ppo_arrays(rng)}


if __name__ == "__main__":
    path = FOLDER / "preferences.npz"
    np.savez_compressed(path, **compute())
    print(path, path.stat().st_size, "bytes", file=sys.stderr)
