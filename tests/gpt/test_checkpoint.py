"""Checkpoints: what is loaded is what was saved, whatever happened in between, or an error names the file."""

import errno
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from gpt import files, load_checkpoint, save_checkpoint
from gpt.training import checkpoint as module
from gpt.training.checkpoint import STATE, CheckpointError, checkpoints, has_checkpoint, load_state
from minigrad import optim
from tests.gpt.small import assert_same, checkpoint_of, files_of, random_ids, small_gpt, weights_of
from tests.helpers import Windows, peak_below, read_json
from tests.scripts.running import write_record

FILES = ["config.json", "model.safetensors", "optimizer.safetensors", STATE]


def a_run(number):
    """A model and optimizer in which every number tells which run this is, and a state that does, too."""
    model = small_gpt(n_layer=1)
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
    """Return the number of the run in the folder; all of it has to be of that one, and reading changes nothing."""
    before, checkpoint = files_of(folder), load_checkpoint(folder)
    number = checkpoint.state["step"]
    arrays = arrays_of(checkpoint.model, checkpoint.optimizer_state)
    assert len(arrays) == 3 * len(checkpoint.model.state_dict())
    assert all((array == number).all() for array in arrays.values())
    assert checkpoint.state == {"step": number, "random": {"key": 2**127 + number}, "loss": 0.1 * number}
    assert checkpoint.optimizer_state["param_groups"][0]["lr"] == 0.1 * number and files_of(folder) == before
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
    folder = tmp_path / "new" / "run"
    save_checkpoint(folder, model, optimizer, state)
    loaded = load_checkpoint(folder)
    loaded.model.eval()
    assert loaded.model.config == model.config and loaded.state == state == load_state(folder)
    expected, found = arrays_of(model, optimizer.state_dict()), arrays_of(loaded.model, loaded.optimizer_state)
    assert_same(found, expected)
    assert all(found[name].dtype == array.dtype and found[name].flags.writeable for name, array in expected.items())
    groups = optimizer.state_dict()["param_groups"]
    assert loaded.optimizer_state["param_groups"] == json.loads(json.dumps(groups))  # which makes tuples lists
    assert (loaded.model(random_ids((2, 6))).data == model(random_ids((2, 6))).data).all()

    assert sorted(files_of(folder)) == [f"checkpoint-1/{name}" for name in FILES]
    assert_same(load_file(folder / "checkpoint-1" / "model.safetensors"), model.state_dict())
    (folder / "checkpoint-1" / "optimizer.safetensors").unlink()
    assert load_checkpoint(folder, with_optimizer=False).optimizer_state is None
    save_checkpoint(folder, model)
    assert load_checkpoint(folder).optimizer_state is None


def test_neither_saving_nor_loading_holds_the_model_twice(tmp_path):
    model = small_gpt(n_embd=256, n_layer=4)
    size = sum(array.nbytes for array in model.state_dict().values())
    largest = max(array.nbytes for array in model.state_dict().values())
    with peak_below(size / 2):
        save_checkpoint(tmp_path, model)
    with peak_below(size + 1.5 * largest):
        loaded = load_checkpoint(tmp_path)
    assert loaded.model.num_parameters() == model.num_parameters()


# --- crashes and full disks -------------------------------------------------------------------------------------------


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

    def __init__(self, monkeypatch, fail_at, error):
        self.done = 0
        self.fail_at = fail_at
        self.error = error
        removing = [] if isinstance(error, OSError) else ["unlink", "rmdir"]  # needs no room
        for name in ("mkdir", "fsync", "replace", *removing):
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        for place in (module, files):
            monkeypatch.setattr(place, "open", self.open, raising=False)

    def counted(self, function):
        def run(*args, **kwargs):
            self.count()
            return None if function is os.fsync else function(*args, **kwargs)  # nothing here outlives the test

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


