"""The numbers behind the widgets of the pages, from a small trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpt import GPT, GPTConfig, Tokenizer
from gpt.model.config import PRESETS
from gpt.training.checkpoint import has_checkpoint
from gpt.training.loading import load_model
from minigrad import no_grad
from scripts.lessons.small_gpt import english, new_gpt, train

DEMO = Path("runs/demo")
SHOWN = 12  # numbers of a row


def demo_model() -> tuple[Any, Tokenizer, str]:
    """The model of scripts/demo.py where it has been trained, or else a smaller one, trained now; and what it is."""
    if has_checkpoint(DEMO):
        model, tokenizer = load_model(DEMO)
        return model, tokenizer, "the model of scripts/demo.py"
    tokenizer, tokens, _ = english()
    model = new_gpt(len(tokenizer))
    train(model, tokens, 300)
    return model, tokenizer, "a GPT trained for 300 steps on Python's documentation"


def rounded(values: Any) -> Any:
    """Numbers for JSON, with four decimals."""
    return np.round(np.asarray(values, np.float64), 4).tolist()


def token_texts(tokenizer: Tokenizer, ids: Any) -> list[str]:
    """Tokens as text; bytes that are not a whole character as \\x and two digits."""
    return [tokenizer.decode([int(id)], errors="backslashreplace") for id in ids]


def sampling(model: Any, tokenizer: Tokenizer, name: str, prompts: list[str]) -> dict[str, Any]:
    """The logits of the token after each prompt."""
    with no_grad():
        logits = [model(np.array([tokenizer.encode(prompt)])).data[0, -1] for prompt in prompts]
    asked = [{"text": prompt, "logits": rounded(row)} for prompt, row in zip(prompts, logits)]
    return {
        "model": name[:1].upper() + name[1:],
        "tokens": token_texts(tokenizer, range(len(tokenizer))),
        "prompts": asked,
    }


def bpe(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """A text to begin with, and the merges, each byte as one character (Latin-1)."""
    return {"text": text, "merges": [[part.decode("latin-1") for part in pair] for pair in tokenizer.merges]}


def made_up_sentence(name: str, words: list[str], x: Any, wq: Any, wk: Any) -> dict[str, Any]:
    """A sentence for the attention widget: x (T, C), and the projections wq and wk (C, D)."""
    x, wq, wk = (np.asarray(array, np.float64) for array in (x, wq, wk))
    return {"name": name, "words": words} | {
        "x": rounded(x),
        "wq": rounded(wq),
        "wk": rounded(wk),
        "bq": [0.0] * wq.shape[1],
    }


def sentence_of(model: GPT, tokenizer: Tokenizer, text: str, layer: int, head: int) -> dict[str, Any]:
    """A sentence as one head reads it. The bias of the keys adds the same to a whole row, so softmax drops it."""
    ids = tokenizer.encode(text)
    D = model.config.n_embd // model.config.n_head
    queries = slice(head * D, (head + 1) * D)
    keys = slice(model.config.n_embd + head * D, model.config.n_embd + (head + 1) * D)
    block = model.transformer.h[layer]
    x = record(model, np.array([ids]), {"x": block.ln_1})["x"][0]
    weight, bias = block.attn.c_attn.weight.data, block.attn.c_attn.bias.data
    name = f"{text!r}: block {layer + 1}, head {head + 1}"
    sentence = made_up_sentence(name, token_texts(tokenizer, ids), x, weight[queries].T, weight[keys].T)
    return sentence | {"bq": rounded(bias[queries])}


def record(model: Any, ids: np.ndarray, modules: dict[str, Any]) -> dict[str, np.ndarray]:
    """What some modules make of ids (B, T), by name."""
    found: dict[str, np.ndarray] = {}
    hooks = [
        module.register_forward_hook(lambda module, given, output, name=name: found.__setitem__(name, output.data))
        for name, module in modules.items()
    ]
    try:
        with no_grad():
            model(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def gpt(model: GPT, tokenizer: Tokenizer, name: str, text: str) -> dict[str, Any]:
    """The shapes of known models, and the last token's way through this one."""
    presets = [shape(name, model.config)]
    presets += [shape(preset, GPTConfig.preset(preset)) for preset in PRESETS if preset.startswith("gpt2")]
    return {
        "presets": presets,
        "walk": {"tokens": token_texts(tokenizer, tokenizer.encode(text)), "steps": walk(model, tokenizer, text)},
    }


