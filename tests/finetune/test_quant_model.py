"""A whole GPT or Llama, quantized: what it computes, what is counted, what is refused, and its folder."""

import copy

import numpy as np
import pytest

from finetune.quantization import QuantizationConfig, QuantizedEmbedding, QuantizedLinear, absmax, memory, quantize
from finetune.quantization.awq import scale_block
from finetune.quantization.calibration import Reader
from finetune.quantization.folder import load_quantized, save_quantized
from gpt import GPT
from gpt.tokenizer.tokenizer import Tokenizer
from gpt.training.checkpoint import CheckpointError
from gpt.training.loading import load_model
from minigrad import nn, no_grad
from tests.finetune.small import dequantized
from tests.gpt.small import (
    assert_same,
    checkpoint_of,
    random_ids,
    save_model,
    small_gpt,
    small_hybrid,
    small_latent,
    small_llama,
    weights_of,
)
from tests.helpers import read_json

IDS = random_ids((40, 12))
CONFIGS = [
    QuantizationConfig(),
    QuantizationConfig("absmax", group_size=0, embedding=False),
    QuantizationConfig("zeropoint", 4, 4),
    QuantizationConfig("nf4", group_size=8),
    QuantizationConfig("nf4", group_size=4, double_quant=True),
    QuantizationConfig("gptq", group_size=8),
    QuantizationConfig("gptq", 8, zero_point=True, desc_act=True),
    QuantizationConfig("awq", group_size=8),
    QuantizationConfig("awq", group_size=-1, zero_point=True, embedding=False),
]
LLAMA_CONFIGS = [
    QuantizationConfig(),
    QuantizationConfig("zeropoint", 4, 4, embedding=False),
    QuantizationConfig("nf4", group_size=4, double_quant=True),
    QuantizationConfig("gptq", group_size=4, desc_act=True),
    QuantizationConfig("awq", group_size=4),
]
LAYERS = GPT.names.layers
SOME, GPTQ = QuantizationConfig("absmax", 4, 4), QuantizationConfig("gptq", group_size=8)


def name_of(value):
    return "-".join(map(str, value.to_dict().values())) if isinstance(value, QuantizationConfig) else value.__name__


WITH_FOLDERS = [*((small_gpt, config) for config in CONFIGS), *((small_llama, config) for config in LLAMA_CONFIGS)]
OTHERS = [(make, config) for make in (small_latent, small_hybrid) for config in LLAMA_CONFIGS]


def calibration_for(config):
    return IDS if config.method in ("gptq", "awq") else None


def logits(model, ids=IDS):
    with no_grad():
        return model(ids).data


@pytest.mark.parametrize(("make", "config"), WITH_FOLDERS + OTHERS, ids=name_of)
def test_the_quantized_model_computes_with_the_rounded_weights(make, config):
    model, original, plain = make(), make(), make()
    report = quantize(model, config, calibration_for(config))
    names = [f"{block}.{layer}" for block in model.part_names() for layer in model.names.layers]
    assert [layer.name for layer in report.layers] == names
    plain.load_state_dict({name: a for name, a in weights_of(model).items() if ".weight." not in name}, strict=False)
    for name in names:
        layer = model.get_submodule(name)
        assert type(layer) is QuantizedLinear and layer.weight.bits == config.bits
        plain.set_submodule(name, dequantized(layer))
    assert isinstance(model.embedding, QuantizedEmbedding) == config.embedding
    if config.embedding:
        assert model.lm_head.weight is model.embedding.weight
        plain.embedding.weight.data[...] = model.embedding.weight.dequantize()
    np.testing.assert_allclose(logits(model), logits(plain), atol=2e-4)
    change = np.abs(logits(model) - logits(original)).std() / logits(original).std()
    assert 0 < change < (0.05 if config.bits == 8 else 0.6)
    assert report.bytes_before == memory(original) and report.bytes_after == memory(model) < report.bytes_before
    assert all((layer.error is not None) == (config.method in ("gptq", "awq")) for layer in report.layers)
    texts = [model.generate([[1, 2, 3], [4]], 6, temperature=0, use_cache=cache) for cache in (True, False)]
    assert texts[0] == texts[1]