def save_on_failing_disk(folder, run, fail_at, error):
    """Save, and return what it raised, and after how many operations on files."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        disk = FailingDisk(monkeypatch, fail_at, error)
        try:
            save_checkpoint(folder, *run)
        except (Crash, OSError, KeyboardInterrupt) as caught:
            return caught, disk.done
    return None, disk.done


@pytest.fixture(scope="module")
def runs():
    return [a_run(number) for number in range(4)]


STARTS = ["nothing", "a checkpoint"]


@pytest.fixture(params=STARTS)
def start(request, tmp_path, runs):
    """A folder with the first run, or with nothing, in which the second one is saved."""
    folder = tmp_path / "start"
    folder.mkdir()
    if request.param == "a checkpoint":
        save_checkpoint(folder, *runs[1])
    return folder


def failed_saves(start, run, error):
    """Save a run in copies of a folder, and fail at one operation on files after the other.

    At every eighth of those that write tensors, and at each of the last, among which the commit is. Yields the copy,
    what was raised, and how many operations are left.
    """
    operations = save_on_failing_disk(shutil.copytree(start, f"{start}-copy"), run, 10**9, error)[1]
    for fail_at in (*range(1, operations - 24, 8), *range(operations - 24, operations + 1)):
        copy = Path(shutil.copytree(start, f"{start}-{fail_at}"))
        caught, _ = save_on_failing_disk(copy, run, fail_at, error)
        yield copy, caught, operations - fail_at


def assert_only_a_checkpoint(folder):
    names = [f"{checkpoint_of(folder).name}/{name}" for name in FILES]
    assert sorted(files_of(folder)) == names and len([*folder.iterdir()]) == 1


KILLS = [*((start, Crash()) for start in STARTS), ("a checkpoint", KeyboardInterrupt())]


@pytest.mark.parametrize(("start", "error"), KILLS, indirect=["start"])
def test_a_kill_leaves_the_old_or_the_new_checkpoint(start, runs, error):
    """Also a crash in the save after it. The next save leaves nothing over."""
    found = []
    first = 1 if has_checkpoint(start) else None
    for folder, caught, left in failed_saves(start, runs[2], error):
        assert caught is error
        found.append(number_of(folder) if has_checkpoint(folder) else None)
        for second in (1, 5, 13, 60) if left < 24 and left % 3 == 0 and isinstance(error, Crash) else ():
            copy = Path(shutil.copytree(folder, f"{folder}-{second}"))
            save_on_failing_disk(copy, runs[3], second, Crash())
            assert (number_of(copy) if has_checkpoint(copy) else None) in (found[-1], 3)
        save_checkpoint(folder, *runs[3])
        assert number_of(folder) == 3
        assert_only_a_checkpoint(folder)
    assert {*found} == {first, 2} and found == sorted(found, key=[first, 2].index)


def test_a_full_disk_leaves_a_checkpoint_and_no_rubbish(start, runs):
    full, before = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), has_checkpoint(start)
    ending = "the one before it is intact" if before else "there is none from before"
    for folder, caught, _ in failed_saves(start, runs[2], full):
        if has_checkpoint(folder) and number_of(folder) == 2:
            assert "intact" not in str(caught)
            if caught is not None:  # the rename may not be on the disk: the old one stays
                assert len(checkpoints(folder)) == 1 + before
        else:
            assert caught.errno == errno.ENOSPC and str(folder) in str(caught)
            assert files_of(folder) == files_of(start)
            assert caught.strerror == f"the checkpoint could not be saved: No space left on device; {ending}"
        save_checkpoint(folder, *runs[3])
        assert number_of(folder) == 3
        assert_only_a_checkpoint(folder)


def test_a_state_that_json_cannot_hold_leaves_the_old_checkpoint(tmp_path):
    model, optimizer, state = a_run(1)
    save_checkpoint(tmp_path, model, optimizer, state)
    before = files_of(tmp_path)
    for bad, error in ((object(), TypeError), (np.zeros(2), TypeError), (float("nan"), ValueError)):
        with pytest.raises(error):
            save_checkpoint(tmp_path, model, optimizer, {"step": bad})
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(("step", "saves"), [("check_sha256", 1), ("_check_shapes", 1), ("_check_shapes", 3)])
def test_what_is_saved_while_it_is_loaded_is_read_again(tmp_path, monkeypatch, step, saves):
    """Saved before a file is checked, and when the weights were."""
    left = [a_run(number) for number in range(2, 2 + saves)]
    original = getattr(module, step)
    save_checkpoint(tmp_path, *a_run(1))

    def saved_meanwhile(*arguments):
        if left:
            save_checkpoint(tmp_path, *left.pop(0))
        return original(*arguments)

    monkeypatch.setattr(module, step, saved_meanwhile)
    assert load_checkpoint(tmp_path).state["step"] == 1 + saves


def test_on_windows_an_open_file_is_waited_for_or_stays(tmp_path, monkeypatch):
    class OpenFilesStay(Windows):
        refused = 0

        def replace(self, source, target):
            self.refused += 1
            if self.refused in (1, 2, 15):
                raise PermissionError(errno.EACCES, "The process cannot access the file", source)
            os.replace(source, target)

    save_checkpoint(tmp_path, *a_run(1))
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", OpenFilesStay())
        patch.setattr(os, "unlink", lambda *args, **options: OpenFilesStay().replace("", ""))  # somebody reads it
        save_checkpoint(tmp_path, *a_run(2))
    assert number_of(tmp_path) == 2 and len([*tmp_path.iterdir()]) == 2
    save_checkpoint(tmp_path, *a_run(3))
    assert number_of(tmp_path) == 3
    assert_only_a_checkpoint(tmp_path)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_folders_of_such_a_name_that_are_not_ours_stay(tmp_path):
    """Those of Hugging Face's Trainer, a copy of one of ours, a file."""
    save_checkpoint(tmp_path, *a_run(1))
    (tmp_path / "checkpoint-500").mkdir()
    for path in ("checkpoint-500/config.json", "checkpoint-500/optimizer.pt", "checkpoint-600"):
        (tmp_path / path).write_text("theirs", encoding="utf-8")
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / "checkpoint-1-best")
    save_checkpoint(tmp_path, *a_run(2))
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("checkpoint-*")}
    assert found == {"checkpoint-1-best", "checkpoint-500", "checkpoint-600", "checkpoint-601"}
    assert (tmp_path / "checkpoint-500/optimizer.pt").exists() and load_checkpoint(tmp_path).state["step"] == 2


