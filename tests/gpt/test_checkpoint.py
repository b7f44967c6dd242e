"""Checkpoints: what is loaded is what was saved, whatever happened in between, or an error names the file."""

import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from gpt import files, load_checkpoint, save_checkpoint
from gpt.training import checkpoint as module
from gpt.training.checkpoint import CheckpointError, has_checkpoint, load_state, remove_checkpoint
from minigrad import optim
from tests.gpt.small import assert_same, files_of, random_ids, small_gpt
from tests.helpers import full_disk_at, peak_below, read_json, write_json

FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "trainer_state.json"]


def a_run(number, **changes):
    """A model and optimizer in which every number tells which run this is, and a state that does, too."""
    model = small_gpt(**changes)
    optimizer = optim.AdamW(optim.decay_groups(model.named_parameters(), 0.1), lr=0.1 * number)
    model.loss(random_ids((1, 5)), random_ids((1, 5))).backward()
    optimizer.step()
    for array in arrays_of(model, optimizer.state_dict()).values():
        array[...] = number
    return model, optimizer, {"step": number, "random": {"key": 2**127 + number}, "loss": 0.1 * number}


def arrays_of(model, optimizer_state):
    moments = {
        f"{position}.{name}": value
        for position, values in optimizer_state["state"].items()
        for name, value in values.items()
        if hasattr(value, "shape")
    }
    return {**model.state_dict(), **moments}


def number_of(folder):
    """Return the number of the run in the folder; all of it has to be of that one."""
    checkpoint = load_checkpoint(folder)
    number = checkpoint.state["step"]
    arrays = arrays_of(checkpoint.model, checkpoint.optimizer_state)
    assert len(arrays) == 3 * len(checkpoint.model.state_dict())
    assert all((array == number).all() for array in arrays.values())
    assert checkpoint.state == {"step": number, "random": {"key": 2**127 + number}, "loss": 0.1 * number}
    assert checkpoint.optimizer_state["param_groups"][0]["lr"] == 0.1 * number
    return number


def refused(folder, words):
    """The checkpoint in a folder is refused, in one sentence that names the folder."""
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


# --- what is saved is loaded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [({}, "float32"), ({"norm": "post", "dropout": 0.1}, "float64"), ({"positions": "sinusoidal"}, "float32")],
)
def test_everything_comes_back_bit_by_bit(tmp_path, changes, dtype):
    model = small_gpt(**changes).to(dtype).eval()
    optimizer = optim.AdamW(optim.decay_groups(model.named_parameters(), 0.1), betas=(0.8, 0.95))
    for _ in range(3):
        model.zero_grad()
        model.loss(random_ids((2, 6)), random_ids((2, 6), seed=1)).backward()
        optimizer.step()
    state = {"step": 3, "x": [1.5, None, True, "é"], "tiny": 5e-324, "nested": {"10": 1, "9": 2}}
    save_checkpoint(tmp_path / "new" / "run", model, optimizer, state)
    loaded = load_checkpoint(tmp_path / "new" / "run")
    loaded.model.eval()
    assert loaded.model.config == model.config and loaded.state == state
    expected, found = arrays_of(model, optimizer.state_dict()), arrays_of(loaded.model, loaded.optimizer_state)
    assert_same(found, expected)
    assert all(found[name].dtype == array.dtype and found[name].flags.writeable for name, array in expected.items())
    groups = optimizer.state_dict()["param_groups"]
    assert loaded.optimizer_state["param_groups"] == json.loads(json.dumps(groups))  # which makes tuples lists
    assert (loaded.model(random_ids((2, 6))).data == model(random_ids((2, 6))).data).all()


