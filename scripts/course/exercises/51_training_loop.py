"""training_loop: from batches to a falling loss.

Each step cuts a batch out of the text, computes the loss and its gradients, and changes the parameters:

    batch      x: windows of the text, `length` tokens each; y: for each token of x the one that follows it
    zero       gradients[name] = zeros like the parameter, in every step
    backward   loss = backward(params, x, y, gradients)   ADDS to gradients[name] in place, for every parameter
    clip       norm = sqrt(the sum of g^2 over all gradients); where norm > max_norm, scale all by max_norm / norm
    update     params[name] = update(name, p, gradient, lr)   for every parameter p, with its gradient after clipping
               and lr = rate(step), step = 0, 1, ...

`backward`, `update` (an optimizer, which remembers its averages for each name) and `rate` (a schedule) are functions
that the caller gives you. Never change an array of params in place: update returns a new one. params and gradients are
dictionaries name -> array. The model of this check is small, with the parameters "a" and "b": it guesses the next token
as a * x + b. Its loss is the mean squared error, its optimizer SGD with momentum 0.5.

Shapes: tokens (N) integers; begins: where the windows of a batch begin; steps: a list of begins, one for each step.
        batch -> x, y (B, length) each;  train -> (params after the last step, [loss of each step])
Example: batch([5, 6, 7, 8, 9], [0, 2], 2)  ->  x = [[5, 6], [7, 8]], y = [[6, 7], [8, 9]]
"""

import hypothesis.strategies as st
import numpy as np

from scripts.course.checker.checks import NUMPY, Case, Exercise, FunctionCheck, beginning, filled, ids

STUB = beginning(__doc__, NUMPY) + '''
def batch(tokens, begins, length):
    # TODO: x and y
    raise NotImplementedError("a batch")

def train(params, tokens, steps, length, backward, update, rate, max_norm):
    params, losses = dict(params), []
    for step, begins in enumerate(steps):
        # TODO: batch, zero, backward, clip, update; append the loss to losses
        raise NotImplementedError("a training step")
    return params, losses
'''
BLANKS = '''
x = np.array([tokens[begin : begin + length] for begin in begins])
y = np.array([tokens[begin + 1 : begin + length + 1] for begin in begins])  # each next token
return x, y

x, y = batch(tokens, begins, length)
gradients = {name: np.zeros_like(p) for name, p in params.items()}
loss = backward(params, x, y, gradients)
losses.append(loss)
norm = np.sqrt(sum((g * g).sum() for g in gradients.values()))  # one norm for all arrays
factor = max_norm / norm if norm > max_norm else 1
for name, p in params.items():
    params[name] = update(name, p, gradients[name] * factor, rate(step))
'''
SLIPS = [
    ("batch(tokens, begins", "batch(tokens, steps[0]", "every step takes the first batch: each has its own, `begins`"),
    ("gradients = {", "gradients = gradients if step else {",
     "the gradients are not set to zero: what earlier steps left is added to those of this step"),
    ("gradients = {", "for name in gradients if step else ():\n    gradients[name] = gradients[name] * factor\n"
     "gradients = gradients if step else {",
     "the gradients are not set to zero: what earlier steps left, clipped, is added to those of this step"),
]  # fmt: skip


def small_model(train, params, tokens, steps, length, rates, max_norm):
    velocity = dict.fromkeys(params, 0)

    def backward(params, x, y, gradients):
        error = params["a"] * x + params["b"] - y
        gradients["a"] += 2 * (error * x).mean(axis=0) / length
        gradients["b"] += 2 * error.mean(axis=0) / length
        return float((error**2).mean())

    def update(name, p, gradient, lr):
        velocity[name] = 0.5 * velocity[name] + gradient
        return p - lr * velocity[name]

    return train(params, tokens, steps, length, backward, update, lambda step: rates[step], max_norm)


@st.composite
def windows(draw):
    length = draw(st.integers(1, 3))
    tokens = draw(ids(draw(st.integers(length + 1, 8)), 10))
    return Case(tokens, draw(st.lists(st.integers(0, len(tokens) - length - 1), min_size=1, max_size=2)), length)


def run(window, steps, max_norm):
    tokens, begins, length = window.arguments
    params = filled({"a": (length,), "b": (length,)})
    steps = [[(begin + step) % (len(tokens) - length) for begin in begins] for step in range(steps)]
    return Case(params, tokens, steps, length, [0.1, 0.04, 0.06, 0.02], max_norm)


WHOLE = Case(np.array([3, 1, 4, 1, 5, 9, 2, 6]), [0, 4], 3)
runs = st.builds(run, windows(), st.integers(1, 3), st.sampled_from([1.0, 5.0, 1000.0]))

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="from batches to a falling loss", group="Model", effort="30 min, medium",
    hints=(
        "Five steps, in the order of the statement. backward adds, so something has to be zero before it.",
        "y is x, one token further on. gradients has the names and shapes of params; one norm and one factor for all.",
        "gradients = {name: np.zeros_like(p) for name, p in params.items()}; update(name, p, gradients[name] * factor, "
        "rate(step))",
    ),
    checks=[
        FunctionCheck("batch", windows(), WHOLE),
        FunctionCheck("train", runs, run(WHOLE, 3, 5.0), call=small_model, tolerance=1e-5),
    ],
    answer=("gpt.training.batches.get_batch", "gpt.training.training_step.training_step"),
)  # fmt: skip
