"""Writes gpt2-folder/ and llama-folder/, tiny models as transformers saves them, and what transformers computes there.

    PYTHONPATH=. python tests/gpt/golden/make_folders.py          needs the extra `oracle`

The folders are what the model's `save_pretrained` leaves, in float32, with random weights everywhere; that of the GPT-2
has a tokenizer, too. gpt2-folder.npz and llama-folder.npz hold, computed in float64 without dropout: `ids`, their
`logits`, and `greedy`, with which transformers continues `ids`; of the GPT-2 also `text` and its `text_ids`.
Activations and gradients are in gpt2-folder-trace.npz (test_verification.py).
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import transformers

from gpt import Tokenizer
from tests.gpt.golden import reference

GOLDEN = Path(__file__).resolve().parent
STORY = "the cat sat on a mat while it rained, and two dogs ran past an old red barn. It's 1234 o'clock! Ünïcödé 猫\n"
GPT2 = {"vocab_size": 300, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
LLAMA = {
    "vocab_size": 60, "max_position_embeddings": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_size": 24, "intermediate_size": 44, "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}, "tie_word_embeddings": True,
}  # fmt: skip


def save_tokenizer(folder):
    """A vocabulary that was trained here, written by transformers; returns the tokenizer of transformers."""
    with tempfile.TemporaryDirectory() as ours:
        Tokenizer.train(STORY * 3, vocab_size=300).save(ours)
        tokenizer = transformers.GPT2TokenizerFast.from_pretrained(ours)
    tokenizer.save_pretrained(folder)
    return tokenizer


def write(name, model, spread_of_vectors, new_tokens, **arrays):
    """Give a model random weights everywhere, norms and biases too; write its folder and what it computes."""
    model = reference.with_rows_of_one_length(reference.with_random_weights(model, spread_of_vectors))
    model.save_pretrained(GOLDEN / name)
    ids, _ = reference.ids_and_targets(np.random.default_rng(0), model.config.vocab_size, 9)
    arrays |= reference.logits_and_greedy(model.double().eval(), ids, new_tokens)
    np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)
    reference.show_sizes(*sorted((GOLDEN / name).iterdir()), GOLDEN / f"{name}.npz")


if __name__ == "__main__":
    for name in ("gpt2-folder", "llama-folder"):
        shutil.rmtree(GOLDEN / name, ignore_errors=True)
    tokenizer = save_tokenizer(GOLDEN / "gpt2-folder")
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, **ends, attn_implementation="eager"))
    write("gpt2-folder", gpt2, 0.1, 12, text=STORY, text_ids=tokenizer(STORY)["input_ids"])
    ends = {"bos_token_id": 0, "eos_token_id": None}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, **ends, attn_implementation="eager"))
    write("llama-folder", llama, 0.3, 20)
