"""Train a reward model on preference pairs: it gives each reply a score."""

from start import command_line

from finetune.stages.reward import RewardConfig, train_reward_model
from scripts.shared import stage_options

EXAMPLES = """examples:
  python scripts/reward.py                                           from the model of scripts/sft.py
  python scripts/reward.py --data mypairs.jsonl --out-dir runs/myreward      your own pairs (prompt, chosen, rejected)
  python scripts/reward.py --init-from resume                        resume the run
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    stage_options.add_stage(parser, RewardConfig)
    advice = 'to train a model on it:\n  python scripts/ppo.py --init-from "{its.init_from}" --reward-model {folder}'
    return stage_options.run(parser, parser.parse_args(argv), train_reward_model, RewardConfig, "reward", advice)


if __name__ == "__main__":
    command_line.run(main)
