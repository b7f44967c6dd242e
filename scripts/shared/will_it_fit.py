"""--will-it-fit: the memory and the time that a run needs, measured in its first steps."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpt.accounting import kv_cache_bytes
from gpt.console import show, silenced
from gpt.memory_check import machine_memory, peak_memory
from gpt.model.language_model import LanguageModel
from gpt.training.data_parallel import ALONE, Team
from gpt.training.run import Run, start
from gpt.training.run_state import length_setting
from gpt.training.training_step import Step

STEPS = 3  # of a run (of PPO and GRPO: iterations); the first is slower than all others
TOKENS = 8  # of a generated text


def try_run(train: Callable[[Run, Any], None], config: Any, device: str, team: Team = ALONE) -> None:
    """Make the first STEPS steps of a run, in a temporary folder, and print what the whole run needs."""
    part, name = length_setting(config)
    length = getattr(getattr(config, part), name)
    interval = config.training.eval_interval
    unit = "steps" if name == "max_iters" else "iterations"
    seconds: list[float] = []  # of each step, or iteration
    validations: list[tuple[float, float]] = []  # when each began and ended

    def begin(run: Run, settings: Any) -> None:
        record, record_validation, goes_on = run.record, run.record_validation, run.goes_on
        looked = 0.0  # when the loop began an iteration, perhaps with a validation

        def timed_goes_on() -> bool:
            nonlocal looked
            looked = time.perf_counter()
            return goes_on()

        def timed_record(steps: Sequence[Step], metrics: dict[str, float]) -> None:
            before = run.state.seconds
            record(steps, metrics)
            seconds.append(run.state.seconds - before)
            run.asked_to_stop |= len(seconds) == STEPS  # as by Ctrl-C

        def timed_validation(metrics: dict[str, float]) -> None:
            validations.append((looked, time.perf_counter()))
            record_validation(metrics)

        run.record, run.record_validation = timed_record, timed_validation  # type: ignore[method-assign]
        run.goes_on = timed_goes_on  # type: ignore[method-assign]
        train(run, settings)

    show(f"trying the first {min(STEPS, length)} of {length:,} {unit}, in a temporary folder")
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, silenced():
        start(begin, dataclasses.replace(config, out_dir=str(Path(folder) / "run")), device, team)
    if len(seconds) < min(STEPS, length):  # Ctrl-C
        raise KeyboardInterrupt
    preparing, validation = validations[0][0] - begun, validations[0][1] - validations[0][0]
    step = statistics.median(seconds[1:] or seconds)
    checks = 1 + (math.ceil(length / interval) if interval else 1)
    _show_memory(device, team=team)
    total = preparing + length * step + checks * validation
    parts = f"{_time(preparing)} before it, {length:,} {unit} of {_time(step)}, {checks} validations of"
    show(f"time: {_time(total)} ({parts} {_time(validation)}), and the final evaluation")


def try_generation(model: LanguageModel, prompt: Sequence[int], count: int, new_tokens: int, loading: float) -> None:
    """Let the model write TOKENS tokens after `count` copies of a prompt; print what all `new_tokens` need."""
    times = [time.perf_counter()]
    model.generate([list(prompt)] * count, max_new_tokens=TOKENS, on_token=lambda _: times.append(time.perf_counter()))
    first, *others = (after - before for before, after in itertools.pairwise(times))
    token = statistics.median(others or [first])
    config: Any = model.config
    tokens = min(len(prompt) + new_tokens, config.block_size)
    cache = kv_cache_bytes(config, count, tokens)
    device = next(model.parameters()).device
    _show_memory(device, f", and {_size(cache)} for keys and values of {count} x {tokens:,} tokens")
    parts = f"{_time(loading)} to load, {_time(first)} to read the prompt, {new_tokens:,} tokens of {_time(token)}"
    show(f"time: {_time(loading + first + token * max(new_tokens - 1, 0))} ({parts}; more as the text grows)")


def _show_memory(device: str, more: str = "", team: Team = ALONE) -> None:
    peak = peak_memory() + getattr(team, "more_memory", 0)
    there = machine_memory()
    used = (_size(peak) if peak else "(this system does not say)") + ("" if device == "cpu" else ", not the GPU's")
    show(f"memory: {used}{more}" + (f"; this machine has {_size(there)}" if there else ""))


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def _time(seconds: float) -> str:
    """12 ms, 7.6 s, 1.5 min, 2.0 h"""
    size, unit = next(row for row in ((3600, "h"), (60, "min"), (1, "s"), (0, "ms")) if seconds >= row[0])
    return f"{seconds / size:.1f} {unit}" if size else f"{seconds * 1e3:.0f} ms"
