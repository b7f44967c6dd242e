"""Chat templates as models bring them: a small program in the language Jinja, read without running it.

A model's files say how conversations were written when it was tuned, in a form that transformers runs:

    {% for message in messages %}
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
    {% endfor %}
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}

That is ChatML. Some models begin with a system message of their own where a conversation has none. Here a template is
taken apart into its statements and the texts that they write, each in one spelling, and compared with these two forms.
Nothing that a file contains is executed. Simplified: other templates are not understood, and `UnknownTemplate` says so.
"""

from __future__ import annotations

import re

IM_START, IM_END = "<|im_start|>", "<|im_end|>"  # "im": input message
# ChatML in Jinja, for transformers to follow what was tuned here.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_LONGEST = 100_000  # characters; the longest templates of known models have 20,000
_TAG = re.compile(r"(\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\})", re.DOTALL)
_STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_INDEX = re.compile(r"""\[(['"])(\w+)\1\]""")

Step = tuple[str, str]  # ("do", a statement) or ("write", a text with ⟨message.role⟩ where a variable's value goes)

_PLAIN: list[Step] = [
    ("do", "for message in messages"),
    ("write", f"{IM_START}⟨message.role⟩\n⟨message.content⟩{IM_END}\n"),
    ("do", "endfor"),
    ("do", "if add_generation_prompt"),
    ("write", f"{IM_START}assistant\n"),
    ("do", "endif"),
]
# What some templates begin with, for callers that do not say whether they want an answer.
_PREAMBLE: list[Step] = [
    ("do", "if not add_generation_prompt is defined"),
    ("do", "set add_generation_prompt = false"),
    ("do", "endif"),
]
_NO_SYSTEM_BEFORE = "if messages[0].role != 'system'"
_NO_SYSTEM_INSIDE = ("if loop.first and messages[0].role != 'system'", "if loop.first and message.role != 'system'")
_SYSTEM_START, _TURN_END = f"{IM_START}system\n", f"{IM_END}\n"


class UnknownTemplate(ValueError):
    """A chat template that is not ChatML, with or without a default system message."""


def default_system(template: str) -> str | None:
    """The system message that a ChatML template adds where a conversation has none; None if it adds nothing.

    Raises UnknownTemplate for every other template.

    >>> default_system(CHATML) is None
    True
    >>> start = "{% if messages[0].role != 'system' %}<|im_start|>system\\nBe kind.<|im_end|>\\n{{ '' }}{% endif %}"
    >>> default_system(start + CHATML)
    'Be kind.'
    """
    program, text = steps(template), ""
    if program[:3] == _PREAMBLE:
        program = program[3:]
    match program:
        case [("do", condition), ("write", text), ("do", "endif"), *rest] if condition == _NO_SYSTEM_BEFORE:
            program = rest
        case [loop, ("do", condition), ("write", text), ("do", "endif"), *rest] if condition in _NO_SYSTEM_INSIDE:
            program = [loop, *rest]
    if program != _PLAIN:
        raise UnknownTemplate("the chat template is not ChatML, with or without a default system message")
    if not text:
        return None
    if not text.startswith(_SYSTEM_START) or not text.endswith(_TURN_END) or "⟨" in text:
        raise UnknownTemplate(f"the chat template begins with {text!r:.80}, which is no system message of ChatML")
    return text[len(_SYSTEM_START) : -len(_TURN_END)]


def steps(template: str) -> list[Step]:
    """A template as its statements and what it writes between them, each in one spelling.

    Space around tags is treated as transformers has Jinja do it (`trim_blocks`, `lstrip_blocks`). Raises
    UnknownTemplate for an expression that is no sum of strings and variables.

    >>> steps("{% for m in x %}\\n{{ 'a' + m['b'] }}!\\n{%- endfor %}")
    [('do', 'for m in x'), ('write', 'a⟨m.b⟩!'), ('do', 'endfor')]
    """
    if "⟨" in template:
        raise UnknownTemplate("the chat template contains U+27E8, which would be taken for a variable here")
    if len(template) > _LONGEST:
        raise UnknownTemplate(f"the chat template has more than {_LONGEST:,} characters, which are not read")
    parts = _TAG.split(re.sub(r"\r\n?", "\n", template).removesuffix("\n"))
    program: list[Step] = []
    for i, part in enumerate(parts):
        if i % 2 == 0:  # between two tags
            before, after = parts[i - 1] if i else "", parts[i + 1] if i + 1 < len(parts) else ""
            text = _space_trimmed(part, before, after)
        elif part.startswith("{#"):
            continue
        elif part.startswith("{%"):
            program.append(("do", _one_spelling(part[2:-2].removeprefix("-").removesuffix("-"))))
            continue
        else:
            text = _written(part[2:-2].removeprefix("-").removesuffix("-"))
        if text and program and program[-1][0] == "write":
            program[-1] = ("write", program[-1][1] + text)
        elif text:
            program.append(("write", text))
    return program


def _space_trimmed(text: str, before: str, after: str) -> str:
    """A text between the tags `before` and `after` ("" at the ends of a template), less what Jinja leaves out."""
    starts_line = not before
    if before.endswith(("-%}", "-}}", "-#}")):
        text = text.lstrip()
    elif before.endswith(("%}", "#}")):
        starts_line = text.startswith("\n")
        text = text.removeprefix("\n")
    if after.startswith(("{%-", "{{-", "{#-")):
        return text.rstrip()
    if after.startswith(("{%", "{#")):
        head, newline, line = text.rpartition("\n")
        if (newline or starts_line) and not line.strip(" \t"):
            return head + newline
    return text


def _one_spelling(code: str) -> str:
    """message["role"] and message.role are the same, and so is any space."""
    code = _INDEX.sub(r".\2", " ".join(code.split())).replace('"', "'")
    return re.sub(r"\s*(==|!=|=|\+)\s*", r" \1 ", code)


def _written(expression: str) -> str:
    """The text that a sum of strings and variables writes, with ⟨name⟩ for a variable's value."""
    text, place = "", 0
    while True:
        if string := _STRING.match(expression := expression.strip()):
            text += _without_escapes(string[0][1:-1])
            place = string.end()
        elif variable := re.match(r"""\w+(\.\w+|\[(['"])\w+\2\])*""", expression):
            text += f"⟨{_one_spelling(variable[0])}⟩"
            place = variable.end()
        rest = expression[place:].strip()
        if not place or rest[:1] not in ("", "+", "~"):
            raise UnknownTemplate(f"the chat template writes {expression!r:.80}, which is not understood here")
        if not rest:
            return text
        expression, place = rest[1:], 0


def _without_escapes(string: str) -> str:
    """What stands between the quotes of a string: its escapes are Python's, as Jinja has them."""
    try:
        return string.encode("ascii", "backslashreplace").decode("unicode-escape")
    except UnicodeDecodeError:
        raise UnknownTemplate(f"the chat template has a damaged string, {string!r:.80}") from None
