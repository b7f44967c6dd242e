"""A model that several lessons train is trained once: the kept one is the same to the last bit, or it is not used."""

import numpy as np
import pytest

from minigrad import use_kernels
from scripts.course.lessons import small_gpt

TOKENS = np.arange(400) % 7


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """The numbers of steps of the trainings so far. The cache is a folder of the test."""
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "cache"))
    done = []
    train = small_gpt.train
    monkeypatch.setattr(small_gpt, "train", lambda *arguments: done.append(arguments[2]) or train(*arguments))
    return done


def trained(steps=2, tokens=TOKENS, **changes):
    model = small_gpt.new_gpt(7, **{"n_layer": 1, "n_embd": 8, "block_size": 4, **changes})
    losses = small_gpt.train_once(model, tokens, steps)
    assert not model.training
    return losses, {name: p.data.copy() for name, p in model.named_parameters()}


def test_the_second_call_trains_nothing_and_gives_the_same_bits(trainings, capsys, tmp_path):
    losses, weights = trained()
    assert capsys.readouterr().out == ""
    again, read = trained()
    assert trainings == [2] and again == losses and all(type(loss) is float for loss in again)
    assert {name: array.tobytes() for name, array in read.items()} == {n: a.tobytes() for n, a in weights.items()}
    out = capsys.readouterr().out
    assert str(tmp_path / "cache") in out and "delete that file to train again" in out and out.count("\n") == 1


def test_other_settings_data_weights_or_sources_are_trained(trainings, tmp_path, monkeypatch):
    for options in ({}, {"steps": 3}, {"tokens": TOKENS[:-1]}, {"seed": 1}, {"n_head": 2}):
        trained(**options)
    monkeypatch.setattr(small_gpt, "ROOT", tmp_path)
    source = tmp_path / "minigrad" / "nn" / "layers.py"
    source.parent.mkdir(parents=True)
    for text in ("x = 1", "x = 1", "x = 2"):
        source.write_text(text, encoding="utf-8")
        trained()
    assert trainings == [2, 3, 2, 2, 2, 2, 2]


def test_a_damaged_file_or_read_only_cache_is_no_error(trainings, tmp_path, monkeypatch):
    losses, _ = trained()
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", b"text", whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        file.write_bytes(damaged)
        assert trained()[0] == losses
        assert file.read_bytes() == whole
    assert len(trainings) == 5
    (tmp_path / "a file").touch()
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "a file"))
    assert trained()[0] == losses and len(trainings) == 6


def test_with_other_kernels_nothing_is_kept(trainings, tmp_path):
    with use_kernels("fast"):
        trained()
        trained()
    assert trainings == [2, 2] and not (tmp_path / "cache").exists()
