"""bpe_encode: cut a word into tokens, by repeating the merges in the order in which they were learned.

Start with single bytes. Of all adjacent pairs, join the one with the lowest rank wherever it occurs (from left to
right), and repeat until no pair has a rank. The pair to join is the one learned first, not the first one in the word.

Shapes: word: bytes; ranks: {(bytes, bytes): rank} -> a list of bytes; joined they are the word
Example: ranks = {(b"s", b"t"): 0, (b"e", b"st"): 1, (b"o", b"w"): 2, (b"l", b"ow"): 3}
         encode_word(b"lowest", ranks)  ->  [b"low", b"est"]
"""

import hypothesis.strategies as st

from scripts.course.checker.checks import Case, Exercise, FunctionCheck, Patch, beginning

STUB = beginning(__doc__) + '''
def encode_word(word, ranks):
    tokens = [word[i : i + 1] for i in range(len(word))]
    # TODO
    raise NotImplementedError("the encoder")
'''

BLANKS = '''
for _ in word:
    pairs = [pair for pair in zip(tokens, tokens[1:]) if pair in ranks]  # anew in each round
    if not pairs:
        return tokens
    first = min(pairs, key=lambda pair: ranks[pair])  # the one learned first, of the lowest rank
    merged = []
    for token in tokens:
        if merged and (merged[-1], token) == first:
            merged[-1] = first[0] + first[1]  # wherever the pair stands
        else:
            merged.append(token)
    tokens = merged
return tokens
'''

SLIPS = [
    ("min(pairs, key=lambda pair: ranks[pair])", "pairs[0]",
     "the first pair in the word is joined: take the lowest rank"),
    ("if pair in ranks]", "if ranks.get(pair)]", "the pair of rank 0 is overlooked, because 0 counts as false"),
    ("ranks[pair])", "[*ranks].index(pair))",
     "the order of the dict is taken for the ranks: the lowest ranks[pair] decides"),
]  # fmt: skip


@st.composite
def cases(draw):
    """Merges as training makes them: each of two tokens that exist."""
    tokens, merges = [b"a", b"b"], []
    for _ in range(draw(st.integers(0, 4))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if pair not in merges and pair[0] + pair[1] not in tokens:
            merges.append(pair)
            tokens.append(pair[0] + pair[1])
    word = b"".join(draw(st.lists(st.sampled_from([b"a", b"b"]), min_size=1, max_size=8)))
    return Case(word, {pair: rank for rank, pair in reversed([*enumerate(merges)])})  # not in the order of ranks


RANKS = {(b"b", b"a"): 6, (b"a", b"b"): 2, (b"c", b"a"): 0, (b"c", b"ab"): 5, (b"ca", b"ca"): 1, (b"caca", b"ba"): 7,
         (b"b", b"c"): 3, (b"b", b"ab"): 4}  # fmt: skip

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="a word into tokens, by the merges that were learned",
    group="Tokenizer", effort="25 min, medium",
    hints=(
        "Repeat what training did, but only what this word needs: the lowest rank among the pairs that are there.",
        "zip(tokens, tokens[1:]) are the pairs; ranks.get(pair, infinity) their ranks; min(...) the one to join.",
        "best = min(zip(tokens, tokens[1:]), key=lambda pair: ranks.get(pair, len(ranks))), then join it as in "
        "bpe_merge",
    ),
    checks=[FunctionCheck("encode_word", cases(), Case(b"bcababcaabba", RANKS))],
    place=Patch("encode_word", "gpt.tokenizer.tokenizer.encode_word", "gpt.tokenizer.bpe.encode_word"),
    answer=("gpt.tokenizer.bpe.encode_word",),
)
