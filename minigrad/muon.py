"""Muon: momentum, orthogonalized. For the hidden matrices of a network; AdamW updates everything else.

The gradient of a weight matrix has a singular value decomposition U S Vᵀ. Each singular value is the strength of one
direction: column i of V is an input of the layer, and column i of U is what the step changes in the output for it. In a
transformer a few directions are far stronger than all others, also in the momentum, and a step along the momentum
learns little in the weak ones. Muon replaces S by ones, so it learns in all directions at once.

    m <- β m + (1 - β) grad                          the momentum: a mean over about 1 / (1 - β) steps
    u  = β m + (1 - β) grad                          Nesterov: m a step ahead, as if the same gradient came again
    p <- (1 - lr λ) p - lr * 0.2 √max(rows, columns) * U Vᵀ     for u = U S Vᵀ; λ: weight decay

An SVD in each step would be slow. `newton_schulz` computes U Vᵀ nearly, from matrix products.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the factor 0.2 √max(rows, columns) and
the weight decay: Liu et al. 2025 (arXiv 2502.16982), section 2.2. Simplified: GPT-2's c_attn is three matrices in one
(queries, keys, values), and is orthogonalized as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from .backend import Array, module_of
from .optim import AdamW, Optimizer, decay_groups
from .tensor import Tensor

COEFFICIENTS = 3.4445, -4.7750, 2.0315


def newton_schulz(matrix: Array, steps: int = 5) -> Array:
    """Nearly U Vᵀ for a matrix U S Vᵀ: the singular vectors stay, and the singular values move close to 1.

    An odd polynomial of a matrix is a polynomial of its singular values, because X Xᵀ X = U S³ Vᵀ:

        a X + b (X Xᵀ) X + c (X Xᵀ)² X = U (a S + b S³ + c S⁵) Vᵀ

    The classical choice (15, -10, 3) / 8 converges to exactly 1, but multiplies small values only by 15/8 in a step.
    COEFFICIENTS give up exactness for a steep start: small values grow by 3.4445 in each step, and values that have
    arrived jump around 1, between 0.68 and 1.21, without leaving. Five steps bring in all singular values above 0.0016
    of the norm √(Σ S²). Smaller ones end below 0.68, and 0 stays 0.

    >>> import numpy as np
    >>> def step(s):  # of a singular value
    ...     return 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    >>> once = step(np.linspace(0.68, 1.21, 1000))  # none leaves
    >>> float(round(once.min(), 2)), float(round(once.max(), 2))
    (0.68, 1.14)
    >>> five = step(step(step(step(step(np.linspace(0.0016, 1, 100_000))))))  # all arrive
    >>> float(round(five.min(), 2)), float(round(five.max(), 2))
    (0.68, 1.2)
    """
    a, b, c = COEFFICIENTS
    xp = module_of(matrix)
    norm = xp.sqrt((matrix * matrix).sum())
    x = matrix / xp.maximum(norm, 1e-7)  # now all singular values are at most 1
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x  # the smaller of X Xᵀ and Xᵀ X is cheaper
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x


class Muon(AdamW):
    """p <- (1 - lr λ) p - lr * 0.2 √max(rows, columns) * newton_schulz(u), for matrices; AdamW for the other groups.

    Groups with "orthogonalize": False are updated by AdamW, with `betas` and `eps`. `muon_groups` makes the usual
    groups. U Vᵀ has rows x columns elements, whose squares sum to min(rows, columns). So their root mean square is
    1 / √max(rows, columns), and the factor makes that of every step 0.2 lr. This is about the size of AdamW's steps,
    and hence one lr and one weight decay serve both.
    Raises ValueError for a parameter that is not a matrix, unless its group says "orthogonalize": False.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        *,
        orthogonalize: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),  # these two are AdamW's
        eps: float = 1e-8,
    ):
        muon = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "orthogonalize": orthogonalize}
        Optimizer.__init__(self, params, {**muon, "betas": betas, "eps": eps})  # skips AdamW.__init__

    def add_param_group(self, group: dict[str, Any]) -> None:
        super().add_param_group(group)
        added = self.param_groups[-1]
        wrong = [p.shape for p in added["params"] if p.ndim != 2] if added["orthogonalize"] else []
        if wrong:
            self.param_groups.pop()
            way_out = 'put it into a group with "orthogonalize": False, which AdamW updates'
            raise ValueError(f"Muon updates matrices, not a parameter of shape {wrong[0]}: {way_out}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not all("orthogonalize" in group for group in state_dict["param_groups"]):
            raise ValueError("the saved state is that of another optimizer: it has no momentum for Muon's matrices")
        super().load_state_dict(state_dict)

    def update(self, p: Tensor, grad: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not group["orthogonalize"]:
            return super().update(p, grad, state, group)
        if not state:
            state["momentum_buffer"] = module_of(p.data).zeros_like(p.data)
        m, beta, lr = state["momentum_buffer"], group["momentum"], group["lr"]
        m *= beta
        m += (1 - beta) * grad
        direction = newton_schulz(beta * m + (1 - beta) * grad)
        p.data *= 1 - lr * group["weight_decay"]
        p.data -= lr * 0.2 * math.sqrt(max(p.shape)) * direction


def muon_groups(
    named_parameters: Iterable[tuple[str, Tensor]], hidden: Iterable[Tensor], weight_decay: float
) -> list[dict[str, Any]]:
    """The usual three groups: matrices among `hidden` for Muon; for AdamW, embeddings and head, then vectors.

    hidden: the parameters of the blocks, `model.transformer.h.parameters()` in a GPT. The rows of an embedding and of
    the head are tokens, of which a step sees few: orthogonalizing would hardly move the rare ones.
    Frozen parameters are in no group.
    """
    in_blocks = {id(p) for p in hidden if p.ndim == 2}
    trainable = [(name, p) for name, p in named_parameters if p.requires_grad]
    matrices = [p for _, p in trainable if id(p) in in_blocks]
    others = decay_groups([(name, p) for name, p in trainable if id(p) not in in_blocks], weight_decay)
    return [
        {"params": matrices, "weight_decay": weight_decay},
        *({**group, "orthogonalize": False} for group in others),
    ]