def test_an_untied_head_stays_in_floats():
    model = small_llama(tied=False)
    before = model.lm_head.weight.data.copy()
    quantize(model, QuantizationConfig("absmax"))
    assert type(model.lm_head) is nn.Linear and type(model.embedding) is QuantizedEmbedding
    np.testing.assert_array_equal(model.lm_head.weight.data, before)


def test_text_is_read_without_dropout_and_the_mode_is_kept():
    results = []
    for mode in (True, False):
        model = small_gpt(dropout=0.5).train(mode)
        quantize(model, GPTQ, IDS)
        assert all(module.training == mode for module in model.modules())
        results.append(logits(model.eval()))
    np.testing.assert_array_equal(*results)


def test_later_layers_are_calibrated_behind_quantized_ones(monkeypatch):
    """Two bits' worth of noise in the first block must be in the inputs of the second."""
    model = small_gpt()
    seen = []
    original = Reader.inputs_of

    def spy(self, block, layers):
        found = original(self, block, layers)
        seen.extend((name, moments.hessian.copy()) for name, moments in found.items())
        return found

    monkeypatch.setattr(Reader, "inputs_of", spy)
    quantize(model, QuantizationConfig("gptq", group_size=8, embedding=False), IDS)
    assert [name for name, _ in seen] == [*LAYERS, *LAYERS]
    behind = small_gpt()
    hidden = []
    behind.transformer.set_submodule("h.0", model.transformer.h[0])  # quantized; the second block is not
    for block in behind.transformer.h:
        block.attn.c_attn.register_forward_hook(lambda module, inputs, output: hidden.append(inputs[0].data))
    logits(behind)
    for (_, hessian), x in zip((seen[0], seen[4]), hidden, strict=True):
        np.testing.assert_allclose(hessian, np.einsum("nti,ntj->ij", x, x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("model", [small_gpt(n_embd=32), small_llama(n_embd=32, n_inner=64)], ids=["gpt", "llama"])
def test_gptq_and_awq_lose_less_than_rounding_in_every_layer(model, method):
    report = quantize(copy.deepcopy(model), QuantizationConfig(method, group_size=16), IDS)
    ratios = [layer.error / layer.nearest_error for layer in report.layers]
    assert max(ratios) <= 1.0 + 1e-6 and np.mean(ratios) < 0.95
    assert any(layer.alpha is not None for layer in report.layers) == (method == "awq")


@pytest.mark.parametrize(
    ("make", "changes", "not_scaled"),
    [
        (small_gpt, {}, {"mlp.c_proj"}),  # behind an activation
        (small_llama, {}, {"self_attn.o_proj"}),  # heads of values that are shared cannot be scaled for one of queries
        (small_llama, {"n_kv_head": 4}, set()),  # as many heads of keys as of queries
        (small_latent, {}, set()),
        (small_hybrid, {}, {"attn.c_attn", "attn.c_proj", "mlp.c_proj"}),  # a norm, and gates that read the same
    ],
)
def test_folding_scales_changes_nothing_that_the_model_computes(make, changes, not_scaled):
    model, original = make(dtype="float64", **changes), make(dtype="float64", **changes)
    reader = Reader(model, IDS)
    for block in model.blocks:
        moments = reader.inputs_of(block, model.names.inputs)
        before = {name: block.get_submodule(name).weight.data for name in model.names.layers}
        alphas = scale_block(block, model.names.inputs, moments, lambda weight: absmax(weight, 4, 4))
        assert set(model.names.layers) - set(alphas) == not_scaled
        assert all(len({alphas.get(layer) for layer in layers}) == 1 for layers, _ in model.names.inputs)
        scaled = [name for name, alpha in alphas.items() if alpha]
        assert scaled and all((block.get_submodule(name).weight.data != before[name]).any() for name in scaled)
        reader.pass_through(block)
    np.testing.assert_allclose(logits(model), logits(original), atol=1e-5)


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "config", "calibration", "words"),
    [
        (None, QuantizationConfig("absmax", 4), None, r"h.0.attn.c_attn: group_size 64 does not divide rows of 8"),
        (None, GPTQ, None, "gptq needs the inputs of each layer: give it text"),
        (lambda m: m.blocks[1].mlp.c_proj.weight.data.fill(np.inf), SOME, None, "h.1.mlp.c_proj has weights that are "),
        (lambda m: quantize(m, SOME), SOME, None, "is a Quantized.*, not .*: a model can be quantized only once"),
        (None, SOME, IDS + 100, "calibration: .* outside 0..36 of the vocabulary"),
        (None, SOME, random_ids((2, 13)), "with T at most 12, got int64 of shape .2, 13."),
        (None, SOME, IDS * 1.0, "calibration must be token ids"),
        (None, SOME, IDS[:0], "calibration must be token ids"),
    ],
)
def test_bad_input_leaves_the_model_as_it_was(change, config, calibration, words):
    model = small_gpt()
    (change or id)(model)
    before, modules = weights_of(model), dict(model.named_modules())
    with pytest.raises((ValueError, IndexError), match=words):
        quantize(model, config, calibration)
    assert dict(model.named_modules()) == modules
    assert_same(model, before)


