"""load_model: a run's folder, a Hugging Face folder, and what has no tokenizer."""

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
    assert type(LanguageModel.from_pretrained(GOLDEN / "llama-folder")) is Llama


def test_without_a_tokenizer_gpt2s_own_is_taken_where_it_fits(tmp_path, capsys, monkeypatch):
    standing_in = Tokenizer.train("low lower", vocab_size=258)
    monkeypatch.setattr(Tokenizer, "gpt2", lambda: standing_in)
    GPT(GPTConfig(block_size=2, n_layer=1, n_head=1, n_embd=2)).save_pretrained(tmp_path)
    assert load_model(tmp_path)[1] is standing_in
    said = f"{tmp_path} has no tokenizer; its 50,257 tokens are taken to be those of GPT-2\n"
    assert capsys.readouterr().out == said
    small_gpt().save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer \(.*\), and with 37 tokens it is not GPT-2's"):
        load_model(tmp_path)


def test_a_tokenizer_that_is_too_large(tmp_path):
    Tokenizer.train("low lower", vocab_size=258).save(tmp_path)
    small_gpt().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 258 tokens, but the model knows 37"):
        load_model(tmp_path)
