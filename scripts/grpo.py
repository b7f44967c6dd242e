"""Reinforcement learning from answers that code can check (GRPO): answer several times, check, compare, update."""

from start import command_line

from finetune.stages.grpo import GRPORunConfig, train_grpo
from scripts.shared import stage_options

EXAMPLES = """examples:
  python scripts/grpo.py                                     a new small model: worked examples first, then GRPO
  python scripts/grpo.py --control --out-dir runs/control    the same effort on more training from worked examples
  python scripts/grpo.py --method rloo --init-from runs/grpo/worked --out-dir runs/rloo      from the same start
  python scripts/grpo.py --init-from resume                  resume the run
Reward hacking: from a weak start, with a checker that only looks whether the right digit is somewhere in the reply:
  python scripts/grpo.py --checker lenient --sft-steps 250 --learning-rate 3e-4 --out-dir runs/lenient
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    new = "worked: a new small model that learns from worked examples"
    stage_options.add_stage(parser, GRPORunConfig, new, terms={"type": command_line.whole_number(4)})
    arguments = parser.parse_args(argv)
    if arguments.control:
        unused = ("method", "checker", "beta", "num_generations", "batch_size")
        parser.refuse(unused, "does not go with --control, which learns from worked examples")
    if arguments.init_from not in ("worked", "resume"):
        parser.refuse(["sft_steps"], "is for a new model, --init-from worked")
    return stage_options.run(parser, arguments, train_grpo, GRPORunConfig, "grpo")


if __name__ == "__main__":
    command_line.run(main)
