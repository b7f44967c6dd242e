"""Check the gradients of all ops, or of one in detail, with central differences and with the complex step.

python scripts/gradcheck.py             a table of all ops
python scripts/gradcheck.py softmax     one op, with an example: the gradient of backward beside finite differences
"""

import difflib
import time
from collections.abc import Callable
from typing import Any

from start import command_line

import numpy as np

import minigrad.functional as F
from minigrad import Tensor, manual_seed
from minigrad.gradcheck.check import gradcheck
from minigrad.gradcheck.report import GradcheckError, Report, band

METHODS = ("central", "complex")
Sample = tuple[Callable[..., Any], list[Any]]  # an op with one set of inputs


def op_samples(seed: int = 0) -> dict[str, list[Sample]]:
    """Samples of every differentiable function of `minigrad.functional`, away from kinks and domain boundaries.

    Where an op has a second formula (GELU's tanh form, a causal mask), there is a sample of each.
    """
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape)

    def positive(*shape: int) -> np.ndarray:
        return rng.uniform(0.5, 2, shape)

    def distinct(*shape: int) -> np.ndarray:
        """Numbers at least 0.1 away from 0 and from each other, so there are no ties."""
        return (rng.permutation(int(np.prod(shape))).reshape(shape) - np.prod(shape) / 2 + 0.25) * 0.2

    def ids(below: int, *shape: int) -> Tensor:
        return Tensor(rng.integers(0, below, shape))

    def probabilities(*shape: int) -> np.ndarray:
        p = positive(*shape)
        return p / p.sum(axis=-1, keepdims=True)

    def dropout(x: Tensor) -> Tensor:
        manual_seed(seed)
        return F.dropout(x, 0.4)

    def weighted_cross_entropy(x: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        return F.cross_entropy(x, targets, weight, reduction="none", label_smoothing=0.1)

    def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def rotated(x: Tensor) -> Tensor:
        return F.rotary_embedding(x, np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype))

    mask, targets = Tensor(rng.random((3, 4)) < 0.5), Tensor(np.array([1, -100, 4]))
    angles = some(3, 2)
    of_tensors: dict[str, list[Any]] = {  # ops that take nothing else, and their inputs
        **{op: [some(3, 4)] for op in ("erf", "exp", "neg")},
        **{op: [some(3, 4)] for op in ("gelu", "logsigmoid", "sigmoid", "silu", "softplus", "tanh")},
        **{op: [distinct(3, 4)] for op in ("abs", "relu")},
        **{op: [positive(3, 4)] for op in ("log", "sqrt")},
        **{op: [some(3, 4), some(4)] for op in ("add", "mul", "sub")},
        **{op: [distinct(3, 4), np.full(4, 0.01)] for op in ("maximum", "minimum")},
        **{op: [some(3, 4), some(3, 4)] for op in ("mse_loss", "swiglu")},
        **{op: [some(2, 3, 4), some(5, 4), some(5)] for op in ("linear", "linear_gelu")},
        "binary_cross_entropy_with_logits": [some(3, 4), positive(3, 4) / 2],
        "cross_entropy": [some(3, 5), targets],
        "div": [some(3, 4), positive(4)],
        "embedding": [Tensor(np.array([[0, 2], [2, 2]])), some(4, 3)],
        "kl_div": [some(3, 4), probabilities(3, 4)],
        "linear_cross_entropy": [some(3, 4), some(5, 4), targets],
        "matmul": [some(2, 1, 3, 4), some(3, 4, 2)],
        "merge_heads": [some(2, 3, 2, 2)],
        "nll_loss": [some(3, 5), targets],
        "pow": [positive(3, 4), some(4)],
        "scaled_dot_product_attention": [some(2, 3, 4), some(2, 5, 4), some(2, 5, 2), some(3, 5)],
        "squeeze": [some(3, 1, 4)],
        "where": [mask, some(3, 4), some(4)],
    }
    with_arguments: list[tuple[Any, ...]] = [
        ("amax", lambda x: F.amax(x, (0, 2)), distinct(3, 4, 2)),
        ("amin", lambda x: F.amin(x, 1), distinct(3, 4)),
        ("argmax", lambda x: x * F.argmax(x, 1, keepdim=True), distinct(3, 4)),
        ("argmin", lambda x: x * F.argmin(x, 1, keepdim=True), distinct(3, 4)),
        ("cat", lambda x, y: F.cat([x, y], 1), some(3, 4), some(3, 2)),
        ("chunk", lambda x: F.chunk(x, 3, 1), some(3, 5)),
        ("clip", lambda x: F.clip(x, -0.5, 0.5), distinct(3, 4)),
        ("cross_entropy", weighted_cross_entropy, Tensor(some(3, 5), requires_grad=True), targets, Tensor(positive(5))),
        ("cross_entropy", F.cross_entropy, some(3, 5), probabilities(3, 5)),
        ("cumsum", lambda x: F.cumsum(x, 1), some(3, 4)),
        ("dropout", dropout, some(3, 4)),
        ("einsum", lambda x, y: F.einsum("bij,bjk->bki", x, y), some(2, 3, 4), some(2, 4, 5)),
        ("expand", lambda x: F.expand(x, (2, 3, 4)), some(3, 1)),
        ("flatten", lambda x: F.flatten(x, 1), some(2, 3, 2)),
        ("flip", lambda x: F.flip(x, (0, 1)), some(3, 4)),
        ("gather", lambda x, index: F.gather(x, 1, index), some(3, 4), ids(4, 3, 5)),
        ("gelu", lambda x: F.gelu(x, "tanh"), some(3, 4)),
        ("getitem", lambda x, index: F.getitem(x, index), some(3, 4), Tensor(np.array([2, 0, 2]))),
        ("index_select", lambda x: F.index_select(x, 1, np.array([2, 0, 2])), some(3, 4)),
        ("layer_norm", lambda x, w, b: F.layer_norm(x, 4, w, b), some(3, 4), some(4), some(4)),
        ("log_softmax", lambda x: F.log_softmax(x, 1), some(3, 4)),
        ("logsumexp", lambda x: F.logsumexp(x, (0, 1)), some(3, 4)),
        ("masked_fill", lambda x: F.masked_fill(x, mask, 7.0), some(3, 4)),
        ("max", lambda x: F.max(x, 1), distinct(3, 4)),
        ("mean", lambda x: F.mean(x, (0, 2)), some(3, 4, 2)),
        ("min", lambda x: F.min(x, 1), distinct(3, 4)),
        ("one_hot", lambda x: x * F.one_hot(targets * 0 + 2, 4), some(3, 4)),
        ("pad", lambda x: F.pad(x, (1, 2, -1, 1)), some(3, 4)),
        ("permute", lambda x: F.permute(x, (1, 2, 0)), some(2, 3, 4)),
        ("prod", lambda x: F.prod(x, 1), some(3, 4)),
        ("reshape", lambda x: F.reshape(x, (2, -1)), some(3, 4)),
        ("rms_norm", lambda x, w: F.rms_norm(x, 4, w), some(3, 4), some(4)),
        ("rotary_embedding", rotated, some(2, 3, 4)),
        ("scaled_dot_product_attention", causal, some(2, 3, 4), some(2, 3, 4), some(2, 3, 2)),
        ("softmax", lambda x: F.softmax(x, 1), some(3, 4)),
        ("sort", lambda x: F.sort(x, 1, descending=True).values, distinct(3, 4)),
        ("split", lambda x: F.split(x, [1, 3], 1), some(3, 4)),
        ("split_heads", lambda x: F.split_heads(x, 2, parts=3), some(2, 2, 12)),
        ("stack", lambda x, y: F.stack([x, y], 1), some(3, 4), some(3, 4)),
        ("std", lambda x: F.std(x, 1), some(3, 4)),
        ("sum", lambda x: F.sum(x, (0, 2), keepdim=True), some(3, 4, 2)),
        ("to", lambda x: F.to(x, "cpu"), some(3, 4)),
        ("topk", lambda x: F.topk(x, 2).values, distinct(3, 4)),
        ("transpose", lambda x: F.transpose(x, 0, 2), some(2, 3, 4)),
        ("tril", lambda x: F.tril(x, 1), some(3, 4)),
        ("triu", lambda x: F.triu(x, -1), some(3, 4)),
        ("unsqueeze", lambda x: F.unsqueeze(x, 1), some(3, 4)),
        ("var", lambda x: F.var(x, 1), some(3, 4)),
        ("view", lambda x: F.view(x, (2, -1)), some(3, 4)),
    ]
    samples: dict[str, list[Sample]] = {op: [(getattr(F, op), inputs)] for op, inputs in of_tensors.items()}
    for op, fn, *inputs in with_arguments:
        if fn.__module__ == __name__:  # a lambda or a helper from above: reports name it like the op
            fn.__name__ = op
        samples.setdefault(op, []).append((fn, inputs))
    return dict(sorted(samples.items()))


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, "exit code: 0 all right, 1 a gradient is wrong, 2 wrong arguments")
    parser.add_argument("op", nargs="?", help="a function of minigrad.functional (all of them)")
    command_line.add_shared(parser, "seed", seed=0)
    arguments = parser.parse_args(argv)
    samples = op_samples(arguments.seed)
    if arguments.op is None:
        return print_table(samples)
    if arguments.op not in samples:
        close = difflib.get_close_matches(arguments.op, samples, n=2, cutoff=0.6)
        advice = f"did you mean {' or '.join(close)}?" if close else "without a name, all ops are listed"
        parser.error(f"there is no op {arguments.op!r}; {advice}")
    return print_details(arguments.op, samples[arguments.op])


