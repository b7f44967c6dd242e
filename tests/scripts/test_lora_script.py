"""scripts/lora.py as its users meet it."""

import pytest

from finetune.stages.lora_model import METHODS, LoRARunConfig
from finetune.stages.sft import SFTConfig
from gpt import Llama
from gpt.training.loading import load_model
from gpt.training.log import read_log
from gpt.training.run_state import settings_of
from scripts import generate, lora, sft
from tests.finetune.small import interrupt_at
from tests.gpt import smollm
from tests.gpt.gguf_files import block_llama, write_llama
from tests.helpers import read_json
from tests.scripts.running import assert_says, output_of, refusal, run_here
from tests.scripts.runs import RHYTHM


def options(given, folder, *more):
    data = ["--init-from", given / "wide", "--data", given / "story.txt"]
    return [*data, "--out-dir", folder, *RHYTHM.split(), "--r", "2", *more]


def test_a_run_then_resume_then_merge(given, tmp_path, monkeypatch):
    base, run, merged = given / "wide", tmp_path / "run", tmp_path / "merged"
    output = output_of(lora.main, *options(given, run, "--slices", "q", "v"))
    assert_says(
        output,
        f"starting from the weights in {base}; of 121,344 parameters, 4,096 (3.4% as many) are trained",
        "0 | validation loss 5. ... 4/4 | loss ... before     after ... trained 4 steps, ",
        f"adapter for PEFT: {run / 'adapter'} (0.0 ... python scripts/generate.py --model {run.as_posix()}",
    )
    settings = read_json(run / "adapter" / "adapter_config.json")
    assert settings["r"] == 4 and settings["base_model_name_or_path"] == str(base)  # q and v have rank 2 each
    interrupt_at(1, monkeypatch)
    assert run_here(lora.main, "--init-from", "resume", "--out-dir", run, "--max-iters", "8") == 130
    monkeypatch.undo()
    assert run_here(lora.main, "--init-from", "resume", "--out-dir", run) == 0
    assert run_here(lora.main, "--merge", run, "--out-dir", merged) == 0
    assert load_model(merged)[0].num_parameters() == load_model(base)[0].num_parameters()
    texts = []
    for model in ([base], [base, "--adapter", run / "adapter"], [merged]):
        texts.append(output_of(generate.main, "--model", *model, "--temperature", "0", "--max-new-tokens", "20"))
    assert texts[0] != texts[1] == texts[2]


def test_the_comparison_measures_each_method_once(given, tmp_path, capsys):
    compare = options(given, tmp_path / "all", "--learning-rate", "1e-2", "--compare")
    output = output_of(lora.main, *compare)
    table = output[output.index("  method ") :].splitlines()
    assert [line.split()[0] for line in table[1:5]] == ["base", "full", "lora", "qlora"]
    assert "peak   the most bytes in use at one time in a step" in output
    assert (tmp_path / "all" / "comparison.png").exists()
    rows = full, low_rank, qlora = [read_json(tmp_path / "all" / name / lora.ROW) for name in METHODS]
    assert low_rank["trained"] == qlora["trained"] < full["trained"] / 10
    assert all(row["moments"] == 2 * 4 * row["trained"] for row in rows)
    assert qlora["weights"] < low_rank["weights"] and full["weights"] < low_rank["weights"]
    assert qlora["peak"] < low_rank["peak"] < full["peak"]
    assert all(row["after"]["val_loss"] < row["before"]["val_loss"] and row["milliseconds"] > 0 for row in rows)
    assert full["before"] == low_rank["before"] != qlora["before"]
    assert output_of(lora.main, *compare).count("finished already") == 3
    (tmp_path / "all" / "lora" / lora.ROW).unlink()  # interrupted between training and measuring
    assert output_of(lora.main, *compare).count("\nfinished already") == 2
    assert read_json(tmp_path / "all" / "lora" / lora.ROW)["after"] == low_rank["after"]
    assert "full holds a run with another batch_size" in refusal(lora.main, capsys, *compare, "--batch-size", "3")


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("script, config", [(lora, LoRARunConfig), (sft, SFTConfig)])
def test_the_length_follows_the_conversations(given, tmp_path, script, config):
    run, merged = tmp_path / "run", tmp_path / "merged"
    data = given / "alpaca.json"  # ten conversations
    output = output_of(script.main, "--init-from", given / "base", "--data", data, "--out-dir", run, "--batch-size", 4)
    to_chat = f"python scripts/chat.py --model {run.as_posix()}"
    assert_says(
        output,
        f"preparing the run in {run.as_posix()}: ... length: 7 steps of 4 conversations, 3.1 epochs",
        "9 conversations to learn from, 1 to test on ... measuring the model before training ... 7/7 | loss",
        to_chat,
    )
    assert settings_of(config, run).training.warmup_iters == 0  # at most a tenth
    assert to_chat in output_of(script.main, "--init-from", "resume", "--out-dir", run)
    if script is lora:
        assert "scripts/chat.py" in output_of(lora.main, "--merge", run, "--out-dir", merged)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("step", [1, 4])  # in the last one, too: the next method does not begin
def test_an_interrupted_comparison_stops_and_goes_on(given, tmp_path, monkeypatch, step):
    interrupt_at(step, monkeypatch)
    assert run_here(lora.main, *options(given, tmp_path, "--compare")) == 130
    assert (tmp_path / "full").exists() and not (tmp_path / "lora").exists()
    monkeypatch.undo()
    output = output_of(lora.main, *options(given, tmp_path, "--compare"))
    assert f"resuming {tmp_path / 'full'} at step {step}" in output
    rates = [read_log(tmp_path / name / "log.jsonl")[1]["learning_rate"] for name in METHODS]
    assert rates[0] < rates[1] == rates[2]


@pytest.mark.oracle("gguf")
def test_adapters_beside_the_bits_of_a_file(given, tmp_path, capsys):
    model = block_llama(vocab_size=len(smollm.smollm_tokenizer()), block_size=32)
    path = write_llama(tmp_path / "small.gguf", model, "Q4_1", **smollm.metadata())
    run = tmp_path / "run"
    merged = tmp_path / "merged"
    packed = ["--init-from", path, "--packed"]
    assert run_here(lora.main, *options(given, run, *packed)) == 0
    assert read_log(run / "log.jsonl")[-1]["val_loss"] > 0
    assert run_here(lora.main, "--init-from", "resume", "--out-dir", run) == 0
    assert "are now in the float ones" in output_of(lora.main, "--merge", run, "--out-dir", merged)
    assert type(load_model(merged)[0]) is Llama
    writing = ["--prompt", "the cat", "--max-new-tokens", 4, "--temperature", 0]
    beside = output_of(generate.main, "--model", path, "--packed", "--adapter", run / "adapter", *writing)
    assert output_of(generate.main, "--model", merged, *writing) == beside
    sentence = refusal(lora.main, capsys, *options(given, tmp_path / "no", *packed, "--method", "qlora"))
    assert "packed weights stay as they are" in sentence
    sentence = refusal(lora.main, capsys, *options(given, tmp_path / "no", "--init-from", merged, "--packed"))
    assert "there are no packed weights to keep" in sentence and not (tmp_path / "no").exists()
