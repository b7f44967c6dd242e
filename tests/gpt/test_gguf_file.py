"""GGUF files: every kind of number is what the library gguf makes of it, and a file that lies is named and harmless."""

import os
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.weights.gguf_file import BLOCKS, GGUFError, GGUFFile, GGUFTensor, dequantize, unpack
from tests.gpt.gguf_files import write_gguf
from tests.gpt.small import golden_arrays
from tests.helpers import peak_below

needs_gguf = pytest.mark.oracle("gguf")
QUANTIZED = list(BLOCKS)
KINDS = ["F32", "F16", "BF16", *QUANTIZED]  # those that the library gguf can write


@pytest.fixture(scope="module")
def golden():
    return golden_arrays("gguf-blocks")


def assert_same_bits(found, expected):
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F16", "BF16", *QUANTIZED])
def test_the_numbers_are_those_of_the_library_bit_by_bit(golden, kind):
    raw, numbers = golden[f"{kind}/raw"], golden[f"{kind}/numbers"]
    stored = raw.view(np.float16) if kind == "F16" else raw
    assert_same_bits(dequantize(GGUFTensor("w", numbers.shape, kind, stored)), numbers)


def test_other_kinds_are_refused_by_name():
    tensor = GGUFTensor("blk.0.attn_q.weight", (1, 256), "Q2_K", np.zeros((1, 84), np.uint8))
    with pytest.raises(GGUFError, match=r"blk.0.attn_q.weight is Q2_K; the kinds of blocks unpacked here are Q8_0, "):
        dequantize(tensor)
    with pytest.raises(GGUFError, match=r"w is F32; the kinds of blocks unpacked here are Q8_0, Q4_0, Q4_1"):
        unpack(GGUFTensor("w", (1, 32), "F32", np.zeros((1, 32), np.float32)))


# --- files ------------------------------------------------------------------------------------------------------------

METADATA = {
    "general.architecture": "llama",
    "a.number": 7,
    "a.fraction": 0.5,
    "a.truth": True,
    "a.text": "Übermaß 猫",
    "numbers": [1, -2, 3],
    "texts": ["Ġthe", "", "\n"],
}


def tensors():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((3, 64)).astype(np.float32) for name in KINDS} | {"one": np.ones(8, np.float32)}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small file of each kind of number and setting, and its bytes."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_gguf(path, METADATA, tensors(), {kind: kind for kind in KINDS})
    return path, path.read_bytes()


@needs_gguf
def test_settings_and_tensors(small):
    file = GGUFFile(str(small[0]))
    assert file.metadata == METADATA
    assert list(map(type, file.metadata.values())) == list(map(type, METADATA.values()))
    assert {name: (tensor.kind, tensor.shape) for name, tensor in file.tensors.items()} == {
        **{kind: (kind, (3, 64)) for kind in KINDS},
        "one": ("F32", (8,)),
    }
    for name, array in tensors().items():
        found = dequantize(file.tensors[name])
        assert found.shape == array.shape and abs(found - array).max() < {"F32": 1e-9, "one": 1e-9}.get(name, 0.3)


@needs_gguf
def test_the_numbers_stay_in_the_file_until_they_are_used(tmp_path):
    path = write_gguf(tmp_path / "large.gguf", METADATA, {"w": np.ones((4096, 1024), np.float32)})
    with peak_below(3_000_000):
        raw = GGUFFile(path).tensors["w"].raw
        assert raw[1023:1025].shape == (2, 1024)
    assert raw[:].sum() == 4096 * 1024


@needs_gguf
def test_a_file_that_shrinks_while_it_is_read_is_an_error(small, tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    path.write_bytes(small[1])
    file = GGUFFile(path)
    os.truncate(path, 99)
    for tensor in file.tensors.values():
        with pytest.raises(GGUFError, match="model.gguf: the file became shorter while it was read"):
            dequantize(tensor)
    monkeypatch.setattr(np, "memmap", lambda *_, **__: np.frombuffer(small[1], np.uint8))  # mapped before it shrank
    with pytest.raises(GGUFError, match="truncated"):
        GGUFFile(path)


# --- damage at random, and what is not there (test_damaged_files.py has the rest) -------------------------------------


@needs_gguf
@given(data=st.data())
def test_flipped_bits_are_noticed_or_change_numbers_only(small, data):
    path, content = small
    damaged = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, 8 * 700 - 1), min_size=1, max_size=3)):
        damaged[place // 8] ^= 1 << place % 8
    target = path.with_name("damaged.gguf")
    target.write_bytes(damaged)
    with peak_below(30_000_000):
        try:
            file = GGUFFile(target)
        except GGUFError as error:
            assert str(error).startswith(str(target)) and str(error).isprintable()
        else:
            assert len(file.metadata) <= len(METADATA) and len(file.tensors) <= len(tensors())


def test_without_the_library_its_name_is_said(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(GGUFError, match="needs the library gguf, which is missing: pip install gguf"):
        GGUFFile(tmp_path / "model.gguf")
