"""Data for fine-tuning: read conversations, preferences and labelled texts from files, and make batches of them.

The formats are the common ones: one JSON object per line, or a JSON array of objects, as in Alpaca's file:

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}        ShareGPT
    {"prompt": "...", "completion": "..."}
    {"instruction": "...", "input": "", "output": "..."}            Alpaca (Taori et al. 2023)
    {"prompt": "...", "chosen": "...", "rejected": "..."}           preferences; each may be a list of messages
    {"text": "...", "label": "..."}                                 classification; also CSV and TSV with a header

A file comes from outside: anything that does not fit raises a ValueError that names file, line and field. Fields that
no format has are not read, and named once per file.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from gpt.console import show
from gpt.files import StrPath, errors_at, read_text, shortened, write_json_lines

from .chat_template import Message, check_messages

IGNORE = -100  # the target of a token that is not learned from, as in PyTorch

T = TypeVar("T")
AnItem = TypeVar("AnItem", bound="Item")
Row = dict[str, Any]  # an object of a file
UNREADABLE = (ValueError, RecursionError)  # what Python raises for a damaged JSON text

# The fields of each format of conversations, by the field that tells the format.
FORMATS = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "prompt": ("prompt", "completion"),
    "instruction": ("instruction", "input", "output"),
}
OTHER_FIELDS = ("chosen", "rejected", "ref_chosen_logps", "ref_rejected_logps", "text", "label")
READ = {*OTHER_FIELDS, *(field for fields in FORMATS.values() for field in fields)}
# What ShareGPT calls the roles; "developer" is OpenAI's newer name for "system".
ROLE_NAMES = {"human": "user", "gpt": "assistant", "observation": "tool", "developer": "system"}


class Item:
    """Something to learn from. `place`: the file and line that it comes from, for error messages."""

    place: str

    def as_json(self) -> dict[str, Any]:
        """The item's fields, as the functions below read them from a line."""
        return {name: value for name, value in vars(self).items() if name != "place" and value is not None}


@dataclasses.dataclass(frozen=True)
class Example(Item):
    """A conversation that ends with the assistant. The model learns to write all messages of the assistant.

    completion: the number of messages in the completion, where a file separates it from its prompt. The assistant's
    messages in the prompt are then only read, as in TRL.
    """

    messages: list[Message]
    place: str = dataclasses.field(default="", compare=False)
    completion: int | None = None

    @property
    def question(self) -> list[Message]:
        """The conversation up to the assistant's last message."""
        return self.messages[:-1]

    def as_json(self) -> dict[str, Any]:
        if self.completion is None:
            return {"messages": self.messages}
        return {"prompt": self.messages[: -self.completion], "completion": self.messages[-self.completion :]}


@dataclasses.dataclass(frozen=True)
class Preference(Item):
    """Two answers to one conversation, one better than the other.

    ref_chosen_logps, ref_rejected_logps: ln of their probabilities under DPO's reference model, once they are computed;
    the names are those of TRL.
    """

    prompt: list[Message]
    chosen: str
    rejected: str
    place: str = dataclasses.field(default="", compare=False)
    ref_chosen_logps: float | None = None
    ref_rejected_logps: float | None = None


@dataclasses.dataclass(frozen=True)
class Labelled(Item):
    """A text and the name of its class."""

    text: str
    label: str
    place: str = dataclasses.field(default="", compare=False)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_examples(path: StrPath) -> list[Example]:
    """Read conversations in any of the four formats, which may be mixed, from a JSON Lines file or a JSON array.

    An Alpaca "input" is appended to its instruction after an empty line. Raises ValueError naming file, line and field.
    """
    return _read_items(path, read_rows(path), _conversation)


def read_preferences(path: StrPath) -> list[Preference]:
    """Read pairs of answers. Raises ValueError naming file, line and field, also if the two answers are the same."""
    return _read_items(path, read_rows(path), _preference)


def read_labelled(path: StrPath) -> list[Labelled]:
    """Read texts with labels from a .csv or .tsv file whose header has the columns text and label, or from JSON Lines.

    Raises ValueError naming file, line and field.
    """
    delimiter = {".csv": ",", ".tsv": "\t"}.get(Path(path).suffix.lower())
    rows = read_rows(path) if delimiter is None else _table(path, delimiter)
    return _read_items(path, rows, _labelled)


def write_jsonl(path: StrPath, items: Iterable[Item]) -> None:
    """Write items as the functions above read them, one line each."""
    write_json_lines(path, (item.as_json() for item in items))


def _read_items(path: StrPath, rows: Iterable[tuple[str, Row]], parse: Callable[[Row, str], AnItem]) -> list[AnItem]:
    """The items of rows, which come with their places: parse(row, place). Shows which fields are not read."""
    items = []
    ignored: dict[str, None] = {}
    for place, row in rows:
        with errors_at(place):
            items.append(parse(row, place))
        ignored |= dict.fromkeys(name for name in row if name not in READ)
    if ignored:
        show(f"{path}: fields that are not read: {_names(ignored)}")
    return items


