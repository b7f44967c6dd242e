"""GGUF files for the tests, of small Llamas, as llama.cpp's converter would write them."""

import numpy as np

from gpt.weights import llama_gguf
from tests.gpt.small import small_llama

SHAPE = {"vocab_size": 40, "block_size": 24, "n_embd": 32, "n_inner": 64, "rope_theta": 5000.0}


def block_llama(**changes):
    """A small Llama whose rows are whole blocks of 32 numbers, so that it can be quantized."""
    return small_llama(**{**SHAPE, **changes}).eval()


def permuted(array, n_head):
    """The rows of a query or key matrix as llama.cpp's converter puts them: halves of a head become neighbors."""
    return array.reshape(n_head, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def metadata_of(config):
    """The settings in which a GGUF file describes a Llama's shape."""
    return {
        "general.architecture": "llama",
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.block_size,
        "llama.block_count": config.n_layer,
        "llama.attention.head_count": config.n_head,
        "llama.attention.head_count_kv": config.n_kv_head,
        "llama.embedding_length": config.n_embd,
        "llama.feed_forward_length": config.n_inner,
        "llama.rope.freq_base": config.rope_theta,
        "llama.rope.dimension_count": config.head_size,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_epsilon,
    }


def tensors_of(model):
    """A Llama's arrays by their names in a GGUF file, rows in that file's order."""
    tensors = {}
    for name, array in model.state_dict().items():
        there = llama_gguf.name_there(name)
        n_head = {"attn_q": model.config.n_head, "attn_k": model.config.n_kv_head}.get(there.split(".")[-2])
        tensors[there] = permuted(array, n_head) if n_head else array
    return tensors


def write_gguf(path, metadata, tensors, kinds="F32"):
    """Write a GGUF file. kinds: of the matrices, one for all or by name; what has one dimension is F32.

    A matrix of uint8 is written as it is, as the blocks of its kind. Metadata: int is uint32, float is float32, as in
    files of llama.cpp.
    """
    import gguf

    writer = gguf.GGUFWriter(str(path), metadata.get("general.architecture", "llama"))
    for name, value in metadata.items():
        if name != "general.architecture":
            add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
            add.get(type(value), writer.add_array)(name, value)
    for name, array in tensors.items():
        kind = kinds if isinstance(kinds, str) else kinds.get(name, "F32")
        kind = gguf.GGMLQuantizationType[kind if array.ndim > 1 else "F32"]
        blocks = array if array.dtype == np.uint8 else gguf.quants.quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(name, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_llama(path, model, kinds="F32", **changes):
    """Write a Llama as a GGUF file. `changes` to its metadata (`**smollm.metadata()`, for one); None takes one out."""
    metadata = metadata_of(model.config) | changes
    metadata = {name: value for name, value in metadata.items() if value is not None}
    return write_gguf(path, metadata, tensors_of(model), kinds)
