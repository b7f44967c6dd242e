"""Make preferences.npz: DPO and PPO losses with their gradients, by TRL's formulas in PyTorch.

    python tests/finetune/golden/make_preference_golden.py

The formulas are those of TRL 1.16 (trl/trainer/dpo_trainer.py; test_trl.py calls TRL itself) and, for PPO, which newer
versions lack, of 0.12 (trl/trainer/ppo_trainer.py), copied as closely as arrays without a trainer allow; whitening
divides by n, as in OpenAI's lm-human-preferences (TRL divides by n - 1).
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

FOLDER = Path(__file__).parent
BETA, SMOOTHING = 0.3, 0.2
GAMMA, LAM, CLIP_POLICY, CLIP_VALUE, KL_COEF = 0.98, 0.9, 0.2, 0.15, 0.07


def dpo_losses(kind, chosen_scores, rejected_scores):
    """The branches of DPOTrainer; for ipo the scores are per token already."""
    delta_score = chosen_scores - rejected_scores
    if kind == "sigmoid":
        return -F.logsigmoid(BETA * delta_score)
    if kind == "hinge":
        return torch.relu(1 - BETA * delta_score)
    if kind == "ipo":
        return (delta_score - 1 / (2 * BETA)) ** 2
    clean_loss_term = -(1 - SMOOTHING) * F.logsigmoid(BETA * delta_score)
    flipped_loss_term = -SMOOTHING * F.logsigmoid(-BETA * delta_score)
    return (clean_loss_term - flipped_loss_term) / (1 - 2 * SMOOTHING)


def dpo_arrays(rng):
    names = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
    arrays = {f"dpo/{name}": -8 * rng.random(6) for name in names}
    for kind in ("sigmoid", "ipo", "hinge", "robust"):
        tensors = {name: torch.tensor(arrays[f"dpo/{name}"], requires_grad=True) for name in names}
        losses = dpo_losses(
            kind,
            tensors["policy_chosen"] - tensors["reference_chosen"],
            tensors["policy_rejected"] - tensors["reference_rejected"],
        )
        losses.mean().backward()
        arrays[f"dpo/{kind}/losses"] = losses.detach().numpy()
        for name in names[:2]:
            arrays[f"dpo/{kind}/gradient/{name}"] = tensors[name].grad.numpy()
    return arrays


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
    return {f"ppo/{name}": value.detach().numpy() for name, value in arrays.items()}


def compute():
    """Everything that the file holds."""
    rng = np.random.default_rng(0)
    settings = {"beta": BETA, "smoothing": SMOOTHING, "gamma": GAMMA, "lam": LAM, "kl_coef": KL_COEF}
    settings |= {"clip_policy": CLIP_POLICY, "clip_value": CLIP_VALUE}
    return {**settings, **dpo_arrays(rng), **ppo_arrays(rng)}


if __name__ == "__main__":
    path = FOLDER / "preferences.npz"
    np.savez_compressed(path, **compute())
    print(path, path.stat().st_size, "bytes", file=sys.stderr)
