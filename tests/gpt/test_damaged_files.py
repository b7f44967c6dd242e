"""Files that are damaged, hostile, or of a model that we do not have: one table of what is wrong, where, and the words.

Each is refused in one sentence that names it, before memory is asked for. Damage at random is in the formats' tests.
"""

import math
import shutil
import struct
from functools import partial

import numpy as np
import pytest

from gpt import Tokenizer
from gpt.weights.gguf_file import GGUFFile
from gpt.weights.llama_gguf import config_of
from gpt.weights.safetensors_file import SafetensorsFile
from tests.gpt.gguf_files import block_llama, metadata_of, tensors_of, write_gguf
from tests.gpt.golden_folders import GPT2_FOLDER, INDEX, LLAMA_FOLDER, WEIGHTS, put, write_shards
from tests.gpt.smollm import metadata
from tests.gpt.test_safetensors_file import entry, raw
from tests.gpt.test_variants import LLAMA3
from tests.helpers import change_json, peak_below, read_json, write_json

BEGIN, END = "<|begin|>", "<|end|>"
TEXT = "the cat sat on the mat, and the other cats that sat there thought of that\n" * 3
TOKENIZER = Tokenizer.train(TEXT, 280, [BEGIN, END, "<|endoftext|>"])

# --- what is read, and how it is damaged: each function writes a damaged file and returns what reads it ---------------


