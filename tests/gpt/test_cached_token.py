"""Latent attention, the sliding window and the cache that forgets, beside loops over tokens."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from gpt import KVCache, Llama, LlamaConfig, accounting
from gpt.model.generation import Sampling
from gpt.model.latent_attention import LatentAttention, use_latent_attention
from gpt.model.llama import rotations
from gpt.model.sliding_window import use_sliding_window, window_mask
from gpt.model.speculation import speculate
from minigrad import Tensor, gradcheck, manual_seed, no_grad, use_kernels
from minigrad.functional.rotary import rotate

T, H, D, LATENT = 6, 3, 8, 5
IDS, ROTATION = np.random.default_rng(0).integers(20, size=40), rotations(np.arange(T), D, 1e5, float)


def small(n_layer, change=lambda model: None):
    """A Llama in float64, changed, with weights large enough to matter."""
    manual_seed(0)
    model = Llama(LlamaConfig(20, 16, n_layer, H, 1, n_embd=12, head_size=D, tied=False))
    change(model)
    for p in model.parameters():
        p.data = p.data.astype(float) * (15 if p.ndim == 2 else 1)
    return model


def latent_attention(rope):
    """The attention of such a model, its weights, those of queries and of keys and values by head; an input (T, C)."""
    attn = small(1, lambda model: use_latent_attention(model, LATENT, rope)).blocks[0].self_attn
    W = {name: part.weight.data for name, part in attn.named_children()}
    assert len(W) == len([*attn.parameters()])  # no biases
    by_head = [W[name].reshape(H, -1, W[name].shape[1]) for name in ("q_proj", "q_rope_proj", "k_proj", "v_proj")]
    return attn, W, by_head, np.random.default_rng(0).standard_normal((T, 12))


def token_by_token(model, ids, cache):
    with no_grad():
        return np.concatenate([model([[token]], cache=cache).data[0] for token in ids])


def test_latent_attention_equals_a_loop_over_tokens(kernels):
    attn, W, (q, q_rope, W_UK, W_UV), x = latent_attention(rope=4)
    cos, sin = rotations(np.arange(T), 4, 1e5, float)
    rows = np.zeros((T, H, D))
    c = x @ W["latent_proj"].T
    c /= np.sqrt((c**2).mean(axis=1, keepdims=True) + 1e-5)
    for t, h in np.ndindex(T, H):
        query = [*q[h] @ x[t], *rotate(q_rope[h] @ x[t], cos[t], sin[t])]
        keys = [[*W_UK[h] @ c[s], *rotate(W["k_rope_proj"] @ x[s], cos[s], sin[s])] for s in range(t + 1)]
        e = np.exp(np.dot(keys, query) / np.sqrt(D + 4))
        rows[t, h] = e / e.sum() @ (c[: t + 1] @ W_UV[h].T)
    with use_kernels(kernels):
        found = attn(Tensor(x[None]), ROTATION).data[0]
    assert_allclose(found, rows.reshape(T, -1) @ W["o_proj"].T, rtol=1e-9)


def test_the_gradients_of_latent_attention():
    attn, W, _, x = latent_attention(rope=4)

    def function(x, *weights):
        for name, weight in zip(W, weights):
            vars(getattr(attn, name))["weight"] = weight
        return attn(x, [part[: x.shape[1]] for part in ROTATION])

    gradcheck(function, [x[None, :2], *W.values()])


def test_the_absorbed_form_from_a_small_cache_equals_the_simple(kernels):
    model, cache = small(2, lambda model: use_latent_attention(model, LATENT, rope=4)), KVCache(1, 16)
    with use_kernels(kernels):
        rows = token_by_token(model, IDS[:16], cache)
        assert_allclose(rows, model(IDS[:16]).data[0], atol=1e-9)
        texts = [model.generate([IDS[:3], [4]], 12, temperature=0, use_cache=use) for use in (True, False)]
    assert texts[0] == texts[1] and cache.nbytes == accounting.latent_cache_bytes(
        model.config, LATENT, 4, 16, "float64"
    )


def kept(t, window, sinks):
    return [s for s in range(t + 1) if s < sinks or s > t - window]


@pytest.mark.parametrize("window, sinks", [(4, 2), (3, 0), (1, 1), (13, 3)])
def test_the_mask_and_the_cache_equal_a_loop_over_tokens(window, sinks, kernels):
    visible = window_mask(5, 9, window, sinks)
    assert all(np.flatnonzero(row).tolist() == kept(t, window, sinks) for t, row in enumerate(visible, 4))
    for n_layer in (1, 2):
        model = small(n_layer, lambda model: use_sliding_window(model, window, sinks))
        cache = KVCache.for_model(model, 1, window + sinks)
        token_by_token(model, IDS, cache)
        cache.cut(0)  # the text before is forgotten
        with use_kernels(kernels):
            found = token_by_token(model, IDS, cache)
            masked = model(IDS[:16]).data[0]
        same = 16 if sinks == 0 else window + sinks  # then the sinks move along in the cache
        assert_allclose(found[:same], masked[:same], atol=1e-9)
        assert_allclose(token_by_token(model, IDS[:16], KVCache(1, 16)), masked, atol=1e-9)
        assert cache.nbytes == n_layer * 2 * D * (window + sinks) * 8
        if n_layer == 1:  # keys and values depend on their token alone: the kept tokens are a text of their own
            naive = [small(1)(IDS[kept(t, window, sinks)]).data[0, -1] for t in range(len(IDS))]
            assert_allclose(found, naive, atol=1e-9)


def test_a_text_grows_beyond_the_block_size():
    model, plain = small(1, lambda model: use_sliding_window(model, 4, 2)), small(1)
    for prompt, new in zip(IDS[:12].reshape(2, 6), model.generate(IDS[:12].reshape(2, 6), 40, temperature=0)):
        text = np.array([*prompt, *new])
        assert new == [plain(text[kept(t, 4, 2)]).data[0, -1].argmax() for t in range(5, 45)] and len(set(new)) > 1


@pytest.mark.parametrize(
    "refused, words",
    [
        (lambda model: LatentAttention(model.config, 5, 3), "rope must be even and divide the head size of 8, got 3"),
        (lambda model: LatentAttention(model.config, 5, 0), "got 0"),
        (lambda model: use_sliding_window(model, 13), "window 13 .* and 4 sinks .* must fit into 16"),
        (lambda model: model.generate([[1, 2], [4]], 2), "cannot tell padding from text: give it texts of one length"),
        (lambda model: KVCache.for_model(model).cut(3), "cannot go back to an earlier token; read the text again"),
        (lambda model: next(speculate(model, [1], 2, Sampling())), "speculation does not go with .* a sliding window"),
    ],
)
def test_what_is_refused(refused, words):
    with pytest.raises(ValueError, match=words):
        refused(small(1, lambda model: use_sliding_window(model, 4)))
