"""GGUF files that we write: the library gguf reads them, and so do we, with the same numbers, tokens and template."""

import numpy as np
import pytest

from gpt import Tokenizer
from gpt.training.loading import load_model
from gpt.weights import gguf_writing
from gpt.weights.gguf_file import GGUFError
from gpt.weights.gguf_writing import KINDS, write_gguf
from tests.gpt.gguf_files import block_llama
from tests.gpt.small import small_gpt
from tests.gpt.smollm import TEMPLATE, smollm_tokenizer
from tests.scripts.running import STORY

TEXT = "the cat sat on 123 mats: café 猫!<|endoftext|>"


def gpt_and_tokenizer():
    tokenizer = Tokenizer.train(STORY, vocab_size=280, special_tokens=["<|endoftext|>", "<|im_end|>"])
    tokenizer.chat_template = TEMPLATE
    return small_gpt(vocab_size=len(tokenizer), n_embd=32, block_size=24), tokenizer


def llama_and_tokenizer():
    tokenizer = smollm_tokenizer()
    return block_llama(vocab_size=len(tokenizer)), tokenizer


@pytest.mark.oracle("gguf")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [gpt_and_tokenizer, llama_and_tokenizer])
def test_both_readers_give_back_what_was_written(make, kind, tmp_path):
    import gguf

    model, tokenizer = make()
    path = tmp_path / "model.gguf"
    write_gguf(path, model, tokenizer, kind)
    back, its_tokenizer = load_model(path)
    assert type(back) is type(model) and back.config == model.config
    assert its_tokenizer.vocab == tokenizer.vocab and its_tokenizer.merges == tokenizer.merges
    assert its_tokenizer.special_tokens == tokenizer.special_tokens and its_tokenizer.pattern == tokenizer.pattern
    assert its_tokenizer.eos_token == tokenizer.eos_token and its_tokenizer.chat_template == tokenizer.chat_template
    assert its_tokenizer.encode(TEXT) == tokenizer.encode(TEXT)
    arrays = model.state_dict()
    for name, array in back.state_dict().items():
        stored = kind if array.ndim > 1 else "F32"
        quantized = gguf.quants.quantize(np.ascontiguousarray(arrays[name]), gguf.GGMLQuantizationType[stored])
        expected = gguf.quants.dequantize(quantized, gguf.GGMLQuantizationType[stored])
        np.testing.assert_array_equal(array, expected.reshape(array.shape), err_msg=name)
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == model.model_type
    file_type = gguf.LlamaFileType(reader.fields["general.file_type"].contents())
    assert file_type.name == ("ALL_F32" if kind == "F32" else f"MOSTLY_{kind}")
    assert len(reader.tensors) == len(arrays) and reader.fields["tokenizer.ggml.tokens"].contents()[5] is not None
    with pytest.raises(FileExistsError, match="exists already"):
        write_gguf(path, model, tokenizer)


@pytest.mark.oracle("gguf")
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    model, tokenizer = gpt_and_tokenizer()
    with pytest.raises(ValueError, match="GGUF knows GPT-2 only"):
        write_gguf(tmp_path / "a.gguf", small_gpt(norm="post"), tokenizer)
    model.transformer.wte.weight.data[0, 0] = 1e9  # too large for half precision
    for kind in ("F16", "Q8_0"):
        with pytest.raises(ValueError, match="token_embd.weight holds numbers that are not finite"):
            write_gguf(tmp_path / "a.gguf", model, tokenizer, kind)
    with pytest.raises(ValueError, match="kind is 'Q2_K'; supported here: F32, F16, Q8_0"):
        write_gguf(tmp_path / "a.gguf", model, tokenizer, "Q2_K")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(GGUFError, match="pip install gguf"):
        write_gguf(tmp_path / "a.gguf", model, tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_not_whole_blocks_are_half_precision():
    assert [gguf_writing._kind(np.zeros((4, n)), "Q8_0") for n in (32, 33, 64)] == ["Q8_0", "F16", "Q8_0"]
