"""The exercise "bpe_merge": one step of learning a vocabulary."""

from typing import Any

import hypothesis.strategies as st

from scripts.exercises.catalogue import Exercise
from scripts.exercises.checks import Case, FunctionCheck, Slip
from scripts.exercises.places import Patch

STUB = '''"""bpe_merge: join a pair of neighboring tokens wherever it occurs: one step of byte-pair encoding.

From left to right; a token that was just joined does not take part in the next pair. Return a new list.

Shapes: tokens: a list of bytes objects; pair: two of them -> a list
Example: merge([b"l", b"o", b"w", b"l", b"o"], (b"l", b"o"))  ->  [b"lo", b"w", b"lo"]
         merge([b"a", b"a", b"a"], (b"a", b"a"))              ->  [b"aa", b"a"]
"""


def merge(tokens, pair):
    # TODO
    raise NotImplementedError("the merge")
'''

BLANKS = '''
merged = []
for token in tokens:
    if merged and (merged[-1], token) == pair:
        merged[-1] = pair[0] + pair[1]
    else:
        merged.append(token)
return merged
'''


@st.composite
def cases(draw: Any) -> Case:
    letters = st.sampled_from([b"a", b"b", b"ab"])
    return Case(draw(st.lists(letters, max_size=8)), (draw(letters), draw(letters)))


def by_recursion(tokens: list[bytes], pair: tuple[bytes, bytes], either_way: bool = False) -> list[bytes]:
    if tuple(tokens[:2]) == pair or (either_way and tuple(tokens[1::-1]) == pair):
        return [tokens[0] + tokens[1], *by_recursion(tokens[2:], pair, either_way)]
    return [*tokens[:1], *by_recursion(tokens[1:], pair, either_way)] if tokens else []


def only_first(tokens: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    for i in range(len(tokens) - 1):
        if (tokens[i], tokens[i + 1]) == pair:
            return [*tokens[:i], pair[0] + pair[1], *tokens[i + 2 :]]
    return list(tokens)


def overlapping(tokens: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    """Joins without skipping the second of the pair."""
    pairs = [(a, b) == pair for a, b in zip(tokens, tokens[1:])] + [False] * bool(tokens)
    return [pair[0] + pair[1] if joined else token for token, joined in zip(tokens, pairs)]


def last_is_lost(tokens: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    merged = by_recursion(tokens, pair)
    ends_alone = merged and merged[-1] == tokens[-1] and (len(merged[-1]) < len(pair[0] + pair[1]) or merged == tokens)
    return merged[:-1] if ends_alone else merged


def from_the_right(tokens: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    merged: list[bytes] = []
    i = len(tokens) - 1
    while i >= 0:
        if i > 0 and (tokens[i - 1], tokens[i]) == pair:
            merged.insert(0, pair[0] + pair[1])
            i -= 2
        else:
            merged.insert(0, tokens[i])
            i -= 1
    return merged


EXERCISE = Exercise(
    title="one step of learning a vocabulary",
    group="Tokenizer", effort="15 min, easy",
    stub=STUB,
    blanks=BLANKS,
    hints=(
        "Walk along the list with an index: where the pair stands, take both; else take one.",
        "The last token has no neighbor: look at i + 1 only where i + 1 < len(tokens).",
        "if i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == pair: append pair[0] + pair[1], i += 2",
    ),
    checks=(
        FunctionCheck(
            "merge",
            cases(),
            Case([b"a", b"a", b"a", b"b", b"a", b"a", b"c"], (b"a", b"a")),
            slips=(
                Slip(
                    lambda tokens, pair: by_recursion(tokens, pair, either_way=True),
                    "the order of the pair is ignored: the first token must be pair[0], the second pair[1]",
                ),
                Slip(only_first, "only the first place is joined: the pair must be joined wherever it stands"),
                Slip(overlapping, "the second token of the pair stays: after a join go on behind both, i += 2"),
                Slip(last_is_lost, "the last token is lost: it has no neighbor, but belongs to the result"),
                Slip(from_the_right, "joined from the right: among overlapping places, the left one comes first"),
                Slip(lambda tokens, pair: list(tokens), "nothing is joined: the list comes back as it was"),
            ),
        ),
    ),
    place=Patch(("gpt.tokenizer.bpe.merge",), lambda definitions: definitions["merge"]),
    answer=("gpt.tokenizer.bpe.merge",),
)
