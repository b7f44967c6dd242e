"""What sets a Llama's attention apart: rotary positions, and heads that share keys and values.

What every language model does, Llamas included, is in test_model.py and test_generation.py.
"""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

import minigrad.functional as F
from gpt.model import llama
from minigrad import Tensor, use_kernels
from tests.gpt.small import logits_of, random_ids, small_llama


def test_a_query_and_a_key_see_their_distance_only():
    q, k = (np.random.default_rng(i).normal(size=8) for i in range(2))

    def score(query_at, key_at):
        cos, sin = llama.rotations(np.array([query_at, key_at]), 8, 100.0, np.float64)
        turned = F.rotary_embedding(Tensor(np.stack([q, k])), cos, sin).data
        return turned[0] @ turned[1]

    assert score(5, 2) == pytest.approx(score(1003, 1000), abs=1e-11)
    assert score(0, 0) == pytest.approx(q @ k, abs=1e-12)
    assert abs(score(5, 2) - score(5, 3)) > 1e-3 and abs(score(5, 2) - score(2, 5)) > 1e-3


def test_angles_are_exact_far_out_and_for_each_sequence():
    positions = np.array([[0, 1, 2], [8189, 8190, 8191]])
    cos, sin = llama.rotations(positions, 64, 100000.0, np.float32)
    assert cos.shape == sin.shape == (2, 1, 3, 32) and cos.dtype == np.float32
    for i in (0, 1, 31):
        angle = 8191 / 100000.0 ** (2 * i / 64)
        assert (cos[1, 0, 2, i], sin[1, 0, 2, i]) == pytest.approx((math.cos(angle), math.sin(angle)), abs=1e-7)


@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_shared_heads_are_attention_with_repeated_keys(n_kv_head, kernels):
    grouped, full = small_llama(dtype="float64", n_kv_head=n_kv_head), small_llama(dtype="float64", n_kv_head=4)
    weights = grouped.state_dict()
    for name in weights:
        if "k_proj" in name or "v_proj" in name:
            heads = weights[name].reshape(n_kv_head, 4, 16)
            weights[name] = np.repeat(heads, 4 // n_kv_head, axis=0).reshape(16, 16)
    full.load_state_dict(weights)
    ids = random_ids((2, 9))
    with use_kernels(kernels):
        assert_allclose(logits_of(grouped, ids), logits_of(full, ids), rtol=0, atol=1e-12)
