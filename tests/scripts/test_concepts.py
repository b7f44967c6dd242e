"""The rows of the concept table that no other test is about: one property each, on small models."""

import numpy as np

import minigrad.functional as F
from gpt import GPT, GPTConfig, Tokenizer
from gpt.model.gpt2 import MLP, Block
from minigrad import Tensor, manual_seed, nn, no_grad, optim

CONFIG = GPTConfig(vocab_size=50, block_size=16, n_layer=2, n_head=2, n_embd=16)


def small_gpt():
    manual_seed(0)
    return GPT(CONFIG)


def test_generation_reads_what_it_has_written():
    model = small_gpt()
    prompt = [3, 1, 4]
    new = model.generate([prompt], 5, temperature=0)[0]
    for length in range(5):  # each new token follows from the prompt and the new tokens before it
        assert model.generate([prompt + new[:length]], 1, temperature=0)[0] == new[length : length + 1]


def test_a_token_hides_its_letters():
    tokenizer = Tokenizer.train(["how many r has a strawberry? " * 50 + "12 127 1275 " * 50], 400)
    (token,) = tokenizer.encode(" strawberry")
    assert all(token not in tokenizer.encode(letter) for letter in "strawbery")
    cuts = {tuple(len(tokenizer.decode([i])) for i in tokenizer.encode(number)) for number in ("1275", "5721", "7512")}
    assert len(cuts) > 1  # numbers of the same length are split differently
    assert len(tokenizer.encode("क्या")) > 2 * len(tokenizer.encode("many"))


def test_words_with_the_same_neighbors_get_similar_rows():
    manual_seed(0)
    pairs = np.array([[0, 4], [1, 4], [2, 5], [3, 5]])  # words 0 and 1 are followed by 4, words 2 and 3 by 5
    rows, output = nn.Embedding(6, 8), nn.Linear(8, 6)
    optimizer = optim.Adam([*rows.parameters(), *output.parameters()], lr=0.03)

    def gap():
        unit = rows.weight.data[:4] / np.linalg.norm(rows.weight.data[:4], axis=1, keepdims=True)
        alike = unit @ unit.T
        return (alike[0, 1] + alike[2, 3]) / 2 - alike[:2, 2:].mean()

    before = gap()
    for _ in range(200):
        loss = F.cross_entropy(output(rows(pairs[:, 0])), pairs[:, 1])
        rows.zero_grad(), output.zero_grad()
        loss.backward()
        optimizer.step()
    assert gap() > before + 0.3


def test_an_embedding_ignores_the_context_a_hidden_state_not():
    model = small_gpt()
    texts = np.array([[7, 9], [8, 9]])  # token 9 after two different tokens
    with no_grad():
        rows, states = model.transformer.wte(texts).data[:, 1], model.hidden_states(texts).data[:, 1]
    assert np.array_equal(rows[0], rows[1]) and np.abs(states[0] - states[1]).max() > 1e-4


def test_raw_scores_are_symmetric_and_projected_ones_are_not():
    rng = np.random.default_rng(0)
    X, W_Q, W_K = rng.standard_normal((5, 8)), *rng.standard_normal((2, 8, 4))
    assert np.allclose(X @ X.T, (X @ X.T).T)
    scores = (X @ W_Q) @ (X @ W_K).T
    assert np.abs(scores - scores.T).max() > 0.1


def test_attention_gives_weighted_averages_of_the_values():
    rng = np.random.default_rng(0)
    q, k = (Tensor(rng.standard_normal((1, 5, 4))) for _ in "qk")
    weights = F.scaled_dot_product_attention(q, k, Tensor(np.eye(5)[None])).data[0]  # (T, T), as each value is a unit
    assert (weights > 0).all() and np.allclose(weights.sum(axis=1), 1)
    v = rng.standard_normal((5, 3))
    assert np.allclose(F.scaled_dot_product_attention(q, k, Tensor(v[None])).data[0], weights @ v)


def test_zeroing_columns_of_w_o_removes_exactly_one_head():
    attention = small_gpt().transformer.h[0].attn
    x = Tensor(np.random.default_rng(0).standard_normal((1, 6, 16)).astype(np.float32))
    with no_grad():
        q, k, v = F.split_heads(attention.c_attn(x), 2, parts=3)
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True).data[0]  # (H, T, D)
        found[1] = 0
        side_by_side = found.transpose(1, 0, 2).reshape(1, 6, 16)
        expected = attention.c_proj(Tensor(side_by_side)).data
        attention.c_proj.weight.data[:, 8:] = 0
        assert np.allclose(attention(x).data, expected, atol=1e-6)


def test_attention_reads_other_tokens_and_the_mlp_does_not():
    x = np.random.default_rng(0).standard_normal((1, 4, 16)).astype(np.float32)
    changed = x.copy()
    changed[0, 0] += 1
    for part, reads in ((Block(CONFIG).attn, True), (MLP(CONFIG), False)):
        moved = np.abs(part(Tensor(changed)).data - part(Tensor(x)).data)[0, 1:].max()
        assert (moved > 0) == reads


def test_the_masks_of_encoder_encoder_decoder_and_decoder():
    x = np.random.default_rng(0).standard_normal((1, 6, 4))
    changed = x.copy()
    changed[0, 4] += 1
    half = np.tri(6, dtype=bool)
    half[:3, :3], half[3:, :3] = True, True  # three tokens are read, three are written
    for mask, unmoved in ((np.ones((6, 6), bool), []), (half, [0, 1, 2, 3]), (np.tri(6, dtype=bool), [0, 1, 2, 3])):
        a, b = (F.scaled_dot_product_attention(y, y, y, attn_mask=mask).data for y in (Tensor(x), Tensor(changed)))
        assert np.flatnonzero((a == b).all(axis=(0, 2))).tolist() == unmoved
