"""SmolLM2-135M-Instruct for the site: packed when the site is written, read in the browser.

Its GGUF file, of 4 bits a number, comes in a package. The library that reads such files is not in the browser, so its
work is done before: the zip has the file's settings and vocabulary as JSON, and each tensor's bytes, unchanged, as a
NumPy array. In the browser, these become a `GGUFFile` like any other.
"""

import functools
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from gpt import LanguageModel, Tokenizer
from gpt.files import StrPath, atomic_write, read_json, sha256_of
from gpt.training.loading import load_model
from gpt.weights import hub, pretrained
from gpt.weights.gguf_file import GGUFFile, GGUFTensor

NAME = "smollm2"
HEADER = "header.json"
CONTEXT = 1024  # tokens. The model reads 8,192, but keys and values of so many would take 377 MB


def pack(path: Path) -> dict[str, Any]:
    """Write the zip. Returns its size and SHA-256. Raises what `GGUFFile` raises, and FileNotFoundError without it."""
    file = GGUFFile(hub.find(NAME))
    settings = {**file.metadata, "llama.context_length": CONTEXT}
    del settings["tokenizer.chat_template"]  # it needs jinja2; the template is ChatML
    tensors = {name: (tensor.shape, tensor.kind) for name, tensor in file.tensors.items()}
    with atomic_write(path) as written, zipfile.ZipFile(written, "w") as archive:
        header = json.dumps({"settings": settings, "tensors": tensors})
        archive.writestr(zipfile.ZipInfo(HEADER), header, zipfile.ZIP_DEFLATED)  # without a date: always the same bytes
        for name, tensor in file.tensors.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, tensor.raw[:])
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


class UnpackedFile(GGUFFile):
    """The GGUF file that `pack` took apart, from the folder with its parts, which are deleted as they are read."""

    def __init__(self, folder: Path):
        header = read_json(folder / HEADER)
        self.path = folder
        self.metadata = header["settings"]
        self.tensors = {}
        for name, (shape, kind) in header["tensors"].items():
            path = folder / f"{name}.npy"
            self.tensors[name] = GGUFTensor(name, tuple(shape), kind, np.load(path))
            path.unlink()  # in a browser, files are in memory


@functools.cache
def load(folder: StrPath) -> tuple[LanguageModel, Tokenizer]:
    """The model and the tokenizer of a folder that `pack` has written, or of any other that `load_model` reads."""
    if not (Path(folder) / HEADER).exists():
        return load_model(folder)
    try:
        file = UnpackedFile(Path(folder))
        return pretrained.load(file, LanguageModel).eval(), Tokenizer.from_gguf(file.metadata, str(folder))
    except BaseException:  # too little memory, or Stop
        shutil.rmtree(folder)  # what has been read of it is gone
        raise
