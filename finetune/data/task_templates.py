"""The wordings of the questions in `tasks`: for each type the answer, wordings to train on, and wordings to test on.

{a} and {b} are different made-up words. {list} is two or three of them; {a} is the first and {last} the last.
{x} and {y} are two things, {q} is one of them and {named} what it is called.

A tested wording is put together of words that occur in training, as nothing else could tell a model what "last" means.
Tried and left out, as two million parameters hardly learned them: swapping two words, and finding the odd one of four.
"""

from __future__ import annotations

from typing import NamedTuple


class TaskType(NamedTuple):
    """The answer, and the questions to it."""

    answer: str
    train: list[str]
    test: list[str]


THINGS = ["cat", "dog", "bird", "horse", "house", "street", "river", "tree", "friend", "city", "road", "lake", "ship"]

TASK_TYPES = {
    "repeat": TaskType(
        "{a}",
        [
            'Repeat the word "{a}".',
            'Please repeat "{a}".',
            'Can you repeat "{a}"?',
            'Repeat this word: "{a}"',
            'The word is "{a}". Repeat it.',
            'Here is "{a}". Please repeat this.',
            'Look at the word "{a}" and repeat it.',
            'I say "{a}", you repeat it.',
            'Now repeat "{a}", please.',
        ],
        [
            'Here is the word "{a}". Can you repeat it?',
            'Please look at "{a}" and repeat the word.',
            'Now repeat this: "{a}"',
        ],
    ),
    "twice": TaskType(
        "{a}-{a}",
        [
            'Write "{a}" twice.',
            'Say the word "{a}" twice.',
            'Please write "{a}" twice.',
            'Can you say "{a}" twice?',
            'The word is "{a}". Write it twice.',
            'Here is "{a}". Please say this twice.',
            'Look at the word "{a}" and write it twice.',
            'Twice the word "{a}", please.',
            'Now write twice: "{a}"',
        ],
        [
            'Here is the word "{a}". Can you write it twice?',
            'Please look at "{a}" and say it twice.',
            'Now say "{a}" twice.',
        ],
    ),
    "hello": TaskType(
        "hello-{a}",
        [
            'Say hello to "{a}".',
            'Please say hello to "{a}".',
            'Can you say hello to "{a}"?',
            'Here is "{a}". Say hello, please.',
            'Look, this is "{a}". Please say hello.',
            'The name is "{a}". Say hello.',
            'Write hello to "{a}".',
            'Now hello to "{a}", please.',
        ],
        ['This is "{a}". Can you say hello?', 'Please write hello to "{a}".', 'Now say hello to "{a}".'],
    ),
    "goodbye": TaskType(
        "goodbye-{a}",
        [
            'Say goodbye to "{a}".',
            'Please say goodbye to "{a}".',
            'Can you say goodbye to "{a}"?',
            'Here is "{a}". Say goodbye, please.',
            'Look, this is "{a}". Please say goodbye.',
            'The name is "{a}". Say goodbye.',
            'Write goodbye to "{a}".',
            'Now goodbye to "{a}", please.',
        ],
        ['This is "{a}". Can you say goodbye?', 'Please write goodbye to "{a}".', 'Now say goodbye to "{a}".'],
    ),
    "first": TaskType(
        "{a}",
        [
            "What is the first word: {list}?",
            "Which word is first: {list}?",
            "Here is a list: {list}. What is the first word?",
            "Of {list}, write the first.",
            "The words are {list}. Which one is first?",
            "Say the first word of {list}.",
            "Which is the first of {list}?",
            "Give me the first of these: {list}",
            "Look at {list}. Write the first word.",
            "Please find the first word in {list}.",
        ],
        [
            "Look at {list}. Which word is first?",
            "Here is a list: {list}. Give me the first word.",
            "Please say the first of these words: {list}",
        ],
    ),
    "last": TaskType(
        "{last}",
        [
            "What is the last word: {list}?",
            "Which word is last: {list}?",
            "Here is a list: {list}. What is the last word?",
            "Of {list}, write the last.",
            "The words are {list}. Which one is last?",
            "Say the last word of {list}.",
            "Which is the last of {list}?",
            "Give me the last of these: {list}",
            "Look at {list}. Write the last word.",
            "Please find the last word in {list}.",
        ],
        [
            "Look at {list}. Which word is last?",
            "Here is a list: {list}. Give me the last word.",
            "Please say the last of these words: {list}",
        ],
    ),
    "join": TaskType(
        "{a}-{b}",
        [
            'Join "{a}" and "{b}".',
            'Join the words "{a}" and "{b}", please.',
            'Please join "{a}" and "{b}" to one word.',
            'Here are "{a}" and "{b}". Join the two.',
            'The words are "{a}" and "{b}". Join them.',
            'Can you join "{a}" and "{b}"?',
            'Look at "{a}" and "{b}" and join them.',
            'Now join these: "{a}" and "{b}"',
        ],
        [
            'Here are the words "{a}" and "{b}". Can you join them?',
            'Please look at "{a}" and "{b}". Join the two.',
            'Now join the words "{a}" and "{b}".',
        ],
    ),
    "name": TaskType(
        "{named}",
        [
            'The {x} is "{a}". The {y} is "{b}". What is the {q}?',
            'My {x} is "{a}" and my {y} is "{b}". What is my {q}?',
            'We call the {x} "{a}" and the {y} "{b}". Say the name of the {q}.',
            'The {x} has the name "{a}", the {y} has the name "{b}". Name the {q}.',
            'The {x} is called "{a}", the {y} is called "{b}". What is the {q} called?',
            'Look at the {x} "{a}" and the {y} "{b}". What is the name of the {q}?',
            'Here is {x} "{a}", here is {y} "{b}". Please name the {q}.',
            'There is a {x} called "{a}" and a {y} called "{b}". What is the {q}?',
        ],
        [
            'We call the {x} "{a}" and the {y} "{b}". What is the {q} called?',
            'My {x} has the name "{a}", my {y} has the name "{b}". What is the name of my {q}?',
            'The {x} is "{a}" and the {y} is "{b}". Please name the {q}.',
        ],
    ),
    "next": TaskType(
        "{b}",
        [
            'Continue: "{a}", "{b}", "{a}", "{b}", "{a}"',
            'What comes next: "{a}", "{b}", "{a}", "{b}", "{a}"?',
            'What is next after "{a}", "{b}", "{a}", "{b}", "{a}"?',
            'Please say the next word: "{a}", "{b}", "{a}", "{b}", "{a}"',
            'Here is "{a}", "{b}", "{a}", "{b}", "{a}". Continue this.',
            'Look at "{a}", "{b}", "{a}", "{b}", "{a}". What comes next?',
            'The words are "{a}", "{b}", "{a}", "{b}", "{a}". Continue them.',
            'Can you continue "{a}", "{b}", "{a}", "{b}", "{a}"?',
        ],
        [
            'Here is "{a}", "{b}", "{a}", "{b}", "{a}". What comes next?',
            'Please continue this: "{a}", "{b}", "{a}", "{b}", "{a}"',
            'Look at the words "{a}", "{b}", "{a}", "{b}", "{a}" and continue them.',
        ],
    ),
}
