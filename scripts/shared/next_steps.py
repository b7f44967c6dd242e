"""The next command to type: how to resume an interrupted run, and how to use a finished one."""

from __future__ import annotations

from gpt.console import quoted, show
from gpt.training.run import Run
from minigrad import switches
from minigrad.backend import resolve_device
from scripts.shared.command_line import from_here

LET_IT_WRITE = 'to generate text with it:\n  python scripts/generate.py --model {folder} --prompt "{its.sample_prompt}"'
TALK_TO_IT = "to chat with it:\n  python scripts/chat.py --model {folder}"


def show_next_steps(run: Run, script: str, advice: str, more: str = "") -> int:
    """Show how to resume the run of `script` if it was interrupted, else `advice` on what to do with it.

    {folder} in `advice` becomes the run's folder, {its.seed} its setting `seed`. more: options that the run does not
    keep. Returns the script's exit status.
    """
    folder = quoted(run.out_dir)
    if not run.interrupted:
        show(from_here(advice).format(folder=folder, its=run.config))
        return 0
    start, end = "", more + ("" if switches.kernels else " --kernels textbook")
    end += "" if run.device == resolve_device("auto") else f" --device {run.device}"
    if run.team.size > 1:
        start, end = f"mpiexec -n {run.team.size} ", f"{end} --data-parallel"
    show(f"\ninterrupted; the checkpoint is of step {run.saved_step}; to resume:")
    show(from_here(f"  {start}python scripts/{script}.py --init-from resume --out-dir {folder}{end}"))
    return 130
