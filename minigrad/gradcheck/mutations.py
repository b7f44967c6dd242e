"""Mistakes made on purpose: every small change of a function that somebody might have written by mistake.

Two searches use them. An exercise changes the right formula until it gives a learner's wrong numbers: the change is
what the learner did. `gradcheck` changes an op's own backward until the gradient is right: the change is the repair.

Most changes are tables of patterns, with a line for each: right => wrong | what is wrong with it. In a pattern a single
letter stands for any expression (the same letter twice: the same expression), and `*r`, `**k` for any arguments.
"""

from __future__ import annotations

import ast
import copy
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Change(NamedTuple):
    """`new` stands where `old` stood, in the statement that assigns `target` ("" where none is assigned).

    sentence: what is wrong with `new`, if `old` is right. rank: the lower, the more often people do it. kind: changes
    of one kind may be made everywhere at once.
    """

    old: str
    new: str
    target: str
    line: int
    sentence: str
    rank: int
    kind: str = ""


STATEMENT, SEVERAL_LINES, CONDITION, OFF_BY_ONE = "statement", "several lines", "condition", "off by one"
LESS_KEEPDIMS, MORE_KEEPDIMS = "keepdims taken away", "keepdims added"

# --- the tables -------------------------------------------------------------------------------------------------------

USUAL = """
a - a.max(*r, **k)  => a                   | overflow: the largest of {a} must be subtracted first, {old}
1 - a               => a                   | {a} stands where {old} belongs
a + b               => a                   | a term is missing: {b}
a + b               => b                   | a term is missing: {a}
a + b               => a - b               | the sign of {b} is flipped: it must be added
a + b               => b - a               | the sign of {a} is flipped: it must be added
a + b               => a * b               | {a} and {b} are multiplied: they must be added
a + b               => b + a               | {a} and {b} are joined in the wrong order: {old} is right
a * b + (1 - a) * c => (1 - a) * b + a * c | the weights {a} and 1 - {a} are exchanged: {old} is right
a - b               => a                   | a term is missing: {b} must be subtracted
a - b               => -b                  | a term is missing: {a}
a - b               => b                   | {b} stands where {old} belongs
a - b               => a / b               | {a} is divided by {b}: their difference is needed
a - b               => a + b               | the sign of {b} is flipped: it must be subtracted
a - b               => b - a | the difference is the wrong way around: its operands are exchanged, {old} is right
-a                  => a                   | the sign is flipped: the minus in front of {a} is missing

a * a       => a                                  | the square is missing: {a} stands where {a}^2 belongs
a ** 2      => a                                  | the square is missing: {a} stands where {a}^2 belongs
a ** 2      => np.abs(a)                          | the magnitude of {a} stands where its square belongs
a * a       => np.abs(a)                          | the magnitude of {a} stands where its square belongs
a ** 2      => 2 * a                              | 2 * {a} stands where the square of {a} belongs
a * b       => a                                  | a factor is missing: {b}
a * b       => b                                  | a factor is missing: {a}
a * b       => a / b                              | it is divided by {b}: it must be multiplied by it
a * b       => b / a                              | it is divided by {a}: it must be multiplied by it
a * b       => a + b                              | {a} and {b} are added: they must be multiplied
a / b       => a                                  | not divided by {b}: the division is missing
a / b       => a * b                              | it is multiplied by {b}: it must be divided by it
a / b       => b / a                              | the fraction is upside down: {old} is right
1 / a       => a                                  | {a} stands where {old} belongs
a / b       => a // b                             | `//` rounds down: {old} is right
a * (b - c) => a * b - c                          | {c} lacks the factor {a}: {old} is right
a * (b + c) => a * b + c                          | {c} lacks the factor {a}: {old} is right
(a - b) / c => a - b / c                          | {a} is not divided by {c}: {old} is right
(a - b) / c => a / c - b                          | {b} is not divided by {c}: {old} is right
(a + b) / c => a + b / c                          | {a} is not divided by {c}: {old} is right
(a + b) / c => a / c + b                          | {b} is not divided by {c}: {old} is right
a ** b      => a                                  | the power {b} of {a} is missing
a ** b      => a * b                              | {a} is multiplied by {b}: {old} is a power
a ** b      => a ** (b + 1)                       | the power of {a} is one too large: {old} is right
a ** b      => a ** (b - 1)                       | the power of {a} is one too small: {old} is right
a @ b       => b @ a                              | the factors of the matrix product are exchanged: {old} is right
a @ b       => a * b                              | element by element where a matrix product belongs: {old}
a @ b       => a.swapaxes(-1, -2) @ b             | {a} is transposed, or a transpose of it is missing: {old} is right
a @ b       => a @ b.swapaxes(-1, -2)             | {b} is transposed, or a transpose of it is missing: {old} is right
a @ b       => (a @ b).swapaxes(-1, -2)           | the matrix product is transposed: {old} is right
a @ b       => b.swapaxes(-1, -2) @ a.swapaxes(-1, -2) | the matrix product is transposed: {old} is right

np.logaddexp(0, a)         => np.log(1 + np.exp(a))        | overflow: e^x is inf for large x; use {old}
np.logaddexp(0, a)         => -np.log(1 / (1 + np.exp(a))) | overflow: for large x this is log 0; use {old}
0.5 * (1 + np.tanh(a / 2)) => np.exp(a) / (1 + np.exp(a))  | overflow: inf / inf is nan for large x; use {old}
not a                      => a                            | the condition {a} is the wrong way around: `not` is missing
~a                         => a                            | the mask {a} is the wrong way around: `~` is missing
a and b                    => a                            | the condition {b} is missing
a and b                    => b                            | the condition {a} is missing
a or b                     => a                            | the condition {b} is missing
a if b else c              => a                            | the case where {b} does not hold is forgotten
a if b else c              => c                            | the case where {b} holds is forgotten
a if b else c              => c if b else a                | the condition {b} is the wrong way around
np.where(a, b, c)          => np.where(a, c, b)            | the condition {a} is the wrong way around
np.where(a, b, c)          => b | the condition {a} is ignored: where it does not hold, {c} belongs
np.where(a, b, c)          => c                            | the condition {a} is ignored: where it holds, {b} belongs
np.clip(a, b, c)           => a                            | the clipping of {a} is missing
np.clip(a, b, c) * d       => np.clip(a * d, b, c)         | the product with {d} is clipped: only {a} must be, {old}
np.clip(a, b, c)           => np.minimum(a, c) | {a} is clipped from above only: the lower bound {b} is missing
np.clip(a, b, c)           => np.maximum(a, b) | {a} is clipped from below only: the upper bound {c} is missing
reversed(a)                => a | the order is wrong: it goes forwards, and must go backwards (reversed)
range(a)                   => reversed(range(a)) | the order is wrong: it goes backwards, and must go forwards
sorted(a, **k)             => a                            | the order is wrong: {a} is not sorted
np.minimum(a, b)           => a                            | {b} is missing in {old}: the smaller of both is needed
np.minimum(a, b)           => b                            | {a} is missing in {old}: the smaller of both is needed
np.maximum(a, b)           => a                            | {b} is missing in {old}: the larger of both is needed
np.maximum(a, b)           => b                            | {a} is missing in {old}: the larger of both is needed
min(a, b)                  => a                            | {b} is missing in {old}: the smaller of both is needed
min(a, b)                  => b                            | {a} is missing in {old}: the smaller of both is needed
max(a, b)                  => a                            | {b} is missing in {old}: the larger of both is needed
max(a, b)                  => b                            | {a} is missing in {old}: the larger of both is needed

a.T                         => a                           | the transpose of {a} is missing
a.swapaxes(-1, -2)          => a                           | the transpose of {a} is missing
a.swapaxes(-1, -2)          => a.T                         | `.T` of a batch reverses all axes: use {a}.swapaxes(-1, -2)
a.transpose(*r)             => a | the transpose of {a} is missing: reshape alone mixes its axes
a[1:]                       => a[:-1] | {a} is shifted the wrong way: [1:] leaves out the first, [:-1] the last
a[:-1]                      => a[1:] | {a} is shifted the wrong way: [:-1] leaves out the last, [1:] the first
a[1:]                       => a                           | {a} is not shifted by one: [1:] leaves out the first
a[:-1]                      => a                           | the last of {a} must be left out: [:-1]
np.concatenate([a, b], **k) => np.concatenate([b, a], **k) | {a} must come before {b}: the order is exchanged
np.concatenate([a, b], **k) => b | {a}, what there was so far, is lost: {b} must be appended to it
np.concatenate([a, b], **k) => a                           | {b} is not appended
np.repeat(a, b, **k)        => np.tile(a, b)               | np.tile repeats the whole array, np.repeat each element
np.repeat(a, b, axis=1)     => np.tile(a, (1, b, 1, 1))    | np.tile repeats the whole array, np.repeat each element
"""
TWICE = """
a + b => a + b + b | {b} is added twice
a + b => a + a + b | {a} is added twice
a * b => a * b * b | the factor {b} is applied twice
a * b => a * a * b | the factor {a} is applied twice
a * b => 2 * a * b | it is counted twice: a factor 2 is too much in {old}
a / b => a / b / b | it is divided by {b} twice
"""
CALLS = """
min(*r, **k)           => max(*r, **k)          | `max` stands where `min` belongs: {old}
max(*r, **k)           => min(*r, **k)          | `min` stands where `max` belongs: {old}
(a * b).sum(*r, **k)   => a * b.sum(*r, **k)    | {a} stands outside the sum: it belongs inside, {old}
(a * b).sum(*r, **k)   => a.sum(*r, **k) * b    | {b} stands outside the sum: it belongs inside, {old}
(a * b).sum(*r, **k)   => a.sum(*r, **k) * b.sum(*r, **k) | a product of sums for the sum of the products
(a ** 2).sum(*r, **k)  => a.sum(*r, **k) ** 2   | the square stands outside the sum
a * b.sum(*r, **k)     => (a * b).sum(*r, **k)  | {a} stands inside the sum: it belongs outside, {old}
(a * b).mean(*r, **k)  => a * b.mean(*r, **k)   | {a} stands outside the mean: it belongs inside, {old}
(a * b).mean(*r, **k)  => a.mean(*r, **k) * b   | {b} stands outside the mean: it belongs inside, {old}
(a * b).mean(*r, **k)  => a.mean(*r, **k) * b.mean(*r, **k) | a product of means for the mean of the products
(a ** 2).mean(*r, **k) => a.mean(*r, **k) ** 2  | the square stands outside the mean
a * b.mean(*r, **k)    => (a * b).mean(*r, **k) | {a} stands inside the mean: it belongs outside, {old}
f(a) * b               => a * f(b)              | {f} stands around {b}: it belongs around {a}, {old}
f(a)                   => a                     | {f} is missing: {a} stands where {old} belongs
f(a, b)                => a                     | {f} is missing: {a} stands where {old} belongs
f(a, b, c)             => a                     | {f} is missing: {a} stands where {old} belongs
"""

