"""What a checkpoint says of a run beside the weights, and how a run goes on from it as if it had never stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from typing import Any

import numpy as np

from minigrad import Tensor, backend, switches
from minigrad.backend import to_numpy

from ..console import show
from ..files import StrPath, errors_at
from .checkpoint import Checkpoint, CheckpointError, check_inputs, load_state
from .data_parallel import Team
from .run_folder import length_setting


def state_of(run: Any) -> dict[str, Any]:
    """Everything except the weights and the optimizer's state, JSON-able."""
    extra = {**run.extra, "run": dataclasses.asdict(run.config)}
    if hasattr(run.config, "stage"):
        extra["stage"] = run.config.stage
    for name, part in run.parts.items():
        extra[name] = {key: to_numpy(array).tolist() for key, array in part.state_dict().items()}
    return {
        "step": run.steps_done,
        "validated_step": run.validated_step,
        "last_validation": run.last_validation,
        "count": run.count,
        "skipped_in_a_row": run.skipped_in_a_row,
        "seconds": run.seconds,
        "schedule": run.schedule.state_dict(),
        "random": backend.random_state(),
        "batches": run.batches.state_dict(),
        "arithmetic": run.arithmetic,
        "training": dataclasses.asdict(run.training),
        "inputs": run.inputs,
        "extra": extra,
    }


def saved_extra(out_dir: StrPath) -> tuple[dict[str, Any], dict[str, str]]:
    """A run's `extra`, and the SHA-256 of its tokenizer and data. Raises CheckpointError if these have changed."""
    state = load_state(out_dir)
    extra = {name: value for name, value in state["extra"].items() if name not in ("stage", "run")}
    return extra, check_inputs(out_dir, state)


def continue_from(run: Any, checkpoint: Checkpoint) -> tuple[Any, ...]:
    """Continue from a checkpoint whose weights the model already has. Returns what is saved of the run's progress.

    Shows a warning if the rest of the run will not be bit-exact. Raises CheckpointError for another run's state,
    ValueError for a run that has done more steps than it should have.
    """
    state, total = checkpoint.state, run.training.max_iters
    if checkpoint.optimizer_state is None:
        raise CheckpointError(f"the checkpoint in {run.out_dir} holds weights only: it cannot be resumed")
    with errors_in_state(run):
        run.optimizer.load_state_dict(checkpoint.optimizer_state)
        run.schedule.load_state_dict(state["schedule"])
        backend.set_random_state(state["random"])
        for name, part in run.parts.items():
            arrays = {key: np.array(rows, part.state_dict()[key].dtype) for key, rows in state["extra"][name].items()}
            part.load_state_dict(arrays)
        run.steps_done = done = int(state["step"])
        run.count, run.skipped_in_a_row = int(state["count"]), int(state["skipped_in_a_row"])
        run.seconds, run.stream_state = float(state["seconds"]), state["batches"]
        planned = int(state["training"]["max_iters"])
        if not 0 <= done <= planned:
            raise ValueError(f"it is at step {done} of {planned}")
        then, now = state["arithmetic"], run.arithmetic
        changed = [f"{name} {then.get(name)} -> {value}" for name, value in now.items() if then.get(name) != value]
        run.validated_step, run.last_validation = state["validated_step"], state["last_validation"]
    saved = (done, run.validated_step, json.dumps(run.extra))
    if done == total < planned:  # a run that now ends here, sooner than planned, is validated once more
        run.validated_step = None
    run.saved_step = run.resumed_at = done
    _say_where_it_goes_on(run, planned, changed)
    run.log.rewind(done)
    return saved


def continue_stream(run: Any, stream: Any) -> None:
    """Let a stream of batches go on where the run's checkpoint was saved. Raises CheckpointError."""
    with errors_in_state(run):
        stream.load_state_dict(run.stream_state)


def errors_in_state(run: Any) -> contextlib.AbstractContextManager[None]:
    """In the block, errors become a CheckpointError."""
    caught = (KeyError, TypeError, ValueError, OverflowError, AttributeError)
    return errors_at(f"the checkpoint in {run.out_dir} is not of a run like this", CheckpointError, caught)


def _say_where_it_goes_on(run: Any, planned: int, changed: list[str]) -> None:
    """Show where the run goes on, and how it will differ from one that never stopped. planned: its steps until now.

    Raises ValueError if it has done more steps than it should have.
    """
    done, total, (part, option) = run.steps_done, run.training.max_iters, length_setting(run.config)
    length = getattr(getattr(run.config, part), option)  # in steps, or iterations of PPO and GRPO
    unit = total // length  # steps: 1, or those of an iteration
    if done > total:
        has_done = math.ceil(done / unit)
        raise ValueError(f"{option} {length:,} is less than the run in {run.out_dir} has done: {has_done:,}")
    warning = (
        f"; changed since the run was saved: {', '.join(changed)}; sums are taken in another order, so the run "
        "will equal an uninterrupted one up to rounding, but not bit for bit"
    )
    show(f"resuming {run.out_dir} at step {done}{warning if changed else ''}")
    if done < total and total != planned:
        show(
            f"this is not the run that was planned with {option} {length:,} from the start: its learning rate has "
            f"followed the schedule of {planned // unit:,}; from step {done:,} on it follows that of {length:,}"
        )


def arithmetic(parameter: Tensor, team: Team) -> dict[str, Any]:
    """The versions and settings that decide the last bits of a sum, apart from the processor."""
    kernels = switches.kernels if parameter.device == "cpu" else switches.cuda_kernels()
    return {
        "cores": backend.usable_cores(),
        **({} if kernels else {"threads": backend.blas_threads()}),  # fast kernels change it as they go
        "kernels": ", ".join(sorted(op.__name__ for op in kernels)) or "textbook",
        "device": parameter.device,
        "NumPy": np.__version__,
        "processes": team.processes,
    }
