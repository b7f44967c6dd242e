"""Every planted mistake is found, and found where it is.

The reference, golden/gpt2-folder-trace.npz, is what transformers computes with golden/gpt2-folder:

    python scripts/verify_gpt2.py --model tests/gpt/golden/gpt2-folder \
        --save-reference tests/gpt/golden/gpt2-folder-trace.npz             needs the extra `oracle`
"""

import dataclasses

import numpy as np
import pytest

from gpt import GPT
from minigrad import nn, use_kernels
from minigrad.functional.activation import Gelu
from scripts.shared import verification
from scripts.shared.verification import TOLERANCE, Comparison
from tests.gpt.small import GOLDEN, assert_same, random_ids, small_gpt, small_llama, weights_of

REFERENCE = GOLDEN / "gpt2-folder-trace.npz"


@pytest.fixture(scope="module")
def reference():
    return verification.load_trace(REFERENCE)[0]


@pytest.fixture
def model():
    return GPT.from_pretrained(GOLDEN / "gpt2-folder").to("float64")


def compared(model, reference, dtype="float64"):
    ours = verification.trace(model, reference.ids, reference.targets)
    return Comparison(ours, reference, model.config, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_activation_and_gradient_is_that_of_transformers(model, reference, kernels, dtype):
    with use_kernels(kernels):
        comparison = compared(model.to(dtype), reference, dtype)
    assert comparison.problem() is None
    assert len(comparison.activations()) == len(verification.stages(model.config)) == 3 + 2 * 9 + 2
    assert len(comparison.gradients()) == len(list(model.parameters()))
    worst = max(row.relative for row in comparison.activations() + comparison.gradients())
    assert worst < {"float64": 1e-13, "float32": 1e-5}[dtype]
    assert "differs" not in str(comparison)


# --- planted mistakes -------------------------------------------------------------------------------------------------


def transposed(model, name):
    weight = model.get_submodule(name).weight
    weight.data = np.ascontiguousarray(weight.data.T)


def without_bias(model, name):
    model.get_submodule(name).bias.data[...] = 0


def wrong_epsilon(model, name):
    model.get_submodule(name).eps = 1e-6


def exact_gelu(model, name):
    model.get_submodule(name).activation = "gelu"


def swapped_blocks(model, name):
    first, second = model.transformer.h
    model.transformer.h[0], model.transformer.h[1] = second, first


def more_heads(model, name):
    model.config = dataclasses.replace(model.config, n_head=4)
    for block in model.transformer.h:
        block.attn.n_head = 4


def no_residual(model, name):
    block = model.get_submodule(name)
    block.forward = lambda x, *arguments: block.mlp(block.ln_2(x + block.attn(block.ln_1(x), *arguments)))


def shifted_positions(model, name):
    table = model.get_submodule(name).weight.data
    table[...] = np.roll(table, 1, axis=0)


def scaled_tokens(model, name):
    model.get_submodule(name).weight.data *= 1.001


def untied_head(model, name):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.data[::-1].copy())


MISTAKES = [
    (scaled_tokens, "transformer.wte", "wte"),
    (shifted_positions, "transformer.wpe", "wpe"),
    (swapped_blocks, "", "h.0.ln_1"),
    (wrong_epsilon, "transformer.h.1.ln_1", "h.1.ln_1"),
    (without_bias, "transformer.h.1.attn.c_attn", "h.1.attn.c_attn"),
    (more_heads, "", "h.0.attn.heads"),
    (transposed, "transformer.h.0.attn.c_proj", "h.0.attn"),
    (without_bias, "transformer.h.0.mlp.c_fc", "h.0.mlp.c_fc"),
    (exact_gelu, "transformer.h.1.mlp", "h.1.mlp.gelu"),
    (no_residual, "transformer.h.0", "h.0"),
    (untied_head, "", "logits"),
]


@pytest.mark.parametrize("plant, module, place", MISTAKES)
def test_a_mistake_is_found_where_it_is(model, reference, plant, module, place):
    plant(model, module)
    comparison = compared(model, reference)
    stage = next(stage for stage in verification.stages(model.config) if stage.name == place)
    assert f"the first activation that differs is {place} (" in comparison.problem()
    assert stage.suspect in comparison.problem()
    marked = [line for line in str(comparison).splitlines() if "<-- the first that differs" in line]
    assert marked[0].split()[0] == place


class WrongGelu(Gelu):
    """Forward is right; backward forgets the derivative."""

    @staticmethod
    def backward(ctx, dout):
        return (dout,)


def test_a_wrong_backward_shows_in_the_first_gradient_behind_it(model, reference):
    with use_kernels({"gelu": WrongGelu}):
        problem = compared(model, reference).problem()
    assert "all activations agree" in problem and "differs is that of transformer.h.1.mlp.c_fc.bias:" in problem


