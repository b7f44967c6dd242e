"""Linear attention and the delta rule beside a loop over tokens, their gradients, and a GPT with a state."""

from contextlib import nullcontext

import numpy as np
import pytest
from numpy.testing import assert_allclose

import minigrad.functional as F
from gpt import GPT, GPTConfig
from gpt.model.generation import Sampling
from gpt.model.linear_attention import (
    KINDS,
    LinearAttention,
    StateCache,
    by_chunks,
    token_by_token,
    use_linear_attention,
)
from gpt.model.speculation import speculate
from minigrad import Tensor, gradcheck, manual_seed, no_grad, use_kernels
from tests.gpt.small import small_gpt

IDS = np.random.default_rng(1).integers(20, size=(2, 12))
FORMS = {"loop": token_by_token, "chunks": by_chunks, "chunks of 3": lambda *inputs: by_chunks(*inputs, chunk=3)}


def inputs(kind, T, B=2, H=2, D=3):
    """q, k, v, β, ln α and a state in float64; β is None, or ln α is 0, as the kind says."""
    rng = np.random.default_rng(T)
    q, k, v = rng.standard_normal((3, B, H, T, D))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    beta = None if kind == "linear" else rng.uniform(0, 1, (B, H, T, 1))
    log_alpha = np.log(rng.uniform(0.2, 1, (B, H, T, 1))) if kind == "gated delta" else np.zeros((B, H, T, 1))
    return q, k, v, beta, log_alpha, rng.standard_normal((B, H, D, D))


def as_tensors(arrays):
    return [None if array is None else Tensor(array) for array in arrays]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("T", [1, 35])
def test_it_equals_the_formula_in_a_plain_loop(T, form, kind, kernels):
    q, k, v, beta, log_alpha, S = arrays = inputs(kind, T)
    outs = np.zeros_like(v)
    for t in range(T):
        q_t, k_t, v_t = (x[:, :, t, :, None] for x in (q, k, v))
        erase, write = (0, 1) if beta is None else [beta[:, :, t, None]] * 2
        forgotten = np.eye(3) - erase * (k_t @ k_t.swapaxes(2, 3))
        S = np.exp(log_alpha[:, :, t, None]) * S @ forgotten + write * (v_t @ k_t.swapaxes(2, 3))
        outs[:, :, t] = (S @ q_t)[..., 0]
    with use_kernels(kernels):
        found = FORMS[form](*as_tensors(arrays))
    assert_allclose(found[0].data, outs, atol=1e-12)
    assert_allclose(found[1].data, S, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["loop", "chunks of 3"])
def test_the_gradients_of_outputs_and_state(form, kind):
    q, k, v, beta, log_alpha, state = inputs(kind, 5, B=1)

    def function(q, k, v, log_alpha, state, *beta):
        return F.cat([part.flatten() for part in FORMS[form](q, k, v, *(beta or [None]), log_alpha, state)])

    gradcheck(function, [q, k, v, log_alpha, state, *([] if beta is None else [beta])])


def small(kind="gated delta", every=2):
    """A GPT of 4 layers with weights large enough to matter: its attention attends."""
    manual_seed(0)
    model = GPT(GPTConfig(vocab_size=20, block_size=12, n_layer=4, n_head=2, n_embd=8))
    use_linear_attention(model, kind, every)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data += rng.normal(0, 0.3, p.shape).astype("float32")
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_has_keys_of_length_1_and_its_own_gates(kind):
    attn = small(kind).transformer.h[0].attn.to(np.float64)
    x, *_, beta, log_alpha, S = as_tensors(inputs(kind, 5, D=4))
    x = F.merge_heads(x)  # (B, T, C)
    if kind != "linear":
        beta = F.sigmoid(F.split_heads(attn.beta(x), 2))
    if kind == "gated delta":
        log_alpha = F.logsigmoid(F.split_heads(attn.alpha(x), 2) + 4)
    q, k, v = F.split_heads(attn.c_attn(x), 2, parts=3)  # (B, H, T, D) each
    q, k = (F.rms_norm(y, 4) / 2 for y in (q, k))  # the root of the mean of 4 squares is 1 for a length of 2
    out = token_by_token(q, k, v, beta, log_alpha, 0 * S)[0]
    assert_allclose(attn(x).data, attn.c_proj(F.merge_heads(F.rms_norm(out, 4))).data, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_the_same_with_a_cache(kind):
    model, prompts = small(kind), [[1, 2, 3], [4], [1, 2, 3]]  # padding; a copied state; texts that outgrow the block
    texts = [model.generate(prompts, 16, temperature=0, use_cache=use_cache) for use_cache in (True, False)]
    assert texts[0] == texts[1] and texts[0][0] == texts[0][2] != texts[0][1]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_wherever_it_stands(kind):
    model = small(kind)
    mask = [[0, 1, 0, 0, 1, 1, 1, 0, 1, 0, 0, 1]]
    real = np.array(mask[0]) == 1
    found = model(IDS[:1], attention_mask=mask).data[0, real]
    assert_allclose(found, model(IDS[:1, real]).data[0], atol=1e-5)


@pytest.mark.parametrize("every, states", [(4, [0, 1, 2]), (2, [0, 2]), (0, [0, 1, 2, 3]), (1, [])])
def test_a_state_takes_as_many_bytes_after_any_text(every, states):
    model, cache = small(every=every), StateCache(2, 12)
    n_bytes = len(states) * 2 * 2 * 4 * 4 * 4 + (4 - len(states)) * 2 * 2 * 12 * 8 * 4  # of (B, H, D, D); of all tokens
    with no_grad():
        for start, stop in ((0, 1), (1, 9), (9, 12)):
            found = model(IDS[:, start:stop], cache=cache).data
            assert list(cache.states) == states and cache.nbytes == n_bytes
            assert_allclose(found, model(IDS).data[:, start:stop], atol=1e-5)
    cache.cut(12)
    assert list(cache.states) == states
    with pytest.raises(ValueError, match="just tokens 5 to 11: cut") if states else nullcontext():
        cache.cut(5)
    cache.cut(0)
    assert not cache.states and cache.length == 0


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: LinearAttention(8, 2, "rule"), ValueError, "one of linear, delta, gated delta, got 'rule'"),
        (lambda: next(speculate(small(), [1, 2, 3], 6, Sampling())), ValueError, "does not go with linear attention"),
        (
            lambda: next(speculate(small_gpt(), [1], 6, Sampling(), draft=small())),
            ValueError,
            "speculation does not go",
        ),
        (lambda: small(every=0)(IDS, cache=StateCache(2, 12)), RuntimeError, "a KV cache keeps no gradients"),
    ],
)
def test_what_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()
