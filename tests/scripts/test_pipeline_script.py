"""scripts/pipeline.py: all stages, kept when they are finished, done again when what they are made from has changed."""

import dataclasses
import json
import shutil
from unittest import mock

import numpy as np
import pytest

from finetune.quantization.folder import load_quantized
from finetune.stages import ppo, reward, sft
from gpt import Llama, LlamaConfig
from gpt.training.checkpoint import load_run, load_state
from minigrad import manual_seed, use_kernels
from scripts import demo
from scripts import pipeline as script
from tests.finetune.small import interrupt_at, small_tokenizer
from tests.gpt.small import checkpoint_of, files_of, save_model
from tests.scripts.running import assert_says, output_of, refusal, run_here, write_text

SMALL = {
    "sft": "--max-iters 12 --eval-interval 6",
    "reward": "--max-iters 5",
    "dpo": "--max-iters 3",
    "ppo": "--total-iterations 2 --batch-size 4 --response-length 6",
    "lora": "--max-iters 5 --batch-size 32",
}


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    """All stages in small: little data, few steps, a model that is hardly one."""
    text = write_text(tmp_path_factory.mktemp("text") / "text.txt", words=12_000)
    demo_config = demo.demo_config
    chance = "finetune.evaluation.reward_accuracy.SIGNIFICANCE"

    def small_config(*options):
        config = demo_config(*options)
        shape = {"n_layer": 1, "n_head": 1, "n_embd": 64, "block_size": 192}
        training = dataclasses.replace(config.training, max_iters=4, warmup_iters=1, eval_interval=2)
        return dataclasses.replace(config, data=text, vocab_size=280, batch_size=2, model=shape, training=training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "demo_config", small_config)
        patch.setattr(script, "SHORT", SMALL)
        patch.setattr(script, "PAIRS", 24)
        patch.setattr(script, "SHORT_QUESTIONS", 4)
        patch.setattr(chance, 2.0)  # so small a reward model is a coin, and PPO starts all the same
        for module, name, count in (
            (sft, "TRAIN_ITEMS", 40), (sft, "TEST_ITEMS", 4),
            (reward, "TRAIN_PAIRS", 24), (reward, "TEST_PAIRS", 6),
            (ppo, "TRAIN_ITEMS", 12), (ppo, "TEST_ITEMS", 3),
        ):  # fmt: skip
            patch.setattr(module, name, count)
        yield
    use_kernels("textbook")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished pipeline, and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "pipeline"
    return folder, output_of(script.main, "--short", "--ppo", "--out-dir", folder)


def test_all_stages_are_run_and_the_table_says_what_each_changed(finished):
    folder, output = finished
    assert_says(output, "=== 1/7 pretrained: ... === 3/7 reward: ... === 5/7 ppo: ... === 7/7 quantized: ")
    table = output.partition("=== what each stage changed")[2]
    names = [line.split()[0] for line in table.splitlines() if line.strip()]
    assert names[names.index("stage") + 1 :][:7] == ["pretrained", "sft", "reward", "dpo", "ppo", "lora", "quantized"]
    assert "prefers the better of two replies in" in table and "text loss  nats per token" in table
    notes = json.loads((folder / "pipeline.json").read_text(encoding="utf-8"))
    assert notes["stages"]["ppo"]["row"].keys() == {
        "seconds", "text loss", "format", "right", "courteous", "against", "KL", "MB", "asked", "reply"
    }  # fmt: skip
    assert notes["stages"]["ppo"]["origin"].keys() == {"sft", "reward"}
    megabytes = {name: notes["stages"][name]["row"]["MB"] for name in ("sft", "lora", "quantized")}
    assert megabytes["lora"] == megabytes["sft"] > 2 * megabytes["quantized"]  # merged, and 4 bits
    load_run(folder / "lora" / "merged")
    load_quantized(folder / "quantized")


