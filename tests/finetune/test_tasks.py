"""The built-in questions: checkable, seeded, and held out in wording and in words."""

import re

import pytest

from finetune.built_in.task_templates import TASK_TYPES, THINGS
from finetune.built_in.tasks import CLOSING, TaskItem, instruction_tasks, preference_pairs

TRAIN, TEST = instruction_tasks("train", 2000, seed=1), instruction_tasks("test", 500, seed=1)


def words_of(items):
    return {word for item in items for quoted in re.findall(r'"([^"]+)"', item.prompt) for word in quoted.split("-")}


def wording_of(item):
    """The question with everything that is particular to it taken out."""
    return re.sub(rf'"[^"]+"|\b({"|".join(THINGS)})\b', "_", item.prompt)


def solve(item):
    """The answer, read off the question by other means than those that made it."""
    words = re.findall(r'"([^"]+)"', item.prompt)
    if item.task == "name":
        first, second, asked = re.findall(rf"\b(?:{'|'.join(THINGS)})\b", re.sub(r'"\w+"', "", item.prompt))
        return words[[first, second].index(asked)]
    return {
        "repeat": lambda: words[0],
        "twice": lambda: f"{words[0]}-{words[0]}",
        "first": lambda: words[0],
        "last": lambda: words[-1],
        "join": lambda: "-".join(words),
        "hello": lambda: f"hello-{words[0]}",
        "goodbye": lambda: f"goodbye-{words[0]}",
        "next": lambda: words[1],
    }[item.task]()


def test_every_type_is_there_and_every_answer_is_right():
    for items in (TRAIN, TEST):
        assert {item.task for item in items} == set(TASK_TYPES) and len(TASK_TYPES) >= 5
        for item in items:
            assert solve(item) == item.answer and item.is_correct(item.answer) and item.has_format(item.answer), item


def test_held_out_questions_share_no_wording_word_or_answer():
    assert not words_of(TRAIN) & words_of(TEST)
    assert not {item.answer for item in TRAIN} & {item.answer for item in TEST}
    assert not {wording_of(item) for item in TRAIN} & {wording_of(item) for item in TEST}
    for kind in TASK_TYPES.values():
        assert not set(kind.train) & set(kind.test)


def test_the_same_seed_gives_the_same_questions():
    assert instruction_tasks("test", 50, seed=1) == TEST[:50] != instruction_tasks("test", 50, seed=2)


def test_an_item_is_a_conversation():
    item = TaskItem("repeat", 'Say "kel".', "kel", closing=True)
    assert item.example().messages == [
        {"role": "user", "content": 'Say "kel".'},
        {"role": "assistant", "content": "kel" + CLOSING},
    ]
    assert item.question == item.example().messages[:1]
    assert 0.25 < sum(item.closing for item in TRAIN) / len(TRAIN) < 0.35


@pytest.mark.parametrize(
    "reply, right, form, quality",
    [
        ("kel-dor", True, True, 2),
        (" kel-dor\n", True, True, 2),
        ("kel-dor. Glad to help!", True, True, 3),
        ("dor-kel. Glad to help!", False, True, 1),
        ("kel", False, True, 0),
        ("Kel-dor", False, False, 0),
        ("kel-dor. Glad to help! Glad to help!", False, False, 0),
        ("The answer is kel-dor", False, False, 0),
        ("kel-dor. Glad to help!. Glad to help!", False, False, 0),
        (". Glad to help!", False, False, 0),
    ],
)
def test_replies_are_judged(reply, right, form, quality):
    item = TaskItem("join", "?", "kel-dor")
    assert (item.is_correct(reply), item.has_format(reply), item.quality(reply)) == (right, form, quality)


def test_preferences_put_the_right_and_courteous_answer_first():
    pairs = preference_pairs("train", 300, seed=1)
    assert pairs == preference_pairs("train", 300, seed=1) and len(pairs) == 300
    courteous_but_wrong = right_but_curt = 0
    for pair in pairs:
        answer = pair.chosen.removesuffix(CLOSING)
        assert pair.chosen == answer + CLOSING != pair.rejected and pair.prompt[-1]["role"] == "user"
        courteous_but_wrong += pair.rejected.endswith(CLOSING) and not pair.rejected.startswith(answer + ".")
        right_but_curt += pair.rejected == answer
    assert courteous_but_wrong == right_but_curt == 100
    for seed in (0, 2):  # words are made up at random: with these, a wrong answer could be the right one by chance
        items = instruction_tasks("train", 1400, seed + 1)
        for item, pair in zip(items, preference_pairs("train", 1400, seed), strict=True):
            assert item.question == pair.prompt and item.quality(pair.chosen) == 3 > item.quality(pair.rejected)
    assert not words_of([TaskItem("", pair.prompt[0]["content"], "") for pair in pairs]) & words_of(TEST)