def test_a_wrong_loss_and_a_wrong_continuation_are_found(model, reference):
    comparison = compared(model, reference)
    for changes, words in [
        ({"loss": reference.loss * 1.01}, "but the loss does not"),
        ({"loss": float("nan")}, "but the loss does not"),
        ({"continuation": [[1], [2]]}, "the greedy continuation differs"),
    ]:
        wrong = dataclasses.replace(comparison, ours=dataclasses.replace(comparison.ours, **changes))
        assert words in wrong.problem()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_differs(model, reference, value):
    model.transformer.h[1].ln_1.bias.data[3] = value
    with np.errstate(invalid="ignore"):
        rows = verification.differences(verification._activations(model, reference.ids), reference.activations)
    assert verification.first_wrong(rows, 1.0).name == "h.1.ln_1"


# --- the parts --------------------------------------------------------------------------------------------------------


def test_differences_name_what_is_missing_surplus_or_misshapen():
    one, two = np.zeros((2, 3)), np.ones((2, 3))
    rows = verification.differences({"a": one, "b": one, "c": two}, {"a": one, "b": one.T, "d": one})
    assert [(row.name, row.largest) for row in rows] == [("a", 0), ("b", np.inf), ("c", np.inf), ("d", np.inf)]
    assert [row.exceeds(1e-3) for row in rows] == [False, True, True, True]


def test_a_difference_is_measured_by_the_spread():
    small, large = np.array([0.0, 1e-6]), np.array([0.0, 1e6])
    rows = verification.differences({"s": small * 1.1, "l": large * 1.1}, {"s": small, "l": large})
    assert rows[0].relative == pytest.approx(rows[1].relative) == pytest.approx(0.2)
    (constant,) = verification.differences({"x": np.full(3, 2.5)}, {"x": np.full(3, 2.0)})
    assert constant.relative == 0.25
    (zeros,) = verification.differences({"x": np.zeros(3)}, {"x": np.zeros(3)})
    assert zeros.relative == 0


@pytest.mark.parametrize(
    "small, changes",
    [
        (small_gpt, {"dropout": 0.4}),
        (small_gpt, {"dropout": 0.4, "norm": "post"}),
        (small_gpt, {"dropout": 0.4, "positions": "sinusoidal"}),
        (small_llama, {}),
        (small_llama, {"tied": False}),
    ],
)
def test_a_trace_changes_nothing_and_survives_a_file(tmp_path, small, changes):
    model = small(dtype="float64", **changes).train()
    before = weights_of(model)
    ids, targets = random_ids((2, 5)), random_ids((2, 5), seed=1)
    trace = verification.trace(model, ids, targets, new_tokens=20)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert_same(model, before)
    assert [len(row) for row in trace.continuation] == [7, 7]  # as much as the block has room for
    assert set(trace.activations) == {stage.name for stage in verification.stages(model.config)}

    verification.save_trace(tmp_path / "t.npz", trace, model.config)
    read, config = verification.load_trace(tmp_path / "t.npz")
    assert config == model.config and Comparison(trace, read, config, 0.0).problem() is None
    assert list(read.activations) == list(trace.activations) and read.ids.tolist() == ids.tolist()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive", REFERENCE.read_bytes()[:3000], None])
def test_a_damaged_reference_is_refused(tmp_path, content):
    path = tmp_path / "r.npz"
    if content is None:
        np.savez(path, x=np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"r\.npz is not a reference from --save-reference, or is damaged"):
        verification.load_trace(path)
    with pytest.raises(FileNotFoundError):
        verification.load_trace(tmp_path / "nothing.npz")


# --- live -------------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_the_trace_of_a_post_norm_model_is_that_of_transformers(kernels):
    from scripts import compare_torch

    model = small_gpt(dtype="float64", norm="post")
    ids, targets = random_ids((3, 7)), random_ids((3, 7), seed=1)
    reference = compare_torch.torch_trace(compare_torch.carried_over(model), model.config, ids, targets)
    with use_kernels(kernels):
        ours = verification.trace(model, ids, targets)
    assert Comparison(ours, reference, model.config, 1e-10).problem() is None


@pytest.mark.parametrize(
    "mistake, place",
    [
        (lambda block: setattr(block.input_layernorm, "eps", 1e-2), "layers.1.input_layernorm"),
        (lambda block: setattr(block.self_attn, "q_proj", block.self_attn.o_proj), "layers.1.self_attn.q_proj"),
        (lambda block: setattr(block.mlp, "gate_proj", block.mlp.up_proj), "layers.1.mlp.gate_proj"),
    ],
)
def test_a_mistake_in_a_llama_is_found_where_it_is(mistake, place):
    right = small_llama()
    wrong = small_llama()
    ids, targets = random_ids((2, 3, 7))
    mistake(wrong.model.layers[1])
    traces = [verification.trace(model, ids, targets) for model in (wrong, right)]
    problem = Comparison(*traces, right.config, TOLERANCE["float32"]).problem()
    assert f"the first activation that differs is {place} " in problem
