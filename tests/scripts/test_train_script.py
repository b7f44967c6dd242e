"""scripts/train.py as its users meet it."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from gpt import Llama, Tokenizer, load_checkpoint
from gpt.training import checkpoint
from gpt.training.checkpoint import has_checkpoint
from gpt.training.log import read_log
from gpt.training.run_state import LEAST_EVALUATED
from scripts import generate, pipeline, sft, train
from scripts.shared import command_line
from tests.gpt.small import files_of
from tests.scripts.running import (
    ROOT,
    SMALL_RUN,
    assert_same_run,
    assert_says,
    command,
    environment,
    held_elsewhere,
    output_of,
    refusal,
    run_here,
    run_process,
    write_text,
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "story.txt")


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """The folder of a finished run of 12 steps, with dropout and accumulation, and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = run_process("train", *options(text, folder), PYTHONWARNDEFAULTENCODING="1")
    ours = [line for line in done.stderr.splitlines() if line.startswith(f"{ROOT}") and "site-packages" not in line]
    assert done.returncode == 0 and not ours, done.stderr  # no EncodingWarning from our files
    return folder, done.stdout


def options(text, folder, *more, max_iters=12):
    random = ["--dropout", "0.1", "--gradient-accumulation-steps", "2"]
    return ["--data", text, "--out-dir", str(folder), *SMALL_RUN, *random, "--max-iters", str(max_iters), *more]


def started(text, folder, *more):
    """A process that trains, and that we can stop. What it prints is read as bytes."""
    arguments = command("train", *options(text, folder, *more))
    return subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_does_and_leaves_its_files(finished):
    folder, output = finished
    assert_says(
        output,
        "story.txt: ... SHA-256 ... tokenizer: 270 tokens learned ... tokens to learn from",
        "model: 7,888 parameters (1 layers, 2 heads, 16 wide, 16 tokens of context)",
        "grad norm  length of the gradient ... 5.60  knowing nothing ... 0 | validation loss 5. ... 1/12 | loss  5.",
        "writes | The ... 12/12 | loss ... trained 12 steps, 1,536 tokens",
        f"python scripts/generate.py --model {folder.as_posix()}",
    )
    assert "\ufffd" not in output.encode("ascii", "replace").decode() and "\n\n\n" not in output
    names = {"checkpoint-4/state.json", "log.jsonl", "vocab.json", "merges.txt", "data/train.bin", "data/val.bin"}
    assert names <= files_of(folder).keys()
    assert [row["step"] for row in read_log(folder / "log.jsonl")] == [0, 1, 2, 4, 4, 6, 8, 8, 10, 12, 12]
    assert read_log(folder / "log.jsonl")[0].keys() == {"step", "val_loss", "perplexity", "bits_per_byte"}
    assert len(Tokenizer.load(folder)) == load_checkpoint(folder).model.config.vocab_size == 270


