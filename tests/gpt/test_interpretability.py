"""Recording, patching, ablation, the logit lens and induction scores, against what they must be by construction."""

import numpy as np
import pytest

import minigrad.functional as F
from gpt import GPT, GPTConfig, Llama, LlamaConfig
from gpt.interpretability import (
    ablated,
    attention_patterns,
    induction_scores,
    logit_lens,
    patch_effects,
    patched,
    record_activations,
    repeated_tokens,
)
from minigrad import Tensor, autocast, manual_seed, no_grad, use_kernels

SHAPE = {"vocab_size": 40, "n_embd": 16, "block_size": 32, "n_layer": 3, "n_head": 4}
IDS = np.array([[1, 7, 3, 9, 2, 7], [0, 0, 5, 6, 7, 8]])


@pytest.fixture(params=["gpt", "llama"])
def model(request):
    manual_seed(0)
    made = GPT(GPTConfig(**SHAPE)) if request.param == "gpt" else Llama(LlamaConfig(**SHAPE, n_kv_head=2, n_inner=24))
    for parameter in made.parameters():
        parameter.data *= 4 if parameter.ndim == 2 else 1  # far from a uniform distribution
    return made.eval()


def test_a_recording_holds_what_the_modules_computed(model):
    block, mlp = model.part_names()[1], model.part_names("mlp")[1]
    with record_activations(model, [block, mlp]) as found:
        logits = model(IDS).data
    with patched(model, {mlp: found[mlp]}):
        assert np.array_equal(model(IDS).data, logits)
    with patched(model, {block: found[block] * 0 + 1.0}):
        assert not np.allclose(model(IDS).data, logits)
    assert np.array_equal(model(IDS).data, logits) and not model.get_submodule(mlp)._forward_hooks


def test_gradients_flow_through_a_patch(model):
    shift = Tensor(np.zeros(16, np.float32), requires_grad=True)
    with patched(model, {model.part_names()[0]: lambda x: x + shift}):
        model.loss(IDS[:, :-1], IDS[:, 1:]).backward()
    assert np.abs(shift.grad).max() > 0


def test_what_cannot_be_patched_is_refused_and_leaves_no_hook(model):
    name = model.part_names("mlp")[0]
    with pytest.raises(AttributeError, match="nothing"), patched(model, {name: lambda x: x, "nothing": lambda x: x}):
        pass
    with pytest.raises(ValueError, match="cannot be replaced by"), patched(model, {name: np.zeros(3)}):
        model(IDS)
    assert not model.get_submodule(name)._forward_hooks


def test_patterns_sum_to_1_and_see_no_later_token(model):
    patterns = attention_patterns(model, IDS)
    assert patterns.shape == (3, 2, 4, 6, 6)
    assert np.allclose(patterns.sum(-1), 1, atol=1e-5) and np.all(patterns[..., ~np.tri(6, dtype=bool)] == 0)
    with use_kernels("fast"):
        assert np.allclose(attention_patterns(model, IDS), patterns, atol=1e-5)
    with autocast():
        assert np.allclose(attention_patterns(model, IDS), patterns, atol=0.05)


def test_a_pattern_is_softmax_of_queries_and_keys():
    manual_seed(0)
    gpt = GPT(GPTConfig(**SHAPE))
    block = gpt.transformer.h[0]
    with no_grad():
        x = gpt.transformer.wte(IDS) + gpt.transformer.wpe(np.arange(6))
        q, k, _ = F.split_heads(block.attn.c_attn(block.ln_1(x)), 4, parts=3)
    scores = np.where(np.tri(6, dtype=bool), q.data @ k.data.swapaxes(-1, -2) / 2, -np.inf)
    assert np.allclose(attention_patterns(gpt, IDS)[0], F.softmax(scores, -1).data, atol=1e-6)


