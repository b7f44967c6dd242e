"""Lesson 0.1: from a slope to learning

Lesson 0.0 went down a slope and found the two numbers of a line. A language model has millions of numbers, and its
answer is a choice among many tokens. This lesson adds what is missing: softmax makes probabilities of scores,
cross-entropy says how wrong they are, and momentum and Adam choose the steps. Each is a formula and a few lines of
NumPy, compared with the project's own. Weight decay comes last.
Bishop 2006, "Pattern recognition and machine learning", section 4.3.4; Kingma & Ba 2015, "Adam", algorithm 1.
"""

import numpy as np

import minigrad.functional as F
from minigrad import Tensor, nn, optim
from scripts.course.pictures import LINES, Lesson

lesson = Lesson("01_learning", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% Softmax: scores become probabilities
# A model that chooses among V tokens computes a score for each of them: a *logit*. It may be any number. Softmax turns
# V logits z into V probabilities p. They are positive, they sum to 1, and the larger logit has the larger probability:
#
#     p_i = exp(z_i) / (exp(z_1) + ... + exp(z_V))
#
# Predict: add 1,000 to each of three logits. What happens to the three probabilities? And the code below subtracts the
# largest logit first, which the formula does not: what would go wrong without it?


# %%
def softmax(z: np.ndarray) -> np.ndarray:
    """Logits to probabilities, along the last dimension."""
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


z = np.array([2.0, 1.0, 0.0])
print("logits       ", z)
print("probabilities", softmax(z), " sum", softmax(z).sum())
print("logits + 1000", softmax(z + 1000))
with np.errstate(over="ignore", invalid="ignore"):
    print("the formula as it stands:", np.exp(z + 1000) / np.exp(z + 1000).sum())
assert np.allclose(softmax(z), softmax(z + 1000))
assert np.allclose(softmax(z), F.softmax(Tensor(np.stack([z, z + 1000])), -1).data)  # minigrad's: each row by itself

# %% [markdown]
# Answer: nothing happens to the probabilities. Numerator and denominator are both multiplied by exp(1000), and only
# *differences* of logits count: a logit that is larger by 1 makes a token e = 2.72 times as likely. But exp(1000) is
# too large for a computer's numbers, and infinity / infinity is "not a number". After the subtraction the largest power
# is exp(0) = 1, and nothing else has changed.

# %% Cross-entropy: how wrong are the probabilities?
# The text says which token really came: the target y. The loss is the surprise at it, the *cross-entropy*:
#
#     loss = -ln p_y
#
# It is 0 for p_y = 1, 0.69 for p_y = 1/2, 4.6 for p_y = 1/100, and it grows without limit as p_y goes to 0.
#
# To learn, we need its slopes with respect to the logits. Insert softmax into the loss, and differentiate:
#
#     loss         = -ln (exp(z_y) / Σ_j exp(z_j)) = -z_y + ln Σ_j exp(z_j)
#     d loss / d z_i = -[i = y] + exp(z_i) / Σ_j exp(z_j) = p_i - onehot_i
#
# [i = y] is 1 for the target and 0 for the others: these V numbers are the target as a *one-hot* row.
#
# Predict: the logits are 2, 1 and 0, and the target is the second token. Which of the three slopes are negative, and
# what is the sum of all three?

# %%
y, onehot = 1, np.array([0.0, 1.0, 0.0])
by_formula = softmax(z) - onehot
print("p - onehot       ", by_formula)

# %%
logits = Tensor(z[None], requires_grad=True)  # (1, V): one row, three logits
F.cross_entropy(logits, np.array([y])).backward()
print("by minigrad      ", logits.grad[0])
assert np.allclose(by_formula, logits.grad[0], atol=1e-12)

# %% [markdown]
# Answer: the target's slope is negative, and only that one: a step against the slopes raises the target's logit and
# lowers all others. The sum is 0, because both p and onehot sum to 1. The slopes are largest where the model is most
# wrong, and they vanish when p_y = 1.

# %% Gradient descent finds the shares
# Now learn. A bag holds letters: 70 % are a, 20 % b and 10 % c. The model is three logits, the same for every draw. The
# mean slope over the draws is p - share. *Gradient descent* steps against it, with a learning rate η (lr in code):
#
#     z <- z - η (p - share)
#
# Predict: which probabilities does it end with, and is the loss 0 then?

# %%
draws = rng.choice(3, 10_000, p=[0.7, 0.2, 0.1])
share = np.bincount(draws.astype(np.intp)) / len(draws)
z = np.zeros(3)
print("shares ", share, f" first loss {-(share @ np.log(softmax(z))):.4f}")
for _ in range(200):
    z -= 1.0 * (softmax(z) - share)
print("learned", softmax(z), f" last loss  {-(share @ np.log(softmax(z))):.4f}")
assert np.allclose(softmax(z), share, atol=1e-3) and -(share @ np.log(share)) > 0.5

# %% [markdown]
# Answer: it ends with the shares, because there the slope p - share is 0. Learning has found what counting finds. The
# loss is not 0: nobody can know which letter comes next. What remains is the *entropy* of the shares. At first all
# logits are equal, and the loss is ln 3 = 1.10.
#
# The same loop with the project's parts is the one in all lessons to come. Each step looks at a few drawn examples
# only, a *batch*: its mean slope is an estimate of that of all examples, and far cheaper. This is *stochastic* gradient
# descent, SGD.

# %%
model = nn.Parameter(np.zeros((1, 3), np.float32))
optimizer = optim.SGD([model], lr=0.1)
for _ in range(1000):
    batch = rng.choice(draws, 100)
    loss = F.cross_entropy(model.expand(100, 3), batch)  # the mean of -ln p_y
    optimizer.zero_grad()  # gradients add up: start from 0
    loss.backward()  # model.grad: the mean of p - onehot
    optimizer.step()  # model <- model - lr * model.grad
print("learned from batches", softmax(model.data[0]))
assert np.abs(softmax(model.data[0]) - share).max() < 0.05

# %% Momentum: do not forget the last step
# Two numbers a and b, and loss = (a² + 500 b²) / 2. Their slopes are a and 500 b. One step multiplies a by 1 - η and b
# by 1 - 500 η. If η > 2 / 500, then |1 - 500 η| > 1, and b grows at each step: the loss *diverges*. So b sets the
# limit, and a has to wait. *Momentum* sums the slopes up, older ones counting less. Where they agree, the steps get
# longer:
#
#     v <- μ v + slope,    θ <- θ - η v        (often μ = 0.9)
#
# Predict: start at a = b = 1 with η = 0.003 and take 100 steps. How much of a is left without momentum: a tenth, a
# half, three quarters? Momentum also sums up the slopes of b, whose sign changes. Does it help a, b, or the loss?


# %%
def descend(rate: float, mu: float, steps: int = 100) -> np.ndarray:
    """a and b after each step, (steps + 1, 2)."""
    path, v = [np.ones(2)], np.zeros(2)
    ours = nn.Parameter(np.ones(2))  # the same two numbers, for minigrad's SGD
    optimizer = optim.SGD([ours], rate, mu)
    for _ in range(steps):
        slope = path[-1] * [1, 500]
        v = mu * v + slope
        path.append(path[-1] - rate * v)
        ours.grad = slope
        optimizer.step()
    assert np.allclose(ours.data, path[-1])
    return np.array(path)


paths = {"η = 0.003": descend(0.003, 0), "η = 0.003, momentum": descend(0.003, 0.9), "η = 0.0041": descend(0.0041, 0)}
losses = {name: path**2 @ [0.5, 250] for name, path in paths.items()}
for name, path in paths.items():
    print(f"{name:19} after 100 steps |a|, |b|", np.abs(path[-1]).round(4), f" loss {losses[name][-1]:.4g}")
slow, quick, diverged = (loss[-10:].max() for loss in losses.values())
assert np.isclose(losses["η = 0.003"][-1], 0.997**200 / 2) and quick < slow / 5 and diverged > losses["η = 0.0041"][0]

with lesson.picture("momentum", "loss = (a² + 500 b²) / 2, from a = b = 1") as axes:
    for (name, loss), line in zip(losses.items(), LINES):
        axes.semilogy(loss, line, label=name)
    axes.set(xlabel="step", ylabel="loss")

# %% [markdown]
# Answer: 0.997^100 = 0.74, about three quarters. With momentum about a hundredth of a is left. It does not help b,
# which now swings around 0 for a while, but a was what kept the loss up. And 0.0041, just over 2 / 500, diverges.

# %% Adam: a step size for each number
# Adam goes further. It keeps two running means for each number: of its slopes g, and of their squares. The step is the
# first, divided by the root of the second. β1 = 0.9 and β2 = 0.999 say how slowly the means change:
#
#     m <- β1 m + (1 - β1) g          the mean slope
#     v <- β2 v + (1 - β2) g²         the mean square
#     m̂ = m / (1 - β1^t),  v̂ = v / (1 - β2^t)     both begin at 0; after t steps this makes up for it
#     θ <- θ - η m̂ / (√v̂ + ε)         ε = 1e-8: no division by 0
#
# Predict: one number has the slope 0.001, another the slope 1,000. How far does Adam's first step move each?


# %%
def adam(theta: np.ndarray, g: np.ndarray, state: dict, lr: float) -> np.ndarray:
    """The parameters after one more step of Adam."""
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    v = state["v"] = 0.999 * state.get("v", 0) + 0.001 * g * g
    return theta - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


print("first step, lr = 0.1:", adam(np.zeros(2), np.array([0.001, 1000.0]), {}, lr=0.1))

# %%
theta, state = rng.standard_normal(5), {}
ours = nn.Parameter(theta.copy())
optimizer = optim.Adam([ours], lr=0.1)
for _ in range(50):
    g = rng.standard_normal(5) * [1e-4, 1e-2, 1, 1e2, 1e4]
    theta, ours.grad = adam(theta, g, state, lr=0.1), g
    optimizer.step()
print(f"50 steps: these lines and minigrad.optim.Adam differ by {np.abs(theta - ours.data).max():.0e}")
assert np.abs(theta - ours.data).max() < 1e-12

# %% [markdown]
# Answer: both by 0.1, the learning rate. In the first step m̂ / √v̂ is g / |g|, which is 1 or -1. Adam's steps do not
# depend on the scale of the slopes.

# %% Why Adam?
# A model of text has numbers for each token, and "the" is a thousand times as frequent as "zebra". The mean slope of a
# rare token's numbers is small, only because most examples say nothing about them. Here are ten bags of letters, each
# with its own favorite letters and its own row of logits. A step sees bag k with frequency f_k, so the slope of row k
# is f_k (p - share). Each bag is half as frequent as the one before it; or, as a control, all are equally frequent.
#
# Predict: SGD takes 100 steps, at the best of six learning rates. Does it learn the rarest bag?


# %%
def learn(frequency: np.ndarray, shares: np.ndarray, rule: str, lr: float) -> np.ndarray:
    """How much of each bag's avoidable loss is left after 100 steps: 1 is nothing learned, 0 is all."""
    z, state = np.zeros_like(shares), {}
    for _ in range(100):
        g = frequency[:, None] * (softmax(z) - shares)
        z = adam(z, g, state, lr) if rule == "Adam" else z - lr * g
    avoidable = (shares * np.log(shares / softmax(z))).sum(axis=1)  # the loss less the entropy
    return avoidable / (shares * np.log(shares * shares.shape[1])).sum(axis=1)


rates = {"SGD": (0.3, 1, 3, 10, 30, 100), "Adam": (0.003, 0.01, 0.03, 0.1, 0.3, 1)}
shares = softmax(rng.permuted(np.tile(np.linspace(-3, 3, 8), (10, 1)), axis=1))  # ten bags of eight letters
halving, left = 2.0 ** -np.arange(1, 11), {}
for kind, frequency in (("halving", halving), ("equal", np.full(10, 0.1))):
    for rule in rates:
        tried = [learn(frequency, shares, rule, lr) for lr in rates[rule]]
        left[kind, rule] = min(tried, key=lambda remaining: frequency @ remaining)
        print(f"{kind:8} frequencies, {rule:4}: left of bags 1 to 10", *(f"{part:4.0%}" for part in left[kind, rule]))
too_fast = learn(halving, shares, "SGD", 30)
print("halving  frequencies, SGD, rate 30 and not 10       ", *(f"{part:4.0%}" for part in too_fast))
assert left["halving", "SGD"][-1] > 0.5 and left["equal", "SGD"].max() < 0.01 and too_fast[0] > 1 > too_fast[1:].max()
assert left["halving", "Adam"].max() < 0.01

# %% [markdown]
# Answer: no. At its best rate, 10, three quarters of what could be learned about the rarest bag is left. At 30 SGD
# learns more of it, but it jumps to and fro over the minimum of the *most* frequent bag, whose loss ends higher than it
# began. One rate has to serve all bags. Adam divides each slope by its own scale and learns all ten. The control shows
# that the frequencies are the reason: where all are equal, SGD learns all bags, too.
#
# A text is a case of unequal frequencies (Kunstner et al. 2024, "Heavy-tailed class imbalance and why Adam outperforms
# gradient descent on language models").

# %% Weight decay and AdamW
# *Weight decay* shrinks every number a little at each step, so what the loss does not ask for fades away. There are two
# ways to do it. The second is *AdamW* (Loshchilov & Hutter 2019, algorithm 2), which trains the GPTs of the lessons to
# come:
#
#     g <- g + λ θ            Adam: a part of the slope
#     θ <- θ - η λ θ          AdamW: a step of its own, before Adam's
#
# For plain SGD both are the same. For Adam they are not.
#
# Predict: two numbers are 1 at first. The slope of one is always 0, that of the other 10 and -10 by turns. What is left
# of each after 100 steps, with η = 0.01 and λ = 0.1?

# %%
decayed = {}
for rule in (optim.SGD, optim.Adam, optim.AdamW):
    ours = nn.Parameter(np.ones(2))
    optimizer = rule([ours], lr=0.01, weight_decay=0.1)
    for step in range(100):
        ours.grad = np.array([0, 10.0 * (-1) ** step])
        optimizer.step()
    decayed[rule] = ours.data
    print(f"{rule.__name__:5} after 100 steps", ours.data)
assert np.isclose(decayed[optim.SGD][0], 0.999**100) and np.abs(decayed[optim.AdamW] - 0.999**100).max() < 0.02
assert decayed[optim.Adam][0] < 0.5 < 0.95 < decayed[optim.Adam][1]

# %% [markdown]
# Answer: AdamW leaves about 0.999^100 = 0.90 of both, as λ says, and SGD as much of the first. Adam divides λ θ by the
# scale of the slopes, as it divides all slopes. So the first number, whose only slope is the decay itself, goes down by
# nearly η at each step, whatever λ is, and the second, whose slopes are large, hardly decays.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start softmax`, log_softmax, cross_entropy, sgd, adam
# - line by line: `python scripts/step.py --html cross_entropy`
# - read: minigrad/functional/loss.py: CrossEntropy; minigrad/optim.py: SGD, Adam, AdamW
# - try: momentum in `learn`, as a third rule with rates from 0.03 to 10. Expect: about a tenth is left of the rarest
#   bag, less than with SGD and more than with Adam. Momentum makes steps up to ten times as long, for frequent and rare
#   bags alike.
# - break: the bias correction in `adam`: leave out both divisors. Expect: minigrad differs, and the first step is 0.3
#   and not 0.1: m is a tenth of the slope, and the root of v only 0.03 of it.
# - lesson: `python scripts/lesson.py 411`
