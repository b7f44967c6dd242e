"""One writer per folder: a second one is refused with the first one's name, and a lock never outlives its process."""

import contextlib
import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpt import files, load_checkpoint, save_checkpoint
from gpt.files import write_text
from gpt.training import folder_lock
from gpt.training.folder_lock import NAME, locked
from tests.gpt.small import small_gpt
from tests.scripts.running import held_elsewhere


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "PATIENCE", 2)
    model = small_gpt()
    save_checkpoint(tmp_path, model)
    with held_elsewhere(tmp_path) as holder:
        with pytest.raises(BlockingIOError) as caught, locked(tmp_path):
            pass
        words = f"{tmp_path} is being written by process {holder.pid} on "
        assert words in str(caught.value) and "since 20" in str(caught.value) and "\n" not in str(caught.value)
        assert load_checkpoint(tmp_path).model.config == model.config
    for _ in range(2):  # the other process was killed
        with locked(tmp_path):
            assert f"process {os.getpid()} on" in (tmp_path / NAME).read_text(encoding="utf-8")


def test_many_at_once_go_one_after_the_other(tmp_path):
    inside, most = [], []

    def work(_):
        while True:
            with contextlib.suppress(BlockingIOError), locked(tmp_path / "run"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == [1] * 8


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def unsupported(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock, "_lock", unsupported)
    with locked(tmp_path):
        pass
    assert "cannot be locked (No locks available): do not start a second run in it" in capsys.readouterr().out


def failing(number):
    def fail(path, *rest, **options):
        raise OSError(number, os.strerror(number), str(path))

    return fail


READ_ONLY = [(folder_lock, "open"), (files, "open"), (Path, "unlink")]


@pytest.mark.parametrize("write", [lambda at: locked(at).__enter__(), lambda at: write_text(at / "a", "")])
@pytest.mark.parametrize(("broken", "number"), [(READ_ONLY, errno.EROFS), ([(Path, "mkdir")], errno.ENOENT)])
def test_a_folder_that_cannot_be_written_is_named(write, broken, number, tmp_path, monkeypatch):
    for place, name in broken:  # in /proc, no folder can be made, as if there were none
        monkeypatch.setattr(place, name, failing(number), raising=False)
    with pytest.raises(OSError, match=rf"cannot be written \({os.strerror(number)}\): choose another") as caught:
        write(tmp_path)
    assert caught.value.filename == str(tmp_path)
    monkeypatch.undo()
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError, match="cannot be written"):
        write(tmp_path / "file")
