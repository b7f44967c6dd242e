"""Small models for the tests: quick, and with random biases and norms, so that none of them is a no-op."""

import json
from pathlib import Path

import numpy as np

from gpt import GPT, GPTConfig, Llama, LlamaConfig, save_checkpoint
from gpt.model.latent_attention import use_latent_attention
from gpt.model.linear_attention import use_linear_attention
from gpt.training.checkpoint import checkpoints
from minigrad import backend, no_grad

GOLDEN = Path(__file__).parent / "golden"
SHAPE = {"vocab_size": 37, "block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 8}
LLAMA = {**SHAPE, "n_head": 4, "n_kv_head": 2, "n_embd": 16, "n_inner": 20, "rope_theta": 100.0}


def small_gpt(seed=0, dtype="float32", **changes):
    """A GPT of SHAPE with random weights everywhere."""
    return _with_random_weights(GPT(GPTConfig(**{**SHAPE, **changes})), seed, dtype)


def small_llama(seed=0, dtype="float32", **changes):
    """A Llama of LLAMA with random weights everywhere: two heads of queries to one of keys."""
    return _with_random_weights(Llama(LlamaConfig(**{**LLAMA, **changes})), seed, dtype)


def small_latent(dtype="float32"):
    """Such a Llama with latent attention."""
    model = small_llama()
    use_latent_attention(model, latent=8, rope=2)
    return _with_random_weights(model, 0, dtype)


def small_hybrid(dtype="float32"):
    """Such a GPT, whose first layer has linear attention."""
    model = small_gpt()
    use_linear_attention(model, every=2)
    return _with_random_weights(model, 0, dtype)


def _with_random_weights(model, seed, dtype):
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        mean = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        parameter.data[...] = mean + 0.3 * rng.standard_normal(parameter.shape)
    return model.to(dtype)


def golden_arrays(name):
    """The arrays of golden/NAME.npz, or of PATH.npz."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def golden(kind):
    """The arrays of golden/KIND.npz, and a model with its weights, in float64."""
    arrays = golden_arrays(kind)
    config = json.loads(str(arrays["config"]))
    model = Llama(LlamaConfig(**config)) if kind.startswith("llama") else GPT(GPTConfig(**config))
    model.to("float64")
    model.load_state_dict({key[7:]: value for key, value in arrays.items() if key.startswith("weight/")})
    return model, arrays


def weights_of(model):
    """Copies of a model's parameters and buffers, on the host."""
    return {name: np.array(backend.to_numpy(array)) for name, array in model.state_dict().items()}


def gradients_of(model):
    """Copies of the gradients that there are, on the host."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: np.array(backend.to_numpy(array)) for name, array in gradients.items()}


def assert_same(found, expected, rtol=0.0, atol=0.0):
    """Two models, or two dictionaries of arrays, have the same names and numbers: exactly, unless there are limits."""
    found, expected = (each if isinstance(each, dict) else weights_of(each) for each in (found, expected))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol, atol, err_msg=name)


def logits_of(model, ids):
    """What a model computes for these ids, as an array, without recording it."""
    with no_grad():
        return model(ids).data


def log_softmax(x):
    """The logarithm of softmax over the last axis, in plain NumPy."""
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def files_of(folder):
    """The bytes of each file in a folder, by its path in it; but for the lock, which says who was there last."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def random_ids(shape, seed=0, vocab_size=SHAPE["vocab_size"]):
    return np.random.default_rng(seed).integers(0, vocab_size, shape)


def shapes_read(model, monkeypatch):
    """A list that gets the shape of the ids whenever the model reads some."""
    shapes = []
    read = model.hidden_states
    monkeypatch.setattr(model, "hidden_states", lambda ids, *rest: shapes.append(ids.shape) or read(ids, *rest))
    return shapes


def save_model(folder, model, tokenizer):
    """A run's folder with a model and its tokenizer, as every script takes it."""
    save_checkpoint(folder, model)
    tokenizer.save(folder)
    return folder


def checkpoint_of(folder):
    """The folder with the files of a run's checkpoint."""
    return checkpoints(folder)[-1]
