"""Files from strangers: pipes, devices and gigabytes of nothing in the place of a model's files are refused at once."""

import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

from finetune.adapters.adapter_files import load_adapter
from gpt.tokenizer.tokenizer import Tokenizer
from gpt.training.checkpoint import save_checkpoint
from gpt.training.loading import load_model
from gpt.weights.gguf_file import GGUFFile
from scripts.shared.verification import load_trace
from tests.gpt.small import GOLDEN, golden, small_gpt
from tests.helpers import peak_below

PEFT = Path(__file__).parents[1] / "finetune" / "golden" / "peft" / "attention"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices as files, as POSIX has them")


def fifo(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(20_000_000_000)  # takes no room on the disk


def folder(path):
    path.mkdir()


def loop(path):
    path.symlink_to(path)


def hugging_face(place):
    shutil.copytree(GOLDEN / "gpt2-folder", place)


def two_files(place):
    hugging_face(place)
    tokenizer = Tokenizer.load(place)
    (place / "tokenizer.json").unlink()
    tokenizer.save(place)
    (place / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    for name in ("special_tokens_map.json", "added_tokens.json"):
        (place / name).write_text("{}", encoding="utf-8")


def sharded(place):
    hugging_face(place)
    (place / "model.safetensors").rename(place / "model-1.safetensors")
    index = '{"weight_map": {"a": "model-1.safetensors"}}'
    (place / "model.safetensors.index.json").write_text(index, encoding="utf-8")


def run(place):
    save_checkpoint(place, small_gpt(vocab_size=300))
    Tokenizer.load(GOLDEN / "gpt2-folder").save(place)


# What makes a folder, what reads it, and which of its files is something else.
CASES = [
    (make, read, name)
    for make, read, names in [
        (hugging_face, load_model, "config.json model.safetensors tokenizer.json tokenizer_config.json"),
        (two_files, load_model, "vocab.json merges.txt special_tokens_map.json added_tokens.json chat_template.jinja"),
        (sharded, load_model, "model-1.safetensors model.safetensors.index.json"),
        (run, load_model, "checkpoint-1/config.json checkpoint-1/model.safetensors checkpoint-1/state.json vocab.json"),
        (
            lambda place: shutil.copytree(PEFT, place),
            lambda place: load_adapter(golden("gpt2")[0], place),
            "adapter_config.json adapter_model.safetensors",
        ),
        (Path.mkdir, lambda place: GGUFFile(place / "model.gguf"), "model.gguf"),
        (Path.mkdir, lambda place: load_trace(place / "trace.npz"), "trace.npz"),
    ]
    for name in names.split()
]


def within_seconds(function):
    """Return what `function` raises; fail if it has not ended after a while (its thread is given up)."""
    raised = []

    def call():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for ever"
    return raised[0] if raised else None


@pytest.mark.parametrize(
    ("make", "read", "name", "strange"),
    [(*case, strange) for strange in (fifo, sparse) for case in CASES]
    + [(*case, strange) for strange in (device, folder, loop) for case in CASES[::5]],
)
def test_what_is_no_file_of_a_sensible_size_is_refused(tmp_path, make, read, name, strange):
    place = tmp_path / "model"
    make(place)
    path = place / name
    path.unlink(missing_ok=True)
    strange(path)
    with peak_below(10_000_000):
        error = within_seconds(lambda: read(place))
    if strange is loop and error is None:  # as if it were not there
        return
    assert isinstance(error, (ValueError, OSError)), error
    assert "\n" not in str(error) and str(place) in str(error)
