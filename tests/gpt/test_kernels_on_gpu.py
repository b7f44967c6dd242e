"""Whole models on a GPU's kernels, run by the emulation: the losses, gradients and texts that the CPU finds."""

from functools import partial

import numpy as np
import pytest

from minigrad import autocast, manual_seed, optim, use_kernels
from tests.gpt.small import assert_same, gradients_of, random_ids, small_gpt, small_llama

pytestmark = [pytest.mark.emulation, pytest.mark.usefixtures("cuda")]
MODELS = {"GPT": partial(small_gpt, n_layer=1), "Llama": partial(small_llama, n_layer=1)}


def losses(make, device, steps, precision="float32", dtype="float32", **changes):
    """The losses of some steps of training, and the gradients of the last."""
    model, found = make(dtype=dtype, **changes).to(device), []
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    manual_seed(7)
    with use_kernels("fast"), autocast("bfloat16", enabled=precision == "bfloat16"):
        for step in range(steps):
            model.zero_grad()
            loss = model.loss(random_ids((2, 12), seed=step), random_ids((2, 12), seed=step + 1))
            loss.backward()
            optim.clip_grad_norm_(list(model.parameters()), 1.0)
            optimizer.step()
            found.append(loss.item())
    return found, gradients_of(model)


@pytest.mark.parametrize("model", MODELS)
def test_training_is_that_of_the_cpu(model):
    here, there = (losses(MODELS[model], device, 2, dtype="float64") for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there[0], here[0], rtol=1e-10)
    assert_same(there[1], here[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_mixed_precision_is_that_of_the_cpu_to_its_rounding(model):
    exact, here, there = (
        np.array(losses(MODELS[model], device, 2, precision)[0])
        for device, precision in (("cpu", "float32"), ("cpu", "bfloat16"), ("cuda", "bfloat16"))
    )
    np.testing.assert_allclose(there, here, rtol=2**-8)
    assert 0 < np.abs(there / exact - 1).max() < 2**-7


@pytest.mark.parametrize("model", MODELS)
def test_texts_are_those_of_the_cpu(model):
    """Prompts of different lengths: the shorter ones are padded, so that a mask meets the cache."""
    prompts, texts = [[1, 2, 3, 4], [5], [6, 7]], []
    for device in ("cpu", "cuda"):
        with use_kernels("fast"):
            texts.append(MODELS[model](dtype="float64").to(device).generate(prompts, 6, temperature=0))
    assert texts[0] == texts[1]
