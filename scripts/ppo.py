"""Reinforcement from a reward model (PPO): generate, score, update; with a price on moving away from the start."""

from __future__ import annotations

from finetune.evaluation.reward_hacking import plot_reinforcement
from finetune.stages.ppo import Reinforcement
from scripts.shared import command_line, stage_options
from scripts.shared.next_steps import TALK_TO_IT

EXAMPLES = """examples:
  python scripts/ppo.py                                              from scripts/sft.py's model and scripts/reward.py's
  python scripts/ppo.py --data myquestions.jsonl --out-dir runs/myppo        your own questions
  python scripts/ppo.py --init-from resume                           go on where it stopped
Reward hacking: larger steps, with a small price on moving away and with none, and both runs in one picture:
  python scripts/ppo.py --total-iterations 30 --learning-rate 2e-4 --kl-coef 0.1 --out-dir runs/priced
  python scripts/ppo.py --total-iterations 30 --learning-rate 2e-4 --kl-coef 0 --out-dir runs/free --beside runs/priced
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    stage_options.add_run(parser, "runs/sft", "runs/ppo", "conversations, whose questions are asked")
    add, number = parser.add_argument, command_line.whole_number
    add("--reward-model", default="runs/reward", metavar="FOLDER", help="a run of scripts/reward.py")
    add("--total-iterations", type=number(1), default=16, help="how often to generate, score and update")
    add("--batch-size", type=number(1), default=64, help="questions per iteration")
    add("--num-ppo-epochs", type=number(1), default=2, help="how often each reply is learned from")
    add("--num-mini-batches", type=number(1), default=2, help="steps for that")
    add("--response-length", type=number(1), default=24, help="longest reply, in tokens")
    add("--kl-coef", type=float, default=0.5, help="price of a nat of distance from the start, in scores; 0: no price")
    add("--missing-eos-penalty", type=float, default=1.0, help="what a reply that does not end loses")
    add("--gamma", type=float, default=1.0, help="discount of later rewards")
    add("--lam", type=float, default=0.95, help="of GAE: 0 trusts the value head, 1 the rewards")
    add("--cliprange", type=float, default=0.2, help="how far a token's probability may move per iteration")
    add("--cliprange-value", type=float, default=0.2, help="how far a value may")
    add("--vf-coef", type=float, default=0.1, help="weight of the value head's loss")
    stage_options.add_training(parser, learning_rate=1e-4, warmup_iters=8, eval_interval=8)
    add("--beside", default=None, metavar="FOLDER", help="another run of PPO to draw beside this one")
    code = stage_options.run(parser, argv, Reinforcement, "ppo", TALK_TO_IT)
    arguments = parser.parse_args(argv)
    if arguments.beside and code == 0:
        _compare(arguments.beside, arguments.out_dir)
    return code


def _compare(other: str, out_dir: str) -> None:
    picture = plot_reinforcement({other: other, out_dir: out_dir}, f"{out_dir}/comparison.png")
    print(f"both runs: {picture}" if picture else "no picture of both: matplotlib is not installed")


if __name__ == "__main__":
    command_line.run(main)
