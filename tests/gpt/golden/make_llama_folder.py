"""Writes llama-folder/, a tiny Llama as transformers saves it, and llama-folder.npz, what transformers makes of it.

    PYTHONPATH=. python tests/gpt/golden/make_llama_folder.py          needs the extra `oracle`

The folder is what the model's `save_pretrained` leaves, in float32, with random weights everywhere. The file holds,
computed in float64: `ids`, their `logits`, and `greedy`, with which transformers continues `ids`.
"""

import shutil
from pathlib import Path

import numpy as np
import transformers

from tests.gpt.golden import reference

GOLDEN = Path(__file__).resolve().parent
FOLDER = GOLDEN / "llama-folder"
SHAPE = {
    "vocab_size": 60, "max_position_embeddings": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_size": 24, "intermediate_size": 44, "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}, "tie_word_embeddings": True,
}  # fmt: skip


def save_model(folder):
    """A Llama whose every parameter is random, norms too; returns it, in float64."""
    config = transformers.LlamaConfig(**SHAPE, bos_token_id=0, eos_token_id=None, attn_implementation="eager")
    model = reference.with_rows_of_one_length(reference.with_random_weights(transformers.LlamaForCausalLM(config)))
    model.save_pretrained(folder)
    return model.double().eval()


def compute(model):
    """Everything that the file holds."""
    ids, _ = reference.ids_and_targets(np.random.default_rng(0), SHAPE["vocab_size"], 9)
    return reference.logits_and_greedy(model, ids, 20)


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    np.savez_compressed(GOLDEN / "llama-folder.npz", **compute(save_model(FOLDER)))
    reference.show_sizes(*sorted(FOLDER.iterdir()), GOLDEN / "llama-folder.npz")
