"""The models that people have: every variation that is supported computes what transformers computes, both ways.

Small random folders, made here by transformers. What is not supported is refused by name: test_damaged_files.py.
"""

import numpy as np
import pytest

from gpt import GPT, LanguageModel, Llama, LlamaConfig
from gpt.model_config import RopeScaling
from gpt.weights import gguf_writing, gpt2_gguf, llama_gguf
from gpt.weights.gguf_file import K_QUANTS, GGUFError
from tests.gpt import small
from tests.gpt.gguf_files import write_gguf
from tests.gpt.small import GOLDEN, golden_arrays, random_ids
from tests.helpers import change_json, read_json, write_json

V = 60
LLAMA = {
    "vocab_size": V, "max_position_embeddings": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
GPT2 = {"vocab_size": V, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
GPT2 |= dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip


def rope(**settings):
    return {"rope_parameters": {"rope_theta": 100.0, **settings}}


# The type, and what differs from the small model above.
VARIANTS = {
    "llama": ("llama", {}),
    "untied": ("llama", {"tie_word_embeddings": False}),
    "smaller heads": ("llama", {"head_dim": 2}),
    "linear scaling": ("llama", rope(rope_type="linear", factor=4.0)),
    "Llama 3 scaling, head size": ("llama", {**rope(**LLAMA3), "head_dim": 32, "tie_word_embeddings": False}),
    "mistral": ("mistral", {"sliding_window": 64, "head_dim": 16, "tie_word_embeddings": False}),
    "mistral, wide": ("mistral", {"sliding_window": None, "hidden_size": 34, "head_dim": 8}),
    "qwen2": ("qwen2", {}),
    "qwen2, scaled": ("qwen2", rope(rope_type="linear", factor=2.0)),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "gpt2": ("gpt2", {}),
    "gpt2, erf": ("gpt2", {"activation_function": "gelu"}),
    "gpt2, relu": ("gpt2", {"activation_function": "relu"}),
    "gpt2, all": ("gpt2", {"tie_word_embeddings": False, "n_inner": 200, "activation_function": "swish"}),
}


GOLDEN_VARIANTS = ["qwen3", "qwen2, scaled", "Llama 3 scaling, head size"]


def golden_name(name):
    """The name of a variant in golden/variants, which every machine can compare with."""
    return name.replace(",", "").replace(" ", "-")


def reference(kind, changes):
    """A random model of transformers, in float32, with random norms and biases."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**(GPT2 if kind == "gpt2" else LLAMA), **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(4.0)
    return model


def transformers_model(folder):
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder).float().eval()


def outputs(model, ids):
    import torch

    with torch.no_grad():
        logits = model(torch.from_numpy(ids)).logits.numpy()
        greedy = model.generate(torch.from_numpy(ids), max_new_tokens=12, do_sample=False, eos_token_id=None)
    return logits, greedy[:, ids.shape[1] :].tolist()


def assert_same(model, ids, expected):
    logits, greedy = expected
    np.testing.assert_allclose(model(ids).data, logits, rtol=0, atol=2e-5 * max(1.0, np.abs(logits).max()))
    assert model.generate(ids, 12, temperature=0) == greedy


def block_model(name):
    """A model of ours of that variant whose rows are whole blocks, for GGUF files."""
    kind, changes = VARIANTS[name]
    import transformers

    from gpt.weights.pretrained import ARCHITECTURES

    blocks = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8}
    shape = GPT2 if kind == "gpt2" else {**LLAMA, **blocks}
    config = transformers.AutoConfig.for_model(kind, **{**shape, **changes})
    ours = ARCHITECTURES[kind].from_json(config.to_dict())
    return (Llama if isinstance(ours, LlamaConfig) else GPT)(ours).eval()


def settings_of(model):
    return (gpt2_gguf if isinstance(model, GPT) else llama_gguf).settings(model.config)


def tensors_of(model):
    return dict(gguf_writing._tensors(model, gpt2_gguf if isinstance(model, GPT) else llama_gguf))


@pytest.mark.parametrize("name", GOLDEN_VARIANTS)
def test_golden_logits_of_transformers(name):
    place = GOLDEN / "variants" / golden_name(name)
    arrays = golden_arrays(f"variants/{golden_name(name)}")
    assert_same(Llama.from_pretrained(place), arrays["ids"], (arrays["logits"], arrays["greedy"].tolist()))


@pytest.mark.oracle
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_computes_what_transformers_computes(tmp_path, name):
    import transformers

    theirs = reference(*VARIANTS[name])
    theirs.save_pretrained(tmp_path / "theirs")
    model = (GPT if VARIANTS[name][0] == "gpt2" else Llama).from_pretrained(tmp_path / "theirs")
    ids = random_ids((2, 40), vocab_size=V)
    assert_same(model, ids, outputs(theirs, ids))
    assert model.num_parameters() == model.config.num_parameters()
    model.save_pretrained(tmp_path / "ours")
    again, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    same_type = {"mistral": "llama"}.get(name, VARIANTS[name][0])  # the same math
    assert again.config.model_type == same_type and not any(info.values())
    assert_same(model, ids, outputs(again.float().eval(), ids))
    back = type(model).from_pretrained(tmp_path / "ours")
    assert back.config == model.config
    small.assert_same(back, model)


@pytest.mark.oracle
def test_the_old_spelling_of_scaling(tmp_path):
    theirs = reference("llama", rope(**LLAMA3))
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = read_json(path)
    del config["rope_parameters"]
    write_json(path, {**config, "rope_theta": 100.0, "rope_scaling": LLAMA3})
    ids = random_ids((1, 40), vocab_size=V)
    assert_same(Llama.from_pretrained(tmp_path), ids, outputs(theirs, ids))
    both = {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}, "rope_scaling": LLAMA3, "rope_theta": 100.0}
    write_json(path, {**config, **both})
    assert_same(Llama.from_pretrained(tmp_path), ids, outputs(transformers_model(tmp_path), ids))
    write_json(path, {**config, "rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 2.0}})
    assert Llama.from_pretrained(tmp_path).config.rope_scaling == RopeScaling(2.0)


@pytest.mark.oracle
def test_the_other_names_of_gpt2s_settings(tmp_path):
    reference("gpt2", {}).save_pretrained(tmp_path)
    change_json(tmp_path / "config.json", num_attention_heads=2)
    ids = random_ids((1, 40), vocab_size=V)
    assert_same(GPT.from_pretrained(tmp_path), ids, outputs(transformers_model(tmp_path), ids))


@pytest.mark.oracle("gguf", "torch", "transformers")
@pytest.mark.parametrize("name", [n for n, (kind, _) in VARIANTS.items() if kind != "mistral" and n != "gpt2, erf"])
def test_a_variant_in_a_gguf_file(tmp_path, name):
    model = block_model(name)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * np.random.default_rng(0).standard_normal(parameter.shape).astype(np.float32)
    scaling = getattr(model.config, "rope_scaling", None)
    if scaling is not None and scaling.original_context is not None:
        with pytest.raises(ValueError, match="GGUF files get only linear ones and those of Llama 3.1"):
            settings_of(model)
        return
    if getattr(model.config, "activation", "gelu_tanh") != "gelu_tanh":
        with pytest.raises(ValueError, match="GGUF knows GPT-2 only, not norm pre, learned positions and"):
            settings_of(model)
        return
    arch = next(iter(settings_of(model))).partition(".")[0]
    extra = {"tokenizer.ggml.tokens": ["a"] * V} if arch == "gpt2" else {}
    metadata = {"general.architecture": arch, **settings_of(model), **extra}
    loaded = LanguageModel.from_pretrained(write_gguf(tmp_path / "model.gguf", metadata, tensors_of(model)))
    assert loaded.config == model.config
    small.assert_same(loaded, model)


@pytest.mark.oracle("gguf", "torch", "transformers")
def test_llama_3s_scaling_in_a_gguf_file_is_a_tensor(tmp_path):
    import torch
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    model = block_model("llama")
    settings = {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192, "rope_theta": 500000.0}
    shape = {**LLAMA, "hidden_size": 256, "num_attention_heads": 8}
    config = transformers.LlamaConfig(**shape, rope_parameters=settings)
    speeds = 500000.0 ** (-torch.arange(0, 32, 2, dtype=torch.float64) / 32)
    slower = (speeds / ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]).float().numpy()
    metadata = {"general.architecture": "llama", **settings_of(model), "llama.rope.freq_base": 500000.0}
    tensors = {**tensors_of(model), "rope_freqs.weight": slower}
    found = LanguageModel.from_pretrained(write_gguf(tmp_path / "model.gguf", metadata, tensors)).config
    assert found.rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192) and found.rope_theta == 500000.0
    same = Llama(found)
    assert np.allclose(tensors_of(same)["rope_freqs.weight"], slower, rtol=1e-6) and settings_of(same)
    tensors["rope_freqs.weight"] = slower[::-1].copy()
    with pytest.raises(GGUFError, match=r"rope_freqs.weight is not the scaling of Llama 3.1"):
        LanguageModel.from_pretrained(write_gguf(tmp_path / "other.gguf", metadata, tensors))


@pytest.mark.oracle("gguf", "torch", "transformers")
@pytest.mark.parametrize("kind", K_QUANTS)
def test_k_quants_are_read_as_the_library_reads_them(tmp_path, kind):
    import gguf

    model = block_model("llama")
    metadata = {"general.architecture": "llama", **settings_of(model)}
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    raw = np.random.default_rng(0).integers(0, 256, (256, size), np.uint8)  # gguf writes no K-quants
    half = {"Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}[kind]
    for place in half:  # the scales: finite numbers
        raw[:, place : place + 2] = np.full((256, 1), 0.01, np.float16).view(np.uint8)
    name = "blk.1.ffn_up.weight"
    path = write_gguf(tmp_path / "model.gguf", metadata, {**tensors_of(model), name: raw}, {name: kind})
    found = LanguageModel.from_pretrained(path).state_dict()["model.layers.1.mlp.up_proj.weight"]
    np.testing.assert_array_equal(found, gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind]))
    from finetune.quantization.packed import load_packed

    with pytest.raises(GGUFError, match=f"blk.1.ffn_up.weight is {kind}; packed, only Q8_0, Q4_0, Q4_1 can be kept"):
        load_packed(path)


def test_what_no_model_of_hugging_face_has(tmp_path):
    shape = {"vocab_size": 9, "block_size": 8, "n_layer": 1, "n_head": 2, "n_kv_head": 1, "n_embd": 8, "n_inner": 8}
    model = Llama(LlamaConfig(**shape, qkv_bias=True, qk_norm=True))
    with pytest.raises(ValueError, match="no model of Hugging Face has biases and norms"):
        model.save_pretrained(tmp_path)
