"""The formulas in an op's docstring as MathML, which browsers draw: "dx = dout / (2 out)" with a fraction bar.

Names are italic and functions (ln, softmax) upright, whatever their length. A long formula wraps before = + and -.
"""

import inspect
import re
from typing import Any

from scripts.shared.web_page import escaped

_START = r"[^\W\d_][\w\u0300-\u036f']*(?:_\w+)?(?:\[[\w, ]+\]|\(\w\))? (?:[=≈]|<-) "
_FORMULA = re.compile(_START)
# What stands between two formulas.
_PIECES = re.compile(
    rf";\s+|,\s{{2,}}|:\s{{2,}}|\s{{3,}}|(?<=[\w)])\.(?:\s|$)|:\s(?={_START})|(?:\b[Ww]ith|,\swhere)\s(?={_START})"
)
_NAME = re.compile(r"[^\W\d_\u1d40₀-₉]+[\u0300-\u036f']*")
_RESULTS = {"out", "loss", "p"}  # what forward, or an optimizer's rule, is there to compute
_PROSE = re.compile(
    r"[,:]? (?:where|with|for|so|over|along|elementwise|of|in|on|else|then|repeated|if|and|the|a(?= \w\w)|"
    r"each|which|is|since|summed|without|before|keeps)\b.*"
)
_TOKEN = re.compile(r"\s*(\d+\.?\d*|[^\W\d_][^\W\d_²³\u1d40]*[\u0300-\u036f']*(?:[₀-₉]|_[a-z]{3,})?|.)")
_PREFIXES = {"Σ", "Π", "√", "∫", "ln", "exp", "tanh", "mean", "softmax", "max", "min", "sign"}
_CALLED = {"silu", "sigmoid", "erf", "onehot", "attention", "norm", "std", "clip", "cos", "sin", "var", "gelu", "sum"}
_FUNCTIONS = (_PREFIXES | _CALLED) - {"Σ", "Π", "√", "∫"}
_UPPER = {"²": "2", "³": "3", "ᵀ": "T"}
_CLOSING = {"(": ")", "[": "]", "⟨": "⟩"}  # the last: | and |
_RELATIONS = set("=≈←<>≤≥,|")


def formulas(function: Any) -> tuple[list[str], list[str]]:
    """The formulas of a Function's docstring for forward and for backward, each list in the order of computation.

    >>> forward, backward = formulas(type("Half", (), {"__doc__": "out = x / 2;  dx = dout / 2."}))
    >>> print(backward[0].replace("<wbr/>", "\\n"))
    <p class="math"><math displaystyle="true"><mi>dx</mi></math>
    <math displaystyle="true"><mo form="infix">=</mo><mfrac><mi>dout</mi><mn>2</mn></mfrac></math></p>
    """
    found: list[str] = []
    for line in inspect.cleandoc(function.__doc__ or "").split("\n"):
        line = re.sub(r"\s+(?=(?:[=≈]|<-) )", " ", line.replace(" (see Softmax)", ""))  # aligned at the =
        for piece in _PIECES.split(line):
            if _FORMULA.match(piece):
                found.append(piece)
            elif found and piece.startswith(("- ", "+ ")):  # goes on from the line before
                found[-1] += " " + piece
    # Where the docstring gives the result twice, as attention's does, the last version is the one in steps.
    last = {piece.split(" ")[0] if _name(piece) in _RESULTS else piece: piece for piece in found}
    ordered: list[str] = []
    for piece in sorted(last.values(), key=lambda piece: _name(piece) not in _RESULTS):
        _after_what_it_uses(piece, list(last.values()), ordered)
    end = max((i + 1 for i, piece in enumerate(ordered) if _name(piece) in _RESULTS), default=0)
    return [mathml(piece) for piece in ordered[:end]], [mathml(piece) for piece in ordered[end:]]


def _name(piece: str) -> str:
    """The name that a formula defines: dx of "dx_i = dout_i"."""
    return _NAME.match(piece)[0]  # type: ignore[index]


def _after_what_it_uses(piece: str, found: list[str], ordered: list[str]) -> None:
    """Append a formula to `ordered`, and before it the formulas of the names that it uses."""
    if piece in ordered:
        return
    used = set(_NAME.findall(_FORMULA.sub("", piece, count=1))) - {_name(piece), *_RESULTS}
    others = [other for other in found if other != piece]
    for other in others:
        if _name(other) in used:
            _after_what_it_uses(other, others, ordered)
    ordered.append(piece)