_REDUCTIONS = ("sum", "mean", "max", "min", "var", "prod", "any", "all")
_WORDS = {
    "np.sqrt": "the root", "np.exp": "the exponential", "np.log": "the logarithm", "np.abs": "the magnitude",
    "np.tanh": "tanh", "math.sqrt": "the root", "math.exp": "the exponential", "np.log1p": "the logarithm",
}  # fmt: skip
# What people write instead of a function or a comparison.
FUNCTIONS = """
sum         => mean, max
mean        => sum, max
max         => min, mean, sum
min         => max
var         => std
maximum     => minimum, add
minimum     => maximum
argmax      => argmin
argmin      => argmax
cos         => sin
sin         => cos
rint        => trunc, floor, ceil
tril        => triu
any         => all
all         => any
exp         => expm1
log         => log2, log10, log1p
tanh        => sin, arctan
prod        => sum
zeros       => ones
concatenate => stack
sqrt        => square
abs         => square
"""
COMPARISONS = """
<           => <=, >, >=
<=          => <, >, >=
>           => >=, <, <=
>=          => >, <, <=
==          => !=
!=          => ==
in          => not in
not in      => in
is          => is not
is not      => is
"""


def _lines(table: str) -> Iterator[tuple[str, str, str]]:
    """(right, wrong, sentence) for each line of a table."""
    for line in filter(None, table.splitlines()):
        change, sentence = line.split(" | ")
        right, wrong = change.split(" => ")
        yield right.strip(), wrong.strip(), sentence


