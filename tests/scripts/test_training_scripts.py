"""Every script that trains, in small: stopped by Ctrl-C it goes on to the same end; and with --device cuda, on the
stand-in for a GPU, it learns what the CPU learns."""

import importlib
import itertools
import re
import shutil
import signal
import sys

import pytest

from gpt.training import forked_team, pretraining
from gpt.training.checkpoint import load_state
from gpt.training.log import read_log
from minigrad.optim import AdamW
from scripts import evaluate, export, generate, train
from scripts.shared import stage_options
from tests.scripts.running import SMALL_RUN, assert_same_run, forge, log_without_times, output_of, refusal, run_here
from tests.scripts.runs import RUNS, run_on

pytestmark = pytest.mark.usefixtures("no_pictures", "reward_run")


@pytest.mark.parametrize("script", ["sft", "reward", "dpo", "ppo", "grpo", "lora", "classify", "train"])
def test_a_command_without_options_runs_what_its_settings_say(script, monkeypatch, tmp_path):
    class Started(Exception):
        """In place of the run."""

    def started(train, config, *_):
        made.append(config)
        raise Started

    monkeypatch.chdir(tmp_path)  # where there is no runs/demo, on whose text classify.py would measure
    made = []
    monkeypatch.setattr(stage_options, "start", started)
    monkeypatch.setattr(pretraining, "start", started)
    with pytest.raises(Started):
        importlib.import_module(f"scripts.{script}").main(["--kernels", "textbook"])
    shape = {"model": made[0].model} if script == "train" else {}
    assert made == [type(made[0])(**shape)]


STAGES = [name for name in RUNS if not name.startswith("train")]  # of train.py: test_train_script.py


def some_fast(names):
    """Runs of pretraining, SFT and GRPO are fast tests; the others are slow ones."""
    return [pytest.param(name, marks=() if name in ("train", "sft", "grpo") else pytest.mark.slow) for name in names]


@pytest.fixture
def ctrl_c(monkeypatch):
    """Presses Ctrl-C in the second step of an optimizer, once."""
    step = AdamW.step
    steps = itertools.count()

    def interrupted_step(optimizer):
        if next(steps) == 1:
            signal.raise_signal(signal.SIGINT)
        step(optimizer)

    monkeypatch.setattr(AdamW, "step", interrupted_step)


