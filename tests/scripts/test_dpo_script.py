"""scripts/dpo.py as its users meet it."""

import json

import pytest

from gpt import load_checkpoint
from gpt.training.log import read_log
from scripts import dpo
from tests.scripts.running import output_of
from tests.scripts.runs import arguments_of


def test_a_run_says_what_it_does_and_leaves_its_files(given, finished):
    folder, output = finished("dpo")
    for part in (
        f"starting from the weights in {given / 'chat'}, which are also the reference",
        "data: 27 pairs of replies to learn from, 3 to test on",
        "rewards/margins  how much more than the reference",
        "0 | validation loss 0.6931",
        "4/4 | loss ",
        "Replies before and after",
        "Say 27?",
        "trained 4 steps, 8 pairs,",
        "python scripts/chat.py --model",
    ):
        assert part in output, part
    rows = read_log(folder / "log.jsonl")
    names = {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen"}
    assert names | {"logps/rejected", "num_pairs", "learning_rate", "grad_norm"} <= rows[1].keys()
    assert rows[0]["val_loss"] > rows[-1]["val_loss"]


def test_the_reference_is_stored_with_the_data(finished):
    folder, _ = finished("dpo")
    lines = (folder / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 27 and all(row["ref_chosen_logps"] < 0 and row["ref_rejected_logps"] < 0 for row in rows)
    first = read_log(folder / "log.jsonl")[1]  # before any step, policy and reference are one
    assert first["step"] == 1 and abs(first["rewards/chosen"]) < 1e-5


@pytest.mark.parametrize("kind", ["ipo", "hinge", "robust"])
def test_the_other_losses(given, tmp_path, kind):
    options = ["--loss-type", kind, *(["--label-smoothing", "0.1"] if kind == "robust" else [])]
    output = output_of(dpo.main, *arguments_of("dpo", given), "--out-dir", tmp_path, *options)
    rows = [row for row in read_log(tmp_path / "log.jsonl") if "val_loss" in row]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    assert load_checkpoint(tmp_path).state["extra"]["run"]["loss_type"] == kind
    assert (tmp_path / "loss.png").exists() == ("no picture" not in output)