def _instead(table: str) -> Iterator[tuple[str, list[str]]]:
    """(right, what may stand there instead) for each line of a table."""
    for line in filter(None, table.splitlines()):
        right, others = line.split(" => ")
        yield right.strip(), others.split(", ")


def _of_functions() -> Iterator[tuple[str, str, str]]:
    """Functions left out, exchanged for others, and what stands inside them for what stands outside."""
    for name, others in _instead(FUNCTIONS):
        for other in others:
            sentence = f"`{other}` stands where `{name}` belongs, in {{old}}"
            yield f"np.{name}(*r, **k)", f"np.{other}(*r, **k)", sentence
            if name in _REDUCTIONS or name.startswith("arg"):
                yield f"a.{name}(*r, **k)", f"a.{other}(*r, **k)", sentence
    for name in _REDUCTIONS:
        yield f"a.{name}(*r, **k)", "a", f"the {name} is missing: {{a}} stands where {{old}} belongs"
    for f, words in _WORDS.items():
        yield f"{f}(a)", "a", f"{words} is missing: {{a}} stands where {{old}} belongs"
        yield f"{f}(a)", f"{f}({f}(a))", f"{words} is taken twice"
        yield f"{f}(a)", "1 / (1 + np.exp(-a))", f"the sigmoid stands where {words} belongs"
    for f in [*_WORDS, "np.logaddexp(0, {})", "math.cos", "np.cos", "np.sin"]:
        of = f if "{}" in f else f + "({})"
        name = f"`{f.partition('(')[0].rpartition('.')[2]}`"
        for op in "+-*/":
            inside = of.format(f"a {op} b")
            left = f"{of.format('a')} {op} b"
            right = f"a {op} {of.format('b')}"
            yield inside, left, f"{{b}} stands outside {name}: it belongs inside, {{old}}"
            yield inside, right, f"{{a}} stands outside {name}: it belongs inside, {{old}}"
            yield left, inside, f"{{b}} stands inside {name}: it belongs outside, {{old}}"
            yield right, inside, f"{{a}} stands inside {name}: it belongs outside, {{old}}"