def test_the_files_are_plain_safetensors_and_json(tmp_path):
    model, optimizer, state = a_run(1)
    save_checkpoint(tmp_path, model, optimizer, state)
    assert sorted(files_of(tmp_path)) == FILES
    weights = load_file(tmp_path / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    assert weights["transformer.h.0.mlp.c_fc.weight"].shape == (32, 8)
    assert read_json(tmp_path / "config.json")["n_layer"] == 2
    assert load_state(tmp_path) == state


def test_without_an_optimizer_and_without_reading_it(tmp_path):
    model, optimizer, state = a_run(1)
    save_checkpoint(tmp_path, model, optimizer, state)
    (tmp_path / "optimizer.safetensors").unlink()
    assert load_checkpoint(tmp_path, with_optimizer=False).optimizer_state is None
    save_checkpoint(tmp_path, model)
    assert load_checkpoint(tmp_path).optimizer_state is None


def test_neither_saving_nor_loading_holds_the_model_twice(tmp_path):
    model = small_gpt(n_embd=128, n_layer=4)
    size = sum(array.nbytes for array in model.state_dict().values())
    largest = max(array.nbytes for array in model.state_dict().values())
    with peak_below(size / 2):
        save_checkpoint(tmp_path, model)
    with peak_below(size + 1.5 * largest):
        loaded = load_checkpoint(tmp_path)
    assert loaded.model.num_parameters() == model.num_parameters()


# --- crashes ----------------------------------------------------------------------------------------------------------


class HalfWritten(io.FileIO):
    """A file of which half a chunk is on the disk when it fails."""

    def write(self, chunk):
        try:
            self.disk.count()
        except BaseException:
            super().write(bytes(chunk)[: len(chunk) // 2])
            raise
        return super().write(chunk)


class Crash(BaseException):
    """The machine stops."""


class FailingDisk:
    """Counts what is done to files, and the `fail_at`-th time raises `error`; after a crash nothing works any more."""

    def __init__(self, monkeypatch, fail_at, error, afterwards=False):
        self.done, self.fail_at, self.error, self.afterwards = 0, fail_at, error, afterwards
        for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "mkdir")):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))
        monkeypatch.setattr(module, "open", self.open, raising=False)

    def counted(self, function):
        def run(*args, **kwargs):
            if not self.afterwards:
                self.count()
            result = None if function is os.fsync else function(*args, **kwargs)  # nothing here outlives the test
            if self.afterwards:
                self.count()
            return result

        return run

    def count(self):
        self.done += 1
        if self.done == self.fail_at or (self.done > self.fail_at and isinstance(self.error, Crash)):
            raise self.error

    def open(self, path, mode, **options):
        if "w" not in mode:
            return open(path, mode, **options)
        Path(path).write_bytes(b"")  # and closed, in case it fails: Windows deletes no open file
        self.count()
        file = HalfWritten(path, mode)
        file.disk = self
        return file


