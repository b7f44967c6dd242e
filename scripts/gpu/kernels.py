"""Each CUDA kernel beside NumPy, forward and backward, at the sizes of a GPT-2: its error, and its time beside that of
the textbook's operations on the same GPU.
"""

from __future__ import annotations

import dataclasses
import operator
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import minigrad
import minigrad.functional as F
from finetune.quantization.nf4 import nf4
from finetune.quantization.rounding import absmax
from minigrad import Tensor, optim, use_kernels
from minigrad.backend import Array, to_device, to_numpy
from minigrad.kernels.cuda import CUDA
from minigrad.kernels.cuda.quantized import QuantizedMatrix, dequantize, times_quantized
from scripts.benchmarks.jobs import in_precision

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

    def turns(time: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        angles = normal(time, size // 2)
        return np.cos(angles), np.sin(angles)

    N, C, V = sizes.rows, sizes.width, sizes.vocabulary
    heads = (sizes.batch, sizes.heads, sizes.time, C // sizes.heads)
    small = C**-0.5  # so that products are about 1
    targets = rng.integers(0, V, N)
    targets[::7] = -100
    return {
        "cross_entropy": ([normal(N, V), targets], {}),
        "dropout": ([normal(N, C)], {"p": 0.1}),
        "embedding": ([rng.integers(0, V, N), normal(V, C)], {}),
        "gelu": ([normal(N, 4 * C)], {"approximate": "tanh"}),
        "layer_norm": ([normal(N, C) + 1, C, normal(C), normal(C)], {}),
        "linear": ([normal(N, C), normal(3 * C, C, scale=small), normal(3 * C)], {}),
        "linear_cross_entropy": ([normal(N, C), normal(V, C, scale=small), targets], {}),
        "linear_gelu": ([normal(N, C), normal(4 * C, C, scale=small), normal(4 * C)], {}),
        "rms_norm": ([normal(N, C), C, normal(C)], {}),
        "rotary_embedding": ([normal(*heads), *turns(*heads[2:])], {}),
        "scaled_dot_product_attention": ([normal(*heads), normal(*heads), normal(*heads)], {"is_causal": True}),
        "swiglu": ([normal(N, 2 * C), normal(N, 2 * C)], {}),
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
    rows |= {"AdamW and clipping float32": _adamw(sizes), **_quantized(sizes)}
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

    def work() -> Any:
        out = getattr(F, op)(*tensors, **case[1])
        out.backward(dout)
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                tensor.zero_grad()
        return out.data

    with use_kernels(kernels), in_precision(precision):
        dout = _dout(getattr(F, op)(*tensors, **case[1]), "cuda")
        return seconds_of(work, repeats)


def seconds_of(work: Callable[[], Array], repeats: int) -> float:
    """The mean time of `work`, which returns an array of its device, after one call that compiles what has to be."""
    _wait_for(work())
    started = time.perf_counter()
    for _ in range(repeats):
        last = work()
    _wait_for(last)
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
    numbers = np.random.default_rng(1).standard_normal(out.shape)
    return to_device(np.asarray(numbers, out.dtype), device)


def _row(
    found: list[np.ndarray], expected: list[np.ndarray], times: list[float], precision: str = "float32"
) -> dict[str, float]:
    """times: of the kernel, and of the textbook's operations. error: the largest difference, relative to the largest
    number of each array.
    """
    errors = [float(np.abs(a - b).max() / (np.abs(b).max() + 1e-9)) for a, b in zip(found, expected, strict=True)]
    error = max(errors) if np.isfinite(errors).all() else 1e9  # JSON has no infinity
    return {"error": error, "tolerance": TOLERANCE[precision], "seconds": times[0], "generic_seconds": times[1]}


# --- what is not an op ------------------------------------------------------------------------------------------------


def _adamw(sizes: Sizes) -> dict[str, Any]:
    """Three steps of clipping and AdamW on a matrix and a vector."""
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape) for shape in ((4 * sizes.width, sizes.width), (sizes.width,))]
    gradients = [[rng.standard_normal(array.shape) for array in start] for _ in range(3)]

    def updated(kernels: str, device: str, dtype: Any) -> tuple[list[np.ndarray], float]:
        parameters = [Tensor(array.astype(dtype), requires_grad=True, device=device) for array in start]
        optimizer = optim.AdamW(parameters, lr=0.01)

        def step() -> Any:
            optim.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            return parameters[0].data

        with use_kernels(kernels):
            for of in gradients:
                for p, gradient in zip(parameters, of, strict=True):
                    p.grad = to_device(gradient.astype(dtype), device)
                step()
            found = [np.array(to_numpy(p.data)) for p in parameters]
            return found, seconds_of(step, sizes.repeats) if device != "cpu" else 0.0

    expected, _ = updated("textbook", "cpu", np.float64)
    found, seconds = updated("fast", "cuda", np.float32)
    _, generic = updated("textbook", "cuda", np.float32)
    return _row(found, expected, [seconds, generic])


def _quantized(sizes: Sizes) -> dict[str, Any]:
    """Products of one row with a weight of 4 and of 8 bits, and the weight as floats."""
    rng = np.random.default_rng(0)
    group = 64 if sizes.width % 64 == 0 else sizes.width
    weight = rng.standard_normal((4 * sizes.width, sizes.width), dtype=np.float32)
    x = rng.standard_normal((1, sizes.width), dtype=np.float32)
    found: dict[str, Any] = {}
    for name, array in (("4-bit", nf4(weight, group, double_quant=False)), ("8-bit", absmax(weight, 8, group))):
        floats = array.dequantize().astype(np.float64)
        row, dense = to_device(x, "cuda"), to_device(floats.astype(x.dtype), "cuda")
        array.to("cuda")
        matrix = QuantizedMatrix(array.codes, array.scales, codebook=array.codebook if array.bits == 4 else None)
        for what, expected, kernel, generic in (
            ("product", x @ floats.T, partial(times_quantized, row, matrix), partial(operator.matmul, row, dense.T)),
            ("dequantize", floats, partial(dequantize, matrix), dense.copy),
        ):
            times = [seconds_of(work, sizes.repeats) for work in (kernel, generic)]
            found[f"{name} {what} float32"] = _row([to_numpy(kernel())], [expected], times)
    return found


def lines(result: dict[str, Any]) -> list[str]:
    """Return the lines to print."""
    out = [f"{'kernel':<40} {'error':>9} {'allowed':>9} {'ms':>9} {'generic ms':>11}"]
    for name, row in result["rows"].items():
        verdict = "" if row["error"] <= row["tolerance"] else "  WRONG"
        milliseconds = f"{row['seconds'] * 1e3:9.3f} {row['generic_seconds'] * 1e3:11.3f}"
        out.append(f"{name:<40} {row['error']:9.1e} {row['tolerance']:9.1e} {milliseconds}{verdict}")
    return out
