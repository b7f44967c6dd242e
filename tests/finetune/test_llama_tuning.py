"""Adapters, quantization and new heads on a Llama: the same as on a GPT, found under other names."""

import numpy as np
import pytest

from finetune.adapters.adapter_files import load_adapter, save_adapter
from finetune.adapters.lora import LoRAConfig, apply_lora, lora_layers, merge_lora
from finetune.adapters.qlora import apply_qlora
from finetune.objectives.gpt_with_head import HEAD_KIND, GPTWithHead, freeze, load_classifier, save_classifier
from finetune.quantization import QuantizationConfig, QuantizedEmbedding, QuantizedLinear, absmax, memory, quantize
from finetune.quantization.awq import scale_block
from finetune.quantization.calibration import Reader
from finetune.quantization.folder import is_quantized, load_quantized, matrices, save_quantized
from gpt import Llama, load_checkpoint, save_checkpoint
from gpt.model.config import LlamaConfig
from gpt.model.language_model import architecture_of, from_settings, to_settings
from gpt.training.checkpoint import CheckpointError
from minigrad import Tensor, nn, no_grad
from minigrad.optim import SGD
from tests.finetune.golden.make_llama_tuning import FOLDER, LABELS, base
from tests.finetune.small import dequantized, small_tokenizer
from tests.gpt.small import random_ids, small_gpt, small_llama

IDS = random_ids((24, 12))  # (tolerances of 1e-5: transformers turns queries and keys in float32)
CONFIGS = [
    QuantizationConfig(),
    QuantizationConfig("zeropoint", 4, 4, embedding=False),
    QuantizationConfig("nf4", group_size=4, double_quant=True),
    QuantizationConfig("gptq", group_size=4, desc_act=True),
    QuantizationConfig("awq", group_size=4),
]
MULTI_HEAD = {"n_kv_head": 4}  # as many heads of keys as of queries


def name_of(config):
    return config.method


def logits(model, ids=IDS):
    with no_grad():
        return model(ids).data


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "expected.npz") as file:
        return dict(file)


# --- architecture ---


@pytest.mark.parametrize("model", [small_gpt(), small_llama(), small_gpt(norm="post")], ids=["gpt", "llama", "post"])
def test_the_parts_are_there_under_these_names(model):
    assert architecture_of(model.config) is type(model)
    modules = dict(model.named_modules())
    assert modules[model.names.embedding] is model.embedding and type(model.embedding) is nn.Embedding
    shapes = {name: m.weight.shape for name, m in modules.items() if type(m) is nn.Linear and name != "lm_head"}
    plan = QuantizationConfig(embedding=False)
    assert shapes == {name: shape for name, (shape, _) in matrices(model.config, plan).items()}
    assert len(model.blocks) == 2 and modules[model.part_names()[1]] is model.blocks[1]
    assert from_settings(to_settings(model.config)) == model.config
    reader = Reader(model, IDS)
    for block in model.blocks:
        reader.pass_through(block)
    with no_grad():
        np.testing.assert_array_equal(model.final_norm(Tensor(reader.hidden)).data, model.hidden_states(IDS).data)


def test_what_is_no_language_model_is_refused():
    with pytest.raises(ValueError, match="a Linear does not say which layers to adapt: set target_modules"):
        apply_lora(nn.Linear(2, 2), LoRAConfig())
    with pytest.raises(ValueError, match="the family must be one of gpt, llama,.* got 'mamba'"):
        from_settings({"family": "mamba"})


# --- quantization ---


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_a_quantized_llama_computes_with_the_rounded_weights(config):
    model, original, plain = small_llama(), small_llama(), small_llama()
    calibration = IDS if config.method in ("gptq", "awq") else None
    report = quantize(model, config, calibration)
    assert [layer.name for layer in report.layers] == [
        f"model.layers.{i}.{layer}" for i in range(2) for layer in Llama.names.layers
    ]
    for name in matrices(model.config, QuantizationConfig(embedding=False)):
        layer = model.get_submodule(name)
        assert type(layer) is QuantizedLinear and layer.weight.bits == config.bits
        plain.set_submodule(name, dequantized(layer))
    norms = {name: array for name, array in model.state_dict().items() if "layernorm" in name}
    plain.load_state_dict(norms, strict=False)  # AWQ scales them
    if config.embedding:
        assert type(model.model.embed_tokens) is QuantizedEmbedding
        assert model.lm_head.weight is model.model.embed_tokens.weight
        plain.model.embed_tokens.weight.data[...] = model.model.embed_tokens.weight.dequantize()
    np.testing.assert_allclose(logits(model), logits(plain), atol=2e-4)
    change = np.abs(logits(model) - logits(original)).std() / logits(original).std()
    assert 0 < change < (0.05 if config.bits == 8 else 0.6)
    assert report.bytes_after == memory(model) < report.bytes_before == memory(original)
    texts = [model.generate([[1, 2, 3], [4]], 6, temperature=0, use_cache=cache) for cache in (True, False)]
    assert texts[0] == texts[1]


