"""The golden folders of Hugging Face, taken apart, changed, and written again."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tests.gpt.small import GOLDEN

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SETTINGS = (  # what may stand in a config.json
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.lists(st.integers(), max_size=2) | st.sampled_from([2**31 - 1, 2**63, 10**20])
)  # fmt: skip


class GoldenFolder:
    """The folder of a `model` class, whose tensors have `prefix` before the names in the table."""

    def __init__(self, name, model, prefix):
        self.path, self.model, self.prefix = GOLDEN / name, model, prefix

    def stored(self):
        """The folder's tensors without the prefix, and its configuration."""
        tensors = {name.removeprefix(self.prefix): array for name, array in load_file(self.path / WEIGHTS).items()}
        return tensors, json.loads((self.path / "config.json").read_text(encoding="utf-8"))

    def changed(self, folder, change):
        """A copy of the folder, changed."""
        tensors, config = self.stored()
        change(tensors, config)
        return write(folder, tensors, config)

    def refused(self, folder, error=ValueError):
        """The sentence with which a folder is refused, before memory for a model is asked for."""
        tracemalloc.start()
        try:
            with pytest.raises(error) as caught:
                self.model.from_pretrained(folder)
            assert tracemalloc.get_traced_memory()[1] < 3_000_000
        finally:
            tracemalloc.stop()
        message = str(caught.value)
        assert str(folder) in message and message.isprintable()
        return message.replace(str(folder), "FOLDER")

    def load_or_refuse(self, folder):
        """The weights in a damaged folder, or None where it was refused by name; any other error is a failure."""
        tracemalloc.start()
        try:
            return self.model.from_pretrained(folder).state_dict()
        except (ValueError, FileNotFoundError) as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            return None
        finally:
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
            tracemalloc.stop()


def write(folder, tensors, config):
    folder.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_shards(folder, tensors, config, parts=3):
    """The tensors spread over several files, and an index, which is returned."""
    write(folder, {}, config)
    (folder / WEIGHTS).unlink()
    names = [f"model-{part + 1:05}-of-{parts:05}.safetensors" for part in range(parts)]
    places = {name: names[i % parts] for i, name in enumerate(tensors)}
    for file in names:
        save_file({name: tensors[name] for name, place in places.items() if place == file}, folder / file)
    index = {"metadata": {"total_size": sum(array.nbytes for array in tensors.values())}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return index


def put(name, value):
    """A change: this tensor is another one."""
    return lambda tensors, config: tensors.__setitem__(name, value)


def in_float64(tensors, config):
    return {name: array.astype(np.float64) for name, array in tensors.items()}, config
