"""The formulas in an op's docstring as MathML, which browsers draw: "dx = dout / (2 out)" with a fraction bar."""

from __future__ import annotations

import inspect
import re
from typing import Any

from scripts.pages.web_page import escaped

_PIECES = re.compile(r";\s+|,\s{2,}|:\s{2,}|\s{4,}|(?<=[\w)])\.(?:\s|$)")  # what stands between two formulas
_FORMULA = re.compile(r"[^\W\d_][\w\u0300-\u036f']*(?:_\w+)?(?:\[[\w, ]+\])?\s+[=≈] ")
_PROSE = re.compile(
    r"(?:[,:]|,? \(see)? (?:where|with|for|so|over|along|elementwise|of|in|on|else|then|repeated|if|and|the|a|"
    r"each|which|is|since|summed|without|see)\b.*"
)
_TOKEN = re.compile(r"\s*(\d+\.?\d*|[^\W\d_][^\W_\u00b2\u00b3]*[\u0300-\u036f']*|[\u00b2\u00b3\u1d40]|.)")
_PREFIXES = {"Σ", "Π", "√", "∫", "ln", "exp", "tanh", "mean", "softmax", "max", "min", "sign"}
_UPPER = {"²": "2", "³": "3", "ᵀ": "T"}
_CLOSING = {"(": ")", "[": "]"}
_RELATIONS = set("=≈<>≤≥,|")


def formulas(function: Any) -> list[str]:
    """The formulas of a Function's docstring as MathML, in their order.

    >>> formulas(type("Half", (), {"__doc__": "out = x / 2;  dx = dout / 2."}))[0]
    '<math display="block"><mi>out</mi><mo>=</mo><mfrac><mi>x</mi><mn>2</mn></mfrac></math>'
    """
    found: list[str] = []
    for line in inspect.cleandoc(function.__doc__ or "").split("\n"):
        for piece in _PIECES.split(line):
            if _FORMULA.match(piece):
                found.append(piece)
            elif found and piece.startswith(("- ", "+ ")):  # goes on from the line before
                found[-1] += " " + piece
    return [mathml(piece.rstrip(".,")) for piece in found]


def mathml(text: str) -> str:
    """One formula; prose at its end is shown as text."""
    prose = _PROSE.search(text)
    end = prose.start() if prose else len(text)
    while text.count("(", 0, end) > text.count(")", 0, end):  # the prose began inside parentheses
        end = text.rindex("(", 0, end)
    words = f"<mtext>{escaped(text[end:])}</mtext>" if end < len(text) else ""
    return f'<math display="block">{_Reader(text[:end]).line()}{words}</math>'


class _Reader:
    """Reads a formula from left to right: a line of sums, of products, of factors."""

    def __init__(self, text: str):
        self.tokens = [token for token in _TOKEN.findall(text.strip()) if token.strip()]

    def next(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def line(self, end: str = "") -> str:
        parts = []
        while self.tokens and self.next() != end:
            if self.next() in _RELATIONS or self.next() in "+-":
                parts.append(f"<mo>{escaped(self.tokens.pop(0).replace('-', '−'))}</mo>")
            else:
                parts.append(self.product(end))
        return "".join(parts)

    def product(self, end: str) -> str:
        done = self.factor()
        while self.tokens and self.next() not in {end, "+", "-", *_RELATIONS, ")", "]"}:
            if self.next() == "/":
                self.tokens.pop(0)
                below = self.factor(bare=True)
                done = f"<mfrac>{_one(done)}{_one(below)}</mfrac>"
            elif self.next() in "*@":
                self.tokens.pop(0)
                done += "<mo>·</mo>" + self.factor()
            else:  # two factors side by side
                done += '<mspace width="0.2em"/>' + self.factor()
        return done

    def factor(self, bare: bool = False) -> str:
        """bare: parentheses around all of it are not needed, because it stands below a fraction bar."""
        token = self.tokens.pop(0) if self.tokens else ""
        if token == "-":
            return f"<mo>−</mo>{self.factor()}"
        if token == "√" or (token == "sqrt" and self.next() == "("):
            return f"<msqrt>{self.factor(bare=True)}</msqrt>"
        if token in _CLOSING:
            end = _CLOSING[token]
            inner = self.line(end)
            self.tokens[:1] = []
            needed = token == "[" or not bare or self.next() in ("^", "_", *_UPPER)
            made = f"<mrow><mo>{token}</mo>{inner}<mo>{end}</mo></mrow>" if needed else inner
        else:
            tag = "mn" if token[:1].isdigit() else "mi" if token[:1].isalpha() and token not in "ΣΠ" else "mo"
            made = f"<{tag}>{escaped(token)}</{tag}>"
        made = self.raised(made)
        return f"<mrow>{made}{self.factor()}</mrow>" if token in _PREFIXES and self.starts_a_factor() else made

    def raised(self, made: str) -> str:
        while self.next() in ("_", "^", *_UPPER) and self.tokens:
            mark = self.tokens.pop(0)
            script = f"<mn>{_UPPER[mark]}</mn>" if mark in _UPPER else self.factor(bare=True)
            tag = "msub" if mark == "_" else "msup"
            made = f"<{tag}>{_one(made)}{_one(script)}</{tag}>"
        return made

    def starts_a_factor(self) -> bool:
        return bool(self.tokens) and (self.next()[0].isalnum() or self.next() in "(√ΣΠ")


def _one(math: str) -> str:
    return f"<mrow>{math}</mrow>" if math.count("<") > 2 and not re.fullmatch(r"<(\w+)>[^<]*</\1>", math) else math
