"""bpe_merge: join a pair of neighboring tokens wherever it occurs: one step of byte-pair encoding.

From left to right; a token that was just joined does not take part in the next pair. Return a new list.

Shapes: tokens: a list of bytes objects; pair: two of them -> a list
Example: merge([b"l", b"o", b"w", b"l", b"o"], (b"l", b"o"))  ->  [b"lo", b"w", b"lo"]
         merge([b"a", b"a", b"a"], (b"a", b"a"))              ->  [b"aa", b"a"]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import Case, Exercise, FunctionCheck, Patch, beginning

STUB = beginning(__doc__) + '''
def merge(tokens, pair):
    # TODO
    raise NotImplementedError("the merge")
'''

BLANKS = '''
merged = []
for token in tokens:
    if (*merged[-1:], token) == pair:  # both, in this order, from left to right
        merged[-1] = pair[0] + pair[1]  # wherever the pair stands
    else:
        merged.append(token)
return merged
'''

BOTH_LINES = BLANKS[BLANKS.index("(*merged") : BLANKS.index("  # wherever")]
SLIPS = [
    (BOTH_LINES, "pair in ((*merged[-1:], token), (token, *merged[-1:])):\n        merged[-1] += token",
     "the order of the pair is ignored: the first token must be pair[0], the second pair[1]"),
    (BOTH_LINES, "(token, *merged[-1:]) == pair:\n        merged[-1] += token",
     "the pair is the wrong way around: the first token must be pair[0], the second pair[1]"),
    ("(*merged[-1:], token) == pair", "merged[-1:] == [pair[0]]", "only the first token of the pair is compared"),
    ("== pair:", "== pair and pair[0] + pair[1] not in merged:",
     "only the first place is joined: the pair must be joined wherever it stands"),
    ("pair[0] + pair[1]", "pair[0] + pair[1]\n        merged.append(token)",
     "the second token of the pair stays: after a join, continue behind both: i += 2"),
    ("return merged", "return merged[: len(merged) - (merged[-1:] == tokens[-1:])]",
     "the last token is lost: it has no neighbor, but belongs to the result"),
    ("= pair[0] + pair[1]", "= pair", "the pair itself is put in: joined, it is one bytes object, pair[0] + pair[1]"),
]  # fmt: skip

letters = st.sampled_from([b"a", b"b", b"ab", b"ba"])
cases = st.builds(Case, st.lists(letters, max_size=8), st.tuples(letters, letters))

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="one step of learning a vocabulary",
    group="Tokenizer", effort="15 min, easy",
    hints=(
        "Walk along the list with an index: where the pair stands, take both; else take one.",
        "The last token has no neighbor: look at i + 1 only where i + 1 < len(tokens).",
        "if i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == pair: append pair[0] + pair[1], i += 2",
    ),
    checks=[FunctionCheck("merge", cases, Case([b"a", b"a", b"a", b"b", b"a", b"a", b"c"], (b"a", b"a")))],
    place=Patch("merge", "gpt.tokenizer.bpe_training.merge", "gpt.tokenizer.bpe.merge"),
    answer=("gpt.tokenizer.bpe.merge",),
)
