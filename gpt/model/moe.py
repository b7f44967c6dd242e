"""A mixture of experts: several MLPs in the place of one, of which each token uses only a few.

    x --+--> router: a score for each expert; the k best compute, and the softmax of their scores are the gates
        +--> expert 0 --> gate 0 * output --+
        |    expert 1                       + --> out          here k = 2 of E = 4: expert 1 and 3 do not compute x
        +--> expert 2 --> gate 2 * output --+
             expert 3

A model knows more with more parameters, but every parameter of an MLP costs two FLOPs per token. With E experts of
which k compute, there are E times the parameters and k times the FLOPs. (`use_experts` makes experts 1/k as wide:
the FLOPs stay.) The price is memory: all must be there.

The model does not know: `use_experts` replaces its MLPs from outside, and whoever computes the training loss adds the
balancing loss, `model.loss(ids, targets) + 0.01 * balance_loss(model)`.

Shazeer et al. 2017 (arXiv 1701.06538): the router; Fedus et al. 2021, "Switch Transformers" (2101.03961), section 2.2:
the balancing loss; Jiang et al. 2024, "Mixtral of experts" (2401.04088), section 2.1: softmax over the chosen.
Simplified: real ones also limit how many tokens an expert takes, because experts live on different devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import minigrad.functional as F
from minigrad import Tensor, nn
from minigrad.backend import module_of, to_numpy

from .gpt2 import GPT, MLP
from .language_model import init_weights


class MixtureOfExperts(nn.Module):
    """out = Σ over the top_k experts e of gate_e * expert_e(x), with gate = softmax of the chosen experts' logits.

    experts: modules that map (N, width) to (N, width). After a forward, `counts` (E) says how many choices fell on each
    expert, and `balance` is Switch's loss (equation 4), a Tensor without dimensions:

        balance = E Σ_e f_e P_e         f_e: share of all choices that fell on e; P_e: mean probability of e

    It is 1 if all experts are equally likely, and E / top_k if the same top_k take all (f = P = 1/top_k). f is
    counted and has no gradient; P has, so the loss lowers the probability of the experts that are chosen most. top_k
    must be at least 2: with a single one, the gate is always 1, and the router learns nothing from the text. Raises
    ValueError otherwise.

    The sum as it is written above, in which each expert computes all tokens, also those that have not chosen it:

    >>> mixture = MixtureOfExperts(4, [nn.Linear(4, 4) for _ in range(3)], top_k=2)
    >>> x = Tensor([[1.0, 2.0, 3.0, 4.0], [-1.0, 0.0, 1.0, 0.0]])  # two tokens
    >>> best = F.topk(mixture.router(x), 2)
    >>> chosen = best.indices.data  # (N, k)
    >>> gates = F.softmax(best.values, dim=-1)  # (N, k)
    >>> out = 0
    >>> for e, expert in enumerate(mixture.experts):
    ...     gate = (gates * (chosen == e)).sum(-1, keepdim=True)  # (N, 1): 0 where e was not chosen
    ...     out = out + gate * expert(x)
    >>> bool(abs(out - mixture(x)).data.max() < 1e-5)
    True
    """

    def __init__(self, width: int, experts: Sequence[nn.Module], top_k: int = 2):
        if not 2 <= top_k <= len(experts):
            raise ValueError(f"top_k must be from 2 to the number of experts, {len(experts)}, got {top_k}")
        self.top_k = top_k
        self.router = nn.Linear(width, len(experts), bias=False)
        self.experts = nn.ModuleList(list(experts))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (N, C): a row for each token
        logits = self.router(rows)  # (N, E)
        best = F.topk(logits, self.top_k)
        gates = F.softmax(best.values, -1)  # (N, k)
        chosen = best.indices.data  # (N, k)

        # Sort all N k choices by expert, so that each expert computes all its tokens in one product. With k = 2 and
        # chosen [[1, 3], [0, 1]], order is 2 0 3 1, which are choices of the tokens 1 0 1 0.
        xp = module_of(chosen)
        order = xp.argsort(chosen.reshape(-1), kind="stable")  # (N k): choice i is of token i // k
        counts = xp.bincount(chosen.reshape(-1).astype("intp", copy=False), minlength=len(self.experts))  # (E)
        self.counts = to_numpy(counts)
        parts = F.split(rows[order // self.top_k], self.counts.tolist())
        done = F.cat([expert(part) for expert, part in zip(self.experts, parts)])  # (N k, C)
        # argsort of a permutation is its inverse.
        done = done[xp.argsort(order)].reshape(*chosen.shape, -1)  # (N, k, C): back in the order of the tokens

        f = counts.astype(x.dtype) / max(chosen.size, 1)  # (E)
        self.balance = (F.softmax(logits, -1).mean(0) * Tensor(f)).sum() * len(self.experts)
        return (done * gates.unsqueeze(-1)).sum(1).reshape(x.shape)


def use_experts(model: GPT, n_experts: int = 8, top_k: int = 2) -> None:
    """Replace each MLP of a GPT by `n_experts` of 1 / top_k of its width, and draw all weights of the model again.

    A token uses as many weights as before, apart from the router's n_experts * C. Raises ValueError for a width that
    cannot be divided by top_k. Checkpoints and `save_pretrained` refuse the result.
    """
    if model.config.n_inner % top_k:
        raise ValueError(f"the inner width of {model.config.n_inner} cannot be divided among {top_k} experts")
    config = dataclasses.replace(model.config, n_inner=model.config.n_inner // top_k)
    for name in model.part_names("mlp"):
        mixture = MixtureOfExperts(config.n_embd, [MLP(config) for _ in range(n_experts)], top_k)
        model.set_submodule(name, mixture)
    init_weights(model, residual_projections=("c_proj.weight",))


def mixtures(model: nn.Module) -> list[MixtureOfExperts]:
    """The mixtures of experts in a model, in the order of its layers."""
    return [module for module in model.modules() if isinstance(module, MixtureOfExperts)]


def balance_loss(model: nn.Module) -> Tensor:
    """The mean of the mixtures' `balance` in the last forward: 1 if all experts are used equally.

    Raises ValueError for a model without any.
    """
    found = [mixture.balance for mixture in mixtures(model)]
    if not found:
        raise ValueError("the model has no mixture of experts: see use_experts")
    return sum(found[1:], found[0]) / len(found)


def with_balance(loss_fn: Callable[..., Any], weight: float = 0.01) -> Callable[..., Any]:
    """A loss function for training, (model, batch) -> (sum of losses, count, metrics), with `weight` * balance_loss."""

    def balanced(model: nn.Module, batch: Any) -> tuple[Tensor, int, dict[str, Any]]:
        loss, count, metrics = loss_fn(model, batch)  # a sum over `count` tokens
        return loss + weight * count * balance_loss(model), count, metrics

    return balanced
