"""The decode step in plain NumPy, and decoding with guesses: the same tokens as the model's own forward pass gives."""

import itertools
from collections import Counter

import numpy as np
import pytest

from finetune import LoRAConfig, QuantizationConfig, apply_lora, quantize
from gpt import KVCache
from gpt.model import numpy_forward, speculation
from gpt.model.batch_generation import generate
from gpt.model.generation import Sampling
from gpt.model.speculation import guess, speculate
from minigrad import Function, inspection, nn, no_grad, use_kernels
from tests.gpt.small import random_ids, small_gpt, small_llama


def with_lora(model):
    for layer in apply_lora(model, LoRAConfig(r=2)).values():
        layer.lora_B.data[...] = 0.3
    return model


MODELS = {
    "gpt": small_gpt,
    "gpt, other activation, untied": lambda: small_gpt(activation="relu", tied=False, n_inner=12),
    "llama": small_llama,
    "llama with biases and norms": lambda: small_llama(qkv_bias=True, qk_norm=True, head_size=6, tied=False),
    "lora": lambda: with_lora(small_llama()),
    "int8": lambda: quantized(small_gpt(n_embd=16)),
}


def quantized(model):
    quantize(model, QuantizationConfig(bits=8))
    return model


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("pieces", [[4, 1, 1, 1, 1], [1, 3, 2, 2]])
@pytest.mark.parametrize("texts, padded", [(3, True), (20, False)])  # few rows and many
def test_the_plain_forward_equals_the_model(build, pieces, texts, padded):
    model, ids = build().eval(), random_ids((texts, 8))
    mask = np.ones((texts, 8), bool) if padded else None
    if padded:
        mask[1, : pieces[0]] = False  # nothing of the first piece is real
        mask[2, 0] = False
    with no_grad(), use_kernels("fast"):
        expected = model(ids, None, mask).data
        forward, cache = numpy_forward.forward_for(model), KVCache.for_model(model, texts)
        assert forward is not None
        first = pieces[0]
        seen = [None if mask is None else mask[:, :stop] for stop in range(9)]
        model.hidden_states(ids[:, :first], cache, seen[first])
        for n in pieces[1:]:
            logits = forward(ids[:, first : first + n], cache, seen[first + n])
            np.testing.assert_allclose(logits, expected[:, first : first + n], rtol=0, atol=2e-5)
            first += n


class Mine(Function):
    forward = staticmethod(lambda ctx, x, *rest: x)


def test_it_is_for_ordinary_models_and_fast_kernels_only():
    model = small_gpt()
    assert numpy_forward.forward_for(model) is None  # textbook kernels
    with use_kernels("fast"):
        assert numpy_forward.forward_for(model) is not None
        assert numpy_forward.forward_for(small_gpt(norm="post")) is None
        with use_kernels({"gelu": Mine}):
            assert numpy_forward.forward_for(model) is None
        with inspection.profile():
            assert numpy_forward.forward_for(model) is None
        for module in (model.transformer.h[0], model.transformer.h[0].attn.c_proj):  # it wants (B, T, C)
            hook = module.register_forward_hook(lambda *_: None)
            assert numpy_forward.forward_for(model) is None
            hook.remove()
        assert numpy_forward.forward_for(small_gpt().to(np.float16)) is None
        model.transformer.h[1].mlp = nn.Sequential()
        assert numpy_forward.forward_for(model) is None


@pytest.mark.parametrize("kernels, temperature", [("fast", 0), ("fast", 0.3), ("fast", 1.0), ("textbook", 0.3)])
def test_speculation_gives_the_same_text(small, temperature, kernels):
    """Also beyond the block, with a penalty, and up to a stop token."""
    model, sampling = small(block_size=40, dtype="float64"), Sampling(temperature, repetition_penalty=1.1)
    passes = 0
    for seed, stop in enumerate([(), (7, 3, 5)]):
        prompt = random_ids((6,), seed).tolist() * 2
        options = {"temperature": temperature, "repetition_penalty": 1.1, "seed": seed, "stop_tokens": stop}
        with use_kernels(kernels):
            steps = list(speculate(model, prompt, 60, sampling, seed, stop))
            assert sum(steps, []) == generate(model, [prompt], 60, **options)[0]
        passes += sum(len(step) > 1 for step in steps)
    assert passes > 0 or temperature == 1  # some guesses came true


@pytest.mark.parametrize(
    "ids, most, expected",
    [
        ([1, 2, 3, 4, 1, 2, 3], 9, [4, 1, 2, 3, 4, 1, 2, 3, 4]),
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 2, [5, 1]),  # the latest
        ([7, 7, 7, 7], 3, [7, 7, 7]),  # the places may overlap
        ([1, 2, 3], 5, []),
        ([1, 2, 3, 4, 0, 2, 3], 5, []),
        ([1, 2, 3, 4, 1, 2, 3], 0, []),
    ],
)
def test_a_guess_is_what_followed(ids, most, expected):
    assert guess(np.array(ids), most) == expected


@pytest.mark.parametrize("kernels, penalty", [("textbook", 1.1), ("fast", 1.0)])
def test_with_a_draft_greedy_text_is_the_same(small, kernels, penalty):
    """Also beyond the block, with a draft that reads fewer tokens at once, and up to a stop token."""
    model = small(block_size=40, dtype="float64")
    for draft in (model, small_gpt(seed=1, block_size=14, dtype="float64")):
        for stop in [(), (7, 3)]:
            options = {"temperature": 0, "repetition_penalty": penalty, "stop_tokens": stop}
            with use_kernels(kernels):
                steps = list(speculate(model, [1, 2, 3], 60, Sampling(0, None, 1, penalty), 0, stop, draft))
            assert sum(steps, []) == generate(model, [[1, 2, 3]], 60, **options)[0]
            assert max(map(len, steps)) == speculation.DRAFTED + 1 or draft is not model


@pytest.mark.parametrize("sampling", [Sampling(0.5), Sampling(1, repetition_penalty=3, min_p=0.4)])
def test_the_draft_does_not_change_the_distribution(sampling):
    """Of three tokens together, with two guesses in the first pass: chi-square with at most 26 degrees of freedom."""
    tiny = {"vocab_size": 3, "n_layer": 1, "n_head": 1, "n_embd": 4, "dtype": "float64"}
    model, draft = small_gpt(**tiny), small_gpt(seed=6, **tiny)
    counts = Counter(tuple(sum(speculate(model, [1], 3, sampling, seed, draft=draft), [])) for seed in range(300))
    chi_square = 0
    for text in itertools.product(range(3), repeat=3):
        with no_grad():
            logits = model([[1, *text[:2]]]).data[0]
        seen = [[1, *text[:i]] for i in range(3)]
        expected = 300 * np.prod([sampling.probabilities(*row)[token] for *row, token in zip(logits, seen, text)])
        chi_square += (counts[text] - expected) ** 2 / max(expected, 1e-9)  # some texts are impossible
    assert chi_square < 54  # exceeded once in a thousand