def shape(name: str, config: GPTConfig) -> dict[str, Any]:
    symbols = {
        "V": config.vocab_size,
        "T": config.block_size,
        "L": config.n_layer,
        "H": config.n_head,
        "C": config.n_embd,
    }
    return {"name": name, **symbols}


def walk(model: GPT, tokenizer: Tokenizer, text: str) -> list[dict[str, Any]]:
    """Every step of the last token of a text, from its id to the probabilities of the next one."""
    ids = np.array([tokenizer.encode(text)])
    texts = token_texts(tokenizer, ids[0])
    body = model.transformer
    modules = {"wte": body.wte, "wpe": body.wpe, "ln_f": body.ln_f, "lm_head": model.lm_head}
    for layer, block in enumerate(body.h):
        modules |= {f"{layer} {name}": block.get_submodule(name) for name in PARTS}
    seen = record(model, ids, modules)
    steps = [{"box": "ids", "block": 0, "values": ids[0].tolist(), "note": f"{texts[-1]!r} is token {ids[0, -1]}."}]

    def step(box: str, values: np.ndarray, note: str = "", layer: int = 0) -> None:
        row = values.reshape(-1)
        shown, norm = min(SHOWN, row.size), np.linalg.norm(row)
        size = f"The first {shown} of {row.size} numbers; the length of the row is {norm:.2f}."
        steps.append({"box": box, "block": layer, "values": rounded(row[:SHOWN]), "note": note or size})

    x = seen["wte"][0]
    step("wte", x[-1])
    x = x + seen["wpe"].reshape(x.shape)
    step("wpe", x[-1])
    for layer in range(model.config.n_layer):
        made = {name: seen[f"{layer} {name}"][0] for name in PARTS}
        q, k, v = (split(part, model.config.n_head) for part in np.split(made["attn.c_attn"], 3, axis=-1))  # (H, T, D)
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        scores = np.where(np.tri(len(texts), dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)  # (H, T, T)
        most = int(weights[0, -1].argmax())
        step("ln_1", made["ln_1"][-1], layer=layer)
        step("attn.c_attn", made["attn.c_attn"][-1], layer=layer)
        step("heads", q[0, -1], "The query of head 1.", layer)
        looks = f"Head 1 looks most at {texts[most]!r}: {weights[0, -1, most]:.0%}. One number for each token so far."
        step("weights", weights[0, -1], looks, layer)
        step("mix", (weights @ v)[0, -1], "What head 1 has found.", layer)
        step("attn.c_proj", made["attn.c_proj"][-1], layer=layer)
        x = x + made["attn.c_proj"]
        step("add_1", x[-1], layer=layer)
        for name in ("ln_2", "mlp.c_fc", "mlp.c_proj"):
            step(name, made[name][-1], layer=layer)
        x = x + made["mlp.c_proj"]
        step("add_2", x[-1], layer=layer)
    step("ln_f", seen["ln_f"][0, -1])
    logits = seen["lm_head"][0, -1].astype(np.float64)
    best = np.argsort(-logits)[:SHOWN]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    step("lm_head", logits[best], f"The {SHOWN} largest of {logits.size} logits.")
    likely = ", ".join(f"{tokenizer.decode([int(i)])!r} {probabilities[i]:.1%}" for i in best[:5])
    step("probabilities", probabilities[best], f"The most likely tokens: {likely}.")
    return steps


PARTS = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")


def split(rows: np.ndarray, heads: int) -> np.ndarray:
    """(T, C) -> (H, T, D)"""
    return rows.reshape(len(rows), heads, -1).swapaxes(0, 1)