def test_an_untied_head_stays_in_floats():
    model = small_llama(tied=False)
    before = model.lm_head.weight.data.copy()
    quantize(model, QuantizationConfig("absmax"))
    assert type(model.lm_head) is nn.Linear and type(model.model.embed_tokens) is QuantizedEmbedding
    np.testing.assert_array_equal(model.lm_head.weight.data, before)


@pytest.mark.parametrize("changes", [{}, MULTI_HEAD], ids=["grouped", "multi-head"])
def test_folding_scales_changes_nothing_that_the_model_computes(changes):
    model, original = small_llama(dtype="float64", **changes), small_llama(dtype="float64", **changes)
    reader = Reader(model, IDS)
    for block in model.model.layers:
        found = reader.inputs_of(block, [layers[0] for layers, _ in Llama.names.inputs])
        moments = {layer: found[layers[0]] for layers, _ in Llama.names.inputs for layer in layers}
        before = {name: block.get_submodule(name).weight.data for name in Llama.names.layers}
        alphas = scale_block(block, Llama.names.inputs, moments, lambda weight: absmax(weight, 4, 4))
        # Heads of values that are shared cannot be scaled for one head of queries alone.
        assert set(Llama.names.layers) - set(alphas) == (set() if changes else {"self_attn.o_proj"})
        assert alphas["self_attn.q_proj"] == alphas["self_attn.v_proj"]
        scaled = [name for name, alpha in alphas.items() if alpha]
        assert scaled and all((block.get_submodule(name).weight.data != before[name]).any() for name in scaled)
        reader.pass_through(block)
    np.testing.assert_allclose(logits(model), logits(original), atol=1e-5)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_looking_at_the_inputs_loses_less_than_rounding(method):
    report = quantize(small_llama(n_embd=32, n_inner=64), QuantizationConfig(method, group_size=16), IDS)
    ratios = [layer.error / layer.nearest_error for layer in report.layers]
    assert max(ratios) <= 1.0 + 1e-6 and np.mean(ratios) < 0.95


@pytest.mark.parametrize("changes", [{}, {"tied": False}], ids=["tied", "untied"])
@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_a_folder_brings_a_quantized_llama_back(tmp_path, config, changes):
    tokenizer = small_tokenizer()
    model = small_llama(vocab_size=len(tokenizer), **changes).eval()
    quantize(model, config, IDS if config.method in ("gptq", "awq") else None)
    save_quantized(tmp_path, model, config, tokenizer)
    assert is_quantized(tmp_path)
    loaded, _ = load_quantized(tmp_path)
    assert type(loaded) is Llama and loaded.config == model.config
    np.testing.assert_array_equal(logits(loaded), logits(model))


# --- adapters ---


