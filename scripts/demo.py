"""Train a GPT on short stories, from random weights to readable text, in one to three minutes on two cores."""

from start import command_line

from gpt.training.checkpoint import has_checkpoint
from gpt.training.forked_team import team_of
from gpt.training.pretraining import PretrainingConfig, pretrain
from gpt.training.run_folder import check_unused, replacing_run
from gpt.training.run_state import settings_of
from gpt.training.training_config import TrainingConfig
from scripts.shared.stage_options import LET_IT_WRITE, show_next_steps


def main(argv: list[str] | None = None) -> int:
    """Pretrain the model of `demo_config`, and show what to do with it."""
    arguments = options().parse_args(argv)
    device = command_line.set_up(arguments)
    folder = arguments.out_dir
    refuse_other_files(folder)
    with replacing_run(folder):
        config = demo_config(arguments.short, folder, arguments.seed, arguments.data)
        team = team_of(arguments.processes, config.batch_size, device)
        run = pretrain(config, device, team=team)
    return show_next_steps(run, "train", LET_IT_WRITE)  # train.py resumes an interrupted demo


def demo_config(short: bool, out_dir: str, seed: int, data: str = "stories") -> PretrainingConfig:
    """A model that learns to write; `short`: a smaller one, with fewer steps."""
    steps = 100 if short else 800
    training = TrainingConfig(
        max_iters=steps,
        optimizer="muon",  # lesson 455 compares these three settings with others
        momentum=0.85,
        learning_rate=1e-2,
        warmup_iters=steps // 10,
        eval_interval=steps // 10,
        sample_interval=steps // 10,
        log_interval=steps // 50,
    )
    model = {"n_layer": 4, "n_head": 4, "n_embd": 128 if short else 192, "block_size": 128}
    prompt, length = ("Once upon a time", 110) if data == "stories" else ("The", 80)
    return PretrainingConfig(
        data=data,
        out_dir=out_dir,
        batch_size=12,
        seed=seed,
        sample_prompt=prompt,
        sample_tokens=length,
        made_by="demo",
        model=model,
        training=training,
    )


def options() -> command_line.Parser:
    parser = command_line.parser(__doc__)
    parser.add_argument("--short", action="store_true", help="train a smaller model, in half a minute")
    parser.add_argument("--data", default="stories", help="stories, english (Python's documentation), or see train.py")
    parser.add_argument("--out-dir", default="runs/demo", help="the run's folder; an earlier demo there is replaced")
    command_line.add_shared(parser, "processes", "kernels", "device", "seed")
    return parser


def refuse_other_files(folder: str) -> None:
    """Raise an error if the folder holds anything but an earlier demo, which the new one replaces."""
    is_demo = has_checkpoint(folder) and settings_of(PretrainingConfig, folder).made_by == "demo"
    if not is_demo:
        check_unused(folder, can_resume=False)


if __name__ == "__main__":
    command_line.run(main)
