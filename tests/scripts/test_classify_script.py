"""scripts/classify.py as its users meet it."""

import json
import re

import pytest

from gpt.training.checkpoint import load_state
from gpt.training.log import read_log
from scripts import classify, export
from tests.finetune.small import small_chat_model
from tests.gpt.small import save_model
from tests.scripts.running import output_of, refusal, run_here

QUICK = ["--max-iters", "8", "--batch-size", "4", "--eval-interval", "4", "--log-interval", "2", "--warmup-iters", "1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"), *small_chat_model())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Options that name a labelled file, and a text on which forgetting is measured."""
    folder = tmp_path_factory.mktemp("data")
    rows = "".join(f"{'the cat sat' if i % 2 else 'a dog ran'} {i}\t{'cat' if i % 2 else 'dog'}\n" for i in range(40))
    (folder / "pets.tsv").write_text("text\tlabel\n" + rows, encoding="utf-8")
    (folder / "english.txt").write_text("the cat sat on a mat and the dog ran to a house. " * 40, encoding="utf-8")
    return ["--data", folder / "pets.tsv", "--language", folder / "english.txt"]


@pytest.fixture(scope="module")
def finished(base, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, output_of(classify.main, "--init-from", base, *data, "--out-dir", folder, *QUICK)


def test_a_run_says_how_good_it_is_and_what_it_forgot(finished):
    folder, output = finished
    for part in (
        "with a head for cat, dog",
        "data: 32 texts to learn from, 8 to test on, 2 classes",
        "of which 32 are trained; the head has 32",
        "to beat: ",
        "language loss  the loss as a language model",
        "8/8 | loss ",
        "true, and taken for",
        "texts that are not learned from (most frequent class: ",
        "sure)",
        "only the head was trained, and nothing is forgotten",
        f'python scripts/classify.py --predict "some text" --model {folder.as_posix()}',
    ):
        assert part in output, part
    before, after = re.search(r"english.txt\): ([\d.]+) before, ([\d.]+) after", output).groups()
    assert before == after
    assert {"val_loss", "accuracy", "language_loss"} <= read_log(folder / "log.jsonl")[-1].keys()
    assert {"loss", "accuracy", "num_texts"} <= read_log(folder / "log.jsonl")[-2].keys()


def test_a_text_is_classified(finished, capsys):
    assert run_here(classify.main, "--model", finished[0], "--predict", "the cat sat") == 0
    lines = capsys.readouterr().out.splitlines()
    shares = [float(line.split("%")[0]) for line in lines]
    assert {line.split()[-1] for line in lines} == {"cat", "dog"} and shares == sorted(shares)[::-1]
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_a_classifier_is_exported_and_used_from_there(finished, tmp_path, capsys):
    assert run_here(export.main, finished[0], tmp_path / "hf") == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2ForSequenceClassification"] and config["id2label"]["1"] == "dog"
    capsys.readouterr()
    answers = []
    for model in (finished[0], tmp_path / "hf"):
        assert run_here(classify.main, "--model", model, "--predict", "a dog") == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_all_three_ways_side_by_side(base, data, tmp_path, capsys):
    folder = tmp_path / "compared"
    assert run_here(classify.main, "--init-from", base, *data, "--out-dir", folder, "--compare", *QUICK) == 0
    table = capsys.readouterr().out.splitlines()[-4:]
    assert table[0].split() == ["trained", "parameters", "accuracy", "language", "loss", "before", "after", "seconds"]
    rows = {line.split()[0]: line.split()[1:] for line in table[1:]}
    assert list(rows) == ["head", "last-block", "all"] and rows["head"][2] == rows["head"][3]
    assert rows["all"][2] != rows["all"][3] and rows["head"][0] == "32"
    assert load_state(folder / "all")["extra"]["run"]["trained_blocks"] is None


def test_going_on(base, data, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run_here(classify.main, "--init-from", base, *data, "--out-dir", folder, "--train", "all", *QUICK) == 0
    assert run_here(classify.main, "--init-from", "resume", "--out-dir", folder, "--train", "all") == 0
    assert "resuming" in capsys.readouterr().out
    error = refusal(classify.main, capsys, "--init-from", "resume", "--out-dir", folder, "--train", "1")
    assert "has trained_blocks None, not 1" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--data nowhere.csv", "nowhere.csv does not exist"),
        ("--train some", "argument --train: must be head, all, or a number of blocks"),
        ("--train 2", "the model has 1 blocks: 2 of them cannot be trained"),
        ("--predict x", "--predict and --model go together"),
        ("--model {base}", "--predict and --model go together"),
        ("--model {base} --predict x", "--init-from does not go with --model"),
        ("--model {finished} --predict=", "--predict is empty"),
        ("--init-from resume", "there is no checkpoint in"),
        ("--language nowhere", "there is no corpus or file 'nowhere'"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, words, base, data, finished, tmp_path, capsys):
    given = arguments.format(base=base, finished=finished[0]).split()
    start = [] if "--init-from" in given else ["--init-from", base]
    start += [] if "--data" in given else data
    assert words in refusal(classify.main, capsys, *start, "--out-dir", tmp_path / "out", *given)
    assert not (tmp_path / "out").exists()
