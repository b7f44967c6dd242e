"""The whole pipeline: tokenizer, pretraining, instruction tuning, reward model, DPO, LoRA, 4 bits, and a final table.

About four minutes on two cores. Finished stages are kept: after Ctrl-C, the same command resumes. With --init-from,
the pipeline starts from a model that is already trained and skips pretraining.
"""

from __future__ import annotations

from scripts.shared import command_line
from scripts.shared.settings_options import add_settings, build

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
    text = f"start from this model instead of pretraining one: {command_line.SOURCES}"
    parser.add_argument("--init-from", default=None, metavar="MODEL", help=text)
    add_settings(parser, PipelineConfig)
    command_line.add_shared(parser, "kernels", "device", "seed")
    arguments = parser.parse_args(argv)
    device = command_line.set_up(arguments)
    return 0 if run_pipeline(build(PipelineConfig, vars(arguments)), device) else 130


if __name__ == "__main__":
    command_line.run(main)
