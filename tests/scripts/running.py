"""Running the scripts: as a process, as a user does, or in this one, which is quicker."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt import GPT, GPTConfig, Tokenizer
from gpt.training import checkpoint
from gpt.training.checkpoint import load_state
from gpt.training.log import read_log
from minigrad import manual_seed
from scripts.shared import command_line
from tests.gpt.small import checkpoint_of, save_model
from tests.helpers import read_json, write_json

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"n-layer": 1, "n-head": 2, "n-embd": 16, "block-size": 16, "vocab-size": 270, "batch-size": 4}
RHYTHM = {"eval-interval": 4, "sample-interval": 5, "log-interval": 2, "warmup-iters": 3}
SMALL_RUN = [part for name, value in {**SMALL, **RHYTHM}.items() for part in (f"--{name}", str(value))]
STORY = "the cat sat on a mat while it rained and two dogs ran past an old red barn"


def write_text(path, words=6000):
    """A text of few words, the same each time."""
    known = STORY.split()
    chosen = [known[i * i * 7 // 3 % len(known)] + (".\n" if i % 9 == 8 else "") for i in range(words)]
    path.write_text(" ".join(chosen), encoding="utf-8")
    return str(path)


def write_model(folder, text=STORY, vocab_size=280, special_tokens=("<|endoftext|>",), scale=1, **shape):
    """A run's folder with a small GPT and its tokenizer. scale: of its weights: the larger, the surer it is."""
    tokenizer = Tokenizer.train(text, vocab_size, special_tokens)
    manual_seed(0)
    model = GPT(GPTConfig(len(tokenizer), **{"block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 16, **shape}))
    for parameter in model.parameters():
        parameter.data *= scale
    return save_model(folder, model, tokenizer)


def command(script, *arguments):
    return [sys.executable, f"scripts/{script}.py", *map(str, arguments)]


def environment(**variables):
    """Ours, but for the warnings about encodings, of which libraries print some, too."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONWARNDEFAULTENCODING"} | variables


def run_process(script, *arguments, encoding="utf-8", input=None, **variables):
    how = {"env": environment(**variables), "encoding": encoding, "input": input, "capture_output": True}
    return subprocess.run(command(script, *arguments), cwd=ROOT, **how)


def run_here(main, *arguments):
    """Run a script's `main` as its process would, and return the exit status."""
    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(SystemExit) as caught:
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
        command_line.run(main)
    return caught.value.code


def output_of(main, *arguments):
    """What a script prints that succeeds, run in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert run_here(main, *arguments) == 0
    return output.getvalue()


def refusal(main, capsys, *arguments):
    """The sentence with which a script refuses its arguments; anything more than a sentence is a failure."""
    capsys.readouterr()
    code = run_here(main, *arguments)
    error = capsys.readouterr().err
    assert code in (1, 2) and error.count("\n") == 1 and "Traceback" not in error, error
    return error


def assert_says(output, *parts):
    """The parts are in the output in this order. One text may hold several, with " ... " between them."""
    place = 0
    for part in " ... ".join(parts).split(" ... "):
        assert part in output[place:], part
        place = output.index(part, place) + len(part)


def log_without_times(folder):
    """The rows of a run's log, but for how long the steps took."""
    rows = read_log(folder / "log.jsonl")
    return [{k: v for k, v in row.items() if k != "ms" and not k.endswith("_per_second")} for row in rows]


@contextlib.contextmanager
def held_elsewhere(folder):
    """In the block, another process, which is then killed, holds the lock of a folder."""
    code = "import sys, time; from gpt.training.folder_lock import locked\n"
    code += "with locked(sys.argv[1]): print('locked', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().strip() == b"locked"
        try:
            yield process
        finally:
            process.kill()


def forge(folder, path, wrong):
    """Put `wrong` in a place of a checkpoint's record, and make the record say that this is right."""
    place = checkpoint_of(folder) / checkpoint.STATE
    part = record = read_json(place)
    *way, last = path
    for key in way:
        part = part[key]
    part[last] = wrong
    write_record(place, record)


def write_record(path, record):
    """Write the record of a checkpoint with the SHA-256 that it then has."""
    record.pop("sha256", None)
    write_json(path, {"sha256": checkpoint._sha256_of_record(record), **record})


def assert_same_run(folder, other):
    """The same weights, moments, state and log, but for times and places."""
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (checkpoint_of(folder) / name).read_bytes() == (checkpoint_of(other) / name).read_bytes(), name
    states = [load_state(path) for path in (folder, other)]
    for state in states:
        del state["seconds"], state["settings"]["out_dir"]
    assert states[0] == states[1]
    assert log_without_times(folder) == log_without_times(other)
