"""Lesson 4.1.2: tokens, or what a model can see

Single letters make texts long; whole words make the vocabulary endless. Byte-pair encoding lies between the two: start
with bytes and join the most frequent pair of neighbors, again and again. The list of these merges is the tokenizer. It
is not neutral preprocessing, because it decides what the model can see. This lesson shows four things that go wrong.
Sennrich et al. 2016, "Neural machine translation of rare words with subword units", section 3.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from gpt import Tokenizer
from gpt.tokenizer.bpe import encode_word, merge, single_bytes
from gpt.tokenizer.bpe_training import learn_merges
from gpt.tokenizer.pre_tokenization import count_words
from gpt.training.standard_library import help_text
from minigrad import nn
from scripts.lessons.small_gpt import new_gpt, train
from scripts.pages import widget_data
from scripts.pages.pictures import Lesson, bars

lesson = Lesson("412_tokenization", __doc__)
text = help_text()

# %% Letters, words, or something between?
# With letters, texts are long, and a token has no meaning. With words, the vocabulary is endless: new text brings new
# words.
words = text.split()
seen, unseen = set(words[: len(words) * 9 // 10]), words[len(words) * 9 // 10 :]
unknown = sum(word not in seen for word in unseen) / len(unseen)
print(f"letters: {len(set(text)):6,} kinds, {len(text):7,} tokens")
print(f"words:   {len(set(words)):6,} kinds, {len(words):7,} tokens; {unknown:.1%} of the words in new text are new")

# %% Byte-pair encoding
# The example from the paper: four words and how often each occurs.
#
# Predict: the words are low (5 times), lower (2), newest (6) and widest (3). Which two letters are joined first?
counts = {b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}
cut = {word: single_bytes(word) for word in counts}
merges: list[tuple[bytes, bytes]] = []
for step in range(6):
    pairs: Counter[tuple[bytes, bytes]] = Counter()
    for word, tokens in cut.items():
        for pair in zip(tokens, tokens[1:]):
            pairs[pair] += counts[word]
    best = max(pairs, key=lambda pair: (pairs[pair], pair))  # the most frequent; ties: the last in the alphabet
    merges.append(best)
    cut = {word: merge(tokens, best) for word, tokens in cut.items()}
    shown = "  ".join("|".join(token.decode() for token in tokens) for tokens in cut.values())
    print(f"{step + 1}. join {best[0].decode():>3} {best[1].decode():<3} ({pairs[best]} times): {shown}")
assert merges == learn_merges(counts, 6)  # bpe_training.py updates the counts instead of counting again
ranks = {pair: i for i, pair in enumerate(merges)}
print("'lowest', which was not among the training words:", encode_word(b"lowest", ranks))
assert encode_word(b"lowest", ranks) == [b"low", b"est"]

# %% [markdown]
# Answer: s and t. They stand side by side 9 times, in newest and widest. So do e and s; of equals, the pair that is
# last in the alphabet is taken.

# %% The merge table is the tokenizer
tokenizer = Tokenizer.train([text], 1024)
again = Tokenizer(tokenizer.vocab, tokenizer.merges)  # a new tokenizer, made from the merge table only
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

# %% How a word is put together
made_of = {first + second: (first, second) for first, second in tokenizer.merges}


def draw_token(axes: Any, token: bytes, start: int) -> tuple[float, int]:
    """Draw a token above the tokens that it was made of; returns the middle of its bytes and its height."""
    middle, height = start + (len(token) - 1) / 2, 0
    if token in made_of:
        first, second = made_of[token]
        parts = draw_token(axes, first, start), draw_token(axes, second, start + len(first))
        height = 1 + max(below for _, below in parts)
        for place, below in parts:
            axes.plot([place, middle], [below, height], color="0.5", zorder=1)
    axes.text(middle, height, token.decode().replace(" ", "_"), ha="center", va="center", fontsize=11,
              bbox={"boxstyle": "round", "facecolor": "white"}, zorder=3)  # fmt: skip
    return middle, height


with lesson.picture("merge-tree", "The merges that make ' expressions'", size=(9, 4)) as axes:
    start, heights = 0, []
    for id in tokenizer.encode(" expressions"):
        heights.append(draw_token(axes, tokenizer.vocab[id], start)[1])
        start += len(tokenizer.vocab[id])
    axes.set(xlabel="byte of the word ('_' is the space before it)", ylabel="merges on top of each other")
    axes.set_xticks(range(start))
    axes.set_ylim(-0.6, max(heights) + 0.6)

# %% What a model cannot see
# **Spelling.** Where the word strawberry is frequent, it becomes a few tokens. How many r does it have? The model gets
# the ids of tokens, not letters, so it has to learn the spelling of each token.


def pieces_of(word: str, by: Tokenizer = tokenizer) -> list[str]:
    return [by.decode([i]) for i in by.encode(word)]


many = Tokenizer.train([text + " strawberry" * 500 + " raspberry" * 500], 1024)
print("strawberry:", pieces_of(" strawberry", many))
assert len(many.encode(" strawberry")) < len("strawberry") / 2

# %% [markdown]
# **Arithmetic.** Numbers are split by how frequent their pieces were, so a digit has no fixed place.

# %%
rng = np.random.default_rng(0)
numbers = rng.zipf(1.2, 20_000) % 10_000  # as in real texts, small numbers are frequent and large ones rare
sums = Tokenizer.train([text + " ".join(map(str, numbers))], 1024)
for number in ("12", "127", "1275", "12750"):
    print(f"{number:>6} -> {'|'.join(pieces_of(number, sums))}")
assert len({len(piece) for number in range(1000, 1100) for piece in pieces_of(str(number), sums)}) > 1

# %% [markdown]
# **Languages.** The same sentence needs more tokens in a language that the tokenizer has hardly seen. Its speakers pay
# more, and fit less into the context.

# %%
languages = {
    "English": "All human beings are born free and equal in dignity and rights.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
}
cost = {name: len(tokenizer.encode(sentence)) for name, sentence in languages.items()}
print("tokens for the same sentence:", ", ".join(f"{name} {n}" for name, n in cost.items()))
print(f"Hindi / English: {cost['Hindi'] / cost['English']:.0f}")
assert cost["English"] == min(cost.values()) and cost["Hindi"] > 4 * cost["English"]
title = "Tokens for the same sentence, by a vocabulary learned from English"
with lesson.picture("languages", title, size=(6, 3.6)) as axes:
    bars(axes, {name: float(n) for name, n in cost.items()}, "tokens", ".0f")

# %% [markdown]
# **Glitch tokens** are frequent in the text that the tokenizer learned from, and absent from the text that the model
# is trained on. (SolidGoldMagikarp was a user of a forum.) What does training do to the row of such a token?

# %%
glitchy = Tokenizer.train([text + " SolidGoldMagikarp" * 2000], 1024)
(glitch,) = glitchy.encode(" SolidGoldMagikarp")
ids = np.array(glitchy.encode(text)[:20_000])
assert glitch not in ids


def glitch_row(tied: bool, seed: int) -> tuple[float, float]:
    """The row of the glitch token after 100 training steps: how far it moved (in lengths of the row), and how much of
    its direction it kept (cosine)."""
    model = new_gpt(len(glitchy), seed, n_layer=1, n_head=1, n_embd=16)
    if not tied:  # an output layer of its own, as in lesson 4.3.1
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.data.copy())
    before = model.transformer.wte.weight.data[glitch].copy()
    train(model, ids, 100)
    after = model.transformer.wte.weight.data[glitch]
    lengths = np.linalg.norm(before), np.linalg.norm(after)
    return float(np.linalg.norm(after - before) / lengths[0]), float(before @ after / lengths[0] / lengths[1])


print(f"the row of {glitchy.decode([glitch])!r}, one token, after 100 steps without it; seeds 0, 1 and 2:")
for tied, what in ((False, "used as an input only       "), (True, "tied: also scores the output")):
    moved, kept = np.array([glitch_row(tied, seed) for seed in (0, 1, 2)]).T
    print(f"   {what}  moved by {moved.min():.2f} to {moved.max():.2f} lengths, cosine to the start {kept.round(2)}")
    assert (moved.min() > 1 and kept.max() < 0.7) if tied else kept.min() > 0.9999

# %% [markdown]
# As an input it has no gradient: only weight decay shrinks it, so it stays random noise. In a tied model, such as
# GPT-2, every training step also says that this token is not the next one, and pushes the row away. So it learns when
# not to be written, and still nothing about what it means when it is read.
#
# ## Your own text
#
# On the page of this lesson (`python scripts/lesson.py 412 --html`) you can type a text and see it cut into tokens, one
# merge after the other: by the merges learned above, or by merges that are learned from what you type.

# %%
lesson.widget("bpe", widget_data.bpe(tokenizer, "The interpreter evaluates strawberry expressions."))

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start bpe_merge`, then bpe_encode
# - read: gpt/tokenizer/bpe.py: the algorithm on a page; bpe_training.py beside it: the same, fast; tokenizer.py: ids,
#   special tokens, files
# - try: the four artifacts with GPT-2's own vocabulary: Tokenizer.gpt2(). Expect: " strawberry" is one token, 12750 is
#   " 12" and "750", the Hindi sentence above takes 139 tokens where English takes 13, and " SolidGoldMagikarp" is one.
# - break: the order of the merges in encode_word (gpt/tokenizer/bpe.py): apply the last learned merge first. Expect:
#   lowest stays low|est, as its merges do not compete. But with the tokenizer above, 7 in 10 words are cut into other
#   pieces, " returned" into 6, and the text takes 1.8 times as many tokens.
# - lesson: `python scripts/lesson.py 413`
