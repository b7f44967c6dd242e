"""Ask a model questions and score its replies: does it follow instructions?

Format and content are scored separately, because a model learns them separately. Format: does it reply in the form that
was taught, and stop? Content: is the reply right? A reply can have the right form and wrong content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gpt import LanguageModel, Tokenizer
from gpt.console import printable, progress_bar, show

from ..built_in.tasks import TaskItem
from ..data.chat_template import ChatTemplate, Message
from ..data.datasets import Example
from ..objectives.rollout import Replies

Encode = Callable[[Sequence[Message]], list[int]]  # a conversation, up to where the assistant writes

FEWER = 80  # questions that are also asked in a wrong template
SHOWN = 6  # replies that are shown

# The answers are not in the questions: a model knows them from pretraining, or not at all.
KNOWLEDGE = {
    "What is the capital of France?": "paris",
    "What is the capital of Italy?": "rome",
    "Which planet do we live on?": "earth",
    "What color is the sky?": "blue",
    "What is the opposite of hot?": "cold",
    "How many days has a week?": "seven",
    "Which animal says meow?": "cat",
    "What do we drink when we are thirsty?": "water",
    "In which season does it snow?": "winter",
    "What is the largest ocean?": "pacific",
    "Who wrote Hamlet?": "shakespeare",
    "What is two plus two?": "four",
}


class Reply(NamedTuple):
    """A model's reply: its text (see `text_of`), whether it ended with a stop token, and its tokens."""

    text: str
    ended: bool
    ids: list[int]


def text_of(tokenizer: Tokenizer, ids: Sequence[int], ended: bool) -> str:
    """The text of a reply as it was written, without the stop token if it has ended with one.

    Other special tokens stay: a reply with <|im_start|> before its answer is not the answer alone. Without them in the
    text, reinforcement learning would find out that they are free.
    """
    return tokenizer.decode(ids[:-1] if ended else ids)


def replies_of(tokenizer: Tokenizer, rollout: Replies) -> list[Reply]:
    """The replies of a rollout, as text."""
    return [Reply(text_of(tokenizer, ids, ended), ended, ids) for ids, ended in zip(rollout.replies(), rollout.ended)]


def ask(
    model: LanguageModel,
    tokenizer: Tokenizer,
    questions: Sequence[Sequence[Message]],
    encode: Encode,
    max_new_tokens: int = 24,
    batch_size: int = 50,
    seed: int = 0,
    **sampling: Any,
) -> list[Reply]:
    """The model's replies to conversations; greedy unless `sampling` (see `GPT.generate`) says otherwise.

    The random numbers of a reply depend on `seed` and on the question's place, so no two questions share them.
    """
    stop = ChatTemplate(tokenizer).stop_tokens
    options = {"temperature": 0.0, **sampling}
    replies = []
    with progress_bar(len(questions), "asking", "question") as bar:
        for start in range(0, len(questions), batch_size):
            prompts = [encode(question) for question in questions[start : start + batch_size]]
            seeds = [(seed, start + row) for row in range(len(prompts))]
            for ids in model.generate(prompts, max_new_tokens, seed=seeds, stop_tokens=stop, **options):
                ended = bool(ids) and ids[-1] in stop
                replies.append(Reply(text_of(tokenizer, ids, ended), ended, ids))
            bar.update(len(prompts))
    return replies


def greedy_replies(
    model: LanguageModel, tokenizer: Tokenizer, questions: Sequence[Sequence[Message]], max_new_tokens: int = 24
) -> dict[str, str]:
    """The most likely reply to each conversation, by the conversation's last message."""
    replies = ask(model, tokenizer, questions, chat_template(tokenizer), max_new_tokens)
    return {question[-1]["content"]: reply.text for question, reply in zip(questions, replies)}


def right_answers(examples: Sequence[Example]) -> dict[str, str]:
    """The answers that conversations end with, by the message before them."""
    return {e.question[-1]["content"]: e.messages[-1]["content"] for e in examples}


def scores(items: Sequence[TaskItem], replies: Sequence[Reply]) -> dict[str, float]:
    """Shares of replies: exact_match (the right answer, then the end), format (a well-formed one, then the end)."""
    right = formed = 0
    for item, reply in zip(items, replies, strict=True):
        if reply.ended:
            right += item.is_correct(reply.text)
            formed += item.has_format(reply.text)
    return {"exact_match": right / len(items), "format": formed / len(items)}