def _format(row: Row) -> str:
    """Which of FORMATS a row is in."""
    for name in FORMATS:
        if name in row:
            return name
    known = "; or ".join(" and ".join(fields) for fields in FORMATS.values())
    raise ValueError(f"expected the fields {known}; got {_names(row)}")


def _conversation(row: Row, place: str) -> Example:
    kind = _format(row)
    completion = None
    if kind in ("messages", "conversations"):
        messages = _checked(row[kind])
    elif kind == "prompt":
        prompt, messages = _as_messages(row, "prompt", "user"), _as_messages(row, "completion", "assistant")
        completion = len(messages)
        messages = prompt + messages
        check_messages(messages)
    else:
        question = _text(row, "instruction")
        if row.get("input") not in (None, ""):
            question += "\n\n" + _text(row, "input")
        messages = [Message(role="user", content=question), Message(role="assistant", content=_text(row, "output"))]
    if messages[-1]["role"] != "assistant":
        raise ValueError("the last message must be the assistant's: it is what to learn")
    if len(messages) < 2 or messages[-2]["role"] not in ("user", "tool"):
        raise ValueError("before the assistant's last message there must be one of the user's: what it answers")
    if not messages[-1]["content"].strip():
        raise ValueError("the assistant's last message is empty: there is nothing to learn from")
    return Example(messages, place, completion)


def _preference(row: Row, place: str) -> Preference:
    prompt = _as_messages(row, "prompt", "user")
    check_messages(prompt)
    chosen, rejected = _reply(row, "chosen", prompt), _reply(row, "rejected", prompt)
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same: there is nothing to prefer")
    return Preference(prompt, chosen, rejected, place, row.get("ref_chosen_logps"), row.get("ref_rejected_logps"))


def _reply(row: Row, field: str, prompt: list[Message]) -> str:
    messages = _as_messages(row, field, "assistant")
    if messages[: len(prompt)] == prompt:  # some files repeat the prompt in each answer
        messages = messages[len(prompt) :]
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise ValueError(f"{field} must be one message of the assistant, after the prompt's messages or alone")
    if not messages[0]["content"].strip():
        raise ValueError(f"{field} is empty")
    return messages[0]["content"]


def _labelled(row: Row, place: str) -> Labelled:
    if type(row.get("label")) is int:  # not a bool, which is an int as well
        row = {**row, "label": str(row["label"])}
    text, label = _text(row, "text"), _text(row, "label")
    for field in ("text", "label"):
        if not row[field].strip():
            raise ValueError(f"{field} is empty")
    return Labelled(text, label, place)


def _as_messages(row: Row, field: str, role: str) -> list[Message]:
    """The messages in a field, which is a list of them, or a text that is said by `role`."""
    if isinstance(row.get(field), list):
        with errors_at(field):
            return _checked(row[field])
    return [Message(role=role, content=_text(row, field))]


def _checked(messages: Any) -> list[Message]:
    """Messages of any of the forms above, as `check_messages` accepts them, with role and content alone."""
    if isinstance(messages, list):
        messages = [_message(m, f"message {i}") if isinstance(m, dict) else m for i, m in enumerate(messages, 1)]
    check_messages(messages)
    return messages


def _message(message: dict[str, Any], place: str) -> dict[str, Any]:
    """A message in OpenAI's form or ShareGPT's, with a role of ours and a text: parts are joined, and calls of tools
    are written after it, as Hermes and Qwen do.
    """
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if isinstance(content, list):
        if any(not isinstance(part, dict) or not isinstance(part.get("text"), str) for part in content):
            raise ValueError(f"{place}: only texts are read, and its content has other parts: {shortened(content)}")
        content = "".join(part["text"] for part in content)
    if (calls := message.get("tool_calls")) and isinstance(content, str | None):
        with errors_at(f"{place}: tool_calls must be functions with name and arguments", caught=(KeyError, TypeError)):
            written = [json.dumps({key: call["function"][key] for key in ("name", "arguments")}) for call in calls]
        texts = [] if content is None else [content]
        content = "\n".join([*texts, *(f"<tool_call>\n{call}\n</tool_call>" for call in written)])
    fields = {"role": ROLE_NAMES.get(role, role) if isinstance(role, str) else role, "content": content}
    return {name: value for name, value in fields.items() if value is not None}


def _text(row: Row, field: str) -> str:
    if field not in row:
        raise ValueError(f"there is no field {field!r}, only {_names(row)}")
    if not isinstance(row[field], str):
        raise ValueError(f"the field {field!r} must be a text, got {shortened(row[field])}")
    return row[field]


def _names(row: Iterable[Any]) -> str:
    return ", ".join(repr(str(name)[:40]) for name in list(row)[:8]) or "none"


