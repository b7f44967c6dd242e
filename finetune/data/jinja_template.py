"""Run the chat template that a model brings: a small program in the language Jinja.

It says how conversations were written when the model was tuned. An example from Llama 3:

    {{ bos_token }}{% for message in messages %}
    {{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}

A template is a stranger's program, so it runs in Jinja's sandbox, where it can only read the conversation and write
text. It gets the same settings, filters and functions as in transformers (`_compile_jinja_template` in
transformers/utils/chat_template_utils.py). Simplified: there are no tools and no documents. The steps of its loops are
limited, so a template ends; what a single step may take is not.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

LONGEST = 1_000_000  # characters of a conversation as text
MOST_STEPS = 1_000_000  # of all loops and calls together: a second


def program(source: str, special_tokens: Mapping[str, str]) -> Callable[[Sequence[Any], bool], str]:
    """Compile a template to a function (messages, add_generation_prompt) -> text.

    special_tokens: the tokens that the template names bos_token, eos_token, ... Raises ValueError for a damaged
    template and without the library jinja2. The function raises ValueError if the template refuses the conversation.
    """
    template = _compiled(source)

    def write(messages: Sequence[Any], add_generation_prompt: bool) -> str:
        values = {"tools": None, "documents": None, "add_generation_prompt": add_generation_prompt, **special_tokens}
        pieces = []
        length = 0
        try:
            for piece in template.generate(messages=[dict(message) for message in messages], **values):
                pieces.append(piece)
                length += len(piece)
                if length > LONGEST:
                    raise OverflowError(f"it writes more than {LONGEST:,} characters")
        except Exception as error:  # whatever a stranger's program does wrong
            raise ValueError(f"the model's chat template refuses this conversation: {_reason(error)}") from None
        return "".join(pieces)

    return write


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Any:
    try:
        import jinja2.ext
        import jinja2.sandbox
    except ImportError:
        missing = "the library that runs it is missing: pip install jinja2"
        raise ValueError(f"the model brings its own chat template, and {missing}") from None

    class Generation(jinja2.ext.Extension):
        """{% generation %} ... {% endgeneration %} marks an answer. Its contents are written as they are."""

        tags = {"generation"}  # noqa: RUF012 (Jinja's own way)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    @jinja2.pass_context
    def counted(context: Any, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            _count_step(context)
            yield item

    class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
        def call(self, context: Any, function: Any, /, *arguments: Any, **named: Any) -> Any:
            _count_step(context)  # a macro may call itself
            return super().call(context, function, *arguments, **named)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.filters |= {"tojson": _tojson, "counted": counted}
    today = datetime.datetime.now  # some templates tell the model
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: today().strftime(form)}
    try:
        tree = environment.parse(source)
        for loop in tree.find_all(jinja2.nodes.For):
            loop.iter = jinja2.nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        tree.set_environment(environment)
        return environment.from_string(tree)
    except (jinja2.TemplateError, RecursionError) as error:
        raise ValueError(f"the model's chat template is damaged: {_reason(error)}") from None


def _count_step(context: Any) -> None:
    context.steps = getattr(context, "steps", 0) + 1
    if context.steps > MOST_STEPS:
        raise OverflowError(f"it takes more than {MOST_STEPS:,} steps")


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON without Jinja's own escapes of <, > and &, which are for web pages."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
