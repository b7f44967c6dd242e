"""The numbers behind the widgets of the pages, from a small trained model."""

from pathlib import Path
from typing import Any

import numpy as np

from gpt import GPT, GPTConfig, Tokenizer
from gpt.interpretability import attention_patterns, record_activations
from gpt.model_config import PRESETS
from gpt.training.checkpoint import has_checkpoint
from gpt.training.loading import load_model
from gpt.training.pretraining import PretrainingConfig
from gpt.training.run_state import settings_of
from minigrad import no_grad
from scripts.course.lessons.small_gpt import english, new_gpt, train

DEMO = Path("runs/demo")
SHOWN = 12  # numbers of a row


def demo_model() -> tuple[Any, Tokenizer, str]:
    """The model of `demo.py --data english` where there is one, or else a smaller one, trained now; and what it is."""
    if has_checkpoint(DEMO) and settings_of(PretrainingConfig, str(DEMO)).data == "english":
        model, tokenizer = load_model(DEMO)
        return model, tokenizer, "the model of scripts/demo.py --data english"
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
    tokens = token_texts(tokenizer, range(len(tokenizer)))
    return {"model": name[:1].upper() + name[1:], "tokens": tokens, "prompts": asked}


def bpe(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """A text to begin with, and the merges, each byte as one character (Latin-1)."""
    return {"text": text, "merges": [[part.decode("latin-1") for part in pair] for pair in tokenizer.merges]}


def made_up_sentence(name: str, words: list[str], x: Any, wq: Any, wk: Any) -> dict[str, Any]:
    """A sentence for the attention widget: x (T, C), and the projections wq and wk (C, D)."""
    x, wq, wk = (np.asarray(array, np.float64) for array in (x, wq, wk))
    projections = {"wq": rounded(wq), "wk": rounded(wk), "bq": [0.0] * wq.shape[1]}
    return {"name": name, "words": words, "x": rounded(x), **projections}


def sentence_of(model: GPT, tokenizer: Tokenizer, text: str, layer: int, head: int) -> dict[str, Any]:
    """A sentence as one head reads it. The bias of the keys adds the same to a whole row, so softmax drops it."""
    ids = tokenizer.encode(text)
    C = model.config.n_embd
    D = C // model.config.n_head
    queries, keys = (slice(start + head * D, start + (head + 1) * D) for start in (0, C))
    block = model.transformer.h[layer]
    norm = f"transformer.h.{layer}.ln_1"
    with no_grad(), record_activations(model, [norm]) as seen:
        model(np.array([ids]))
    weight, bias = block.attn.c_attn.weight.data, block.attn.c_attn.bias.data
    name = f"{text!r}: block {layer + 1}, head {head + 1}"
    sentence = made_up_sentence(name, token_texts(tokenizer, ids), seen[norm][0], weight[queries].T, weight[keys].T)
    return sentence | {"bq": rounded(bias[queries])}


def gpt(model: GPT, tokenizer: Tokenizer, name: str, text: str) -> dict[str, Any]:
    """The shapes of known models, and the last token's way through this one."""
    presets = [shape(name, model.config)]
    presets += [shape(preset, GPTConfig.preset(preset)) for preset in PRESETS if preset.startswith("gpt2")]
    steps = {"tokens": token_texts(tokenizer, tokenizer.encode(text)), "steps": walk(model, tokenizer, text)}
    return {"presets": presets, "walk": steps}


def shape(name: str, config: GPTConfig) -> dict[str, Any]:
    L, H, C = config.n_layer, config.n_head, config.n_embd
    return {"name": name, "V": config.vocab_size, "T": config.block_size, "L": L, "H": H, "C": C}


def walk(model: GPT, tokenizer: Tokenizer, text: str) -> list[dict[str, Any]]:
    """Every step of the last token of a text, from its id to the probabilities of the next one."""
    ids = np.array([tokenizer.encode(text)])
    texts = token_texts(tokenizer, ids[0])
    parts = [f"h.{layer}.{name}" for layer in range(model.config.n_layer) for name in PARTS]
    names = ["lm_head", *(f"transformer.{name}" for name in ("wte", "wpe", "ln_f", *parts))]
    with no_grad(), record_activations(model, names) as found:
        model(ids)
    patterns = attention_patterns(model, ids)
    seen = {name.removeprefix("transformer."): array for name, array in found.items()}
    steps = [{"box": "ids", "block": 0, "values": ids[0].tolist(), "note": f"{texts[-1]!r} is token {ids[0, -1]}."}]
    steps[0]["labels"] = texts

    def step(box: str, values: np.ndarray, note: str = "", layer: int = 0, **more: Any) -> None:
        row = values.reshape(-1)
        shown, norm = min(SHOWN, row.size), np.linalg.norm(row)
        size = f"The first {shown} of {row.size} numbers; the length of the row is {norm:.2f}."
        steps.append({"box": box, "block": layer, "values": rounded(row[:SHOWN]), "note": note or size, **more})

    x = seen["wte"][0]
    step("wte", x[-1])
    x = x + seen["wpe"].reshape(x.shape)
    step("wpe", x[-1])
    for layer in range(model.config.n_layer):
        made = {name: seen[f"h.{layer}.{name}"][0] for name in PARTS}
        heads = made["attn.c_attn"].reshape(len(texts), 3, model.config.n_head, -1)  # (T, 3, H, D)
        q, _, v = heads.transpose(1, 2, 0, 3)  # (H, T, D) each
        weights = patterns[layer, 0]  # (H, T, T)
        most = int(weights[0, -1].argmax())
        step("ln_1", made["ln_1"][-1], layer=layer)
        step("attn.c_attn", made["attn.c_attn"][-1], layer=layer)
        step("heads", q[0, -1], "The query of head 1.", layer)
        looks = f"Head 1 looks most at {texts[most]!r}: {weights[0, -1, most]:.0%}. One number for each token so far."
        step("weights", weights[0, -1], looks, layer, labels=texts, heads=rounded(weights))
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
    labels = token_texts(tokenizer, best)
    step("lm_head", logits[best], f"The {SHOWN} largest of {logits.size} logits.", labels=labels)
    likely = ", ".join(f"{tokenizer.decode([int(i)])!r} {probabilities[i]:.1%}" for i in best[:5])
    step("probabilities", probabilities[best], f"The most likely tokens: {likely}.", labels=labels)
    return steps


PARTS = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
