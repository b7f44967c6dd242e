"""--will-it-fit: the memory and the time that a run needs, measured in its first steps."""

import dataclasses
import itertools
import math
import signal
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
from gpt.training.run import Run
from gpt.training.run_state import length_setting
from minigrad import manual_seed

STEPS = 3  # of a run (of PPO and GRPO: iterations); the first is slower than all others
TOKENS = 8  # of a generated text


class Trial(Run):
    """A run that ends after STEPS iterations, as by Ctrl-C. It notes the time when each begins, and at the end."""

    def __init__(self, config: Any, device: str, team: Team):
        super().__init__(config, device, team)
        self.began: list[float] = []
        self.spent: list[float] = []  # the seconds of training until then

    def goes_on(self) -> bool:
        self.began.append(time.perf_counter())
        self.spent.append(self.state.seconds)
        if len(self.began) > STEPS:
            self.ask_to_stop(signal.SIGINT)
        return super().goes_on()


def try_run(train: Callable[[Run, Any], None], config: Any, device: str, team: Team = ALONE) -> None:
    """Make the first STEPS steps of a run, in a temporary folder, and print what the whole run needs."""
    part, name = length_setting(config)
    length = getattr(getattr(config, part), name)
    unit = "steps" if name == "max_iters" else "iterations"
    show(f"trying the first {min(STEPS, length)} of {length:,} {unit}, in a temporary folder")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, silenced():
        manual_seed(config.seed)
        run = Trial(dataclasses.replace(config, out_dir=str(Path(folder) / "run")), device, team)
        with run.lock:
            train(run, run.config)
    steps = _differences(run.spent)
    if len(steps) < min(STEPS, length):  # Ctrl-C
        raise KeyboardInterrupt
    preparing = run.began[0] - start
    validation = run.began[1] - run.began[0] - steps[0]  # the first iteration begins with it
    step = statistics.median(steps[1:] or steps)
    interval = config.training.eval_interval
    checks = 1 + (math.ceil(length / interval) if interval else 1)
    _show_memory(device, team=team)
    total = preparing + length * step + checks * validation
    parts = f"{_time(preparing)} before it, {length:,} {unit} of {_time(step)}, {checks} validations of"
    show(f"time: {_time(total)} ({parts} {_time(validation)}), and the final evaluation")


def try_generation(model: LanguageModel, prompt: Sequence[int], count: int, new_tokens: int, loading: float) -> None:
    """Let the model write TOKENS tokens after `count` copies of a prompt; print what all `new_tokens` need."""
    times = [time.perf_counter()]
    model.generate([list(prompt)] * count, max_new_tokens=TOKENS, on_token=lambda _: times.append(time.perf_counter()))
    first, *others = _differences(times)
    token = statistics.median(others or [first])
    config: Any = model.config
    tokens = min(len(prompt) + new_tokens, config.block_size)
    cache = kv_cache_bytes(config, count, tokens)
    device = next(model.parameters()).device
    _show_memory(device, f", and {_size(cache)} for keys and values of {count} x {tokens:,} tokens")
    parts = f"{_time(loading)} to load, {_time(first)} to read the prompt, {new_tokens:,} tokens of {_time(token)}"
    show(f"time: {_time(loading + first + token * max(new_tokens - 1, 0))} ({parts}; more as the text grows)")


def _differences(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


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
