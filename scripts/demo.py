"""Train a GPT on real English, from random numbers to text, in about three minutes on two cores."""

from __future__ import annotations

from gpt import command_line
from gpt.checkpoint import has_checkpoint, load_state, remove_checkpoint
from gpt.pretraining import PretrainingConfig, pretrain, run_config
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
    _forget_earlier_demo(arguments.out_dir)
    trainer = pretrain(_config(arguments.short, arguments.out_dir, arguments.seed), device)
    return 130 if trainer.interrupted else 0


def _config(short: bool, out_dir: str, seed: int) -> PretrainingConfig:
    steps = 100 if short else 900
    training = TrainingConfig(
        max_iters=steps,
        learning_rate=3e-3,
        warmup_iters=steps // 10,
        eval_interval=steps // 10,
        sample_interval=steps // 10,
        log_interval=steps // 50,
    )
    model = {"n_layer": 4, "n_head": 4, "n_embd": 128 if short else 192, "block_size": 128}
    return PretrainingConfig(
        "english", out_dir, vocab_size=1024, batch_size=12, seed=seed, made_by="demo", model=model, training=training
    )


def _forget_earlier_demo(out_dir: str) -> None:
    """Make room for this demo where an earlier one was; any other run stays, and is reported by `pretrain`."""
    if has_checkpoint(out_dir) and run_config(load_state(out_dir), out_dir).made_by == "demo":
        remove_checkpoint(out_dir)


if __name__ == "__main__":
    command_line.run(main)
