"""From text to HTML: a little Markdown, and Python with colors."""

import io
import keyword
import re
import tokenize
from collections.abc import Callable, Iterator

from scripts.pages.formula import mathml
from scripts.shared.web_page import escaped

Link = Callable[[str], str | None]
_ITEM = re.compile(r"(?:[-*]|(\d+)\.)\s+")
_PATH = re.compile(r"\b(?:minigrad|gpt|finetune|scripts|tests)/[\w./-]*\w\.(?:py|md|js|json)\b")
# 443b or 4.4.3b; not in a heading, "Lesson 4.4.3b: DPO"
_LESSON = re.compile(r"(?<!\d)\d(?:\.?\d){1,2}b?(?![\w%:]|\.\d)")
_LESSONS = re.compile(rf"\b[Ll]essons? {_LESSON.pattern}(?:(?:, | and | to ){_LESSON.pattern})*")
_BLOCK = re.compile(r"#{1,6} |[-*] |\d+\. |\|")
# Between a formula and the next, or a remark.
_GAP = re.compile(r"[,;]\s{3,}|[,;]?(?:\s{4,}(?![\s=+])|\s{2,}(?=\()| (?=so ))")
_OPERATOR = re.compile(r"[=≈<>≤≥+*/^·√-]|\b(?:ln |(?:exp|sqrt|softmax)\()")
# Words, and what could be read in two ways: an index "W[0]" or "head_H-1", a dot for a product.
_WORDS = r"(?<![^\W\d_])(?!ln )[^\W\d_]{2,} [^\W\d_]{2,}|\b(?:after|before|over|of)\b|[:;?'\"]"
_NOT_CERTAIN = re.compile(rf"{_WORDS}|\w\[|->|\d x \d|_\w+-\w|(?<!\d)\.(?!\d)")
_REWRITTEN = [  # as formula.py reads it: what belongs together, in parentheses
    (r"\.\.\.", "…"),
    (r"\s+(?== )", " "),  # aligned with the line above
    (r"\b(?:the )?sum over (\w) of ", r"Σ_\1 "),
    (r"_\{([^}]*)\}", r"_(\1)"),
    (r"\[(\w{1,2}(?:(?: [+-]|,) \w{1,2})*)\]", r"_(\1)"),  # PE[t, 2i + 1]
    (r"(?<=\w)\*(?=[ )])", "^∗"),  # π*
    (r"ᵀ", "^T"),
    (r"\|\|", "‖"),
    (r"\|(?! )([^|]*[^ |])\|", r"⟨\1⟩"),  # an absolute value
    (r"(?<=\w )(\d)/(⟨\w+⟩)", r"(\1 / \2)"),
    ("~", "≈"),
    (r"\bsum_", "Σ_"),
    ("<=", "≤"),
    (">=", "≥"),
    ("⁻¹", "^(-1)"),
    ("²", "^2"),
    ("³", "^3"),
    ("⁵", "^5"),
    (r"\binf\b", "∞"),
    (r"\b([^\W\d_])(\d)\b", r"\1_\2"),  # k3, β1
    (r"/ (\w+\([^()]*\))", r"/ (\1)"),  # a / f(x)
    (r"/ d (\w+)", r"/ (d \1)"),  # d loss / d z
    (r"\b([^\W\d_])_([a-z]{3,})(?![a-z_])", r"\1_(\2)"),  # r_chosen; but kl_coef is a name
]
# A formula in a sentence: names, numbers and calls, with signs between them. The values of examples are code.
_VALUES = re.compile(r"(?:Example|Shapes)\b")
_LONG_NAMES = r"(?:ln|lr|eps|KL|TV|inf|alpha|beta|out|loss|ratio|dout|d[xywb])(?![^\W\d_])"
_ENDS = r"(?![^\W²³⁵ᵀ]|['’-]\w)"
_NAME = rf"(?:{_LONG_NAMES}|[^\W\d_])[\u0300-\u036f]*\d*(?:_[^\W²³⁵ᵀ]+)?(?:(?<=π)\*)?{_ENDS}"
_WORD = r"n_|I\b|(?:a|out|loss) [^-+=*/<≈]"  # not names: "a" before anything but a sign
_PART = rf"\w+\([a-z]+\)|[√²³⁵ᵀ]|Σ(?:_\w\b)?|⁻¹|\d+(?:[.,]\d+)*{_ENDS}|(?!{_WORD}){_NAME}"
_SIGN = r"(?: (?:[-+*/=≈<>≤≥·]|[<>]=) |\s|[/^])"
for _ in range(2):  # in parentheses, and in parentheses inside them
    _PART = rf"(?:(?:\w*\(|\|)-?(?:{_PART})(?:(?:{_SIGN}|, )?-?(?:{_PART}))*[)|]|{_PART})"
