"""Log-probabilities of sequences and entropy, against plain NumPy and finite differences."""

import numpy as np
from numpy.testing import assert_allclose

from finetune.objectives.logprobs import entropy, exact_kl, selected_logprobs, sequence_logprobs
from minigrad import Tensor, gradcheck, use_kernels
from tests.gpt.small import log_softmax, random_ids, small_gpt


def test_a_sequence_is_as_likely_as_its_tokens_together(kernels):
    """Three sequences with a prompt and padding that do not count."""
    ids, targets = random_ids((3, 7), seed=1), random_ids((3, 7), seed=2)
    targets[0, :2] = targets[1, :4] = targets[1, 6:] = targets[2, 1:] = -100
    model = small_gpt(dtype="float64")
    logprobs = log_softmax(model(ids).data)
    expected = [[logprobs[b, t, targets[b, t]] for t in range(7) if targets[b, t] != -100] for b in range(3)]
    with use_kernels(kernels):
        total = sequence_logprobs(model, ids, targets)
    assert total.shape == (3,) and [len(row) for row in expected] == [5, 2, 1]
    assert_allclose(total.data, [sum(row) for row in expected], rtol=1e-12)


def test_selected_logprobs_and_entropy():
    rng = np.random.default_rng(0)
    logits, ids = rng.standard_normal((2, 3, 5)), rng.integers(0, 5, (2, 3))
    logprobs = log_softmax(logits)
    expected = np.take_along_axis(logprobs, ids[..., None], 2)[..., 0]
    assert_allclose(selected_logprobs(Tensor(logits), ids).data, expected)
    assert_allclose(entropy(Tensor(logits)).data, -(np.exp(logprobs) * logprobs).sum(-1))
    assert gradcheck(lambda x: selected_logprobs(x, ids), logits).max_error < 1e-6
    assert gradcheck(entropy, logits).max_error < 1e-6
    certain = Tensor([0.0, -np.inf])
    assert entropy(certain).item() == 0 == exact_kl(certain, Tensor([0.0, -np.inf])).item()
