"""scripts/classify.py as its users meet it."""

import json
import re

import pytest

from gpt.training.checkpoint import load_state
from gpt.training.log import read_log
from scripts import classify, export
from tests.scripts.running import output_of, refusal, run_here
from tests.scripts.runs import arguments_of


def test_a_run_says_how_good_it_is_and_what_it_forgot(finished):
    folder, output = finished("classify")
    for part in (
        "with a head for cat, dog",
        "data: 32 texts to learn from, 8 to test on, 2 classes",
        "of which 32 are trained; the head has 32",
        "to beat: ",
        "language loss  the loss as a language model",
        "4/4 | loss ",
        "true, and taken for",
        "texts that are not learned from (most frequent class: ",
        "sure)",
        "only the head was trained, and nothing is forgotten",
        f'python scripts/classify.py --predict "some text" --model {folder.as_posix()}',
    ):
        assert part in output, part
    before, after = re.search(r"story.txt\): ([\d.]+) before, ([\d.]+) after", output).groups()
    assert before == after
    assert {"val_loss", "accuracy", "language_loss"} <= read_log(folder / "log.jsonl")[-1].keys()
    assert {"loss", "accuracy", "num_texts"} <= read_log(folder / "log.jsonl")[-2].keys()


def test_a_text_is_classified(finished):
    lines = output_of(classify.main, "--model", finished("classify")[0], "--predict", "the cat sat").splitlines()
    shares = [float(line.split("%")[0]) for line in lines]
    assert {line.split()[-1] for line in lines} == {"cat", "dog"} and shares == sorted(shares)[::-1]
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_a_classifier_is_exported_and_used_from_there(finished, tmp_path):
    folder, exported = finished("classify")[0], tmp_path / "hf"
    assert run_here(export.main, folder, exported) == 0
    config = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2ForSequenceClassification"] and config["id2label"]["1"] == "dog"
    answers = {output_of(classify.main, "--model", model, "--predict", "a dog") for model in (folder, exported)}
    assert len(answers) == 1


def test_all_three_ways_side_by_side_and_going_on(given, tmp_path, capsys):
    output = output_of(classify.main, *arguments_of("classify", given), "--out-dir", tmp_path, "--compare")
    table = output.splitlines()[-4:]
    assert table[0].split() == ["trained", "parameters", "accuracy", "language", "loss", "before", "after", "seconds"]
    rows = {line.split()[0]: line.split()[1:] for line in table[1:]}
    assert list(rows) == ["head", "last-block", "all"] and rows["head"][2] == rows["head"][3]
    assert rows["all"][2] != rows["all"][3] and rows["head"][0] == "32"
    assert load_state(tmp_path / "all")["extra"]["run"]["trained_blocks"] is None
    resume = ["--init-from", "resume", "--out-dir", tmp_path / "all", "--train"]
    assert "resuming" in output_of(classify.main, *resume, "all")
    assert "has trained_blocks None, not 1" in refusal(classify.main, capsys, *resume, "1")
