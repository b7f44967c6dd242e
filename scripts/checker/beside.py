"""The capstone's half in the learner's process: it keeps weights, and calls the learner's functions with them.

The judge (capstone.py) sends this text along with the learner's program. As in worker.py, there is only NumPy. Each
function gets one of the learner's functions first, whose globals are the learner's whole program.
"""

from __future__ import annotations

from typing import Any

import numpy as np

KEPT: dict[str, Any] = {"params": {}, "tensors": {}, "gradients": {}}


def keep(_: Any, kind: str, name: Any, value: Any) -> None:
    KEPT[kind][name] = value


def load(load_weights: Any) -> int:
    """Put the tensors under the learner's names. Returns how many names there are."""
    KEPT["params"] = load_weights(KEPT["tensors"])
    return len(KEPT["params"])


def states(model: Any, ids: Any, n_layer: int, n_head: int) -> dict[str, Any]:
    """All that the learner's model computes, in order: the embeddings, the output of each block, the logits."""
    names, params = model.__globals__, KEPT["params"]
    is_gpt = "positions" in params
    block, norm = (names["block"], names["layer_norm"]) if is_gpt else (names["llama_block"], names["rms_norm"])
    found: dict[str, Any] = {}

    def seen(x: Any, p: Any, heads: int) -> Any:
        found.setdefault("embeddings", np.asarray(x, np.float32))
        out = found[f"block {len(found) - 1}"] = np.asarray(block(x, p, heads), np.float32)
        return out

    logits = model(params, ids, n_layer, n_head, seen, norm)
    return {**found, "logits": np.asarray(logits, np.float32)}


def write(model: Any, ids: list[int], count: int, stop: list[int], *shape: int) -> list[int]:
    """The greedy continuation, of at most `count` tokens, up to one of `stop`."""
    new: list[int] = []
    while len(new) < count and not set(new) & set(stop):
        new.append(int(states(model, np.array([ids + new]), *shape)["logits"][0, -1].argmax()))
    return new


def learn(train: Any, tokens: Any, steps: Any, length: int, rates: Any, *shape: int) -> list[float]:
    """The losses of the learner's loop, with SGD: those of the learner's model. The gradients are the engine's for the
    same step, which have been kept.
    """
    names, losses = train.__globals__, []

    def backward(params: Any, x: Any, y: Any, gradients: Any) -> float:
        KEPT["params"] = params
        logits = states(names["gpt"], x, *shape)["logits"].astype(float)
        losses.append((np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, y[..., None], -1)[..., 0]).mean())
        for name, gradient in names["load_weights"](KEPT["gradients"].pop(len(losses) - 1)).items():
            gradients[name] += gradient
        return float(losses[-1])

    def update(name: str, p: Any, gradient: Any, lr: float) -> Any:
        return p - np.float32(lr) * gradient

    return train(KEPT["params"], tokens, steps, length, backward, update, lambda step: rates[step], 1.0)[1]
