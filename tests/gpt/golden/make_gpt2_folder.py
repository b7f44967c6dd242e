"""Writes gpt2-folder/, a tiny GPT-2 as transformers saves it, and gpt2-folder.npz, what transformers computes with it.

    PYTHONPATH=. python tests/gpt/golden/make_gpt2_folder.py          needs the extra `oracle`

The folder is what `save_pretrained` of model and tokenizer leave, in float32, with random weights everywhere. The file
holds, computed in float64 without dropout: `ids`, their `logits`, and `greedy`, with which transformers continues
`ids`; `text` and its `text_ids`. Activations and gradients are in gpt2-folder-trace.npz (test_verification.py).
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import transformers

from gpt import Tokenizer
from tests.gpt.golden import reference

GOLDEN = Path(__file__).resolve().parent
FOLDER = GOLDEN / "gpt2-folder"
STORY = "the cat sat on a mat while it rained, and two dogs ran past an old red barn. It's 1234 o'clock! Ünïcödé 猫\n"


def save_tokenizer(folder):
    """A vocabulary that was trained here, written by transformers; returns the tokenizer of transformers."""
    with tempfile.TemporaryDirectory() as ours:
        Tokenizer.train(STORY * 3, vocab_size=300).save(ours)
        tokenizer = transformers.GPT2TokenizerFast.from_pretrained(ours)
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_model(folder, end):
    """A GPT-2 whose every parameter is random, biases and norms too; returns it, in float64."""
    shape = {"vocab_size": 300, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**shape, bos_token_id=end, eos_token_id=end, attn_implementation="eager")
    model = reference.with_random_weights(transformers.GPT2LMHeadModel(config), spread_of_vectors=0.1)
    model = reference.with_rows_of_one_length(model)
    model.save_pretrained(folder)
    return model.double().eval()


def compute(model, tokenizer):
    """Everything that the file holds."""
    ids, _ = reference.ids_and_targets(np.random.default_rng(0), model.config.vocab_size, 9)
    arrays = {"text": STORY, "text_ids": tokenizer(STORY)["input_ids"]}
    return arrays | reference.logits_and_greedy(model, ids, 12)


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    tokenizer = save_tokenizer(FOLDER)
    arrays = compute(save_model(FOLDER, tokenizer.eos_token_id), tokenizer)
    np.savez_compressed(GOLDEN / "gpt2-folder.npz", **arrays)
    reference.show_sizes(*sorted(FOLDER.iterdir()), GOLDEN / "gpt2-folder.npz")