def safetensors(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    return partial(SafetensorsFile, folder / WEIGHTS)


def gguf(folder, content):
    path = folder / "model.gguf"
    path.write_bytes(content)
    return partial(GGUFFile, path)


def gpt2(folder, change):
    return partial(GPT2_FOLDER.load, GPT2_FOLDER.changed(folder / "model", change))


def llama(folder, change):
    return partial(LLAMA_FOLDER.load, LLAMA_FOLDER.changed(folder / "model", change))


def gpt2_config(folder, settings):
    return gpt2(folder, lambda tensors, config: config.update(settings))


def llama_config(folder, settings):
    return llama(folder, lambda tensors, config: config.update(settings))


def gguf_config(folder, settings):
    metadata = metadata_of(block_llama().config) | settings
    metadata = {name: value for name, value in metadata.items() if value is not None}
    file = object.__new__(GGUFFile)  # without the file itself
    file.path = folder / "model.gguf"
    file.metadata = metadata
    file.tensors = {}
    return partial(config_of, file)


def gguf_llama(folder, change):
    model = block_llama()
    tensors = tensors_of(model)
    change(tensors)
    tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
    return partial(LLAMA_FOLDER.load, write_gguf(folder / "model.gguf", metadata_of(model.config), tensors))


def index(folder, change):
    shutil.copy(GPT2_FOLDER.path / WEIGHTS, folder / WEIGHTS)  # beside the model's folder
    content = write_shards(folder / "model", *GPT2_FOLDER.with_prefix(*GPT2_FOLDER.contents()))
    change(content["weight_map"])
    write_json(folder / "model" / INDEX, content)
    return partial(GPT2_FOLDER.load, folder / "model")


def json_file(folder, name, content):
    """A JSON file with this content, in a folder that is otherwise whole."""
    if name == WEIGHTS:
        return safetensors(folder, len(content).to_bytes(8, "little") + content)
    shutil.copytree(GPT2_FOLDER.path, folder, dirs_exist_ok=True)
    if name == INDEX:
        (folder / WEIGHTS).unlink()
    if name == "vocab.json":
        (folder / "tokenizer.json").unlink(missing_ok=True)
        TOKENIZER.save(folder)
    (folder / name).write_bytes(content)
    return partial(GPT2_FOLDER.load if name in ("config.json", INDEX) else Tokenizer.load, folder)


def vocab_json(folder, change):
    TOKENIZER.save(folder)
    ids = read_json(folder / "vocab.json")
    change(ids)
    write_json(folder / "vocab.json", ids)
    return partial(Tokenizer.load, folder)


def merges_txt(folder, line):
    """With another line, or, for None, without the last ones."""
    TOKENIZER.save(folder)
    path = folder / "merges.txt"
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[17:] = lines[-1:] if line is None else [line, *lines[17:]]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    return partial(Tokenizer.load, folder)


def tokenizer_json(folder, changes, pattern="gpt2"):
    special = list(TOKENIZER.special_tokens)
    Tokenizer(TOKENIZER.vocab, TOKENIZER.merges, special, pattern=pattern, ignore_merges=True).save(folder)
    change_json(folder / "tokenizer.json", **changes)
    return partial(Tokenizer.load, folder)


def added_token(folder, option):
    token = {"id": 277, "content": BEGIN, "special": True, option: True}
    return tokenizer_json(folder, {"added_tokens": [token]}, "qwen2")


def tokenizer_config(folder, options, name="tokenizer_config.json"):
    TOKENIZER.save(folder)
    change_json(folder / name, **options)
    return partial(Tokenizer.load, folder)


def config_beside_json(folder, options):
    tokenizer_json(folder, {})
    change_json(folder / "tokenizer_config.json", **options)
    return partial(Tokenizer.load, folder)


def special_tokens(folder, options):
    return tokenizer_config(folder, options, "special_tokens_map.json")


def unknown_role(folder, role):
    special_tokens(folder, {role: "</s>"})
    change_json(folder / "tokenizer_config.json", **{role: "</s>"})
    return partial(Tokenizer.load, folder)


def gguf_tokenizer(folder, changes):
    return partial(Tokenizer.from_gguf, metadata(**changes), str(folder / "model.gguf"))


# --- tensors ----------------------------------------------------------------------------------------------------------


SAFETENSORS = [
    (b"", "its 0 bytes end within the header"),
    (raw({}, length=3), "its 10 bytes end within the header"),
    (raw({}, length=20_000_000) + bytes(20_000_000), "a header of 20,000,000 bytes is more than 10,000,000"),
    (raw({}, b"x"), "its header describes 10 bytes, but the file has 11"),
    (raw({"__metadata__": {"a": 1}}), "__metadata__"),
    (raw({"a": {"dtype": "F32", "shape": [2]}}), "must say dtype, shape and data_offsets of a"),
    (raw({"a\x1b[2J": entry()}, bytes(8)), "cannot be the name of a tensor"),
    (raw({"\ud800": {}}), "cannot be the name of a tensor"),
    (raw({"a": entry("F33")}, bytes(8)), "a has the dtype 'F33'; known are F64, F32"),
    (raw({"a": entry(shape=[-2])}, bytes(8)), "shape of a must be a list of integers >= 0, got [-2]"),
    (raw({"a": entry(shape=[2**40, 2**40])}, bytes(8)), "which no array can have"),
    (raw({"a": entry(shape=[0, 2**62], offsets=[0, 0])}), "which no array can have"),
    (raw({"a": entry(shape=[1] * 33, offsets=[0, 4])}, bytes(4)), "which no array can have"),
    (raw({"a": entry(shape=[10**9])}, bytes(8)), "is 4,000,000,000 bytes, but its data_offsets are [0, 8]"),
    (raw({"a": entry(offsets=[-8, 0])}, bytes(8)), "data_offsets of a must be"),
    (raw({"a": entry(offsets=[4, 12])}, bytes(12)), "a hole between the header and a"),
    (raw({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)), "a hole between a and b"),
    (raw({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)), "an overlap between a and b"),
]  # fmt: skip


def text(value):
    data = value.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def setting(name, kind, data):
    return text(name) + struct.pack("<I", kind) + data


def tensor(name="w", dims=(32,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def made(settings=(), tensors=(), data=bytes(4096)):
    """A GGUF file byte by byte; `data` follows the header."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings)) + b"".join([*settings, *tensors])
    return header + bytes(-len(header) % 32) + data


ARRAY, STRING, UINT8, UINT32 = 9, 8, 0, 4
GGUF = [
    (b"", "is truncated, damaged, or not a GGUF file: ValueError('cannot mmap an empty file"),
    (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is big-endian; only files for ordinary (little-endian) machines"),
    (made([setting("s", STRING, struct.pack("<Q", 2**62))]), "describes more than there is"),
    (made([setting("s", ARRAY, struct.pack("<IQ", ARRAY, 1) * 1500)]), "a setting is a list of lists"),
    (made([setting("s", ARRAY, struct.pack("<IQQ", STRING, 1, 2**40))]), "describes more than there is"),
    (made([setting("s", ARRAY, struct.pack("<IQ", UINT8, 1_600_000))], data=bytes(1_600_000)), "than 1,500,000 ent"),
    (made([setting("s", STRING, struct.pack("<Q", 2) + b"\xff\xfe")]), "utf-8"),
    (made([setting("s", UINT8, b"\1")] * 2), "Duplicate s already in list"),
    (made([setting("general.alignment", UINT32, struct.pack("<I", 3))]), "must be a non-zero power of two"),
    (made(tensors=[tensor(kind=99)]), "not a valid GGMLQuantizationType"),
    (made(tensors=[tensor("a"), tensor("b", offset=64)]), "an overlap between a and b"),
    (made(tensors=[tensor("a"), tensor("b", offset=256)], data=bytes(384)), "a hole between a and b"),
    (made(tensors=[tensor()]), "describes 192 bytes, but the file has 4,160"),
    (made(tensors=[tensor(dims=(2**40,))]), "describes more than there is"),
    (made(tensors=[tensor(dims=(2**63, 2, 3))]), "is truncated, damaged"),
    (made(tensors=[tensor(dims=(0,))]), "w has the shape (0,), which no tensor has"),
    (made(tensors=[text("w") + struct.pack("<I", 2**32 - 1)]), "describes more than there is"),
    (made(tensors=[tensor(dims=(33,), kind=2)]), "not a multiple of"),
    (made(tensors=[tensor(name="a\nb")]), "'a\\nb' cannot be the name of a tensor"),
]  # fmt: skip


def alter(name, how):
    return lambda tensors, config: tensors.__setitem__(name, how(tensors[name]))


def nan(array):
    array = array.copy()
    array.flat[-1] = np.nan
    return array


GPT2_TENSORS = [
    (lambda t, c: t.pop("h.1.ln_2.bias"), "h.1.ln_2.bias is missing; its shape should be (16,)"),
    (put("h.0.attn.q_norm.weight", np.ones(8)), "h.0.attn.q_norm.weight of shape (8,) is surplus"),
    (alter("wte.weight", lambda a: a[:, :-1]), "wte.weight has the shape (300, 15) instead of (300, 16)"),
    (alter("h.0.mlp.c_fc.weight", lambda a: a.T), "(64, 16) instead of (16, 64): it is stored (out, in), and"),
    (alter("h.0.ln_1.weight", nan), "model.safetensors: h.0.ln_1.weight holds numbers that are not finite"),
    (alter("h.0.mlp.c_fc.weight", lambda a: a.astype(np.int8)), "h.0.mlp.c_fc.weight is I8, perhaps quantized"),
    (put("lm_head.weight", np.zeros((300, 16), np.float32)), "lm_head.weight and wte.weight differ"),
    (lambda t, c: c.update(tie_word_embeddings=False), "lm_head.weight is missing; its shape should be (300,"),
    (put("h.0.attn.c_attn.lora_A.weight", np.zeros((8, 16))), "the model has no such tensor; it is part of an"),
    (put("score.weight", np.zeros((2, 16))), "such tensor; it is the head of a classifier"),
    (lambda t, c: c.update(n_layer=1), "h.1.attn.c_attn.bias of shape (48,) is surplus"),
    (lambda t, c: c.update(n_positions=10**9), "wpe.weight has the shape (24, 16) instead of (1000000000, 16)"),
]
LLAMA_TENSORS = [
    (put("layers.0.self_attn.q_proj.bias", np.zeros(24)), "(24,) is surplus: the model has no such tensor; it is"),
    (lambda t, c: c.update(tie_word_embeddings=False), "lm_head.weight is missing; its shape should be (60, 24)"),
    (lambda t, c: c.update(num_key_value_heads=4), "(12, 24) instead of (24, 24)"),
]
GGUF_TENSORS = [
    (lambda t: t.pop("blk.1.ffn_up.weight"), "does not fit its own metadata: blk.1.ffn_up.weight is missing"),
    (lambda t: t.update({"rope_freqs.weight": np.arange(4) + 1}), "rope_freqs.weight is not the scaling"),
]
PLACES = [
    (lambda places: places.clear(), "is damaged: it has no weight_map"),
    (lambda places: places.update({"x": "../model.safetensors"}), "'../model.safetensors' is not the"),
    (lambda places: places.update({"x": "model-00001-of-00003.safetensors"}), "disagree about x"),
    (lambda places: places.pop("transformer.wte.weight"), "disagree about transformer.wte.weight"),
    (lambda places: places.update({"x": "9.safetensors"}), "9.safetensors does not exist"),
]

# --- settings ---------------------------------------------------------------------------------------------------------

GPT2_SETTINGS = [
    ({"model_type": "llama"}, "describes a model of the type 'llama'; read here: gpt2"),
    ({"quantization_config": {"quant_method": "nf4"}}, "describes quantized weights"),
    ({"activation_function": "tanh"}, "activation_function is 'tanh'; supported here: gelu_new, gelu_pytorch_tanh"),
    ({"n_inner": "64"}, "n_inner must be an integer >= 1 (and below 2**31), got '64'"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; supported here: True, False"),
    ({"scale_attn_weights": False}, "scale_attn_weights is False; supported here: True"),
    ({"n_head": 3}, "n_embd 16 cannot be divided among 3 heads"),
    ({"n_embd": 2**31}, "n_embd must be an integer >= 1 (and below 2**31), got 2147483648"),
    ({"layer_norm_epsilon": math.nan}, "layer_norm_epsilon must be a number, got nan"),
    ({"attn_pdrop": 1.0, "resid_pdrop": 1.0, "embd_pdrop": 1.0}, "dropout must be in [0, 1)"),
]
LLAMA_SETTINGS = [
    ({"model_type": "gemma"}, "describes a model of the type 'gemma'; read here: llama, mistral, qwen2, qwen3"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported here: silu, swish"),
    ({"attention_bias": True}, "attention_bias is True; supported here: False"),
    ({"head_dim": "6"}, "head_dim must be an integer >= 1 (and below 2**31), got '6'"),
    ({"rope_parameters": {"rope_type": "llama3"}}, "of the type llama3 need factor, "),
    ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'; supported here: default, "),
    ({"rope_scaling": "linear"}, "rope_scaling must be an object, got 'linear'"),
    ({"rope_parameters": {"rope_theta": 0}}, "rope_theta must be a number > 0"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5; supported here: 1, 1.0"),
    ({"num_attention_heads": 8, "head_dim": 3}, "pairs"),
    ({"hidden_size": 26, "head_dim": None}, "n_embd 26 cannot be divided among 4 heads"),
    ({"num_key_value_heads": 3}, "4 query heads cannot share 3 heads"),
    ({"sliding_window": 32}, "sliding_window is 32; only null, or the whole context"),
    ({"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}, "layer_types is"),
    ({"rope_parameters": {**LLAMA3, "factor": "8"}}, ": factor must be a number > 0"),
    ({"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}}, "must be less than the high_freq_factor"),
    ({"rope_parameters": {**LLAMA3, "attention_factor": 2.0}}, "the setting 'attention_factor' is not known here"),
]
GGUF_SETTINGS = [
    ({"general.architecture": "gemma"}, "general.architecture is 'gemma'; supported here: llama, qwen2, qwen3"),
    ({"general.architecture": "qwen2"}, "qwen2.vocab_size must be an integer >= 1"),
    ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'; supported here: none, linear"),
    ({"llama.expert_count": 8}, "llama.expert_count is 8; supported here: 0"),
    ({"llama.attention.layer_norm_epsilon": 1e-5}, "'attention.layer_norm_epsilon' is not known here"),
    ({"llama.attention.key_length": 16}, "llama.rope.dimension_count is 8, but a head has 16 numbers"),
    ({"llama.vocab_size": None, "tokenizer.ggml.tokens": 7}, "llama.vocab_size must be an integer"),
    ({"llama.rope.freq_base": -1.0}, "rope_theta must be a number > 0"),
    ({"llama.attention.layer_norm_rms_epsilon": "x" * 1000}, "llama.attention.layer_norm_rms_epsilon must be"),
]

# --- tokenizers -------------------------------------------------------------------------------------------------------

VOCABULARY = [
    (lambda ids: ids.pop("Ġthe"), "make 'Ġthe', which the vocabulary lacks"),
    (lambda ids: ids.update(Ġthe=7), "id 7 stands for '(' and for 'Ġthe'"),
    (lambda ids: ids.update(Ġthe=1000), "ids must run from 0 to 279 without holes, but no token has id"),
    (lambda ids: ids.update(Ġthe=1.0), "the id of 'Ġthe' must be a whole number, got 1.0"),
    (lambda ids: ids.update({"x y": ids.pop("Ċ")}), "'x y' is not a token: ' ' does not stand for"),
    (lambda ids: ids.update(ĊxĊ=280), "1 of the tokens, which are not special (the first is 'ĊxĊ', id 280)"),
]  # fmt: skip
MERGES = [
    ("Ġthe", "merge 17 must be two tokens with one space between them, got 'Ġthe'"),
    ("a 日", "'日' is not a token: '日' does not stand for a byte"),
    ("a xyz", "merge 17: 'xyz' is neither a byte nor the result of an earlier merge"),
    ("Q Q", "merge 17: 'Q' and 'Q' make 'QQ', which the vocabulary lacks"),
    (None, "of the tokens, which are not special (the first is "),
]


def special(token):
    return {"SpecialToken": {"id": token, "type_id": 0}}


def around(*single, id=None):
    """A post-processor that puts special tokens around a text, "A"."""
    parts = [{"Sequence": {"id": "A", "type_id": 0}} if part == "A" else special(part) for part in single]
    ids = {part: id or TOKENIZER.special_tokens.get(part, 0) for part in single if part != "A"}
    tokens = {part: {"id": part, "ids": [id], "tokens": [part]} for part, id in ids.items()}
    return {"type": "TemplateProcessing", "single": parts, "pair": parts, "special_tokens": tokens}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
DIGITS = [{"type": "Digits", "individual_digits": False}, BYTE_LEVEL]
TOKENIZER_JSON = [
    ({"model": {"type": "WordPiece"}}, "its model is 'WordPiece'; supported here: BPE"),
    ({"model": {"type": "BPE", "dropout": 0.1}}, "the option dropout is 0.1, which is not supported here"),
    ({"truncation": {"max_length": 5}}, "the option truncation is {'max_length': 5}, which is not supported here"),
    ({"normalizer": {"type": "NFC"}}, "its normalizer is {'type': 'NFC'}; supported here: None"),
    ({"pre_tokenizer": None}, "its pre-tokenizer is None; supported here: those of GPT-2"),
    ({"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}}, "'add_prefix_space': True}; supported here"),
    ({"pre_tokenizer": {**BYTE_LEVEL, "use_regex": False}}, "'use_regex': False}; supported here"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": DIGITS}}, "'individual_digits': False"),
    ({"post_processor": {"type": "Sequence", "processors": [around(BEGIN, "A"), around("A", END)]}}, "its post_proc"),
    ({"post_processor": around("A", BEGIN, "A")}, "its post_processor is"),
    ({"post_processor": around(BEGIN)}, "its post_processor is"),
    ({"post_processor": around(BEGIN, "A", id=5)}, "its post_processor is"),
    ({"post_processor": around("<x>", "A")}, "its post_processor is"),
    ({"post_processor": {"type": "BertProcessing", "cls": [BEGIN, 277]}}, "its post_processor is"),
    *[({"model": model}, "damaged: it lacks a part") for model in (3, {"type": "BPE"})],
    *[({"post_processor": step}, "damaged: it lacks a part") for step in ({}, "ByteLevel")],
    *[({"pre_tokenizer": step}, "damaged: it lacks a part") for step in ({}, {"type": "Sequence", "pretokenizers": 1})],
    ({"added_tokens": [1]}, "damaged: it lacks a part"),
]
TOKENIZER_CONFIG = [
    ({"add_prefix_space": True}, "the option add_prefix_space is True, which is not supported here"),
    ({"split_special_tokens": True}, "the option split_special_tokens is True"),
    ({"eos_token": END}, f"eos_token is ['<|endoftext|>'], but tokenizer_config.json beside it says ['{END}']"),
    ({"added_tokens_decoder": {"277": {"content": BEGIN, "lstrip": True}}}, f"the option lstrip of '{BEGIN}' is True"),
    ({"added_tokens_decoder": {"x": 1}}, "added_tokens_decoder must map ids to tokens"),
    ({"chat_template": 3}, "is damaged: chat_template must be a text, got 3"),
]
SPECIAL_TOKENS = [
    ({"bos_token": {"content": "<s>"}}, "bos_token is ['<s>'], but"),
    ({"eos_token": 3}, "eos_token must be a token, got 3"),
    ({"pad_token": {"content": "<p>", "rstrip": True}}, "the option rstrip of '<p>' is True"),
]
GGUF_TOKENS = metadata()["tokenizer.ggml.tokens"]
GGUF_MERGES = metadata()["tokenizer.ggml.merges"]
GGUF_TOKENIZER = [
    ({"ggml__model": "llama"}, "tokenizer.ggml.model is 'llama'; supported here: gpt2"),
    ({"ggml__pre": "gpt-4o"}, "tokenizer.ggml.pre is 'gpt-4o'; supported here: gpt-2, smollm, llama-bpe, qwen2"),
    ({"ggml__pre": "llama-bpe"}, "add_bos_token is set, but there is no such token"),
    ({"ggml__add_eos_token": 1}, "tokenizer.ggml.add_eos_token must be of type bool, got 1"),
    ({"ggml__add_space_prefix": True}, "the option tokenizer.ggml.add_space_prefix is True"),
    ({"ggml__eos_token_id": 9}, "which is an ordinary token"),
    ({"ggml__eos_token_id": 10**6}, "eos_token_id is 1000000, but there are"),
    ({"ggml__tokens": [1, 2]}, "tokenizer.ggml.tokens must be a list of str, and not empty"),
    ({"ggml__tokens": GGUF_TOKENS[:-1]}, "kinds of tokens"),
    ({"ggml__tokens": ["<|doubled|>", "<|doubled|>", *GGUF_TOKENS[2:]]}, "but no token has id 0"),
    ({"ggml__merges": GGUF_MERGES[:9]}, "of the tokens, which are not special"),
    ({"ggml__merges": [*GGUF_MERGES, "Ą t"]}, "'Ą' is neither a byte"),  # 0x04, of which there is no token
]

# --- JSON, wherever it is ---------------------------------------------------------------------------------------------

JSON = [
    (b"", "damaged"),
    (b"[" * 100_000, "damaged"),
    (b'{"a": 1' + b"0" * 5000 + b"}", "damaged"),
    (b'{"a": 1, "a": 2}', "'a' occurs 2 times"),
    (b"[1]", "expected a JSON object, got list"),
    (b"\xff\xfe{}", ""),
]
JSON_FILES = [WEIGHTS, "config.json", INDEX, "vocab.json", "tokenizer.json", "tokenizer_config.json"]

TABLE = {
    safetensors: SAFETENSORS, gguf: GGUF, gpt2: GPT2_TENSORS, llama: LLAMA_TENSORS, gguf_llama: GGUF_TENSORS,
    index: PLACES, gpt2_config: GPT2_SETTINGS, llama_config: LLAMA_SETTINGS, gguf_config: GGUF_SETTINGS,
    vocab_json: VOCABULARY, merges_txt: MERGES, tokenizer_json: TOKENIZER_JSON, tokenizer_config: TOKENIZER_CONFIG,
    config_beside_json: [({"add_bos_token": True}, "is set, but tokenizer.json beside it adds none: change one of")],
    special_tokens: SPECIAL_TOKENS, gguf_tokenizer: GGUF_TOKENIZER,
    added_token: [(option, f"the option {option} of") for option in ("lstrip", "rstrip", "single_word", "normalized")],
    unknown_role: [(role, f"the {role} '</s>' is not in the vocabulary") for role in ("bos_token", "eos_token")],
    **{partial(json_file, name=name): JSON for name in JSON_FILES},
}  # fmt: skip
ROWS = [
    pytest.param(
        kind, damage, words, id=f"{getattr(kind, '__name__', '') or kind.keywords['name']}: {words[:50]}",
        marks=[pytest.mark.oracle("gguf")] if kind in (gguf, gguf_llama) else [],
    )
    for kind, rows in TABLE.items() for damage, words in rows
]  # fmt: skip


@pytest.mark.parametrize(("kind", "damage", "words"), ROWS)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, kind, damage, words):
    read = kind(tmp_path, damage) if not isinstance(kind, partial) else kind(tmp_path, content=damage)
    with peak_below(30_000_000), pytest.raises((ValueError, FileNotFoundError)) as caught:
        read()
    message = str(caught.value)
    assert words in message and message.startswith(str(tmp_path)) and message.count(str(tmp_path)) == 1
    assert message.isprintable() and len(message) < len(str(tmp_path)) + 400
