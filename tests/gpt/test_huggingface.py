"""Hugging Face's folders: every variant is the same model, and what is saved loads.

What only Llamas have is in test_llama_files.py, and what does not fit in test_damaged_files.py.
"""

import math
import shutil
import warnings

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file

from gpt import GPT, GPTConfig, Tokenizer, save_checkpoint
from gpt.weights import gpt2_huggingface
from gpt.weights.gpt2_huggingface import from_json
from gpt.weights.pretrained import open_weights, report
from gpt.weights.safetensors_file import write_safetensors
from minigrad import nn, use_kernels
from tests.gpt.gguf_files import block_llama
from tests.gpt.golden_folders import GPT2_FOLDER, INDEX, WEIGHTS, of_both, write_model, write_shards
from tests.gpt.small import assert_same, files_of, golden_arrays, small_gpt
from tests.helpers import peak_below, read_json

FOLDER = GPT2_FOLDER.path
# What the real folders say, on the hub.
GPT2_CONFIG = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
}  # fmt: skip


@pytest.fixture(scope="module")
def golden():
    return golden_arrays("gpt2-folder")


# --- the golden folder ------------------------------------------------------------------------------------------------


def test_the_loaded_model_computes_what_transformers_computes(golden):
    model = GPT.from_pretrained(FOLDER)
    expected = {"vocab_size": 300, "block_size": 24, "n_layer": 2, "n_head": 2, "n_embd": 16, "dropout": 0.1}
    assert model.config == GPTConfig(**expected) and not model.training
    assert all(p.dtype == np.float32 and p.requires_grad for p in model.parameters())
    assert_allclose(model(golden["ids"]).data, golden["logits"], rtol=0, atol=1e-5)
    assert_allclose(model.to("float64")(golden["ids"]).data, golden["logits"], rtol=0, atol=1e-10)


def test_it_writes_what_transformers_writes_and_reads_its_tokens(golden, kernels):
    model, tokenizer = GPT.from_pretrained(str(FOLDER)), Tokenizer.load(FOLDER)
    expected = golden["greedy"].tolist()
    with use_kernels(kernels):
        assert model.generate(golden["ids"], 12, temperature=0) == expected
        assert [model.generate([row], 12, temperature=0)[0] for row in golden["ids"].tolist()] == expected
    assert tokenizer.encode(str(golden["text"])) == golden["text_ids"].tolist()
    assert tokenizer.eos_token == "<|endoftext|>"


# --- variants of one folder -------------------------------------------------------------------------------------------


def with_head(tensors, config):
    embedding = tensors["wte.weight" if "wte.weight" in tensors else "embed_tokens.weight"]
    return {**tensors, "lm_head.weight": embedding.copy()}, config


def with_untied_but_equal_head(tensors, config):
    return with_head(tensors, {**config, "tie_word_embeddings": False})


