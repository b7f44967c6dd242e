"""Llama against transformers, and each of its four changes by itself: what it should do, and mistakes that must show.

What every language model does (inputs, loss, cache, generation) is tested with GPT in test_model.py, which compares the
numbers of both with transformers'; here only where Llama's way there is another. test_generation.py runs both.
"""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
import minigrad.functional as F
from gpt import KVCache, Llama, LlamaConfig
from gpt.model import llama
from minigrad import Tensor, nn, no_grad, optim, use_kernels
from minigrad.functional import attention, rotary
from tests.gpt.small import LLAMA, golden, random_ids, small_llama

both_kernels = pytest.mark.parametrize("kernels", ["textbook", "fast"])


# --- counting ---------------------------------------------------------------------------------------------------------


def test_smollm2_has_134_515_008_parameters():
    with nn.init.skipped():  # nothing touches the memory
        model = Llama(LlamaConfig())
    assert model.num_parameters() == LlamaConfig().num_parameters() == 134_515_008
    assert len(model.state_dict()) == 1 + 30 * 9 + 1


@given(st.integers(1, 50), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_the_closed_formula_counts_what_is_built(vocab_size, n_layer, n_kv_head, group, half, tied):
    n_head = n_kv_head * group
    config = LlamaConfig(vocab_size, 8, n_layer, n_head, n_kv_head, n_head * 2 * half, n_inner=7, tied=tied)
    assert Llama(config).num_parameters() == config.num_parameters()


# --- the same numbers as transformers ---------------------------------------------------------------------------------


@pytest.mark.oracle
@both_kernels
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("changes", [{}, {"n_head": 6, "n_kv_head": 6, "tied": False}, {"n_kv_head": 1}])
def test_other_shapes_equal_transformers_live(kernels, padded, changes):
    import torch
    import transformers

    shape = {"vocab_size": 101, "block_size": 70, "n_layer": 3, "n_head": 9, "n_kv_head": 3, "n_embd": 36}
    config = LlamaConfig(**{**shape, "n_inner": 50, "rope_theta": 5000.0, **changes})
    torch.manual_seed(0)
    reference = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=101,
            max_position_embeddings=70,
            num_hidden_layers=3,
            num_attention_heads=config.n_head,
            num_key_value_heads=config.n_kv_head,
            hidden_size=36,
            intermediate_size=50,
            rms_norm_eps=1e-5,
            rope_theta=5000.0,
            tie_word_embeddings=config.tied,
            initializer_range=0.3,
        )
    ).eval()
    model = Llama(config)
    weights = {name: parameter.detach().numpy() for name, parameter in reference.named_parameters()}
    assert set(model.state_dict()) == set(weights)  # the names are the same, and what is tied appears once
    model.load_state_dict(weights)
    ids, mask = random_ids((2, 65), vocab_size=101), np.ones((2, 65), np.int64)
    if padded:
        mask[1, :9] = 0
    with torch.no_grad(), no_grad(), use_kernels(kernels):
        positions = torch.from_numpy(np.maximum(mask.cumsum(1) - 1, 0))
        expected = reference(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), position_ids=positions)
        logits = model(ids, attention_mask=mask).data
    real = mask == 1
    assert expected.logits.std() > 1
    np.testing.assert_allclose(logits[real], expected.logits.numpy()[real], rtol=0, atol=1e-4)


def turned_backwards(x, cos, sin):
    return rotary_rotate(x, cos, -sin)


