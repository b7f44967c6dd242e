"""A model that can chat, and files for it, for the tests of scripts/reward.py, dpo.py and ppo.py."""

import json

from gpt.training.checkpoint import load_state, save_checkpoint
from gpt.training.log import read_log
from tests.finetune.preferences import small_policy, small_template


def write_model(folder, seed=1):
    """A run's folder with a small model and its tokenizer."""
    template = small_template()
    save_checkpoint(folder, small_policy(template, seed, block_size=64))
    template.tokenizer.save(folder)
    return folder


def write_pairs(path, n=30):
    """Pairs in which the better answer has an exclamation mark."""
    rows = [
        {"prompt": f"Say {i}?", "chosen": "yes" + "!" * (1 + i % 3), "rejected": "no" * (1 + i % 2)} for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def assert_same_run(folder, other):
    """The same weights, moments, state and log, but for times and places."""
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    states = [load_state(path) for path in (folder, other)]
    for state in states:
        del state["seconds"], state["extra"]["run"]["out_dir"]
    assert states[0] == states[1]
    logs = [read_log(path / "log.jsonl") for path in (folder, other)]
    for row in logs[0] + logs[1]:
        for name in [name for name in row if name == "ms" or name.endswith("_per_second")]:
            del row[name]
    assert logs[0] == logs[1]