def with_mask_buffers(tensors, config):
    masks = {}
    for layer, dtype in enumerate((np.float32, np.uint8)):
        masks[f"h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 24, 24), dtype))
        masks[f"h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
    return {**masks, **tensors}, config


def with_an_old_config(tensors, config):
    kept = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon")
    return tensors, {name: config[name] for name in kept} | {"n_ctx": 24, "initializer_range": 0.02}


def with_names_for_the_same_activation(tensors, config):
    return tensors, {**config, "activation_function": "gelu_pytorch_tanh", "n_inner": 64}


def with_the_speeds_of_rotation(tensors, config):
    speeds = {f"layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32) for i in range(2)}
    return {**speeds, "rotary_emb.inv_freq": np.ones(3, np.float32), **tensors}, config


def with_the_config_of_transformers_4(tensors, config):
    kept = {name: value for name, value in config.items() if name not in ("rope_parameters", "head_dim", "dtype")}
    return tensors, {**kept, "rope_theta": 300, "rope_scaling": None, "torch_dtype": "float32"}


def with_scaling_by_nothing(tensors, config):
    tensors, config = with_the_config_of_transformers_4(tensors, config)  # beside rope_parameters it would replace them
    return tensors, {**config, "rope_scaling": {"type": "default"}, "pretraining_tp": 2, "hidden_act": "swish"}


def in_float64(tensors, config):
    return {name: array.astype(np.float64) for name, array in tensors.items()}, config


GPT2_VARIANTS = [
    (with_untied_but_equal_head,),
    (with_names_for_the_same_activation,),
    (with_head, with_mask_buffers, with_an_old_config, in_float64),
]
LLAMA_VARIANTS = [
    (with_the_config_of_transformers_4,),
    (with_scaling_by_nothing,),
    (with_head, with_the_speeds_of_rotation, in_float64),
]


@pytest.mark.parametrize("in_shards", [False, True])
@pytest.mark.parametrize("source, variants", of_both(zip(GPT2_VARIANTS), zip(LLAMA_VARIANTS)))
def test_every_variant_is_the_same_model(source, variants, in_shards, tmp_path):
    """Also with the prefix that names have in shards, and without."""
    folder = source.contents()
    for variant in (*variants, source.with_prefix) if in_shards else variants:
        folder = variant(*folder)
    (write_shards if in_shards else write_model)(tmp_path, *folder)
    ids = np.arange(20).reshape(2, 10)
    assert_array_equal(source.load(tmp_path)(ids).data, source.load(source.path)(ids).data)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_loaded_as_float32(tmp_path, dtype):
    tensors, config = GPT2_FOLDER.contents()
    halves = {name: array.astype(dtype) for name, array in tensors.items()}
    write_model(tmp_path, {}, config)
    write_safetensors(tmp_path / WEIGHTS, halves)
    model = GPT.from_pretrained(tmp_path)
    for row in gpt2_huggingface.rows(model.config):
        array = halves[row.theirs].astype(np.float32)
        found = model.state_dict()[row.ours]
        assert found.dtype == np.float32
        assert_array_equal(found, array.T if row.transposed else array)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "GPT2Model"])
def test_shards_that_transformers_saves_are_loaded(tmp_path, kind):
    import torch
    import transformers

    model = getattr(transformers, kind).from_pretrained(FOLDER).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / INDEX).exists()
    found = GPT.from_pretrained(tmp_path).state_dict()
    theirs = {name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items()}
    for row in gpt2_huggingface.rows(GPTConfig(300, 24, 2, 2, 16)):
        array = theirs[row.theirs].float().numpy()
        assert_array_equal(found[row.ours], array.T if row.transposed else array)


@pytest.mark.parametrize(
    "config, preset",
    [
        (GPT2_CONFIG, "gpt2"),
        ({**GPT2_CONFIG, "n_layer": 6, "_num_labels": 1, "id2label": {"0": "a"}, "label2id": {"a": 0}}, "distilgpt2"),
        ({**GPT2_CONFIG, "n_layer": 24, "n_head": 16, "n_embd": 1024}, "gpt2-medium"),
        ({}, "gpt2"),
    ],
)
def test_every_size_is_understood_and_the_table_covers_it(config, preset):
    assert from_json(config) == GPTConfig.preset(preset, dropout=0.1)
    total = sum(math.prod(row.our_shape) for row in gpt2_huggingface.rows(from_json(config)))
    assert total == GPTConfig.preset(preset).num_parameters()


def test_dropouts_that_differ_are_warned_about():
    with pytest.warns(UserWarning, match="embd_pdrop 0.0, attn_pdrop 0.1, resid_pdrop 0.2.* which is now 0.2"):
        assert from_json({"embd_pdrop": 0.0, "resid_pdrop": 0.2}).dropout == 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_json({"embd_pdrop": 0, "resid_pdrop": 0, "attn_pdrop": 0.0}).dropout == 0