def save_on_failing_disk(folder, run, fail_at, error, afterwards=False):
    """Save, and return what it raised, and after how many operations on files."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        disk = FailingDisk(monkeypatch, fail_at, error, afterwards)
        try:
            save_checkpoint(folder, *run)
        except (Crash, OSError, KeyboardInterrupt) as caught:
            return caught, disk.done
    return None, disk.done


@pytest.fixture(scope="module")
def saving(tmp_path_factory):
    """Three small runs by number, a folder with the first, and how many operations on files the second takes there."""
    runs, folder = {number: a_run(number, n_layer=1) for number in (1, 2, 3)}, tmp_path_factory.mktemp("start")
    save_checkpoint(folder, *runs[1])
    copy = shutil.copytree(folder, f"{folder}-copy")
    return runs, folder, save_on_failing_disk(copy, runs[2], 10**9, Crash())[1]


def failed_saves(folder, saving, error, first=1, afterwards=False):
    """Save the second run over the first, which fails at one operation on files after the other.

    At every eighth of those that write tensors, and at each of the last, among which the commit is. Yields the folder
    and what was raised.
    """
    runs, start, operations = saving
    for fail_at in (*range(first, operations - 14, 8), *range(operations - 14, operations + 1)):
        copy = shutil.copytree(start, folder / f"{fail_at}")
        caught, _ = save_on_failing_disk(copy, runs[2], fail_at, error, afterwards)
        assert type(caught) is type(error)
        yield copy, caught


def test_a_crash_at_any_moment_leaves_the_old_or_the_new_checkpoint(tmp_path, saving):
    found = []
    for folder, _ in failed_saves(tmp_path, saving, Crash()):
        before = files_of(folder)
        with mock.patch.object(module, "locked", side_effect=BlockingIOError("in use")):
            found.append(number_of(folder))
            assert files_of(folder) == before  # while somebody writes there, loading changes nothing
        assert has_checkpoint(folder)
        pending = "trainer_state.json.commit" in before
        assert number_of(folder) == found[-1]
        assert "trainer_state.json.commit" not in files_of(folder)  # whoever comes next completes it
        assert not pending or not any(name.endswith(".new") for name in files_of(folder))
        save_checkpoint(folder, *saving[0][3])
        assert number_of(folder) == 3
        assert not any(name.endswith((".new", ".commit")) for name in files_of(folder))
    assert found == sorted(found) and set(found) == {1, 2}


def test_a_crash_in_the_save_after_a_crash_loses_nothing_either(tmp_path, saving):
    runs, start, operations = saving
    for first in range(operations - 12, operations + 1):  # about where the commit is
        crashed = shutil.copytree(start, tmp_path / f"{first}")
        save_on_failing_disk(crashed, runs[2], first, Crash())
        survived = number_of(crashed)
        for second in (1, 5, 13, 34):
            folder = shutil.copytree(crashed, tmp_path / f"{first}-{second}")
            save_on_failing_disk(folder, runs[3], second, Crash())
            assert number_of(folder) in (survived, 3)


@pytest.mark.parametrize("afterwards", [False, True])
def test_ctrl_c_at_any_moment_leaves_the_old_or_the_new_checkpoint(tmp_path, saving, afterwards):
    for folder, _ in failed_saves(tmp_path, saving, KeyboardInterrupt(), afterwards=afterwards):
        assert number_of(folder) in (1, 2)
        save_checkpoint(folder, *saving[0][2])
        assert number_of(folder) == 2


def test_a_first_checkpoint_that_crashed_is_none(tmp_path):
    save_on_failing_disk(tmp_path, a_run(1), 9, Crash())
    assert not has_checkpoint(tmp_path) and files_of(tmp_path)
    refused(tmp_path, "trainer_state.json is missing")


@pytest.mark.parametrize(("step", "saves", "found"), [("_verified", 1, 2), ("_fill", 1, 2), ("_fill", 10, None)])
def test_what_is_saved_while_it_is_loaded_is_read_again(tmp_path, monkeypatch, step, saves, found):
    """Saved before a file is checked, and after all of them were: the one is noticed at once, the other at the end."""
    left, original = [a_run(number, n_layer=1) for number in range(2, 2 + saves)], getattr(module, step)
    save_checkpoint(tmp_path, *a_run(1, n_layer=1))

    def saved_meanwhile(*arguments):
        if left:
            save_checkpoint(tmp_path, *left.pop(0))
        return original(*arguments)

    monkeypatch.setattr(module, step, saved_meanwhile)
    if found is None:
        refused(tmp_path, "is written faster than it can be read")
    else:
        assert number_of(tmp_path) == found


def test_on_windows_a_file_that_is_open_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    class Windows:
        name, refused = "nt", 0

        def __getattr__(self, name):
            return getattr(os, name)

        def replace(self, source, target):
            self.refused += 1
            if self.refused in (1, 2, 4):
                raise PermissionError(errno.EACCES, "The process cannot access the file", source)
            os.replace(source, target)

    monkeypatch.setattr(files, "os", Windows())
    save_checkpoint(tmp_path, *a_run(1))
    assert number_of(tmp_path) == 1


# --- full disks -------------------------------------------------------------------------------------------------------


def test_a_full_disk_at_any_moment_leaves_a_checkpoint_and_no_rubbish(tmp_path, saving):
    runs, start, _ = saving
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for folder, caught in failed_saves(tmp_path, saving, full, first=2):
        assert caught.errno == errno.ENOSPC
        if number_of(folder) == 1:
            assert str(folder) in str(caught)
            assert "could not be saved: No space left on device; the one before it is intact" in str(caught)
            assert files_of(folder) == files_of(start)
        save_checkpoint(folder, *runs[2])
        assert number_of(folder) == 2


def test_without_an_earlier_checkpoint_none_is_said_to_be_intact(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    caught, _ = save_on_failing_disk(tmp_path, a_run(1, n_layer=1), 4, full)
    assert caught.filename == str(tmp_path / "config.json.new")
    assert caught.strerror == "the checkpoint could not be saved: No space left on device; there is none from before"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_disk_that_is_really_full(tmp_path):
    save_checkpoint(tmp_path, *a_run(1))
    before = files_of(tmp_path)
    words = "could not be saved: File too large; the one before it is intact"
    with full_disk_at(len(before["model.safetensors"]) - 100), pytest.raises(OSError, match=words):
        save_checkpoint(tmp_path, *a_run(2))
    assert files_of(tmp_path) == before and number_of(tmp_path) == 1


def test_a_state_that_json_cannot_hold_leaves_the_old_checkpoint(tmp_path):
    model, optimizer, state = a_run(1)
    save_checkpoint(tmp_path, model, optimizer, state)
    before = files_of(tmp_path)
    for bad, error in ((object(), TypeError), (float("nan"), ValueError)):
        with pytest.raises(error):
            save_checkpoint(tmp_path, model, optimizer, {"step": bad})
    assert files_of(tmp_path) == before


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_missing_truncated_or_altered_file_is_named(tmp_path, name):
    save_checkpoint(tmp_path, *a_run(1))
    path = tmp_path / name
    good = path.read_bytes()
    places = np.random.default_rng(0).integers(0, len(good), 25).tolist()
    bad = [good[:n] for n in (0, 1, len(good) // 2, len(good) - 1)] + [good + b" ", good + b"0"]
    bad += [good[:n] + bytes([good[n] ^ bit]) + good[n + 1 :] for n in places for bit in (1, 16, 128)]
    harmless = 0
    for content in bad:
        path.write_bytes(content)
        if name == "trainer_state.json" and is_the_same_json(content, good):
            assert number_of(tmp_path) == 1  # such as one space more
            harmless += 1
            continue
        refused(tmp_path, name)
    assert harmless < 10
    path.unlink()
    refused(tmp_path, f"{name} is missing")


def is_the_same_json(content, other):
    try:
        return json.loads(content) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, "trainer_state.json is damaged"),
        (b"[]", "expected a JSON object"),
        (b"\xff\xfe", "trainer_state.json is not UTF-8 text"),
        (b"{}", "is not from minigrad"),
        (b'{"sha256": "x", "files": [], "optimizer": null, "state": {}}', "was altered"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, words):
    (tmp_path / "trainer_state.json").write_bytes(content)
    refused(tmp_path, words)


def test_no_folder_an_empty_one_and_a_file_are_no_checkpoint(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        assert not has_checkpoint(path)
        refused(path, "there is no checkpoint in")


def forge(folder, name, content):
    """Replace a file of a checkpoint, and make the record say that this is right."""
    (folder / name).write_bytes(content)
    record = record_with(folder, name, module.hashlib.sha256(content).hexdigest())
    write_json(folder / "trainer_state.json", record)


def record_with(folder, name, digest):
    """The record of a checkpoint, with one file's SHA-256 replaced."""
    record = read_json(folder / "trainer_state.json")
    del record["sha256"]
    record["files"][name] = digest
    return {"sha256": module._hash_of_record(record), **record}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "config.json does not describe a minigrad-gpt"),
        ({"n_heads": 2}, "config.json describes no model that can be loaded: unknown setting n_heads"),
        ({"n_head": 3}, "config.json describes no model"),
        ({"n_layer": "2"}, "config.json describes no model"),
        ({"n_layer": 10**12}, "it is one of 872,000,000,000,408 numbers"),  # before memory is asked for
        ({"vocab_size": 10**15}, "but 2,152 are stored"),
        (
            {"vocab_size": 38, "block_size": 11},
            r"wte.weight has shape \(37, 8\), but the model has the shape \(38, 8\)",
        ),
    ],
)
def test_a_configuration_that_contradicts_the_weights_is_refused(tmp_path, changes, words):
    save_checkpoint(tmp_path, *a_run(1))
    config = read_json(tmp_path / "config.json")
    forge(tmp_path, "config.json", json.dumps({**config, **changes}).encode())
    refused(tmp_path, words)


