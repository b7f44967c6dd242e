"""Lesson 4.1.2: tokens, or what a model can see

Letters make long texts of small steps; words make an endless vocabulary. Byte-pair encoding lies between: begin with
bytes, and join the most frequent pair of neighbours, again and again. The list of joins is the whole tokenizer. It is
no neutral preprocessing: it decides what the model can perceive, and this lesson shows four things that go wrong.
Sennrich et al. 2016, "Neural machine translation of rare words with subword units", section 3.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from gpt import GPT, GPTConfig, Tokenizer
from gpt.tokenizer.bpe import count_words, encode_word, learn_merges, merge, single_bytes
from gpt.training.standard_library import help_text
from scripts.lessons.pictures import Lesson, bars

lesson = Lesson("412_tokenization", __doc__)
text = help_text()

# %% Letters or words?
words = text.split()
seen, unseen = set(words[: len(words) * 9 // 10]), words[len(words) * 9 // 10 :]
unknown = sum(word not in seen for word in unseen) / len(unseen)
print(f"letters: {len(set(text)):6,} kinds, {len(text):7,} tokens: long texts, and a letter means nothing")
print(f"words:   {len(set(words)):6,} kinds, {len(words):7,} tokens: but {unknown:.1%} of new text is words never seen")

# %% Byte-pair encoding, by hand
# The example of the paper: four words and how often each occurs.
counts = {b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}
cut = {word: single_bytes(word) for word in counts}
merges: list[tuple[bytes, bytes]] = []
for step in range(6):
    pairs: Counter[tuple[bytes, bytes]] = Counter()
    for word, tokens in cut.items():
        for pair in zip(tokens, tokens[1:]):
            pairs[pair] += counts[word]
    best = max(pairs, key=lambda pair: (pairs[pair], pair))  # the most frequent; of equals the last in the alphabet
    merges.append(best)
    cut = {word: merge(tokens, best) for word, tokens in cut.items()}
    shown = "  ".join("|".join(token.decode() for token in tokens) for tokens in cut.values())
    print(f"{step + 1}. join {best[0].decode():>3} {best[1].decode():<3} ({pairs[best]} times): {shown}")
assert merges == learn_merges(counts, 6)  # gpt/tokenizer/bpe.py does the same without counting everything again
ranks = {pair: i for i, pair in enumerate(merges)}
print("'lowest' was not among the words:", encode_word(b"lowest", ranks))
assert encode_word(b"lowest", ranks) == [b"low", b"est"]

# %% The same on a quarter of a megabyte
tokenizer = Tokenizer.train([text], 1024)
again = Tokenizer(tokenizer.vocab, tokenizer.merges)  # nothing else is kept
sample = " The interpreter evaluates expressions."
assert again.encode(sample) == tokenizer.encode(sample)
print(f"{len(tokenizer.merges)} merges; the first: {[(a + b).decode() for a, b in tokenizer.merges[:12]]}")
print("encoded:", [tokenizer.decode([i]) for i in tokenizer.encode(sample)])
assert tokenizer.decode(tokenizer.encode(sample)) == sample

word_counts = count_words([text])
sizes = [257, 300, 400, 512, 768, 1024, 2048]
per_token = []
for size in sizes:
    smaller = Tokenizer.train([text], size)
    per_token.append(len(text) / len(smaller.encode(text)))
print("vocabulary    " + "".join(f"{size:7,}" for size in sizes))
print("letters/token " + "".join(f"{ratio:7.2f}" for ratio in per_token))
assert per_token == sorted(per_token)

with lesson.picture("vocabulary", "A larger vocabulary makes shorter texts", size=(6, 3.6)) as axes:
    axes.plot(sizes, per_token, "o-", color="black")
    axes.set(xlabel="vocabulary size (tokens)", ylabel="letters per token", xscale="log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()

# %% The merge tree of a word
table = {pair: i for i, pair in enumerate(tokenizer.merges)}


def merge_tree(word: bytes) -> list[tuple[int, int, int, str]]:
    """(first byte, last byte, height, text) of every piece on the way from bytes to tokens."""
    pieces = [(i, i, 0, chr(byte)) for i, byte in enumerate(word)]
    tokens, here = single_bytes(word), list(pieces)
    while pair := min(zip(tokens, tokens[1:]), key=lambda p: table.get(p, len(table)), default=None):
        if pair not in table:
            break
        joined = merge(tokens, pair)
        places, i = [], 0
        for token in joined:
            if i < len(tokens) and token == tokens[i]:
                places.append(here[i])
                i += 1
            else:
                left, right = here[i], here[i + 1]
                places.append((left[0], right[1], max(left[2], right[2]) + 1, token.decode()))
                pieces.append(places[-1])
                i += 2
        tokens, here = joined, places
    return pieces


word = b" expressions"
with lesson.picture("merge-tree", "The merges that make ' expressions'", size=(9, 4)) as axes:
    pieces = merge_tree(word)
    for first, last, height, piece in pieces:
        axes.text((first + last) / 2, height, piece.replace(" ", "_"), ha="center", va="center", fontsize=11,
                  bbox={"boxstyle": "round", "facecolor": "white"}, zorder=3)  # fmt: skip
        inside = [p for p in pieces if first <= p[0] and p[1] <= last and p[2] < height]
        for left, right, below, _ in inside:
            outer = [p for p in inside if p[0] <= left and right <= p[1] and p[2] > below]
            if not outer:  # a part of this piece, and of no smaller one
                axes.plot([(left + right) / 2, (first + last) / 2], [below, height], color="0.5", zorder=1)
    axes.set(xlabel="byte of the word ('_' is the space before it)", ylabel="merges on top of each other")
    axes.set_xticks(range(len(word)))
    axes.set_ylim(-0.6, max(p[2] for p in pieces) + 0.6)

# %% What goes wrong: four artefacts

def pieces_of(word: str, by: Tokenizer = tokenizer) -> list[str]:
    return [by.decode([i]) for i in by.encode(word)]


many = Tokenizer.train([text + " strawberry" * 500 + " raspberry" * 500], 1024)
print(f"1. strawberry: {pieces_of(' strawberry', many)} is what a model sees that has met the word often.")
print("   How many r? It sees the number of a token, not its letters: it would have to learn the spelling of each.")
assert len(many.encode(" strawberry")) < len("strawberry") / 2

rng = np.random.default_rng(0)
numbers = rng.zipf(1.2, 20_000) % 10_000  # as in real texts, small and round ones are frequent and large ones rare
sums = Tokenizer.train([text + " ".join(map(str, numbers))], 1024)
print("2. arithmetic: numbers are cut as they happened to be frequent, so that a digit has no fixed place:")
for number in ("12", "127", "1275", "12750"):
    print(f"   {number:>6} -> {'|'.join(pieces_of(number, sums))}")
assert len({len(piece) for number in range(1000, 1100) for piece in pieces_of(str(number), sums)}) > 1

languages = {
    "English": "All human beings are born free and equal in dignity and rights.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
}
cost = {name: len(tokenizer.encode(sentence)) for name, sentence in languages.items()}
print("3. languages: tokens for one and the same sentence:", ", ".join(f"{name} {n}" for name, n in cost.items()))
assert cost["English"] == min(cost.values()) and cost["Hindi"] > 4 * cost["English"]
print(f"   who writes Hindi pays {cost['Hindi'] / cost['English']:.0f} times as much, for as much less context")
title = "Tokens for the same sentence, by a vocabulary learned from English"
with lesson.picture("languages", title, size=(6, 3.6)) as axes:
    bars(axes, {name: float(n) for name, n in cost.items()}, "tokens", ".0f")

# A glitch token: frequent where the tokenizer was learned, absent where the model was (SolidGoldMagikarp was the name
# of a forum's user). Its row of the embedding is never read, so that it stays as it was drawn: noise.
glitchy = Tokenizer.train([text + " SolidGoldMagikarp" * 2000], 1024)
(glitch,) = glitchy.encode(" SolidGoldMagikarp")
ids = np.array(glitchy.encode(text)[:2000])
assert glitch not in ids
model = GPT(GPTConfig(vocab_size=len(glitchy), block_size=1999, n_layer=1, n_head=1, n_embd=16))
model.transformer.drop(model.transformer.wte(ids[None, :-1])).sum().backward()  # read the text, as an input
read: Any = model.transformer.wte.weight.grad
name, largest = glitchy.decode([glitch]), np.abs(read).max(axis=1)
print(f"4. glitch tokens: {name!r} is one token, and in {len(ids):,} tokens of training text it is read 0 times;")
print(
    f"   its row's gradient is {largest[glitch]:.0f}, that of a row that is read {largest[ids[0]]:.0f}: it stays noise"
)
assert largest[glitch] == 0 < largest[ids[0]]

# %% [markdown]
# ## What next
#
# - read: gpt/tokenizer/bpe.py: the algorithm twice, readable and fast; gpt/tokenizer/tokenizer.py: ids, special
#   tokens, files
# - try: the four artefacts with GPT-2's own vocabulary: Tokenizer.gpt2()
# - break: the order of the merges in encode_word (gpt/tokenizer/bpe.py): join the last learned first, and encode
#   'lowest'
# - lesson: `python scripts/lesson.py 413`
