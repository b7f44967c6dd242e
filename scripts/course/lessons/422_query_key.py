"""Lesson 4.2.2: queries and keys, and why their product is divided by sqrt(d_k)

Two learned projections of one embedding: the query says what a token looks for, the key says what it offers. Relevance
no longer has to be mutual, and it is no longer similarity. Then a trap: with many numbers per key the scores grow,
softmax collapses onto one token, and its gradient vanishes, unless the scores are scaled. Vaswani et al. 2017, 3.2.1.
"""

import numpy as np

import minigrad.functional as F
from minigrad import Tensor, nn, optim
from scripts.course import widget_data
from scripts.course.pictures import Lesson, bars, heatmap

lesson = Lesson("422_query_key", __doc__)

# %% Two cards per word
# The words of "cats chase small mice", in three made-up numbers: (a noun, a verb, an adjective). A matrix W_Q turns
# each row into a query, q = x W_Q, and another, W_K, turns the same row into a key, k = x W_K. In this example nouns
# look for verbs, and verbs and adjectives look for nouns. Nouns offer themselves as nouns and verbs as verbs;
# adjectives offer nothing.
#
# Predict: "small" looks for "mice". How much does "mice" look for "small"? And how much would it with X X^T?

# %%
words = ["cats", "chase", "small", "mice"]
X = np.array([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0], [2.0, 0, 0.3]])
W_Q = np.array([[0, 1.0], [1, 0], [1, 0]])  # (C, d_k)
W_K = np.array([[1.0, 0], [0, 1], [0, 0]])
Q, K = X @ W_Q, X @ W_K  # (T, d_k) each: two views of the same rows
print("queries\n", Q, "\nkeys\n", K)

# %%
similarity, scores = X @ X.T, Q @ K.T
print("scores Q K^T\n", scores)
print("           small -> mice, mice -> small, small -> small")
for name, table in (("X X^T", similarity), ("Q K^T", scores)):
    print(f"{name:10} {table[2, 3]:13.1f}{table[3, 2]:15.1f}{table[2, 2]:16.1f}")
assert np.array_equal(similarity, similarity.T) and not np.array_equal(scores, scores.T)
assert scores[2, 3] > scores[3, 2] == 0 and similarity[2, 3] == similarity[3, 2]
assert scores[2, 2] == 0 < similarity[2, 2]  # and a word does not have to attend to itself

# %%
raw, learned = (F.softmax(Tensor(table), -1).data for table in (similarity, scores))
with lesson.picture("projections", "Similarity and relevance", columns=2, size=(10, 3.8)) as pair:
    for axes, title, weights in zip(pair, ("softmax(X X^T)", "softmax(Q K^T)"), (raw, learned)):
        heatmap(axes, weights, words, words)
        axes.set(title=title, xlabel="key (looked at)", ylabel="query (looking)")

# %% [markdown]
# Answer: not at all, as "mice" looks for a verb. X X^T gives both directions the same score. **Q and K are learned
# lenses: same embedding, different lens, different view.**
#
# ## Can the two matrices be learned?
#
# Here they were made by hand. Now a task that similarity cannot solve: six random tokens stand in a circle, and each
# must attend to the next one. The loss is the cross-entropy of its attention weights.
#
# Predict: what loss does similarity have, compared to even weights (ln 6 = 1.79)? And after training, one matrix that
# is used for both queries and keys?