def _of_comparisons() -> Iterator[tuple[str, str, str]]:
    for right, others in _instead(COMPARISONS):
        for other in others:
            sentence = "the comparison {old} is the wrong way around"
            if other.strip("=") == right.strip("="):  # < and <=
                sentence = "at the border, {a} = {b}, the wrong side is taken: {old}"
            yield f"a {right} b", f"a {other} b", sentence
        yield f"a {right} b", "True", "the condition {old} is ignored"
        yield f"a {right} b", "False", "nothing is done where {old} holds"


# --- patterns ---------------------------------------------------------------------------------------------------------


Rule = tuple[ast.expr, ast.expr, str, int]  # right, wrong, the sentence, the rank


@functools.cache
def rules() -> dict[type[ast.AST], list[Rule]]:
    """The tables as syntax trees, with their ranks, by the type of what they match."""
    found: dict[type[ast.AST], list[Rule]] = {}
    usual = [*_lines(USUAL), *_of_comparisons()]
    rarer = [*_lines(TWICE), *_of_functions(), *_lines(CALLS)]
    for rank, table in enumerate((usual, rarer)):
        for old, new, sentence in table:
            pattern = _expression(old)
            found.setdefault(type(pattern), []).append((pattern, _expression(new), sentence, rank))
    return found


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _match(pattern: Any, node: Any, found: dict[str, Any]) -> bool:
    """Does `node` look like `pattern`? What its letters stand for is added to `found`."""
    if isinstance(pattern, ast.Name) and len(pattern.id) == 1:
        if pattern.id in found:
            return same_tree(found[pattern.id], node)
        found[pattern.id] = node
        return isinstance(node, ast.expr)
    if type(pattern) is not type(node):
        return False
    if isinstance(pattern, ast.AST):
        fields = [field for field in pattern._fields if field not in ("ctx", "kind")]
        return all(_match(getattr(pattern, field), getattr(node, field), found) for field in fields)
    if isinstance(pattern, list):
        if letter := _any_arguments(pattern):
            found[letter] = node
            return True
        return len(pattern) == len(node) and all(_match(p, n, found) for p, n in zip(pattern, node))
    return bool(pattern == node)


