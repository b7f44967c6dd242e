"""Adapter folders: those of PEFT here, ours there, and what is refused."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from finetune import LoRAConfig, apply_lora, merge_lora
from finetune.adapters.adapter_files import CONFIG, WEIGHTS, base_fingerprint, load_adapter, save_adapter
from finetune.adapters.applying import lora_layers
from finetune.objectives.model_with_head import ModelWithHead
from gpt.weights.safetensors_file import SafetensorsFile, write_safetensors
from minigrad import no_grad
from tests.finetune.golden import make_llama_tuning
from tests.finetune.small import GOLDEN
from tests.finetune.test_lora import VARIANTS, adapted, randomize
from tests.gpt.small import assert_same, files_of, golden, golden_arrays, random_ids, small_gpt, small_llama, weights_of
from tests.helpers import change_json, read_json

beside_peft = pytest.mark.oracle("torch", "transformers", "peft")
NAMES = sorted(path.name for path in (GOLDEN / "peft").iterdir())


@pytest.fixture(scope="module")
def expected():
    return golden_arrays(GOLDEN / "peft")


def base_for(name):
    model = golden("gpt2")[0].eval()
    return ModelWithHead.from_language_model(model, ["a", "b", "c"]).eval() if name == "classifier" else model


def outputs(model, ids):
    with no_grad():
        return (model(ids, [ids.shape[1]] * len(ids)) if isinstance(model, ModelWithHead) else model(ids)).data


# --- PEFT's here ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_adapters_that_peft_saved_give_its_logits(name, expected):
    model = base_for(name)
    without = outputs(model, expected["ids"])
    load_adapter(model, GOLDEN / "peft" / name)
    got = outputs(model, expected["ids"])
    wanted = expected[f"logits/{name}"]
    assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    assert abs(got - without).max() > 0.1
    merge_lora(model)
    assert_allclose(outputs(model, expected["ids"]), wanted, rtol=1e-6, atol=1e-6)


def test_an_adapter_of_a_llama_that_peft_saved_gives_its_logits():
    base, folder = make_llama_tuning.base, make_llama_tuning.FOLDER
    expected = golden_arrays(folder / "expected")
    model = base()
    config = load_adapter(model, folder / "adapter")
    assert set(config.target_modules) == {"q_proj", "v_proj", "down_proj"} and config.r == 2
    found, without = (outputs(each.to("float64"), expected["ids"]) for each in (model, base()))
    assert_allclose(found, expected["adapted"], atol=1e-5)  # it turns queries and keys in float32
    assert not np.allclose(without, expected["adapted"], atol=1e-3)


def test_the_settings_of_peft_are_taken_over():
    configs = {name: load_adapter(base_for(name), GOLDEN / "peft" / name) for name in ("attention", "classifier")}
    assert configs["attention"] == LoRAConfig(r=2, alpha=6, dropout=0.1, target_modules=("c_attn",))
    assert configs["classifier"].modules_to_save == ("score",)  # and not PEFT's "classifier", which is nothing here


# --- ours, there and back ---------------------------------------------------------------------------------------------


def trained(config, make=small_gpt):
    """A base, and the same model with an adapter and its modules_to_save changed."""
    model = adapted(config, "float32", make)
    rng = np.random.default_rng(2)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora" not in name:
            parameter.data += 0.1 * rng.standard_normal(parameter.shape).astype("float32")
    return make(), model


SAVED = VARIANTS | {
    "with whole modules": LoRAConfig(r=2, modules_to_save=("ln_f", "h.1.mlp.c_fc")),
    "with the embedding": LoRAConfig(r=2, target_modules=("h.0.mlp.c_fc",), modules_to_save=("wte", "lm_head")),
}


OF_A_LLAMA = LoRAConfig(r=2, alpha=4, target_modules="all-linear", modules_to_save=("norm",))


@pytest.mark.parametrize(
    "make, config",
    [*((small_gpt, config) for config in SAVED.values()), (small_llama, OF_A_LLAMA)],
    ids=[*SAVED, "of a Llama"],
)
def test_there_and_back(make, config, tmp_path):
    base, model = trained(config, make)
    save_adapter(model, tmp_path / "adapter", "runs/base")
    before = base_fingerprint(base, config.modules_to_save)
    load_adapter(base, tmp_path / "adapter")
    ids = random_ids((2, 7))
    assert_allclose(outputs(base, ids), outputs(model, ids), rtol=1e-5, atol=1e-6)
    assert base_fingerprint(base, config.modules_to_save) == before
    assert [p.requires_grad for p in base.parameters()] == [p.requires_grad for p in model.parameters()]
    if not config.slices:  # PEFT's format cannot say more of slices than what they compute
        assert_same(base, weights_of(model))


def logits_in_peft(base, folder, ids):
    """Return PEFT's logits with the adapter in `folder`, on a model of transformers, and the settings it has read."""
    import peft
    import torch

    theirs = peft.PeftModel.from_pretrained(base, folder).double().eval()
    logits = theirs(torch.from_numpy(ids), attention_mask=torch.ones(ids.shape, dtype=torch.long)).logits
    return logits.detach().numpy(), theirs.peft_config["default"]


