"""Writes llama/adapter/, an adapter as PEFT saves it for a Llama, llama/classifier/, a LlamaForSequenceClassification
as transformers saves it, and llama/expected.npz, what they compute.

    python tests/finetune/golden/make_llama_tuning.py          needs the extra `oracle`

The base model is `base()`. The file holds `ids`, `lengths`, `adapted` (logits of ids with the adapter) and `scores` (of
the classifier), in float64.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from tests.gpt.small import random_ids, small_llama

FOLDER = Path(__file__).resolve().parent / "llama"
LABELS = ["no", "yes", "perhaps"]
IDS = random_ids((2, 7), seed=3)
LENGTHS = np.array([7, 4])
PADDING = 36


def base():
    """A small Llama."""
    return small_llama(seed=7).eval()


if __name__ == "__main__":
    import peft
    import torch
    import transformers

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    ids = np.where(np.arange(IDS.shape[1]) < LENGTHS[:, None], IDS, PADDING)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        base().save_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        adapted = ["q_proj", "v_proj", "down_proj"]
        config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=adapted, task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.3)
            adapted = model.double().eval()(torch.from_numpy(ids)).logits.numpy()
        model.float().save_pretrained(FOLDER / "adapter")
        names = dict(enumerate(LABELS))
        classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=3, id2label=names, label2id={v: k for k, v in names.items()}, pad_token_id=PADDING
        )
        with torch.no_grad():
            scores = classifier.double().eval()(torch.from_numpy(ids)).logits.numpy()
        classifier.float().save_pretrained(FOLDER / "classifier")
    (FOLDER / "adapter" / "README.md").unlink(missing_ok=True)
    np.savez_compressed(FOLDER / "expected.npz", ids=ids, lengths=LENGTHS, adapted=adapted, scores=scores)
