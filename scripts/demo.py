"""Train a GPT on short stories, from random weights to readable text, in one to three minutes on two cores."""

from __future__ import annotations

import contextlib
from pathlib import Path

from scripts.shared import command_line
from scripts.shared.next_steps import LET_IT_WRITE, show_next_steps

from gpt.training.checkpoint import CheckpointError, writing
from gpt.training.pretraining import PretrainingConfig, demo_config, pretrain
from gpt.training.run_folder import check_unused, replacing_run, settings_of


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "")
    parser.add_argument("--short", action="store_true", help="train a smaller model, in half a minute")
    parser.add_argument("--data", default="stories", help="stories, english (Python's documentation), or see train.py")
    parser.add_argument("--out-dir", default="runs/demo", help="the run's folder; an earlier demo there is replaced")
    command_line.add_kernels_and_device(parser)
    command_line.add_seed(parser)
    arguments = parser.parse_args(argv)
    device = command_line.set_up(arguments)
    with writing(arguments.out_dir):
        if not _is_demo(arguments.out_dir):
            check_unused(Path(arguments.out_dir), can_resume=False)
        with replacing_run(arguments.out_dir):
            run = pretrain(demo_config(arguments.short, arguments.out_dir, arguments.seed, data=arguments.data), device)
    return show_next_steps(run, "train", LET_IT_WRITE)


def _is_demo(out_dir: str) -> bool:
    """Whether the folder holds an earlier demo, which a new one may replace."""
    with contextlib.suppress(CheckpointError):
        return settings_of(PretrainingConfig, out_dir).made_by == "demo"
    return False


if __name__ == "__main__":
    command_line.run(main)
