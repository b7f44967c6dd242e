"""Read this first: what the project promises, and a test for each promise. The other tests cover more cases.

Each test shows both sides: it computes them on the spot, or reads one from a file that transformers wrote.
"""

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minigrad.functional as F
from finetune import LoRAConfig, apply_lora, merge_lora
from gpt import GPT, GPTConfig, load_checkpoint, save_checkpoint
from minigrad import Function, Tensor, gradcheck
from minigrad.optim import AdamW
from scripts import one_page
from tests.gpt.small import GOLDEN, small_gpt
from tests.scripts.test_one_page import in_the_library

rng = np.random.default_rng(0)


# More cases: tests/minigrad/test_ops_gradients.py, every op, with shapes that hypothesis chooses.
def test_a_gradient_is_the_slope_that_differences_find():
    x = rng.normal(size=5)
    weights = rng.normal(size=5)  # of the five probabilities, whose plain sum is always 1 and has no slope

    def loss(x):
        return (F.softmax(x, dim=-1) * weights).sum()

    tensor = Tensor(x, requires_grad=True)
    loss(tensor).backward()
    for i in range(5):
        nudge = np.zeros(5)
        nudge[i] = 1e-6
        slope = (loss(Tensor(x + nudge)).item() - loss(Tensor(x - nudge)).item()) / 2e-6
        assert_allclose(tensor.grad[i], slope, rtol=1e-6)


# More cases: tests/minigrad/test_gradcheck.py and test_diagnosis.py, other mistakes, and right gradients, which pass.
def test_a_mistake_in_a_gradient_is_found_and_named():
    class Product(Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.x, ctx.y = x, y
            return x * y

        @staticmethod
        def backward(ctx, dout):
            return dout * ctx.x, dout * ctx.y  # exchanged: the gradient of x is dout y

    x, y = rng.normal(size=(2, 3))
    with pytest.raises(AssertionError) as caught:
        gradcheck(Product.apply, [x, y])
    assert re.search("swapped|exchanged", str(caught.value)), caught.value


# More cases: tests/gpt/test_huggingface.py, other folders, each against transformers.
def test_gpt2_computes_what_transformers_computed():
    with np.load(GOLDEN / "gpt2-folder.npz") as written_by_transformers:
        ids, logits = written_by_transformers["ids"], written_by_transformers["logits"]
    model = GPT.from_pretrained(GOLDEN / "gpt2-folder").to("float64")
    assert_allclose(model(ids).data, logits, rtol=0, atol=1e-10)


# More cases: tests/gpt/test_training.py, whole runs, stopped at any moment.
def test_a_checkpoint_goes_on_with_the_same_bits(tmp_path):
    texts = rng.integers(0, 37, (6, 4, 13))  # six batches of 4 texts of 13 tokens; the model knows 37

    def learn(model, optimizer, batches):
        for batch in batches:
            model.zero_grad()
            model.loss(batch[:, :-1], batch[:, 1:]).backward()
            optimizer.step()

    model = small_gpt()
    optimizer = AdamW(model.parameters(), lr=0.01)
    learn(model, optimizer, texts[:3])
    save_checkpoint(tmp_path, model, optimizer)
    learn(model, optimizer, texts[3:])

    loaded = load_checkpoint(tmp_path)
    resumed = AdamW(loaded.model.parameters(), lr=0.01)
    resumed.load_state_dict(loaded.optimizer_state)
    learn(loaded.model, resumed, texts[3:])
    for name, array in model.state_dict().items():
        assert_array_equal(loaded.model.state_dict()[name], array, err_msg=name)


# More cases: tests/gpt/test_generation.py, batches, long texts, and every way of drawing.
def test_the_cache_of_keys_and_values_changes_no_token():
    model = small_gpt().eval()
    ids = [3, 1, 4]
    for _ in range(8):  # the most probable token, from the whole text each time
        ids.append(int(model([ids]).data[0, -1].argmax()))
    for use_cache in (True, False):
        new = model.generate([[3, 1, 4]], 8, temperature=0, use_cache=use_cache)[0]
        assert list(new) == ids[3:]


# More cases: tests/finetune/test_lora.py; files that PEFT wrote: test_adapters.py.
def test_adapters_merged_into_the_weights_compute_the_same():
    model = small_gpt(dtype="float64").eval()
    before = model([[3, 1, 4]]).data
    apply_lora(model, LoRAConfig(r=2, alpha=4))
    assert_array_equal(model([[3, 1, 4]]).data, before)  # LoRA adds B A to a weight, and B is zero at first
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            parameter.data[...] = rng.normal(size=parameter.shape)
    adapted = model([[3, 1, 4]]).data
    assert abs(adapted - before).max() > 0.01
    merge_lora(model)
    assert_allclose(model([[3, 1, 4]]).data, adapted, rtol=1e-9, atol=1e-12)


# More cases: tests/scripts/test_one_page.py, ten steps of Adam, and finite differences.
def test_the_library_computes_the_gradients_of_the_one_page():
    page = one_page.new_weights(11, np.float64)
    sizes = (one_page.CONTEXT, one_page.LAYERS, one_page.HEADS, one_page.WIDTH)
    model = GPT(GPTConfig(11, *sizes, dropout=0.0))
    parameters = dict(model.named_parameters())
    for name, array in in_the_library(page, "data").items():  # the page's arrays, under the library's names
        parameters[name].data = array
    text = rng.integers(0, 11, (2, one_page.CONTEXT + 1))
    page_loss = one_page.loss_of(text, page)
    page_loss.backward()
    library_loss = model.loss(text[:, :-1], text[:, 1:])
    library_loss.backward()
    assert_allclose(library_loss.data, page_loss.data, rtol=1e-9)
    for name, gradient in in_the_library(page, "grad").items():
        assert_allclose(parameters[name].grad, gradient, rtol=1e-9, atol=1e-12, err_msg=name)
