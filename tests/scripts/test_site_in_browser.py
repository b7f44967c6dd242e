"""The site in a headless Chromium with the real Pyodide: lessons and exercises, from a server on this machine."""

import os
import re
import threading
import zipfile
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from gpt import GPT, GPTConfig, Tokenizer
from minigrad import manual_seed
from scripts import site
from scripts.checker import catalogue
from scripts.checker.workspace import Workspace
from tests.scripts.looking import faults
from tests.scripts.test_pages_in_browser import DESKTOP, PHONE, chromium

_ = chromium  # a fixture
LONG = 240_000  # milliseconds: a busy machine takes its time
TRAINING = """
import numpy as np
from gpt import GPT, GPTConfig
from gpt.training.batches import RandomBatches
from scripts.lessons.small_gpt import train
from minigrad import manual_seed
manual_seed(0)
model = GPT(GPTConfig(vocab_size=8, n_layer=1, n_head=2, n_embd=16, block_size=8))
losses = train(model, np.arange(4000) % 8, 50, 1e-2)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A site with one lesson and all exercises; skipped without the pinned files."""
    assets = os.environ.get("MINIGRAD_SITE_ASSETS")
    if assets is None:
        pytest.skip("needs the pinned files: python -m tests.site_assets DIR, and MINIGRAD_SITE_ASSETS=DIR")
    out = tmp_path_factory.mktemp("site")
    manual_seed(0)
    tokenizer = Tokenizer.train(["one text for a model that knows nothing yet"], 257)
    model = GPT(GPTConfig(vocab_size=257, n_layer=2, n_head=2, n_embd=16, block_size=64))
    model.save_pretrained(out / "model", tokenizer)
    site.write_site(out, Path(assets), str(out / "model"), ["00"])
    return out


