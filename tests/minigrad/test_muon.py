"""Muon: Newton-Schulz beside the SVD, steps beside PyTorch's and AdamW's, the groups, and a saved state."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from gpt import GPT, GPTConfig
from minigrad import manual_seed, nn, optim, use_kernels
from minigrad.kernels.cpu import muon as twin
from minigrad.muon import COEFFICIENTS, Muon, muon_groups, newton_schulz
from tests.minigrad.test_optim import through_json


def matrix_with(singular_values, rows, columns, seed):
    """U, Vᵀ and U S Vᵀ."""
    rng, rank = np.random.default_rng(seed), len(singular_values)
    u = np.linalg.qr(rng.standard_normal((rows, rank)))[0]
    vt = np.linalg.qr(rng.standard_normal((columns, rank)))[0].T
    return u, vt, u * singular_values @ vt


@given(st.data())
def test_newton_schulz_brings_singular_values_close_to_1(data):
    rows, columns = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    rank = data.draw(st.integers(1, min(rows, columns)))
    # none is below 0.0052 / sqrt(11) = 0.00157 of their norm
    values = np.array(data.draw(st.lists(st.floats(0.0052, 1), min_size=rank, max_size=rank)))
    scale = 10.0 ** data.draw(st.integers(-3, 6))
    u, vt, matrix = matrix_with(scale * values, rows, columns, data.draw(st.integers(0, 99)))
    expected = values / np.linalg.norm(values)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        expected = a * expected + b * expected**3 + c * expected**5
    assert expected.min() > 0.68 and expected.max() < 1.21
    forms = [(newton_schulz, np.float64, 1e-9), (newton_schulz, np.float32, 1e-3)]
    forms += [(twin.newton_schulz, np.float64, 1e-8), (twin.newton_schulz, np.float32, 1e-2)]  # it squares the values
    for orthogonalize, dtype, tolerance in forms:
        found = orthogonalize(matrix.astype(dtype))
        assert found.dtype == dtype
        assert_allclose(found, u * expected @ vt, atol=tolerance)
        assert np.sum(found * (u @ vt)) / np.linalg.norm(found) / np.sqrt(rank) > 0.96  # the cosine to U Vᵀ


def test_newton_schulz_of_zeros_and_of_small_singular_values():
    for shape in ((3, 2), (0, 2), (1, 1)):
        assert not newton_schulz(np.zeros(shape, np.float32)).any()
        assert not twin.newton_schulz(np.zeros(shape, np.float32)).any()
    for orthogonalize in (newton_schulz, twin.newton_schulz):
        found = np.linalg.svd(orthogonalize(np.diag([1.0, 1e-3, 0.0])))[1]
        assert 0.68 < found[0] < 1.21 and 0.3 < found[1] < 0.68 and found[2] == 0


def steps(optimizer, parameters, numbers):
    for number in numbers:
        rng = np.random.default_rng(number)
        for p in parameters:
            p.grad = rng.standard_normal(p.shape).astype(p.dtype)
        optimizer.step()


def parameters(*shapes):
    rng = np.random.default_rng(5)
    return [nn.Parameter(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


def two_matrices():
    return parameters((6, 3), (4, 8))


@pytest.mark.oracle("torch")
@pytest.mark.parametrize("settings", [{}, {"lr": 0.1, "weight_decay": 0.5, "momentum": 0.8}])
def test_steps_are_those_of_torch(settings):
    import torch

    ours = two_matrices()
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in ours]
    optimizer = Muon(ours, **settings)
    reference = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)
    before = [p.data.copy() for p in ours]
    for step in range(4):
        steps(optimizer, ours, [step])
        for p, q in zip(ours, theirs):
            q.grad = torch.from_numpy(p.grad.copy())
        reference.step()
    for p, q, start in zip(ours, theirs, before):
        moved = np.abs(p.data - start).max()
        assert_allclose(p.data, q.detach().numpy(), atol=0.02 * moved)  # torch multiplies in bfloat16


def test_the_groups_are_hidden_and_other_matrices_and_vectors():
    manual_seed(0)
    model = GPT(GPTConfig(vocab_size=20, block_size=8, n_layer=2, n_head=2, n_embd=8))
    model.transformer.h[0].mlp.c_fc.weight.requires_grad_(False)
    groups = muon_groups(model.named_parameters(), model.transformer.h.parameters(), 0.1)
    named = dict(model.named_parameters())
    names = {id(p): name for name, p in named.items()}
    hidden, embeddings, vectors = ([names[id(p)] for p in group["params"]] for group in groups)
    assert len(hidden) == 2 * 4 - 1 and all(".h." in name and name.endswith("weight") for name in hidden)
    assert embeddings == ["transformer.wte.weight", "transformer.wpe.weight"]  # the first is the head as well
    assert vectors == [name for name, p in named.items() if p.ndim == 1]
    assert [group.get("orthogonalize", True) for group in groups] == [True, False, False]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]


def test_the_other_groups_are_updated_as_by_adamw():
    (p, q), (_, r) = two_matrices(), two_matrices()
    optimizer = Muon([{"params": p}, {"params": q, "orthogonalize": False}], lr=0.02, betas=(0.8, 0.9))
    adamw = optim.AdamW([r], lr=0.02, betas=(0.8, 0.9), weight_decay=0.1)
    for number in range(3):
        steps(optimizer, [p, q], [number])
        r.grad = q.grad.copy()
        adamw.step()
    assert_array_equal(q.data, r.data)
    with pytest.raises(ValueError, match="that of another optimizer"):
        Muon([r], orthogonalize=False).load_state_dict(adamw.state_dict())


def test_a_saved_state_goes_on_bit_by_bit():
    ours = two_matrices()
    optimizer = Muon([{"params": p, "orthogonalize": p is ours[0]} for p in ours], lr=0.02, betas=(0.8, 0.9))
    steps(optimizer, ours, range(3))
    others = [nn.Parameter(p.data.copy()) for p in ours]
    other = Muon([{"params": p} for p in others])
    other.load_state_dict(through_json(optimizer.state_dict()))
    steps(optimizer, ours, range(3, 6))
    steps(other, others, range(3, 6))
    for p, q in zip(ours, others):
        assert_array_equal(p.data, q.data)


def test_the_fast_kernel_takes_the_same_steps_each_time():
    """Many matrices, of which a thread takes the next one when it is free, and groups of AdamW."""

    def trained(kernels):
        matrices = parameters(*[(24, 24), (72, 24), (24, 96), (96, 24)] * 3)
        others = parameters((40, 24), (24,))
        optimizer = Muon([{"params": matrices}, {"params": others, "orthogonalize": False}], lr=0.1)
        before = [p.data.copy() for p in matrices + others]
        with use_kernels(kernels):
            steps(optimizer, matrices + others, range(4))
        return before, [p.data for p in matrices + others]

    before, expected = trained("textbook")
    _, found = trained("fast")
    for start, p, q in zip(before, expected, found, strict=True):
        assert_allclose(q, p, atol=1e-4 * np.abs(p - start).max())
    for p, q in zip(found, trained("fast")[1], strict=True):
        assert_array_equal(p, q)


def test_a_vector_is_refused_and_not_added():
    optimizer = Muon(two_matrices()[:1])
    with pytest.raises(ValueError, match=r"Muon updates matrices, not a parameter of shape \(3,\): put it into"):
        optimizer.add_param_group({"params": nn.Parameter(np.ones(3))})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": nn.Parameter(np.ones(3)), "orthogonalize": False})