def test_lora_adapts_queries_and_values_unless_told_otherwise():
    layers = apply_lora(small_llama(), LoRAConfig(r=2))
    assert list(layers) == [f"model.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in "qv"]
    assert len(apply_lora(small_llama(), LoRAConfig(r=2, target_modules="all-linear"))) == 14
    assert list(apply_lora(small_gpt(), LoRAConfig(r=2))) == [f"transformer.h.{i}.attn.c_attn" for i in range(2)]
    with pytest.raises(ValueError, match="slices q are of c_attn, which is not in target_modules"):
        apply_lora(small_llama(), LoRAConfig(r=2, slices=("q",)))


def trained(model, steps=3):
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        model.loss(IDS, np.roll(IDS, -1, axis=1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("quantized", [False, True], ids=["lora", "qlora"])
def test_adapters_learn_merge_and_come_back(tmp_path, quantized):
    config, four_bits = LoRAConfig(r=2, alpha=4, target_modules="all-linear"), QuantizationConfig("nf4", group_size=4)

    def adapted():
        model = small_llama()
        if quantized:
            apply_qlora(model, config, four_bits)
        else:
            apply_lora(model, config)
        return model

    model = adapted()
    before = logits(model)
    trained(model)
    assert not np.allclose(logits(model), before, atol=1e-3)
    save_adapter(model, tmp_path, "smollm2")
    other = small_llama()
    if quantized:
        quantize(other, four_bits)
    load_adapter(other, tmp_path)
    np.testing.assert_allclose(logits(other), logits(model), atol=1e-5)
    if not quantized:
        merge_lora(other)
        assert not lora_layers(other) and other.state_dict().keys() == small_llama().state_dict().keys()
        np.testing.assert_allclose(logits(other), logits(model), atol=1e-4)


def test_an_adapter_that_peft_saved_gives_its_logits(golden):
    model = base()
    config = load_adapter(model, FOLDER / "adapter")
    assert set(config.target_modules) == {"q_proj", "v_proj", "down_proj"} and config.r == 2
    np.testing.assert_allclose(logits(model.to("float64"), golden["ids"]), golden["adapted"], atol=1e-5)
    assert not np.allclose(logits(base().to("float64"), golden["ids"]), golden["adapted"], atol=1e-3)


@pytest.mark.oracle("torch", "transformers", "peft")
@pytest.mark.parametrize("targets", [None, "all-linear", ("gate_proj",)])
def test_ours_load_in_peft_and_give_the_same_logits(tmp_path, targets):
    import peft
    import torch
    import transformers

    whole = ("norm",) if targets else ()
    model = base()
    apply_lora(model, LoRAConfig(r=2, alpha=6, target_modules=targets, modules_to_save=whole))
    trained(model)
    save_adapter(model, tmp_path / "adapter", "base")
    base().save_pretrained(tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").double().eval()
    assert theirs.peft_config["default"].fan_in_fan_out is False
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IDS)).logits.numpy()
    np.testing.assert_allclose(logits(model.to("float64")), expected, atol=1e-5)
    if whole:
        assert "model.norm" in theirs.peft_config["default"].modules_to_save  # "norm" would be all norms to PEFT
        theirs.save_pretrained(tmp_path / "again")
        load_adapter(again := base(), tmp_path / "again")
        np.testing.assert_allclose(logits(again), logits(model), atol=1e-4)


# --- heads ---


def test_a_head_on_a_llama_sees_the_last_token_and_shares_the_body():
    model = small_llama(dtype="float64")
    classifier = GPTWithHead.from_gpt(model, LABELS)
    assert classifier.model is model.model and classifier.score.weight.shape == (3, 16)
    ids, lengths = IDS[:2], [12, 5]
    hidden = model.hidden_states(ids).data[[0, 1], [11, 4]]
    np.testing.assert_allclose(classifier(ids, lengths).data, hidden @ classifier.score.weight.data.T, atol=1e-12)
    np.testing.assert_array_equal(logits(classifier.language_model()), logits(model))
    with pytest.raises(ValueError, match="was removed with the old head"):
        GPTWithHead.from_gpt(small_llama(tied=False), LABELS).language_model()


@pytest.mark.parametrize(("blocks", "first"), [(0, "score.weight"), (1, "model.layers.1.input_layernorm.weight")])
def test_freezing_leaves_the_last_blocks(blocks, first):
    model = GPTWithHead.from_gpt(small_llama(), LABELS)
    freeze(model, blocks)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names[0] == first and ("model.norm.weight" in names) == (blocks > 0)


@pytest.mark.parametrize("tied", [True, False])
def test_checkpoint_and_back(tmp_path, tied):
    model = GPTWithHead.from_gpt(small_llama(tied=tied), LABELS)
    save_checkpoint(tmp_path, model, kind=HEAD_KIND)
    loaded = load_checkpoint(tmp_path, kind=HEAD_KIND).model
    assert type(loaded.config) is LlamaConfig and loaded.labels == LABELS
    np.testing.assert_array_equal(loaded(IDS, [12] * len(IDS)).data, model(IDS, [12] * len(IDS)).data)
    with pytest.raises(CheckpointError, match="does not describe"):
        load_checkpoint(tmp_path)


def test_scores_are_those_of_transformers(golden):
    model = load_classifier(FOLDER / "classifier").to("float64")
    assert model.labels == LABELS and not model.training
    np.testing.assert_allclose(model(golden["ids"], golden["lengths"]).data, golden["scores"], atol=1e-5)


@pytest.mark.oracle("torch", "transformers")
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_computes_the_same_with_what_is_saved(tmp_path, tied):
    import torch
    import transformers

    tokenizer = small_tokenizer()
    model = GPTWithHead.from_gpt(small_llama(vocab_size=len(tokenizer), tied=tied), LABELS).eval()
    save_classifier(model, tmp_path, tokenizer)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "LlamaForSequenceClassification"
    ids, lengths = random_ids((3, 6), vocab_size=len(tokenizer) - 1), np.array([6, 2, 4])
    ids[np.arange(6) >= lengths[:, None]] = tokenizer.eos_token_id
    with torch.no_grad():
        expected = theirs.double()(torch.from_numpy(ids)).logits.numpy()
    with no_grad():
        np.testing.assert_allclose(model.to("float64")(ids, lengths).data, expected, atol=1e-5)
    theirs.float().save_pretrained(tmp_path / "again")
    assert load_classifier(tmp_path / "again").config == model.config
