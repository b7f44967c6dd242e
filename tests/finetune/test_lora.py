"""LoRA: the formula, who learns, merging, and which layers a name means."""

from functools import partial

import numpy as np
import pytest

from finetune import LoRAConfig, apply_lora, merge_lora, unmerge_lora
from finetune.adapters.applying import lora_layers, remove_lora
from finetune.adapters.lora import LoRALinear
from finetune.adapters.lora_slices import LoRASlices
from finetune.adapters.targets import target_names
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_step import language_model_loss, training_step
from minigrad import Tensor, nn, use_kernels
from tests.gpt.small import assert_same, logits_of, random_ids, small_gpt, small_llama, weights_of

IDS = random_ids((2, 7))
ALL = ("c_attn", "c_proj", "c_fc")
VARIANTS = {
    "c_attn": LoRAConfig(r=2, alpha=6),
    "query and value": LoRAConfig(r=3, alpha=6, slices=("q", "v")),
    "value": LoRAConfig(r=2, alpha=2, slices=("v",)),
    "key, query, rank-stabilised": LoRAConfig(r=4, alpha=6, slices=("k", "q"), use_rslora=True),
    "all layers": LoRAConfig(r=2, alpha=4, target_modules="all-linear"),
    "all layers, slices of c_attn": LoRAConfig(r=2, alpha=4, target_modules=ALL, slices=("q", "v")),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def config(request):
    return request.param


def adapted(config, dtype="float64", make=small_gpt):
    """A model with adapters that do something: B is not zero."""
    model = make(dtype=dtype)
    apply_lora(model, config)
    randomize(model)
    return model


def randomize(model, seed=1):
    rng = np.random.default_rng(seed)
    for layer in lora_layers(model).values():
        layer.lora_A.data[...] = 0.3 * rng.standard_normal(layer.lora_A.shape)
        layer.lora_B.data[...] = 0.3 * rng.standard_normal(layer.lora_B.shape)


# --- the formula ------------------------------------------------------------------------------------------------------


def test_h_is_wx_plus_scaled_bax():
    base = nn.Linear(5, 4)
    layer = LoRALinear(base, r=3, scaling=12 / 3)
    layer.lora_B.data[...] = np.random.default_rng(0).standard_normal((4, 3))
    x = np.random.default_rng(1).standard_normal((2, 6, 5)).astype(np.float32)
    W, b, A, B = base.weight.data, base.bias.data, layer.lora_A.data, layer.lora_B.data
    expected = [[W @ row + b + 12 / 3 * (B @ (A @ row)) for row in rows] for rows in x]
    np.testing.assert_allclose(layer(Tensor(x)).data, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.delta(), 4 * B @ A, rtol=1e-6)


def test_query_and_value_have_a_detour_each_and_the_key_has_none():
    base = nn.Linear(4, 12, bias=False)
    layer = LoRASlices(base, r=2, scaling=3, dropout=0.0, slices=("q", "v"))
    layer.lora_B.data[...] = np.random.default_rng(0).standard_normal((8, 2))
    one_by_one = Tensor(np.eye(4, dtype=np.float32))  # gives the columns of the matrix that is added
    A_q, A_v = np.split(layer.lora_A.data, 2)  # (r, in) each
    B_q, B_v = np.split(layer.lora_B.data, 2)  # (out/3, r) each
    added = (layer(one_by_one) - base(one_by_one)).data.T  # (out, in)
    expected = [3 * B_q @ A_q, np.zeros((4, 4)), 3 * B_v @ A_v]
    np.testing.assert_allclose(added, np.concatenate(expected), rtol=1e-4, atol=1e-6)


def test_at_first_the_model_is_as_it_was_and_a_is_spread(config):
    model = small_gpt(dtype="float64")
    before = logits_of(model, IDS)
    layers = apply_lora(model, config)
    np.testing.assert_array_equal(logits_of(model, IDS), before)
    for layer in layers.values():
        bound = 1 / np.sqrt(layer.in_features)
        assert layer.lora_A.dtype == layer.lora_B.dtype == np.float64
        assert 0.8 * bound < abs(layer.lora_A.data).max() <= bound and not layer.lora_B.data.any()


def test_lora_adapts_queries_and_values_unless_told_otherwise():
    layers = apply_lora(small_llama(), LoRAConfig(r=2))
    assert list(layers) == [f"model.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in "qv"]
    assert len(apply_lora(small_llama(), LoRAConfig(r=2, target_modules="all-linear"))) == 14
    model = small_gpt()
    assert list(apply_lora(model, LoRAConfig(r=2))) == [f"transformer.h.{i}.attn.c_attn" for i in range(2)]
    assert "c_attn: LoRALinear  r=2  lora_A (2, 8), lora_B (24, 2)" in repr(model)
    with pytest.raises(ValueError, match="a Linear does not say which layers to adapt: set target_modules"):
        apply_lora(nn.Linear(2, 2), LoRAConfig())


def test_dropout_is_before_the_adapter_and_only_in_training():
    layer = LoRALinear(nn.Linear(8, 8), r=8, scaling=1.0, dropout=0.5)
    layer.lora_A.data[...] = layer.lora_B.data[...] = np.eye(8)
    x = Tensor(np.ones((100, 8), np.float32))
    detour = (layer(x) - layer.base(x)).data
    assert set(detour.round(5).ravel().tolist()) == {0.0, 2.0} and 0.4 < (detour == 0).mean() < 0.6
    layer.eval()
    np.testing.assert_allclose((layer(x) - layer.base(x)).data, 1, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_new_layers_are_in_the_mode_of_the_model(training):
    model = small_gpt().train(training)
    apply_lora(model, LoRAConfig(dropout=0.5))
    assert {module.training for module in model.modules()} == {training}


# --- who learns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
def test_only_adapters_get_gradients_and_no_others_are_computed(config, kernels):
    model = adapted(config, dtype="float32")
    with use_kernels(kernels):
        loss = model.loss(random_ids((2, 7)), random_ids((2, 7), 1))
        wanted = wants(loss)
        loss.backward()
    for name, parameter in model.named_parameters():
        is_adapter = name.endswith(("lora_A", "lora_B"))
        assert parameter.requires_grad == is_adapter == (parameter.grad is not None), name
        assert (id(parameter) in wanted) == is_adapter, name


def wants(tensor):
    """The leaves that the graph of a result computes gradients for."""
    leaves = set()
    stack = [tensor.grad_fn]
    seen = set()
    while stack:
        for target, _ in filter(None, stack.pop().edges):
            if target.is_leaf:
                leaves.add(id(target))
            elif target not in seen:
                seen.add(target)
                stack.append(target)
    return leaves


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
def test_the_gradients_are_those_of_the_merged_weight(config, kernels):
    """dA = scaling Bᵀ dW and dB = scaling dW Aᵀ, where dW is the gradient of the weight that merging makes."""
    ids, targets = random_ids((2, 7)), random_ids((2, 7), 1)
    model = adapted(config)
    layers = lora_layers(model)
    with use_kernels(kernels):
        model.loss(ids, targets).backward()
    merge_lora(model)
    model.loss(ids, targets).backward()
    for name, layer in layers.items():
        dW, A, B = layer.base.weight.grad, layer.lora_A.data, layer.whole_B().data
        np.testing.assert_allclose(layer.lora_A.grad, config.scaling * B.T @ dW, rtol=1e-7, atol=1e-10, err_msg=name)
        dB = config.scaling * dW @ A.T  # (out, rank); of slices, only each one's own block is learned
        if isinstance(layer, LoRASlices):
            C = layer.out_features // 3
            r = config.r
            blocks = [("qkv".index(s) * C, i * r) for i, s in enumerate(layer.slices)]
            dB = np.concatenate([dB[row : row + C, column : column + r] for row, column in blocks])
        np.testing.assert_allclose(layer.lora_B.grad, dB, rtol=1e-7, atol=1e-10, err_msg=name)


def training_of(model):
    """A function that takes a step, always on the same batch, and the optimizer."""
    config = TrainingConfig(max_iters=30, learning_rate=0.03, warmup_iters=0, weight_decay=0.0)
    optimizer, schedule = prepare_training(model, config)
    batches = [(random_ids((4, 8)), random_ids((4, 8), 1))]
    return partial(training_step, model, batches, language_model_loss, optimizer, schedule, 1.0), optimizer


# --- in use -----------------------------------------------------------------------------------------------------------


def test_a_model_with_adapters_is_not_saved_as_a_plain_one(tmp_path):
    model = adapted(VARIANTS["c_attn"], "float32")
    with pytest.raises(ValueError, match="adapter|LoRA"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "model.safetensors").exists()
    merge_lora(model)
    model.save_pretrained(tmp_path / "model")


# --- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_merged_equals_unmerged_and_the_model_is_plain_again(config, dtype, tolerance):
    model = adapted(config, dtype)
    plain_names = small_gpt().state_dict().keys()
    before = logits_of(model, IDS)
    merge_lora(model)
    after = logits_of(model, IDS)
    assert abs(after - before).max() / abs(before).max() < tolerance
    assert model.state_dict().keys() == plain_names and not lora_layers(model)
    assert all(type(m) is nn.Linear for m in model.modules() if hasattr(m, "in_features"))
    assert all(p.requires_grad for p in model.parameters())


def test_unmerging_gives_back_base_and_adapters(config):
    model = adapted(config, "float32")
    before, expected = weights_of(model), logits_of(model, IDS)
    version = next(iter(lora_layers(model).values())).base.weight.version
    layers = merge_lora(model)
    unmerge_lora(model, layers)
    assert next(iter(layers.values())).base.weight.version >= version + 2  # a graph from before knows of both writes
    assert lora_layers(model) == layers
    assert_same(model, before, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(logits_of(model, IDS), expected, rtol=1e-4, atol=1e-4)
    assert all(p.requires_grad == name.endswith(("lora_A", "lora_B")) for name, p in model.named_parameters())


def test_merging_or_unmerging_twice_is_an_error():
    model = adapted(VARIANTS["c_attn"])
    layers = merge_lora(model)
    refuse_to_merge(model, "no LoRA adapters: they were merged or removed already")
    unmerge_lora(model, layers)
    unmerged = weights_of(model)
    with pytest.raises(ValueError, match="h.0.attn.c_attn is not the layer that the adapter was merged into"):
        unmerge_lora(model, layers)
    assert_same(model, unmerged)
    removed = remove_lora(model)
    for other in (model, small_gpt()):  # in the first they were never merged
        with pytest.raises(ValueError, match="nothing to unmerge"):
            unmerge_lora(other, removed)


def refuse_to_merge(model, match):
    before = weights_of(model)
    with pytest.raises(ValueError, match=match):
        merge_lora(model)
    assert_same(model, before)


def test_merging_refuses_tied_half_precision_and_broken_weights():
    tied = adapted(LoRAConfig(r=2, target_modules=("lm_head",)))
    refuse_to_merge(tied, "lm_head shares its weight with transformer.wte")
    refuse_to_merge(adapted(VARIANTS["c_attn"], "float32").to("float16"), "c_attn is float16, too coarse")
    model = adapted(VARIANTS["all layers"])
    lora_layers(model)["transformer.h.1.mlp.c_proj"].lora_B.data[0, 0] = np.nan
    refuse_to_merge(model, "adapter of transformer.h.1.mlp.c_proj is not finite")


# --- which layers -----------------------------------------------------------------------------------------------------

BLOCK = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("c_attn",), ["h.0.attn.c_attn", "h.1.attn.c_attn"]),
        (("mlp.c_proj",), ["h.0.mlp.c_proj", "h.1.mlp.c_proj"]),
        (("h.1.attn.c_proj", "c_fc"), ["h.0.mlp.c_fc", "h.1.attn.c_proj", "h.1.mlp.c_fc"]),
        (r".*h\.0\..*c_(attn|fc)", ["h.0.attn.c_attn", "h.0.mlp.c_fc"]),
        ("all-linear", [f"h.{i}.{part}" for i in (0, 1) for part in BLOCK]),
    ],
)  # fmt: skip
def test_targets(targets, expected):
    assert target_names(small_gpt(), targets) == [f"transformer.{name}" for name in expected]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"target_modules": ("c_attn", "q_proj")}, "'q_proj' fits no module; linear layers here are c_attn, c_proj"),
        ({"target_modules": "c_attn("}, "is not a valid regular expression"),
        ({"target_modules": ("c_attn", "ln_1")}, "h.0.ln_1 is a LayerNorm; LoRA adapts linear layers"),
        ({"modules_to_save": ("score",)}, "names 'score', which is not a module of GPT"),
        ({"modules_to_save": ("wte",)}, "wte shares its weight with lm_head: name both"),
        ({"modules_to_save": ("attn",)}, "c_attn is in target_modules and in modules_to_save"),
        ({"target_modules": ("c_fc",), "slices": ("q",)}, "slices q are of c_attn, which is not"),
    ],
)  # fmt: skip
def test_a_name_that_fits_nothing_leaves_the_model_as_it_was(settings, match):
    model = small_gpt()
    before, trainable = weights_of(model), model.num_parameters(trainable_only=True)
    with pytest.raises(ValueError, match=match):
        apply_lora(model, LoRAConfig(r=2, **settings))
    assert_same(model, before)
    assert model.num_parameters(trainable_only=True) == trainable


@pytest.mark.parametrize(
    ("settings", "match"), [({"target_modules": ()}, "target_modules is empty"), ({"slices": ("q", "q")}, "each once")]
)
def test_settings_out_of_range(settings, match):
    with pytest.raises(ValueError, match=match):
        LoRAConfig(**settings)
