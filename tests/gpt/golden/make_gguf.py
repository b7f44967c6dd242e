"""Writes gguf-blocks.npz: quantized rows of each kind as bytes, and what the library gguf makes of them.

    python tests/gpt/golden/make_gguf.py          needs the extra `smollm`

For each kind, KIND/raw (rows, bytes of a row) and KIND/numbers (rows, columns) in float32. The first rows are quantized
random numbers, the last ones random bytes with the scales that float16 has at its ends.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

FILE = Path(__file__).resolve().parent / "gguf-blocks.npz"
COLUMNS = 64
SCALES = [0.0, 6e-8, -6e-8, 6e-5, 1.0, -3.5, 65504.0, -65504.0]  # denormal, smallest normal, largest

if __name__ == "__main__":
    rng = np.random.default_rng(0)
    arrays = {}
    for kind in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1"):
        type_there = gguf.GGMLQuantizationType[kind]
        raw = gguf.quants.quantize(rng.standard_normal((4, COLUMNS)).astype(np.float32), type_there).view(np.uint8)
        if kind.startswith("Q"):
            more = rng.integers(0, 256, (4, raw.shape[1]), np.uint8)
            blocks = more.reshape(8, -1)
            blocks[:, :2] = np.array(SCALES, "<f2").view(np.uint8).reshape(8, 2)
            if kind == "Q4_1":
                blocks[:, 2:4] = np.array(SCALES[::-1], "<f2").view(np.uint8).reshape(8, 2)
            raw = np.concatenate([raw, more])
        arrays[f"{kind}/raw"] = raw
        arrays[f"{kind}/numbers"] = gguf.quants.dequantize(raw, type_there)
    np.savez_compressed(FILE, **arrays)
    print(f"{FILE.stat().st_size:8,} {FILE}", file=sys.stderr)