@pytest.mark.parametrize("name", FILES)
def test_a_missing_truncated_or_altered_file_is_named(tmp_path, name):
    save_checkpoint(tmp_path, *a_run(1))
    path = checkpoint_of(tmp_path) / name
    good = path.read_bytes()
    places = np.random.default_rng(0).integers(0, len(good), 10).tolist()
    bad = [good[:n] for n in (0, 1, len(good) // 2, len(good) - 1)] + [good + b" ", good + b"0"]
    bad += [good[:n] + bytes([good[n] ^ bit]) + good[n + 1 :] for n in places for bit in (1, 16, 128)]
    harmless = 0
    for content in bad:
        path.write_bytes(content)
        if name == STATE and is_the_same_json(content, good):
            assert number_of(tmp_path) == 1  # such as one space more
            harmless += 1
        else:
            refused(tmp_path, name)
    assert harmless < 10
    path.unlink()
    refused(tmp_path, "there is no checkpoint in" if name == STATE else f"{name} is missing")


def is_the_same_json(content, other):
    try:
        return json.loads(content) == json.loads(other)
    except ValueError:
        return False


def config(**changes):
    settings = {"model_type": "minigrad-gpt", **small_gpt(n_layer=1).config.to_dict(), **changes}
    return "config.json", lambda model: json.dumps(settings).encode()


def weights(name, change):
    return "model.safetensors", lambda model: save(
        {key: change(array) if key.endswith(name) else array for key, array in weights_of(model).items()}
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (*config(model_type="gpt2"), "config.json does not describe a minigrad-gpt"),
        (*config(n_heads=2), "checkpoint-1 cannot be loaded: unknown setting n_heads"),
        (*config(n_head=3), "checkpoint-1 cannot be loaded: "),
        (*config(n_layer=10**12), "has 872,000,000,000,408 numbers, but"),  # before memory is asked for
        (*config(vocab_size=38, block_size=11), r"has shape \(12, 8\), but the model has the shape \(11, 8\)"),
        (*weights("wpe.weight", lambda array: array.astype(np.int32)), "wpe.weight is int32, not float32"),
        (*weights("wpe.weight", lambda array: array * np.nan), "holds numbers that are not finite"),
        ("model.safetensors", lambda model: b"\xff" * 100, "model.safetensors"),
        (STATE, lambda model: b"[" * 100_000, "state.json is damaged"),
        (STATE, lambda model: b"[]", "expected a JSON object"),
        (STATE, lambda model: b"\xff\xfe", "state.json is not UTF-8 text"),
        (STATE, lambda model: b"{}", "state.json has format None, and this version of minigrad reads format 1"),
        (STATE, lambda model: b'{"format": 2}', "state.json has format 2, and"),
        (STATE, lambda model: b'{"format": 1, "files": {}}', "state.json was altered"),
    ],
)
def test_what_somebody_made_is_refused(tmp_path, name, content, words):
    """With the SHA-256 that the file then has."""
    model, *rest = a_run(1)
    save_checkpoint(tmp_path, model, *rest)
    checkpoint, made = checkpoint_of(tmp_path), content(model)
    record = read_json(checkpoint / STATE)
    (checkpoint / name).write_bytes(made)
    if name != STATE:
        record["files"][name] = hashlib.sha256(made).hexdigest()
        write_record(checkpoint / STATE, record)
    refused(tmp_path, words)
    shutil.rmtree(checkpoint)
    for place in (tmp_path, tmp_path / "nowhere"):
        assert not has_checkpoint(place)
        refused(place, "there is no checkpoint in")
