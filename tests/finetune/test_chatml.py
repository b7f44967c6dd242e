"""Reading chat templates: ChatML in its spellings, what is something else, and never another answer than Jinja's."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.chat_template import ChatTemplate
from finetune.data.chatml import CHATML, UnknownTemplate, default_system, steps
from gpt import Tokenizer
from tests.gpt.smollm import IM_END, IM_START, TEMPLATE

SYSTEM = f"'{IM_START}system\nYou are Kel.{IM_END}\n'"
TURN = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
OPENING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

# Spellings of ChatML that models on the hub bring, with the default system message that each has.
KNOWN = {
    "SmolLM2": (TEMPLATE, "You are a helpful AI assistant"),
    "plain": ("{% for message in messages %}" + TURN + "{% endfor %}" + OPENING, None),
    "preamble": (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
        "{% for message in messages %}" + TURN + "{% endfor %}" + OPENING, None),
    "attributes": (
        "{%- for message in messages -%}\n    {{- '<|im_start|>' ~ message.role + '\\n' + message.content -}}"
        "\n    {{ '<|im_end|>\\n' -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n"
        '    {{- "<|im_start|>assistant\\n" -}}\n{%- endif -%}\n', None),
    "literal text": (
        "{# ChatML #}\n{% for message in messages %}\n<|im_start|>{{ message['role'] }}\n"
        "{{ message[\"content\"] }}<|im_end|>\n{% endfor %}\n  {% if add_generation_prompt %}\n"
        "<|im_start|>assistant\n{% endif %}\n", None),
    "system before the loop": (
        "{% if messages[0]['role'] != 'system' %}{{ " + SYSTEM + " }}{% endif %}\r\n"
        "{% for message in messages %}" + TURN + "{% endfor %}" + OPENING, "You are Kel."),
    "system inside": (
        "{% for message in messages %}{% if loop.first  and  message.role!=\"system\" %}{{ " + SYSTEM + " }}{% endif %}"
        + TURN + "{% endfor %}" + OPENING, "You are Kel."),
}  # fmt: skip
OTHERS = {
    "empty": "",
    "text": "Hello.",
    "no loop": TURN,
    "trimmed content": CHATML.replace("message['content']", "message['content'] | trim"),
    "another role": CHATML.replace("assistant", "model"),
    "another end": CHATML.replace("<|im_end|>", "</s>"),
    "no line break": CHATML.replace(" + '\\n' }}", " }}"),
    "literal line break": CHATML.replace("{% endfor", "\n\n{% endfor"),
    "another condition": TEMPLATE.replace("!=", "=="),
    "no answer opened": "{% for message in messages %}" + TURN + "{% endfor %}",
    "more": CHATML + "{{ eos_token }}",
    "no system message": TEMPLATE.replace("<|im_start|>system\nYou", "You"),
    "a variable in the system message": TEMPLATE.replace("You are a", "' + name + '"),
    "marked": CHATML.replace("message['role']", "'⟨message.role⟩'"),
    "Llama 3": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{% endfor %}",
    "damaged": "{% for message in messages %}{{ 'a' + }}{% endfor %}",
    "unclosed": "{% for message in messages",
    "a damaged string": CHATML.replace("assistant", "\\x"),
    "endless": "{%" * 1_000_000,
}
ROLES = ("user", "assistant")
MESSAGES = st.lists(st.text("a 5\n\té<|>{}'", max_size=8), min_size=1, max_size=4).map(
    lambda texts: [{"role": role, "content": text} for role, text in zip(itertools.cycle(ROLES), texts)]
)


@pytest.mark.parametrize("name", KNOWN)
def test_chatml_is_known_in_any_spelling(name):
    template, system = KNOWN[name]
    assert default_system(template) == system


@pytest.mark.parametrize("name", OTHERS)
def test_other_templates_are_unknown(name):
    with pytest.raises(UnknownTemplate, match="^the chat template "):
        default_system(OTHERS[name])


@given(st.lists(st.sampled_from([*"ab\n\\'\"{}%-# \t+", "{%", "%}", "{{", "}}", "{% for m in x %}"])).map("".join))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(UnknownTemplate):
        assert all(what in ("do", "write") for what, _ in steps(text))
    with pytest.raises(UnknownTemplate):
        default_system(text)


def jinja(template):
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(template)


def rendered(template, messages, prompt):
    tokenizer = Tokenizer.train("a", 260, [IM_START, IM_END])
    tokenizer.chat_template = template
    return ChatTemplate(tokenizer).render(messages, prompt)


@pytest.mark.oracle("transformers", "jinja2")
@pytest.mark.parametrize("name", KNOWN)
@given(messages=MESSAGES, system=st.none() | st.text("S 5\n", max_size=5), prompt=st.booleans())
def test_conversations_are_written_as_jinja_writes_them(name, messages, system, prompt):
    template, _ = KNOWN[name]
    messages = messages if system is None else [{"role": "system", "content": system}, *messages]
    expected = jinja(template).render(messages=messages, add_generation_prompt=prompt)
    assert rendered(template, messages, prompt) == expected


@pytest.mark.oracle("transformers", "jinja2")
@pytest.mark.parametrize("where", [{0}, {1}, {2}, {3}, {4}, {0, 1, 2, 3, 4}])
@pytest.mark.parametrize("gap", ["\n", "  ", "\n  \n", "\n\n", " \n", "\n  "])
@pytest.mark.parametrize("tag", [("{{", "}}"), ("{{-", "}}"), ("{{ ", " -}}")])
def test_space_around_tags_counts_as_in_jinja(where, gap, tag):
    """Whatever such a template writes: if it is taken for ChatML, then it writes what Jinja writes."""
    turn = "'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'".join(tag)
    gaps = [gap if i in where else "" for i in range(5)]
    pieces = ["{% for message in messages %}", turn, "{% endfor %}", OPENING]
    template = gaps[0] + "".join(piece + after for piece, after in zip(pieces, gaps[1:], strict=True))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    expected = jinja(template).render(messages=messages, add_generation_prompt=True)
    try:
        system = default_system(template)
    except UnknownTemplate:
        assert expected != rendered(CHATML, messages, True)  # nor does Jinja write ChatML
    else:
        assert system is None and expected == rendered(CHATML, messages, True)
