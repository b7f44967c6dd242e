"""Write golden/ops.npz: what PyTorch makes of the cases of test_ops_torch.py, for comparison where it is not installed.

    python tests/minigrad/make_golden.py

For each case the inputs, the results and the gradients of Σ result * seed, in float64. Written with PyTorch 2.13.0.
"""

import sys
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.minigrad.test_ops_torch import CASES, Torch, as_tuple, seed_of  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "ops.npz"


def record(name: str) -> dict[str, np.ndarray]:
    """The arrays of one case, by what they are: input 0, result 0, gradient 0 (of input 0), ..."""
    import torch

    inputs, function = CASES[name]
    tensors = [torch.tensor(x, requires_grad=x.dtype == np.float64) for x in inputs]
    results = as_tuple(function(Torch(), *tensors))
    for result in results:
        if result.requires_grad:
            result.backward(torch.tensor(seed_of(result)), retain_graph=True)
    arrays = {f"input {i}": x for i, x in enumerate(inputs)}
    arrays |= {f"result {i}": result.detach().numpy() for i, result in enumerate(results)}
    arrays |= {f"gradient {i}": x.grad.numpy() for i, x in enumerate(tensors) if x.grad is not None}
    return arrays


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recorded = {f"{name}/{what}": array for name in CASES for what, array in record(name).items()}
    # One long array per dtype, and where each piece lies in it: 1,500 arrays of their own would be mostly headers.
    kinds = {"f": np.float64, "i": np.int64, "b": np.bool_}
    pieces = {
        kind: [a.ravel().astype(dtype) for a in recorded.values() if a.dtype.kind == kind]
        for kind, dtype in kinds.items()
    }
    index = [f"{name}|{a.dtype}|{','.join(map(str, a.shape))}" for name, a in recorded.items()]
    flat = {kind: np.concatenate(arrays) for kind, arrays in pieces.items()}
    np.savez_compressed(GOLDEN, index=np.array("\n".join(index)), **flat)
    print(f"{GOLDEN}: {len(CASES)} cases, {GOLDEN.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