def test_loading_holds_the_model_and_one_tensor(tmp_path):
    model = GPT(GPTConfig(vocab_size=40_000, block_size=64, n_layer=4, n_head=2, n_embd=128))
    model.save_pretrained(tmp_path)
    sizes = [array.nbytes for array in model.state_dict().values()]
    with peak_below(sum(sizes) + 1.2 * max(sizes)):
        GPT.from_pretrained(tmp_path)


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_has_a_row_for_every_tensor(tmp_path):
    tensors, config = GPT2_FOLDER.contents()
    tensors["extra"] = np.zeros(3, np.float32)
    tensors["h.1.mlp.c_fc.weight"] = tensors["h.1.mlp.c_fc.weight"].T
    tensors["lm_head.weight"] = tensors["wte.weight"].copy()
    del tensors["ln_f.bias"]
    matches = list(report(write_model(tmp_path, tensors, config)))
    problems = {match.name: match.problem for match in matches if match.problem}
    assert len(matches) == 2 + 2 * 12 + 2 + 2 and set(problems) == {"extra", "h.1.mlp.c_fc.weight", "ln_f.bias"}
    lines = [str(match).split() for match in matches]
    assert lines[0] == ["wte.weight", "F32", "(300,", "16)", "->", "transformer.wte.weight", "(300,", "16)", "ok"]
    assert lines[1] == ["lm_head.weight", "F32", "(300,", "16)", "->", "transformer.wte.weight", "(300,", "16)", "ok"]
    transposed = "h.0.attn.c_attn.weight F32 (16, 48) -> transformer.h.0.attn.c_attn.weight (48, 16) transposed ok"
    assert transposed.split() in lines
    assert all(str(match).isascii() for match in matches)
    assert all(len(str(match)) < 130 for match in matches if not match.problem)
    write_model(tmp_path, tensors, {**config, "n_layer": 10**9})
    with pytest.raises(ValueError, match="asks for 1000000000 layers, but there are fewer tensors"):
        list(report(tmp_path))


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_what_is_no_folder_of_a_model(tmp_path):
    assert "there is no model in FOLDER: config.json is missing" in GPT2_FOLDER.refused(tmp_path, FileNotFoundError)
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert GPT2_FOLDER.refused(file, FileNotFoundError) == "FOLDER is not a folder, but a model of the type gpt2 is one"
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert "holds an adapter (adapter_config.json), for a base model" in GPT2_FOLDER.refused(tmp_path)
    shutil.copy(FOLDER / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    message = GPT2_FOLDER.refused(tmp_path, FileNotFoundError)
    assert "no weights in FOLDER: model.safetensors is missing (.bin files, which can run code," in message


def test_a_damaged_shard_is_named_and_all_files_are_closed_again(tmp_path):
    write_shards(tmp_path, *GPT2_FOLDER.with_prefix(*GPT2_FOLDER.contents()))
    path = tmp_path / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with pytest.raises(ValueError, match="model-00002-of-00003.safetensors: truncated"):
            open_weights(tmp_path).__enter__()


def test_a_model_with_parameters_that_the_table_lacks_is_refused():
    class More(GPT):
        def __init__(self, config):
            super().__init__(config)
            self.more = nn.LayerNorm(2)

    with pytest.raises(ValueError, match="no row of the table fills more.bias"):
        More.from_pretrained(FOLDER)


NUMBERS = [0, 1, 2, 4, 6, 16, 24, 40, 44, 48, 60, 300, 2**31 - 1, 2**63, 10**20, {"rope_type": []}, {"type": {}}]
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
VALUES |= st.lists(st.integers(), max_size=2) | st.sampled_from(NUMBERS)
ROPE = ["rope_scaling", "rope_theta", "partial_rotary_factor", "rope_interleaved"]


@pytest.mark.parametrize("source, more", of_both([[[]]], [[ROPE]]), ids=["gpt2", "llama"])
@pytest.mark.filterwarnings("ignore:.*dropout")
@given(data=st.data())
def test_any_settings(tmp_path_factory, source, more, data):
    """The folder is loaded or refused; any other error is a failure."""
    names = st.sampled_from([*source.contents()[1], *more])
    changes = data.draw(st.dictionaries(names, VALUES, min_size=1, max_size=3))
    folder = tmp_path_factory.getbasetemp() / f"any-{source.path.name}"
    source.changed(folder, lambda tensors, config: config.update(changes))
    with peak_below(5_000_000):
        try:
            source.load(folder)
        except (ValueError, FileNotFoundError) as error:
            assert str(folder) in str(error) and "\n" not in str(error)


# --- saving -----------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_what_transformers_would_save(tmp_path):
    model, tokenizer = GPT.from_pretrained(FOLDER), Tokenizer.load(FOLDER)
    model.save_pretrained(tmp_path / "new" / "model", tokenizer)
    folder = tmp_path / "new" / "model"
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "generation_config.json", WEIGHTS, "vocab.json", "merges.txt", "tokenizer_config.json",
        "special_tokens_map.json",
    }  # fmt: skip
    ours, theirs = load_file(folder / WEIGHTS), load_file(FOLDER / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        assert_array_equal(ours[name], array)
    assert (folder / WEIGHTS).read_bytes()[8:].startswith(b'{"__metadata__":{"format":"pt"},"transf')
    expected = GPT2_FOLDER.contents()[1] | {"n_ctx": 24}
    config = read_json(folder / "config.json")
    assert config == {name: expected[name] for name in config}
    ends = read_json(folder / "generation_config.json")
    assert ends == {"_from_model_config": True, "bos_token_id": 299, "eos_token_id": 299}
    text = "the cat: 12 o'clock"
    assert Tokenizer.load(folder).encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize(
    "model",
    [
        small_gpt(dropout=0.2, layer_norm_epsilon=1e-6),
        block_llama(rope_theta=123.5, rms_norm_epsilon=1e-4),
        block_llama(tied=False),
    ],
)
def test_saving_and_loading_gives_the_same_model(tmp_path, model):
    for _ in range(2):
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path)
        assert loaded.config == model.config
        assert_same(loaded, model)
        model = loaded
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "generation_config.json", WEIGHTS}
    assert read_json(tmp_path / "config.json")["eos_token_id"] is None