_REMARK = r"\([^()]*\)(?:[,.;:?!]|\s[a-z]{2}|$)"
_IN_SENTENCE = rf"(?<![\w\0./'’=:^\[-])(?!{_REMARK})-?{_PART}(?:{_SIGN}?-?{_PART})*"  # long: compiled when it is used
# It is a part of something larger, or a name of code.
_BEFORE = re.compile(r"(?:(?<!\S)[-+*/=≈<>·|@](?: \w+)? \(?|\s\. |\.\. |\b[^\W\d], |[\w^]\([^()]*)$")
_AFTER = re.compile(
    r"\)?\s?(?:[-+*/=≈<>^_{\[@%]|\.\w|\.\.|\w+\()|\(|\s\((?![^\W\d]{3})|[^\s,.;:?!)*]|\s(?:\. |\w+ [-+=*/@] )"
)
_OTHER = re.compile(r"-[^\W²³]+$|.*\w\w_\w+\(|[^=^a-zA-Zα-ω]*$")


def markdown_to_html(text: str, link: Link = lambda target: None) -> str:
    """Return Markdown as HTML: headings, paragraphs, lists (one level), tables, formulas and code (four spaces in).

    In a line there may be **bold**, *emphasis*, `code` and [links](target).
    link: maps the target of a link, a path of the project that the text names, a "lesson 4.4.3b" and `code` to an
    address; None: no link. http(s) addresses and #places stand for themselves. All else is shown as text.
    """
    lines = text.split("\n")
    html = []
    while lines:
        line = lines.pop(0)
        if not line.strip():
            continue
        if line.startswith("    "):
            code = [line, *_take(lines, lambda next_line: next_line.startswith("    ") or not next_line.strip())]
            shown = "\n".join(part[4:] for part in code).rstrip()
            html.append(_formulas(shown) or f"<pre>{escaped(shown)}</pre>")
        elif heading := re.match(r"(#{1,6}) (.*)", line):
            html.append(f"<h{len(heading[1])}>{inline(heading[2], link)}</h{len(heading[1])}>")
        elif line.startswith("|"):
            html.append(_table([line, *_take(lines, lambda next_line: next_line.startswith("|"))], link))
        elif item := _ITEM.match(line):
            tag = "ol" if item[1] else "ul"
            html.append(f"<{tag}>{''.join(_items([line, *_take(lines, _goes_on)], link))}</{tag}>")
        else:
            paragraph = [line, *_take(lines, lambda next_line: next_line.strip() and not _BLOCK.match(next_line))]
            html.append(f"<p>{inline(chr(10).join(paragraph), link)}</p>")
    return "\n".join(html)


def _formulas(text: str) -> str:
    """Lines that all begin with a formula, typeset, each with what stands beside it; "" for any other text."""
    html = []
    for line in text.split("\n"):
        pieces = [(piece, formula(piece)) for piece in _GAP.split(line.strip())]
        if not pieces[0][1]:
            return ""
        html += ["<div>", *(math or f'<span class="soft">{escaped(piece)}</span>' for piece, math in pieces), "</div>"]
    return f'<div class="formulas">{"".join(html)}</div>'


def formula(text: str, display: bool = True) -> str:
    """A formula as HTML; "" where it is not certain how to read the text, which then stays as it is.

    >>> formula("the mean of x / y") + formula("(T, C)")
    ''
    """
    for written, read in _REWRITTEN:
        text = re.sub(written, read, text)
    balanced = all(text.count(a) == text.count(b) for a, b in ("()", "[]"))
    if not balanced or re.match(r"\([^()]*\)$", text) or not _OPERATOR.search(text) or _NOT_CERTAIN.search(text):
        return ""
    return mathml(text, display)


def _in_sentence(found: re.Match[str]) -> str:
    """A formula in a sentence as HTML; "" if it is not certain that it is one, and all of it."""
    text, before, after = found[0], found.string[: found.start()], found.string[found.end() :]
    part = _BEFORE.search(before) or _AFTER.match(after)
    return "" if part or _OTHER.match(text) else formula(text, display=False)


