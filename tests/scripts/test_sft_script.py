"""scripts/sft.py as its users meet it."""

from finetune.stages import sft as sft_stage
from finetune.stages.sft import SFTConfig
from gpt.training.log import read_log
from gpt.training.run_folder import settings_of
from scripts import sft
from tests.scripts.running import output_of, refusal
from tests.scripts.runs import RHYTHM


def test_a_run_on_the_built_in_questions(given, tmp_path, monkeypatch):
    monkeypatch.setattr(sft_stage, "TRAIN_ITEMS", 40)
    monkeypatch.setattr(sft_stage, "TEST_ITEMS", 20)
    run = tmp_path / "run"
    output = output_of(sft.main, "--init-from", given / "base", "--out-dir", run, *RHYTHM.split())
    for part in (
        f"starting from the weights in {given / 'base'}, 2 tokens added",
        "data: 40 conversations to learn from, 20 to test on",
        "are the assistant's and are learned from",
        "<|im_start|>assistant\n[",
        "mean_token_accuracy  how often",
        "0 | validation loss 5.",
        "exact match 0.0000, format 0.0000",
        "4/4 | loss ",
        "held-out questions in the chat template",
        "held-out questions without a template",
        "12 questions of general knowledge",
        "right answers by type of question",
        "asked | ",
        "before | ",
        "after | ",
        "right | ",
        f"python scripts/chat.py --model {run.as_posix()}",
    ):
        assert part in output, part
    assert output.replace("\ufffd", "?").encode("cp1252")  # an untrained model writes any bytes
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "model.safetensors", "trainer_state.json", "log.jsonl", "vocab.json", "data"} <= names
    assert {"exact_match", "format", "val_loss"} <= read_log(run / "log.jsonl")[-1].keys()


def test_a_file_of_ones_own_and_going_on(given, finished, capsys):
    folder, output = finished("sft")  # Alpaca's format, which is a JSON array
    assert "data: 9 conversations to learn from, 1 to test on" in output and "asked | the word? / " in output
    assert settings_of(SFTConfig, str(folder)).training.max_iters == 4
    resume = ["--init-from", "resume", "--out-dir", folder]
    assert "resuming" in output_of(sft.main, *resume)
    error = refusal(sft.main, capsys, *resume, "--batch-size", "8")
    assert "has batch_size 2, not 8: a resumed run keeps its settings" in error
    assert "holds a run already" in refusal(sft.main, capsys, "--init-from", given / "base", "--out-dir", folder)


def test_the_mask_is_shown_and_nothing_is_trained(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--init-from", given / "base", "--data", given / "alpaca.json", "--show-mask", "2"]
    output = output_of(sft.main, *arguments)
    assert output.count("<|im_start|>user") == 2 and "[<|im_end|>]" in output
    assert list(tmp_path.iterdir()) == []
