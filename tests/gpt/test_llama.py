"""Llama against transformers, and each of its four changes by itself: what it should do, and mistakes that must show.

What every language model does (inputs, loss, padding, hooks) is tested in test_model.py, which compares the numbers of
both with transformers'. test_generation.py runs both, too.
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


@given(
    st.integers(1, 50), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4),
    st.sampled_from([None, 2, 6]), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_the_closed_formula_counts_what_is_built(
    vocab_size, n_layer, n_kv_head, group, half, head_size, tied, qkv_bias, qk_norm
):
    n_head = n_kv_head * group
    options = {"n_inner": 7, "head_size": head_size, "tied": tied, "qkv_bias": qkv_bias, "qk_norm": qk_norm}
    config = LlamaConfig(vocab_size, 8, n_layer, n_head, n_kv_head, n_head * 2 * half, **options)
    assert Llama(config).num_parameters() == config.num_parameters()


# --- the same numbers as transformers (test_model.py), and mistakes that must show ------------------------------------


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
