"""Check the gradients of all ops, or of one in detail, with central differences and with the complex step.

python scripts/gradcheck.py             a table of all ops
python scripts/gradcheck.py softmax     one op, with an example: the gradient of backward beside finite differences
"""

import difflib
import time
from collections.abc import Callable
from functools import partial
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

    def probabilities(*shape: int) -> np.ndarray:
        p = positive(*shape)
        return p / p.sum(axis=-1, keepdims=True)

    def dropout(x: Tensor) -> Tensor:
        manual_seed(seed)
        return F.dropout(x, 0.4)

    def rotated(x: Tensor) -> Tensor:
        return F.rotary_embedding(x, np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype))

    samples: dict[str, list[Sample]] = {}

    def add(op: str, *inputs: Any, fn: Any = None, **options: Any) -> None:
        """A sample of `op(*inputs, **options)`, or of a function `fn(*inputs)` that calls the op in another way."""
        called: Any = partial(fn or getattr(F, op), **options)
        called.__name__ = op  # for reports
        samples.setdefault(op, []).append((called, list(inputs)))

    mask, targets = Tensor(rng.random((3, 4)) < 0.5), Tensor(np.array([1, -100, 4]))
    angles = some(3, 2)

    # one array
    for op in ("erf", "exp", "gelu", "logsigmoid", "neg", "sigmoid", "silu", "softplus", "tanh"):
        add(op, some(3, 4))
    for op in ("log", "sqrt"):
        add(op, positive(3, 4))
    for op in ("abs", "relu"):
        add(op, distinct(3, 4))
    add("clip", distinct(3, 4), min=-0.5, max=0.5)
    add("dropout", some(3, 4), fn=dropout)
    add("gelu", some(3, 4), approximate="tanh")
    add("to", some(3, 4), device="cpu")

    # two or three arrays that broadcast
    for op in ("add", "mul", "sub"):
        add(op, some(3, 4), some(4))
    for op in ("maximum", "minimum"):
        add(op, distinct(3, 4), np.full(4, 0.01))
    add("div", some(3, 4), positive(4))
    add("masked_fill", some(3, 4), mask=mask, value=7.0)
    add("pow", positive(3, 4), some(4))
    add("swiglu", some(3, 4), some(3, 4))
    add("where", mask, some(3, 4), some(4))

    # along axes
    for op in ("cumsum", "log_softmax", "prod", "softmax", "std", "var"):
        add(op, some(3, 4), dim=1)
    for op in ("amin", "max", "min"):
        add(op, distinct(3, 4), dim=1)
    add("amax", distinct(3, 4, 2), dim=(0, 2))
    add("argmax", distinct(3, 4), fn=lambda x: x * F.argmax(x, 1, keepdim=True))
    add("argmin", distinct(3, 4), fn=lambda x: x * F.argmin(x, 1, keepdim=True))
    add("logsumexp", some(3, 4), dim=(0, 1))
    add("mean", some(3, 4, 2), dim=(0, 2))
    add("sort", distinct(3, 4), fn=lambda x: F.sort(x, 1, descending=True).values)
    add("sum", some(3, 4, 2), dim=(0, 2), keepdim=True)
    add("topk", distinct(3, 4), fn=lambda x: F.topk(x, 2).values)
    add("layer_norm", some(3, 4), some(4), some(4), fn=lambda x, weight, bias: F.layer_norm(x, 4, weight, bias))
    add("rms_norm", some(3, 4), some(4), fn=lambda x, weight: F.rms_norm(x, 4, weight))

    # shapes and places
    add("cat", some(3, 4), some(3, 2), fn=lambda x, y: F.cat([x, y], 1))
    add("chunk", some(3, 5), chunks=3, dim=1)
    add("embedding", Tensor(np.array([[0, 2], [2, 2]])), some(4, 3))
    add("expand", some(3, 1), shape=(2, 3, 4))
    add("flatten", some(2, 3, 2), start_dim=1)
    add("flip", some(3, 4), dims=(0, 1))
    add("gather", some(3, 4), dim=1, index=rng.integers(0, 4, (3, 5)))
    add("getitem", some(3, 4), index=np.array([2, 0, 2]))
    add("index_select", some(3, 4), dim=1, index=np.array([2, 0, 2]))
    add("merge_heads", some(2, 3, 2, 2))
    add("one_hot", some(3, 4), fn=lambda x: x * F.one_hot(targets * 0 + 2, 4))
    add("pad", some(3, 4), pad=(1, 2, -1, 1))
    add("permute", some(2, 3, 4), dims=(1, 2, 0))
    add("reshape", some(3, 4), shape=(2, -1))
    add("rotary_embedding", some(2, 3, 4), fn=rotated)
    add("split", some(3, 4), split_size_or_sections=[1, 3], dim=1)
    add("split_heads", some(2, 2, 12), n_head=2, parts=3)
    add("squeeze", some(3, 1, 4))
    add("stack", some(3, 4), some(3, 4), fn=lambda x, y: F.stack([x, y], 1))
    add("transpose", some(2, 3, 4), dim0=0, dim1=2)
    add("tril", some(3, 4), diagonal=1)
    add("triu", some(3, 4), diagonal=-1)
    add("unsqueeze", some(3, 4), dim=1)
    add("view", some(3, 4), shape=(2, -1))

    # products
    add("einsum", some(2, 3, 4), some(2, 4, 5), fn=lambda x, y: F.einsum("bij,bjk->bki", x, y))
    add("linear", some(2, 3, 4), some(5, 4), some(5))
    add("linear_gelu", some(3, 4), some(5, 4), some(5))
    add("matmul", some(2, 1, 3, 4), some(3, 4, 2))
    add("scaled_dot_product_attention", some(2, 3, 4), some(2, 5, 4), some(2, 5, 2), some(3, 5))
    add("scaled_dot_product_attention", some(2, 3, 4), some(2, 3, 4), some(2, 3, 2), is_causal=True)

    # losses
    weighted = Tensor(some(3, 5), requires_grad=True), targets, Tensor(positive(5))
    add("binary_cross_entropy_with_logits", some(3, 4), positive(3, 4) / 2)
    add("cross_entropy", some(3, 5), targets)
    add("cross_entropy", *weighted, reduction="none", label_smoothing=0.1)
    add("cross_entropy", some(3, 5), probabilities(3, 5))
    add("kl_div", some(3, 4), probabilities(3, 4))
    add("linear_cross_entropy", some(3, 4), some(5, 4), targets)
    add("mse_loss", some(3, 4), some(3, 4))
    add("nll_loss", some(3, 5), targets)
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