@pytest.mark.parametrize("name", STAGES)
def test_a_resumed_run_equals_one_that_never_stopped(name, given, finished, tmp_path, request, capsys):
    whole, _ = finished(name)
    end = load_state(whole)["step"]
    validated = [row["step"] for row in read_log(whole / "log.jsonl") if "val_loss" in row]
    assert validated == ([0, end // 2, end] if name != "ppo" else [])  # PPO scores replies and has no such loss
    request.getfixturevalue("ctrl_c")
    assert run_on("cpu", name, given, tmp_path / "run") == 130
    script = RUNS[name][0]
    output = capsys.readouterr().out
    said = f"python scripts/{script.__name__.split('.')[1]}.py --init-from resume --out-dir .* --kernels textbook\n"
    assert re.search(said, output)
    assert 2 <= load_state(tmp_path / "run")["step"] < end
    resume = ["--init-from", "resume", "--out-dir", tmp_path / "run", "--kernels", "textbook"]
    assert run_here(script.main, *resume) == 0
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("name", some_fast(RUNS))
def test_will_it_fit_tries_a_run_and_leaves_nothing_behind(name, given, tmp_path, capsys):
    assert run_on("cpu", name, given, tmp_path / "run", "--will-it-fit") == 0
    length, unit = ("2", "iterations") if name.startswith(("ppo", "grpo")) else (r"\d", "steps")
    spent = r"\d+(\.\d)? (s|ms)"
    time = rf"time: {spent} \({spent} before it, {length} {unit} of {spent}, [23] validations of {spent}\), and .*"
    memory = r"memory: .* [MG]B; this machine has .* GB"
    output = capsys.readouterr().out
    assert re.fullmatch(rf"trying the first [23] of .*\n{memory}\n{time}\n", output), output
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_a_trial_without_figures(given, tmp_path, capsys):
    assert run_on("cpu", "sft", given, tmp_path / "run", "--will-it-fit") == 130
    assert "memory" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train", "sft", "lora", "classify"])
def test_who_uses_a_run_before_it_has_ended_is_told(name, finished, tmp_path, capsys):
    folder = shutil.copytree(finished(name)[0], tmp_path / "run")
    output_of(export.main, folder, tmp_path / "ended")
    assert capsys.readouterr().err == ""
    forge(folder, ["state", "step"], 1)
    output_of(export.main, folder, tmp_path / "exported")
    way = f"resume it with --init-from resume --out-dir {folder}"
    assert capsys.readouterr().err == f"the run in {folder} has done step 1 of 4; {way}\n"


@pytest.mark.parametrize("name", some_fast(["train", *STAGES]))
def test_a_finished_run_is_trained_longer(name, finished, tmp_path, capsys):
    folder = shutil.copytree(finished(name)[0], tmp_path / "run")
    main = RUNS[name][0].main
    done = load_state(folder)["step"]
    option = "--total-iterations" if name.startswith(("ppo", "grpo")) else "--max-iters"
    resume = ["--init-from", "resume", "--out-dir", folder, "--kernels", "textbook"]
    output = output_of(main, *resume)
    assert "this run was finished already" in output and f"resume it with a larger {option}\n" in output
    less = f"1 is less than the run in {folder} has done: {done if option == '--max-iters' else 2}\n"
    assert less in refusal(main, capsys, *resume, option, "1")
    adapter = folder / "adapter" / "adapter_model.safetensors"
    before = adapter.read_bytes() if adapter.exists() else None
    length = 6 if option == "--max-iters" else 3
    output = output_of(main, *resume, option, length)
    assert "this is not the run that was planned with" in output and "finished already" not in output
    state = load_state(folder)
    assert state["step"] == state["planned_steps"] == done * 3 // 2
    assert before is None or adapter.read_bytes() != before
    for file in (folder / "vocab.json", min((folder / "data").iterdir())):
        content = file.read_bytes()
        for wrong in (content[::-1], None):
            file.unlink() if wrong is None else file.write_bytes(wrong)
            problem = "is missing" if wrong is None else "was truncated, altered or added since it was saved"
            assert f"{file.name} {problem}: put the old file back" in refusal(main, capsys, *resume)
        file.write_bytes(content)


@pytest.mark.parametrize("name", some_fast(name for name in RUNS if name not in ("lora, full", "lora, dropout")))
def test_a_run_is_what_it_is_on_the_cpu(name, given, finished, tmp_path, cuda):
    on_cpu = log_without_times(finished(name)[0])
    assert run_on("cuda", name, given, tmp_path) == 0
    assert len(on_cpu) > 1
    for one, other in zip(on_cpu, log_without_times(tmp_path), strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)


def test_a_model_trained_there_writes_and_is_judged_anywhere(given, tmp_path, cuda):
    assert run_on("cuda", "train", given, tmp_path / "run") == 0
    outputs = set()
    for device in ("cpu", "cuda"):
        common = ["--model", tmp_path / "run", "--device", device, "--kernels", "textbook"]
        text = output_of(generate.main, *common, "--prompt", "the cat", "--max-new-tokens", 8, "--seed", 1)
        outputs.add((text, output_of(evaluate.main, *common, "--data", given / "story.txt")))
    assert len(outputs) == 1


def test_without_a_gpu_the_reason_is_given(given, tmp_path, capsys):
    arguments = ["--data", given / "story.txt", "--out-dir", tmp_path, *SMALL_RUN, "--device", "cuda"]
    assert "device 'cuda' cannot be used: CuPy is " in refusal(train.main, capsys, *arguments)
    assert run_here(train.main, *arguments[:-1], "auto", "--max-iters", "1") == 0  # falls back without a word
    assert "cuda" not in capsys.readouterr().out.lower()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are only forked on Linux")
@pytest.mark.parametrize("name", ["train", "sft", "reward", "dpo", "classify"])
def test_several_processes_learn_what_one_does(name, given, tmp_path, monkeypatch):
    """Three processes deal five rows among them: two have two rows, and one has one."""
    folders = tmp_path / "run", tmp_path / "alone"
    monkeypatch.setattr(forked_team, "_why_alone", lambda device: None)  # the tests' own threads do no harm
    for folder, number in zip(folders, (3, 1)):
        assert run_on("cpu", name, given, folder, "--batch-size", 5, "--processes", number) == 0
    logs = [log_without_times(folder) for folder in folders]
    assert [load_state(folder)["processes"] for folder in folders] == [3, 1]
    assert len(logs[0]) == len(logs[1]) > 4
    for row, expected in zip(*logs):
        if row.get("rewards/margins") == pytest.approx(0, abs=1e-6):  # before the first step; rounding decides a tie
            expected["rewards/accuracies"] = row["rewards/accuracies"]
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)
