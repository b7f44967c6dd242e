"""Writes smollm2.npz: what transformers computes with SmolLM2-135M-Instruct, read from the same GGUF file by itself.

    python tests/gpt/golden/make_smollm2.py          needs the extras `oracle` and `smollm`; two minutes

`sha256` of the GGUF file. `text`, its `ids` (transformers' own tokenizer), the `loss` on it in nats per token; of the
logits (T, V) the `columns` chosen, `logits` (T, columns), and of all V the `logsumexp` and the standard deviation
`std` (T). `prompts`, `prompt_ids` and `greedy` (8, 48), with which transformers continues them (prompt_ids are padded
with -1), and `margin`, the smallest lead that a token chosen had over the second best. All in float32, with the weights
dequantized.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

from gpt.weights import hub

FILE = Path(__file__).resolve().parent / "smollm2.npz"
NEW = 48
CHAT = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
CHAT += "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = [
    CHAT.format("What is the capital of France, and what is it known for?"),
    CHAT.format("Write two sentences about a cat that sails the sea."),
    CHAT.format("What is 12 + 30? Think step by step."),
    "The capital of Norway is",
    "def fibonacci(n):\n",
    "Alan Turing theorized that computers would one day become",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,",
    "Übermäßig viele Wörter: der naïve Café-Besitzer 猫 said",
]
TEXT = """\
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or twice
she had peeped into the book her sister was reading, but it had no pictures or conversations in it, "and what is the use
of a book," thought Alice "without pictures or conversations?"

So she was considering in her own mind (as well as she could, for the hot day made her feel very sleepy and stupid),
whether the pleasure of making a daisy-chain would be worth the trouble of getting up and picking the daisies, when
suddenly a White Rabbit with pink eyes ran close by her. In 1865, 2,000 copies were printed.
"""


def reference():
    """transformers' model and tokenizer, from the GGUF file."""
    path = hub.find(hub.SMOLLM2)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return model.eval(), tokenizer


def score(model, ids):
    """The logits (T, V) of one sequence, and the loss on it."""
    with torch.no_grad():
        logits = model(torch.tensor(ids)[None]).logits[0].numpy()
    chosen = torch.log_softmax(torch.from_numpy(logits[:-1].astype(np.float64)), -1)[range(len(ids) - 1), ids[1:]]
    return logits, -chosen.mean().item()


def continuation(model, ids):
    """The NEW tokens that transformers likes best, one after the other, and the smallest lead of one of them."""
    settings = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0}
    given = torch.tensor(ids)[None]
    model.generation_config.eos_token_id = None
    found = model.generate(
        given, attention_mask=torch.ones_like(given), output_logits=True, return_dict_in_generate=True, **settings
    )
    best = torch.cat(found.logits).topk(2).values
    return found.sequences[0, len(ids) :].tolist(), (best[:, 0] - best[:, 1]).min().item()


def compute():
    """Everything that the file holds."""
    model, tokenizer = reference()
    ids = tokenizer(TEXT)["input_ids"]
    logits, loss = score(model, ids)
    columns = np.sort(np.random.default_rng(0).choice(logits.shape[1], 200, replace=False))
    prompt_ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    greedy, margins = zip(*(continuation(model, ids) for ids in prompt_ids), strict=True)
    longest = max(map(len, prompt_ids))
    return {
        "sha256": hashlib.sha256(hub.find(hub.SMOLLM2).read_bytes()).hexdigest(),
        "text": TEXT,
        "ids": np.array(ids, np.int32),
        "loss": loss,
        "columns": columns,
        "logits": logits[:, columns],
        "logsumexp": torch.logsumexp(torch.from_numpy(logits.astype(np.float64)), -1).numpy(),
        "std": logits.std(axis=1, dtype=np.float64),
        "prompts": np.array(PROMPTS),
        "prompt_ids": np.array([ids + [-1] * (longest - len(ids)) for ids in prompt_ids], np.int32),
        "greedy": np.array(greedy, np.int32),
        "margin": min(margins),
    }


if __name__ == "__main__":
    arrays = compute()
    np.savez_compressed(FILE, **arrays)
    print(f"{FILE.stat().st_size:8,} {FILE}, loss {arrays['loss']:.6f}, margin {arrays['margin']:.4f}", file=sys.stderr)
