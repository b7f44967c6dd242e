"""GPT and Llama against transformers, their parameter counts, and what a language model does with any input."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minigrad as mg
from gpt import GPT, GPTConfig, KVCache, Llama, LlamaConfig
from gpt.model.positions import sinusoidal_table
from minigrad import Tensor, nn, no_grad, use_kernels
from tests.gpt.small import LLAMA, SHAPE, assert_same, golden, gradients_of, random_ids, small_gpt, small_llama

# --- counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "preset, count",
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("distilgpt2", 81_912_576),
    ],
)
def test_presets_have_as_many_parameters_as_the_real_models(preset, count):
    assert GPTConfig.preset(preset).num_parameters() == count


# --- the same numbers as transformers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, dtype",
    [("gpt2", "float64"), ("gpt1", "float64"), ("llama", "float64"), ("gpt2", "float32"), ("llama", "float32")],
)
def test_logits_loss_and_gradients_equal_those_of_transformers(kind, dtype, kernels):
    """gpt1 is the post-norm model. In float32 the numbers are the same to rounding."""
    model, expected = golden(kind)
    model.to(dtype)
    with use_kernels(kernels):
        logits = model(expected["ids"])
        loss = model.loss(expected["ids"], expected["targets"])
        loss.backward()
    limits = {"rtol": 0, "atol": {"float64": 1e-12, "float32": 1e-5}[dtype]}
    assert logits.data.dtype == dtype
    assert_allclose(logits.data, expected["logits"], **limits)
    assert_allclose(loss.item(), expected["loss"], **limits)
    assert_same(gradients_of(model), {name: expected[f"gradient/{name}"] for name in gradients_of(model)}, **limits)
    assert len(gradients_of(model)) == len(list(model.parameters()))


# --- weights ----------------------------------------------------------------------------------------------------------


def test_embedding_and_head_share_a_tensor_and_add_gradients():
    ids, targets = random_ids((2, 6)), random_ids((2, 6), seed=1)
    tied, untied = small_gpt(dtype="float64"), small_gpt(dtype="float64")
    assert tied.lm_head.weight is tied.transformer.wte.weight
    assert {"transformer.wte.weight", "lm_head.weight"} & tied.state_dict().keys() == {"transformer.wte.weight"}
    untied.lm_head.weight = nn.Parameter(untied.transformer.wte.weight.data.copy())
    for model in (tied, untied):
        model.loss(ids, targets).backward()
    both = untied.transformer.wte.weight.grad + untied.lm_head.weight.grad
    assert_allclose(tied.transformer.wte.weight.grad, both, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "model",
    [
        GPT(GPTConfig(400, 64, n_layer=8, n_head=4, n_embd=128)),
        Llama(LlamaConfig(400, 64, n_layer=8, n_head=4, n_kv_head=2, n_embd=128, n_inner=200)),
    ],
)
def test_the_weights_start_as_in_gpt2(model):
    """Small where they are added to the residual stream."""
    added = ("c_proj.weight", "o_proj.weight", "down_proj.weight")
    for name, parameter in model.named_parameters():
        data = parameter.data
        if data.ndim == 1:
            assert (data == (0 if name.endswith("bias") else 1)).all(), name
        else:
            std = 0.02 / math.sqrt(2 * 8) if name.endswith(added) else 0.02
            assert data.std() == pytest.approx(std, rel=5 / math.sqrt(2 * data.size)), name  # 5 standard errors
            assert abs(data.mean()) < 5 * std / math.sqrt(data.size), name


# --- positions, dropout -----------------------------------------------------------------------------------------------


def test_sinusoidal_positions_are_those_of_the_paper():
    table = sinusoidal_table(50, 6)
    for t in (0, 1, 49):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            assert table[t, 2 * i : 2 * i + 2] == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-6)
    assert sinusoidal_table(4, 5).shape == (4, 5)
    transformer = GPT(GPTConfig(**SHAPE, positions="sinusoidal")).transformer
    # Neither tokens nor places drown the other.
    assert 0.5 < transformer.wpe.table.std() / transformer.wte.weight.data.std() < 2


@pytest.mark.parametrize(
    "small, changes", [(small_gpt, {}), (small_gpt, {"positions": "sinusoidal"}), (small_llama, {})]
)
def test_the_order_of_the_tokens_matters(small, changes):
    model = small(**changes)
    with no_grad():
        a, b = model([[5, 6, 7]]).data[0, -1], model([[6, 5, 7]]).data[0, -1]
    assert abs(a - b).max() > 1e-3


def test_no_token_sees_a_later_one(small, kernels):
    model, ids = small(), random_ids((1, 9))
    changed = ids.copy()
    changed[0, 5:] = (ids[0, 5:] + 1) % 37
    with no_grad(), use_kernels(kernels):
        a, b = model(ids).data[0], model(changed).data[0]
    assert_array_equal(a[:5], b[:5])
    assert (a[5:] != b[5:]).any(axis=1).all()


def test_dropout_acts_in_training_only_and_follows_the_seed():
    model, ids = small_gpt(dropout=0.3), random_ids((2, 8))
    results = {}
    for kernels in ("textbook", "fast"):
        with use_kernels(kernels), no_grad():
            mg.manual_seed(1)
            results[kernels] = model.train()(ids).data
            other = model(ids).data
            mg.manual_seed(1)
            again = model(ids).data
            evaluated = [model.eval()(ids).data for _ in range(2)]
        assert (results[kernels] == again).all() and (results[kernels] != other).any()
        assert (evaluated[0] == evaluated[1]).all() and (evaluated[0] != results[kernels]).any()
    assert_allclose(results["textbook"], results["fast"], atol=1e-5)


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_ids_may_be_lists_arrays_or_tensors():
    model = small_gpt()
    ids = [[3, 1, 4], [1, 5, 9]]
    with no_grad():
        expected = model(np.array(ids)).data
        assert expected.shape == (2, 3, 37)
        for same in (ids, tuple(ids), Tensor(np.array(ids)), np.array(ids, np.uint16), np.array(ids, np.int32)):
            assert_array_equal(model(same).data, expected)
        assert_allclose(model([3, 1, 4]).data, expected[:1], atol=1e-6)  # one sequence


@pytest.mark.parametrize(
    "inputs, error, words",
    [
        ({"ids": [[3, 37]]}, IndexError, r"index 37 at \(0, 1\) is outside 0..36"),
        ({"ids": [[-1, 3]]}, IndexError, r"index -1 at \(0, 0\) is outside 0..36"),
        ({"ids": [[0.5, 1.0]]}, ValueError, "must be integers"),
        ({"ids": []}, ValueError, "time >= 1"),
        ({"ids": np.zeros((1, 2, 3), int)}, ValueError, r"\(batch, time\)"),
        ({"ids": [[1, 2], [3]]}, ValueError, "of one length"),
        ({"ids": np.zeros((1, 13), int)}, ValueError, "13 tokens are more than the model's block size of 12"),
        ({"attention_mask": [[1]]}, ValueError, r"attention_mask must have shape \(1, 2\), got \(1, 1\)"),
        ({"targets": [[1, 37]]}, IndexError, "index 37 at"),
        ({"targets": [[1, 2, 3]]}, ValueError, "do not fit ids"),
        ({"targets": [[1.0, 2.0]]}, ValueError, "targets must be integers"),
    ],
)
def test_bad_inputs_are_refused_in_one_sentence(inputs, error, words):
    model = small_gpt()
    with pytest.raises(error, match=words) as caught:
        (model.loss if "targets" in inputs else model)(**{"ids": [[1, 2]], **inputs})
    assert "\n" not in str(caught.value)


def test_padding_changes_nothing_on_either_side(small, kernels):
    model, ids = small(dtype="float64"), random_ids((1, 6))
    left, right = np.full((1, 9), 36), np.zeros((1, 9), int)
    left[:, 3:], right[:, :6] = ids, ids
    with no_grad(), use_kernels(kernels):
        expected = model(ids).data
        on_the_left = model(left, attention_mask=[[0, 0, 0, 1, 1, 1, 1, 1, 1]]).data[:, 3:]
        on_the_right = model(right, attention_mask=Tensor(np.array([[1] * 6 + [0] * 3]))).data[:, :6]
    assert_allclose(on_the_left, expected, atol=1e-12)
    assert_allclose(on_the_right, expected, atol=1e-12)


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_loss_counts_only_targets_that_count(kernels):
    model, ids, targets = small_gpt(dtype="float64"), random_ids((2, 6)), random_ids((2, 6), seed=1)
    targets[0, 2:] = -100
    with no_grad(), use_kernels(kernels):
        each = model.loss(ids, targets, reduction="none").data
        logits = model(ids).data
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        kept = targets != -100
        expected = np.where(kept, -np.take_along_axis(log_probs, np.where(kept, targets, 0)[..., None], -1)[..., 0], 0)
        assert_allclose(each, expected, atol=1e-12)
        assert model.loss(ids, targets).item() == pytest.approx(expected.sum() / kept.sum())
        assert model.loss(ids, targets, reduction="sum").item() == pytest.approx(expected.sum())
        assert_array_equal(model.token_logprobs(ids, targets).data, -each)
        other = np.where(kept, targets, 7)
        total = model.loss(ids, other, ignore_index=7, reduction="sum").item()
        assert total == pytest.approx(expected[other != 7].sum())


def test_a_hooked_layer_is_called_and_not_fused_away(small, kernels):
    """A layer that is replaced or watched from outside (LoRA, quantization, a forward hook) has to be called."""
    model = small(dtype="float64")
    ids = random_ids((2, 6))
    called = []
    with use_kernels(kernels), no_grad():
        expected = model.loss(ids, ids).item()
        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        for linear in linears:
            linear.register_forward_hook(lambda layer, x, out: called.append(layer))
        assert model.loss(ids, ids).item() == pytest.approx(expected, abs=1e-12)
    assert set(called) == set(linears) and len(called) == len(linears) > 8


def test_a_cache_refuses_to_be_trained_through(small):
    model = small()
    with pytest.raises(RuntimeError, match=r"with no_grad\(\)"):
        model([[1, 2]], cache=KVCache.for_model(model))


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [GPTConfig.preset("tiny", dropout=0.1, norm="post"), LlamaConfig(**LLAMA)])
def test_a_configuration_survives_a_dictionary(config):
    assert type(config).from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match=f"unknown setting n_heads; {type(config).__name__} has "):
        config.from_dict({"n_heads": 4})
    with pytest.raises(ValueError, match="unknown preset 'gpt3'; known are gpt2"):
        GPTConfig.preset("gpt3")
