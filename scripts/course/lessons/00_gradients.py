"""Lesson 0.0: gradients, from nudging a number to automatic differentiation

To learn, a network needs to know for each of its numbers how the loss changes if that number grows a little: a slope.
This lesson finds slopes by nudging, then by the chain rule, then with a program of sixty lines that applies the chain
rule by itself. The project's autograd.py is the same program for arrays. The lesson assumes only that you know slopes.
Baydin et al. 2018, "Automatic differentiation in machine learning".
"""

from __future__ import annotations

import math

import numpy as np

import minigrad.functional as F
from minigrad import Tensor
from minigrad.inspection import draw
from scripts.course.pictures import Lesson

lesson = Lesson("00_gradients", __doc__)

# %% A slope, by nudging


def f(x: float) -> float:
    return x * math.sin(x)


x, eps = 1.0, 1e-3
forward_slope = (f(x + eps) - f(x)) / eps
central_slope = (f(x + eps) - f(x - eps)) / (2 * eps)
true_slope = math.sin(x) + x * math.cos(x)  # the product rule
print(f"f(x) = x sin x at x = {x:g}: slope {true_slope:.9f} by calculus")
print(f"nudged to one side       {forward_slope:.9f}, error {abs(forward_slope - true_slope):.0e}")
print(f"nudged to both sides     {central_slope:.9f}, error {abs(central_slope - true_slope):.0e}")
assert abs(central_slope - true_slope) < 1e-5 < abs(forward_slope - true_slope)

# How small should the nudge be? If it is too large, the curve bends; if it is too small, only rounding errors are left
# of f(x + eps) - f(x - eps).
nudges = 10.0 ** np.arange(-12, 0.5, 0.25)
errors = [abs((f(x + e) - f(x - e)) / (2 * e) - true_slope) for e in nudges]
best = nudges[int(np.argmin(errors))]
print(f"best nudge in float64: about {best:.0e}")
assert 1e-7 < best < 1e-3

with lesson.picture("nudging", "A slope by nudging", columns=2, size=(9, 3.6)) as (left, right):
    xs = np.linspace(0, 4, 200)
    left.plot(xs, xs * np.sin(xs), label="f(x) = x sin x")
    left.plot(xs, f(x) + true_slope * (xs - x), "--", color="0.4", label=f"slope {true_slope:.2f} at x = {x:g}")
    left.set(xlabel="x", ylabel="f(x)", ylim=(-4, 3))
    right.loglog(nudges, np.maximum(errors, 1e-16), "o-", markersize=3)
    right.set(xlabel="nudge", ylabel="error of the slope")
    right.text(1e-12, 1e-8, "rounding")
    right.text(2e-3, 1e-9, "curvature")

# %% [markdown]
# Gradient checks (`gradcheck`) use a nudge of about the best size.
#
# The limitation: each number needs a run of its own. GPT-2 has 124 million numbers and needs all slopes at every step.
# The chain rule gives all of them for the price of about two more runs.

# %% The chain rule
# loss = (w x + b - y)²: a chain of small steps. The slope of the chain is the product of the slopes of its steps.
w, b, x, y = 0.5, 0.1, 2.0, 3.0
product = w * x  # d product / d w = x
prediction = product + b  # d prediction / d product = 1,  d prediction / d b = 1
error = prediction - y  # d error / d prediction = 1
loss = error * error  # d loss / d error = 2 error
derror = 2 * error
dprediction = derror * 1
db = dprediction * 1
dw = dprediction * 1 * x
print(f"loss {loss:.3f}; d loss / d w = {dw:.3f}, d loss / d b = {db:.3f}")
nudged = ((w + 1e-6) * x + b - y) ** 2
assert abs((nudged - loss) / 1e-6 - dw) < 1e-4
print(f"nudging w agrees: {(nudged - loss) / 1e-6:.3f}")

# %% A scalar autograd


