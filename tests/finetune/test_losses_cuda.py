"""Loss functions on a GPU, as far as can be seen without one: they wait for nothing, and give what a CPU gives."""

from functools import partial

import numpy as np
import pytest

import minigrad as mg
from finetune.data.pairs import EncodedReply, Pair, pair_batch
from finetune.objectives import dpo, sft
from finetune.objectives.classification import classification_loss
from finetune.objectives.model_with_head import ModelWithHead
from finetune.objectives.reward import reward_batch_loss
from finetune.objectives.rollout import PolicyWithValue, TokenPositions
from finetune.stages.ppo import PPOBatch, PPOConfig, ppo_batch_loss
from gpt.training.training_step import read_numbers
from minigrad import backend, use_kernels
from tests.gpt.small import random_ids, small_gpt


def preferences():
    pairs = [
        Pair(
            EncodedReply([1, 2, 3, 4], [False, False, True, True], -2.0),
            EncodedReply([1, 2, 5], [False, False, True], -3.0),
        ),
        Pair(
            EncodedReply([7, 8, 9], [False, True, True], -2.5),
            EncodedReply([7, 6, 5, 4], [False, True, True, True], -4.0),
        ),
    ]
    return pair_batch(pairs)


def conversations():
    ids, targets = random_ids((3, 6)), random_ids((3, 6), seed=1)
    targets[0, :4], targets[2, 2:] = -100, -100
    return ids, targets


def replies():
    tokens = random_ids((2, 8))
    positions = TokenPositions.of(np.array([3, 4]), np.array([[True, True, False], [True, True, True]]))
    known = np.random.default_rng(0).standard_normal((4, 5))
    return PPOBatch(tokens, positions, tokens[positions.tokens], *known)


def texts():
    return random_ids((4, 6)), np.array([6, 2, 3, 6]), np.array([0, 2, 1, 1])


one_block = partial(small_gpt, n_layer=1)
LOSSES = {
    "sft": (one_block, sft.sft_loss, conversations),
    "dpo": (one_block, dpo.dpo_batch_loss, preferences),
    "ipo": (one_block, partial(dpo.dpo_batch_loss, kind="ipo"), preferences),
    "reward": (lambda: ModelWithHead(one_block().transformer, ["score"]), reward_batch_loss, preferences),
    "classification": (lambda: ModelWithHead(one_block().transformer, ["a", "b", "c"]), classification_loss, texts),
    "ppo": (lambda: PolicyWithValue(one_block()), partial(ppo_batch_loss, config=PPOConfig()), replies),
}


@pytest.mark.parametrize("kernels", ["textbook", pytest.param("fast", marks=pytest.mark.emulation)])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_functions_wait_for_nothing(cuda, name, kernels):
    build, loss_fn, batch = LOSSES[name]
    results = []
    with use_kernels(kernels):
        for device in ("cpu", "cuda"):
            mg.manual_seed(3)
            model = build().to(device)
            cuda.reset()
            loss, count, metrics = loss_fn(model, batch())
            loss.backward()
            assert cuda.synchronisations == 0
            numbers = read_numbers({"loss": loss.data, **metrics})
            gradients = [backend.to_numpy(p.grad) for p in model.parameters() if p.grad is not None]
            results.append((count, numbers, gradients))
    (count, numbers, gradients), (count_there, numbers_there, gradients_there) = results
    assert count_there == count and numbers_there == pytest.approx(numbers, rel=1e-4, abs=1e-5)
    for there, here in zip(gradients_there, gradients, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-5)
