"""The blocks of GGUF files, kept as they are: bit for bit the same numbers, and products with them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from finetune.quantization import BlockArray, QuantizedEmbedding, QuantizedLinear, memory, quantized_layers
from finetune.quantization.array import FEW_ROWS
from finetune.quantization.packed import load_packed
from gpt.training.loading import load_model
from gpt.weights.gguf_file import GGUFError, GGUFFile
from minigrad import Tensor, use_kernels
from scripts import evaluate
from tests.gpt import smollm
from tests.gpt.gguf_files import block_llama, write_llama
from tests.gpt.small import logits_of, random_ids, small_gpt
from tests.scripts.running import output_of, write_text

KINDS = ["Q8_0", "Q4_0", "Q4_1"]
needs_gguf = pytest.mark.oracle("gguf")


def block_array(kind, rows, blocks, seed=0):
    """A random matrix in blocks of that kind, and the floats that it stands for."""
    rng = np.random.default_rng(seed)
    scales = rng.standard_normal((rows, blocks)).astype(np.float16).astype(np.float32)
    minimums = rng.standard_normal((rows, blocks)).astype(np.float16).astype(np.float32) if kind == "Q4_1" else None
    if kind == "Q8_0":
        codes = rng.integers(-128, 128, (rows, 32 * blocks)).astype(np.int8)
        zero = 0
    else:
        codes = rng.integers(0, 16, (rows, 32 * blocks)).astype(np.uint8)
        zero = 8 if kind == "Q4_0" else 0
    floats = (codes.astype(np.float32) - zero) * scales.repeat(32, axis=1)
    if minimums is not None:
        floats += minimums.repeat(32, axis=1)
    return BlockArray(codes, scales, minimums, bits=8 if kind == "Q8_0" else 4, zero=zero), floats


@given(st.sampled_from(KINDS), st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
def test_the_numbers_are_those_of_the_formula(kind, rows, blocks, seed):
    array, floats = block_array(kind, rows, blocks, seed)
    assert_array_equal(array.dequantize(), floats)
    assert_array_equal(array.dequantize_rows(slice(1, rows)), floats[1:])
    some = np.array([0, rows - 1, 0])
    assert_array_equal(array.dequantize_rows(some), floats[some])


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
@given(
    st.sampled_from(KINDS), st.sampled_from([1, 2, FEW_ROWS, FEW_ROWS + 1, 40]), st.integers(1, 70), st.integers(1, 3)
)
def test_products_are_those_with_the_floats(kernels, kind, n, rows, blocks):
    array, floats = block_array(kind, rows, blocks)
    x = np.random.default_rng(1).standard_normal((n, 32 * blocks)).astype(np.float32)
    expected = x.astype(np.float64) @ floats.T.astype(np.float64)
    size = np.abs(x) @ np.abs(floats).T  # of what is added up
    with use_kernels(kernels), pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantized_layers, "TILE", 512)  # so that there are several tiles
        patch.setattr(BlockArray, "in_one_piece", 512)
        out = QuantizedLinear(array)(Tensor(x)).data
    assert out.dtype == np.float32
    assert (np.abs(out - expected) / size).max() < 2e-6


# --- whole models -----------------------------------------------------------------------------------------------------


def packed_file(folder, kinds, **changes):
    model = block_llama(vocab_size=len(smollm.smollm_tokenizer()), **changes)
    return write_llama(folder / "small.gguf", model, kinds, **smollm.metadata())


@needs_gguf
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kinds", [*KINDS, "F16", {"token_embd.weight": "Q8_0", "blk.0.attn_q.weight": "Q4_1"}])
def test_a_packed_model_computes_what_the_float_one_does(tmp_path, kinds, tied):
    path = packed_file(tmp_path, kinds, tied=tied)
    packed, tokenizer = load_packed(path)
    plain, _ = load_model(path)
    assert packed.config == plain.config and tokenizer.encode("the cat") and not packed.training
    ids = random_ids((3, 10), vocab_size=plain.config.vocab_size)
    assert_allclose(logits_of(packed, ids), logits_of(plain, ids), rtol=1e-4, atol=1e-4)
    assert packed.generate([[1, 2, 3]], 8, temperature=0) == plain.generate([[1, 2, 3]], 8, temperature=0)
    if isinstance(kinds, dict):
        names = {name for name, module in packed.named_modules() if isinstance(module, QuantizedLinear)}
        assert names == {"model.layers.0.self_attn.q_proj", *(["lm_head"] if tied else [])}
    if kinds in KINDS:
        assert isinstance(packed.model.embed_tokens, QuantizedEmbedding)
        assert (packed.lm_head.weight is packed.model.embed_tokens.weight) == tied
        matrices = sum(p.data.nbytes for p in plain.parameters() if p.ndim == 2)
        norms = sum(p.data.nbytes for p in plain.parameters() if p.ndim == 1)
        bits = {"Q8_0": 9, "Q4_0": 5, "Q4_1": 6}[kinds]  # of each number; scales are float32 here
        assert memory(packed) == matrices * bits / 32 + norms


@needs_gguf
def test_what_is_not_packed_or_not_finite_is_refused(tmp_path):
    small_gpt().save_pretrained(tmp_path / "gpt")
    with pytest.raises(ValueError, match="is not a GGUF file .* there are no packed weights to keep"):
        load_packed(tmp_path / "gpt")
    path = packed_file(tmp_path, "Q4_0")
    raw = GGUFFile(path).tensors["blk.0.ffn_up.weight"].raw[:].tobytes()
    path.write_bytes(path.read_bytes().replace(raw, np.float16(np.inf).tobytes() + raw[2:]))
    with pytest.raises(GGUFError, match=r"small\.gguf: blk\.0\.ffn_up\.weight holds numbers that are not finite"):
        load_packed(path)


@needs_gguf
def test_a_text_is_judged_with_packed_weights(tmp_path):
    options = ["--model", packed_file(tmp_path, "Q4_1"), "--data", write_text(tmp_path / "text.txt")]
    assert output_of(evaluate.main, *options, "--packed") == output_of(evaluate.main, *options)
