"""safetensors: what the library writes we read, what we write it reads, and a file that lies is refused."""

import errno
import json
import math
import os
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file

from gpt.weights import safetensors_file
from gpt.weights.safetensors_file import SafetensorsError, SafetensorsFile, write_safetensors
from minigrad.precision import bfloat16
from tests.helpers import full_disk_at, peak_below

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8"]
DTYPES += ["uint64", "uint32", "uint16", "uint8", "bool"]


def read_all(path):
    with SafetensorsFile(path) as file:
        return {name: file.read(name) for name in file.entries}


def raw(header, data=b"", length=None):
    """A file from the text (or the content) of a header, whose length may be a lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8")
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def some_arrays():
    rng = np.random.default_rng(0)
    arrays = {dtype: rng.integers(0, 2, (3, 5)).astype(dtype) for dtype in DTYPES}
    arrays |= {
        "one number": np.array(3.5, np.float32),
        "none": np.zeros((2, 0, 3), np.float32),
        "größe": rng.standard_normal((4, 3)).astype(np.float32).T,  # not in C order
        "reversed": rng.standard_normal((4, 3))[::-1],
        "one of three": rng.standard_normal((4, 3))[:, 1],
        "a part": rng.standard_normal((4, 3))[1:, :2],
        "stretched": np.broadcast_to(np.float32(2), (3, 4)),
        "big-endian": np.arange(6, dtype=">f4").reshape(2, 3).T,
        "every second": rng.standard_normal(10)[::-2],
    }
    return arrays


def assert_equal(found, arrays):
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype.newbyteorder("=") and found[name].shape == array.shape
        assert_array_equal(found[name], array)


# --- the same as the library ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [{}, {"format": "pt", "by": "us"}])
def test_what_we_write_the_library_reads(tmp_path, metadata):
    arrays = some_arrays()
    write_safetensors(tmp_path / "x.safetensors", arrays, metadata)
    assert_equal(load_file(tmp_path / "x.safetensors"), arrays)
    with SafetensorsFile(tmp_path / "x.safetensors") as file:
        assert file.metadata == metadata
        assert all(entry.start % np.dtype(file.read(name).dtype).itemsize == 0 for name, entry in file.entries.items())


def test_what_the_library_writes_we_read(tmp_path):
    arrays = {name: np.array(array, array.dtype.newbyteorder("="), order="C") for name, array in some_arrays().items()}
    save_file(arrays, tmp_path / "x.safetensors", {"made": "there"})
    found = read_all(tmp_path / "x.safetensors")
    assert_equal(found, arrays)
    assert all(array.flags.writeable and array.flags.c_contiguous for array in found.values())
    with SafetensorsFile(tmp_path / "x.safetensors") as file:
        assert file.metadata == {"made": "there"} and file.shapes["one number"] in ((), (1,))


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path):
    values = np.array([0.0, -0.0, 1.0, -2.5, 3.140625, np.inf, -np.inf, np.nan, 1e-40, 3e38, 2**-126], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw({"a": entry("BF16", (11,), (0, 22))}, halves.tobytes()))
    found = read_all(path)["a"]
    assert found.dtype == np.float32
    assert_array_equal(found.view(np.uint32), halves.astype(np.uint32) << 16)
    assert_array_equal(found[:8], values[:8])  # which need no more than these bits


def test_bfloat16_is_written_where_there_are_arrays_of_it(tmp_path):
    array = np.linspace(-3, 3, 12, dtype=np.float32).reshape(4, 3).astype(bfloat16()).T
    write_safetensors(tmp_path / "x", {"a": array, "b": array[:0], "c": np.array(0.5, array.dtype)})
    with SafetensorsFile(tmp_path / "x") as file:
        assert {entry.dtype for entry in file.entries.values()} == {"BF16"}
        assert_array_equal(file.read("a"), array.astype(np.float32))
        assert file.read("b").shape == (0, 4) and file.read("c") == 0.5


def test_a_dtype_that_the_format_lacks_is_named(tmp_path):
    with pytest.raises(TypeError, match="b is complex64, which safetensors does not have"):
        write_safetensors(tmp_path / "x", {"a": np.zeros(2), "b": np.zeros(2, np.complex64)})
    assert list(tmp_path.iterdir()) == []


def test_reading_holds_one_tensor_and_writing_those_out_of_order(tmp_path):
    arrays = {str(i): np.zeros((1024, 256), np.float32) for i in range(8)}  # 1 MB each
    turned = {name: array.T for name, array in arrays.items()}
    for write, limit in ((arrays, 0.2), (turned, 8.2), (None, 1.2)):
        with peak_below(limit * 2**20):
            if write:
                write_safetensors(tmp_path / "x", write)
            else:
                with SafetensorsFile(tmp_path / "x") as file:
                    for name in arrays:
                        file.read(name)


def test_some_rows_are_read_as_they_stand_in_the_whole(tmp_path):
    arrays = {"a": np.arange(24.0).reshape(4, 3, 2), "b": np.arange(5, dtype=np.float16)}
    write_safetensors(tmp_path / "x", arrays)
    with SafetensorsFile(tmp_path / "x") as file:
        for name, array in arrays.items():
            for rows in (slice(None), slice(1, 3), slice(3, 9), slice(2, 2)):
                assert_array_equal(file.read(name, rows), array[rows])


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_full_disk_names_the_file_and_the_old_one_stays(tmp_path):
    path = tmp_path / "x"
    write_safetensors(path, {"a": np.zeros(10)})
    before = path.read_bytes()
    with full_disk_at(1000), pytest.raises(OSError, match="too large.*x") as caught:
        write_safetensors(path, {"a": np.zeros(100_000)})
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_others_may_read_a_file_as_they_may_read_any(tmp_path):
    write_safetensors(tmp_path / "x", {"a": np.zeros(10)})
    (tmp_path / "y").touch()
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


# --- files that lie ---------------------------------------------------------------------------------------------------


def test_a_file_that_shrinks_while_it_is_open_is_an_error(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.ones(1000, np.float32), "b": np.ones(1000, np.float32)})
    with SafetensorsFile(path) as file:
        os.truncate(path, path.stat().st_size - 4)
        assert file.read("a").sum() == 1000
        with pytest.raises(SafetensorsError, match="became shorter while b was read"):
            file.read("b")


def test_a_bool_is_0_or_1(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw({"a": entry("BOOL", (2,), (0, 2))}, b"\x01\x02"))
    with pytest.raises(SafetensorsError, match="neither 0 nor 1"):
        read_all(path)


# --- fuzzing: whatever the bytes, a sound file or a SafetensorsError --------------------------------------------------


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
NUMBERS = st.integers(-2, 12) | st.sampled_from([2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63)]) | ANY
FIELDS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(list(safetensors_file.DTYPES)) | ANY,
        "shape": st.lists(NUMBERS, max_size=4) | ANY,
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | st.lists(NUMBERS, max_size=3) | ANY,
    }
)
JSON = st.recursive(ANY, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))


@given(header=st.dictionaries(st.text(max_size=3), FIELDS | JSON, max_size=4) | JSON, size=st.integers(0, 24))
def test_any_header(tmp_path_factory, header, size):
    path = tmp_path_factory.getbasetemp() / "any-header.safetensors"
    path.write_bytes(raw(header, bytes(size)))
    with peak_below(2_000_000):  # the files are small
        try:
            arrays = read_all(path)
        except SafetensorsError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return
    names = header.keys() - {"__metadata__"}
    assert arrays.keys() == names
    assert sum(math.prod(header[name]["shape"]) > 0 for name in names) <= size