def shapes(inputs: list[Any]) -> str:
    return " ".join(str(tuple(x.shape)).replace(" ", "") for x in inputs)


def print_table(samples: dict[str, list[Sample]]) -> int:
    """One line per sample; the diagnoses of those that are wrong at the end."""
    count = sum(map(len, samples.values()))
    widths = max(map(len, samples)), max(len(shapes(inputs)) for of_op in samples.values() for _, inputs in of_op)
    print("Largest relative error of each op's gradient, by both methods: below 1e-7 is right.")
    print("A dash means that the op is not analytic, so there is no complex step.\n")
    print(f"{'op':{widths[0]}}  {'inputs':{widths[1]}}  {'central':>8}  {'complex':>8}  {'ms':>5}  verdict")
    failures = []
    for op, of_op in samples.items():
        for fn, inputs in of_op:
            start = time.perf_counter()
            try:
                reports = [gradcheck(fn, inputs, method=method) for method in METHODS]
            except GradcheckError as error:
                failures.append(error)
                errors = ["", ""]
                verdict = f"WRONG: {error.diagnosis.kind}"
            else:
                used = zip(reports, METHODS)
                errors = [f"{report.max_error:.1e}" if report.method == method else "-" for report, method in used]
                verdict = band(reports[0].max_error)
            ms = 1000 * (time.perf_counter() - start)
            place = f"{op:{widths[0]}}  {shapes(inputs):{widths[1]}}"
            print(f"{place}  {errors[0]:>8}  {errors[1]:>8}  {ms:5.0f}  {verdict}", flush=True)
    print(f"\n{len(samples)} ops, {count} cases: {f'{len(failures)} WRONG' if failures else 'all right'}")
    for failure in failures:
        print(f"\n{failure}")
    return 1 if failures else 0


