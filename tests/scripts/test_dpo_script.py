"""scripts/dpo.py as its users meet it."""

import json

import pytest

from gpt import load_checkpoint
from gpt.training.log import read_log
from scripts import dpo
from tests.finetune.small import small_chat_model
from tests.gpt.small import save_model
from tests.scripts.preference_files import write_model, write_pairs
from tests.scripts.running import output_of, refusal, run_here

SMALL = ["--batch-size", "4", "--max-iters", "8", "--eval-interval", "4", "--log-interval", "2", "--warmup-iters", "1"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The model's folder and the file of pairs."""
    folder = tmp_path_factory.mktemp("given")
    return write_model(folder / "sft"), write_pairs(folder / "pairs.jsonl")


@pytest.fixture(scope="module")
def finished(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, output_of(dpo.main, *options(given, folder))


def options(given, folder, *more):
    model, data = given
    return ["--init-from", model, "--data", data, "--out-dir", folder, *SMALL, "--learning-rate", "3e-3", *more]


def test_a_run_says_what_it_does_and_leaves_its_files(given, finished):
    folder, output = finished
    for part in (
        f"starting from the weights in {given[0]}, which are also the reference",
        "data: 27 pairs of replies to learn from, 3 to test on",
        "rewards/margins  how much more than the reference",
        "0 | validation loss 0.6931",
        "8/8 | loss ",
        "Replies before and after",
        "Say 27?",
        "trained 8 steps, 32 pairs,",
        "python scripts/chat.py --model",
    ):
        assert part in output, part
    assert (folder / "loss.png").exists() == ("no picture" not in output)
    rows = read_log(folder / "log.jsonl")
    names = {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen"}
    assert names | {"logps/rejected", "num_pairs", "learning_rate", "grad_norm"} <= rows[1].keys()
    assert rows[0]["val_loss"] > rows[-1]["val_loss"]


def test_the_reference_is_stored_with_the_data(given, finished):
    folder, _ = finished
    lines = (folder / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 27 and all(row["ref_chosen_logps"] < 0 and row["ref_rejected_logps"] < 0 for row in rows)
    first = read_log(folder / "log.jsonl")[1]  # before any step, policy and reference are one
    assert first["step"] == 1 and abs(first["rewards/chosen"]) < 1e-5


@pytest.mark.parametrize("kind", ["ipo", "hinge", "robust"])
def test_the_other_losses(given, tmp_path, kind):
    smoothing = ["--label-smoothing", "0.1"] if kind == "robust" else []
    assert run_here(dpo.main, *options(given, tmp_path, "--loss-type", kind, *smoothing)) == 0
    rows = [row for row in read_log(tmp_path / "log.jsonl") if "val_loss" in row]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    assert load_checkpoint(tmp_path).state["extra"]["run"]["loss_type"] == kind


@pytest.mark.parametrize(
    "more, words",
    [
        (["--beta", "0"], "beta must be a number > 0, got 0.0"),
        (["--loss-type", "robust", "--label-smoothing", "0.6"], "label_smoothing must be in [0, 0.5)"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["--init-from", "resume"], "there is no checkpoint in"),
        (["--loss-type", "dpo"], "invalid choice: 'dpo'"),
        (["--betta", "1"], "unrecognized arguments: --betta 1"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(given, tmp_path, capsys, more, words):
    assert words in refusal(dpo.main, capsys, *options(given, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


def test_a_model_without_chat_tokens_is_refused(given, tmp_path, capsys):
    base = save_model(tmp_path / "base", *small_chat_model())
    message = refusal(dpo.main, capsys, "--init-from", base, "--out-dir", tmp_path / "run")
    assert "fine-tune the model on conversations first" in message and not (tmp_path / "run").exists()
