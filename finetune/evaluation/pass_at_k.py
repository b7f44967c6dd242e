"""pass@k: ask a model questions whose answers code can check. How often is it right, in one answer and in k answers?

An answer has the format of `<think>112</think>2`: a thought, which may be empty, and then one digit. In
worked examples, the thought is the value after each term. A `Chain` is a question, such as "1*1*2".
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt import LanguageModel, Tokenizer
from gpt.console import show

from ..built_in.chains import Chain, split_thought
from ..data.chat_template import Message
from .answering import ask, chat_template

SAMPLES = 8  # answers to each question
SHOWN = 4  # replies that are shown
VALIDATION_ITEMS = 50  # questions that are asked at each evaluation
MEASURES = f"""\
      exact  share of answers that have the format and are right (validation: of {SAMPLES} answers to each of \
{VALIDATION_ITEMS} held-out questions)
     format  share of answers with a thought, perhaps an empty one, and then one digit
    thought  mean length of the thoughts, in characters
     thinks  share of answers whose thought is not empty
     pass@{SAMPLES}  share of questions with at least one right answer among {SAMPLES}
 majority@{SAMPLES}  share of questions whose most frequent answer is right"""


def score_answers(items: Sequence[Chain], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores of k answers to each question.

    exact, format: shares of all answers (pass@1 is exact). pass@k: share of questions with a right answer; with n = k
    answers drawn, the estimate of Chen et al. 2021 is simply this. majority@k: share whose most frequent answer, with
    or without the format, is right (Wang et al. 2022, "Self-consistency"); the first one counts where several are as
    frequent. thought: mean length in characters. thinks: share of answers whose thought is not empty.

    Three answers to 1+1, two of them right. One thinks, with three characters:

    >>> answers = [["<think>112</think>2", "<think></think>2", "<think></think>3"]]
    >>> {name: round(score, 2) for name, score in score_answers([Chain("1+1")], answers).items()}
    {'exact': 0.67, 'format': 1.0, 'pass@3': 1.0, 'majority@3': 1.0, 'thought': 1.0, 'thinks': 0.33}
    """
    k = len(answers[0])
    right, formatted, majority_right, lengths = [], [], [], []
    for item, texts in zip(items, answers, strict=True):
        right.append([item.is_correct(text) for text in texts])
        formatted.append([item.has_format(text) for text in texts])
        split = [split_thought(text) for text in texts]  # (thought, answer) of each
        lengths.append([len(thought or "") for thought, _ in split])
        majority_right.append(statistics.mode(answer for _, answer in split) == item.answer)
    scores = {"exact": np.mean(right), "format": np.mean(formatted)}
    if k > 1:
        scores[f"pass@{k}"] = np.mean([any(of_question) for of_question in right])
        scores[f"majority@{k}"] = np.mean(majority_right)
    scores |= {"thought": np.mean(lengths), "thinks": np.mean(np.array(lengths) > 0)}
    return {name: float(value) for name, value in scores.items()}


@dataclasses.dataclass(frozen=True)
class PassAtK:
    """Ask a model each question several times, and score its answers.

    An answer that is cut off becomes "": it is wrong, and all such answers vote together in majority@k.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    response_length: int
    items: Sequence[Chain]

    def measure(self) -> dict[str, dict[str, Any]]:
        """The scores on all questions, and the most likely answers to the first ones."""
        texts = self._ask([item.question for item in self.items[:SHOWN]], temperature=0.0)
        replies = {item.prompt: text for item, text in zip(self.items, texts)}
        return {"scores": self._scores(self.items), "replies": replies}

    def validate(self) -> dict[str, float]:
        """The scores on some of the questions."""
        return self._scores(self.items[:VALIDATION_ITEMS])

    def _scores(self, items: Sequence[Chain]) -> dict[str, float]:
        """`score_answers` for SAMPLES answers to each question, at temperature 1."""
        texts = self._ask([item.question for item in items for _ in range(SAMPLES)], temperature=1.0)
        return score_answers(items, [texts[i : i + SAMPLES] for i in range(0, len(texts), SAMPLES)])

    def _ask(self, questions: Sequence[Sequence[Message]], temperature: float) -> list[str]:
        replies = ask(
            self.model,
            self.tokenizer,
            questions,
            chat_template(self.tokenizer),
            self.response_length,
            batch_size=50 * SAMPLES,
            temperature=temperature,
        )
        return [reply.text if reply.ended else "" for reply in replies]


def show_change(questions: int, before: dict[str, float], after: dict[str, float]) -> None:
    """Show all scores before and after training."""
    show(f"{questions} held-out questions, {SAMPLES} answers each{'before':>16}{'after':>10}")
    for name, value in after.items():
        form = ".2f" if name == "thought" else ".1%"
        show(f"{name:>38}{before[name]:>16{form}}{value:>10{form}}")
