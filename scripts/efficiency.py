"""Karpathy's microgpt (2026) says: "Everything else is just efficiency." How much is that? One small GPT, three ways:
number by number, with arrays, and in the library.

The model is that of scripts/one_page.py, as small as microgpt: 1 layer, 16 wide, 4 heads, and one text of 16 letters in
each step. All three reach about the same loss; what differs is how much one operation of Python computes.
On two slow cores 1,000 steps took 256 s, 3.6 s and 3.4 s, with final losses of 2.577, 2.577 and 2.600: with arrays as
small as these, the library spends its time in Python, too. Its kernels are for larger ones.
"""

import gc
import math
import time
from pydoc_data.topics import topics

from start import command_line

import numpy as np

from gpt import GPT, GPTConfig
from minigrad.optim import Adam
from scripts import one_page

EXAMPLES = """examples:
  python scripts/efficiency.py              1,000 steps of each; number by number they take some minutes
  python scripts/efficiency.py --steps 50
"""
RATE = 5e-3


class Value:
    """A number that remembers which numbers it was computed from, and its slope with respect to each of them."""

    computed: list = []  # every Value since the last backward, sources before what was computed from them

    def __init__(self, number, sources=(), slopes=()):
        self.number = number
        self.sources = sources
        self.slopes = slopes
        self.grad = 0.0
        Value.computed.append(self)

    def backward(self):
        self.grad = 1.0
        for value in reversed(Value.computed):
            for source, slope in zip(value.sources, value.slopes):
                source.grad += value.grad * slope
        Value.computed.clear()

    def __add__(self, other):
        if isinstance(other, Value):
            return Value(self.number + other.number, (self, other), (1.0, 1.0))
        return Value(self.number + other, (self,), (1.0,))

    def __mul__(self, other):
        if isinstance(other, Value):
            return Value(self.number * other.number, (self, other), (other.number, self.number))
        return Value(self.number * other, (self,), (other,))

    def __pow__(self, n):
        return Value(self.number**n, (self,), (n * self.number ** (n - 1),))

    def tanh(self):
        out = math.tanh(self.number)
        return Value(out, (self,), (1 - out * out,))

    def exp(self):
        out = math.exp(self.number)
        return Value(out, (self,), (out,))

    def log(self):
        return Value(math.log(self.number), (self,), (1 / self.number,))

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -other

    def __truediv__(self, other):
        return self * other**-1.0

    def __ge__(self, other):  # NumPy's max, in the page's softmax, compares with it
        return self.number >= other.number


# Three ways to learn. Each returns step(text, t): train once on text (1, T + 1), t = 1, 2, ...; return the loss.


def number_by_number(vocabulary):
    """The page's model with arrays of Values: for each element, NumPy calls Value's own +, *, ** or exp, tanh, log."""
    p = one_page.new_weights(vocabulary)
    moments: dict = {}
    values_of = np.vectorize(Value, otypes=[object])
    grads_of = np.vectorize(lambda value: value.grad)

    def step(text, t):
        values = {name: one_page.Tensor(values_of(weight.data)) for name, weight in p.items()}
        loss = one_page.loss_of(text, values).data  # a Value
        loss.backward()  # Value's, not Tensor's: the page's send_back is never called
        for name, weight in p.items():
            weight.grad = grads_of(values[name].data)
        one_page.adam(p, moments, t, RATE)
        return loss.number

    return step


def with_arrays(vocabulary):
    """The page as it is."""
    p = one_page.new_weights(vocabulary)
    moments: dict = {}

    def step(text, t):
        loss = one_page.loss_of(text, p)
        loss.backward()
        one_page.adam(p, moments, t, RATE)
        return loss.data

    return step


def in_the_library(vocabulary):
    """The library's GPT, of the same size, from other random weights: its losses differ a little."""
    sizes = (one_page.CONTEXT, one_page.LAYERS, one_page.HEADS, one_page.WIDTH)
    model = GPT(GPTConfig(vocabulary, *sizes, dropout=0.0))
    optimizer = Adam(model.parameters(), lr=RATE, betas=(0.9, 0.99))

    def step(text, t):
        optimizer.zero_grad()
        loss = model.loss(text[:, :-1], text[:, 1:])
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main(argv=None):
    parser = command_line.parser(__doc__, EXAMPLES)
    parser.add_argument("--steps", type=command_line.whole_number(1), default=1000, help="training steps of each")
    steps = parser.parse_args(argv).steps
    one_page.LAYERS, one_page.HEADS, one_page.WIDTH = 1, 4, 16  # the page reads them when it is called
    gc.disable()  # nothing here refers to itself; looking for what does takes two fifths of the time, number by number
    words = sorted({word for word in " ".join(topics.values()).lower().split() if word.isalpha()})
    letters = sorted({"\n", *"".join(words)})
    ids = np.array([letters.index(letter) for letter in "\n".join(np.random.default_rng(0).permutation(words))])
    starts = np.random.default_rng(0).integers(0, len(ids) - one_page.CONTEXT, steps)
    for way in (in_the_library, with_arrays, number_by_number):
        one_page.rng = np.random.default_rng(0)  # the same first weights for both uses of the page
        step = way(len(letters))
        losses = []
        begin = time.perf_counter()
        for t, start in enumerate(starts, 1):
            losses.append(step(ids[None, start : start + one_page.CONTEXT + 1], t))
            seconds = time.perf_counter() - begin
            if t in (10, 100) and seconds > 1:  # a sign of life from the slow one
                print(f"  {t} steps of {steps:,} in {seconds:.0f} s", flush=True)
        name = way.__name__.replace("_", " ")
        last = np.mean(losses[-100:])
        print(f"{name:16}  {steps:,} steps in {seconds:6.1f} s; mean loss at the end {last:.4f}", flush=True)
    return 0


if __name__ == "__main__":
    command_line.run(main)
