"""Writes gpt2.npz and gpt1.npz: small models of transformers, with random weights, and what they compute in float64.

    python tests/gpt/golden/make_golden.py          needs the extra `oracle`

Each file holds `config` (JSON), `ids`, `targets` (-100 does not count), `weight/NAME` in our names and shapes,
`logits`, `loss`, `gradient/NAME`; gpt2.npz also `greedy` and `penalized`, with which transformers continues `ids`.
GPT-1 is the post-norm model.
"""

import json
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
CONFIG = {"vocab_size": 37, "block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 8}
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # stored (in, out) there, (out, in) here


def reference(kind):
    """A model of transformers in float64 whose every parameter is random, biases and norms too."""
    import torch
    import transformers

    names = {"vocab_size": "vocab_size", "block_size": "n_positions", "n_layer": "n_layer", "n_head": "n_head"}
    shape = {names.get(name, name): value for name, value in CONFIG.items()}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if kind == "gpt2":
        ends = {"bos_token_id": 0, "eos_token_id": None}
        config = transformers.GPT2Config(**shape, **no_dropout, **ends, attn_implementation="eager")
        model = transformers.GPT2LMHeadModel(config)
    else:
        model = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**shape, **no_dropout, afn="gelu"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            parameter.copy_(mean + 0.3 * torch.randn(parameter.shape))
    return model.double().eval()


def our_name(name):
    """GPT-1 calls its embeddings otherwise."""
    return name.replace("tokens_embed", "wte").replace("positions_embed", "wpe")


def ours(name, array):
    """An array of transformers in our layout."""
    return np.ascontiguousarray(array.T if name.endswith(CONV1D) else array)


def compute(kind):
    """Everything that a file holds."""
    import torch

    model = reference(kind)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, CONFIG["vocab_size"], (2, 7))
    targets = rng.integers(0, CONFIG["vocab_size"], (2, 7))
    targets[1, 3:5] = -100
    logits = model(torch.from_numpy(ids)).logits
    rows = logits.reshape(-1, logits.shape[-1])
    loss = torch.nn.functional.cross_entropy(rows, torch.from_numpy(targets).reshape(-1))
    loss.backward()
    shape = {**CONFIG, "norm": "pre" if kind == "gpt2" else "post"}
    arrays = {"config": json.dumps(shape), "ids": ids, "targets": targets}
    arrays |= {"logits": logits.detach().numpy(), "loss": loss.item()}
    for name, parameter in model.named_parameters():
        arrays[f"weight/{our_name(name)}"] = ours(name, parameter.detach().numpy()).astype(np.float32)
        arrays[f"gradient/{our_name(name)}"] = ours(name, parameter.grad.numpy())
    if kind == "gpt2":
        options = {"attention_mask": torch.ones(ids.shape), "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        for name, penalty in {"greedy": 1.0, "penalized": 1.3}.items():
            new = model.generate(torch.from_numpy(ids), repetition_penalty=penalty, **options)
            arrays[name] = new[:, ids.shape[1] :].numpy()
    return arrays


if __name__ == "__main__":
    for kind in ("gpt2", "gpt1"):
        np.savez_compressed(FOLDER / f"{kind}.npz", **compute(kind))
        print(FOLDER / f"{kind}.npz", (FOLDER / f"{kind}.npz").stat().st_size, "bytes", file=sys.stderr)