@pytest.fixture(scope="module")
def address(folder):
    """Where the site is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: site.Compressed(*given, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def context(chromium):
    """One browser for all tests, which keeps the files of the site after the first."""
    with chromium.new_context(viewport=DESKTOP) as made:
        made.set_default_timeout(LONG)
        yield made


@pytest.fixture
def tab(context, address):
    """A page; at the end no error, and no request but to the site."""
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else problems.append(r.url))
    yield page
    page.close()
    assert problems == []


def completed(name, old="", new=""):
    return catalogue.load(catalogue.paths()[name]).completed(old, new)


def check(tab, text):
    """What the checker says about a text."""
    tab.evaluate("text => code.set(text)", text)
    tab.locator("#said").evaluate("said => { said.textContent = ''; }")
    tab.get_by_role("button", name="Check").click()
    tab.wait_for_function("() => python.calls.size === 0 && document.querySelector('#said').textContent.length > 20")
    return tab.locator("#said").inner_text()


def test_right_and_wrong_answers_and_a_reload(tab, address):
    received = []
    tab.on("response", lambda response: received.append(response))
    tab.goto(f"{address}/exercises/tanh.html")
    assert "a TODO is still open" in check(tab, tab.evaluate("stub"))
    sizes = [int(response.headers.get("content-length", 0)) for response in received]
    print(f"{sum(sizes) / 1e6:.1f} MB compressed before the first check")
    assert sum(sizes) < 12e6
    said = check(tab, completed("tanh", "out**2", "out"))
    assert "the square is missing" in said and "The smallest case that fails" in said
    assert "right, in all" in check(tab, completed("tanh"))
    tab.get_by_role("button", name="The library's solution").click()
    tab.get_by_text("class Tanh(Function)").last.wait_for()
    tab.reload()
    assert tab.evaluate("code.get()") == completed("tanh")


def test_a_loop_that_never_ends_is_stopped_and_nothing_is_lost(tab, address):
    tab.goto(f"{address}/exercises/tanh.html")
    check(tab, completed("tanh"))
    tab.evaluate("text => code.set(text)", completed("tanh", "dx = ", "while True: pass\ndx = "))
    tab.get_by_role("button", name="Check").click()
    tab.wait_for_timeout(2000)
    tab.get_by_role("button", name="Stop").click()
    tab.get_by_text("is there a loop that never ends?").wait_for()
    assert "right, in all" in check(tab, completed("tanh"))


def test_a_lesson_runs_to_its_end(tab, address):
    tab.goto(f"{address}/lessons/00_gradients.html")
    tab.get_by_role("button", name="Run all").click()
    tab.wait_for_function("() => python.started && python.calls.size === 0 && !running")
    assert tab.locator(".error").all_inner_texts() == [] and tab.locator(".result pre.output").count() > 5


def test_results_below_a_changed_cell_are_marked_until_they_are_renewed(tab, address):
    tab.goto(f"{address}/lessons/00_gradients.html")
    tab.evaluate("localStorage.clear()")
    cells = tab.locator(".cell")
    cells.nth(1).get_by_role("button", name="Edit").click()
    assert tab.locator(".old").count() == 0
    tab.evaluate("() => cells[1].editor.set(`${cells[1].text}\\nprint(12345)`)")
    assert tab.locator(".old").count() == 1
    for place, marked in ((1, cells.count() - 2), (3, cells.count() - 4), (-1, 0)):
        cells.nth(place).get_by_role("button", name="Run").click()
        tab.wait_for_function("() => python.started && python.calls.size === 0 && !running")
        assert tab.locator(".old").count() == marked and tab.locator(".error").count() == 0
    assert tab.get_by_text("12345").count() > 0
    tab.evaluate("localStorage.clear()")


def test_work_leaves_as_a_folder_and_is_taken_up_again(tab, address, tmp_path):
    tab.goto(f"{address}/exercises/tanh.html")
    assert "right, in all" in check(tab, completed("tanh"))
    tab.get_by_text("Take your work with you").click()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download all").click()
    download.value.save_as(tmp_path / "work.zip")
    with zipfile.ZipFile(tmp_path / "work.zip") as archive:
        archive.extractall(tmp_path)
    assert Workspace(tmp_path / "my_exercises", catalogue.paths()).passed == ["tanh"]
    tab.evaluate("localStorage.clear()")
    tab.reload()
    tab.get_by_text("Take your work with you").click()
    tab.locator("#upload").set_input_files(tmp_path / "work.zip")
    tab.wait_for_function("text => code.get() === text", arg=completed("tanh"))


def test_opened_as_a_file_a_page_can_be_read_and_names_the_command(chromium, folder):
    with chromium.new_context() as context:
        tab = context.new_page()
        tab.goto((folder / "lessons" / "00_gradients.html").as_uri())
        assert "python scripts/site.py" in tab.locator("main").inner_text() and tab.locator("pre.output").count() > 5


def call(tab, text):
    """What a cell prints."""
    return tab.evaluate("""async (text) => {
      let printed = "";
      const said = (part) => { printed += part; };
      const { error } = await python.call("cells.run", { lesson: "00_gradients", text, cell: 1 }, { said });
      return printed + (error ?? "");
    }""", text)  # fmt: skip


def test_training_lowers_the_loss_and_gradients_are_those_of_the_cpu(tab, address):
    tab.goto(f"{address}/lessons/00_gradients.html")
    first, last = map(float, call(tab, f"{TRAINING}\nprint(losses[0], np.mean(losses[-5:]))").split())
    assert last < 0.5 * first
    gradient = f"""{TRAINING.replace("50, 1e-2", "1, 0.0")}
from gpt.training.training_step import language_model_loss
ids = np.arange(9)[None] % 8
language_model_loss(model, (ids[:, :-1], ids[:, 1:]))[0].backward()
grads = [p.grad for p in model.parameters()]"""
    names = {}
    exec(gradient, names)
    there = call(tab, f"{gradient}\nprint([grad.tolist() for grad in grads])")
    for mine, theirs in zip(names["grads"], eval(there), strict=True):
        np.testing.assert_allclose(np.array(theirs), mine, rtol=1e-5, atol=1e-6)


def test_without_webassembly_a_page_says_so_and_can_be_read(context, tab, address):
    tab.add_init_script("delete globalThis.WebAssembly")
    tab.goto(f"{address}/lessons/00_gradients.html")
    assert "cannot run Python" in tab.locator("main").inner_text() and tab.locator("pre.code").count() > 5


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP])
@pytest.mark.parametrize("place", ["exercises/softmax.html", "lessons/00_gradients.html"])
def test_pages_can_be_read(tab, address, viewport, place):
    tab.set_viewport_size(viewport)
    tab.goto(f"{address}/{place}")
    assert [fault for fault in faults(tab) if not re.search("ace_", fault)] == []


def test_the_explorer_answers_in_this_tab(tab, address):
    tab.goto(f"{address}/explore/index.html")
    tab.locator("#alternatives tr").nth(9).wait_for()
    tab.get_by_role("button", name="switch off head 0.1", exact=True).click()
    tab.locator("#off").get_by_text("head 0.1").wait_for()
    tab.wait_for_function("() => document.querySelector('main').classList.contains('changed')")
    assert tab.locator("#state").inner_text() == ""
