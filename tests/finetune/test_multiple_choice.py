"""Multiple-choice exams beside one choice at a time; the prompts; what a file may say."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from finetune.evaluation import multiple_choice
from finetune.evaluation.multiple_choice import (
    Question,
    accuracy,
    encode_choice,
    exam_prompts,
    exam_scores,
    read_questions,
)
from gpt import Tokenizer
from gpt.files import write_text
from minigrad import Tensor, use_kernels
from tests.gpt.small import log_softmax, logits_of, small_gpt, small_llama

EXAM = [
    Question("What is 1 plus 1?", ["2", "eleven or so", "1"], 0),
    Question("What is hot?", ["ice", "a fire", "a fire engine", "fire"], 1),
    Question("Is it?", ["no", "yes"], 1),
]
TOKENIZER = Tokenizer.train(" ".join(f"{question} {' '.join(choices)}" for question, choices, _ in EXAM), 290)


def one_by_one(model, **form):
    """The scores of EXAM as lm-evaluation-harness 0.4.13 computes them.

    `_encode_pair` (lm_eval/api/model.py), then `_loglikelihood_tokens` (lm_eval/models/huggingface.py).
    """
    scores = []
    for context, choices in exam_prompts(EXAM, **form):
        scores.append([])
        for choice in choices:
            whole = TOKENIZER.encode(context + choice)
            continuation = whole[len(TOKENIZER.encode(context)) :]
            read = whole[-(model.config.block_size + 1) :][:-1]
            logprobs = log_softmax(logits_of(model, [read])[0])[-len(continuation) :]
            scores[-1].append(sum(row[id] for row, id in zip(logprobs, continuation)))
    return scores


def test_the_score_of_a_choice_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]]) + [[1], [2], [3]]  # softmax ignores these
    for n, p in ((1, 0.5), (2, 0.8 * 0.5), (3, 0.25 * 0.8 * 0.5)):
        assert multiple_choice.choice_score(Tensor(logits), [0, 2, 1, 2], n) == pytest.approx(math.log(p))


@pytest.mark.parametrize("make", [small_gpt, small_llama])
@pytest.mark.parametrize("shots, letters, block_size", [(0, False, 64), (2, False, 20), (1, True, 64)])
def test_an_exam_equals_one_choice_at_a_time(make, shots, letters, block_size, kernels, monkeypatch):
    monkeypatch.setattr(multiple_choice, "TOKENS_AT_ONCE", 64)  # two texts of different lengths; one that is longer
    model = make(vocab_size=290, block_size=block_size, dtype="float64")
    expected = one_by_one(model, shots=shots, letters=letters)
    with use_kernels(kernels):
        found = exam_scores(model, TOKENIZER, EXAM, shots, letters)
    assert_allclose(np.concatenate(found), np.concatenate(expected), rtol=1e-9)


def test_the_prompts_of_both_forms():
    (_, (context, choices), _) = exam_prompts(EXAM, shots=1, letters=False)
    assert context == "Question: What is 1 plus 1?\nAnswer: 2\n\nQuestion: What is hot?\nAnswer:"
    assert encode_choice(TOKENIZER, "What is ", "hot", 64) == encode_choice(TOKENIZER, "What is", " hot", 64)
    assert choices == [" ice", " a fire", " a fire engine", " fire"]
    (context, choices), *_ = exam_prompts(EXAM, shots=5, letters=True)
    assert context.startswith("Question: What is hot?\nA. ice\nB. a fire\nC. a fire engine\nD. fire\nAnswer: B\n\nQ")
    assert context.endswith("\n\nQuestion: What is 1 plus 1?\nA. 2\nB. eleven or so\nC. 1\nAnswer:")
    assert choices == [" A", " B", " C"] and context.count("Question: ") == 3


def test_the_length_of_a_choice_decides_in_acc_norm():
    """As in lm-evaluation-harness 0.4.13: `process_results` (lm_eval/api/task.py), `mean_stderr` (api/metrics.py)."""
    scores = [np.array([-1, -20, -3]), np.array([-2, -1.45, -9, -1]), np.array([-1, -2])]
    # "a fire" against "fire": -1.45 / 6 is more than -1 / 4, but divided by one character more, it is less.
    for normalized, right in ((False, [1, 0, 0]), (True, [1, 1, 0])):
        expected = np.mean(right), np.std(right, ddof=1) / math.sqrt(3)
        assert accuracy(EXAM, scores, normalized) == pytest.approx(expected)


GOOD = '{"question": "Is it?", "choices": ["no", "yes"], "answer": 1}'


def test_a_file_is_read_with_numbers_or_letters(tmp_path):
    write_text(tmp_path / "exam.jsonl", f"{GOOD}\n\n{GOOD.replace('1', chr(34) + 'B' + chr(34))}")
    assert read_questions(tmp_path / "exam.jsonl") == [EXAM[2]] * 2


@pytest.mark.parametrize(
    "old, new, words",
    [
        ('"Is it?"', "5", 'exam.jsonl, line 2: "question" must be a text that is not empty, got 5'),
        ("question", "quiz", 'line 2: "question" must be a text that is not empty'),
        ('["no", "yes"]', '["no", " "]', 'line 2: "choices" must be a list of 2 to 26 texts that are not empty'),
        ("1}", "2}", 'line 2: "answer" must be a number from 0 to 1, or the letter of a choice, got 2'),
        ("1}", "true}", "got True"),
        ("1}", '"b"}', "got 'b'"),
        ('{"q', "", "line 2: this is not valid JSON"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(old, new, words, tmp_path):
    write_text(tmp_path / "exam.jsonl", f"{GOOD}\n{GOOD.replace(old, new)}")
    with pytest.raises(ValueError, match=words):
        read_questions(tmp_path / "exam.jsonl")


def test_an_empty_file_and_a_choice_that_is_too_long(tmp_path):
    write_text(tmp_path / "empty.jsonl", "\n")
    with pytest.raises(ValueError, match=r"empty.jsonl is empty: write one object on each line"):
        read_questions(tmp_path / "empty.jsonl")
    with pytest.raises(ValueError, match="the choice ' eleven or so' has 6 tokens, and the model reads only 3"):
        exam_scores(small_gpt(vocab_size=290, block_size=3), TOKENIZER, EXAM)