def _filled(template: Any, found: dict[str, Any]) -> Any:
    """`template` with its letters replaced by what they stand for."""
    if isinstance(template, ast.Name) and template.id in found:
        return found[template.id]
    if isinstance(template, list):
        if letter := _any_arguments(template):
            return found.get(letter, [])
        return [_filled(part, found) for part in template]
    if isinstance(template, ast.AST):
        return type(template)(**{name: _filled(getattr(template, name), found) for name in template._fields})
    return template


def _any_arguments(part: list[Any]) -> str:
    """The letter of a part of a pattern that stands for any arguments: "r" for *r, "k" for **k; "" otherwise."""
    if len(part) != 1 or getattr(part[0], "arg", None) is not None:  # a keyword with a name
        return ""
    return {ast.Starred: "r", ast.keyword: "k"}.get(type(part[0]), "")


def same_tree(a: Any, b: Any) -> bool:
    return isinstance(a, ast.AST) and isinstance(b, ast.AST) and ast.dump(a) == ast.dump(b)


def in_words(node: Any) -> str:
    """An expression as a formula.

    >>> in_words(_expression("np.sqrt(ctx.x ** 2).mean(axis=-1, keepdims=True)"))
    '`sqrt(x^2).mean(axis=-1)`'
    """
    text = re.sub(r"\b(ctx|np|math)\.|, keepdims=True|, dtype=\w+", "", ast.unparse(node))
    text = text.replace(" ** ", "^").replace(".swapaxes(-1, -2)", "^T").replace(".T", "^T")
    return f"`{text if len(text) < 100 else text[:96] + ' ...'}`"


# --- changes that need more than a pattern ----------------------------------------------------------------------------

New = tuple[Any, str, int, str]  # a replacement, the sentence, the rank, the kind of change


