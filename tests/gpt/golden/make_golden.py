"""Writes gpt2.npz, gpt1.npz and llama.npz: small models of transformers with random weights, computed in float64.

    PYTHONPATH=. python tests/gpt/golden/make_golden.py          needs the extra `oracle`

Each file holds `config` (JSON), `ids`, `targets` (-100 does not count), `weight/NAME` in our names and shapes,
`logits`, `loss`, `gradient/NAME`; all but gpt1.npz also `greedy` and `penalized`, with which transformers continues
`ids`. GPT-1 is the post-norm model. The Llama has two heads of queries to one of keys and values.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.gpt import small
from tests.gpt.golden.reference import continuation, ids_and_targets, logits_and_loss, show_sizes, with_random_weights

FOLDER = Path(__file__).resolve().parent
CONFIG = small.SHAPE
GPT_THERE = {"n_positions" if name == "block_size" else name: value for name, value in CONFIG.items()}
LLAMA = {**small.LLAMA, "rms_norm_epsilon": 1e-3, "tied": True}
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # stored (in, out) there, (out, in) here


def reference(kind):
    """A model of transformers in float64 whose every parameter is random, biases and norms too."""
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if kind == "llama":
        model = in_float64(transformers.LlamaForCausalLM(llama_config(LLAMA)))
    elif kind == "gpt2":
        ends = {"bos_token_id": 0, "eos_token_id": None}
        config = transformers.GPT2Config(**GPT_THERE, **no_dropout, **ends, attn_implementation="eager")
        model = transformers.GPT2LMHeadModel(config)
    else:
        model = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**GPT_THERE, **no_dropout, afn="gelu"))
    return with_random_weights(model).double().eval()


def llama_config(shape):
    """Our settings under the names of transformers."""
    names = {"block_size": "max_position_embeddings", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
    names |= {"n_kv_head": "num_key_value_heads", "n_embd": "hidden_size", "n_inner": "intermediate_size"}
    names |= {"rms_norm_epsilon": "rms_norm_eps", "tied": "tie_word_embeddings"}
    settings = {names.get(name, name): value for name, value in shape.items()}
    ends = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": None}
    return transformers.LlamaConfig(**settings, **ends, attn_implementation="sdpa")  # "eager" rounds to float32


def in_float64(model):
    """transformers computes angles and RMS norms of a Llama in float32, whatever the model is: here in float64."""

    class Angles(torch.nn.Module):
        def forward(self, x, position_ids):
            size = LLAMA["n_embd"] // LLAMA["n_head"]
            theta = LLAMA["rope_theta"]
            speeds = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
            angles = position_ids[..., None].double() * speeds
            angles = torch.cat([angles, angles], dim=-1)
            return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    def norm():
        return torch.nn.RMSNorm(LLAMA["n_embd"], LLAMA["rms_norm_epsilon"])

    model.model.rotary_emb, model.model.norm = Angles(), norm()
    for layer in model.model.layers:
        layer.input_layernorm, layer.post_attention_layernorm = norm(), norm()
    return model


def our_name(name):
    """GPT-1 calls its embeddings otherwise."""
    return name.replace("tokens_embed", "wte").replace("positions_embed", "wpe")


def ours(name, array):
    """An array of transformers in our layout."""
    return np.ascontiguousarray(array.T if name.endswith(CONV1D) else array)


def compute(kind):
    """Everything that a file holds."""
    model = reference(kind)
    ids, targets = ids_and_targets(np.random.default_rng(0), CONFIG["vocab_size"], 7)
    shape = LLAMA if kind == "llama" else {**CONFIG, "norm": "pre" if kind == "gpt2" else "post"}
    arrays = {"config": json.dumps(shape), **logits_and_loss(model, ids, targets)}
    for name, parameter in model.named_parameters():
        arrays[f"weight/{our_name(name)}"] = ours(name, parameter.detach().numpy()).astype(np.float32)
        arrays[f"gradient/{our_name(name)}"] = ours(name, parameter.grad.numpy())
    if kind != "gpt1":
        arrays["greedy"] = continuation(model, ids, 5)
        arrays["penalized"] = continuation(model, ids, 5, repetition_penalty=1.3)
    return arrays


if __name__ == "__main__":
    for kind in ("gpt2", "gpt1", "llama"):
        np.savez_compressed(FOLDER / f"{kind}.npz", **compute(kind))
        show_sizes(FOLDER / f"{kind}.npz")