def test_all_heads_off_is_attention_off_but_for_its_bias(model):
    name = model.part_names("attention")[1]
    bias = getattr(model.get_submodule(model.part_names("projection")[1]), "bias", None)
    if bias is not None:
        bias.data[...] = 0
    with ablated(model, heads=[(1, head) for head in range(4)]):
        heads = model(IDS).data
    with ablated(model, attention=[1]):
        layer = model(IDS).data
    with ablated(model, heads=[(1, 2)]), record_activations(model, [name]) as one:
        model(IDS)
    with ablated(model, heads=[(1, 0), (1, 1), (1, 3)]), record_activations(model, [name]) as others:
        model(IDS)
    with record_activations(model, [name]) as whole:
        assert not np.allclose(model(IDS).data, heads)
    with ablated(model, heads=[(1, 0)]), ablated(model, heads=[(1, 1), (1, 2), (1, 3)]):
        assert np.array_equal(model(IDS).data, heads)
    assert np.allclose(heads, layer, atol=1e-5)
    assert np.allclose(one[name] + others[name], whole[name], atol=1e-5)


def test_without_mlps_and_attention_only_the_embedding_is_left(model):
    with ablated(model, attention=range(3), mlps=range(3)), record_activations(model, model.part_names()[2:]) as found:
        model(IDS)
    rows = found[model.part_names()[2]]
    assert np.allclose(rows[0, 1] - rows[0, 5] if model.model_type == "llama" else 0, 0)  # the same token, 7


@pytest.mark.parametrize("what", [{"heads": [(0, 4)]}, {"heads": [(3, 0)]}, {"mlps": [3]}, {"attention": [-1]}])
def test_there_is_no_such_head(model, what):
    with pytest.raises(ValueError, match="there is no"), ablated(model, **what):
        pass


def test_the_lens_ends_in_the_models_own_logits(model):
    logits = logit_lens(model, IDS)
    assert logits.shape == (3, 2, 6, 40)
    assert np.allclose(logits[-1], model(IDS).data, atol=1e-5) and not np.allclose(logits[0], logits[-1])


def test_patching_brings_the_answer_back_where_the_difference_is(model):
    clean = IDS[0]
    corrupted = IDS[0].copy()
    corrupted[2] = 11
    effects = patch_effects(model, clean, corrupted, lambda logits: logits[-1, 3] - logits[-1, 4])
    assert effects.shape == (3, 6)
    assert np.allclose(effects[-1], [0, 0, 0, 0, 0, 1], atol=1e-3)  # after the last layer, only the last place counts
    assert np.allclose(effects[:, :2], 0, atol=1e-3)  # before the difference nothing differs
    with pytest.raises(ValueError, match="one length"):
        patch_effects(model, clean, corrupted[:-1], lambda logits: 0.0)
    with pytest.raises(ValueError, match="the same on both"):
        patch_effects(model, clean, clean, lambda logits: float(logits[-1, 3]))


def test_repeated_tokens_repeat_with_their_period():
    ids, periods = repeated_tokens(np.random.default_rng(0), 50, 24, 20)
    assert set(periods) <= set(range(6, 13)) and len(set(periods)) > 3
    for row, period in zip(ids, periods, strict=True):
        assert len(set(row[:period])) == period and np.array_equal(row[period:], row[:-period])
    with pytest.raises(ValueError, match="12 different tokens"):
        repeated_tokens(np.random.default_rng(0), 1, 24, 11)


def test_a_perfect_induction_head_scores_1(monkeypatch):
    manual_seed(0)
    gpt = GPT(GPTConfig(**SHAPE))

    def patterns(model, ids):
        found = np.zeros((1, len(ids), 2, ids.shape[1], ids.shape[1]))
        for b, row in enumerate(ids):
            for t, token in enumerate(row):
                before = np.flatnonzero(row[:t] == token)
                found[0, b, 0, t, before[-1] + 1 if len(before) else 0] = 1
                found[0, b, 1, t, : t + 1] = 1 / (t + 1)
        return found

    monkeypatch.setattr("gpt.interpretability.induction.attention_patterns", patterns)
    ((perfect, even),) = induction_scores(gpt)
    assert np.isclose(perfect, 1) and 0.02 < even < 0.1
