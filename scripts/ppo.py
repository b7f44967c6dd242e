"""Reinforcement learning from a reward model (PPO): generate, score, update, with a KL penalty."""

from pathlib import Path

from start import command_line

from finetune.stages.ppo import PANELS, TITLE, PPORunConfig, train_ppo
from gpt.console import quoted
from gpt.training.plots import plot_runs
from gpt.training.run_state import settings_of
from scripts.shared import stage_options

EXAMPLES = """examples:
  python scripts/ppo.py                                              the models of scripts/sft.py and scripts/reward.py
  python scripts/ppo.py --data myquestions.jsonl --out-dir runs/myppo        your own questions
  python scripts/ppo.py --init-from resume                           resume the run
Reward hacking: larger steps, once with a small KL penalty and once without; the second call draws both runs:
  python scripts/ppo.py --total-iterations 30 --learning-rate 2e-4 --kl-coef 0.1 --out-dir runs/kl
  python scripts/ppo.py --total-iterations 30 --learning-rate 2e-4 --kl-coef 0 --out-dir runs/free --beside runs/kl
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    stage_options.add_stage(parser, PPORunConfig, reward_model={"help": "a run of scripts/reward.py"})
    parser.add_argument("--beside", metavar="FOLDER", help="another PPO run to draw in the same picture")
    arguments = parser.parse_args(argv)
    if arguments.beside is not None:
        settings_of(PPORunConfig, arguments.beside)  # raises, before hours of training, where there is no such run
    beside = f" --beside {quoted(Path(arguments.beside))}" if arguments.beside else ""
    code = stage_options.run(parser, arguments, train_ppo, PPORunConfig, "ppo", more=beside)
    if arguments.beside and code == 0 and not arguments.will_it_fit:
        runs = {folder: folder for folder in (arguments.beside, arguments.out_dir)}
        picture = plot_runs(runs, PANELS, TITLE, f"{arguments.out_dir}/comparison.png")
        print(f"both runs: {picture}" if picture else "no picture of both: matplotlib is not installed")
    return code


if __name__ == "__main__":
    command_line.run(main)
