"""Writes peft/NAME/, adapters as PEFT saves them, and peft.npz, what PEFT computes with them.

    python tests/finetune/golden/make_peft.py          needs the extra `oracle`

The base model is that of tests/gpt/golden/gpt2.npz. The file holds `ids`, and per adapter `logits/NAME` of `ids` in
float64 (of the classifier the scores of each row).
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

from tests.gpt.small import golden, random_ids

FOLDER = Path(__file__).resolve().parent
IDS = random_ids((2, 7), seed=3)
ADAPTERS = {
    "attention": {"r": 2, "lora_alpha": 6, "target_modules": ["c_attn"], "lora_dropout": 0.1},
    "all-linear": {"r": 3, "lora_alpha": 5, "target_modules": "all-linear", "use_rslora": True},
    "whole-modules": {
        "r": 1,
        "target_modules": r".*\.h\.1\.attn\.c_(attn|proj)",
        "modules_to_save": ["ln_f", "mlp.c_fc"],
    },
    "embeddings": {"r": 2, "target_modules": ["mlp.c_proj"], "modules_to_save": ["wte", "lm_head"]},
    "classifier": {"r": 2, "target_modules": ["attn.c_proj"], "task_type": "SEQ_CLS"},
}


def base(kind="GPT2LMHeadModel", **settings):
    """The golden model in transformers, in float64."""
    with tempfile.TemporaryDirectory() as folder:
        golden("gpt2")[0].to("float32").save_pretrained(folder)
        return getattr(transformers, kind).from_pretrained(folder, **settings).double().eval()


def adapted(model, settings):
    """The model with an adapter that has random numbers everywhere; tied weights stay equal."""
    model = peft.get_peft_model(model, peft.LoraConfig(**{"task_type": "CAUSAL_LM", **settings})).double().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name, parameter in trained.items():
            is_norm = "ln_f" in name and name.endswith("weight")
            parameter.copy_(0.3 * torch.randn(parameter.shape) + is_norm)
        tied = [p for name, p in trained.items() if "wte" in name or "lm_head" in name]
        for parameter in tied[1:]:
            parameter.copy_(tied[0])
    return model


def save(model, folder):
    """As PEFT does it, in float32, without the model card."""
    shutil.rmtree(folder, ignore_errors=True)
    model.float().save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()
    return model.double()


def compute():
    """Save all adapters; returns the arrays of peft.npz."""
    arrays = {"ids": IDS}
    ids = torch.from_numpy(IDS)
    for name, settings in ADAPTERS.items():
        if name == "classifier":
            model = base("GPT2ForSequenceClassification", num_labels=3, pad_token_id=0)
        else:
            model = base()
        model = save(adapted(model, settings), FOLDER / "peft" / name)
        arrays[f"logits/{name}"] = model(ids, attention_mask=torch.ones_like(ids)).logits.detach().numpy()
    return arrays


if __name__ == "__main__":
    np.savez_compressed(FOLDER / "peft.npz", **compute())
    size = sum(path.stat().st_size for path in (FOLDER / "peft").rglob("*.*")) + (FOLDER / "peft.npz").stat().st_size
    print(FOLDER / "peft.npz", "and", FOLDER / "peft:", size, "bytes", file=sys.stderr)
