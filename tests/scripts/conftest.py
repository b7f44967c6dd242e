"""Models, data and finished runs that the tests of several scripts share; each is made when it is first asked for."""

import contextlib
import functools
import io
import json
import sys
from unittest import mock

import pytest

from minigrad.kernels.cpu import threads
from scripts import reward
from tests.finetune.small import small_chat_model
from tests.gpt.small import save_model
from tests.scripts.javascript import browser
from tests.scripts.looking import DESKTOP, PHONE
from tests.scripts.preference_files import write_model, write_pairs, write_questions
from tests.scripts.running import output_of, write_text
from tests.scripts.runs import run_on


@pytest.fixture(autouse=True, scope="module")
def one_thread(request):
    """Small runs take one thread, because those of two test workers would wait for each other for a core.

    test_train_script.py compares runs, bit for bit, with runs in processes of their own, which take all cores.
    """
    if request.module.__name__.endswith("test_train_script"):
        yield
        return
    with mock.patch.multiple(threads, _pool=None, pool_threads=[], _workers=1, usable_cores=lambda: 1):
        yield


@pytest.fixture(scope="module")
def chromium():
    """A headless browser."""
    with browser() as found:
        yield found


@pytest.fixture(params=[PHONE, DESKTOP])
def viewport(request):
    return request.param


@pytest.fixture(params=[("light", DESKTOP), ("dark", PHONE)])
def look(request):
    """The colors and the size of a screen, for `opened`: what one of them spoils, the other one does not save."""
    scheme, size = request.param
    return {"color_scheme": scheme, "viewport": size}


@pytest.fixture(scope="session")
def given(tmp_path_factory):
    """A folder with models and data for all scripts that train."""
    folder = tmp_path_factory.mktemp("given")
    save_model(folder / "base", *small_chat_model(block_size=96))
    save_model(folder / "wide", *small_chat_model(n_layer=2, n_embd=64, block_size=32))
    write_model(folder / "chat")
    write_pairs(folder / "pairs.jsonl", n=100)
    write_pairs(folder / "few-pairs.jsonl", n=30)
    write_questions(folder / "questions.jsonl")
    write_text(folder / "story.txt", words=1500)
    talks = [{"instruction": "the word?", "input": f"word {i}", "output": "a cat"} for i in range(10)]
    (folder / "alpaca.json").write_text(json.dumps(talks, indent=1), encoding="utf-8")
    pets = "".join(f"{'the cat sat' if i % 2 else 'a dog ran'} {i}\t{'cat' if i % 2 else 'dog'}\n" for i in range(40))
    (folder / "pets.tsv").write_text("text\tlabel\n" + pets, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def reward_run(given):
    """The folder of a reward model that tells the pairs apart, and what its training printed."""
    options = ["--init-from", given / "chat", "--data", given / "pairs.jsonl", "--out-dir", given / "reward"]
    few = ["--batch-size", "4", "--max-iters", "20", "--eval-interval", "10", "--log-interval", "5"]
    return given / "reward", output_of(reward.main, *options, *few, "--learning-rate", "1e-2")


@pytest.fixture(scope="session")
def finished(given, reward_run):
    """Gives, for a name in RUNS, the folder of that run on the CPU and what it printed."""

    @functools.cache
    def run(name):
        folder = given / "runs" / name
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
            patch.setitem(sys.modules, "matplotlib.figure", None)  # drawing takes longer than a small run
            assert run_on("cpu", name, given, folder) == 0
        return folder, output.getvalue()

    return run
