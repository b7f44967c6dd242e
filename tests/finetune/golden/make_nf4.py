"""Writes nf4.npz: a matrix, its NF4 codes and scales, doubly quantized scales, and values of 8 rows, by bitsandbytes.

pip install torch bitsandbytes
python tests/finetune/golden/make_nf4.py
"""

from pathlib import Path

import bitsandbytes.functional as bnb
import numpy as np
import torch

BLOCK = 64


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((72, 320)).astype(np.float32) * np.exp(rng.standard_normal((72, 1))).astype(np.float32)
    weight[5, :BLOCK] = 0  # a block of nothing
    weight[6, 3] = 40.0  # and an outlier
    tensor = torch.from_numpy(weight)
    packed, state = bnb.quantize_4bit(tensor, blocksize=BLOCK, quant_type="nf4", compress_statistics=False)
    nested_packed, nested = bnb.quantize_4bit(tensor, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    assert (packed == nested_packed).all()
    np.savez_compressed(
        Path(__file__).parent / "nf4.npz",
        weight=weight,
        levels=state.code.numpy(),
        codes=packed.numpy().reshape(72, -1),
        scales=state.absmax.numpy().reshape(72, -1),
        values=bnb.dequantize_4bit(packed, state).numpy()[:8],
        scale_codes=nested.absmax.numpy().reshape(72, -1),
        scale_absmax=nested.state2.absmax.numpy(),
        scale_offset=nested.offset.numpy(),
        scale_levels=nested.state2.code.numpy(),
        nested_values=bnb.dequantize_4bit(nested_packed, nested).numpy()[:8],
    )
