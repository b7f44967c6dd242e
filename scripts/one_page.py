"""All of it on one page: a GPT in NumPy, with gradients, Adam, training and new words

    python scripts/one_page.py                 learns the words of Python's documentation, then invents some
    python scripts/one_page.py names.txt       learns the words, or names, of a text file (3 to 12 letters)

It needs NumPy and nothing else. Read it from top to bottom. Each heading names the files where this project does the
same in full, and the table at the end says what this page leaves out.
"""

import sys
from pathlib import Path

import numpy as np

LAYERS, HEADS, WIDTH, CONTEXT = 2, 4, 64, 16  # of the model; CONTEXT: characters that it sees at once
rng = np.random.default_rng(1337)


# --- Gradients. In full: minigrad/autograd.py, minigrad/functional/ ---------------------------------------------------


class Tensor:
    """An array that remembers what it was computed from, and the gradient of the loss with respect to it."""

    def __init__(self, data, sources=(), send_back=lambda dout: None):
        self.data = data
        self.grad = np.zeros_like(data)
        self.sources = sources
        self.send_back = send_back  # the chain rule: given this array's gradient, adds to those of the sources

    def backward(self):
        """Fill in the gradients of all that this loss was computed from, the last computed first."""
        order = []

        def visit(tensor):
            if tensor not in order:
                for source in tensor.sources:
                    visit(source)
                order.append(tensor)  # after its sources

        visit(self)
        self.grad = np.ones_like(self.data)
        for tensor in reversed(order):
            tensor.send_back(tensor.grad)

    def __add__(x, y):  # y may be a number or an array; sum_to (below) undoes NumPy's repeating
        y = y if isinstance(y, Tensor) else Tensor(np.asarray(y, x.data.dtype))

        def send_back(dout):
            x.grad += sum_to(dout, x.data.shape)
            y.grad += sum_to(dout, y.data.shape)

        return Tensor(x.data + y.data, (x, y), send_back)

    def __mul__(x, y):
        y = y if isinstance(y, Tensor) else Tensor(np.asarray(y, x.data.dtype))

        def send_back(dout):
            x.grad += sum_to(dout * y.data, x.data.shape)
            y.grad += sum_to(dout * x.data, y.data.shape)

        return Tensor(x.data * y.data, (x, y), send_back)

    def __matmul__(x, y):  # (..., T, K) @ (..., K, N) -> (..., T, N)
        # As for matrices: dx = dout yᵀ, dy = xᵀ dout. swapaxes transposes the last two axes.
        def send_back(dout):
            x.grad += sum_to(dout @ y.data.swapaxes(-1, -2), x.data.shape)
            y.grad += sum_to(x.data.swapaxes(-1, -2) @ dout, y.data.shape)

        return Tensor(x.data @ y.data, (x, y), send_back)

    def __pow__(x, n):
        def send_back(dout):
            x.grad += dout * n * x.data ** (n - 1)

        return Tensor(x.data**n, (x,), send_back)

    def tanh(x):
        out = np.tanh(x.data)

        def send_back(dout):
            x.grad += dout * (1 - out * out)

        return Tensor(out, (x,), send_back)

    def softmax(x):  # over the last axis
        e = np.exp(x.data - x.data.max(axis=-1, keepdims=True))
        out = e / e.sum(axis=-1, keepdims=True)

        def send_back(dout):  # ∂out_i / ∂x_j = out_i ((1 if i = j else 0) - out_j)
            # so x.grad_j gains Σ_i dout_i ∂out_i/∂x_j = out_j (dout_j - Σ_i dout_i out_i)
            x.grad += out * (dout - (dout * out).sum(axis=-1, keepdims=True))

        return Tensor(out, (x,), send_back)

    def reshape(x, *shape):
        def send_back(dout):
            x.grad += dout.reshape(x.data.shape)

        return Tensor(x.data.reshape(shape), (x,), send_back)

    def swap(x, axis, other):
        def send_back(dout):
            x.grad += dout.swapaxes(axis, other)

        return Tensor(x.data.swapaxes(axis, other), (x,), send_back)

    def rows(table, ids):  # an embedding: the row of each id
        def send_back(dout):
            np.add.at(table.grad, ids, dout)  # an id that occurs twice gets both gradients

        return Tensor(table.data[ids], (table,), send_back)

    def cross_entropy(logits, targets):  # (N, V), (N,): the mean of -ln p(target)
        probs = logits.softmax().data

        def send_back(dout):
            # np.eye(V)[targets], (N, V): 1 at each target, else 0
            logits.grad += dout * (probs - np.eye(probs.shape[1])[targets]) / len(targets)

        return Tensor(-np.log(probs[np.arange(len(targets)), targets]).mean(), (logits,), send_back)


