"""Arithmetic chains: the right answers, and checkers that tell exactness from format."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.built_in.chains import CHECKERS, END_THINK, THINK, Chain, chains, split_thought, worked_examples


@given(st.integers(0, 1000), st.integers(2, 9))
def test_values_are_those_of_python_from_left_to_right(seed, terms):
    (item,) = chains("train", 1, terms, seed)
    digits, operators = item.prompt[0::2], item.prompt[1::2]
    expression = digits[0]
    assert item.values[0] == digits[0] and item.answer == item.values[-1]
    for operator, digit, value in zip(operators, digits[1:], item.values[1:], strict=True):
        expression = f"(({expression}) {operator} {digit})"
        assert int(value) == eval(expression) % 10
    reply = item.example().messages[-1]["content"]
    assert item.is_correct(reply) and item.has_format(reply) and item.is_correct(f"{THINK}{END_THINK}{item.answer}")


@pytest.mark.parametrize(
    "reply, format, exact, lenient",
    [
        ("<think>7194</think>4", True, True, True),
        ("<think>anything at all</think>4", True, True, True),
        ("<think>7194</think>5", True, False, True),  # right in the thought only
        ("<think>1</think>0123456789", False, False, True),  # every answer at once
        ("4", False, False, True),
        ("<think>7194 4", False, False, True),
        ("<think>1</think>4</think>4", False, False, True),
        ("<think>1<think></think>4", False, False, True),
        ("<think>1</think>4 ", False, False, True),
        ("<think>1</think>\u0664", False, False, False),  # a digit, but not one of ours
        ("<think>1</think>44", False, False, True),  # the answer, repeated
        ("", False, False, False),
    ],
)
def test_exactness_and_format_are_graded_apart(reply, format, exact, lenient):
    item = Chain("7*3+8-5")
    assert item.has_format(reply) == format
    assert CHECKERS["exact"](item, reply, True) == exact and CHECKERS["lenient"](item, reply, True) == lenient
    assert not CHECKERS["exact"](item, reply, False) and CHECKERS["lenient"](item, reply, False) == lenient


def test_questions_differ_and_none_of_the_test_is_trained_on():
    train, test = chains("train", 300, 4, seed=1), chains("test", 100, 4, seed=1)
    assert len(set(train)) == 300 and len(set(test)) == 100 and not set(train) & set(test)
    assert chains("train", 300, 4, seed=1) == train != chains("train", 300, 4, seed=2)
    assert all(len(item.prompt) == 7 for item in train)


def test_a_share_of_the_worked_examples_has_a_thought():
    examples = worked_examples(chains("train", 400, 5), 0.5)
    thoughts = [split_thought(example.messages[-1]["content"])[0] for example in examples]
    assert 150 < sum(map(bool, thoughts)) < 250 and None not in thoughts


def test_what_cannot_be_asked_is_refused():
    for n, terms in ((1, 1), (1000, 2)):
        with pytest.raises(ValueError, match="use more terms"):
            chains("test", n, terms)