def _take(lines: list[str], wanted: Callable[[str], object]) -> list[str]:
    """Remove and return the first lines, as long as they are wanted."""
    taken = []
    while lines and wanted(lines[0]):
        taken.append(lines.pop(0))
    return taken


def _goes_on(line: str) -> bool:
    """Whether a line belongs to the list before it: another item, or the rest of one, which is indented."""
    return bool(_ITEM.match(line)) or (line.startswith(" ") and bool(line.strip()))


def _items(lines: list[str], link: Link) -> Iterator[str]:
    while lines:
        item = [_ITEM.sub("", lines.pop(0), count=1), *_take(lines, lambda line: not _ITEM.match(line))]
        yield f"<li>{inline(chr(10).join(part.strip() for part in item), link)}</li>"


def _table(lines: list[str], link: Link) -> str:
    """A table; the line below its head separates them."""
    html = []
    for line, tag in zip([lines[0], *lines[2:]], ["th", *["td"] * len(lines)]):
        cells = [inline(cell.strip(), link) for cell in line.strip().strip("|").split("|")]
        html.append(f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>")
    return f'<div class="scroll"><table>{"".join(html)}</table></div>'


def inline(text: str, link: Link = lambda target: None) -> str:
    """The marks inside a paragraph. What is finished is kept aside, so that later rules do not see it."""
    finished: list[str] = []

    def keep(html: str) -> str:
        finished.append(html)
        return f"\0{len(finished) - 1}\0"

    def anchor(shown: str, target: str) -> str:
        address = target if re.match(r"https?://|#", target) else link(target)
        return f'<a href="{escaped(address)}">{shown}</a>' if address else shown

    def code(match: re.Match[str]) -> str:
        return keep(anchor(f"<code>{escaped(match[1])}</code>", match[1]))

    def lesson(found: re.Match[str]) -> str:
        name = re.sub(r"(?<=\d)(?=\d)", ".", found[0])  # wherever it is named, it has one name
        return keep(anchor(name, f"lesson {name}"))

    def typeset(found: re.Match[str]) -> str:
        made = _in_sentence(found)
        return keep(made) if made else found[0]

    text = re.sub(r"`([^`]+)`", code, text.replace("\0", "\ufffd"))
    text = re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", lambda m: keep(anchor(inline_rest(m[1]), m[2])), text)
    text = _PATH.sub(lambda m: keep(anchor(escaped(m[0]), m[0])), text)
    text = _LESSONS.sub(lambda named: _LESSON.sub(lesson, named[0]), text)
    if not _VALUES.match(text):
        text = re.sub(_IN_SENTENCE, typeset, text)
    text = inline_rest(text)
    while "\0" in text:
        text = re.sub(r"\0(\d+)\0", lambda m: finished[int(m[1])], text)
    return text


def inline_rest(text: str) -> str:
    """Bold and emphasis."""
    text = re.sub(r"\*\*(?!\s)(.+?)(?<!\s)\*\*", r"<strong>\1</strong>", escaped(text), flags=re.DOTALL)
    return re.sub(r"(?<![\w*])\*(?![\s*])([^*]+?)(?<!\s)\*(?![\w*])", r"<em>\1</em>", text)


def python_to_html(source: str, address: Callable[[str], str] = lambda name: "") -> str:
    """Python with keywords, strings, numbers and comments in <span class="k"> (s, n, c); other text as it is.

    No span goes on over the end of a line. address: maps a name, or "F.softmax", to where a link leads; "": no link.
    """
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    html = []
    done = 0
    dotted = ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            begin, end = (starts[min(row, len(starts)) - 1] + column for row, column in (token.start, token.end))
            kind = _color(token)
            dotted = f"{dotted}{token.string}" if token.string == "." or dotted.endswith(".") else token.string
            link = address(dotted) if token.type == tokenize.NAME and not kind else ""
            if kind:
                made = "\n".join(
                    f'<span class="{kind}">{escaped(part)}</span>' for part in source[begin:end].split("\n")
                )
            elif link:
                made = f'<a href="{escaped(link)}">{escaped(token.string)}</a>'
            else:
                continue
            html += [escaped(source[done:begin]), made]
            done = end
    except (tokenize.TokenError, SyntaxError):
        return escaped(source)
    return "".join([*html, escaped(source[done:])])


def _color(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        return "k" if keyword.iskeyword(token.string) else ""
    if token.type == tokenize.STRING or tokenize.tok_name[token.type].startswith("FSTRING"):
        return "s"
    return {tokenize.NUMBER: "n", tokenize.COMMENT: "c"}.get(token.type, "")
