"""Runs of fine-tuning: what their folders hold, going on with them, and merging."""

import shutil

import numpy as np
import pytest

import gpt.training.run_state
from finetune.adapters.applying import lora_layers
from finetune.adapters.lora import LoRAConfig
from finetune.data.chat_template import add_chat_tokens
from finetune.evaluation.answering import SHOWN
from finetune.stages import lora as page
from finetune.stages import lora_data, sft
from finetune.stages.lora import train_lora
from finetune.stages.lora_model import METHODS, LoRARunConfig, adapter_format
from finetune.stages.merging import merge_run
from gpt.training.batches import prepare
from gpt.training.checkpoint import CheckpointError, load_checkpoint, load_run, save_checkpoint
from gpt.training.loading import load_model
from gpt.training.log import read_log
from gpt.training.run import resume, start
from gpt.training.run_state import settings_of
from gpt.training.training_config import TrainingConfig
from gpt.weights.safetensors_file import SafetensorsFile
from tests.finetune.small import few_items, small_chat_model, watch, write_rows
from tests.gpt.small import assert_same, checkpoint_of, save_model
from tests.helpers import read_json
from tests.scripts.running import write_text

pytestmark = pytest.mark.usefixtures("no_pictures")
LORA = LoRAConfig(r=2, alpha=8, dropout=0.1, target_modules=("c_attn", "c_fc"), slices=("q", "v"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a model that knows no chat template."""
    return save_model(tmp_path_factory.mktemp("base"), *small_chat_model(n_layer=2, n_embd=64, block_size=48))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "story.txt", words=1200)


def settings(base, data, folder, method="lora", steps=6, lora=LORA):
    training = TrainingConfig(max_iters=steps, learning_rate=0.02, warmup_iters=1, eval_interval=2, log_interval=1)
    places = map(str, (base, data, folder))
    return LoRARunConfig(*places, batch_size=2, seed=7, method=method, lora=lora, training=training)


def go_on(folder):
    return resume(train_lora, LoRARunConfig, str(folder))


@pytest.fixture(scope="module")
def finished(base, text, tmp_path_factory):
    """A finished run of each method."""
    folders = {method: tmp_path_factory.mktemp(method) / "run" for method in METHODS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "plot_run", lambda *_, **options: None)
        for method, folder in folders.items():
            assert not start(train_lora, settings(base, text, folder, method)).interrupted
    return folders


def test_a_short_run_evaluates_a_part_of_a_long_held_out_text(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpt.training.run_state, "LEAST_EVALUATED", 6)
    text = write_text(tmp_path / "story.txt", words=4000)
    read = watch(lora_data, monkeypatch, "held_out_loss")
    start(train_lora, settings(base, text, tmp_path / "run", steps=1))
    assert "288 to test on, all of them at each evaluation" in capsys.readouterr().out
    assert [len(tokens) for (_, tokens, *_), _ in read] == [6 * 48] * 4  # before, at the first step, at the last, after
    # Trained longer, it evaluates what it has evaluated before training, so that both can be compared.
    run = resume(train_lora, LoRARunConfig, str(tmp_path / "run"), length=20)
    assert len(read[-1][0][1]) == 6 * 48
    assert run.after["scores"]["val_loss"] == read_log(tmp_path / "run" / "log.jsonl")[-1]["val_loss"]


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_a_run_of_adapters_holds_them_and_their_moments_only(finished, base):
    checkpoint = checkpoint_of(finished["lora"])
    with SafetensorsFile(checkpoint / "model.safetensors") as file:
        assert all(name.endswith((".lora_A", ".lora_B")) for name in file.entries)
        assert file.shapes["transformer.h.1.attn.c_attn.lora_A"] == (4, 64)
        sizes = sum(np.prod(shape) for shape in file.shapes.values())
    with SafetensorsFile(checkpoint / "optimizer.safetensors") as file:
        assert sum(np.prod(shape) for shape in file.shapes.values()) == 2 * sizes
    description = read_json(checkpoint / "config.json")
    assert description["model_type"] == "minigrad-lora" and description["base"] == str(base)
    assert len(description["base_sha256"]) == 64
    with pytest.raises(CheckpointError, match="does not describe a minigrad-gpt"):
        load_run(finished["lora"])


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss(finished, method):
    rows = [row["val_loss"] for row in read_log(finished[method] / "log.jsonl") if "val_loss" in row]
    assert len(rows) == 4 and rows[-1] < rows[0] - 0.2
    before = read_json(finished[method] / "data" / "before.json")["scores"]
    assert before["val_loss"] == pytest.approx(rows[0])
    assert before.keys() == {"val_loss", "perplexity"}  # the base's folder has no text of its own


def config_of(folder):
    return settings_of(LoRARunConfig, str(folder))


def test_the_loss_on_the_base_s_own_text_is_measured(base, text, tmp_path):
    own = shutil.copytree(base, tmp_path / "base")
    _, tokenizer = load_model(own)
    prepare("the cat sat on a mat. " * 200, tokenizer, own / "data")
    run = start(train_lora, settings(own, text, tmp_path / "run"))
    before, after = (measured["scores"]["own_text"] for measured in (run.before, run.after))
    assert before > 0 and after != before


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_another_or_a_changed_base_is_refused(method, base, text, tmp_path):
    own = shutil.copytree(base, tmp_path / "base")
    start(train_lora, settings(own, text, tmp_path / "run", method, steps=2))
    model, tokenizer = load_model(own)
    model.transformer.h[0].mlp.c_proj.weight.data[0] += 0.5
    save_checkpoint(own, model)
    for use in (go_on, lambda folder: merge_run(folder, tmp_path / "merged")):
        with pytest.raises(CheckpointError, match=r"is not the one beside which the adapters were trained"):
            use(tmp_path / "run")
    save_checkpoint(own, small_chat_model(n_layer=2, n_embd=128, block_size=48)[0])
    with pytest.raises(CheckpointError, match="has shape|is not the one"):
        go_on(tmp_path / "run")
    shutil.rmtree(own)
    with pytest.raises((CheckpointError, FileNotFoundError), match="base"):
        go_on(tmp_path / "run")


# --- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_merged_run_is_a_float_model_like_any_other(finished, base, tmp_path, method):
    merge_run(finished[method], tmp_path / "merged")
    (merged, tokenizer), (plain, _) = load_model(tmp_path / "merged"), load_model(base)
    assert not lora_layers(merged) and len(tokenizer) == merged.config.vocab_size
    expected = plain.state_dict()
    trained = load_checkpoint(finished[method], format=adapter_format(config_of(finished[method]))).model
    for name, layer in lora_layers(trained).items():
        expected[f"{name}.weight"] = expected[f"{name}.weight"] + layer.delta()
    assert_same(merged, expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_merged(finished, tmp_path):
    with pytest.raises(ValueError, match="trained all weights: it has no adapters to merge"):
        merge_run(finished["full"], tmp_path / "merged")
    with pytest.raises(FileExistsError, match="holds a run already"):
        merge_run(finished["lora"], finished["full"])


# --- conversations ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    rows = [{"prompt": f"the word {i}?", "completion": "a cat"} for i in range(20)]
    return write_rows(tmp_path_factory.mktemp("data") / "talks.jsonl", rows)


@pytest.mark.parametrize("method", METHODS)
def test_conversations_teach_the_new_tokens_in_the_embedding(method, base, talks, tmp_path):
    run = start(train_lora, settings(base, talks, tmp_path / "run", method))
    config = config_of(tmp_path / "run")
    before, after = run.before["scores"], run.after["scores"]
    assert before.keys() == {"val_loss", "mean_token_accuracy"} and after["val_loss"] < before["val_loss"] - 0.5
    assert config.lora.modules_to_save == ("wte", "lm_head")
    assert run.model.lm_head.weight is run.model.transformer.wte.weight
    old = load_model(base)[0].config.vocab_size
    assert run.model.config.vocab_size == old + 2 and run.model.lm_head.weight.requires_grad
    go_on(tmp_path / "run")
    if method != "full":
        merge_run(tmp_path / "run", tmp_path / "merged")
        assert load_model(tmp_path / "merged")[0].config.vocab_size == old + 2


def test_a_model_that_knows_the_template_learns_in_adapters(talks, tmp_path):
    model, tokenizer = small_chat_model(n_layer=2, n_embd=64, block_size=48)
    add_chat_tokens(model, tokenizer)
    save_model(tmp_path / "base", model, tokenizer)
    run = start(train_lora, settings(tmp_path / "base", talks, tmp_path / "run"))
    assert config_of(tmp_path / "run").lora.modules_to_save == ()
    assert all("lora" in name for name, p in run.model.named_parameters() if p.requires_grad)


def test_built_in_questions_are_asked_and_replies_are_shown(tmp_path, monkeypatch, capsys):
    few_items(monkeypatch, sft, TRAIN_ITEMS=20, TEST_ITEMS=10)
    monkeypatch.setattr(lora_data, "VALIDATION_ITEMS", 4)
    save_model(tmp_path / "base", *small_chat_model(block_size=96))
    run = start(train_lora, settings(tmp_path / "base", "tasks", tmp_path / "run", steps=1))
    assert {"exact_match", "format"} <= run.after["scores"].keys()
    shown = capsys.readouterr().out.partition("Replies before and after")[2]
    questions = list(run.before["replies"])
    assert len(questions) == SHOWN and all(f"asked | {question}" in shown for question in questions)
    assert shown.count("before |") == shown.count("after |") == shown.count("right |") == SHOWN