def print_details(op: str, of_op: list[Sample]) -> int:
    """Print both reports of each sample, and an example from the first one."""
    summary = (getattr(F, op).__doc__ or "").split("\n\n")[0]
    print(f"{op}: {' '.join(summary.split())}\n")
    reports = []
    for fn, inputs in of_op:
        for method in METHODS:
            try:
                reports.append(gradcheck(fn, inputs, method=method))
            except GradcheckError as error:
                print(error)
                return 1
            print(reports[-1])
        print()
    print_example(reports[0])
    return 0


def print_example(report: Report) -> None:
    """Print the row of the first input's Jacobian that has the most nonzero elements."""
    first = report.inputs[0]
    assert first.numeric is not None  # all samples are small enough for a whole Jacobian
    row = int(np.argmax(np.count_nonzero(np.abs(first.numeric) > 1e-8, axis=tuple(range(1, first.numeric.ndim)))))
    print(f"An example: the derivatives of output element {row} by {first.name}")
    print(f"{'element':>10}  {'backward':>16}  {'differences':>16}  {'relative error':>14}")
    shown = [i for i in np.ndindex(first.shape) if first.analytic[row][i] != 0 or first.numeric[row][i] != 0]
    for element in shown:
        analytic, numeric = float(first.analytic[row][element]), float(first.numeric[row][element])
        error = abs(analytic - numeric) / max(abs(analytic), abs(numeric))
        print(f"{','.join(map(str, element)):>10}  {analytic:16.10f}  {numeric:16.10f}  {error:14.1e}")
    if len(shown) < first.numeric[row].size:
        print(f"{'others':>10}  {0:16.10f}  {0:16.10f}")


if __name__ == "__main__":
    command_line.run(main)
