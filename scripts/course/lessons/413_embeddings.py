"""Lesson 4.1.3: embeddings and positions, or what goes into a transformer

A token's id has no meaning of its own: token 7 is not more than token 3. So each token gets a row of learned numbers,
and training moves the rows of tokens with a similar use towards each other. A sum of rows does not know their order,
so a second row, for the position, is added. Mikolov et al. 2013, "Efficient estimation of word representations in
vector space" (bag of words); Vaswani et al. 2017, "Attention is all you need", sections 3.4 and 3.5.
"""

import numpy as np

import minigrad.functional as F
from gpt.model.positions import sinusoidal_table
from minigrad import Tensor, manual_seed, nn, no_grad, optim
from scripts.course.lessons.small_gpt import english, new_gpt, train_once
from scripts.course.pictures import Lesson

lesson = Lesson("413_embeddings", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% A lookup is a matrix product
# An embedding is a table with a row for each token: V tokens, C numbers each, (V, C). One-hot rows (a 1 at the token's
# number, else 0) times the table select rows of the table. So a lookup is a layer, and its table has a gradient.
#
# Predict: tokens 3, 1 and 3 are looked up, and all numbers found are added up. What is the gradient of each row?

# %%
table = nn.Embedding(6, 4)
ids = np.array([3, 1, 3])
one_hot = Tensor(np.eye(6, dtype=np.float32)[ids])  # (T, V)
looked_up, multiplied = table(ids), one_hot @ table.weight  # (T, C): rows 3, 1 and 3 of the table
assert np.array_equal(looked_up.data, multiplied.data)

# %%
looked_up.sum().backward()
print("gradient of each row, first column:", table.weight.grad[:, 0])
assert table.weight.grad[:, 0].tolist() == [0, 1, 0, 2, 0, 0]

# %% [markdown]
# Answer: 2 for row 3, which was used twice, 1 for row 1, and 0 for all others. Only the rows that were looked up learn.
# GPT-2 has 50,257 rows of 768 numbers: 38.6 million parameters, learned like all others.

# %% A dictionary that nobody wrote
# A dictionary gives a word its entry. The table gives a token its row. At first the rows are random.
#
# Predict: a small GPT learns to predict the next token, for 300 steps. Nobody tells it what a token means. Which of
# these rows will be alike afterwards: " can" and " will", or " can" and "ing"? Why should training care?

# %%
tokenizer, train_ids, _ = english()
model = new_gpt(len(tokenizer), lesson.seed)
rows = {"before": model.transformer.wte.weight.data.copy()}
losses = train_once(model, train_ids, 300)
shuffled = new_gpt(len(tokenizer), lesson.seed)  # the control: the same tokens in any order, so neighbors say nothing
train_once(shuffled, rng.permutation(train_ids), 300)
rows |= {"shuffled": shuffled.transformer.wte.weight.data, "after": model.transformer.wte.weight.data}
print(f"a small GPT, 300 steps: loss {losses[0]:.2f} -> {np.mean(losses[-20:]):.2f}")

# %%
groups = {
    "verbs": [" is", " are", " can", " may", " will", " must"],
    "small words": [" of", " in", " for", " by", " from", " with"],
    "articles": [" the", " a", " an", " this"],
    "endings": ["s", "ed", "ing", "er", "ly"],
}
chosen = [(name, word) for name, words in groups.items() for word in words if len(tokenizer.encode(word)) == 1]
names = np.array([name for name, _ in chosen])
numbers = [tokenizer.encode(word)[0] for _, word in chosen]


def cosines(rows: np.ndarray) -> np.ndarray:
    """The cosine of the angle between each two rows, less their mean: (n, C) -> (n, n)."""
    rows = rows - rows.mean(axis=0)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


def gap(alike: np.ndarray, names: np.ndarray) -> float:
    """The mean cosine within the groups, less that between them."""
    same = (names[:, None] == names) & ~np.eye(len(names), dtype=bool)
    return float(alike[same].mean() - alike[names[:, None] != names].mean())


# %%
alike = {when: cosines(table)[np.ix_(numbers, numbers)] for when, table in rows.items()}
gaps = {when: gap(cosine, names) for when, cosine in alike.items()}
by_chance = [gap(alike["after"], rng.permutation(names)) for _ in range(200)]  # another control: groups drawn by lot
print("cosine within the groups, less that between them:", {when: round(value, 2) for when, value in gaps.items()})
print(f"after, 200 other ways to group these tokens: {min(by_chance):.2f} to {max(by_chance):.2f}")
assert gaps["after"] > max(by_chance) and gaps["after"] > max(gaps["before"], gaps["shuffled"]) + 0.05
can, will, ing = (numbers.index(tokenizer.encode(word)[0]) for word in (" can", " will", "ing"))
for when in alike:
    with_will, with_ing = alike[when][can, [will, ing]]
    print(f"{when:8}: cosine of ' can' with ' will' {with_will:5.2f}, with 'ing' {with_ing:5.2f}")
assert with_will > with_ing + 0.1

# %% [markdown]
# Answer: " can" and " will". The same tokens follow both, so both get similar gradients, and their rows move the same
# way. **Embeddings are a learned dictionary**: you look a token up and get its entry, and training has written the
# entries. They say how a token is used.
#
# The four groups hold together better than 200 groupings drawn by lot. The other control has read the same tokens in
# any order. It knows only how frequent each of them is: the groups do not hold together, and " can" is no closer to
# " will" than to "ing". So it is the neighbors that make the difference.

# %%
with lesson.picture("clusters", "Rows of the embedding, in the plane of most variance", 3, size=(13, 4.8)) as panels:
    for axes, (when, table) in zip(panels, rows.items()):
        centered = table[numbers] - table[numbers].mean(axis=0)
        _, _, directions = np.linalg.svd(centered, full_matrices=False)  # principal components
        flat = centered @ directions[:2].T  # (n, C) -> (n, 2)
        for marker, name in zip("os^D", groups):
            axes.plot(*flat[names == name].T, marker, markerfacecolor="0.75", label=name)
        for (x, y), (_, word) in zip(flat, chosen):
            axes.annotate(word.strip(), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
        axes.set(title=when, xlabel="first component", ylabel="second component")
        axes.margins(0.12)

# %% Dog bites man
# A model needs one result for a whole text, and the simplest way is to add up the rows of its tokens, or to take their
# mean. This is called a *bag of words*: shake the text in a bag, and all that is left is how often each word is in it.
#
# Predict: a network is trained on top of such a sum. It is asked (a) "is there a cat in the sentence?" and (b) "does
# the dog stand before the man?" How often is it right, of 100 times? And if a row for its position is added to each
# word's row before the sum is taken, does the sum know the order?

# %%
words = {word: row for word, row in zip(("dog", "bites", "man"), np.eye(3))}
places = rng.integers(1, 9, (3, 3))  # a row for each of three positions
for sentence in ("dog bites man", "man bites dog"):
    found = np.array([words[word] for word in sentence.split()])  # (T, C)
    print(f"{sentence}: sum of the rows {found.sum(axis=0)}, of rows + positions {(found + places).sum(axis=0)}")
    assert (found.sum(axis=0) == 1).all() and np.array_equal((found + places).sum(axis=0), 1 + places.sum(axis=0))


# %%
class SumOfWords(nn.Module):
    """Yes or no, from a sum over the words of a sentence, each of which goes through a layer by itself before."""

    def __init__(self, positions: bool) -> None:
        self.rows, self.positions = nn.Embedding(8, 32), nn.Embedding(5, 32) if positions else None
        self.each = nn.Sequential(nn.Linear(32, 32), nn.Tanh())
        self.after = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, ids: np.ndarray) -> Tensor:  # (B, T) -> (B, 2)
        x = self.rows(ids)  # (B, T, C)
        if self.positions is not None:
            x = x + self.positions.weight
        return self.after(self.each(x).sum(1))


def fit(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> None:
    """300 steps of Adam, on batches of 64."""
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        batch = rng.integers(0, len(inputs), 64)
        loss = F.cross_entropy(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# %%
def share_right(question: str, positions: bool, seed: int) -> float:
    """The share of right answers to new sentences. Half of these are the other half, read backwards."""
    manual_seed(seed)
    rng = np.random.default_rng(seed)
    sentences = rng.permuted(np.tile(np.arange(8), (6000, 1)), axis=1)[:, :5]  # five of eight words, in any order
    sentences = sentences[(sentences < 2).sum(axis=1) == 2]  # 0 is the dog, 1 the man: those with both
    sentences = np.concatenate([sentences, sentences[-1000:, ::-1]])
    answers = (sentences == 2).any(axis=1)  # 2 is the cat
    if question == "dog before man":
        answers = (sentences == 0).argmax(axis=1) < (sentences == 1).argmax(axis=1)
    model = SumOfWords(positions)
    fit(model, sentences[:-2000], answers[:-2000].astype(int), rng)
    with no_grad():
        return float(np.mean(model(sentences[-2000:]).data.argmax(axis=1) == answers[-2000:]))


# %%
right = {}
for question in ("a cat", "dog before man"):
    right[question] = [share_right(question, positions, lesson.seed) for positions in (False, True)]
    print(f"{question:14}: without positions {right[question][0]:6.1%}, with positions {right[question][1]:6.1%}")
bag, told = right["dog before man"]
assert abs(bag - 0.5) < 0.01 and min(told, *right["a cat"]) > 0.95


# %%
def five_seeds() -> list[list[float]]:
    return [[share_right("dog before man", positions, seed) for seed in range(11, 16)] for positions in (False, True)]


recorded = lesson.measured("order", five_seeds, share_right, fit)
for name, shares, here in zip(("without", "with"), recorded, right["dog before man"]):
    print(f"five seeds, {name:7} positions: " + ", ".join(f"{share:.1%}" for share in shares), f"; here {here:.1%}")
    assert abs(np.mean(shares) - here) < 0.05

# %% [markdown]
# Answer: (a) nearly always: which words are there is what a bag knows. (b) 50 times: chance, however long it trains. A
# sentence and the same one read backwards have the same sum, hence the same answer, and exactly one of the two is
# right. **Without position, embeddings are a bag of words.**
#
# Adding positions does not help by itself! The sum of (row + position) is the sum of the rows plus the sum of the
# positions, and the second is the same for every sentence. Each row and its position must first go through a layer with
# a nonlinearity, here tanh: it makes "dog at place 1" something else than "dog at place 3", and then the sum can tell.
# Such a layer without positions changes nothing: that is the first of the two networks. In a transformer, attention and
# the feed-forward network (lessons 4.2.1 and 4.2.5) combine the two. Lesson 4.2.1 compares the bag of words with a
# convolution and with attention, and lesson 4.2.6 shows what a GPT knows of the order when it has no positions.

# %% Sinusoidal positions
# A model should be told the position. How? The row for a position should be different for each position, bounded (so
# that it does not drown the token), possible for texts of any length, and regular: "5 tokens further" the same
# everywhere.
#
# Predict: the plain number t would be the simplest code. Which of the four does it lack? And a random row for each
# position?

# %%
T, C = 128, 64
code = sinusoidal_table(T, C)  # (T, C): sines and cosines of t / 10000^(i / C), for i = 0, 2, 4, ...
random_code = rng.standard_normal((T, C)) / np.sqrt(2)
distances = np.linalg.norm(code[:, None] - code[None], axis=-1)
print(f"different: at least {distances[~np.eye(T, dtype=bool)].min():.2f} apart; bounded: {np.abs(code).max():.2f}")
assert distances[~np.eye(T, dtype=bool)].min() > 0.5 and np.abs(code).max() <= 1
assert np.allclose(sinusoidal_table(4 * T, C)[:T], code)  # any length: a longer table begins with the same rows

# %%
# regular: a step of 5 tokens turns each pair of columns by the same angle everywhere, like the hand of a clock
angle = 5.0 / 10000 ** (np.arange(0, C, 2) / C)
sin, cos = code[:, 0::2], code[:, 1::2]
assert np.allclose(sin[:-5] * np.cos(angle) + cos[:-5] * np.sin(angle), sin[5:], atol=1e-4)
spread = {name: np.diag(rows @ rows.T, 10).std() for name, rows in (("sinusoidal", code), ("random", random_code))}
print("dot products of rows 10 tokens apart vary by", {name: round(float(s), 3) for name, s in spread.items()})
assert spread["sinusoidal"] < 1e-3 < 1 < spread["random"]

with lesson.picture("positions", "Sinusoidal positions (dark: 1, white: -1)") as axes:
    axes.imshow(code.T, cmap="Greys", aspect="auto", interpolation="nearest")
    axes.set(xlabel="position (tokens)", ylabel="column")

# %% [markdown]
# Answer: the plain number is not bounded: at position 1,000 it would drown the token's numbers. Random rows are not
# regular: the dot product of two rows says nothing about their distance. Sines and cosines of many frequencies have all
# four properties: each pair of columns turns like a hand of a clock, the first fast and the last slowly.

# %% Learned positions: GPT-2's way
# A second table of learned rows, `wpe`: row t is added to the token's row at position t. It is simpler than sines.
#
# Predict: our model was trained with 32 positions. What happens at 33 tokens?

# %%
wte, wpe = model.transformer.wte.weight.data, model.transformer.wpe.weight.data  # (512, 64) and (32, 64)
try:
    model(np.zeros((1, 33), np.int64))
    raise AssertionError("the model accepted a position that it has no row for")
except ValueError as error:
    print(f"33 tokens: {error}")

# %% [markdown]
# Answer: there is no row for position 33. The table ends, and so does the text that the model can read.

# %% What the first block gets
# Two tables, two rows for each token: (T, C) and (T, C). The rest of a GPT is a chain of *blocks* (lesson 4.2.5). The
# first one takes (T, C).
#
# Predict: the two rows are added. Why not put them side by side, which keeps them apart? And can the position still be
# found in the sum?

# %%
ids = train_ids[:8]
inputs: list[np.ndarray] = []  # a hook catches what the first block of the trained model really gets
hook = model.transformer.h[0].register_forward_hook(lambda block, given, output: inputs.append(given[0].data[0]))
with no_grad():
    model(ids[None])
hook.remove()
added = wte[ids] + wpe[:8]  # (T, C)
assert np.array_equal(inputs[0], added)
print(f"{tokenizer.decode(ids)!r}: the block gets {inputs[0].shape}, which is exactly wte[ids] + wpe[:8]")

# %%
known, new = np.split(rng.permutation(len(wte)), [len(wte) * 3 // 4])
tokens, places = np.append(rng.choice(known, 6000), rng.choice(new, 2000)), rng.integers(0, 32, 8000)
hits = {}
for name, x in (("in the sum", wte[tokens] + wpe[places]), ("in the token's row alone", wte[tokens])):
    mixed = np.column_stack([x, np.ones(8000)])
    probe = np.linalg.lstsq(mixed[:6000], np.eye(32)[places[:6000]], rcond=None)[0]  # a linear map, fitted
    hits[name] = float(np.mean((mixed[6000:] @ probe).argmax(axis=1) == places[6000:]))  # of new tokens
    print(f"the right one of 32 positions, found {name}: {hits[name]:.0%}")
assert hits["in the sum"] > 0.5 > 0.1 > hits["in the token's row alone"]

# %% [markdown]
# Answer: side by side means 2C numbers per token, and the whole model gets wider. A matrix that maps them back to C
# contains the sum as a special case: [token, position] @ [[I], [I]] = token + position. And the position can be found
# in the sum: a linear map, fitted on three quarters of the tokens, finds it for most sums with one of the others.
# **Token embedding + positional encoding = the model's input.**

# %% The output layer mirrors the embedding
# In: id -> row, V -> C. The blocks turn the row of each token of the text into another one of C numbers, its *hidden
# state*. Out: hidden state -> one logit for each token of the vocabulary, C -> V. GPT-2 uses one matrix for both ends:
# the logit of a token is the dot product of the hidden state with the token's row.
#
# Predict: embed a token and unembed it at once, with no block between. How often does the token itself get the highest
# logit, before training and after?

# %%
hidden = Tensor(rng.standard_normal((1, 64)).astype(np.float32))
logits = model.lm_head(hidden).data[0]  # (V,)
assert np.allclose(logits, [hidden.data[0] @ row for row in wte], atol=1e-4)
other = rng.standard_normal(wte.shape)  # the control: an output layer of its own, untrained
pairs = {"before": (rows["before"],) * 2, "after": (wte, wte), "before, not tied": (rows["before"], other)}
returned = {name: float(np.mean((a @ b.T).argmax(axis=1) == np.arange(len(a)))) for name, (a, b) in pairs.items()}
print("a token returns to itself:", {name: f"{share:.0%}" for name, share in returned.items()})
assert returned["before"] > 0.9 > returned["after"] and returned["before, not tied"] < 0.05

# %% [markdown]
# Answer: nearly always before training, as a random row is most similar to itself; less often afterwards. The blocks
# between the two have to turn "which token is this" into "which token comes next".

# %% The limitation: one row for 'bank'
# Four pairs of words, read in these sentences only. The smallest language model: a row per word, and a linear output.
#
# Predict: what does it expect after "bank" in "river bank", and after "bank" in "money bank"?

# %%
text = ["river bank floods", "money bank lends", "river shore floods", "money vault lends"]
vocabulary = sorted({word for sentence in text for word in sentence.split()})
number = {word: i for i, word in enumerate(vocabulary)}
pairs = np.array([[number[a], number[b]] for s in text for a, b in zip(s.split(), s.split()[1:])])
bank_model = nn.Sequential(nn.Embedding(len(vocabulary), 8), nn.Linear(8, len(vocabulary)))
fit(bank_model, pairs[:, 0], pairs[:, 1], rng)

# %%
expected = {}
for word in ("shore", "vault", "bank"):
    probs = F.softmax(bank_model(np.array([number[word]])), -1).data[0]
    expected[word] = {name: round(float(probs[number[name]]), 2) for name in ("floods", "lends")}
    print(f"  after {word:6}", expected[word])
assert expected["shore"]["floods"] > 0.9 < expected["vault"]["lends"] and 0.3 < expected["bank"]["floods"] < 0.7

# %% [markdown]
# Answer: about half floods, half lends, in both. "River bank" and "money bank" are clear to us. The lookup gives "bank"
# the same row in both. The meaning of a word depends on its neighbors, so a model has to look at more than one token.
# The next lesson does that with what we have, and then the transformer does it better.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start embedding`, positions, weight_tying
# - read: minigrad/functional/indexing.py: Embedding; gpt/model/positions.py
# - break: `python scripts/break.py no_positions`. Expect: after 350 steps the loss is no higher than that of the
#   healthy model, which lesson 4.2.6 explains. The comparison of all activations finds the mistake at once, at wpe.
# - lesson: `python scripts/lesson.py 414`
