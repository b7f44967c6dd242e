"""scripts/generate.py as its users meet it."""

import json
import re
import subprocess
import sys

import pytest

from gpt import memory_check
from gpt.training.loading import load_model
from scripts import generate
from tests.scripts.running import ROOT, STORY, command, environment, output_of, refusal, run_process, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model that has learned nothing and writes all kinds of bytes."""
    return write_model(tmp_path_factory.mktemp("model"), STORY + " кот 猫")


def written(model, *arguments):
    return output_of(generate.main, "--model", model, *arguments)


def test_it_continues_the_prompt(model):
    text = written(model, "--prompt", "the cat", "--max-new-tokens", 30, "--seed", 1)
    assert text.startswith("the cat") and len(text) > 20 and text.endswith("\n")
    assert written(model, "--prompt", "кот 猫", "--max-new-tokens", 0) == "кот 猫\n"


def test_the_seed_decides_and_without_one_every_text_is_new(model):
    first, again = (written(model, "--seed", 1) for _ in range(2))
    other, new, newer = (written(model, *seed) for seed in (["--seed", 2], [], []))
    assert first == again and len({first, other, new, newer}) == 4


def test_will_it_fit_writes_no_text(model):
    output = written(model, "--will-it-fit", "--num-samples", 3, "--max-new-tokens", 5)
    size, spent = r"[\d.]+ [MG]B", r"[\d.]+ m?s"
    memory = rf"memory: {size}, and {size} for keys and values of 3 x 16 tokens; this machine has {size}"
    parts = rf"{spent} to load, {spent} to read the prompt, 5 tokens of {spent}; more as the text grows"
    assert re.fullmatch(rf"{memory}\ntime: {spent} \({parts}\)\n", output), output


def test_a_model_that_does_not_fit_is_not_loaded(model, tmp_path, monkeypatch, capsys):
    load_model(model)[0].save_pretrained(tmp_path)
    monkeypatch.setattr(memory_check, "machine_memory", lambda: 10_000)
    error = refusal(generate.main, capsys, "--model", tmp_path)
    assert f"the model in {tmp_path} needs at least 0 GB of memory, and this machine has 0 GB" in error


def test_several_samples_the_first_of_which_is_the_single_one(model):
    single = written(model, "--seed", 3, "--max-new-tokens", 9)
    several = written(model, "--seed", 3, "--max-new-tokens", 9, "--num-samples", 3)
    parts = several.split("--- ")
    assert len(parts) == 4 and parts[1] == f"1 ---\n{single}" and parts[1][5:] != parts[2][5:]


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_guesses_change_nothing_but_the_time(model, temperature):
    options = ["--max-new-tokens", 40, "--seed", 1, "--temperature", temperature, "--prompt", "the cat the cat the cat"]
    for guesser in [["--speculate"], *([["--draft", model]] if temperature == 0 else [])]:
        text, passes = written(model, *options, *guesser).rsplit("(", 1)
        assert text == written(model, *options) and passes.startswith("40 tokens in ")


def test_the_answer_has_the_form_that_was_asked_for(model):
    assert written(model, "--prompt", "cat", "--one-of", "yes", "no") in ("catyes\n", "catno\n")
    text = written(model, "--prompt", "{", "--json", "the cat:string", "age:number", "--temperature", 1.5, "--top-p", 1)
    assert [*json.loads(text[1:])] == ["the cat", "age"]


def test_control_characters_never_reach_the_terminal(model):
    for more in ([], ["--num-samples", 2]):
        text = written(model, "--max-new-tokens", 600, "--seed", 0, "--temperature", 5, "--top-p", 1, *more)
        assert "\ufffd" in text and "\x1b" not in text and "\x07" not in text and "\r" not in text


def test_as_a_process_in_a_terminal_that_knows_few_characters(model):
    options = ["--model", model, "--prompt", "кот", "--seed", 1]
    done = run_process("generate", *options, encoding=None, PYTHONIOENCODING="cp1252")
    assert done.returncode == 0 and done.stdout.startswith(b"???")
    assert re.fullmatch(rb"model: .*, [\d,]+ parameters\r?\n", done.stderr)  # which a pipe does not get


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_that_has_seen_enough_ends_it_quietly(model):
    running = subprocess.Popen(
        command("generate", "--model", model, "--max-new-tokens", 10**7, "--temperature", 0),
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    running.stdout.read(10)
    running.stdout.close()
    error = running.stderr.read()
    running.stderr.close()
    assert running.wait() == 141 and error.startswith(b"model: ") and error.count(b"\n") == 1
