"""Distillation: a small model, the student, learns from the predictions of a large one, the teacher.

A text says which token came next. A teacher says how probable it finds *every* token there: that another word would
have done as well, a third one perhaps, and a fourth one never. So each position of a text teaches more.

*The loss* of a position is the KL divergence from the teacher's distribution p over the V tokens to the student's, q:

    KL(p || q) = Σ_v p_v (ln p_v - ln q_v)          p = softmax(t), q = softmax(s), of the logits t and s

It is 0 if q = p. For two tokens, 3/4 and 1/4 by the teacher and 1/2 each by the student:

    >>> p, q = np.array([0.75, 0.25]), np.array([0.5, 0.5])
    >>> print(np.sum(p * (np.log(p) - np.log(q))).round(4))
    0.1308

*The gradient* is ∂KL / ∂s_u = q_u - p_u, here -1/4 and 1/4: that of cross-entropy, with p in the place of the one-hot
target. For ∂ ln q_v / ∂s_u = 1[u = v] - q_u, where 1[u = v] is 1 if u = v, else 0, and p does not depend on s:

    ∂KL / ∂s_u = -Σ_v p_v (1[u = v] - q_u) = -p_u + q_u Σ_v p_v = q_u - p_u                 as Σ_v p_v = 1

*Temperature.* Dividing all logits by a temperature τ > 1 makes both distributions flatter and brings out the small
probabilities. The loss is then multiplied by τ²:

    loss = τ² KL(p || q)          p = softmax(t / τ), q = softmax(s / τ)

Why τ²? By the chain rule, the gradient of KL has a factor 1/τ: it is (q_u - p_u) / τ. And for large τ, softmax is
linear, as e^x ≈ 1 + x: q_u ≈ (1 + s_u / τ) / (V + Σ_v s_v / τ), which is (1 + s_u / τ) / V for logits of mean 0. Then
q_u - p_u ≈ (s_u - t_u) / (V τ). So without a factor, the gradient would shrink like 1/τ². With it, it is
(s_u - t_u) / V for every large τ, and the learning rate does not have to follow the temperature.

*The other direction.* The loss above is called forward KL. A student that is too small for q = p has to choose what to
give up. Forward KL weighs each token by p: where the teacher has probability and the student has none, ln p - ln q is
large. So the student covers everything that the teacher would say. It also puts probability on what neither text nor
teacher would say, because its few parameters cannot separate the two. The reverse loss weighs each token by q:

    loss = τ² KL(q || p) = τ² Σ_v q_v (ln q_v - ln p_v)

Only what the student finds probable costs something, so it leaves out what it cannot model, and is precise in the rest.
Its gradient, with r_v = ln q_v - ln p_v: the product rule gives ∂(q_v r_v) = r_v ∂q_v + q_v ∂r_v = (r_v + 1) ∂q_v,
because ∂r_v = ∂ ln q_v = ∂q_v / q_v. With ∂q_v / ∂s_u = q_v (1[u = v] - q_u) / τ,

    ∂loss / ∂s_u = τ² Σ_v (r_v + 1) q_v (1[u = v] - q_u) / τ = τ q_u (r_u - Σ_v q_v r_v)

(the 1 drops out, as Σ_v q_v (1[u = v] - q_u) = 0). This is 0 for a token that the student does not expect: q_u = 0.

Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2. For reverse: Gu et al. 2023, "MiniLLM",
section 2.1; Agarwal et al. 2023, "GKD". Simplified: the student learns on texts that are given ("off-policy"). MiniLLM
and GKD also let it write, and let the teacher judge what it wrote.
"""

from __future__ import annotations

import numpy as np

from gpt.training.sums import Sums
from gpt.training.training_step import LossFunction
from minigrad import Tensor, nn, no_grad
from minigrad.nn.module import evaluating

from ..data.datasets import IGNORE
from .logprobs import exact_kl, selected_logprobs


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0, reverse: bool = False) -> Tensor:
    """The loss of each position, from the logits (..., V) of both models -> (...).

        τ² KL(p || q), or with `reverse` τ² KL(q || p)          p = softmax(teacher / τ), q = softmax(student / τ)

    Raises ValueError for different vocabularies, and a temperature that is not positive.

    A teacher gives 3/4 and 1/4, a student gives 1/2 to each. Forward and reverse:

    >>> teacher, student = Tensor(np.log([0.75, 0.25])), Tensor(np.log([0.5, 0.5]))
    >>> [round(distillation_loss(student, teacher, reverse=reverse).item(), 4) for reverse in (False, True)]
    [0.1308, 0.1438]
    """
    if student.shape != teacher.shape:
        raise ValueError(f"logits of {student.shape} and {teacher.shape}: student and teacher need the same vocabulary")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    t, s = teacher / temperature, student / temperature  # (..., V): logits, which `exact_kl` makes probabilities of
    kl = exact_kl(s, t) if reverse else exact_kl(t, s)
    return kl * temperature**2


def distillation_from(
    teacher: nn.Module, temperature: float = 1.0, reverse: bool = False, text_weight: float = 0.0
) -> LossFunction:
    """A loss function for the training step, on a language model's batches (ids, targets) of (B, T) each:

        (1 - text_weight) distillation_loss + text_weight cross-entropy of the text

    summed over the N targets that count, those that are not -100. It also returns N, and as metrics the sums of both
    terms, `kl` and `text`. The teacher runs without dropout and without gradients.
    """

    def loss_fn(model: nn.Module, batch: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, int, Sums]:
        ids, targets = batch
        counts = targets != IGNORE
        with no_grad(), evaluating(teacher):
            teacher_logits = teacher(ids)[counts]  # (N, V), at the positions that count
        logits = model(ids)[counts]  # (N, V)
        kl = distillation_loss(logits, teacher_logits, temperature, reverse).sum()
        text = -selected_logprobs(logits, targets[counts]).sum()
        return (1 - text_weight) * kl + text_weight * text, int(counts.sum()), {"kl": kl.data, "text": text.data}

    return loss_fn