@beside_peft
@pytest.mark.parametrize("name", [*SAVED, "classifier"])
@pytest.mark.filterwarnings("ignore")
def test_ours_load_in_peft_and_give_the_same_logits(name, tmp_path):
    from tests.finetune.golden.make_peft import base

    reference, model, ids = base(), base_for(name), random_ids((2, 7))
    if name == "classifier":
        reference = base("GPT2ForSequenceClassification", num_labels=3, pad_token_id=0)
    apply_lora(model, SAVED.get(name, LoRAConfig(r=2, modules_to_save=("score",))))
    randomize(model)
    for parameter in (p for n, p in model.named_parameters() if p.requires_grad and "lora" not in n):
        parameter.data += 0.1 * np.random.default_rng(2).standard_normal(parameter.shape)
    save_adapter(model, tmp_path / "adapter", "runs/base")
    wanted, config = logits_in_peft(reference, tmp_path / "adapter", ids)
    assert_allclose(outputs(model, ids), wanted, rtol=1e-5, atol=1e-6)
    assert config.base_model_name_or_path == "runs/base" and config.peft_type == "LORA"


@beside_peft
@pytest.mark.parametrize("targets", [None, "all-linear", ("gate_proj",)])
def test_ours_of_a_llama_load_in_peft_and_give_the_same_logits(tmp_path, targets):
    import transformers

    model, ids = make_llama_tuning.base(), random_ids((2, 7))
    model.save_pretrained(tmp_path / "base")
    whole = ("norm",) if targets else ()
    apply_lora(model, LoRAConfig(r=2, alpha=6, target_modules=targets, modules_to_save=whole))
    randomize(model)
    save_adapter(model, tmp_path / "adapter", "base")
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    wanted, config = logits_in_peft(reference, tmp_path / "adapter", ids)
    assert_allclose(outputs(model.to("float64"), ids), wanted, atol=1e-5)
    assert config.fan_in_fan_out is False
    assert not whole or "model.norm" in config.modules_to_save  # "norm" would be all norms to PEFT


def test_what_is_in_the_files(tmp_path):
    _, model = trained(LoRAConfig(r=2, alpha=3, dropout=0.25, modules_to_save=("ln_f",)))
    save_adapter(model, tmp_path, "runs/base")
    assert read_json(tmp_path / CONFIG) == {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "runs/base", "r": 2, "lora_alpha": 3,
        "lora_dropout": 0.25, "use_rslora": False, "target_modules": ["c_attn"],
        "modules_to_save": ["transformer.ln_f"],
        "fan_in_fan_out": True, "bias": "none", "init_lora_weights": True, "inference_mode": True,
    }  # fmt: skip
    with SafetensorsFile(tmp_path / WEIGHTS) as file:
        assert file.metadata == {"format": "pt", "base_sha256": base_fingerprint(model, ("ln_f",))}
        attn = "base_model.model.transformer.h.1.attn.c_attn"
        shapes = {name: file.shapes[name] for name in file.shapes if ".h.0." not in name}
        assert shapes == {
            f"{attn}.lora_A.weight": (2, 8),
            f"{attn}.lora_B.weight": (24, 2),
            "base_model.model.transformer.ln_f.weight": (8,),
            "base_model.model.transformer.ln_f.bias": (8,),
        }
        assert {entry.dtype for entry in file.entries.values()} == {"F32"}


