"""The capstone's half in the learner's process: it keeps weights, and calls the learner's functions with them.

The judge (capstone.py) sends this text along with the learner's program. As in worker.py, there is only NumPy. Each
function gets one of the learner's functions first, whose globals are the learner's whole program.
"""

from typing import Any

import numpy as np

TENSORS: dict[str, Any] = {}  # that have arrived
PARAMS: dict[str, Any] = {}  # of the learner's model
SHAPE = (0, 0)  # its n_layer and n_head


def keep(_: Any, name: str, value: Any) -> None:
    TENSORS[name] = value


def load(model: Any, n_layer: int, n_head: int) -> None:
    """Make what has arrived the parameters of the learner's model: a GPT's are translated by load_weights."""
    global PARAMS, SHAPE
    SHAPE = n_layer, n_head
    PARAMS = model.__globals__.get("load_weights", dict)(TENSORS)
    TENSORS.clear()


def states(model: Any, ids: Any) -> dict[str, Any]:
    """All that the learner's model computes, in order: the embeddings, the output of each block, the logits."""
    names = model.__globals__
    is_llama = "llama_block" in names
    block, norm = (names["llama_block"], names["rms_norm"]) if is_llama else (names["block"], names["layer_norm"])
    found: dict[str, Any] = {}

    def seen(x: Any, p: Any, heads: int) -> Any:
        found.setdefault("embeddings", np.asarray(x, np.float32))
        out = found[f"block {len(found) - 1}"] = np.asarray(block(x, p, heads), np.float32)
        return out

    logits = model(PARAMS, ids, *SHAPE, seen, norm)
    return {**found, "logits": np.asarray(logits, np.float32)}


def following(model: Any, ids: list[int]) -> int:
    """The likeliest next token."""
    return int(states(model, np.array([ids]))["logits"][0, -1].argmax())


def learn(train: Any, tokens: Any, steps: Any, length: int, rates: Any, gradients: Any) -> list[float]:
    """The losses of the learner's model in the learner's loop. gradients: the engine's for each step, under the names
    of Hugging Face. The optimizer is SGD.
    """
    names = train.__globals__
    arriving = iter(gradients)

    def backward(params: Any, x: Any, y: Any, gradients: Any) -> float:
        global PARAMS
        PARAMS = params
        logits = states(names["gpt"], x)["logits"].astype(float)
        for name, gradient in names["load_weights"](next(arriving)).items():
            gradients[name] += gradient
        right = np.take_along_axis(logits, y[..., None], -1)[..., 0]
        return float((np.log(np.exp(logits).sum(-1)) - right).mean())

    def update(name: str, p: Any, gradient: Any, lr: float) -> Any:
        return p - np.float32(lr) * gradient

    return train(PARAMS, tokens, steps, length, backward, update, lambda step: rates[step], 1.0)[1]
