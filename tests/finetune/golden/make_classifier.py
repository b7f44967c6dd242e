"""Writes classifier/, a tiny classifier as transformers saves it, and classifier.npz, what it computes there.

    PYTHONPATH=. python tests/finetune/golden/make_classifier.py          needs the extra `oracle`

The folder is a GPT2ForSequenceClassification of three classes with random weights everywhere. The file holds, computed
in float64 without dropout: `ids` (B, T), padded on the right with pad_token_id, their `lengths`, and the `logits`.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.gpt.golden.reference import with_random_weights

GOLDEN = Path(__file__).resolve().parent
PAD = 59
LABELS = ["ham", "spam", "eggs"]


if __name__ == "__main__":
    shape = {"vocab_size": 60, "n_positions": 12, "n_embd": 8, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**shape, bos_token_id=PAD, eos_token_id=PAD, pad_token_id=PAD, num_labels=3)
    config.id2label = dict(enumerate(LABELS))
    config.label2id = {label: number for number, label in enumerate(LABELS)}
    model = with_random_weights(transformers.GPT2ForSequenceClassification(config))
    shutil.rmtree(GOLDEN / "classifier", ignore_errors=True)
    model.save_pretrained(GOLDEN / "classifier")
    rng = np.random.default_rng(0)
    lengths = np.array([7, 3, 1, 5])
    ids = rng.integers(0, PAD, (4, 7))
    ids[np.arange(7) >= lengths[:, None]] = PAD
    with torch.no_grad():
        logits = model.double().eval()(torch.from_numpy(ids)).logits.numpy()
    np.savez_compressed(GOLDEN / "classifier.npz", ids=ids, lengths=lengths, logits=logits)