def test_a_folder_with_an_adapter_is_not_overwritten(tmp_path):
    _, model = trained(VARIANTS["c_attn"])
    save_adapter(model, tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(FileExistsError, match="holds an adapter already: choose another folder"):
        save_adapter(model, tmp_path)
    assert files_of(tmp_path) == before
    with pytest.raises(ValueError, match="no LoRA adapters to save"):
        save_adapter(small_gpt(), tmp_path / "other")


# --- which base -------------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_base_only():
    config = LoRAConfig(r=2, modules_to_save=("ln_f",))
    base, model = trained(config)
    prints = {base_fingerprint(m, config.modules_to_save) for m in (base, model, small_gpt(dtype="float64"))}
    assert len(prints) == 1
    for change in (lambda: model.transformer.h[0].mlp.c_fc.weight.data.fill(1), lambda: merge_lora(model)):
        change()
        prints.add(base_fingerprint(model, config.modules_to_save))
    assert len(prints) == 3


def test_another_base_of_one_shape_is_refused_unless_it_is_meant(tmp_path):
    _, model = trained(VARIANTS["c_attn"])
    save_adapter(model, tmp_path)
    other = small_gpt(seed=5)
    refuse(other, tmp_path, "trained beside other weights of the same shapes .*check_base=False")
    refuse(small_gpt(n_layer=1), tmp_path, "h.1.attn.c_attn, but the model has no linear layer of that name")
    refuse(small_gpt(n_layer=3), tmp_path, "nothing for transformer.h.2.attn.c_attn, which is in its target_modules")
    load_adapter(other, tmp_path, check_base=False)
    assert len(lora_layers(other)) == 2
    refuse(model, tmp_path, "has LoRA adapters already")


# --- what is refused --------------------------------------------------------------------------------------------------


def refuse(model, folder, match):
    """Loading raises one sentence, and leaves the model as it was."""
    before = weights_of(model)
    flags = [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match=match) as caught:
        load_adapter(model, folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert_same(model, before)
    assert [p.requires_grad for p in model.parameters()] == flags


@pytest.fixture
def model():
    return golden("gpt2")[0]


def copied(name, tmp_path):
    """A copy of an adapter that PEFT saved."""
    return shutil.copytree(GOLDEN / "peft" / name, tmp_path / "adapter")


@pytest.fixture
def folder(tmp_path):
    return copied("attention", tmp_path)


def change(folder, **settings):
    change_json(folder / CONFIG, **settings)


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"use_dora": True}, "use_dora is True, which is not supported"),
        ({"rank_pattern": {"c_attn": 4}}, r"is F32 of shape \(2, 8\).* numbers of shape \(4, 8\) would fit"),
        ({"rank_pattern": [1]}, r"rank_pattern must be an object with plain names of layers and .*, got \[1\]"),
        ({"alpha_pattern": {".*c_attn": 4}}, r"alpha_pattern must be .* got {'\.\*c_attn': 4}"),
        ({"alpha_pattern": {"c_attn": 0}}, "alpha_pattern must be .* numbers > 0, got"),
        ({"use_something_new": {"a": 1}}, "use_something_new is .*not supported"),
        ({"bias": "all"}, "bias is 'all'; only 'none' is supported"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights 'pissa_niter_16' changes the base model"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; only 'LORA' is supported"),
        ({"r": 4}, r"is F32 of shape \(2, 8\); with r = 4, numbers of shape \(4, 8\) would fit"),
        ({"r": 0}, r"r must be in \[1, 4096\]"),
        ({"modules_to_save": "score"}, "modules_to_save must be a list of names"),
        ({"modules_to_save": ["ln_f"]}, "its tensor base_model.model.transformer.ln_f.weight is missing"),
        ({"target_modules": ["c_attn", "c_fc"]}, "it has nothing for transformer.h.0.mlp.c_fc"),
    ],
)
def test_settings_that_are_not_supported_or_make_no_sense(settings, match, model, folder):
    change(folder, **settings)
    refuse(model, folder, match)


@beside_peft
@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_ranks_and_alphas_that_differ_between_layers(tmp_path, use_rslora):
    import torch

    from tests.finetune.golden.make_peft import adapted as adapted_by_peft
    from tests.finetune.golden.make_peft import base as reference

    patterns = {"rank_pattern": {"h.1.attn.c_attn": 5, "c_fc": 1}, "alpha_pattern": {"c_fc": 9, "mlp.c_proj": 3}}
    for pattern in patterns.values():  # names of layers that are not adapted, or not there, change nothing
        pattern |= {"lm_head": 7, "q_proj": 7}
    targets = ["c_attn", "c_fc", "c_proj"]
    settings = {"r": 2, "lora_alpha": 6, "target_modules": targets, "use_rslora": use_rslora, **patterns}
    theirs = adapted_by_peft(reference(), settings)
    theirs.save_pretrained(tmp_path / "theirs")
    ids = random_ids((2, 7))
    wanted = theirs(torch.from_numpy(ids)).logits.detach().numpy()
    model = golden("gpt2")[0].eval()
    load_adapter(model, tmp_path / "theirs")
    assert_allclose(outputs(model, ids), wanted, rtol=1e-6, atol=1e-6)
    save_adapter(model, tmp_path / "ours")
    again, _ = logits_in_peft(reference(), tmp_path / "ours", ids)
    assert_allclose(again, wanted, rtol=1e-6, atol=1e-6)


