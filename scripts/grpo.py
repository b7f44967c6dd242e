"""Reinforcement learning from answers that code can check (GRPO): answer several times, check, compare, update."""

from __future__ import annotations

from scripts.shared import command_line, stage_options
from scripts.shared.next_steps import TALK_TO_IT

from finetune.data.chains import CHECKERS
from finetune.objectives.grpo import METHODS
from finetune.stages.grpo import GRPORunConfig, train_grpo

EXAMPLES = """examples:
  python scripts/grpo.py                                     a new small model: worked examples first, then GRPO
  python scripts/grpo.py --control --out-dir runs/control    the same effort on more training from worked examples
  python scripts/grpo.py --method rloo --init-from runs/grpo/worked --out-dir runs/rloo      from the same start
  python scripts/grpo.py --init-from resume                  resume the run
Reward hacking: from a weak start, with a checker that only looks whether the right digit is somewhere in the reply:
  python scripts/grpo.py --checker lenient --sft-steps 250 --learning-rate 3e-4 --out-dir runs/lenient
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    add, number = parser.add_argument, command_line.whole_number
    text = f"worked: a new small model that learns from worked examples; MODEL: {command_line.SOURCES}; resume: "
    text += "continue the run in --out-dir"
    add("--init-from", default="worked", metavar="worked|MODEL|resume", help=text)
    add("--out-dir", default="runs/grpo", help="the run's folder, for checkpoint, tokenizer, data, log and picture")
    add("--terms", type=number(4), default=5, help="terms of a question: the difficulty")
    add("--sft-steps", type=number(1), default=800, help="steps in which the new model learns from worked examples")
    add("--method", choices=METHODS, default="grpo", help="how answers are compared and weighted")
    add("--checker", choices=list(CHECKERS), default="exact", help="what is rewarded; lenient invites reward hacking")
    add("--control", action="store_true", help="instead of GRPO, keep learning from the worked examples")
    add("--total-iterations", type=number(1), default=40, help="number of times to answer, check and update")
    add("--batch-size", type=number(1), default=32, help="questions per iteration")
    add("--num-generations", type=number(2), default=8, help="answers to each question: a group")
    add("--num-mini-batches", type=number(1), default=4, help="optimizer steps per iteration")
    add("--response-length", type=number(1), default=24, help="longest answer in tokens")
    add("--beta", type=float, default=0.0, help="KL penalty for moving away from the model at the start; 0: none")
    command_line.add_training(
        parser, learning_rate=1e-4, warmup_iters=8, eval_interval=10, rate=stage_options.RATE, unit="iterations"
    )
    arguments, given = parser.parse_args(argv), command_line.given(parser, argv)
    if arguments.control:
        unused = ("method", "checker", "beta", "num_generations", "batch_size")
        command_line.refuse(parser, given, unused, "does not go with --control, which learns from worked examples")
    if arguments.init_from not in ("worked", "resume"):
        command_line.refuse(parser, given, ["sft_steps"], "is for a new model, --init-from worked")
    return stage_options.run(parser, argv, train_grpo, GRPORunConfig, "grpo", TALK_TO_IT)


if __name__ == "__main__":
    command_line.run(main)