def turned_as_in_the_paper(x, cos, sin):
    """Pairs of neighbors instead of halves."""
    x1, x2 = x[..., 0::2], x[..., 1::2]
    return np.stack([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).reshape(x.shape)


def heads_dealt_out(x, groups):
    """Query head h asks key head h % K, as repeating the heads one after the other would make it."""
    split = F.reshape(x, (*x.shape[:-3], x.shape[-3] // groups, groups, *x.shape[-2:]))
    return F.transpose(split, -4, -3)


def without_scale(query, *arguments, **options):
    return real_attention(query, *arguments, **{**options, "scale": 1.0})


rotary_rotate, real_attention, real_rotations = rotary.rotate, F.scaled_dot_product_attention, llama.rotations
MISTAKES = {
    "turned the other way": (rotary, "rotate", turned_backwards),
    "other pairs are turned": (rotary, "rotate", turned_as_in_the_paper),
    "nothing is turned": (rotary, "rotate", lambda x, cos, sin: x),
    "positions from 1": (llama, "rotations", lambda t, *rest: real_rotations(1.5 * t, *rest)),
    "query heads dealt out to key heads": (attention, "_group_heads", heads_dealt_out),
    "scores without their scale": (F, "scaled_dot_product_attention", without_scale),
    "gate and up exchanged": (F, "swiglu", lambda gate, up: gate * F.silu(up)),
    "GELU in the gate": (F, "swiglu", lambda gate, up: F.gelu(gate) * up),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_shows(mistake, monkeypatch):
    model, expected = golden("llama")
    monkeypatch.setattr(*MISTAKES[mistake])
    with no_grad():
        assert abs(model(expected["ids"]).data - expected["logits"]).max() > 1e-3


@pytest.mark.parametrize("changes", [{"rms_norm_epsilon": 1e-5}, {"rope_theta": 1e4}])
def test_another_setting_shows(changes):
    model, expected = golden("llama")
    other = Llama(dataclasses.replace(model.config, **changes)).to("float64")
    other.load_state_dict(model.state_dict())
    with no_grad():
        assert abs(other(expected["ids"]).data - expected["logits"]).max() > 1e-3


# --- weights ----------------------------------------------------------------------------------------------------------


def test_the_tied_head_is_the_embedding_and_an_untied_one_its_own():
    tied, untied = small_llama(), small_llama(tied=False)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert "model.embed_tokens.weight" in tied.state_dict() and "lm_head.weight" not in tied.state_dict()
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight and "lm_head.weight" in untied.state_dict()
    assert not any("bias" in name for name in tied.state_dict())


def test_the_weights_start_small_where_they_add_to_the_residual_stream():
    model = Llama(LlamaConfig(400, 64, n_layer=8, n_head=4, n_kv_head=2, n_embd=128, n_inner=200))
    for name, parameter in model.named_parameters():
        data = parameter.data
        if data.ndim == 1:
            assert (data == 1).all(), name
        else:
            std = 0.02 / math.sqrt(2 * 8) if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            assert data.std() == pytest.approx(std, rel=5 / math.sqrt(2 * data.size)), name  # 5 standard errors


def test_at_first_the_loss_is_that_of_knowing_nothing_and_training_lowers_it():
    mg.manual_seed(0)
    model = Llama(LlamaConfig(vocab_size=64, block_size=16, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, n_inner=48))
    optimizer, ids = optim.AdamW(model.parameters(), lr=1e-2), random_ids((4, 17), vocab_size=64)
    losses = []
    for _ in range(30):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(64), abs=0.1)
    assert losses[-1] < 0.2 * losses[0]


@both_kernels
def test_a_hooked_layer_is_called_and_not_fused_away(kernels):
    """What replaces or watches a layer from outside (LoRA, quantization, a forward hook) has to be called."""
    model, ids, called = small_llama(), random_ids((2, 6)), []
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 2 * 7 + 1
    for name in linears:
        model.get_submodule(name).register_forward_hook(lambda layer, x, out: called.append(layer))
    with use_kernels(kernels), no_grad():
        model.loss(ids, ids)
    assert len(called) == len(linears)


# --- rotary positions -------------------------------------------------------------------------------------------------


def test_a_query_and_a_key_see_their_distance_only():
    q, k = (np.random.default_rng(i).normal(size=8) for i in range(2))

    def score(query_at, key_at):
        cos, sin = llama.rotations(np.array([query_at, key_at]), 8, 100.0, np.float64)
        turned = F.rotary_embedding(Tensor(np.stack([q, k])), cos, sin).data
        return turned[0] @ turned[1]

    assert score(5, 2) == pytest.approx(score(1003, 1000), abs=1e-11)
    assert score(0, 0) == pytest.approx(q @ k, abs=1e-12)
    assert abs(score(5, 2) - score(5, 3)) > 1e-3 and abs(score(5, 2) - score(2, 5)) > 1e-3


def test_the_model_sees_distances_only():
    """The same text, at 0 and behind 5 tokens that are hidden from it but take their places."""
    model, ids = small_llama(dtype="float64"), random_ids((1, 6))
    with no_grad():
        x = model.model.embed_tokens(ids)
        results = []
        for start in (0, 5, 4000):
            rotation = llama.rotations(np.arange(start, start + 6), 4, 100.0, np.float64)
            results.append(model.model.layers[0](x, rotation).data)
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(results[2], results[0], rtol=0, atol=1e-10)


def test_angles_are_exact_far_out_and_for_each_sequence():
    positions = np.array([[0, 1, 2], [8189, 8190, 8191]])
    cos, sin = llama.rotations(positions, 64, 100000.0, np.float32)
    assert cos.shape == sin.shape == (2, 1, 3, 32) and cos.dtype == np.float32
    for i in (0, 1, 31):
        angle = 8191 / 100000.0 ** (2 * i / 64)
        assert (cos[1, 0, 2, i], sin[1, 0, 2, i]) == pytest.approx((math.cos(angle), math.sin(angle)), abs=1e-7)


def test_the_order_of_the_tokens_matters():
    model = small_llama()
    with no_grad():
        a, b = model([[5, 6, 7]]).data[0, -1], model([[6, 5, 7]]).data[0, -1]
    assert abs(a - b).max() > 1e-3


@both_kernels
def test_no_token_sees_a_later_one(kernels):
    model, ids = small_llama(), random_ids((1, 9))
    changed = ids.copy()
    changed[0, 5:] = (ids[0, 5:] + 1) % 37
    with no_grad(), use_kernels(kernels):
        a, b = model(ids).data[0], model(changed).data[0]
    np.testing.assert_array_equal(a[:5], b[:5])
    assert (a[5:] != b[5:]).any(axis=1).all()


@both_kernels
def test_padding_changes_nothing_on_either_side(kernels):
    model, ids = small_llama(dtype="float64"), random_ids((1, 6))
    left, right = np.full((1, 9), 36), np.zeros((1, 9), int)
    left[:, 3:], right[:, :6] = ids, ids
    with no_grad(), use_kernels(kernels):
        expected = model(ids).data
        on_the_left = model(left, attention_mask=[[0, 0, 0, 1, 1, 1, 1, 1, 1]]).data[:, 3:]
        on_the_right = model(right, attention_mask=[[1] * 6 + [0] * 3]).data[:, :6]
    np.testing.assert_allclose(on_the_left, expected, atol=1e-12)
    np.testing.assert_allclose(on_the_right, expected, atol=1e-12)


def test_more_tokens_than_the_block_are_refused():
    with pytest.raises(ValueError, match="13 tokens are more than the model's block size of 12"):
        small_llama()(random_ids((1, 13)))


# --- grouped-query attention ------------------------------------------------------------------------------------------


@both_kernels
@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_shared_heads_are_full_attention_with_repeated_keys_and_values(n_kv_head, kernels):
    grouped, full = small_llama(dtype="float64", n_kv_head=n_kv_head), small_llama(dtype="float64", n_kv_head=4)
    weights = grouped.state_dict()
    for name in weights:
        if "k_proj" in name or "v_proj" in name:
            heads = weights[name].reshape(n_kv_head, 4, 16)
            weights[name] = np.repeat(heads, 4 // n_kv_head, axis=0).reshape(16, 16)
    full.load_state_dict(weights)
    ids = random_ids((2, 9))
    with use_kernels(kernels):
        for model in (grouped, full):
            model.loss(ids, ids).backward()
        with no_grad():
            np.testing.assert_allclose(grouped(ids).data, full(ids).data, rtol=0, atol=1e-12)
    name = "model.layers.0.self_attn.k_proj"
    shared, each = grouped.get_submodule(name).weight.grad, full.get_submodule(name).weight.grad
    summed = each.reshape(n_kv_head, 4 // n_kv_head, 4, 16).sum(axis=1).reshape(-1, 16)
    np.testing.assert_allclose(shared, summed, rtol=0, atol=1e-12)


def test_the_cache_holds_the_heads_of_keys_and_values_only():
    cache = KVCache.for_model(small_llama(), batch=3, capacity=5)
    assert {array.shape for array in cache.keys + cache.values} == {(3, 2, 5, 4)}


def test_a_cache_refuses_to_be_trained_through():
    model = small_llama()
    with pytest.raises(RuntimeError, match=r"with no_grad\(\)"):
        model([[1, 2]], cache=KVCache.for_model(model))


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_embd": 10, "n_head": 3, "n_kv_head": 3}, "10 cannot be divided among 3 heads"),
        ({"n_head": 4, "n_kv_head": 3}, "4 query heads cannot share 3 heads of keys and values"),
        ({"n_head": 4, "n_kv_head": 8}, "n_kv_head must divide n_head"),
        ({"n_embd": 12, "n_head": 4}, "a head has 3"),
        ({"n_kv_head": 0}, "n_kv_head must be an integer >= 1, got 0"),
        ({"n_inner": 2.5}, "n_inner must be an integer >= 1, got 2.5"),
        ({"vocab_size": True}, "vocab_size"),
        ({"rope_theta": 0}, "rope_theta must be a number > 0, got 0"),
        ({"rope_theta": math.inf}, "rope_theta"),
        ({"rope_theta": "1e4"}, "rope_theta"),
        ({"rms_norm_epsilon": -1.0}, "rms_norm_epsilon must be a number >= 0"),
        ({"tied": 1}, "tied must be true or false, got 1"),
    ],
)
def test_impossible_shapes_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        LlamaConfig(**{**LLAMA, **changes})


def test_a_configuration_survives_a_dictionary():
    config = LlamaConfig(**LLAMA)
    assert LlamaConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown setting n_heads; LlamaConfig has block_size"):
        LlamaConfig.from_dict({"n_heads": 4})
