"""A multiple-choice exam: short questions about numbers, days, months and words, with four choices each.

A program computes the right answers. The wrong choices are right answers to other questions of the same kind, so none
looks wrong. But some are right more often than others: who takes the choice that is right most often elsewhere has 40
to 50 % of the questions about letters without reading them, and 23 % of all, no more than by guessing.
"""

from __future__ import annotations

import numpy as np

from .multiple_choice import Question

BUILT_IN = "builtin"  # the name of this exam, where others are the name of a file
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January February March April May June July August September October November December"
OPPOSITES = (
    "hot cold big small fast slow old young light dark rich poor full empty wet dry strong weak early late open closed "
    "clean dirty happy sad hard soft high low long short thick thin loud quiet cheap expensive left right"
)
PLURALS = (
    "child children mouse mice foot feet tooth teeth goose geese man men woman women person people wolf wolves knife "
    "knives leaf leaves city cities box boxes baby babies potato potatoes dish dishes cat cats house houses"
)


def kinds() -> list[dict[str, str]]:
    """All questions with their answers, kind by kind."""
    numbers, days, months = range(1, 11), DAYS.split(), MONTHS.split()
    first, second = OPPOSITES.split()[::2], OPPOSITES.split()[1::2]
    singulars, plurals = PLURALS.split()[::2], PLURALS.split()[1::2]
    words = OPPOSITES.split() + singulars
    return [
        {f"What is {a} plus {b}?": str(a + b) for a in numbers for b in numbers if a >= b},
        {f"What is {a} minus {b}?": str(a - b) for a in numbers for b in numbers if a >= b},
        {f"What comes right after {a}?": b for a, b in zip(days, days[1:] + days[:1])},
        {f"What comes right after {a}?": b for a, b in zip(months, months[1:] + months[:1])},
        {f"What comes right before {b}?": a for a, b in zip(days[-1:] + days[:-1], days)},
        {f"What comes right before {b}?": a for a, b in zip(months[-1:] + months[:-1], months)},
        {f"What is the opposite of {a}?": b for a, b in zip(first + second, second + first)},
        {f"What is the plural of {a}?": b for a, b in zip(singulars, plurals)},
        {f"How many letters are in the word {word}?": str(len(word)) for word in words},
        {f"What is the last letter of the word {word}?": word[-1] for word in words},
    ]


def exam_questions(n: int = 200, seed: int = 0) -> list[Question]:
    """n different questions out of 322, all if there are fewer; the same ones for the same seed.

    >>> exam_questions(1)[0]
    Question(question='What comes right before December?', choices=['July', 'March', 'November', 'January'], answer=2)
    """
    every = []  # each question with its right answer, and the answers to all questions of its kind
    for kind in kinds():
        for question, answer in kind.items():
            every.append((question, answer, set(kind.values())))
    rng = np.random.default_rng(seed)
    questions = []
    for place in rng.permutation(len(every))[:n]:
        question, answer, answers = every[place]
        wrong = rng.choice(sorted(answers - {answer}), 3, replace=False)
        choices = rng.permutation([answer, *wrong]).tolist()
        questions.append(Question(question, choices, choices.index(answer)))
    return questions