def sum_to(gradient, shape):
    """The gradient of an array that NumPy repeated to a larger shape: the sum over the copies."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))  # axes that were put in front
    # Axes of length 1 that were stretched. Without any, axis=() sums nothing (axis=None would sum all).
    return gradient.sum(axis=tuple(axis for axis, size in enumerate(shape) if size == 1), keepdims=True)


# --- The model, GPT-2. In full: gpt/model/gpt2.py ---------------------------------------------------------------------


def new_weights(vocabulary, dtype=np.float32):
    """p, the weights by name: small random matrices, biases of 0; a normalization begins with weight 1."""
    shapes = {"tokens": (vocabulary, WIDTH), "positions": (CONTEXT, WIDTH)}
    for i in range(LAYERS):
        shapes |= {f"{i}.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value", "project")}
        shapes |= {f"{i}.up": (WIDTH, 4 * WIDTH), f"{i}.down": (4 * WIDTH, WIDTH)}
    norms = ["norm", *(f"{i}.norm{n}" for i in range(LAYERS) for n in (1, 2))]
    p = {name: rng.normal(0, 0.02, shape) for name, shape in shapes.items()}
    # The two tables, whose names have no dot, have no bias.
    p |= {f"{name}.bias": np.zeros(shape[1]) for name, shape in shapes.items() if "." in name}
    p |= {name: np.ones(WIDTH) for name in norms} | {f"{name}.bias": np.zeros(WIDTH) for name in norms}
    return {name: Tensor(array.astype(dtype)) for name, array in p.items()}


def linear(x, p, name):
    return x @ p[name] + p[f"{name}.bias"]


def layer_norm(x, p, name):
    """Each token's vector, shifted to mean 0 and scaled to variance 1; then a weight and a bias."""
    # Tensor has neither mean nor minus, so: @ and * -1
    average = Tensor(np.full((WIDTH, 1), 1 / WIDTH, x.data.dtype))  # x @ average: the mean of each vector
    centered = x + x @ average * -1
    variance = (centered * centered) @ average
    return centered * (variance + 1e-5) ** -0.5 * p[name] + p[f"{name}.bias"]


def gelu(x):
    """x where x is large, 0 far below 0, smooth between: x/2 (tanh((x + 0.044715 x³) √(2/π)) + 1)."""
    return x * 0.5 * (((x + x**3 * 0.044715) * (2 / np.pi) ** 0.5).tanh() + 1)