def scores_by_task(items: Sequence[TaskItem], replies: Sequence[Reply]) -> dict[str, float]:
    """The exact match for each type of question."""
    total = Counter(item.task for item in items)
    right = Counter(item.task for item, r in zip(items, replies, strict=True) if r.ended and item.is_correct(r.text))
    return {task: right[task] / n for task, n in total.items()}


# --- templates, right and wrong ---------------------------------------------------------------------------------------


def chat_template(tokenizer: Tokenizer) -> Encode:
    """The template that the model was tuned on."""
    template = ChatTemplate(tokenizer)
    return lambda messages: template.encode(messages, add_generation_prompt=True)[0]


def no_template(tokenizer: Tokenizer) -> Encode:
    """The last message as it is, for the model to continue."""
    return lambda messages: tokenizer.encode(messages[-1]["content"], allowed_special=())


def other_template(tokenizer: Tokenizer) -> Encode:
    """Another model's template, Alpaca's (Taori et al. 2023), which a human reader understands just as well."""
    text = "### Instruction:\n{}\n\n### Response:\n"
    return lambda messages: tokenizer.encode(text.format(messages[-1]["content"]), allowed_special=())


TEMPLATES: dict[str, Callable[[Tokenizer], Encode]] = {
    "in the chat template": chat_template,
    "without a template": no_template,
    "in Alpaca's template": other_template,
}


def ask_and_score(model: LanguageModel, tokenizer: Tokenizer, items: Sequence[TaskItem]) -> dict[str, float]:
    """The `scores` of the model's most likely replies to questions."""
    return scores(items, ask(model, tokenizer, [item.question for item in items], chat_template(tokenizer)))


# --- what a stage changed ---------------------------------------------------------------------------------------------


def measure_following(model: LanguageModel, tokenizer: Tokenizer, items: Sequence[TaskItem]) -> dict[str, Any]:
    """Measure how well a model follows instructions. The result can be written as JSON.

    templates: `scores` for each of TEMPLATES, with fewer items for the wrong ones. by_task: the exact match by type of
    question. knowledge: the same two shares for KNOWLEDGE, where a reply is right if it contains the answer. replies:
    {question: reply} for the first questions.
    """
    templates = {}
    for name, make in TEMPLATES.items():
        some = items if make is chat_template else items[:FEWER]
        replies = ask(model, tokenizer, [item.question for item in some], make(tokenizer))
        templates[name] = scores(some, replies)
        if make is chat_template:
            by_task = scores_by_task(items, replies)
            shown = {item.prompt: reply.text for item, reply in zip(items[:SHOWN], replies)}
    general = [TaskItem("knowledge", question, answer) for question, answer in KNOWLEDGE.items()]
    replies = ask(model, tokenizer, [item.question for item in general], chat_template(tokenizer))
    right = sum(item.answer in reply.text.lower() for item, reply in zip(general, replies))
    shown |= {item.prompt: reply.text for item, reply in zip(general[:2], replies)}
    knowledge = {"exact_match": right / len(general), "format": scores(general, replies)["format"]}
    return {"templates": templates, "by_task": by_task, "knowledge": knowledge, "replies": shown}


def show_scores(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Print what `measure_following` measured before and after training, side by side."""
    show(f"\n{'':40}{'right answer':>20}{'form of an answer':>22}")
    show(f"{'':40}{'before':>11}{'after':>9}{'before':>13}{'after':>9}")
    rows = {f"held-out questions {name}": (before["templates"][name], after["templates"][name]) for name in TEMPLATES}
    rows[f"{len(KNOWLEDGE)} questions of general knowledge"] = before["knowledge"], after["knowledge"]
    for name, (old, new) in rows.items():
        right = f"{old['exact_match']:>11.1%}{new['exact_match']:>9.1%}"
        show(f"{name:40}{right}{old['format']:>13.1%}{new['format']:>9.1%}")
    show("\nright answers by type of question, before and after:")
    for task, share in after["by_task"].items():
        show(f"{task:>14}{before['by_task'][task]:>9.0%}{share:>8.0%}")


def show_replies(before: Mapping[str, str], after: Mapping[str, str], right: Mapping[str, str]) -> None:
    """Print questions, replies to them before and after training, and the right ones where they are known."""
    for question, reply in after.items():
        lines = {"asked": question, "before": before.get(question, ""), "after": reply, "right": right.get(question)}
        show()
        for name, text in lines.items():
            if text is not None:
                show(f"{name:>11} | {shorten(text)}")
    show()


def shorten(text: str, width: int = 100) -> str:
    """One printable line of a reply."""
    line = printable(text).strip().replace("\n", " / ")
    return line if len(line) <= width else line[: width - 3] + "..."
