"""A model on a GPU, as far as can be seen without one: it computes what it computes on the CPU, and waits when it must.

What is exact here is so because the stand-in computes with NumPy; a GPU rounds otherwise.
"""

import numpy as np
import pytest

import minigrad.functional as F
from gpt import GPT, KVCache, load_checkpoint, save_checkpoint
from minigrad import backend, no_grad
from tests.gpt.small import assert_same, gradients_of, random_ids, small_gpt, weights_of

pytestmark = pytest.mark.usefixtures("cuda")


@pytest.mark.parametrize("changes", [{}, {"norm": "post"}, {"positions": "sinusoidal"}])
def test_it_computes_what_the_cpu_computes(changes):
    here, there = small_gpt(**changes), small_gpt(**changes).to("cuda")
    ids, targets = random_ids((3, 8)), random_ids((3, 8), seed=1)
    for model in (here, there):
        model.loss(ids, targets).backward()
    assert {p.device for p in there.parameters()} == {"cuda:0"}
    buffers = {name: backend.device_of(array) for name, array in there.named_buffers()}
    assert buffers in ({}, {"transformer.wpe.table": "cuda:0"})
    np.testing.assert_allclose(there(ids).numpy(), here(ids).numpy(), rtol=1e-6, atol=1e-6)
    assert {backend.device_of(p.grad) for p in there.parameters()} == {"cuda:0"}
    assert_same(gradients_of(there), gradients_of(here), rtol=1e-5, atol=1e-7)


def test_there_and_back_again():
    model = small_gpt()
    weights = weights_of(model)
    assert model.to("cuda") is model and model.lm_head.weight is model.transformer.wte.weight
    assert_same(model, weights)
    model.to("cpu")
    assert {type(p.data) for p in model.parameters()} == {np.ndarray}
    assert_same(model, weights)


def test_ids_are_checked_on_the_host_before_they_move(cuda):
    model = small_gpt().to("cuda")
    cuda.reset()
    for wrong in (-1, 37):
        with pytest.raises(IndexError, match="outside 0..36 of the vocabulary"):
            model([[1, wrong]])
        with pytest.raises(IndexError, match="outside 0..36 of the vocabulary"):
            model.loss([[1, 2]], [[1, wrong]])
    model([[1, 2]])
    assert cuda.synchronisations == 0 and cuda.to_device == 3  # ids that were right


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0, "use_cache": False}, {"top_k": 5, "top_p": 0.9, "repetition_penalty": 1.2}]
)
def test_generation_waits_once_for_each_token_also_beyond_the_block(cuda, options):
    here, there = small_gpt(), small_gpt().to("cuda")
    prompts = [[1, 2, 3], [4], [5, 6]]
    cuda.reset()
    assert there.generate(prompts, 14, seed=0, **options) == here.generate(prompts, 14, seed=0, **options)
    texts = 1 if options.get("use_cache", True) else 3  # without a cache each of the three by itself
    assert cuda.synchronisations == cuda.to_host == 14 * texts


def test_the_cache_is_where_the_model_is():
    model = small_gpt().to("cuda")
    cache = KVCache.for_model(model, 2)
    ids = random_ids((2, 7))
    with no_grad():
        parts = [model(ids[:, :4], cache), model(ids[:, 4:], cache)]
        np.testing.assert_allclose(F.cat(parts, 1).numpy(), model(ids).numpy(), rtol=1e-5, atol=1e-6)
    assert {backend.device_of(array) for array in (*cache.keys, *cache.values)} == {"cuda:0"}


def test_files_saved_from_a_gpu_are_read_on_the_cpu_and_the_other_way_round(tmp_path):
    there = small_gpt().to("cuda")
    save_checkpoint(tmp_path / "there", there)
    there.save_pretrained(tmp_path / "pretrained")
    for loaded in (load_checkpoint(tmp_path / "there").model, GPT.from_pretrained(tmp_path / "pretrained")):
        assert {p.device for p in loaded.parameters()} == {"cpu"}
        assert_same(loaded, there)
    other = small_gpt(seed=1).to("cuda")
    other.load_state_dict(loaded.state_dict())  # from the CPU into a model on the GPU
    assert {p.device for p in other.parameters()} == {"cuda:0"}
    assert_same(other, there)
    small_gpt(seed=2).load_state_dict(there.state_dict())  # and back