def test_textbook_kernels_and_bfloat16_and_another_seed(finished, text, tmp_path):
    losses = [read_log(finished[0] / "log.jsonl")[-1]["val_loss"]]
    for more in (["--kernels", "textbook"], ["--precision", "bfloat16"], ["--seed", "1"]):
        assert run_here(train.main, *options(text, tmp_path / more[1], *more)) == 0
        losses.append(read_log(tmp_path / more[1] / "log.jsonl")[-1]["val_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and 0 < abs(losses[0] - losses[2]) < 0.05
    assert abs(losses[0] - losses[3]) > 1e-4
    assert next(load_checkpoint(tmp_path / "bfloat16").model.parameters()).dtype == "float32"


def test_a_new_llama(text, tmp_path, capsys):
    start = ["--data", text, *SMALL_RUN, "--architecture", "llama", "--optimizer", "muon"]
    assert run_here(train.main, *start, "--max-iters", "4", "--out-dir", tmp_path / "run") == 0
    resume = ["--init-from", "resume", "--out-dir", tmp_path / "run", "--max-iters", "8"]
    assert run_here(train.main, *resume, "--architecture", "llama", "--n-kv-head", "2") == 0  # no contradiction
    llama = load_checkpoint(tmp_path / "run").model
    assert type(llama) is Llama and (llama.config.n_kv_head, llama.config.n_inner) == (2, 64)
    losses = [row["val_loss"] for row in read_log(tmp_path / "run" / "log.jsonl") if "val_loss" in row]
    assert losses[-1] < losses[0]
    one = [*start, "--max-iters", "1", "--n-kv-head", "1", "--out-dir", tmp_path / "one"]
    assert ", 2 heads that share 1 of keys and values, 16 wide" in output_of(train.main, *one)
    assert load_checkpoint(tmp_path / "one").model.config.n_kv_head == 1
    others = ["--data", text, "--out-dir", tmp_path / "other"]
    for arguments, words in {
        "--architecture llama --dropout 0.1": "--dropout does not go with --architecture llama",
        "--n-kv-head 2": "--n-kv-head does not go with --architecture gpt",
        "--architecture llama --n-kv-head 3": "4 query heads cannot share 3 heads of keys and values",
        f"--architecture gpt --init-from {tmp_path / 'run'}": "--architecture is for a new model",
    }.items():
        assert words in refusal(train.main, capsys, *others, *arguments.split())
    error = refusal(train.main, capsys, *resume, "--architecture", "gpt")
    assert "has architecture llama, not gpt" in error and error.endswith("to change them, start a new run\n")
    assert not (tmp_path / "other").exists()


# --- stopping and going on --------------------------------------------------------------------------------------------


LONG = ["--max-iters", "100", "--eval-interval", "10", "--sample-interval", "50", "--processes", "1"]


@pytest.fixture(scope="module")
def long_run(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("long") / "run"
    assert run_here(train.main, *options(text, folder, *LONG)) == 0
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    "name", ["SIGINT", "SIGKILL", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGTERM", "SIGHUP"))]
)
def test_a_stopped_run_goes_on_bit_by_bit(name, text, tmp_path, long_run):
    number = getattr(signal, name)
    for attempt in range(5):  # the machine may be so slow that it is finished before we stop it
        folder = tmp_path / str(attempt)
        running = started(text, folder, *LONG)
        for line in running.stdout:
            if b" 22/" in line:
                break
        running.send_signal(number)
        output, error = running.communicate()
        if running.returncode != 0:
            break
    assert b"Traceback" not in error
    stopped_at = checkpoint.load_state(folder)["step"]
    assert 20 <= stopped_at < 100
    if name != "SIGKILL":
        assert running.returncode == 128 + number and f"the checkpoint is from step {stopped_at};".encode() in output
        assert f"--init-from resume --out-dir {folder.as_posix()}".encode() in output
    assert run_here(train.main, "--init-from", "resume", "--out-dir", folder) == 0
    assert_same_run(folder, long_run)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_a_terminal_that_is_closed_prevents_no_checkpoint(text, tmp_path):
    ours, theirs = os.openpty()
    arguments = command("train", *options(text, tmp_path / "run", *LONG, "--max-iters", "100000"))
    running = subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b" 22/" not in seen:
        seen += os.read(ours, 1000)
    running.send_signal(signal.SIGHUP)
    os.close(ours)
    assert running.wait() == 128 + signal.SIGHUP and checkpoint.load_state(tmp_path / "run")["step"] >= 22


def test_resume_refuses_what_contradicts_the_run(finished, capsys):
    folder, _ = finished
    before = files_of(folder)
    resume = ["--init-from", "resume", "--out-dir", folder]
    words = {
        "--n-layer 3": "n_layer 1, not 3: a resumed run keeps its settings",
        "--max-iters 50 --batch-size 3": "batch_size 4, not 3",
        "--data other.txt": "data ",
        "--learning-rate 0.5": "learning_rate 0.001, not 0.5",
    }
    for arguments, expected in words.items():
        assert expected in refusal(train.main, capsys, *resume, *arguments.split())
    assert run_here(train.main, *resume, "--n-layer", "1") == 0  # no contradiction
    after = files_of(folder)
    assert {name for name in after if after[name] != before[name]} <= {"loss.png"}


def test_a_model_is_not_used_with_an_edited_tokenizer(finished, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    vocabulary = folder / "vocab.json"
    vocabulary.write_bytes(re.sub(b": ([56]),", lambda id: b": %d," % (11 - int(id[1])), vocabulary.read_bytes()))
    assert "vocab.json was truncated, altered" in refusal(generate.main, capsys, "--model", folder)


def test_hidden_files_in_the_data_folder_are_not_the_runs(finished, tmp_path):
    """macOS leaves a .DS_Store in every folder that somebody looks at."""
    folder = shutil.copytree(finished[0], tmp_path / "run")
    (folder / "data" / ".DS_Store").write_bytes(b"where the icons are")
    assert run_here(train.main, "--init-from", "resume", "--out-dir", folder) == 0


# --- one run per folder -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_writers_where_a_run_is_running_are_refused(finished, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    before = files_of(folder)
    with held_elsewhere(folder):
        for main, arguments, words in (
            (train.main, ["--init-from", "resume"], "is being written by process"),
            (sft.main, ["--init-from", finished[0]], "holds a run already"),
            (pipeline.main, ["--short"], "is being written by process"),
        ):
            assert f"{folder} {words}" in refusal(main, capsys, *arguments, "--out-dir", folder), main
        assert {name: content for name, content in files_of(folder).items() if name != ".lock"} == before
        assert run_here(generate.main, "--model", folder, "--max-new-tokens", "2") == 0


# --- nothing is overwritten -------------------------------------------------------------------------------------------


def test_nothing_is_overwritten(finished, text, tmp_path, capsys):
    run = finished[0]
    model = tmp_path / "model"
    file = tmp_path / "file"
    model.mkdir()
    for path in (model / "config.json", file):
        path.write_bytes(b"precious")
    before = files_of(run), files_of(tmp_path)
    for folder, init, words in (
        (run, "scratch", "holds a run already: continue with --init-from resume"),
        (model, "scratch", "holds files that are not of a run"),
        (file, "scratch", ""),
    ):
        assert words in refusal(train.main, capsys, *options(text, folder, "--init-from", init))
    assert (files_of(run), files_of(tmp_path)) == before


def test_a_run_that_could_not_start_may_be_tried_again(text, tmp_path, capsys):
    error = refusal(train.main, capsys, *options(text, tmp_path, "--block-size", "100000"))
    assert "are too few for block_size 100,000" in error and not has_checkpoint(tmp_path)
    assert run_here(train.main, *options(text, tmp_path, max_iters=1)) == 0


# --- from another run -------------------------------------------------------------------------------------------------


def test_the_weights_of_another_run(finished, text, tmp_path, capsys):
    source, _ = finished
    before = files_of(source)
    options = ["--data", text, "--init-from", source, "--batch-size", "4", "--max-iters", "2"]
    assert run_here(train.main, *options, "--out-dir", tmp_path / "new", "--n-layer", "1") == 0
    assert f"starting from the weights in {source}" in capsys.readouterr().out
    first, last = read_log(tmp_path / "new" / "log.jsonl")[0], read_log(source / "log.jsonl")[-1]
    assert first["val_loss"] == last["val_loss"]
    assert (tmp_path / "new" / "vocab.json").read_bytes() == (source / "vocab.json").read_bytes()
    assert run_here(train.main, "--init-from", "resume", "--out-dir", tmp_path / "new") == 0
    for shape, words in {"--n-layer 4": "n_layer 1", "--vocab-size 300": "vocab_size 270"}.items():
        error = refusal(train.main, capsys, *options, "--out-dir", tmp_path / "other", *shape.split())
        assert f"has {words}; it cannot be made" in error
    assert not (tmp_path / "other").exists() and files_of(source) == before


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_that_diverges_keeps_its_last_good_checkpoint(text, tmp_path, capsys):
    error = refusal(train.main, capsys, *options(text, tmp_path, "--learning-rate", "1e30", "--grad-clip", "0"))
    assert "the validation loss is not finite: perhaps the learning rate of 1e+30 is too high" in error
    assert "the last good checkpoint, of step 0" in error and checkpoint.load_state(tmp_path)["step"] == 0


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    def main(argv):
        raise KeyError("x")

    with pytest.raises(KeyError):
        command_line.run(main)


# Ctrl-C where Python cannot raise it: as in the callbacks that clean up after an import.
LOST = """
class Broken:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
Broken()
from scripts.shared import command_line
command_line.run(lambda argv: print("not reached", file=sys.stderr))"""


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("threading._register_atexit(signal.raise_signal, signal.SIGINT)", 130, "^\ninterrupted\n$"),  # at the end
        (LOST, 130, "^\ninterrupted\n$"),
        ("raise KeyError('x')", 1, "^Traceback .*KeyError: 'x'\n$"),
        ("threading._register_atexit(int, 'x')", 0, "Traceback .*ValueError: invalid literal"),
        ("raise ValueError", 1, "^somebody's own hook$"),
    ],
)
def test_ctrl_c_is_no_traceback_around_a_script(code, status, error):
    hook = 'sys.excepthook = lambda *error: print("somebody\'s own hook", file=sys.stderr)' if "own" in error else ""
    code = f"import sys\n{hook}\n__file__ = 'scripts/some.py'\nimport scripts, start, signal, threading\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == status and re.search(error, done.stderr, re.DOTALL)


def test_what_only_imports_from_the_scripts_keeps_its_own_ways():
    """A lost Ctrl-C must not end a notebook's process."""
    hooks = "(sys.excepthook, sys.unraisablehook)"
    code = f"import sys\nbefore = {hooks}\nimport scripts, start\nsys.exit({hooks} != before)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_ctrl_c_is_no_traceback_while_packages_load():
    code = """import runpy, signal, sys
class CtrlC:
    @staticmethod
    def find_spec(name, *_):
        if name == "gpt":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, CtrlC)
sys.path.insert(0, "scripts")
runpy.run_path("scripts/train.py", run_name="__main__")"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")


def test_a_short_run_evaluates_a_part_of_a_long_held_out_text(tmp_path, capsys):
    assert run_here(train.main, *options(write_text(tmp_path / "long.txt", 12_000), tmp_path / "run", max_iters=1)) == 0
    tokens = LEAST_EVALUATED * int(SMALL_RUN[SMALL_RUN.index("--block-size") + 1]) + 1
    assert f" {tokens:,} to test on, all of them at each evaluation" in capsys.readouterr().out
