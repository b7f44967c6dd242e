"""The chat template and its two tokens."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from finetune.data.chat_template import IM_END, IM_START, ChatTemplate, add_chat_tokens, resize_token_embeddings
from gpt import Llama, LlamaConfig, Tokenizer
from minigrad import Tensor, nn
from tests.finetune.small import small_chat_model, small_tokenizer
from tests.gpt.small import small_gpt
from tests.gpt.smollm import smollm_tokenizer

TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "the word?"},
    {"role": "assistant", "content": "kel"},
    {"role": "user", "content": "twice?"},
    {"role": "assistant", "content": "kel-kel"},
]


@pytest.fixture
def template():
    tokenizer = small_tokenizer()
    tokenizer.add_special_tokens([IM_START, IM_END])
    return ChatTemplate(tokenizer)


# --- the template -----------------------------------------------------------------------------------------------------


def test_the_end_of_text_ends_an_answer_too(template):
    assert template.stop_tokens == [template.end, template.tokenizer.eos_token_id]
    without_eos = Tokenizer.train("a b", 258, special_tokens=[IM_START, IM_END])
    assert ChatTemplate(without_eos).stop_tokens == [without_eos.special_tokens[IM_END]]
    # In SmolLM2's, <|im_end|> is the eos_token, and <|endoftext|> another one.
    assert ChatTemplate(smollm_tokenizer()).stop_tokens == [2, 0]


# --- conversations that are too long ----------------------------------------------------------------------------------


def test_oldest_turns_go_first_and_the_system_message_stays(template):
    whole, _ = template.encode(TALK)
    last_turn = [TALK[0], *TALK[3:]]
    expected, marks = template.encode(last_turn)
    assert template.encode_to_fit(TALK, len(whole)) == (*template.encode(TALK), False)
    assert template.encode_to_fit(TALK, len(whole) - 1)[2] is False  # only the line break at the end is left out
    assert template.encode_to_fit(TALK, len(whole) - 2) == (expected, marks, True)
    assert template.encode_to_fit(TALK, len(expected)) == (expected, marks, True)


def test_then_the_end_of_the_answer_is_cut(template):
    ids, loss_mask = template.encode(TALK[1:3])
    first = loss_mask.index(True)
    cut_ids, cut_mask, cut = template.encode_to_fit(TALK[1:3], first + 1)
    assert (cut_ids, cut_mask, cut) == (ids[: first + 1], loss_mask[: first + 1], True) and cut_mask[-1]


def test_nothing_left_to_learn_from_is_an_error(template):
    ids, loss_mask = template.encode(TALK[1:3])
    with pytest.raises(ValueError, match="the answer begins only after the .* tokens that the model can read"):
        template.encode_to_fit(TALK[1:3], loss_mask.index(True))
    with pytest.raises(ValueError, match="the assistant says nothing"):
        template.encode_to_fit(TALK[:2], 100)


# --- new tokens -------------------------------------------------------------------------------------------------------


def small_chat_llama(tied):
    tokenizer = small_tokenizer()
    shape = {"block_size": 16, "n_layer": 1, "n_head": 2, "n_kv_head": 1, "n_embd": 8, "n_inner": 8}
    return Llama(LlamaConfig(vocab_size=len(tokenizer), tied=tied, **shape)), tokenizer


@pytest.mark.parametrize(
    "make, embedding",
    [
        (small_chat_model, "transformer.wte"),
        (lambda: small_chat_llama(tied=True), "model.embed_tokens"),
        (lambda: small_chat_llama(tied=False), "model.embed_tokens"),
    ],
)
def test_new_tokens_get_the_mean_row_and_old_ones_keep_theirs(make, embedding):
    model, tokenizer = make()
    layers = [model.get_submodule(embedding), model.lm_head]
    tied = layers[0].weight is layers[1].weight
    before = [layer.weight.data.copy() for layer in layers]
    assert add_chat_tokens(model, tokenizer) == 2
    tokenizer.chat_template = None  # a base model's tokenizer may know the tokens and have no template
    assert add_chat_tokens(model, tokenizer) == 0 and tokenizer.chat_template is not None
    assert (layers[0].weight is layers[1].weight) == tied
    for layer, old in zip(layers, before):
        assert layer.weight.shape == (len(old) + 2, old.shape[1])
        assert_array_equal(layer.weight.data[:-2], old)
        assert_allclose(layer.weight.data[-2:], np.tile(old.mean(axis=0), (2, 1)), rtol=1e-6)
    inner = model.get_submodule(embedding.partition(".")[0])
    assert model.config == inner.config and model.config.vocab_size == len(tokenizer)
    assert model.num_parameters() == model.config.num_parameters()
    assert model(np.array([[1, len(tokenizer) - 1]])).shape == (1, 2, len(tokenizer))
    means = [layer.weight.data.mean(axis=0) for layer in layers]
    resize_token_embeddings(model, len(tokenizer) + 1)  # of one more the tokenizer knows nothing
    for layer, mean in zip(layers, means):
        assert_allclose(layer.weight.data[-1], mean, rtol=1e-5)


def test_a_vocabulary_with_room_is_not_enlarged():
    tokenizer = small_tokenizer()
    model = small_gpt(vocab_size=len(tokenizer) + 5)
    rows = model.transformer.wte.weight.data.copy()
    version = model.transformer.wte.weight.version
    assert add_chat_tokens(model, tokenizer) == 2
    assert model.transformer.wte.weight.version > version  # a graph from before knows that it was overwritten
    weight = model.transformer.wte.weight.data
    assert weight.shape == rows.shape and not np.array_equal(weight, rows)
    assert_allclose(weight[len(tokenizer) - 1], rows[: len(tokenizer) - 2].mean(axis=0), rtol=1e-5)
    assert_array_equal(weight[len(tokenizer) :], rows[len(tokenizer) :])


def test_models_that_cannot_be_resized_are_refused():
    model, _ = small_chat_model()
    model.lm_head = nn.Sequential(model.lm_head)
    resize_token_embeddings(model, 10)  # it has more
    with pytest.raises(ValueError, match="before adapters or quantization"):
        resize_token_embeddings(model, 500)
    assert isinstance(model.transformer.wte(np.array([1])), Tensor)