def _changes_of(node: ast.AST, names: list[ast.expr], smooth: bool) -> Iterator[New]:
    """All replacements of one expression. smooth: no comparison in the function lets results agree by chance."""
    for pattern, template, sentence, rank in rules().get(type(node), ()):
        found: dict[str, Any] = {}
        if _match(pattern, node, found) and not isinstance(getattr(node, "operand", None), ast.Constant):
            new = _filled(template, found)
            words = {letter: in_words(part) for letter, part in found.items() if isinstance(part, ast.AST)}
            yield new, sentence.format(old=in_words(node), new=in_words(new), **words), rank, sentence
    if isinstance(node, ast.Call):
        yield from _of_axes(node)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        for text in (str(name.value) for name in names if isinstance(name, ast.Constant) and name.value != node.value):
            if text[:-1] == node.value[:-1]:
                yield ast.Constant(text), f"{text!r} stands where {node.value!r} belongs", 1, ""
    operand = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else node
    if isinstance(operand, ast.Constant) and type(operand.value) in (int, float):
        number: Any = operand.value if operand is node else -operand.value  # type: ignore[operator]
        tenth = number // 10 if number % 10 == 0 else number / 10
        for value in dict.fromkeys([number + 1, number - 1, -number, 0, 1, number * 2, number * 10, tenth]):
            if value != number:
                sentence = f"{value} stands where {number} belongs"
                yield ast.Constant(value), sentence, 1, sentence
    if isinstance(node, ast.Name | ast.Attribute) and any(same_tree(node, name) for name in names):
        for name in names:
            if not same_tree(node, name) and not isinstance(name, ast.Constant):
                product, quotient = (ast.BinOp(node, op, name) for op in (ast.Mult(), ast.Div()))
                for new, rank in [(name, 2), (product, 3), (quotient, 3)][: 3 if smooth else 1]:
                    yield new, f"{in_words(new)} stands where {in_words(node)} belongs", rank, ""
        for sign, size in (("+", "large"), ("-", "small")):
            new = _filled(_expression(f"a {sign} 1"), {"a": node})
            yield new, f"it is off by one: {in_words(node)} is taken 1 too {size}", 2, f"{OFF_BY_ONE} {sign}"
    if isinstance(node, ast.Slice) and (node.lower is None) != (node.upper is None):
        end: Any = node.lower or node.upper
        sentence = f"{in_words(node)} is right: the other end is taken (left and right, first and last)"
        minus = ast.UnaryOp(ast.USub(), end)
        yield ast.Slice(minus, None) if node.lower is None else ast.Slice(None, minus), sentence, 0, "slice"
    if isinstance(node, ast.Tuple) and len(node.elts) > 1:
        for parts, one, other in _exchanges(node.elts):
            sentence = f"{in_words(one)} and {in_words(other)} are exchanged: {in_words(node)} is the order"
            yield ast.Tuple(parts, ast.Load()), sentence, 0, ""


def _exchanges(nodes: list[ast.expr]) -> Iterator[tuple[list[ast.expr], ast.expr, ast.expr]]:
    """The list with two of its expressions exchanged, and these two, for every two of them."""
    for i, j in itertools.combinations(range(len(nodes)), 2):
        exchanged = list(nodes)
        exchanged[i], exchanged[j] = nodes[j], nodes[i]
        yield exchanged, nodes[i], nodes[j]