def attention(x, p, i):
    """Each token asks (query) all tokens up to itself (key), and adds up what they say (value)."""
    B, T, C = x.data.shape

    def heads(name):  # (B, T, C) -> (B, H, T, D), D = C / H
        return linear(x, p, f"{i}.{name}").reshape(B, T, HEADS, C // HEADS).swap(1, 2)

    scores = heads("query") @ heads("key").swap(2, 3) * (C // HEADS) ** -0.5  # (B, H, T, T), over √D
    # -inf above the diagonal hides the keys that come later than the query.
    out = (scores + np.triu(np.full((T, T), -np.inf), 1)).softmax() @ heads("value")  # (B, H, T, D)
    return linear(out.swap(1, 2).reshape(B, T, C), p, f"{i}.project")


def gpt(ids, p):
    """Token numbers (B, T) -> logits (B, T, V): after each token, a score for every token that may come next."""
    x = p["tokens"].rows(ids) + p["positions"].rows(np.arange(ids.shape[1]))  # (B, T, C)
    for i in range(LAYERS):
        x = x + attention(layer_norm(x, p, f"{i}.norm1"), p, i)
        hidden = gelu(linear(layer_norm(x, p, f"{i}.norm2"), p, f"{i}.up"))
        x = x + linear(hidden, p, f"{i}.down")
    return layer_norm(x, p, "norm") @ p["tokens"].swap(0, 1)  # the table of tokens again: it scores what comes next


# --- Learning: the loss, and Adam. In full: gpt/training/training_step.py, minigrad/optim.py --------------------------


def loss_of(windows, p):
    """How surprised the model is by each next token: in windows (B, T + 1), targets are one further than inputs."""
    targets = windows[:, 1:].reshape(-1)
    return gpt(windows[:, :-1], p).reshape(len(targets), -1).cross_entropy(targets)  # of (B T, V) logits


def adam(p, moments, t, rate, beta1=0.9, beta2=0.99):
    """Step t: each weight moves by rate * (mean of its recent gradients) / (root of their mean square)."""
    for name, weight in p.items():
        m, v = moments.setdefault(name, (np.zeros_like(weight.data), np.zeros_like(weight.data)))
        m += (1 - beta1) * (weight.grad - m)  # += changes these arrays, which `moments` keeps
        v += (1 - beta2) * (weight.grad**2 - v)
        m_hat = m / (1 - beta1**t)  # m and v began at 0, and are too small at first
        v_hat = v / (1 - beta2**t)
        weight.data -= rate * m_hat / (np.sqrt(v_hat) + 1e-8)
        weight.grad[:] = 0


# --- New words, a character at a time. In full: gpt/model/generation.py -----------------------------------------------


def invent(p, letters, count):
    """Words that the model writes, letter by letter, from one line end to the next, or to the end of its context."""
    ids = np.full((count, 1), letters.index("\n"))
    for _ in range(CONTEXT - 1):
        # In float64 and divided by their sum again: rng.choice (whose p is not ours) is strict about a sum of 1.
        probs = gpt(ids, p).softmax().data[:, -1].astype(float)  # (count, V), after the last letter
        ids = np.hstack([ids, [[rng.choice(len(letters), p=row / row.sum())] for row in probs]])
    return ["".join(letters[i] for i in row[1:]).split("\n")[0] for row in ids]


# --- All of it. In full: gpt/corpora/, gpt/tokenizer/ (tokens that are pieces of words) -------------------------------


def main(path=None, steps=800, batch=32):
    if path == "--help":
        return print(__doc__)
    if path and not Path(path).is_file():
        sys.exit(f"there is no file {path}: give a text file, or nothing")
    from pydoc_data.topics import topics  # the documentation that Python carries, by topic

    text = Path(path).read_text(encoding="utf-8", errors="replace") if path else " ".join(topics.values())
    # Sorted, because the order of a set differs from run to run.
    words = sorted({word for word in text.lower().split() if word.isalpha() and 3 <= len(word) <= 12})
    letters = sorted({"\n", *"".join(words)})  # a token for each
    # Shuffled, with a line end before the first word, between words and after the last.
    ids = np.array([letters.index(letter) for letter in "\n".join(["", *rng.permutation(words), ""])])
    if len(ids) <= CONTEXT:
        sys.exit(f"{path} has too few words of 3 to 12 letters to learn from: give a longer text")
    p = new_weights(len(letters))
    moments: dict = {}
    for step in range(1, steps + 1):
        starts = rng.integers(0, len(ids) - CONTEXT, (batch, 1))
        loss = loss_of(ids[starts + np.arange(CONTEXT + 1)], p)
        loss.backward()
        adam(p, moments, step, rate=3e-3 * (1 - step / (steps + 1)))
        if step % 50 == 0 or step == 1:
            print(f"step {step:4}, loss {loss.data:.3f}: {' '.join(invent(p, letters, 5))}", flush=True)
    new = set(invent(p, letters, 50)) - {"", *words}
    print(f"{len(new)} new ones in 50, not among the {len(words):,} words:", *sorted(new))


if __name__ == "__main__":
    main(*sys.argv[1:2])

# --- What this page leaves out ----------------------------------------------------------------------------------------
#
#     proof that gradients are right      by finite differences, for any function        minigrad/gradcheck/check.py
#     tokens that are pieces of words     texts become four times shorter                gpt/tokenizer/bpe.py
#     layer norm's own gradient           one operation instead of ten                   minigrad/functional/
#     the logarithm of the softmax        finite where a probability rounds to 0         minigrad/functional/loss.py
#     dropout, decay, warm-up, clipping   what larger models need to train               minigrad/optim.py
#     smaller weights before sums         many layers add up without growing             gpt/model/gpt2.py
#     text that is held out               has it learned, or memorized?                  gpt/training/evaluation.py
#     a cache of keys and values          only the new token is computed                 gpt/model/kv_cache.py
#     fast kernels, all cores, processes  the same sums in a fraction of the time        minigrad/kernels/
#     checkpoints                         an interrupted run goes on, bit for bit        gpt/training/checkpoint.py
#     a GPU                               the same source, with CuPy's arrays            minigrad/backend.py
#     real weights                        GPT-2's and Llama's                            gpt/weights/
#     answers instead of words            instruction tuning, DPO, PPO, GRPO             finetune/stages/
#     small files                         LoRA, quantization                             finetune/adapters/
