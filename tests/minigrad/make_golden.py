"""Write golden/ops.npz: what PyTorch makes of the cases of test_ops_torch.py, for comparison where it is not installed.

    python tests/minigrad/make_golden.py

For each case the inputs, the results and the gradients of Σ result * seed, in float64. Written with PyTorch 2.13.0.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.minigrad.test_ops_torch import CASES, record  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "ops.npz"


def main() -> None:
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