def read_rows(path: StrPath) -> list[tuple[str, Row]]:
    """(place, object) for each object in a file of JSON lines, or in one JSON array."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        with errors_at(f"{path}: this is not a JSON array", caught=UNREADABLE):
            rows = [(f"{path}, item {number}", row) for number, row in enumerate(json.loads(text), start=1)]
    else:
        rows = []
        for number, line in enumerate(text.split("\n"), start=1):  # not splitlines(): strings may hold U+2028
            if line.strip():
                with errors_at(f"{path}, line {number}: this is not valid JSON", caught=UNREADABLE):
                    rows.append((f"{path}, line {number}", json.loads(line)))
    if not rows:
        raise ValueError(f"{path} is empty: write one object on each line")
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{place}: expected a JSON object, got {shortened(row)}")
        with errors_at(f"{place}: this is not text, or nested too deeply", caught=UNREADABLE):
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    return rows


def _table(path: StrPath, delimiter: str) -> Iterator[tuple[str, Row]]:
    """(place, {column: value}) for each row of a CSV or TSV file; the place is the line where a row ends."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{place}: the row does not have as many fields as the header in line 1")
            yield place, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.reader.line_num}: {error}") from None


# --- splits, encoding and batches ------------------------------------------------------------------------------------


def hold_out(items: list[T], data: str, name: str) -> tuple[list[T], list[T]]:
    """Split the items of the file `data` into those to train on and the last tenth, to test on. Raises ValueError for a
    single item; name: what an item is called there.
    """
    if len(items) < 2:
        raise ValueError(f"{data} has one {name} only: one more is needed to test on")
    held_out = max(len(items) // 10, 1)
    return items[:-held_out], items[-held_out:]


def encode_items(items: Iterable[AnItem], encode: Callable[[AnItem], tuple[T, bool]], name: str) -> tuple[list[T], int]:
    """Encode each item with encode(item) -> (encoded, whether it was shortened); also returns how many were shortened.

    A ValueError from `encode` gets the item's place before its message, or its name and number, such as "pair 2".
    """
    encoded = []
    for number, item in enumerate(items, start=1):
        with errors_at(item.place or f"{name} {number}"):
            encoded.append(encode(item))
    return [result for result, _ in encoded], sum(shortened for _, shortened in encoded)


def show_data(name: str, train: Sequence[Any], test: Sequence[Any], shortened: int = 0) -> None:
    """Show how many items there are to learn from and to test on, and how many were shortened to fit the model."""
    show(f"data: {len(train):,} {name} to learn from, {len(test):,} to test on")
    if shortened:
        show(f"{shortened:,} were too long for the model: their oldest turns are left out, or their end is cut")


def pad_right(sequences: Sequence[Sequence[int]], fill: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of different lengths as one array (B, T), and their lengths (B).

    The padding is on the right, where a causal model never looks: no token sees it. The lengths tell what is padding;
    its id cannot, because it may also be the id of a real token.

    >>> pad_right([[5, 6, 7], [8]], fill=0)
    (array([[5, 6, 7],
           [8, 0, 0]]), array([3, 1]))
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    padded = np.full((len(sequences), lengths.max()), fill)
    for row, sequence in zip(padded, sequences):
        row[: len(sequence)] = sequence
    return padded, lengths


class ShuffledBatches(Iterator[Any], Generic[T]):
    """An endless, seeded stream of batches: every item once per epoch, each epoch in another order.

    collate: makes a batch of a list of `batch_size` items. `state_dict()` and `load_state_dict()` continue the stream
    exactly where it was. Raises ValueError if there are no items.

    >>> batches = ShuffledBatches("abcde", 3, "".join, seed=1)
    >>> next(batches), next(batches)
    ('eab', 'cdb')
    """

    def __init__(self, items: Sequence[T], batch_size: int, collate: Callable[[list[T]], Any], seed: int = 0):
        if not items or batch_size < 1:
            raise ValueError(f"batches of {batch_size} cannot be made of {len(items)} items")
        self.items, self.batch_size, self.collate, self.seed = items, batch_size, collate, seed
        self.taken = 0  # how many items have been given

    def __next__(self) -> Any:
        places = range(self.taken, self.taken + self.batch_size)
        self.taken += self.batch_size
        n = len(self.items)
        return self.collate([self.items[self._order(place // n)[place % n]] for place in places])

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.items))

    def state_dict(self) -> dict[str, Any]:
        """The stream's position: how many items it has given."""
        return {"taken": self.taken, "items": len(self.items)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict()`. Raises ValueError for one of other data."""
        if state.get("items") != len(self.items) or not isinstance(state.get("taken"), int):
            raise ValueError(f"the data have {len(self.items)} items, those of the run had {state.get('items')}")
        self.taken = state["taken"]


def batches_of(items: Sequence[T], batch_size: int, collate: Callable[[list[T]], Any]) -> Iterator[Any]:
    """Batches of all items, once and in order, for evaluation."""
    for start in range(0, len(items), batch_size):
        yield collate(list(items[start : start + batch_size]))
