"""Is the tuned model better than the model it started from, and how far has it moved? Win rate and KL divergence.

In papers, people or a large model compare the replies of two models, and the win rate is reported (Stiennon et al.
2020; Rafailov et al. 2023, section 6). Our questions have answers that can be checked, so a few lines of code are the
judge.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt import LanguageModel, Tokenizer
from gpt.console import show
from gpt.training.loading import load_model
from minigrad import no_grad
from minigrad.backend import to_numpy
from minigrad.nn.module import evaluating

from ..built_in.tasks import TASKS, TaskItem, instruction_tasks
from ..data.chat_template import Message
from ..objectives.logprobs import exact_kl
from ..objectives.rollout import TokenPositions, predictions, prompts_with_replies
from .answering import SHOWN, Reply, ask, chat_template, greedy_replies, show_replies

VALIDATION_ITEMS = 100  # held-out questions that are asked at each evaluation, as the stages' legends say


class Verdict(NamedTuple):
    """How a model's replies compare with those of the reference model to the same questions, at temperature 1.

    win_rate: how often the model's reply has the higher quality (`TaskItem.quality`: being right counts first, courtesy
    second); a draw counts one half. right, courteous: the shares of replies that are right, and that are right and
    courteous. kl: the KL divergence from the reference, in nats per reply.
    """

    win_rate: float
    right: float
    courteous: float
    kl: float


def judge(
    model: LanguageModel, reference: LanguageModel, tokenizer: Tokenizer, items: Sequence[TaskItem], seed: int = 0
) -> tuple[Verdict, Verdict]:
    """The verdicts on the reference and on the model: both answer the questions, with different seeds."""
    replies = sampled(model, tokenizer, items, seed)
    quality = qualities(items, replies)
    reference_quality = qualities(items, sampled(reference, tokenizer, items, seed + 1))
    encode = chat_template(tokenizer)
    kl = kl_of_replies(model, reference, [encode(item.question) for item in items], [r.ids for r in replies])
    start = Verdict(win_rate=0.5, kl=0.0, **quality_rates(reference_quality))  # the reference against itself
    return start, Verdict(win_rate=win_rate(quality, reference_quality), kl=kl, **quality_rates(quality))


def sampled(model: LanguageModel, tokenizer: Tokenizer, items: Sequence[TaskItem], seed: int) -> list[Reply]:
    """A reply to each question, at temperature 1: from the model's own distribution, which is what training changes."""
    questions = [item.question for item in items]
    return ask(model, tokenizer, questions, chat_template(tokenizer), temperature=1.0, seed=seed)


def qualities(items: Sequence[TaskItem], replies: Sequence[Reply]) -> np.ndarray:
    """`TaskItem.quality` of each reply, from 0 to 3; 0 for one that does not end."""
    return np.array([item.quality(r.text) if r.ended else 0 for item, r in zip(items, replies, strict=True)])


def quality_rates(quality: np.ndarray) -> dict[str, float]:
    """Of all replies, how many are right, and how many are right and courteous.

    >>> quality_rates(np.array([0, 1, 2, 3]))
    {'right': 0.5, 'courteous': 0.25}
    """
    return {"right": float((quality >= 2).mean()), "courteous": float((quality == 3).mean())}


def win_rate(quality: np.ndarray, reference_quality: np.ndarray) -> float:
    """How often a reply is better than the reference's; a draw counts one half. It is 0.5 for two equal models.

    >>> win_rate(np.array([2, 1, 0, 0]), np.array([1, 1, 0, 1]))
    0.5
    """
    return float((quality > reference_quality).mean() + 0.5 * (quality == reference_quality).mean())


@no_grad()
def kl_of_replies(
    model: LanguageModel,
    reference: LanguageModel,
    prompts: Sequence[list[int]],
    replies: Sequence[list[int]],
    batch_size: int = 50,
) -> float:
    """KL(model || reference) in nats per reply, from replies that `model` drew at temperature 1.

    The exact KL divergences of the next-token distributions are summed over each reply, as far as it fits into the
    model's context. The expectation is the same as that of the sampled log-ratios (k1), but there is less noise.
    """
    total = 0.0
    room = model.config.block_size
    prompts = [prompt[:room] for prompt in prompts]
    replies = [reply[: room - len(prompt)] for prompt, reply in zip(prompts, replies, strict=True)]
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        tokens, _, starts, mask = prompts_with_replies(prompts[part], replies[part])
        positions = TokenPositions.of(starts, mask)
        with evaluating(model), evaluating(reference):  # without dropout
            logits, _ = predictions(model, tokens, positions)  # (N, V)
            reference_logits, _ = predictions(reference, tokens, positions)
        total += float(to_numpy(exact_kl(logits, reference_logits).data).sum())
    return total / len(prompts)


@dataclasses.dataclass(frozen=True)
class Judge:
    """Asks a model questions during and after its training.

    config: the settings of a run: `init_from`, the reference model, which is loaded only for the final comparison;
    `data` and `seed`. questions: of the held-out data. With the built-in data, as many built-in questions are asked
    instead, whose answers can be checked; with other data, replies to `questions` are shown and nothing is measured.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    config: Any
    questions: Sequence[list[Message]]

    @functools.cached_property
    def items(self) -> list[TaskItem]:
        """The built-in questions, which code can check. Empty with other data."""
        if self.config.data != TASKS:
            return []
        return instruction_tasks("test", len(self.questions), self.config.seed)

    def validate(self) -> dict[str, float]:
        """The shares of right, and of right and courteous, replies to some of the questions."""
        some = self.items[:VALIDATION_ITEMS]
        if not some:
            return {}
        replies = sampled(self.model, self.tokenizer, some, self.config.seed)
        return quality_rates(qualities(some, replies))

    def show_change(self) -> None:
        """Print the replies of reference and model, and the verdict, if anything can be measured."""
        try:
            reference = load_model(self.config.init_from)[0].to(next(self.model.parameters()).device)
        except (ValueError, OSError) as error:
            show(f"\nno comparison with the model that training started from: {error}")
            return
        questions = [item.question for item in self.items[:SHOWN]] or self.questions[:SHOWN]
        before, after = (greedy_replies(m, self.tokenizer, questions) for m in (reference, self.model))
        show("\nReplies before and after (the most likely ones):")
        show_replies(before, after, {item.prompt: item.answer for item in self.items})
        if self.items:
            start, end = judge(self.model, reference, self.tokenizer, self.items, self.config.seed)
            _show_verdicts(start, end, len(self.items))


def _show_verdicts(before: Verdict, after: Verdict, questions: int) -> None:
    show(f"{questions} held-out questions, replies drawn at temperature 1:\n")
    show(f"{'':>16}{'right':>9}{'right and courteous':>22}{'better than before':>21}{'KL from before':>17}")
    for name, v in (("before", before), ("after", after)):
        show(f"{name:>16}{v.right:>9.1%}{v.courteous:>22.1%}{v.win_rate:>21.1%}{v.kl:>12.2f} nats")
    show("\nBetter: being right counts first, courtesy second; a draw counts as one half, so 50 % means no change.")
    show("KL: how far the model has moved, per reply.")
