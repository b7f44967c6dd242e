"""Files of conversations, preferences and labelled texts, and batches."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.datasets import (
    Example,
    Labelled,
    Preference,
    ShuffledBatches,
    read_examples,
    read_labelled,
    read_preferences,
    write_jsonl,
)
from gpt.files import write_text
from tests.finetune.small import write_rows
from tests.helpers import write_json


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
AB = [user("a"), assistant("b")]
NO_INPUT = {"instruction": "a", "input": None, "output": "b"}
TOOL, PART = {"role": "tool", "content": "42"}, {"type": "text", "text": "a"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.jsonl"


# --- conversations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, messages",
    [
        ({"messages": AB, "source": "x"}, AB),
        ({"messages": [{**user("a"), "id": 7}, assistant("b")]}, AB),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 1}]},
            AB,
        ),
        (
            {"messages": [{"role": "developer", "content": "s"}, user([PART]), assistant("b")]},
            [{"role": "system", "content": "s"}, *AB],
        ),
        (
            {"messages": [user("a"), {**assistant(None), "tool_calls": [CALL]}, TOOL, assistant("b")]},
            [user("a"), assistant('<tool_call>\n{"name": "f", "arguments": "{}"}\n</tool_call>'), TOOL, assistant("b")],
        ),
        ({"instruction": "a", "input": "", "output": "b"}, AB),
        (NO_INPUT, AB),
        ({"instruction": "a", "input": "é\u2028c", "output": "b"}, [user("a\n\né\u2028c"), assistant("b")]),
    ],
)
def test_every_format_is_read_from_lines_and_from_an_array(row, messages, path):
    lines = f"\n{json.dumps(row, ensure_ascii=False)}\n\n{json.dumps(row)}\n"
    array = "\ufeff" + json.dumps([row, row], indent=1)
    for text, places in ((lines, ("line 2", "line 4")), (array, ("item 1", "item 2"))):
        write_text(path, text)
        assert read_examples(path) == [Example(messages)] * 2
        assert [example.place for example in read_examples(path)] == [f"{path}, {place}" for place in places]


@pytest.mark.parametrize("earlier", [[], [user("z"), assistant("y")]])
@pytest.mark.parametrize("later", [[], [assistant("c"), user("d")]])
def test_a_completion_is_told_from_its_prompt(earlier, later, path):
    prompt, completion = [*earlier, user("a")], [*later, assistant("b")]
    texts = [] if earlier or later else [{"prompt": "a", "completion": "b"}]
    write_json(path, [{"prompt": prompt, "completion": completion}, *texts])
    assert read_examples(path) == [Example([*prompt, *completion], completion=len(completion))] * (1 + len(texts))


KEYS = ["role", "content", "from", "value", "tool_calls", "function", "text"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 5) | st.floats() | st.sampled_from(["", "a", "user", "assistant"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=8,
)
FIELDS = ["messages", "conversations", "prompt", "completion", "instruction", "input", "output"]
FIELDS += ["chosen", "rejected", "text", "label"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_json_is_read_or_refused_in_one_sentence(tmp_path_factory, row):
    path = write_rows(tmp_path_factory.getbasetemp() / "any.jsonl", [row])
    for read in (read_examples, read_preferences, read_labelled):
        try:
            assert len(read(path)) == 1
        except ValueError as error:
            assert str(error).startswith(f"{path}, line 1: ") and "\n" not in str(error) and len(str(error)) < 400


# --- preferences ------------------------------------------------------------------------------------------------------


def test_preferences_are_texts_or_messages(path):
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]},
        {"prompt": "a", "chosen": AB, "rejected": [user("a"), assistant("c")]},
    ]
    assert read_preferences(write_rows(path, rows)) == [Preference([user("a")], "b", "c")] * 3


def test_fields_that_are_not_read_are_named_once(path, capsys):
    row = {"messages": AB, "source": "x"}
    read_examples(write_rows(path, [row, {**row, "id": 3}]))
    assert capsys.readouterr().out == f"{path}: fields that are not read: 'source', 'id'\n"
    write_jsonl(path, read_examples(write_rows(path, [{"prompt": "a", "completion": "b"}])))
    read_examples(path)
    assert capsys.readouterr().out == ""


# --- labelled texts ---------------------------------------------------------------------------------------------------

ITEMS = [Labelled('he said "no", twice', "ham"), Labelled("two\nlines é", "spam")]


def test_labelled_texts_from_csv_tsv_and_lines(tmp_path):
    rows = {
        "a.csv": 'label,text,more\r\nham,"he said ""no"", twice",1\r\nspam,"two\nlines é",2\r\n',
        "a.TSV": 'text\tlabel\n"he said ""no"", twice"\tham\n"two\nlines é"\tspam\n',
        "a.jsonl": "".join(json.dumps(item.as_json()) + "\n" for item in ITEMS),
    }
    for name, text in rows.items():
        (tmp_path / name).write_bytes(text.encode("utf-8"))
        assert read_labelled(tmp_path / name) == ITEMS, name
    assert [item.place.rpartition(" ")[2] for item in read_labelled(tmp_path / "a.csv")] == ["2", "4"]
    assert read_labelled(write_rows(tmp_path / "b.jsonl", [{"text": "a", "label": 1}])) == [Labelled("a", "1")]


# --- errors -----------------------------------------------------------------------------------------------------------

GOOD = '{"prompt": "a", "completion": "b"}'
OF_CONVERSATIONS = [
    ({"text": "a"}, "expected the fields messages; or conversations; or prompt and completion; or instruction"),
    ({"messages": [user([{"type": "image_url"}]), assistant("b")]}, "message 1: only texts are read"),
    ({"messages": [user("a"), {**assistant(""), "tool_calls": [5]}]}, "message 2: tool_calls must be functions"),
    ({"prompt": "a"}, "there is no field 'completion', only 'prompt'"),
    ({"prompt": [{"role": "user"}], "completion": "b"}, "prompt: message 1: content must be a text, got none"),
    *[({**NO_INPUT, "input": x}, f"the field 'input' must be a text, got {x}") for x in ({}, [], 0, False)],
    ({"messages": ["hi"]}, "message 1 must be an object"),
    ({"messages": [user("a"), {"role": "system", "content": "b"}]}, "message 2: a system message must be the first"),
    ({"messages": [user("a"), {"role": "robot", "content": "b"}]}, "message 2: role must be one of"),
    ({"messages": [user("a")]}, "the last message must be the assistant's"),
    ({"messages": [assistant("b")]}, "before the assistant's last message there must be one of the user's"),
    ({"prompt": "a", "completion": " \n"}, "the assistant's last message is empty: there is nothing to learn from"),
    ({"prompt": "\ud800", "completion": "b"}, "this is not text, or nested too deeply"),
    ("", "is empty: write one object on each line"),
    (GOOD + '\n{"prompt"', "line 2: this is not valid JSON"),
    ("{" + '"a":{' * 100_000, "this is not valid JSON"),
    (f"[{GOOD}\n{{}}]", "this is not a JSON array: Expecting ',' delimiter: line 2"),
    ("[\n3]", "item 1: expected a JSON object, got 3"),
    (b'{"prompt": "\xff"}', "not UTF-8"),
]
OF_PREFERENCES = [
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "line 1: chosen and rejected are the same"),
    ({"prompt": "a", "chosen": [user("b")], "rejected": "c"}, "line 1: chosen must be one message of the assistant"),
]
OF_LABELLED_TEXTS = [
    ("a,b\n1,2\n", "line 2: there is no field 'text', only 'a', 'b'"),
    ("text,label\nx,y\nx\n", "line 3: the row does not have as many fields as the header"),
    ("text,label\n ,y\n", "line 2: text is empty"),
    ('text,label\n"x,y\n', "line 2: unexpected end of data"),
    ("text,label\n" + "x" * 200_000 + ",y\n", "line 2: field larger than field limit"),
    ({"text": "x", "label": 1.5}, "line 1: the field 'label' must be a text, got 1.5"),
]


@pytest.mark.parametrize(
    "read, content, words",
    [
        *((read_examples, *row) for row in OF_CONVERSATIONS),
        *((read_preferences, *row) for row in OF_PREFERENCES),
        *((read_labelled, *row) for row in OF_LABELLED_TEXTS),
    ],
)
def test_errors_name_file_line_and_field_in_one_sentence(read, content, words, tmp_path):
    path = tmp_path / ("a.csv" if read is read_labelled and isinstance(content, str) else "a.jsonl")
    text = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    with pytest.raises(ValueError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message and words in message and "\n" not in message and len(message) < 400
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read(path.with_name("nowhere"))


def test_what_is_written_is_read_again(path):
    talk = [user("a\u2028b"), assistant('"é\n"')]
    for items, read in (
        ([Example(talk), Example([*talk, *talk], completion=3)], read_examples),
        ([Preference(talk[:1], "x", "y")], read_preferences),
        (ITEMS, read_labelled),
    ):
        write_jsonl(path, items)
        assert read(path) == items and b"\r" not in path.read_bytes()


# --- batches ----------------------------------------------------------------------------------------------------------


def test_every_item_comes_once_per_epoch_and_in_another_order():
    batches = ShuffledBatches(range(10), 4, list, seed=3)
    stream = [item for _ in range(5) for item in next(batches)]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10)) and stream[:10] != stream[10:]
    assert [next(ShuffledBatches(range(10), 4, list, seed)) for seed in (3, 3)] == [stream[:4]] * 2
    assert next(ShuffledBatches(range(10), 4, list, seed=4)) != stream[:4]


def test_batches_go_on_where_a_checkpoint_stopped():
    batches = ShuffledBatches(range(10), 3, list, seed=1)
    for _ in range(5):
        next(batches)
    state = json.loads(json.dumps(batches.state_dict()))
    expected = [next(batches) for _ in range(4)]
    again = ShuffledBatches(range(10), 3, list, seed=1)
    again.load_state_dict(state)
    assert [next(again) for _ in range(4)] == expected
    with pytest.raises(ValueError, match="the data have 9 items, those of the run had 10"):
        ShuffledBatches(range(9), 3, list).load_state_dict(state)