def _of_axes(node: ast.Call) -> Iterator[New]:
    """Other axes of a reduction, keepdims and ddof; other orders of transpose and reshape."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    is_reduction = name in (*_REDUCTIONS, "argmax", "argmin", "cumsum")

    def with_keywords(**changed: ast.expr | None) -> ast.Call:
        merged: dict[Any, ast.expr | None] = {**keywords, **changed}
        return ast.Call(node.func, node.args, [ast.keyword(key, value) for key, value in merged.items() if value])

    if "axis" in keywords:
        right = in_words(keywords["axis"]).strip("`")
        for axis in ("None", "0", "1", "2", "3", "-1", "-2"):
            if axis != right:
                where = "over everything" if axis == "None" else f"along axis {axis}"
                new = with_keywords(axis=_expression(axis))
                yield new, f"`{name}` runs {where}: it must run along axis={right}", 0, f"{right} {axis}"
    if "keepdims" in keywords:
        sentence = f"keepdims=True is missing in {in_words(node)}: its axis must stay"
        yield with_keywords(keepdims=None), sentence, 0, LESS_KEEPDIMS
    elif is_reduction and "axis" in keywords:
        sentence = f"the axis must go: keepdims=True is too much in {in_words(node)}"
        yield with_keywords(keepdims=ast.Constant(True)), sentence, 1, MORE_KEEPDIMS
    if name == "var":
        sentence = "the variance divides by n - 1: it must divide by n (ddof=0)"
        yield with_keywords(ddof=ast.Constant(1)), sentence, 0, "ddof"
    if name in ("transpose", "reshape") and isinstance(node.func, ast.Attribute) and 1 < len(node.args) < 6:
        for arguments, _, _ in _exchanges(node.args):
            new = ast.Call(node.func, arguments, node.keywords)
            yield new, f"two axes are exchanged in `{name}`: {in_words(node)} is right, not {in_words(new)}", 0, ""


class _Site(NamedTuple):
    """A place in a tree: `holder[key]`, where the holder is a list of nodes, or the attributes of one node."""

    holder: Any
    key: Any
    statement: ast.stmt

    def get(self) -> Any:
        return self.holder[self.key]

    def put(self, node: Any) -> None:
        if isinstance(node, list):  # statements in the place of one
            self.holder[self.key : self.key + 1] = node
        else:
            self.holder[self.key] = node


def _sites(parent: ast.AST, statement: ast.stmt | None = None) -> Iterator[_Site]:
    """Every expression and statement in the body of a function, outermost first."""
    for field, value in ast.iter_fields(parent):
        if statement is None and field != "body":
            continue  # not arguments, decorators and annotations
        holder: Any = value if isinstance(value, list) else vars(parent)
        for key, node in enumerate(value) if isinstance(value, list) else [(field, value)]:
            is_target = isinstance(getattr(node, "ctx", None), ast.Store)
            if isinstance(node, ast.stmt | ast.expr | ast.Slice) and not is_target:
                site = _Site(holder, key, node if isinstance(node, ast.stmt) else statement)  # type: ignore[arg-type]
                is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                if not is_docstring:
                    yield site
                    yield from _sites(node, site.statement)
            elif isinstance(node, ast.AST) and statement is not None:  # keywords, slices, comprehensions
                yield from _sites(node, statement)


def _changes_of_statement(site: _Site) -> Iterator[New]:
    node, words = site.get(), _first_line(site.get())
    if isinstance(node, ast.AugAssign):
        sentence = "accumulation overwritten: = where += belongs, so only the last one counts and nothing adds up"
        yield ast.Assign([node.target], node.value, lineno=0), sentence, 0, STATEMENT
        opposite = ast.Sub if isinstance(node.op, ast.Add) else ast.Add
        yield ast.AugAssign(node.target, opposite(), node.value), f"the sign is flipped in {words}", 0, STATEMENT
    found: dict[str, Any] = {}
    if isinstance(node, ast.Expr) and _match(_expression("np.add.at(a, b, c)"), node.value, found):
        target = ast.Subscript(found["a"], found["b"], ast.Store())
        sentence = f"accumulation overwritten: where an index repeats only one place counts, {words} adds them all up"
        yield ast.AugAssign(target, ast.Add(), found["c"]), sentence, 0, STATEMENT
        yield ast.Assign([target], found["c"], lineno=0), sentence, 0, STATEMENT
    if isinstance(node, ast.If):
        test = in_words(node.test)
        yield node.body, f"the condition {test} is ignored", 0, CONDITION
        yield node.orelse or ast.Pass(), f"the case {test} is not treated", 0, STATEMENT
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.For):
        yield ast.Pass(), f"the step {words} is missing", 1, STATEMENT
    if isinstance(node, ast.Assign | ast.AugAssign | ast.Return) and not isinstance(node.value, ast.Tuple | None):
        changed = copy.copy(node)
        changed.value = ast.UnaryOp(ast.USub(), node.value)
        rank = -1 if isinstance(node, ast.Return) else 1  # the whole result, or a part of it
        yield changed, f"the sign of {target_of(node) or 'the result'} is flipped", rank, STATEMENT
    if isinstance(node, ast.For):
        once = ast.For(node.target, node.iter, [*node.body, ast.Break()], [], lineno=0)
        yield once, "it stops after one round", 1, SEVERAL_LINES
    body = site.holder
    if site.key + 1 < len(body) and not isinstance(body[site.key + 1], ast.Return):
        following = _first_line(body[site.key + 1])
        yield None, f"the order of the steps is wrong: {words} must come before {following}", 2, SEVERAL_LINES


def _first_line(statement: ast.stmt) -> str:
    return in_words(statement).splitlines()[0].rstrip("`") + "`"


def target_of(statement: ast.stmt) -> str:
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    return "" if targets[0] is None or isinstance(statement, ast.For) else in_words(targets[0]).strip("`()")


# --- the search -------------------------------------------------------------------------------------------------------


def mutants(function: ast.AST, extra: Sequence[str] = ()) -> Iterator[Change]:
    """Change the tree of a function or class in one way after the other; each holds until the next is asked for.

    First single places; then, where the same change is possible in several places, all of them at once: of the same
    piece, in one statement or in all, and of the same kind. extra: expressions that a name may be exchanged for,
    besides the names in the function.
    """
    together: dict[str, list[tuple[_Site, Any, Change]]] = {}
    for method in [node for node in ast.walk(function) if isinstance(node, ast.FunctionDef)]:
        names = [*_names(method), *map(_expression, extra)]
        smooth = not any(isinstance(node, ast.Compare) for node in ast.walk(method))
        arrays = {ast.unparse(node.value) for node in ast.walk(method) if isinstance(node, ast.Attribute)}
        for site in list(_sites(method)):
            old = site.get()
            if isinstance(old, ast.stmt):
                body = site.holder
                kept = list(site.holder)
                for new, sentence, rank, kind in _changes_of_statement(site):
                    if new is None:
                        body[site.key : site.key + 2] = body[site.key : site.key + 2][::-1]
                    else:
                        site.put(new)
                    yield Change(in_words(old), in_words(new) if new else "", "", old.lineno, sentence, rank, kind)
                    body[:] = kept
                continue
            for new, sentence, rank, kind in _changes_of(old, names, smooth):
                if kind.startswith(OFF_BY_ONE) and ast.unparse(old) in arrays:
                    continue  # only a number is taken 1 too large
                where = target_of(site.statement), site.statement.lineno
                change = Change(in_words(old), in_words(new), *where, sentence, rank, kind)
                for place in (method.name, id(site.statement)):
                    together.setdefault(f"{place} {change.old} {change.new}", []).append((site, new, change))
                if kind:
                    everywhere = change._replace(target="", sentence=f"{sentence}, in every place", rank=rank + 1)
                    together.setdefault(f"{method.name}: {kind}", []).append((site, new, everywhere))
                site.put(new)
                yield change
                site.put(old)
    for group in together.values():
        sites = {(id(site.holder), site.key): (site, site.get(), new) for site, new, _ in group}
        if len(sites) > 1:
            for site, _, new in sites.values():
                site.put(new)
            yield group[0][2]
            for site, old, _ in sites.values():
                site.put(old)


def _names(method: ast.FunctionDef) -> Iterator[ast.expr]:
    """What a formula in `method` may use: arguments, variables, what it or forward has put into ctx, and texts."""
    names = {argument.arg for argument in method.args.args} - {"ctx", "self"}
    names |= {node.id for node in ast.walk(method) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    yield from (ast.Name(name, ast.Load()) for name in sorted(names))
    constants = {node.value for node in ast.walk(method) if isinstance(node, ast.Constant)}
    yield from (ast.Constant(text) for text in sorted(map(str, constants)) if text in constants)
    saved = {ast.unparse(node) for node in ast.walk(method) if isinstance(node, ast.Attribute)}
    yield from (_expression(name) for name in sorted(saved) if name.startswith(("ctx.", "self.")))


def compiled(tree: ast.Module, namespace: dict[str, Any], path: str = "<mutant>") -> dict[str, Any]:
    """Run the program, and return what it defines, together with the names in `namespace`."""
    made = dict(namespace)
    exec(compile(ast.fix_missing_locations(tree), path, "exec"), made)
    return made
