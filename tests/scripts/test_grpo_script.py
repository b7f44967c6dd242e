"""scripts/grpo.py as its users meet it."""

from finetune.stages import grpo as stage
from gpt.training.checkpoint import load_run
from gpt.training.log import read_log
from scripts import grpo
from tests.scripts.running import output_of

CHAINS = ["--terms", "4", "--total-iterations", "2", "--eval-interval", "1"]
GROUPS = ["--batch-size", "2", "--num-generations", "2", "--sft-steps", "3"]


def test_a_run_says_what_it_does_and_leaves_its_files(tmp_path, monkeypatch):
    for name, value in {"WORKED_EXAMPLES": 40, "TRAIN_ITEMS": 30, "TEST_ITEMS": 6}.items():
        monkeypatch.setattr(stage, name, value)
    output = output_of(grpo.main, "--out-dir", tmp_path / "run", *CHAINS, *GROUPS)
    for part in (
        "has learned from 40 worked examples: loss ",
        "data: 30 questions to learn from, 6 questions to test on, such as ",
        "majority@8  share of questions whose most frequent answer is right",
        "8/8 | loss ",
        "6 held-out questions, 8 answers each",
        "trained 8 steps,",
    ):
        assert part in output, part
    assert (tmp_path / "run" / "loss.png").exists() == ("no picture" not in output)
    rows = read_log(tmp_path / "run" / "log.jsonl")
    assert [row["step"] for row in rows] == [0, 4, 4, 8, 8] and "pass@8" in rows[-1]
    load_run(tmp_path / "run")
    start = ["--init-from", tmp_path / "run" / "worked", "--out-dir", tmp_path / "control"]
    output = output_of(grpo.main, *start, "--control", *CHAINS)
    assert "data: 40 worked examples to learn from" in output and "its aim moves" not in output
