"""load_model: a run's folder, a Hugging Face folder, and what is no model or has no tokenizer."""

import shutil

import pytest

from gpt import GPT, GPTConfig, LanguageModel, Llama, Tokenizer
from gpt.training.loading import load_model
from tests.gpt.small import GOLDEN, assert_same, save_model, small_gpt

FOLDER = GOLDEN / "gpt2-folder"


def test_a_run_and_a_folder_of_hugging_face(tmp_path):
    tokenizer = Tokenizer.train("low lower", vocab_size=258)
    model = small_gpt(vocab_size=258)
    save_model(tmp_path, model, tokenizer)
    loaded, its_tokenizer = load_model(tmp_path)
    assert_same(loaded, model)
    assert not loaded.training and its_tokenizer.vocab == tokenizer.vocab
    loaded, its_tokenizer = load_model(str(FOLDER))
    assert_same(loaded, GPT.from_pretrained(FOLDER))
    assert not loaded.training and len(its_tokenizer) == 300


@pytest.mark.parametrize(("folder", "architecture"), [("gpt2-folder", GPT), ("llama-folder", Llama)])
def test_a_language_model_has_the_architecture_of_its_folder(folder, architecture):
    assert type(LanguageModel.from_pretrained(GOLDEN / folder)) is architecture


def test_openais_names_for_the_vocabulary(tmp_path):
    tokenizer = Tokenizer.train("low lower", vocab_size=258)
    small_gpt(vocab_size=258).save_pretrained(tmp_path, tokenizer)
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    assert load_model(tmp_path)[1].vocab == tokenizer.vocab


def test_without_a_tokenizer_gpt2s_own_is_taken_where_it_fits_and_that_is_said(tmp_path, capsys, monkeypatch):
    standing_in = Tokenizer.train("low lower", vocab_size=258)
    monkeypatch.setattr(Tokenizer, "gpt2", lambda: standing_in)
    GPT(GPTConfig(block_size=2, n_layer=1, n_head=1, n_embd=2)).save_pretrained(tmp_path)
    assert load_model(tmp_path)[1] is standing_in
    said = f"{tmp_path} has no tokenizer; its 50,257 tokens are taken to be those of GPT-2\n"
    assert capsys.readouterr().out == said
    small_gpt().save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer \(.*\), and with 37 tokens it is not GPT-2's"):
        load_model(tmp_path)


def test_a_tokenizer_that_is_damaged_or_too_large(tmp_path):
    Tokenizer.train("low lower", vocab_size=258).save(tmp_path)
    small_gpt().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 258 tokens, but the model knows 37"):
        load_model(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="has only one of vocab.json and merges.txt"):
        load_model(tmp_path)


def test_what_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no model in .*: config.json is missing"):
        load_model(tmp_path)


def test_a_vocabulary_that_is_too_large_to_be_one_is_not_read(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "model")
    with open(tmp_path / "model" / "tokenizer.json", "r+b") as file:
        file.truncate(60_000_000)  # takes no room on the disk
    with pytest.raises(ValueError, match="tokenizer.json has 60,000,000 bytes, and more than"):
        load_model(tmp_path / "model")
