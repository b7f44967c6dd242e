"""A mixture of experts beside a loop over its tokens, its gradients, its balancing loss, and a GPT that has it."""

import math

import numpy as np
import pytest

from gpt import GPT, GPTConfig
from gpt.model.gpt2 import MLP
from gpt.model.moe import MixtureOfExperts, balance_loss, mixtures, use_experts
from gpt.training.checkpoint import has_checkpoint, save_checkpoint
from minigrad import Tensor, gradcheck, manual_seed, nn, optim, use_kernels

SHAPE = {"vocab_size": 20, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}


def mixture(width, n_experts, top_k, seed=0):
    """Experts of a hidden layer each, in float64, with weights large enough to matter."""
    config, rng = GPTConfig(20, 8, 1, 1, width, n_inner=3), np.random.default_rng(seed)
    made = MixtureOfExperts(width, [MLP(config) for _ in range(n_experts)], top_k)
    for p in made.parameters():
        p.data = rng.standard_normal(p.shape)
    return made


@pytest.mark.parametrize("shape, n_experts, top_k", [((2, 5, 4), 4, 2), ((7, 3), 3, 3), ((1, 1, 4), 6, 2)])
def test_it_equals_a_loop_over_the_tokens(shape, n_experts, top_k, kernels):
    moe, x = mixture(shape[-1], n_experts, top_k), np.random.default_rng(1).standard_normal(shape)
    expected = []
    shares = np.zeros(n_experts)
    means = np.zeros(n_experts)
    for row in x.reshape(-1, shape[-1]):
        logits = moe.router.weight.data @ row
        chosen = sorted(range(n_experts), key=lambda e: -logits[e])[:top_k]
        gates = np.exp(logits[chosen]) / np.exp(logits[chosen]).sum()
        expected.append(sum(g * moe.experts[e](Tensor(row[None])).data[0] for g, e in zip(gates, chosen)))
        shares[chosen] += 1
        means += np.exp(logits) / np.exp(logits).sum()
    with use_kernels(kernels):
        found = moe(Tensor(x))
    np.testing.assert_allclose(found.data, np.reshape(expected, shape), rtol=1e-9)
    np.testing.assert_array_equal(moe.counts, shares)
    rows = len(expected)
    assert moe.balance.item() == pytest.approx(n_experts * (shares / (rows * top_k)) @ (means / rows))


def test_gradients_of_input_router_and_experts():
    moe = mixture(4, 4, 2)
    x = np.random.default_rng(1).standard_normal((2, 3, 4))
    places = [(module, name) for module in moe.modules() for name, v in vars(module).items() if isinstance(v, Tensor)]

    def function(x, *weights):
        for (module, name), weight in zip(places, weights, strict=True):
            vars(module)[name] = weight
        return moe(x), moe.balance

    weights = [vars(module)[name].data for module, name in places]
    for part in (0, 1):
        gradcheck(lambda *inputs, part=part: function(*inputs)[part], [x, *weights])


def test_the_balancing_loss_when_balanced_and_collapsed():
    moe, x = mixture(4, 4, 2), np.abs(np.random.default_rng(0).standard_normal((50, 4)))
    moe.router.weight.data[:] = 0
    moe(Tensor(x))
    assert moe.balance.item() == pytest.approx(1)
    moe.router.weight.data[:2] = 1e3  # two experts take everything: half of the choices each, with probability 1/2
    moe(Tensor(x))
    assert moe.balance.item() == pytest.approx(4 / 2) and moe.counts.tolist() == [50, 50, 0, 0]


def small(n_experts=4):
    manual_seed(0)
    model = GPT(GPTConfig(**SHAPE))
    use_experts(model, n_experts)
    return model


def test_a_gpt_with_experts_learns_and_generates():
    model, dense = small(), GPT(GPTConfig(**SHAPE))
    C, E = (8, 4)
    count = sum(p.data.size for p in mixtures(model)[0].experts[0].parameters())
    active = model.num_parameters() - 2 * (E - 2) * count
    assert active == dense.num_parameters() + 2 * (E * C + C)  # the router, and a second bias after the experts
    assert mixtures(model)[0].experts[0].c_proj.weight.data.std() == pytest.approx(0.02 / math.sqrt(4), rel=0.4)
    texts = [model.generate([[1, 2]], 3, temperature=0, use_cache=use_cache) for use_cache in (True, False)]
    assert texts[0] == texts[1]
    ids = np.random.default_rng(0).integers(20, size=(4, 8))
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        model.zero_grad()
        loss = model.loss(ids, ids[:, ::-1])
        (loss + 0.01 * balance_loss(model)).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(mixture.router.weight.grad.any() for mixture in mixtures(model))


def test_a_checkpoint_is_refused_before_training(tmp_path):
    with pytest.raises(TypeError, match="a checkpoint of a GPT with other modules needs a `format`"):
        save_checkpoint(tmp_path, small())
    assert not has_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: MixtureOfExperts(4, [nn.Linear(4, 4)] * 3, 1), "top_k must be from 2 to .* 3, got 1"),
        (lambda: MixtureOfExperts(4, [nn.Linear(4, 4)], 2), "the number of experts, 1, got 2"),
        (lambda: use_experts(GPT(GPTConfig(**SHAPE)), 8, 3), "inner width of 32 cannot be divided among 3"),
        (lambda: small().save_pretrained("never"), "only a plain GPT-2 can be saved"),
        (lambda: balance_loss(GPT(GPTConfig(**SHAPE))), "no mixture of experts"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
