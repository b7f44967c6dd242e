"""A model that can chat, and files for it, for the tests of scripts/reward.py, dpo.py and ppo.py."""

from tests.finetune.small import small_policy, small_template, write_rows
from tests.gpt.small import save_model


def write_model(folder, seed=1, block_size=64):
    """A run's folder with a small model and its tokenizer."""
    template = small_template()
    return save_model(folder, small_policy(template, seed, block_size=block_size), template.tokenizer)


def write_pairs(path, n=30):
    """Pairs in which the better answer has an exclamation mark."""
    better, worse = ["yes!", "yes!!", "yes!!!"], ["no", "nono"]
    rows = [{"prompt": f"Say {i}?", "chosen": better[i % 3], "rejected": worse[i % 2]} for i in range(n)]
    return write_rows(path, rows)


def write_questions(path, n=20):
    """Questions in the form of a file for SFT, of which PPO reads the prompts."""
    return write_rows(path, [{"prompt": f"Say {i}?", "completion": "yes"} for i in range(n)])
