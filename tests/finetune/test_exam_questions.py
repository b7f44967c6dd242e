"""The built-in exam: another program answers its questions, and finds exactly one right choice for each."""

import re

from finetune.evaluation.exam_questions import DAYS, MONTHS, OPPOSITES, PLURALS, exam_questions, kinds


def answer(question):
    """Read the answer off the question's words."""
    *_, word = words = re.findall(r"\w+", question)
    if "plus" in words or "minus" in words:
        return str(int(words[2]) + int(words[4]) * (1 if words[3] == "plus" else -1))
    if "letter" in question:
        return str(sum(1 for _ in word)) if "many" in words else word[-1]
    if "comes" in words:
        row = (DAYS if word in DAYS else MONTHS).split() * 3
        return row[row.index(word, 1) + (1 if "after" in words else -1)]
    row = (PLURALS if "plural" in words else OPPOSITES).split()
    return row[row.index(word) ^ 1]  # the other one of the pair


def test_every_question_has_one_right_choice_of_four():
    every = exam_questions(10_000)
    assert len({question.question for question in every}) == len(every) == sum(map(len, kinds())) == 322
    for question, choices, right in every:
        assert len(set(choices)) == 4 and [choice == answer(question) for choice in choices].index(True) == right


def test_an_exam_is_the_same_for_the_same_seed():
    exam = exam_questions(seed=3)
    assert len(exam) == 200 and exam == exam_questions(seed=3) != exam_questions(seed=4)
    assert all(50 - 25 < [q.answer for q in exam].count(place) < 50 + 25 for place in range(4))
