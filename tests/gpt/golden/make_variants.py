"""Writes variants/NAME/, random models as transformers saves them, and variants/NAME.npz, what it computes with them.

    python tests/gpt/golden/make_variants.py          needs the extra `oracle`

The models are those of tests/gpt/test_variants.py. The files hold `ids`, `logits` of them, and `greedy`, what follows.
"""

from pathlib import Path

import numpy as np

from tests.gpt.small import random_ids
from tests.gpt.test_variants import GOLDEN_VARIANTS, VARIANTS, V, golden_name, outputs, reference

FOLDER = Path(__file__).resolve().parent / "variants"

if __name__ == "__main__":
    for name in GOLDEN_VARIANTS:
        model = reference(*VARIANTS[name])
        model.save_pretrained(FOLDER / golden_name(name))
        ids = random_ids((2, 40), vocab_size=V)
        logits, greedy = outputs(model, ids)
        np.savez_compressed(FOLDER / f"{golden_name(name)}.npz", ids=ids, logits=logits, greedy=np.array(greedy))