def test_weights_with_other_names_or_no_weights_at_all_are_refused(tmp_path):
    model, optimizer, state = a_run(1)
    save_checkpoint(tmp_path, model, optimizer, state)
    weights = model.state_dict()
    weights["transformer.wxe.weight"] = weights.pop("transformer.wte.weight")
    forge(tmp_path, "model.safetensors", save(weights))
    refused(tmp_path, "transformer.wxe.weight has shape .* no such tensor")
    forge(tmp_path, "model.safetensors", b"\xff" * 100)
    refused(tmp_path, "model.safetensors was truncated or altered")
    for changed, dtype, value, words in (
        ("", np.float16, 1, "wte.weight is float16, not float32"),
        ("", np.int32, 1, "wte.weight is int32, not float32"),
        ("wpe", np.float64, 1, "the parameters are of several types, F32 and F64"),
        ("wpe", np.float32, np.nan, "wpe.weight holds numbers that are not finite"),
        ("wpe", np.float32, -np.inf, "wpe.weight holds numbers that are not finite"),
    ):
        weights = model.state_dict()
        weights |= {name: (array * 0 + value).astype(dtype) for name, array in weights.items() if changed in name}
        forge(tmp_path, "model.safetensors", save(weights))
        refused(tmp_path, words)
    save_checkpoint(tmp_path, model, optimizer, state)
    forge(tmp_path, "optimizer.safetensors", (tmp_path / "model.safetensors").read_bytes())
    refused(tmp_path, "describes no optimizer that fits")


def test_a_record_cannot_name_files_elsewhere(tmp_path):
    folder = tmp_path / "run"
    save_checkpoint(folder, *a_run(1))
    (tmp_path / "mine.new").write_bytes(b"other")
    (tmp_path / "mine").write_bytes(b"precious")
    write_json(folder / "trainer_state.json.commit", record_with(folder, "../mine", "x"))
    save_checkpoint(folder, *a_run(2))
    assert (tmp_path / "mine").read_bytes() == b"precious" and number_of(folder) == 2


def test_a_removed_checkpoint_is_gone_and_the_rest_stays(tmp_path):
    save_checkpoint(tmp_path, *a_run(1))
    (tmp_path / "notes.txt").write_bytes(b"mine")
    remove_checkpoint(tmp_path)
    assert not has_checkpoint(tmp_path) and (tmp_path / "notes.txt").exists()
    remove_checkpoint(tmp_path)
