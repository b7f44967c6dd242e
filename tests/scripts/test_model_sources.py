"""What --model and --init-from accept: each kind of folder or file, in each script."""

import importlib

import numpy as np
import pytest

from finetune.quantization import QuantizationConfig, quantize
from finetune.quantization.folder import save_quantized
from finetune.stages import sft
from gpt import LanguageModel
from gpt.training.loading import NotTrainableError, load_model
from gpt.weights.gguf_writing import write_gguf
from scripts import generate, lora, train
from tests.finetune.small import few_items, small_chat_model, write_rows
from tests.gpt.small import assert_same, save_model
from tests.scripts.running import refusal, run_here, write_text

FEW = ["--max-iters", 1, "--batch-size", 2, "--eval-interval", 0, "--warmup-iters", 0]
GGUF = pytest.param("model.gguf", marks=pytest.mark.oracle("gguf"))
PLAIN = ["run", "huggingface", GGUF, "lora", "qlora"]  # all weights can be trained
QUANTIZED = ["quantized", "lora on quantized"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one source of each kind, and a text."""
    folder = tmp_path_factory.mktemp("sources")
    text = write_text(folder / "text.txt", words=1500)
    model, tokenizer = small_chat_model(n_embd=64, block_size=32)
    save_model(folder / "run", model, tokenizer)
    model.save_pretrained(folder / "huggingface", tokenizer)
    config = QuantizationConfig("nf4")
    quantize(model, config)
    save_quantized(folder / "quantized", model, config, tokenizer)
    for name, base, method in (
        ("lora", "run", "lora"), ("qlora", "run", "qlora"), ("lora on quantized", "quantized", "lora")
    ):  # fmt: skip
        options = ["--init-from", folder / base, "--data", text, "--method", method, "--r", 2, *FEW]
        assert run_here(lora.main, *options, "--out-dir", folder / name) == 0
    return folder


@pytest.fixture
def source(folder, request):
    if request.param == "model.gguf" and not (folder / "model.gguf").exists():
        write_gguf(folder / "model.gguf", *load_model(folder / "run"), "Q8_0")
    return folder / request.param


@pytest.mark.parametrize("source", [*PLAIN, *QUANTIZED], indirect=True)
def test_any_source_is_a_model_to_use(source, capsys):
    options = ["--max-new-tokens", 3, "--temperature", 0, "--prompt", "the"]
    assert run_here(generate.main, "--model", source, *options) == 0
    model, tokenizer = load_model(source)
    assert not model.training and isinstance(model, LanguageModel)
    written = model.generate([tokenizer.encode("the")], 3, temperature=0)[0]
    assert tokenizer.decode(written) in capsys.readouterr().out


@pytest.mark.parametrize("source", PLAIN, indirect=True)
def test_any_source_with_float_weights_is_a_model_to_start_from(source, folder, tmp_path):
    text = ["--data", folder / "text.txt", "--out-dir", tmp_path / "run"]
    assert run_here(train.main, "--init-from", source, *text, *FEW, "--block-size", 8) == 0
    (before, tokenizer), (after, same) = (load_model(place, trainable=True) for place in (source, tmp_path / "run"))
    assert after.config == before.config and same.vocab == tokenizer.vocab
    change = max(abs(array - after.state_dict()[name]).max() for name, array in before.state_dict().items())
    assert 0 < change < 0.01  # one step away


TRAINING = ["sft", "reward", "dpo", "ppo", "grpo", "pipeline"]  # scripts with the same options
REFUSE = [
    "explain --text the --out-dir {out} --model {q}",
    "quantize --out-dir {out} --calibration {text} --model {q}",
    pytest.param("compare_torch --model {q}", marks=pytest.mark.oracle("torch", "transformers")),
    "verify_gpt2 --model {q}",
    "export {q} {out}",
    "sft --show-mask 1 --init-from {q}",
    *(f"{script} --out-dir {{out}} --init-from {{q}}" for script in TRAINING),
    "train --out-dir {out} --data {text} --init-from {q}",
    "classify --out-dir {out} --data {labels} --init-from {q}",
    "lora --method full --out-dir {out} --data {text} --init-from {q}",
    "lora --method qlora --out-dir {out} --data {text} --init-from {q}",
]


@pytest.mark.parametrize("line", REFUSE)
def test_quantized_weights_are_not_trained(line, folder, tmp_path, monkeypatch, capsys):
    few_items(monkeypatch, sft, TRAIN_ITEMS=20, TEST_ITEMS=10)
    labels = write_rows(tmp_path / "labels.jsonl", [{"text": f"word {i}", "label": "ab"[i % 2]} for i in range(6)])
    places = {"out": tmp_path / "out", "text": folder / "text.txt", "labels": labels, "q": folder / "quantized"}
    script, *arguments = [part.format(**places) for part in line.split()]
    sentence = refusal(importlib.import_module(f"scripts.{script}").main, capsys, *arguments)
    assert "quantized, or have adapters that cannot be merged, so they cannot be trained" in sentence
    assert "train adapters beside them with scripts/lora.py" in sentence
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_adapters_are_trained_beside_quantized_weights_only(folder, tmp_path, capsys):
    assert load_model(folder / "lora on quantized")[0].num_parameters(trainable_only=True) > 0
    options = ["--data", folder / "text.txt", "--r", 2, *FEW, "--out-dir", tmp_path / "out"]
    sentence = refusal(lora.main, capsys, "--init-from", folder / "lora on quantized", *options)
    assert "or have adapters that cannot be merged" in sentence
    with pytest.raises(NotTrainableError):
        load_model(folder / "lora on quantized", trainable=True)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_run_of_adapters_is_loaded_as_it_is_merged(method, folder, tmp_path, capsys):
    assert run_here(lora.main, "--merge", folder / method, "--out-dir", tmp_path / "merged") == 0
    note = "note: the adapters were trained beside 4-bit weights"
    assert (note in capsys.readouterr().out) == (method == "qlora")
    places = (folder / method, tmp_path / "merged", folder / "run")
    loaded, merged, base = (load_model(place)[0].state_dict() for place in places)
    assert (note in capsys.readouterr().out) == (method == "qlora")
    assert_same(loaded, merged)
    assert not all(np.array_equal(array, base[name]) for name, array in loaded.items())
