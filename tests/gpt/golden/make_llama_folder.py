"""Writes llama-folder/, a tiny Llama as transformers saves it, and llama-folder.npz, what transformers makes of it.

    python tests/gpt/golden/make_llama_folder.py          needs the extra `oracle`

The folder is what the model's `save_pretrained` leaves, in float32, with random weights everywhere. The file holds,
computed in float64: `ids`, `targets` (-100 does not count), `logits`, `loss`, `gradient/NAME` in transformers' names
(stored as float32), and `greedy`, with which transformers continues `ids`.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

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
    model = transformers.LlamaForCausalLM(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter.ndim == 1) + 0.3 * torch.randn(parameter.shape))
        tokens = model.model.embed_tokens.weight
        tokens /= tokens.norm(dim=1, keepdim=True)  # equally long, so that it writes more than its longest token
    model.save_pretrained(folder)
    return model.double().eval()


def compute(model):
    """Everything that the file holds."""
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, SHAPE["vocab_size"], (2, 2, 9))
    targets[1, 3:5] = -100
    logits = model(torch.from_numpy(ids)).logits
    rows = logits.reshape(-1, logits.shape[-1])
    loss = torch.nn.functional.cross_entropy(rows, torch.from_numpy(targets).reshape(-1))
    loss.backward()
    arrays = {"ids": ids, "targets": targets, "logits": logits.detach().numpy(), "loss": loss.item()}
    arrays |= {f"gradient/{name}": p.grad.float().numpy() for name, p in model.named_parameters()}
    options = {"attention_mask": torch.ones(ids.shape), "do_sample": False, "pad_token_id": 0, "max_new_tokens": 20}
    arrays["greedy"] = model.generate(torch.from_numpy(ids), **options)[:, ids.shape[1] :].numpy()
    return arrays


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    np.savez_compressed(GOLDEN / "llama-folder.npz", **compute(save_model(FOLDER)))
    for path in (*sorted(FOLDER.iterdir()), GOLDEN / "llama-folder.npz"):
        print(f"{path.stat().st_size:8,} {path}", file=sys.stderr)
