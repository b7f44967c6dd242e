"""scripts/export.py: transformers, PEFT and gguf load what it writes, with equal logits and tokens."""

import numpy as np
import pytest

from finetune.data.chat_template import ChatTemplate, add_chat_tokens
from finetune.loading import add_adapter_to
from finetune.objectives.model_with_head import HEAD_FORMAT, ModelWithHead
from gpt import Tokenizer, save_checkpoint
from gpt.training.loading import load_model
from scripts import export, lora, quantize
from tests.finetune.small import small_chat_model, write_rows
from tests.gpt.gguf_files import block_llama
from tests.gpt.small import logits_of, random_ids, save_model, small_gpt
from tests.gpt.smollm import smollm_tokenizer
from tests.helpers import read_json
from tests.scripts.running import refusal, run_here, write_text

QUICK = ["--max-iters", "3", "--batch-size", "2", "--eval-interval", "0", "--warmup-iters", "1", "--r", "2"]
TALK = [{"role": "user", "content": "the cat?"}, {"role": "assistant", "content": "a dog"}]
TEXT = "the cat sat: please <|im_end|> 42 café<|endoftext|>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of every kind: a base model, one that was tuned on conversations, a Llama, a classifier, adapters."""
    folder = tmp_path_factory.mktemp("runs")
    shape = {"n_embd": 64, "n_layer": 2, "n_head": 4}
    _, tokenizer = small_chat_model()
    base = small_gpt(vocab_size=len(tokenizer), block_size=96, **shape)
    save_model(folder / "base", base, tokenizer)
    classifier = ModelWithHead.from_language_model(base, ["yes", "no", "never"])
    save_checkpoint(folder / "classifier", classifier, format=HEAD_FORMAT)
    tokenizer.save(folder / "classifier")
    chat = small_gpt(vocab_size=len(tokenizer), block_size=96, **shape)
    add_chat_tokens(chat, tokenizer)
    save_model(folder / "chat", chat, tokenizer)
    save_model(folder / "llama", block_llama(vocab_size=len(smollm_tokenizer())), smollm_tokenizer())
    rows = write_rows(folder / "talks.jsonl", [{"prompt": f"Say {i}?", "completion": "yes"} for i in range(8)])
    text = write_text(folder / "story.txt", words=800)
    for name, more in {"on text": ["--data", text], "on talks": ["--data", rows], "qlora": ["--data", text]}.items():
        method = ["--method", "qlora"] if name == "qlora" else []
        run = ["--init-from", folder / "base", "--out-dir", folder / name, *more, *method, *QUICK]
        assert run_here(lora.main, *run) == 0
    return folder


def exported(run, folder, *more):
    assert run_here(export.main, run, folder, *more) == 0
    return folder


def assert_same_logits(theirs, model):
    import torch

    ids = random_ids((2, 20), vocab_size=model.config.vocab_size)
    with torch.no_grad():
        np.testing.assert_allclose(theirs(torch.from_numpy(ids)).logits.numpy(), logits_of(model, ids), atol=1e-4)


def assert_same_tokens(folder, tokenizer):
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs(TEXT)["input_ids"] == tokenizer.encode(TEXT) and len(theirs) == len(tokenizer)
    return theirs


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["base", "chat", "llama"])
def test_a_language_model(runs, name, tmp_path):
    import transformers

    folder = exported(runs / name, tmp_path / "out")
    model, tokenizer = load_model(runs / name)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert_same_logits(theirs, model)
    their_tokenizer = assert_same_tokens(folder, tokenizer)
    ends = theirs.generation_config.eos_token_id
    if name == "base":
        assert ends == tokenizer.eos_token_id and their_tokenizer.chat_template is None
        return
    template = ChatTemplate(tokenizer)
    assert sorted(ends) == sorted(template.stop_tokens) and tokenizer.special_tokens["<|im_end|>"] in ends
    config = read_json(folder / "tokenizer_config.json")
    assert config["chat_template"] == tokenizer.chat_template
    for ask in (False, True):
        rendered = their_tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=ask)
        assert rendered == template.render(TALK, add_generation_prompt=ask)


@pytest.mark.oracle("torch", "transformers", "peft")
@pytest.mark.parametrize("name", ["on text", "on talks", "qlora"])
def test_adapters_with_the_base_that_they_need(runs, name, tmp_path, capsys):
    import peft
    import transformers

    folder = exported(runs / name, tmp_path / "out")
    assert ("beside float ones" in capsys.readouterr().out) == (name == "qlora")
    model, tokenizer = load_model(folder / "base")
    tokenizer = add_adapter_to(model, tokenizer, folder) if name != "qlora" else tokenizer
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    if name == "qlora":
        assert run_here(lora.main, "--merge", runs / name, "--out-dir", tmp_path / "merged") == 0
        model, _ = load_model(tmp_path / "merged")
    assert_same_logits(theirs, model)
    assert_same_tokens(folder, tokenizer)
    moved = folder.rename(tmp_path / "moved")
    base = transformers.AutoModelForCausalLM.from_pretrained(moved / "base")
    assert_same_logits(peft.PeftModel.from_pretrained(base, moved).eval(), model)
    if name == "on talks":
        model, its_tokenizer = load_model(runs / "base")
        assert "<|im_end|>" in add_adapter_to(model, its_tokenizer, runs / name).special_tokens  # as --adapter does
        assert_same_logits(theirs, model)


@pytest.mark.oracle("gguf")
@pytest.mark.parametrize("name", ["chat", "llama", "on text"])
def test_a_gguf_file(runs, name, tmp_path):
    file = exported(runs / name, tmp_path / "out", "--gguf", "F32") / "model.gguf"
    expected, tokenizer = load_model(runs / name)
    model, its_tokenizer = load_model(file)
    assert its_tokenizer.encode(TEXT) == tokenizer.encode(TEXT)
    ids = random_ids((2, 20), vocab_size=model.config.vocab_size)
    np.testing.assert_array_equal(logits_of(model, ids), logits_of(expected, ids))


@pytest.mark.oracle("gguf")
def test_a_gguf_file_without_merges_is_refused(tmp_path, capsys):
    tokenizer = Tokenizer.train(["x"], 257)
    save_model(tmp_path / "bytes", small_gpt(vocab_size=len(tokenizer)), tokenizer)
    error = refusal(export.main, capsys, tmp_path / "bytes", tmp_path / "out", "--gguf", "F32")
    assert "a tokenizer of single bytes has none" in error and not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_refused(runs, tmp_path, capsys):
    text = ["--calibration", runs / "story.txt", "--out-dir", tmp_path / "q"]
    assert run_here(quantize.main, "--model", runs / "base", *text) == 0
    refused = {
        (tmp_path / "q", tmp_path / "out"): "q are quantized, or have adapters that cannot be merged",
        (runs / "base", runs / "chat"): "is not an empty folder",
        (runs / "nowhere", tmp_path / "out"): "there is no folder",
        (runs / "classifier", tmp_path / "out", "--gguf", "F16"): "which cannot be written as a GGUF file",
        (runs / "base", tmp_path / "out", "--gguf", "Q4_0"): "invalid choice: 'Q4_0'",
    }
    for arguments, words in refused.items():
        assert words in refusal(export.main, capsys, *arguments)
    assert not (tmp_path / "out").exists()
