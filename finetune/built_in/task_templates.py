"""The wordings of the questions in `tasks`: for each type the answer, wordings to train on, and wordings to test on.

A type is written as NAME = ANSWER, above its wordings; those to test on have a star. Two types with the same wordings
stand together: {this} is the type's name.

{a} and {b} are different made-up words. {list} is two or three of them; {a} is the first and {last} the last.
{x} and {y} are two things, {q} is one of them and {named} what it is called.

A tested wording is put together of words that occur in training, as nothing else could tell a model what "last" means.
Tried and left out, as two million parameters hardly learned them: swapping two words, and finding the odd one of four.
"""

from __future__ import annotations

from typing import NamedTuple

THINGS = ["cat", "dog", "bird", "horse", "house", "street", "river", "tree", "friend", "city", "road", "lake", "ship"]

WORDINGS = """
repeat = {a}
    Repeat the word "{a}".
    Please repeat "{a}".
    Can you repeat "{a}"?
    Repeat this word: "{a}"
    The word is "{a}". Repeat it.
    Here is "{a}". Please repeat this.
    Look at the word "{a}" and repeat it.
    I say "{a}", you repeat it.
    Now repeat "{a}", please.
  * Here is the word "{a}". Can you repeat it?
  * Please look at "{a}" and repeat the word.
  * Now repeat this: "{a}"

twice = {a}-{a}
    Write "{a}" twice.
    Say the word "{a}" twice.
    Please write "{a}" twice.
    Can you say "{a}" twice?
    The word is "{a}". Write it twice.
    Here is "{a}". Please say this twice.
    Look at the word "{a}" and write it twice.
    Twice the word "{a}", please.
    Now write twice: "{a}"
  * Here is the word "{a}". Can you write it twice?
  * Please look at "{a}" and say it twice.
  * Now say "{a}" twice.

hello, goodbye = hello-{a}, goodbye-{a}
    Say {this} to "{a}".
    Please say {this} to "{a}".
    Can you say {this} to "{a}"?
    Here is "{a}". Say {this}, please.
    Look, this is "{a}". Please say {this}.
    The name is "{a}". Say {this}.
    Write {this} to "{a}".
    Now {this} to "{a}", please.
  * This is "{a}". Can you say {this}?
  * Please write {this} to "{a}".
  * Now say {this} to "{a}".

first, last = {a}, {last}
    What is the {this} word: {list}?
    Which word is {this}: {list}?
    Here is a list: {list}. What is the {this} word?
    Of {list}, write the {this}.
    The words are {list}. Which one is {this}?
    Say the {this} word of {list}.
    Which is the {this} of {list}?
    Give me the {this} of these: {list}
    Look at {list}. Write the {this} word.
    Please find the {this} word in {list}.
  * Look at {list}. Which word is {this}?
  * Here is a list: {list}. Give me the {this} word.
  * Please say the {this} of these words: {list}

join = {a}-{b}
    Join "{a}" and "{b}".
    Join the words "{a}" and "{b}", please.
    Please join "{a}" and "{b}" to one word.
    Here are "{a}" and "{b}". Join the two.
    The words are "{a}" and "{b}". Join them.
    Can you join "{a}" and "{b}"?
    Look at "{a}" and "{b}" and join them.
    Now join these: "{a}" and "{b}"
  * Here are the words "{a}" and "{b}". Can you join them?
  * Please look at "{a}" and "{b}". Join the two.
  * Now join the words "{a}" and "{b}".

name = {named}
    The {x} is "{a}". The {y} is "{b}". What is the {q}?
    My {x} is "{a}" and my {y} is "{b}". What is my {q}?
    We call the {x} "{a}" and the {y} "{b}". Say the name of the {q}.
    The {x} has the name "{a}", the {y} has the name "{b}". Name the {q}.
    The {x} is called "{a}", the {y} is called "{b}". What is the {q} called?
    Look at the {x} "{a}" and the {y} "{b}". What is the name of the {q}?
    Here is {x} "{a}", here is {y} "{b}". Please name the {q}.
    There is a {x} called "{a}" and a {y} called "{b}". What is the {q}?
  * We call the {x} "{a}" and the {y} "{b}". What is the {q} called?
  * My {x} has the name "{a}", my {y} has the name "{b}". What is the name of my {q}?
  * The {x} is "{a}" and the {y} is "{b}". Please name the {q}.

next = {b}
    Continue: "{a}", "{b}", "{a}", "{b}", "{a}"
    What comes next: "{a}", "{b}", "{a}", "{b}", "{a}"?
    What is next after "{a}", "{b}", "{a}", "{b}", "{a}"?
    Please say the next word: "{a}", "{b}", "{a}", "{b}", "{a}"
    Here is "{a}", "{b}", "{a}", "{b}", "{a}". Continue this.
    Look at "{a}", "{b}", "{a}", "{b}", "{a}". What comes next?
    The words are "{a}", "{b}", "{a}", "{b}", "{a}". Continue them.
    Can you continue "{a}", "{b}", "{a}", "{b}", "{a}"?
  * Here is "{a}", "{b}", "{a}", "{b}", "{a}". What comes next?
  * Please continue this: "{a}", "{b}", "{a}", "{b}", "{a}"
  * Look at the words "{a}", "{b}", "{a}", "{b}", "{a}" and continue them.
"""


class TaskType(NamedTuple):
    """The answer, and the questions to it."""

    answer: str
    train: list[str]
    test: list[str]


def _read(wordings: str) -> dict[str, TaskType]:
    """The types by name, from the text above."""
    types = {}
    for block in wordings.strip().split("\n\n"):
        header, *lines = block.splitlines()
        names, answers = (part.split(", ") for part in header.split(" = "))
        for name, answer in zip(names, answers, strict=True):
            questions = [line.strip().replace("{this}", name) for line in lines]
            train = [question for question in questions if not question.startswith("* ")]
            test = [question.removeprefix("* ") for question in questions if question.startswith("* ")]
            types[name] = TaskType(answer, train, test)
    return types


TASK_TYPES = _read(WORDINGS)