@pytest.mark.usefixtures("no_pictures")
def test_a_trained_llama_goes_the_same_way(tmp_path, monkeypatch, capsys):
    tokenizer = small_tokenizer()
    manual_seed(0)
    shape = {"block_size": 192, "n_layer": 1, "n_head": 2, "n_kv_head": 1, "n_embd": 64, "n_inner": 128}
    save_model(tmp_path / "base", Llama(LlamaConfig(len(tokenizer), **shape)), tokenizer)
    less = {name: f"{settings} --batch-size 2" for name, settings in script.SHORT_TRAINED.items()}
    monkeypatch.setattr(script, "SHORT_TRAINED", less)
    monkeypatch.setattr(script, "TRAINED_PAIRS", 30)
    monkeypatch.setattr(script, "MEASURED_ON", write_text(tmp_path / "text.txt", words=3000))
    out = tmp_path / "pipeline"
    output = output_of(script.main, "--short", "--ppo", "--init-from", tmp_path / "base", "--out-dir", out)
    assert f"=== 1/7 pretrained: nothing: {tmp_path / 'base'}, as it is" in output
    assert "=== 7/7 quantized" in output and "prefers the better of two replies in" in output
    for name in ("pretrained", "sft", "dpo", "ppo", "lora/merged"):
        assert type(load_run(out / name)[0]) is Llama
    assert type(load_quantized(out / "quantized")[0]) is Llama
    base, copied = (load_run(folder)[0].model.norm.weight.data for folder in (tmp_path / "base", out / "pretrained"))
    np.testing.assert_array_equal(copied, base)
    assert len((out / "sft" / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()) == 27
    assert "choose another --out-dir" in refusal(script.main, capsys, "--short", "--out-dir", out)


def test_what_is_finished_is_kept(finished):
    folder, _ = finished
    before = files_of(folder)
    output = output_of(script.main, "--short", "--out-dir", folder)
    assert output.count("finished earlier, and kept") == 6 and "sft " in output.partition("what each stage")[2]
    assert files_of(folder) == before


@pytest.mark.usefixtures("no_pictures")
def test_a_deleted_stage_is_done_again_with_all_made_from_it(finished, tmp_path):
    copied = shutil.copytree(finished[0], tmp_path / "pipeline")
    pretrained = (checkpoint_of(copied / "pretrained") / "state.json").stat().st_mtime_ns
    shutil.rmtree(copied / "sft")
    with mock.patch("finetune.stages.reward.load_pairs", side_effect=KeyboardInterrupt):
        assert run_here(script.main, "--short", "--out-dir", copied) == 130
    assert load_state(copied / "reward") == load_state(finished[0] / "reward")  # stays, and is done again all the same
    output = output_of(script.main, "--short", "--out-dir", copied)
    assert output.count("finished earlier, and kept") == 2  # pretraining, SFT
    again = output.count("made from an earlier version of the stages before it: running it again")
    assert again == 4  # reward, DPO, LoRA, and what was quantized
    assert (checkpoint_of(copied / "pretrained") / "state.json").stat().st_mtime_ns == pretrained


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    "step", [pytest.param(4, marks=pytest.mark.slow), 12]
)  # the last one of this stage is 12: then the next stage does not begin
def test_ctrl_c_stops_it_and_the_next_call_goes_on_in_the_stage(tmp_path, monkeypatch, capsys, step):
    interrupt_at(4 + step, monkeypatch)  # 4: of pretraining
    assert run_here(script.main, "--short", "--out-dir", tmp_path) == 130
    assert "run it again to continue" in capsys.readouterr().out
    assert load_state(tmp_path / "sft")["step"] == step and not (tmp_path / "reward").exists()
    monkeypatch.undo()
    output = output_of(script.main, "--short", "--out-dir", tmp_path)
    assert f"resuming {tmp_path / 'sft'} at step {step}" in output and "=== 6/6 quantized" in output


def test_what_is_not_of_this_pipeline_is_refused_and_not_touched(finished, tmp_path, capsys):
    folder, new = tmp_path / "folder", tmp_path / "new"
    pretrained = shutil.copytree(finished[0] / "sft", folder / "pretrained")
    assert f"{folder} holds files that do not belong to a pipeline" in refusal(script.main, capsys, "--out-dir", folder)
    notes = {"settings": {"short": True, "seed": 1337}, "stages": {}}
    (folder / "pipeline.json").write_text(json.dumps(notes), encoding="utf-8")
    for options, place, words in (
        (["--short"], folder, f"{pretrained} holds a run that is not part of this pipeline"),
        (["--short", "--seed", "1"], finished[0], "choose another --out-dir"),
        ([], finished[0], "choose another --out-dir"),
        (["--init-from", "nowhere"], new, "there is no folder nowhere"),
    ):
        assert words in refusal(script.main, capsys, "--out-dir", place, *options)
    assert not new.exists()
