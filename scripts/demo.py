"""Train a GPT on real English, from random numbers to text, in about three minutes on two cores."""

from __future__ import annotations

import shutil
from pathlib import Path

from gpt import command_line
from gpt.pretraining import PretrainingConfig, pretrain
from gpt.training import TrainingConfig


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "")
    parser.add_argument("--short", action="store_true", help="a smaller model for half a minute: does everything work?")
    parser.add_argument("--out-dir", default="runs/demo", help="the run's folder; an earlier demo in it is replaced")
    command_line.add_kernels(parser)
    command_line.add_device(parser)
    command_line.add_seed(parser)
    arguments = parser.parse_args(argv)
    device = command_line.set_up(arguments)
    _remove_earlier_demo(Path(arguments.out_dir))
    trainer = pretrain(_config(arguments.short, arguments.out_dir, arguments.seed), device)
    return 130 if trainer.interrupted else 0


def _config(short: bool, out_dir: str, seed: int) -> PretrainingConfig:
    steps = 100 if short else 700
    model = {"n_layer": 4, "n_head": 4, "n_embd": 128 if short else 256, "block_size": 128}
    training = TrainingConfig(
        max_iters=steps, learning_rate=2e-3, warmup_iters=steps // 10, eval_interval=steps // 5, sample_interval=steps // 10, log_interval=steps // 50
    )
    return PretrainingConfig("english", out_dir, vocab_size=1024, batch_size=12, seed=seed, model=model, training=training)


def _remove_earlier_demo(folder: Path) -> None:
    """Delete what a demo left, and nothing else."""
    if (folder / "trainer_state.json").exists():
        shutil.rmtree(folder)


if __name__ == "__main__":
    command_line.run(main)