class Value:
    """A number that remembers how it was computed: the whole idea of autograd."""

    def __init__(self, data: float, parents: tuple[Value, ...] = (), slopes: tuple[float, ...] = ()):
        self.data = data
        self.grad = 0.0
        self.parents = parents  # the values that it was computed from
        self.slopes = slopes  # the slope of this step with respect to each of them

    def __add__(self, other: Value | float) -> Value:
        other = value_of(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other: Value | float) -> Value:
        other = value_of(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __sub__(self, other: Value | float) -> Value:
        return self + value_of(other) * -1.0

    def tanh(self) -> Value:
        t = math.tanh(self.data)
        return Value(t, (self,), (1 - t * t,))

    def backward(self) -> None:
        self.grad = 1.0  # d self / d self
        for value in reversed(in_order(self)):
            for parent, slope in zip(value.parents, value.slopes):
                parent.grad += value.grad * slope  # += and not =: a value may be used twice


def value_of(number: Value | float) -> Value:
    return number if isinstance(number, Value) else Value(number)


def in_order(last: Value) -> list[Value]:
    """Every value that `last` depends on, each after those that it was computed from."""
    order: list[Value] = []
    seen: set[int] = set()

    def visit(value: Value) -> None:
        if id(value) not in seen:
            seen.add(id(value))
            for parent in value.parents:
                visit(parent)
            order.append(value)

    visit(last)
    return order


a, c = Value(0.5), Value(0.1)
error_ = a * 2.0 + c - 3.0
(error_ * error_).backward()
print(f"the same slopes, without calculus by hand: {a.grad:.3f} and {c.grad:.3f}")
assert (a.grad, c.grad) == (dw, db)

# %% The diamond: why += and why in order
# x reaches the end on two paths, and both count. So y may pass on its gradient only after it has received all of it.
#
# Predict: y = x² and z = 2 y + y x. What is the slope of z with respect to x at x = 3?
x_ = Value(3.0)
y_ = x_ * x_
(y_ * 2.0 + y_ * x_).backward()
print(f"the slope of z at x = 3: {x_.grad:.0f}")

# %% [markdown]
# Answer: 39. Written out, z = 2 x² + x³, so the slope is 4 x + 3 x² = 12 + 27. The paths through y and directly through
# x add up. With = instead of +=, one of them is lost: `python scripts/break.py overwrite` shows what that does to a
# GPT.

# %% Fitting a line: learning means following slopes downhill
rng = np.random.default_rng(lesson.seed)
xs = np.linspace(-1, 1, 20)
ys = 1.5 * xs - 0.7 + 0.1 * rng.standard_normal(20)
slope, offset, losses = Value(0.0), Value(0.0), []
for _ in range(60):
    total = Value(0.0)
    for x, y in zip(xs, ys):
        miss = slope * float(x) + offset - float(y)
        total = total + miss * miss * (1 / len(xs))
    slope.grad = offset.grad = 0.0  # gradients add up: start from zero
    total.backward()
    slope.data -= 0.2 * slope.grad  # against the slope, a little
    offset.data -= 0.2 * offset.grad
    losses.append(total.data)
best_slope, best_offset = np.polyfit(xs, ys, 1)
print(f"found y = {slope.data:.3f} x {offset.data:+.3f}; least squares says {best_slope:.3f} and {best_offset:+.3f}")
assert abs(slope.data - best_slope) < 0.01

with lesson.picture("line", "Fitting a line by gradient descent", columns=2, size=(9, 3.6)) as (left, right):
    left.plot(xs, ys, "o", color="0.5", label="data")
    left.plot(xs, slope.data * xs + offset.data, label="the line found")
    left.set(xlabel="x", ylabel="y")
    right.semilogy(losses)
    right.set(xlabel="step", ylabel="mean squared error")

# %% The same through minigrad/autograd.py
# A Tensor is a Value that holds an array; a Function is one step with its slopes. One difference: for arrays, the
# slopes would be large matrices (1,000 x 1,000 numbers for a layer). A Function does not store them. Its backward takes
# the gradient of its output and returns that gradient multiplied by the slopes.
weight, bias = Tensor(0.0, requires_grad=True), Tensor(0.0, requires_grad=True)
inputs, targets = Tensor(xs.astype(np.float32)), Tensor(ys.astype(np.float32))
for _ in range(60):
    loss_tensor = F.mse_loss(weight * inputs + bias, targets)
    weight.zero_grad()
    bias.zero_grad()
    loss_tensor.backward()
    weight.data -= 0.2 * weight.grad
    bias.data -= 0.2 * bias.grad
print(f"minigrad finds y = {weight.item():.3f} x {bias.item():+.3f}")
assert abs(weight.item() - slope.data) < 1e-4 and abs(bias.item() - offset.data) < 1e-4

# %%
again = Tensor(3.0, requires_grad=True)  # the diamond: now += and the order are minigrad's
y_ = again * again
(y_ * 2.0 + y_ * again).backward()
print(f"the slope of z at x = 3: {again.grad:.0f}")
assert again.grad == x_.grad == 39

# %% [markdown]
# The recorded graph of the last step of the line. Forward goes down, backward goes up:

# %%
draw(loss_tensor, names={weight: "weight", bias: "bias", loss_tensor: "loss"})

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start mul`, tanh, walk, sum, mean, unbroadcast: write forward and
#   backward yourself and have them checked
# - read: minigrad/autograd.py: class Value for arrays; minigrad/functional/elementwise.py: its steps
# - break: the += in Value.backward above: make it = and see which assert fails first. Expect: the first one, `(a.grad,
#   c.grad) == (dw, db)`. The error is multiplied by itself, and of its two gradients the second replaces the first, so
#   both slopes are half of what they should be.
# - lesson: `python scripts/lesson.py 01`
