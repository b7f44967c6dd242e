"""Observing never changes a result: not a loss, a gradient, a weight or a random number, to the last bit."""

import contextlib

import numpy as np
import pytest

from gpt import GPT, GPTConfig
from minigrad import Function, autocast, backend, manual_seed, nn, optim, use_kernels
from minigrad.inspection import detect_anomaly, memory, profile, record

IDS = np.array([[1, 3, 1], [4, 0, 2]])


class Careless(Function):
    """x, by an op whose backward writes into what forward saved, gives it away, and draws a random number."""

    @staticmethod
    def forward(ctx, x):
        ctx.saved_by_name = {"scale": np.ones_like(x)}
        return x.copy()

    @staticmethod
    def backward(ctx, dout):
        scale = ctx.saved_by_name["scale"]
        scale *= dout * backend.generator().random()
        return (scale,)


@contextlib.contextmanager
def all_of_them():
    with record(), detect_anomaly(), memory(), profile():
        yield


def two_steps(observe, kernels, checkpointed, mixed):
    """All numbers of two steps: losses, gradients, weights, and the random numbers that come next."""
    manual_seed(0)
    model = GPT(GPTConfig(vocab_size=5, block_size=3, n_layer=1, n_head=2, n_embd=4, n_inner=6, dropout=0.3)).train()
    model.transformer.ln_f.register_forward_hook(lambda module, given, output: Careless.apply(output))
    if checkpointed:
        nn.checkpoint_activations(model)
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    found = []
    for _ in range(2):
        optimizer.zero_grad()
        with use_kernels(kernels), observe():
            with autocast(enabled=mixed):
                loss = model.loss(IDS, IDS[::-1])
            loss.backward()
            model.loss(IDS[:1], IDS[1:]).backward()  # a second batch, whose gradients are added
        found += [loss.data, *(p.grad for p in model.parameters())]
        optimizer.step()
    found += [p.data for p in model.parameters()]
    return [array.tobytes() for array in found], backend.random_state()


SETTINGS = [("textbook", False, False), ("textbook", True, True), ("fast", True, False), ("fast", False, True)]


@pytest.mark.parametrize("kernels, checkpointed, mixed", SETTINGS)
def test_observing_never_changes_a_result(kernels, checkpointed, mixed):
    expected = two_steps(contextlib.nullcontext, kernels, checkpointed, mixed)
    for observe in (record, profile, memory, detect_anomaly, all_of_them):
        assert two_steps(observe, kernels, checkpointed, mixed) == expected, observe.__name__
