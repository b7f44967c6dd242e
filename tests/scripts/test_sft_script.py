"""scripts/sft.py as its users meet it."""

import json

import pytest

from finetune.stages import sft as sft_stage
from finetune.stages.sft import SFTConfig
from gpt.training.log import read_log
from gpt.training.run_folder import settings_of
from scripts import sft
from tests.finetune.small import small_chat_model
from tests.gpt.small import save_model
from tests.scripts.running import output_of, refusal, run_here

QUICK = ["--max-iters", "6", "--batch-size", "4", "--eval-interval", "3", "--log-interval", "2", "--warmup-iters", "1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"), *small_chat_model(block_size=96))


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """Ten conversations in Alpaca's format, which is a JSON array."""
    path = tmp_path_factory.mktemp("data") / "alpaca.json"
    rows = [{"instruction": "the word?", "input": f"word {i}", "output": "a cat"} for i in range(10)]
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def test_a_run_on_the_built_in_questions(base, tmp_path, monkeypatch):
    monkeypatch.setattr(sft_stage, "TRAIN_ITEMS", 40)
    monkeypatch.setattr(sft_stage, "TEST_ITEMS", 20)
    output = output_of(sft.main, "--init-from", base, "--out-dir", tmp_path / "run", *QUICK)
    for part in (
        f"starting from the weights in {base}, 2 tokens added",
        "data: 40 conversations to learn from, 20 to test on",
        "are the assistant's and are learned from",
        "<|im_start|>assistant\n[",
        "mean_token_accuracy  how often",
        "0 | validation loss 5.",
        "exact match 0.0000, format 0.0000",
        "6/6 | loss ",
        "held-out questions in the chat template",
        "held-out questions without a template",
        "12 questions of general knowledge",
        "right answers by type of question",
        "asked | ",
        "before | ",
        "after | ",
        "right | ",
        f"python scripts/chat.py --model {(tmp_path / 'run').as_posix()}",
    ):
        assert part in output, part
    assert output.replace("\ufffd", "?").encode("cp1252")  # an untrained model writes any bytes
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "model.safetensors", "trainer_state.json", "log.jsonl", "vocab.json", "data"} <= names
    assert {"exact_match", "format", "val_loss"} <= read_log(tmp_path / "run" / "log.jsonl")[-1].keys()


def test_a_file_of_ones_own_and_going_on(base, talks, tmp_path, capsys):
    folder = tmp_path / "run"
    start = ["--init-from", base, "--data", talks, "--out-dir", folder]
    assert run_here(sft.main, *start, *QUICK) == 0
    output = capsys.readouterr().out
    assert "data: 9 conversations to learn from, 1 to test on" in output and "asked | the word? / " in output
    assert settings_of(SFTConfig, str(folder)).training.max_iters == 6
    assert run_here(sft.main, "--init-from", "resume", "--out-dir", folder) == 0
    assert "resuming" in capsys.readouterr().out
    error = refusal(sft.main, capsys, "--init-from", "resume", "--out-dir", folder, "--batch-size", "8")
    assert "has batch_size 4, not 8: a resumed run keeps its settings" in error
    assert "holds a run already" in refusal(sft.main, capsys, *start, *QUICK)


def test_the_mask_is_shown_and_nothing_is_trained(base, talks, tmp_path, capsys):
    arguments = ["--init-from", base, "--data", talks, "--show-mask", "2"]
    assert run_here(sft.main, *arguments) == 0
    output = capsys.readouterr().out
    assert output.count("<|im_start|>user") == 2 and "[<|im_end|>]" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--data nowhere.jsonl", "nowhere.jsonl does not exist"),
        ("--data {bad}", "bad.jsonl, line 1: there is no field 'completion', only 'prompt'"),
        ("--learning-rate nan", "learning_rate must be a number >= 0"),
        ("--max-iters 0", "must be an integer >= 1"),
        ("--init-from {out}", "{out}"),
        ("--init-from resume", "there is no checkpoint in"),
        ("--epochs 3", "unrecognized arguments: --epochs 3"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, words, base, tmp_path, capsys):
    places = {"bad": tmp_path / "bad.jsonl", "out": tmp_path / "out"}
    places["bad"].write_text('{"prompt": "x"}\n', encoding="utf-8")
    given = arguments.format(**places).split()
    start = [] if "--init-from" in given else ["--init-from", str(base)]
    assert words.format(**places) in refusal(sft.main, capsys, *start, "--out-dir", places["out"], *given)
    assert not places["out"].exists()