def test_only_plain_models_are_saved(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self, base):
            self.base = base

    small_gpt().save_pretrained(tmp_path)
    before = files_of(tmp_path)
    wrapped, broken, llama = small_gpt(), small_gpt(), block_llama()
    llama.extra = nn.Linear(2, 2)
    wrapped.set_submodule("transformer.h.0.attn.c_attn", Wrapped(wrapped.transformer.h[0].attn.c_attn))
    broken.transformer.h[1].mlp.c_fc.weight.data[0, 0] = np.inf
    for model, words in [
        (wrapped, "only a plain GPT-2 can be saved as one: transformer.h.0.attn.c_attn.base.bias is missing, or"),
        (broken, "transformer.h.1.mlp.c_fc.weight holds numbers that are not finite .* nothing was saved"),
        (llama, r"only a plain Llama can be saved as one: extra\..* is missing, or is none of"),
        (small_gpt(norm="post"), "norm 'post' and positions 'learned' cannot be saved"),
        (small_gpt(positions="sinusoidal"), "norm 'pre' and positions 'sinusoidal' cannot be saved"),
    ]:
        with pytest.raises(ValueError, match=words):
            model.save_pretrained(tmp_path)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("make", [small_gpt, block_llama])
def test_a_run_is_not_overwritten(tmp_path, make):
    save_checkpoint(tmp_path, make())
    before = files_of(tmp_path)
    with pytest.raises(FileExistsError, match="holds a training run, which would be overwritten"):
        make().save_pretrained(tmp_path)
    assert files_of(tmp_path) == before


def test_saving_copies_only_what_is_transposed(tmp_path):
    model = GPT(GPTConfig(vocab_size=2000, block_size=64, n_layer=4, n_head=2, n_embd=128))
    turned = {row.ours for row in gpt2_huggingface.rows(model.config) if row.transposed}
    size = sum(array.nbytes for name, array in model.state_dict().items() if name in turned)
    with peak_below(1.1 * size):
        model.save_pretrained(tmp_path)