def test_a_regular_expression_from_a_stranger_is_not_run(model, folder):
    change(folder, target_modules="(a|a|.)*(.*)*(.*)*!", exclude_modules="(.*)*(.*)*!")
    load_adapter(model, folder)


def tensors_of(folder):
    with SafetensorsFile(folder / WEIGHTS) as file:
        return {name: file.read(name) for name in file.entries}


KEY = "base_model.model.transformer.h.1.attn.c_attn"


@pytest.mark.parametrize(
    "edit, match",
    [
        (lambda t: t.pop(f"{KEY}.lora_B.weight"), "c_attn.lora_B.weight is missing"),
        (lambda t: t.update({f"{KEY}.lora_magnitude_vector": np.ones(24)}), "lora_magnitude_vector has no place here"),
        (lambda t: t[f"{KEY}.lora_A.weight"].fill(np.inf), "h.1.attn.c_attn.lora_A.weight is not finite"),
        (lambda t: t.update({f"{KEY}.lora_A.weight": np.ones((2, 8), np.int32)}), "lora_A.weight is I32 of shape"),
        (lambda t: t.update({f"{KEY}.lora_B.weight": np.ones((2, 24))}), r"lora_B.weight is F64 .*\(24, 2\) would fit"),
        (lambda t: t.clear(), "it adapts no layer"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(edit, match, model, folder):
    tensors = tensors_of(folder)
    edit(tensors)
    change(folder, target_modules="all")  # else the list of names would be missed first
    write_safetensors(folder / WEIGHTS, tensors)
    refuse(model, folder, match)


def test_half_precision_numbers_are_read(model, folder):
    tensors = {name: array.astype(np.float16) for name, array in tensors_of(folder).items()}
    write_safetensors(folder / WEIGHTS, tensors)
    load_adapter(model, folder)
    layer = lora_layers(model)["transformer.h.1.attn.c_attn"]
    assert layer.lora_A.dtype == np.float64
    assert_array_equal(layer.lora_A.data, tensors[f"{KEY}.lora_A.weight"])


def test_tied_weights_that_differ_in_the_file(model, tmp_path):
    folder = copied("embeddings", tmp_path)
    tensors = tensors_of(folder)
    tensors["base_model.model.lm_head.weight"][0, 0] += 1
    write_safetensors(folder / WEIGHTS, tensors)
    refuse(model, folder, "wte.weight and lm_head.weight differ, but are one and the same in this model")


def test_a_partner_that_peft_trained_without_naming_it(expected, model, tmp_path):
    folder = copied("embeddings", tmp_path)
    change(folder, modules_to_save=["wte"])
    refuse(model, folder, "lm_head.weight has no place here")
    change(folder, ensure_weight_tying=True)
    version = model.embedding.weight.version
    assert load_adapter(model, folder).modules_to_save == ("transformer.wte", "lm_head")
    assert model.embedding.weight.version > version
    assert_allclose(outputs(model, expected["ids"]), expected["logits/embeddings"], atol=1e-6)


def test_missing_files_and_pickles(model, folder):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    refuse(model, folder, "is a pickle, which can run code; save the adapter as adapter_model.safetensors")
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model.safetensors does not exist"):
        load_adapter(model, folder)
    for nowhere in (folder / "nowhere", GOLDEN):
        with pytest.raises(FileNotFoundError, match=r"there is no adapter in .*adapter_config.json is missing"):
            load_adapter(model, nowhere)


@given(data=st.data())
def test_damaged_bytes_are_an_error_or_an_adapter_never_a_crash(tmp_path_factory, data):
    """A flipped or missing byte in either file: a ValueError that leaves the model as it was, or finite numbers."""
    folder = copied("attention", tmp_path_factory.mktemp("damaged"))
    path = folder / data.draw(st.sampled_from([CONFIG, WEIGHTS]))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content[:place] if data.draw(st.booleans()) else content)
    model = golden("gpt2")[0]
    before = weights_of(model)
    try:
        load_adapter(model, folder)
    except ValueError as error:
        assert "\n" not in str(error)
        assert_same(model, before)
    else:
        assert all(np.isfinite(p.data).all() for p in model.parameters())