def mathml(text: str, display: bool = True) -> str:
    """One formula as a paragraph, or (display=False) in a sentence; prose at its end is text."""
    text = re.sub(r"(,? so)?[.,]*$", "", re.sub(r"(?<=[α-ω])(?=\d)", "_", text)).replace("<-", "←")  # β1 is β_1
    prose = _PROSE.search(text)
    end = prose.start() if prose else len(text)
    while text.count("(", 0, end) > text.count(")", 0, end):  # the prose began inside parentheses
        end = text.rindex("(", 0, end)
    parts = _Reader(text[:end]).line().split("\n")
    if not display:
        parts = parts if len(text) > 30 else ["".join(parts)]
        return "<wbr/>".join(f"<math>{part}</math>" for part in parts) + escaped(text[end:])
    drawn = "<wbr/>".join(f'<math displaystyle="true">{part}</math>' for part in parts)
    return f'<p class="math">{drawn}{escaped(text[end:])}</p>'


class _Reader:
    """Reads a formula from left to right: a line of sums, of products, of factors."""

    def __init__(self, text: str):
        self.tokens = [token for token in _TOKEN.findall(text.strip()) if token.strip()]

    def next(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def line(self, end: str = "") -> str:
        """Up to `end`. Outside of parentheses there is a "\\n" where the formula may wrap."""
        parts: list[str] = []
        while self.tokens and self.next() != end:
            if self.next() in _RELATIONS or self.next() in "+-":
                first = not parts or parts[-1].endswith("</mo>")
                wraps = not end and not first and self.next() not in ",|"
                sign = escaped(self.tokens.pop(0).replace("-", "−"))
                form = ' form="prefix"' if first and sign == "−" else ' form="infix"' if wraps else ""
                parts.append("\n" * wraps + f"<mo{form}>{sign}</mo>")
            else:
                parts.append(self.product(end))
        return "".join(parts)

    def product(self, end: str) -> str:
        done = self.factor()
        while self.tokens and self.next() not in {end, "+", "-", *_RELATIONS, *_CLOSING.values()}:
            if self.next() == "/":
                self.tokens.pop(0)
                done = f"<mfrac>{_one(done)}{_one(self.factor(bare=True))}</mfrac>"
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
            needed = token != "(" or not bare or self.next() in ("^", "_", *_UPPER)
            left, right = "||" if token == "⟨" else (token, end)
            made = f"<mrow><mo>{left}</mo>{inner}<mo>{right}</mo></mrow>" if needed else inner
        else:
            is_name = token == "∞" or (token[:1].isalpha() and token not in "ΣΠ")
            tag = "mn" if token[:1].isdigit() else "mi" if is_name else "mo"
            upright = ' mathvariant="normal"' if token in _FUNCTIONS else ""
            made = f"<{tag}{upright}>{escaped(token)}</{tag}>"
        made = self.raised(made)
        gap = '<mspace width="0.15em"/>' if token in _FUNCTIONS and self.next() not in _CLOSING else ""
        return f"<mrow>{made}{gap}{self.factor()}</mrow>" if token in _PREFIXES and self.starts_a_factor() else made

    def raised(self, made: str) -> str:
        while self.next() in ("_", "^", *_UPPER) and self.tokens:
            mark = self.tokens.pop(0)
            if mark == "_" and self.next() not in ("", "("):  # what follows raises the whole: β_1^t
                script = f"<mi>{escaped(self.tokens.pop(0))}</mi>"
            else:
                script = f"<mn>{_UPPER[mark]}</mn>" if mark in _UPPER else self.factor(bare=True)
            tag = "msub" if mark == "_" else "msup"
            made = f"<{tag}>{_one(made)}{_one(script)}</{tag}>"
        return made

    def starts_a_factor(self) -> bool:
        return bool(self.tokens) and (self.next()[0].isalnum() or self.next() in "(√ΣΠ")


def _one(math: str) -> str:
    return f"<mrow>{math}</mrow>" if math.count("<") > 2 and not re.fullmatch(r"<(\w+)>[^<]*</\1>", math) else math
