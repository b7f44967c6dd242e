"""Lesson 4.1.2: tokens, or what a model can see

Single letters make texts long; whole words make the vocabulary endless. Byte-pair encoding lies between the two: start
with bytes and join the most frequent pair of neighbors, again and again. The list of these merges is the tokenizer. It
is not neutral preprocessing, because it decides what the model can see. Four examples show how.
Sennrich et al. 2016, "Neural machine translation of rare words with subword units", section 3.
"""

from collections import Counter

import numpy as np

from gpt import Tokenizer
from gpt.corpora.python_corpus import help_text
from gpt.tokenizer.bpe import encode_word, merge, single_bytes
from gpt.tokenizer.bpe_training import learn_merges
from gpt.tokenizer.pre_tokenization import count_words
from minigrad import nn
from scripts.course import widget_data
from scripts.course.lessons.small_gpt import new_gpt, train
from scripts.course.pictures import Lesson

lesson = Lesson("412_tokenization", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% Letters, words, or something between?
# What should a model read: letters, or words? We cut a text into both.
#
# Predict: which needs more tokens, and which more kinds of tokens? And after nine tenths of the text have been read,
# what share of the words in the last tenth is new?

# %%
text = help_text()
words = text.split()
seen, unseen = set(words[: len(words) * 9 // 10]), words[len(words) * 9 // 10 :]
unknown = sum(word not in seen for word in unseen) / len(unseen)
print(f"letters: {len(set(text)):6,} kinds, {len(text):7,} tokens")
print(f"words:   {len(set(words)):6,} kinds, {len(words):7,} tokens; {unknown:.1%} of the words in new text are new")

# %% [markdown]
# Answer: with letters, texts are long, and a token has no meaning. With words, the vocabulary has no end: new text
# brings new words, and a model has no token for them.

# %% Byte-pair encoding
# The example from the paper: four words and how often each occurs.
#
# Predict: the words are low (5 times), lower (2), newest (6) and widest (3). Which two letters are joined first?

# %%
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

# %%
ranks = {pair: i for i, pair in enumerate(merges)}
print("'lowest', which was not among the training words:", encode_word(b"lowest", ranks))
assert encode_word(b"lowest", ranks) == [b"low", b"est"]

# %% [markdown]
# Answer: s and t. They stand side by side 9 times, in newest and widest. So do e and s; of equals, the pair that is
# last in the alphabet is taken.

# %% What is a tokenizer?
# We train one on the text, and throw away all of it but the list of its merges, in their order.
#
# Predict: is that enough to cut every word as before? And is the *set* of the merges enough, in any order?

# %%
tokenizer = Tokenizer.train([text], 1024)
print(f"{len(tokenizer.merges)} merges; the first: {[(a + b).decode() for a, b in tokenizer.merges[:12]]}")
sample = " The interpreter evaluates expressions."
print("encoded:", [tokenizer.decode([i]) for i in tokenizer.encode(sample)])
assert tokenizer.decode(tokenizer.encode(sample)) == sample

# %%
frequent_words = [word for word, _ in count_words([text]).most_common(500)]
whole = {word: [tokenizer.vocab[i] for i in tokenizer.encode(word.decode())] for word in frequent_words}


def cut_by(merges: list[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    """The words, cut by the merges alone, one merge after the other."""
    cut = {word: single_bytes(word) for word in frequent_words}
    for pair in merges:
        cut = {word: merge(tokens, pair) for word, tokens in cut.items()}
    return cut


# %%
shuffled = [tokenizer.merges[i] for i in rng.permutation(len(tokenizer.merges))]
same = {}
for name, merges in (("the merge table", tokenizer.merges), ("its merges, shuffled", shuffled)):
    cut_words = cut_by(merges)
    same[name] = np.mean([cut_words[word] == whole[word] for word in whole])
    print(f"{name:20} cuts {same[name]:6.1%} of {len(whole):,} words as the tokenizer does")
assert same["the merge table"] == 1 and same["its merges, shuffled"] < 0.9

# %% [markdown]
# Answer: the merge table is enough. The same merges in another order make the same tokens possible, and cut many
# words in other places. **The merge table IS the tokenizer**, and its order belongs to it.

# %% How large a vocabulary?
# Each merge makes a token of two neighbors, so a text gets shorter with every merge that it contains.
#
# Predict: a vocabulary of 512 tokens makes tokens of so many letters on average. How many letters with 1,024: twice as
# many?

# %%
sizes = [257, 300, 400, 512, 768, 1024, 2048]
per_token = [len(text) / len(Tokenizer.train([text], size).encode(text)) for size in sizes]
print("vocabulary    " + "".join(f"{size:7,}" for size in sizes))
print("letters/token " + "".join(f"{ratio:7.2f}" for ratio in per_token))
assert per_token == sorted(per_token) and per_token[5] < 1.5 * per_token[3]

# %% [markdown]
# Answer: far from it. Each later merge is rarer than the ones before, and joins less of the text.

# %% What does a model see of a word?
# A model gets the ids of tokens, and nothing else.
#
# Predict: the word strawberry is frequent in a text. Can a model that reads its tokens count the letters r in it?


# %%
def pieces_of(word: str, by: Tokenizer = tokenizer) -> list[str]:
    return [by.decode([i]) for i in by.encode(word)]


many = Tokenizer.train([text + " strawberry" * 500 + " raspberry" * 500], 1024)
seen, letter_r = many.encode(" strawberry"), many.encode("r")[0]
print("frequent:", pieces_of(" strawberry", many), "ids", seen, "; the id of the letter r is", letter_r)
print("rare:    ", pieces_of(" strawberry"))  # the control: the same word, for the tokenizer above
assert letter_r not in seen and len(seen) < 3 < len(pieces_of(" strawberry"))

# %% [markdown]
# Answer: it cannot see them. The token of r does not occur in what it reads; it has to learn the spelling of each token
# from other texts, as one learns a foreign word by ear. Where the word is rare, more of its letters are in sight.
# **Tokenization defines what the model can see.**

# %% What does it see of a number?
# Predict: 127, 1275 and 12750 are cut into tokens, by a tokenizer that has read many numbers. Does the digit for the
# hundreds have a fixed place?

# %%
numbers = (10_000 ** rng.random(20_000)).astype(int)  # as in real texts, small ones are frequent and large ones rare
sums = Tokenizer.train([text + " ".join(map(str, numbers))], 1024)
for number in ("12", "127", "1275", "12750"):
    print(f"{number:>6} -> {'|'.join(pieces_of(number, sums))}")

# %%
ways = Counter(tuple(len(piece) for piece in pieces_of(str(number), sums)) for number in range(1000, 2000))
print("how the numbers from 1000 to 1999 are cut (lengths of the pieces):", dict(ways.most_common(5)))

# %% [markdown]
# What does this cost? A simple reader adds up one learned number for each piece at each place, counted from the end. It
# learns the digit for the hundreds from 1,000 numbers, and is asked about 1,000 others. They are cut into digits, into
# pairs (always two and two), or into tokens.

# %%
numbers, found = rng.permutation(np.arange(1000, 10_000))[:2000], {}
cuts = {"digits": lambda n: [*n], "pairs": lambda n: [n[:2], n[2:]], "tokens": lambda n: pieces_of(n, sums)}
for name, cut in cuts.items():
    rows = [list(enumerate(cut(str(number))[::-1])) for number in numbers]
    kinds = sorted({placed for row in rows for placed in row})
    table = np.array([[placed in row for placed in kinds] for row in rows], float)
    learned = np.linalg.lstsq(table[:1000], numbers[:1000] // 100 % 10, rcond=None)[0]
    found[name] = np.mean((table[1000:] @ learned).round() == numbers[1000:] // 100 % 10)
    print(f"the hundreds, read from {name}: right in {found[name]:.0%} of new numbers")
assert min(found["digits"], found["pairs"]) > 0.95 and found["tokens"] < 0.5 and len(ways) > 2

# %% [markdown]
# Answer: no. Numbers are cut by how frequent their pieces were, so numbers of the same length are cut in different
# ways, and the reader is seldom right: what a piece at a place means depends on how the others were cut. That pieces
# have several digits is not the reason, as the pairs show. A larger model has to learn all cases, one by one.
# (SmolLM2's tokenizer makes each digit a token: one way for all.)

# %% What does another language cost?
# Predict: the vocabulary was learned from English. The same sentence in German, Russian and Hindi: how many times as
# many tokens does it take as in English?

# %%
languages = {
    "English": "All human beings are born free and equal in dignity and rights.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
}
cost = {name: len(tokenizer.encode(sentence)) for name, sentence in languages.items()}
size = {name: len(sentence.encode()) for name, sentence in languages.items()}  # the control: bytes, without any merges
for name in languages:
    print(f"{name:8} {len(languages[name]):3} letters, {size[name]:3} bytes, {cost[name]:3} tokens")
assert all(cost[name] == size[name] for name in ("Russian", "Hindi")) and cost["English"] < size["English"] / 2

# %% [markdown]
# Answer: German 1.4 times, Russian 4.5 times, Hindi 8 times. A part of that is UTF-8, which needs two or three bytes
# for most letters that are not Latin: in bytes, Hindi is only 3.7 times as long. The rest is the merges: they join what
# is frequent in English, and not one of them applies to the Russian or the Hindi sentence. Speakers of a language that
# the tokenizer has hardly seen pay more, and fit less into the context.

# %% A token that no text contains
# **Glitch tokens** are frequent in the text that the tokenizer learned from, and absent from the text that the model
# is trained on. (SolidGoldMagikarp was a user of a forum.) Each token has a row of numbers (lesson 4.1.3), which
# training changes.
#
# Predict: what does training do to the row of a token that is never there? Once where rows are used for the input only,
# and once where they are used for the output, too (tied, as in GPT-2).

# %%
glitchy = Tokenizer.train([text + " SolidGoldMagikarp" * 2000], 1024)
(glitch,), (frequent,) = map(glitchy.encode, (" SolidGoldMagikarp", " the"))  # the second is the control
ids = np.array(glitchy.encode(text)[:20_000])
assert glitch not in ids


def cosines_to_start(tied: bool) -> dict[str, float]:
    """How much of its direction a row keeps in 100 training steps: the cosine of the angle between start and end."""
    model = new_gpt(len(glitchy), lesson.seed, n_layer=1, n_head=1, n_embd=16)
    if not tied:  # an output layer of its own, as in lesson 4.3.1
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.data.copy())
    rows = model.transformer.wte.weight.data
    before = rows.copy()
    train(model, ids, 100, seed=lesson.seed)
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(rows, axis=1)
    kept = (before * rows).sum(axis=1) / lengths
    return {glitchy.decode([token]): float(kept[token]) for token in (glitch, frequent)}


# %%
for tied, what in ((False, "used as an input only"), (True, "tied: also scores the output")):
    kept = cosines_to_start(tied)
    print(f"{what:29}", {name: f"{cosine:.4f}" for name, cosine in kept.items()})
    never, often = kept.values()
    assert (never < 0.9 if tied else never > 0.9999) and often < 0.95

# %% [markdown]
# Answer: as an input it has no gradient. Only weight decay (lesson 0.1) shrinks it, so it keeps its direction and stays
# random noise, while the row of " the" moves. In a tied model, such as GPT-2, every training step also says that this
# token is not the next one, and pushes the row away. So it learns when not to be written, and still nothing about what
# it means when it is read.
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
# - exercise: `python scripts/exercise.py start bpe_merge`, bpe_encode
# - line by line: `python scripts/step.py --html merge`
# - read: gpt/tokenizer/bpe.py: the algorithm on a page; bpe_training.py beside it: the same, fast; tokenizer.py: ids,
#   special tokens, files
# - try: the four artifacts with GPT-2's own vocabulary: Tokenizer.gpt2(). Expect: " strawberry" is one token, 12750 is
#   " 12" and "750", the Hindi sentence above takes 139 tokens where English takes 13, and " SolidGoldMagikarp" is one.
# - break: the order of the merges in encode_word (gpt/tokenizer/bpe.py): apply the last learned merge first. Expect:
#   lowest stays low|est, as its merges do not compete. But with the tokenizer above, 7 in 10 words are cut into other
#   pieces, " returned" into 6, and the text takes 1.8 times as many tokens.
# - lesson: `python scripts/lesson.py 413`
