r"""Multiple-choice exams, scored as lm-evaluation-harness scores them: which choice does the model find most probable?

    score(choice) = Σ_t ln p(token t of the choice | the context, the choice's tokens before t)

    acc       share of questions whose right choice has the largest score
    acc_norm  the same with score / the choice's length in characters: a long text has a small probability

The model writes nothing, so there is no reply to judge. But the result depends on the form of the question. Two forms
are common:

    cloze     the model sees the question alone         "Question: What is hot?\nAnswer:"
              each choice's text is scored              " ice", " a fire"
    letters   the model also sees the choices           "Question: What is hot?\nA. ice\nB. a fire\nAnswer:"
              the letters are scored                    " A", " B"

*One question*, in cloze form. Each choice is read after the question, and the choice with the largest score is the
model's answer. `exam_scores` computes the same for a whole exam, with many texts in a batch:

    >>> from gpt import GPT, GPTConfig
    >>> question = Question("What is hot?", ["ice", "a fire"], answer=1)
    >>> tokenizer = Tokenizer.train("What is hot? ice a fire", 260)
    >>> model = GPT(GPTConfig(len(tokenizer), block_size=64, n_layer=1, n_head=1, n_embd=8)).eval()
    >>> scores = []
    >>> for choice in question.choices:
    ...     ids, n = encode_choice(tokenizer, f"Question: {question.question}\nAnswer:", f" {choice}", block_size=64)
    ...     read_ids = ids[:-1]                           # the last token is predicted, and not read
    ...     logits = model(np.array([read_ids]))[0]       # (T - 1, V): row t predicts token t + 1
    ...     scores.append(choice_score(logits, ids, n))   # of the last n tokens, the choice's
    >>> np.allclose(scores, exam_scores(model, tokenizer, [question])[0])
    True

Gao et al., "A framework for few-shot language model evaluation" (lm-evaluation-harness 0.4.13); Hendrycks et al. 2021
(arXiv 2009.03300): MMLU, letters.
Simplified: MMLU's prompts also name the subject, and begin with the question itself instead of "Question: ".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from string import ascii_uppercase as LETTERS
from typing import Any, NamedTuple

import numpy as np

import minigrad.functional as F
from gpt import LanguageModel, Tokenizer
from gpt.console import progress_bar
from gpt.files import StrPath, errors_at, shortened
from minigrad import Tensor, no_grad
from minigrad.nn.module import evaluating

from ..data.datasets import batches_of, pad_right, read_rows

TOKENS_AT_ONCE = 4096  # size of the batches that the model reads


def choice_score(logits: Tensor, ids: Sequence[int], n: int) -> float:
    """Σ ln p of the last n of the tokens ids (T). Row t of the logits (T - 1, V) predicts ids[t + 1].

    Only the last n rows are used, so they are enough.
    """
    logprobs = F.log_softmax(logits[-n:], -1)  # (n, V)
    return logprobs[np.arange(n), np.array(ids[-n:])].sum().item()


def encode_choice(tokenizer: Tokenizer, context: str, choice: str, block_size: int) -> tuple[list[int], int]:
    """The tokens of context + choice, and n: the last n of them are the choice's.

    A long context loses its beginning. Raises ValueError for a choice that does not fit into the block size alone.
    """
    ids = tokenizer.encode(context + choice, add_special_tokens=False)
    # The context's tokens come first, then the choice's. A space at the end of a context (`exam_prompts` writes none)
    # counts with the choice, because " ice" may be one token.
    n = len(ids) - len(tokenizer.encode(context.rstrip(), add_special_tokens=False))
    if n > block_size:
        raise ValueError(f"the choice {shortened(choice)} has {n} tokens, and the model reads only {block_size}")
    return ids[-block_size - 1 :], n  # one more, because the last one is predicted and not read


# --- an exam ----------------------------------------------------------------------------------------------------------


class Question(NamedTuple):
    """A question with its choices. answer: the number of the right one, from 0."""

    question: str
    choices: list[str]
    answer: int


def exam_prompts(questions: Sequence[Question], shots: int, letters: bool) -> Iterator[tuple[str, list[str]]]:
    """For each question its context, and its choices as they continue it.

    shots: the number of solved examples before the question, which are the first of the other questions. letters: True
    for the letters form, False for cloze.
    """
    contexts, choices = [], []
    for question, texts, _ in questions:
        shown = "".join(f"{letter}. {text}\n" for letter, text in zip(LETTERS, texts)) if letters else ""
        contexts.append(f"Question: {question}\n{shown}Answer:")
        choices.append([f" {text}" for text in (LETTERS[: len(texts)] if letters else texts)])
    solved = [context + continued[q.answer] for context, continued, q in zip(contexts, choices, questions)]
    for i, context in enumerate(contexts):
        others = solved[:i] + solved[i + 1 :]
        yield "\n\n".join([*others[:shots], context]), choices[i]


@no_grad()
def exam_scores(
    model: LanguageModel, tokenizer: Tokenizer, questions: Sequence[Question], shots: int = 0, letters: bool = False
) -> list[np.ndarray]:
    """The scores of each question's choices. shots and letters: see `exam_prompts`."""
    scores = [np.zeros(len(question.choices)) for question in questions]
    # All choices of all questions: tokens, how many of these are the choice's, and where the score goes: scores[i][c].
    encoded = []
    for i, (context, choices) in enumerate(exam_prompts(questions, shots, letters)):
        for c, choice in enumerate(choices):
            ids, n = encode_choice(tokenizer, context, choice, model.config.block_size)
            encoded.append((ids, n, i, c))
    encoded.sort(key=lambda item: len(item[0]), reverse=True)  # similar lengths together, the longest first
    at_once = max(TOKENS_AT_ONCE // len(encoded[0][0]), 1)
    with evaluating(model), progress_bar(len(encoded), "reading", "choice") as bar:
        for part in batches_of(encoded, at_once, list):
            # The last token of a choice is predicted and not read. For choices of one token, ids[:-1] is then only the
            # context, so they share a text.
            texts = list(dict.fromkeys(tuple(ids[:-1]) for ids, *_ in part))
            padded, _ = pad_right(texts, fill=0)  # (B, T); on the right, because no token sees a later one
            hidden = model.hidden_states(padded)  # (B, T, C)
            for ids, n, i, c in part:
                # The hidden states at position t predict token t + 1, so these are for the last n tokens of ids.
                read = hidden[texts.index(tuple(ids[:-1])), len(ids) - 1 - n : len(ids) - 1]  # (n, C)
                scores[i][c] = choice_score(model.lm_head(read), ids, n)
            bar.update(len(part))
    return scores


def accuracy(
    questions: Sequence[Question], scores: Sequence[np.ndarray], normalized: bool = False
) -> tuple[float, float]:
    """acc, or acc_norm if `normalized`: the share p of right answers, and its standard error sqrt(p (1 - p) / (N - 1)).

    acc_norm is only meaningful in cloze form: all letters have the same length.
    """
    right = []
    for question, choice_scores in zip(questions, scores, strict=True):
        if normalized:
            choice_scores = choice_scores / [len(choice) for choice in question.choices]
        right.append(np.argmax(choice_scores) == question.answer)
    p = float(np.mean(right))
    return p, math.sqrt(p * (1 - p) / max(len(questions) - 1, 1))


def read_questions(path: StrPath) -> list[Question]:
    """Read {"question": ..., "choices": [...], "answer": number from 0, or letter}, from JSON lines or an array.

    Raises ValueError naming file and line.
    """
    questions = []
    for place, row in read_rows(path):
        with errors_at(place):
            questions.append(_question(row))
    return questions


def _question(row: dict[str, Any]) -> Question:
    question, choices, answer = (row.get(field, "") for field in Question._fields)
    if isinstance(answer, str) and len(answer) == 1:
        answer = LETTERS.find(answer)
    texts = isinstance(choices, list) and all(isinstance(text, str) and text.strip() for text in choices)
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f'"question" must be a text that is not empty, got {shortened(question)}')
    if not texts or not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f'"choices" must be a list of 2 to 26 texts that are not empty, got {shortened(choices)}')
    if type(answer) is not int or not 0 <= answer < len(choices):
        ways = f"from 0 to {len(choices) - 1}, or the letter of a choice"
        raise ValueError(f'"answer" must be a number {ways}, got {shortened(row.get("answer"))}')
    return Question(question, choices, answer)