# %%
rng = np.random.default_rng(lesson.seed)
C, n = 8, 6
x = Tensor(rng.standard_normal((n, C)).astype(np.float32))
wanted = np.roll(np.arange(n), -1)
learned = {}
for matrices in (1, 2):
    lenses = [nn.Linear(C, C, bias=False) for _ in range(matrices)]  # one: the query is also the key
    optimizer = optim.Adam([lens.weight for lens in lenses], lr=0.03)
    for _ in range(150):
        loss = F.cross_entropy(lenses[0](x) @ lenses[-1](x).T, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned[matrices] = loss.item()
similarity_loss = F.cross_entropy(x @ x.T, wanted).item()
print(f"similarity {similarity_loss:.2f}; learned: one matrix for both {learned[1]:.2f}, two matrices {learned[2]:.3f}")
assert learned[2] < 0.1 < np.log(2) < learned[1] and similarity_loss > np.log(n)

# %% [markdown]
# Answer: a much higher one. A token is mostly more similar to itself than to others, so most of the weight goes there,
# and even weights would do better. **Similarity is not the same as relevance.** Training one matrix for both does not
# solve it. The scores stay symmetric, so each token's score for the next one is also the next one's score for it, where
# it competes with the right one. What one token wins, another loses: the product of the six right weights is at most
# (1/2)^6, and the loss, which is minus the mean of their logarithms, at least ln 2 = 0.69. Two matrices solve it.
#
# ## The size of the scores
#
# Predict: softmax turns the scores 22, -15, 3 and 8 into weights. How much is left for the last three together? And if
# all scores are divided by 8?

# %%
example = np.array([22.0, -15, 3, 8])
collapsed, kept = (F.softmax(Tensor(v), -1).data for v in (example, example / 8))
print("softmax([22, -15, 3, 8])     =", collapsed, " one token takes everything")
print("softmax([22, -15, 3, 8] / 8) =", kept)
assert collapsed[0] > 0.999999 and abs(1 - collapsed[0] - np.exp(-14)) < 1e-7  # the rest is e^(8 - 22)
assert np.isclose(kept[0], np.exp(2.75) / np.exp(example / 8).sum())


# %%
def jacobian(p: np.ndarray) -> np.ndarray:
    """How the weights p = softmax(s) react to the scores: dp_i/ds_j = p_i (1 if i = j, else 0, minus p_j)."""
    return p[..., :, None] * (np.eye(p.shape[-1]) - p[..., None, :])


grads = []
for scale, weights in ((1.0, collapsed), (1 / 8, kept)):
    s_ = Tensor(example, requires_grad=True)
    F.softmax(s_ * scale, -1)[0].backward()
    assert np.allclose(s_.grad, scale * jacobian(weights)[0], rtol=1e-3, atol=1e-12)  # its first row: i = 0
    grads.append(float(np.abs(s_.grad).max()))
print(f"gradient of the first weight: {grads[0]:.1e} unscaled, {grads[1]:.1e} divided by 8")
assert grads[0] < 1e-5 < 1e-2 < grads[1]

# %% [markdown]
# Answer: less than a millionth, nearly all of it e^(8 - 22) for the last one. Divided by 8, they keep 22 %. A collapsed
# softmax has almost no gradient, so it hardly learns. Dividing is the temperature of lesson 4.1.1, with T = 8.
#
# Where do such scores come from? A score is a sum of d_k products, one for each number of a query and a key. If the
# numbers are independent, of mean 0 and variance 1, each product has variance 1, and their sum has variance d_k: its
# standard deviation is sqrt(d_k). With d_k = 64, as in GPT-2, scores of 8 are usual.
#
# Predict: by which number must the scores be divided so that their size does not depend on d_k?

# %%
widths = [4, 16, 64, 256, 1024]


def entropy(p: np.ndarray) -> float:
    """How widely the weights are spread, in nats: ln 8 for even ones, 0 where one token takes everything."""
    return float(-(p * np.log(p + 1e-30)).sum(axis=-1).mean())


def slope(p: np.ndarray) -> float:
    """How strongly the weights react to the scores: the mean size of the Jacobian."""
    return float(np.linalg.norm(jacobian(p), axis=(-2, -1)).mean())


# %%
# The library's attention averages the rows of the identity, so what it returns are its weights.
measures = ("std of the scores", "entropy", "entropy, scaled", "slope", "slope, scaled")
rows: dict[str, list[float]] = {name: [] for name in measures}
for d_k in widths:
    q, k = rng.standard_normal((400, 1, d_k)), rng.standard_normal((400, 8, d_k))  # 400 queries, each with 8 keys
    s = q @ k.transpose(0, 2, 1)  # (400, 1, 8)
    plain = F.softmax(Tensor(s), -1).data
    scaled = F.scaled_dot_product_attention(Tensor(q), Tensor(k), Tensor(np.eye(8))).data
    for row, value in zip(rows.values(), (s.std(), entropy(plain), entropy(scaled), slope(plain), slope(scaled))):
        row.append(value)
for name, row in {"d_k": widths, "sqrt(d_k)": np.sqrt(widths), **rows}.items():
    print(f"{name:18}" + "".join(f"{value:10.3f}" for value in row))
spreads, entropies, scaled_entropies, slopes, scaled_slopes = rows.values()
assert np.allclose(spreads, np.sqrt(widths), rtol=0.1)
assert (np.diff([entropies, slopes]) < 0).all() and slopes[-1] < 0.25 * scaled_slopes[-1]
assert np.allclose(scaled_entropies, 1.75, atol=0.15) and np.ptp(scaled_slopes) < 0.05  # at every width

# %%
with lesson.picture("scaling", "Why scores are divided by sqrt(d_k)", columns=3, size=(12, 3.6)) as (a, b, c):
    labels = ["22", "-15", "3", "8"]
    bars(a, dict(zip(labels, collapsed.tolist())), "weight", ".2f")
    a.set(title="softmax of the scores", xlabel="score")
    bars(b, dict(zip(labels, kept.tolist())), "weight", ".2f")
    b.set(title="divided by sqrt(64) = 8", xlabel="score", ylim=a.get_ylim())
    c.loglog(widths, slopes, "o-", label="unscaled")
    c.loglog(widths, scaled_slopes, "s--", label="divided by sqrt(d_k)")
    c.set(xlabel="d_k (numbers per key)", ylabel="slope of softmax", title="how much gradient is left")

# %% [markdown]
# Answer: by sqrt(d_k). Then entropy and slope stay about the same at every width: 1.7 nats, where even weights have
# ln 8 = 2.1. Without it, both fall as d_k grows.
#
# ## The formula so far
#
# | lesson | formula |
# |---|---|
# | 4.2.1 | softmax(X X^T) X |
# | now | softmax(Q K^T / sqrt(d_k)) X, where Q = X W_Q and K = X W_K |
#
# Two additions: projections and a scale. The average is still one of X: what gets a token noticed is also what it
# passes on. The next lesson separates the two.
#
# ## With and without
#
# On the page of this lesson (`python scripts/lesson.py 422 --html`) you can switch projections, scale and mask on and
# off: for the four words above, and for heads of a trained GPT.

# %%
model, tokenizer, _ = widget_data.demo_model()
sentence = "If the value is not a string, it is returned."
heads = [widget_data.sentence_of(model, tokenizer, sentence, layer, 0) for layer in range(2)]
made_up = widget_data.made_up_sentence("cats chase small mice (made up, see above)", words, X, W_Q, W_K)
lesson.widget("attention", {"sentences": [made_up, *heads]})

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start softmax`, attention: look at softmax's Jacobian where the
#   scores are large
# - read: minigrad/functional/attention.py: scale, and how its backward uses it
# - break: `python scripts/break.py no_scale`: a GPT with one head of 128 numbers per key, trained without sqrt(d_k).
#   Expect: a higher loss, and attention that looks at about one token: an entropy near 0.1 nats, healthy about 1.7.
# - lesson: `python scripts/lesson.py 423`
