"""scripts/verify_gpt2.py and scripts/compare_torch.py as their users meet them."""

import importlib.util
import shutil

import pytest

from gpt import GPT, GPTConfig, Tokenizer
from gpt.weights.pretrained import WEIGHTS
from gpt.weights.safetensors_file import SafetensorsFile, write_safetensors
from scripts import compare_torch, verify_gpt2
from tests.gpt.small import GOLDEN, small_llama
from tests.helpers import change_json
from tests.scripts.running import STORY, output_of, refusal, run_here, write_model

FOLDER, REFERENCE = GOLDEN / "gpt2-folder", GOLDEN / "gpt2-folder-trace.npz"


@pytest.fixture
def without_torch(monkeypatch):
    find_spec = importlib.util.find_spec
    found = lambda name, *more: None if name in ("torch", "transformers") else find_spec(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", found)


def verified(*arguments):
    return output_of(verify_gpt2.main, *arguments)


def failure(capsys, *arguments):
    """What it prints, and the sentence at the end, of a model that is wrong."""
    capsys.readouterr()
    assert run_here(verify_gpt2.main, *arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    return captured.out, captured.err


def changed_folder(folder, change, **settings):
    """The golden folder with some of its tensors or of its settings changed."""
    shutil.copytree(FOLDER, folder)
    with SafetensorsFile(FOLDER / WEIGHTS) as file:
        tensors = {name: file.read(name) for name in file.entries}
    change(tensors)
    (folder / WEIGHTS).unlink()
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})
    change_json(folder / "config.json", **settings)
    return folder


@pytest.mark.parametrize("more", [[], ["--kernels", "textbook"], ["--dtype", "float32"]])
def test_the_golden_folder_is_verified_without_transformers(without_torch, more):
    out = verified("--model", FOLDER, "--reference", REFERENCE, "--prompt", "the cat", *more)
    assert "wte.weight" in out and out.count(" transposed ok\n") == 8
    assert "attention                     2,176          2,176   18.5%" in out
    assert "the same everywhere" in out and "differs" not in out
    assert "the cat ->" in out and "perplexity" in out and out.endswith("\nverified\n")


def test_without_a_reference_it_says_what_was_not_checked(capsys, without_torch, tmp_path):
    knowing = changed_folder(tmp_path / "m", lambda tensors: [array.__imul__(0) for array in tensors.values()])
    out, error = failure(capsys, "--model", knowing)
    assert "Not checked: there is no reference" in out
    assert "behavior: the model's perplexity is no better than chance" in error  # it knows nothing at all
    saved = ["--save-reference", tmp_path / "r.npz"]
    assert "--save-reference needs transformers" in refusal(verify_gpt2.main, capsys, "--model", FOLDER, *saved)


FIRST = "computation: the first activation that differs is "
MISTAKES = [
    (list, {"n_head": 4}, f"{FIRST}h.0.attn.heads (what the heads found)"),
    (lambda tensors: tensors.pop("transformer.h.1.ln_2.bias"), {}, "structure: h.1.ln_2.bias is missing"),
]


@pytest.mark.parametrize("change, settings, words", MISTAKES)
def test_a_wrong_folder_fails_and_the_sentence_says_where(capsys, without_torch, tmp_path, change, settings, words):
    folder = changed_folder(tmp_path / "m", change, **settings)
    out, error = failure(capsys, "--model", folder, "--reference", REFERENCE)
    assert words in error
    if words.startswith("computation"):  # all is shown
        assert out.count("<-- the first that differs") == 2 and "(3) behavior" in out  # activations and gradients


def test_parameters_are_compared_with_the_formula(capsys):
    model = GPT(GPTConfig(100, 16, 1, 2, 8))
    assert verify_gpt2.check_count(model) == []
    model.transformer.h[0].attn.c_proj.bias = None
    assert "attention has 280 parameters, not 288" in verify_gpt2.check_count(model)[0]
    assert "attention" in capsys.readouterr().out


def test_a_text_of_ones_own(without_torch, tmp_path):
    (tmp_path / "t.txt").write_text("the cat sat on a mat", encoding="utf-8")
    out = verified("--model", FOLDER, "--reference", REFERENCE, "--text", tmp_path / "t.txt")
    assert f"on {len(Tokenizer.load(FOLDER).encode('the cat sat on a mat'))} tokens" in out


def test_the_reference_of_another_model_is_refused(capsys, tmp_path):
    write_model(tmp_path)
    error = refusal(verify_gpt2.main, capsys, "--model", tmp_path, "--reference", REFERENCE)
    assert "is the reference of another model: its n_layer is 2, this one's 1" in error


# --- with transformers ------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_live_and_saved_references_agree(tmp_path):
    out = verified("--model", FOLDER, "--save-reference", tmp_path / "r.npz")
    assert "the same everywhere" in out and out.endswith("\nverified\n")
    verified("--model", FOLDER, "--reference", tmp_path / "r.npz")


@pytest.mark.oracle
def test_a_runs_folder_is_verified_too(tmp_path):
    write_model(tmp_path)
    out = verified("--model", tmp_path)
    assert "is not a Hugging Face folder" in out and "the same everywhere" in out


@pytest.mark.oracle
@pytest.mark.parametrize("more", [[], ["--kernels", "textbook"], ["--dtype", "float32"], ["--model", str(FOLDER)]])
def test_a_comparison_with_torch(more):
    out = output_of(compare_torch.main, *more)
    assert "logits" in out and "transformer.wte.weight" in out and "The same everywhere" in out


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_comparison_of_a_llama_with_torch(tmp_path, dtype):
    small_llama(vocab_size=270).save_pretrained(tmp_path, Tokenizer.train(STORY, vocab_size=270))
    out = output_of(compare_torch.main, "--model", str(tmp_path), "--dtype", dtype)
    assert "layers.1.mlp.gated" in out and "model.embed_tokens.weight" in out and "The same everywhere" in out


@pytest.mark.oracle
def test_a_comparison_with_torch_can_fail(monkeypatch, capsys):
    carried_over = compare_torch.carried_over

    def wrong(model):
        twin = carried_over(model)
        twin.transformer.h[1].ln_2.eps = 1e-3
        return twin

    monkeypatch.setattr(compare_torch, "carried_over", wrong)
    assert run_here(compare_torch.main) == 1
    assert "the first activation that differs is h.1.ln_2" in capsys.readouterr().err


def test_without_torch_the_comparison_says_how_to_get_it(capsys, without_torch):
    error = refusal(compare_torch.main, capsys)
    assert "torch and transformers are not installed" in error and "pip install -e '.[oracle]'" in error
