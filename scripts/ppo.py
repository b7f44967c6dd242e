"""Reinforcement learning from a reward model (PPO): generate, score, update, with a KL penalty."""

from __future__ import annotations

from pathlib import Path

from scripts.shared import command_line, stage_options
from scripts.shared.next_steps import TALK_TO_IT

from finetune.evaluation.reward_hacking import plot_reinforcement
from finetune.stages.ppo import PPORunConfig, train_ppo
from gpt.console import quoted
from gpt.training.run_folder import settings_of

EXAMPLES = """examples:
  python scripts/ppo.py                                              the models of scripts/sft.py and scripts/reward.py
  python scripts/ppo.py --data myquestions.jsonl --out-dir runs/myppo        your own questions
  python scripts/ppo.py --init-from resume                           resume the run
Reward hacking: larger steps, once with a small KL penalty and once without; the second call draws both runs:
  python scripts/ppo.py --total-iterations 30 --learning-rate 2e-4 --kl-coef 0.1 --out-dir runs/kl
  python scripts/ppo.py --total-iterations 30 --learning-rate 2e-4 --kl-coef 0 --out-dir runs/free --beside runs/kl
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    data = "tasks (built-in questions), or a file of conversations, of which only the questions are used"
    stage_options.add_run(parser, "runs/sft", "runs/ppo", data)
    add, number = parser.add_argument, command_line.whole_number
    add("--reward-model", default="runs/reward", metavar="FOLDER", help="a run of scripts/reward.py")
    add("--total-iterations", type=number(1), default=16, help="number of times to generate, score and update")
    add("--batch-size", type=number(1), default=64, help="questions per iteration")
    add("--num-ppo-epochs", type=number(1), default=2, help="number of passes over the replies of an iteration")
    add("--num-mini-batches", type=number(1), default=2, help="optimizer steps per pass")
    add("--response-length", type=number(1), default=24, help="longest reply in tokens")
    add("--kl-coef", type=float, default=0.5, help="KL penalty per nat of distance from the reference; 0: none")
    add("--missing-eos-penalty", type=float, default=1.0, help="reward subtracted from a reply that does not end")
    add("--gamma", type=float, default=1.0, help="discount factor of rewards")
    add("--lam", type=float, default=0.95, help="lambda of GAE: 0 relies on the value head, 1 on the rewards")
    add("--cliprange", type=float, default=0.2, help="clipping range of the probability ratio")
    add("--cliprange-value", type=float, default=0.2, help="clipping range of the value head")
    add("--vf-coef", type=float, default=0.1, help="weight of the value loss")
    rate = stage_options.RATE
    command_line.add_training(parser, learning_rate=1e-4, warmup_iters=8, eval_interval=8, rate=rate, unit="iterations")
    add("--beside", default=None, metavar="FOLDER", help="another PPO run to draw in the same picture")
    arguments = parser.parse_args(argv)
    if arguments.beside is not None:
        settings_of(PPORunConfig, arguments.beside)  # raises, before hours of training, where there is no such run
    beside = f" --beside {quoted(Path(arguments.beside))}" if arguments.beside else ""
    code = stage_options.run(parser, argv, train_ppo, PPORunConfig, "ppo", TALK_TO_IT, more=beside)
    if arguments.beside and code == 0 and not arguments.will_it_fit:
        _compare(arguments.beside, arguments.out_dir)
    return code


def _compare(other: str, out_dir: str) -> None:
    picture = plot_reinforcement({other: other, out_dir: out_dir}, f"{out_dir}/comparison.png")
    print(f"both runs: {picture}" if picture else "no picture of both: matplotlib is not installed")


if __name__ == "__main__":
    command_line.run(main)
