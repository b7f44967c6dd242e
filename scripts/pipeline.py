"""The whole pipeline: tokenizer, pretraining, instruction tuning, reward model, DPO, LoRA, 4 bits, and a final table.

About four minutes on two cores. Finished stages are kept: after Ctrl-C, the same command resumes. With --init-from,
the pipeline starts from a model that is already trained and skips pretraining.
"""

from __future__ import annotations

from scripts.shared import command_line

from finetune.stages.pipeline import run_pipeline
from finetune.stages.pipeline_stages import PipelineConfig

EXAMPLES = """examples:
  python scripts/pipeline.py
  python scripts/pipeline.py --ppo            also PPO against the reward model; finished stages are kept
  python scripts/pipeline.py --init-from smollm2 --out-dir runs/smollm2       a real model (tens of minutes, gigabytes)
  python scripts/pipeline.py --short --out-dir runs/short      a small model and few steps, to see whether all works
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    add = parser.add_argument
    add("--out-dir", default="runs/pipeline", help="the folder for all stages, each in its own subfolder")
    text = f"start from this model instead of pretraining one: {command_line.SOURCES}"
    add("--init-from", default=None, metavar="MODEL", help=text)
    add("--ppo", action="store_true", help="also train the model against the reward model (PPO)")
    add("--short", action="store_true", help="a small model and few steps, to see whether everything works")
    command_line.add_kernels_and_device(parser)
    command_line.add_seed(parser)
    arguments = parser.parse_args(argv)
    device = command_line.set_up(arguments)
    config = PipelineConfig(arguments.init_from, arguments.out_dir, arguments.short, arguments.ppo, arguments.seed)
    return 0 if run_pipeline(config, device) else 130


if __name__ == "__main__":
    command_line.run(main)