def test_options_that_do_not_go_together_are_named():
    for settings, words in (
        ({"bits": 3}, "3 bits are not supported"),
        ({"method": "nf4", "bits": 8}, "NF4 has 4 bits, not 8"),
        ({"double_quant": True}, "double_quant is an option of nf4, not of absmax"),
        ({"zero_point": True}, "zero_point is an option of zeropoint, gptq, awq, not of absmax"),
    ):
        with pytest.raises(ValueError, match=words):
            QuantizationConfig(**settings)


def test_a_post_norm_model_is_refused_for_awq():
    with pytest.raises(ValueError, match="a post-norm model has no norm there"):
        quantize(small_gpt(norm="post"), QuantizationConfig("awq", group_size=8), IDS)
    quantize(small_gpt(norm="post", positions="sinusoidal"), GPTQ, IDS)


# --- folders ---


@pytest.fixture
def tokenizer():
    return Tokenizer.train("a small text to have a tokenizer of", vocab_size=257)


def folder_with(path, config, tokenizer, make=small_gpt, **changes):
    model = make(vocab_size=260, **changes).eval()
    quantize(model, config, calibration_for(config))
    save_quantized(path, model, config, tokenizer)
    return model


@pytest.mark.parametrize(("make", "config"), WITH_FOLDERS, ids=name_of)
def test_a_folder_brings_the_same_model_back(tmp_path, make, config, tokenizer):
    tied = config.method != "zeropoint"  # so that a head of its own is stored, too
    model = folder_with(tmp_path / "q", config, tokenizer, make, tied=tied)
    loaded, its_tokenizer = load_quantized(tmp_path / "q")
    assert type(loaded) is type(model) and loaded.config == model.config
    assert not loaded.training and len(its_tokenizer) == len(tokenizer)
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert_same(loaded, model)
    assert all(loaded.state_dict()[name].dtype == array.dtype for name, array in model.state_dict().items())
    np.testing.assert_array_equal(logits(loaded), logits(model))
    assert (checkpoint_of(tmp_path / "q") / "model.safetensors").stat().st_size < memory(model) + 20_000
    content = read_json(checkpoint_of(tmp_path / "q") / "config.json")["quantization_config"]
    assert content["quant_method"] == config.method and content["sym"] == (not config.zero_point)
    assert set(content) >= {"bits", "group_size", "sym", "zero_point", "desc_act", "double_quant"}
    assert QuantizationConfig.from_dict(content) == config


def test_one_loader_takes_every_kind_of_folder(tmp_path, tokenizer):
    quantized = folder_with(tmp_path / "q", SOME, tokenizer)
    save_model(tmp_path / "plain", small_gpt(vocab_size=260), tokenizer)
    np.testing.assert_array_equal(logits(load_model(tmp_path / "q")[0]), logits(quantized))
    np.testing.assert_array_equal(logits(load_model(tmp_path / "plain")[0]), logits(small_gpt(vocab_size=260)))
    with pytest.raises(CheckpointError, match="does not describe a minigrad-gpt-quantized"):
        load_quantized(tmp_path / "plain")
