"""Direct preference optimization (DPO): tune a model on preference pairs, without a reward model."""

from start import command_line

from finetune.stages.dpo import DPOConfig, train_dpo
from scripts.shared import stage_options

EXAMPLES = """examples:
  python scripts/dpo.py                                              from the model of scripts/sft.py
  python scripts/dpo.py --data mypairs.jsonl --out-dir runs/mydpo    your own pairs (prompt, chosen, rejected)
  python scripts/dpo.py --loss-type ipo --out-dir runs/ipo
  python scripts/dpo.py --init-from resume                           resume the run
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    stage_options.add_stage(parser, DPOConfig)
    arguments = parser.parse_args(argv)
    if arguments.label_smoothing and arguments.loss_type != "robust" and arguments.init_from != "resume":
        parser.error("--label-smoothing is for --loss-type robust")
    return stage_options.run(parser, arguments, train_dpo, DPOConfig, "dpo")


if __name__ == "__main__":
    command_line.run(main)
