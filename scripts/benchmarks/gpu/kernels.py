"""Each CUDA kernel beside NumPy, forward and backward, at the sizes of a GPT-2: its error, and its time beside that of
the textbook's operations on the same GPU.
"""

import dataclasses
import time
from typing import Any

import numpy as np

import minigrad
import minigrad.functional as F
from gpt.training.training_step import in_precision
from minigrad import Tensor, use_kernels
from minigrad.backend import Array, to_device, to_numpy
from minigrad.kernels.cuda import CUDA

TOLERANCE = {"float32": 2e-4, "bfloat16": 3e-2}  # relative to the largest number of a result


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of what is computed: sequences of `time` tokens, `rows` tokens in all for what has no time; a vocabulary."""

    batch: int = 2
    time: int = 1024
    rows: int = 1024
    width: int = 768
    heads: int = 12
    vocabulary: int = 50257
    repeats: int = 20


Case = tuple[list[Any], dict[str, Any]]  # inputs, float32 arrays among them are to be learned; options


def cases(sizes: Sizes) -> dict[str, Case]:
    """The inputs and options of each op in `CUDA`."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return scale * rng.standard_normal(shape, dtype=np.float32)

    N, C, V = sizes.rows, sizes.width, sizes.vocabulary
    heads = (sizes.batch, sizes.heads, sizes.time, C // sizes.heads)
    small = C**-0.5  # so that products are about 1
    targets = rng.integers(0, V, N)
    targets[::7] = -100
    return {
        "cross_entropy": ([normal(N, V), targets], {}),
        "layer_norm": ([normal(N, C) + 1, C, normal(C), normal(C)], {}),
        "linear": ([normal(N, C), normal(3 * C, C, scale=small), normal(3 * C)], {}),
        "linear_cross_entropy": ([normal(N, C), normal(V, C, scale=small), targets], {}),
        "rms_norm": ([normal(N, C), C, normal(C)], {}),
        "scaled_dot_product_attention": ([normal(*heads), normal(*heads), normal(*heads)], {"is_causal": True}),
    }


def check(sizes: Sizes | None = None) -> dict[str, Any]:
    """A row per kernel and precision: error, tolerance, seconds of the kernel and of the textbook's operations."""
    sizes = Sizes() if sizes is None else sizes
    rows: dict[str, Any] = {}
    for op, case in cases(sizes).items():
        precisions = ["float32"] + (["bfloat16"] if getattr(CUDA[op], "takes_bfloat16", False) else [])
        expected = run(op, case, "textbook", "cpu", np.float64)
        for precision in precisions:
            found = run(op, case, "fast", "cuda", np.float32, precision)
            times = [_seconds(op, case, kernels, precision, sizes.repeats) for kernels in ("fast", "textbook")]
            rows[f"{op} {precision}"] = _row(found, expected, times, precision)
    return {"passed": all(row["error"] <= row["tolerance"] for row in rows.values()), "rows": rows}


def run(op: str, case: Case, kernels: str, device: str, dtype: Any, precision: str = "float32") -> list[np.ndarray]:
    """The output of an op and the gradients of its inputs, as NumPy arrays."""
    minigrad.manual_seed(0)
    tensors = _tensors(case, device, dtype)
    with use_kernels(kernels), in_precision(precision):
        out = getattr(F, op)(*tensors, **case[1])
        out.backward(_dout(out, device))
    return [to_numpy(out.data)] + [to_numpy(t.grad) for t in tensors if isinstance(t, Tensor) and t.grad is not None]


def _seconds(op: str, case: Case, kernels: str, precision: str, repeats: int) -> float:
    tensors = _tensors(case, "cuda", np.float32)

    with use_kernels(kernels), in_precision(precision):
        dout = _dout(getattr(F, op)(*tensors, **case[1]), "cuda")
        for repeat in range(repeats + 1):
            out = getattr(F, op)(*tensors, **case[1])
            out.backward(dout)
            for tensor in tensors:
                if isinstance(tensor, Tensor):
                    tensor.zero_grad()
            if repeat == 0:  # which compiles what has to be
                _wait_for(out.data)
                started = time.perf_counter()
        _wait_for(out.data)
    return (time.perf_counter() - started) / repeats


def _wait_for(array: Array) -> Any:
    """To read a number is to wait until the GPU has computed it, and everything before it."""
    return array.reshape(-1)[:1].sum().item()


def _tensors(case: Case, device: str, dtype: Any) -> list[Any]:
    def tensor(value: np.ndarray) -> Tensor:
        is_float = value.dtype.kind == "f"
        return Tensor(value.astype(dtype) if is_float else value, requires_grad=is_float, device=device)

    return [tensor(value) if isinstance(value, np.ndarray) else value for value in case[0]]


def _dout(out: Tensor, device: str) -> Any:
    return to_device(np.asarray(np.random.default_rng(1).standard_normal(out.shape), out.dtype), device)


def _row(found: list[np.ndarray], expected: list[np.ndarray], times: list[float], precision: str) -> dict[str, float]:
    """times: of the kernel, and of the textbook's operations. error: the largest difference, relative to the largest
    number of each array.
    """
    errors = [float(np.abs(a - b).max() / (np.abs(b).max() + 1e-9)) for a, b in zip(found, expected, strict=True)]
    error = max(errors) if np.isfinite(errors).all() else 1e9  # JSON has no infinity
    return {"error": error, "tolerance": TOLERANCE[precision], "seconds": times[0], "generic_seconds": times[1]}


def lines(result: dict[str, Any]) -> list[str]:
    """Return the lines to print."""
    out = [f"{'kernel':<40} {'error':>9} {'allowed':>9} {'ms':>9} {'generic ms':>11}"]
    for name, row in result["rows"].items():
        verdict = "" if row["error"] <= row["tolerance"] else "  WRONG"
        milliseconds = f"{row['seconds'] * 1e3:9.3f} {row['generic_seconds'] * 1e3:11.3f}"
        out.append(f"{name:<40} {row['error']:9.1e} {row['tolerance']:9.1e} {milliseconds}{verdict}")
    return out
