"""The golden folders of Hugging Face's models, for tests that change a copy and load it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpt import GPT, Llama
from tests.gpt.small import GOLDEN
from tests.helpers import peak_below, read_json, write_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


class GoldenFolder(NamedTuple):
    """A folder that transformers wrote, and what loads it."""

    path: Path
    prefix: str  # of most names of its tensors
    load: Callable

    def contents(self):
        """Its tensors, their names without the prefix, and its configuration."""
        tensors = load_file(self.path / WEIGHTS)
        tensors = {name.removeprefix(self.prefix): array for name, array in tensors.items()}
        return tensors, read_json(self.path / "config.json")

    def with_prefix(self, tensors, config):
        return {self.prefix + name: array for name, array in tensors.items()}, config

    def changed(self, folder, change):
        """A copy of it, after `change` of tensors and configuration."""
        tensors, config = self.contents()
        change(tensors, config)
        return write_model(folder, tensors, config)

    def refused(self, folder, error=ValueError):
        """The sentence with which a folder is refused, before memory for a model is asked for."""
        with peak_below(3_000_000), pytest.raises(error) as caught:
            self.load(folder)
        message = str(caught.value)
        assert str(folder) in message and message.isprintable()
        return message.replace(str(folder), "FOLDER")


GPT2_FOLDER = GoldenFolder(GOLDEN / "gpt2-folder", "transformer.", GPT.from_pretrained)
LLAMA_FOLDER = GoldenFolder(GOLDEN / "llama-folder", "model.", Llama.from_pretrained)


def of_both(gpt2, llama):
    """Rows for a table of both folders, each row with its folder before it."""
    return [(GPT2_FOLDER, *row) for row in gpt2] + [(LLAMA_FOLDER, *row) for row in llama]


def write_model(folder, tensors, config):
    folder.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / WEIGHTS)
    write_json(folder / "config.json", config)
    return folder


def write_shards(folder, tensors, config, parts=3):
    """The same, with the tensors spread over several files; returns the index of what is where."""
    write_model(folder, {}, config)
    (folder / WEIGHTS).unlink()
    files = [f"model-{part + 1:05}-of-{parts:05}.safetensors" for part in range(parts)]
    places = {name: files[i % parts] for i, name in enumerate(tensors)}
    for file in files:
        save_file({name: tensors[name] for name, place in places.items() if place == file}, folder / file)
    index = {"metadata": {"total_size": sum(array.nbytes for array in tensors.values())}, "weight_map": places}
    write_json(folder / INDEX, index)
    return index


def put(name, value):
    return lambda tensors, config: tensors.__setitem__(name, value)
