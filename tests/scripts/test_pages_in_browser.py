"""Pages in a headless Chromium: no error, no request, keyboard, right numbers, phone, dark and paper."""

import itertools
import json
import re

import numpy as np
import pytest

from gpt.model.generation import Sampling
from scripts.course import widget_data
from scripts.course.lessons.cells import Cell, lessons, read_cells
from scripts.course.pictures import picture
from scripts.pages.lesson_page import Ran, write_page
from tests.scripts.javascript import need_browser
from tests.scripts.looking import PHONE, faults, opened, press
from tests.scripts.running import run_process
from tests.scripts.test_widgets import model_and_tokenizer

need_browser()
_ = model_and_tokenizer  # a fixture
QUESTION = "## A long heading about nothing\n\nPredict: what?\n\nAnswer: **this**.\n\n| a | b |\n|---|---|\n| 1 | 2 |"
QUESTION += "\n\n    loss = " + " + ".join(f"ln p_{i}" for i in range(20))


@pytest.fixture(scope="module")
def example(model_and_tokenizer, tmp_path_factory):
    """A page with all widgets, a picture, a question and long lines, and the data of the widgets."""
    model, tokenizer = model_and_tokenizer
    folder = tmp_path_factory.mktemp("pages")
    data = {
        "sampling": widget_data.sampling(model, tokenizer, "a small model", ["the cat", "on"]),
        "bpe": widget_data.bpe(tokenizer, "the cat sat"),
        "attention": {"sentences": [widget_data.sentence_of(model, tokenizer, "the cat sat", 0, h) for h in (0, 1)]},
        "gpt": widget_data.gpt(model, tokenizer, "a small model whose name is longer than a phone is wide", "the cat"),
        "kl": {"x": [-1, 0, 1], "teacher": [0.4, 0.2, 0.4], "least": {"forward": [0, 2], "reverse": [1, 0.8]}},
    }
    printed = []
    for name, values in data.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        printed.append(f"widget: {path.as_posix()} (on the page)")
    with picture(folder, "wide", "A picture", size=(15, 4)) as axes:
        axes.plot([1, 2])
    printed.append(f"picture: {folder.as_posix()}/wide.svg (A picture)")
    code = Cell("code", "x = " + " + ".join(["1"] * 90) + "\nassert x == 90", 1)
    ran = [Ran(Cell("prose", f"# A title\n\n{QUESTION}", 1)), Ran(code, "\n".join(printed), "y" * 300)]
    return write_page(lessons()[5], ran, ["softmax"], folder), data


@pytest.fixture
def tab(chromium, example):
    """The page of the example."""
    with opened(chromium, example[0]) as page:
        yield page


def test_temperature_by_keyboard(tab, example):
    _, data = example
    widget = tab.locator("[data-widget=sampling]")
    sliders = widget.locator("input[type=range]")
    sliders.nth(0).focus()
    press(tab, *["ArrowLeft"] * 8)  # 1.00 -> 0.60
    sliders.nth(1).focus()
    press(tab, "Home", *["ArrowRight"] * 9)  # 10
    sliders.nth(2).focus()
    press(tab, "End", "ArrowLeft", "ArrowLeft")  # 0.90
    assert [widget.locator("output").nth(i).inner_text() for i in range(3)] == ["0.60", "10", "0.90"]
    logits = np.array(data["sampling"]["prompts"][0]["logits"])
    probs = Sampling(0.6, 10, 0.9).probabilities(logits)
    shown = widget.locator("svg text:not(.token)").all_text_contents()
    assert shown[0] == f"{100 * probs.max():.1f} %"
    assert f"{(probs > 0).sum()} of {len(probs)} tokens" in widget.inner_text()
    widget.locator("button").focus()
    press(tab, "Enter")
    drawn = widget.locator(".drawn .token").all_inner_texts()
    texts = {data["sampling"]["tokens"][i].replace(" ", "·") for i in np.flatnonzero(probs)}
    assert len(drawn) == 20 and set(drawn) <= texts


def as_shown(piece):
    try:
        return piece.decode().replace(" ", "·").replace("\n", "↵")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02x}>" for byte in piece)


def test_bpe_of_typed_text(tab, model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    widget = tab.locator("[data-widget=bpe]")
    for text in ("the mat the cat", "sät 🙂 on\nthe mat"):
        widget.locator("textarea").fill(text)
        pieces = [tokenizer.decode_bytes([id]) for id in tokenizer.encode(text)]
        assert widget.locator(".tokens .token").all_inner_texts() == [as_shown(piece) for piece in pieces]
        assert f"{len(pieces)} tokens for {len(text)} characters" in widget.inner_text()
    widget.locator("input[type=range]").focus()
    press(tab, "Home")
    assert widget.locator(".tokens .token").count() == len(text.encode())
    widget.get_by_role("button", name="Next merge").focus()
    press(tab, "Enter")
    assert widget.locator(".tokens .new").count() >= 1


def test_attention_by_keyboard(tab, example):
    _, data = example
    widget = tab.locator("[data-widget=attention]")
    for projections, scale, mask in itertools.product([True, False], repeat=3):
        for box, wanted in zip(widget.locator("input[type=checkbox]").all(), (projections, scale, mask)):
            if box.is_checked() != wanted:
                box.focus()
                press(tab, "Space")
        options = {"projections": projections, "scale": scale, "mask": mask}
        weights = tab.evaluate("(c) => attentionWeights(...c)", [data["attention"]["sentences"][0], options])
        cells = widget.locator("tr:not(:first-child) td").all_inner_texts()
        assert np.allclose([float(cell or 0) for cell in cells], np.ravel(weights), atol=0.0051)
    widget.locator("tr button").nth(1).press("Enter")
    word = data["attention"]["sentences"][0]["words"][1].replace(" ", "·")
    assert widget.locator("tr button[aria-pressed=true]").inner_text() == word
    assert tab.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"


def test_a_bump_is_moved_by_keyboard_and_by_its_buttons(tab):
    widget = tab.locator("[data-widget=kl]")
    costs = widget.locator("svg text")
    widget.locator("input[type=range]").nth(1).focus()
    press(tab, "Home")
    narrow = float(costs.all_text_contents()[1])  # forward KL
    widget.get_by_role("button", name="Least forward KL").press("Enter")
    assert widget.locator("output").all_inner_texts() == ["0.0", "2.0"]
    assert 0 < float(costs.all_text_contents()[1]) < narrow


def test_the_walk_through_gpt_by_keyboard(tab, example):
    _, data = example
    steps = data["gpt"]["walk"]["steps"]
    widget = tab.locator("[data-widget=gpt]")
    panel = widget.locator(".panel")
    widget.locator("[data-box=ids]").focus()
    for i, step in enumerate(steps):
        shown = [float(text) for text in panel.locator(".values td").all_inner_texts()]
        assert np.allclose(shown, step["values"], atol=0.0051), step
        assert panel.inner_text().startswith(f"{i + 1} of {len(steps)}. ") and step["note"] in panel.inner_text()
        assert widget.locator(".box.chosen").get_attribute("data-box") == step["box"]
        press(tab, "ArrowDown")
    widget.locator("[data-box='attn.c_proj']").focus()
    press(tab, "Enter")
    assert "join heads" in panel.inner_text()
    widget.locator("select").select_option(label="gpt2")
    assert "124,439,808 parameters" in widget.inner_text()
    assert "block × 12" in widget.inner_text() and "(1,024, 50,257)" in widget.inner_text()
    widget.locator("select").select_option(label="gpt2-xl")
    assert "1,557,611,200 parameters" in widget.inner_text()


def test_the_step_of_gpt_stays_in_sight_on_a_page_of_its_own(chromium, example, viewport):
    path, data = example
    steps = data["gpt"]["walk"]["steps"]
    with opened(chromium, path.with_name("gpt.html"), viewport=viewport) as tab:
        panel = tab.locator(".panel strong")
        in_sight = "e => e.getBoundingClientRect().%s"
        for i, step in enumerate(steps):
            assert panel.inner_text().startswith(f"{i + 1} of {len(steps)}. ")
            assert panel.evaluate(in_sight % "top") >= 0 and panel.evaluate(in_sight % "bottom") <= viewport["height"]
            chosen = tab.locator(".box.chosen")
            assert i == 0 or 0 < chosen.evaluate(in_sight % "top") < viewport["height"] - 30
            heads = tab.locator(".patterns table")
            assert heads.count() == len(step.get("heads", []))
            for drawn, weights in zip(heads.all(), step.get("heads", [])):
                titles = drawn.locator("td").evaluate_all("cells => cells.map((cell) => cell.title)")
                shares = [int(re.search(r"(\d+) %$", title)[1]) for title in titles]
                assert np.allclose(np.array(shares), 100 * np.ravel(weights), atol=0.51)
            press(tab, "ArrowRight")
        tab.get_by_role("button", name="Back").press("Enter")
        press(tab, "ArrowLeft", "ArrowLeft")
        assert panel.inner_text().startswith(f"{len(steps) - 3} of ")
        tab.locator("select").focus()
        press(tab, "ArrowRight")
        assert panel.inner_text().startswith(f"{len(steps) - 3} of ")


def test_a_lesson_is_done_when_its_answers_were_opened(chromium, tmp_path):
    lesson, other = lessons()[:2]
    answers = sum(part.startswith("Answer:") for cell in read_cells(lesson) for part in cell.paragraphs())
    ran = [Ran(Cell("prose", QUESTION, 1))] * answers
    write_page(other, ran[:1], [], tmp_path)
    with opened(chromium, write_page(lesson, ran, [], tmp_path), beside=True) as tab:
        index = tab.context.new_page()
        index.goto((tmp_path / "index.html").as_uri())
        assert index.locator(".done").count() == 0 and "Start here" in index.inner_text(".next")
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")  # opens all, and nobody has read them
        for summary in tab.locator(".answer summary").all():
            assert tab.locator("footer .done").count() == 0
            summary.focus()
            press(tab, "Enter", "Enter")
        assert tab.locator("footer .done").count() == 1
        index.locator(".done").wait_for()  # the tab of the index hears of it
        assert index.locator(".done").all_inner_texts() == ["done"]
        assert "1 done. Continue with" in index.inner_text(".next")
        tab.locator("footer").get_by_text("All lessons").click()
        tab.wait_for_url("**/index.html")
        index.locator(".next a").first.click()
        index.wait_for_url(f"**/{other.stem}.html")


@pytest.mark.parametrize("name", ["", "index.html", "gpt.html"])
def test_nothing_is_wrong_with_a_page(chromium, example, name, look):
    path = example[0].with_name(name) if name else example[0]
    with opened(chromium, path, **look, has_touch=True) as tab:
        tab.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        assert faults(tab) == []
        colors = "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        ink, paper = (sum(map(int, re.findall(r"\d+", color)[:3])) for color in tab.evaluate(colors))
        assert (ink < 150 and paper > 700) if look["color_scheme"] == "light" else (ink > 600 and paper < 150)
        if not name:
            tab.locator("[data-box=ln_1]").tap()
            assert "layer norm" in tab.inner_text(".panel")


def test_code_scrolls_on_a_phone_and_no_name_is_broken(chromium, example):
    with opened(chromium, example[0], viewport=PHONE) as tab:
        assert tab.locator(".cell .code").first.evaluate("e => e.scrollWidth > e.clientWidth")
        rows = "e => e.offsetHeight / parseFloat(getComputedStyle(e).lineHeight)"
        assert tab.locator(".cell .line").first.evaluate(rows) < 1.1
        assert tab.locator(".output").last.evaluate("e => getComputedStyle(e, '::-webkit-scrollbar').height") == "6.4px"


def test_answers_are_hidden_and_a_printed_page_is_light(chromium, example):
    with opened(chromium, example[0], color_scheme="dark") as tab:
        assert not tab.get_by_text("this", exact=True).is_visible()
        assert len(tab.pdf()) > 10_000
        assert tab.locator("details.answer:not([open])").count() == 0
        assert tab.locator(".cell details[open]").count() == 1 == tab.locator(".cell details").count()
        tab.emulate_media(media="print", color_scheme="dark")
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not tab.locator("nav").first.is_visible()


@pytest.mark.slow
@pytest.mark.parametrize("lesson", [path.stem for path in lessons()])
def test_every_lesson_becomes_a_page_that_works(lesson, tmp_path, request):
    done = run_process("lesson", lesson, "--html", "--out-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    chromium = request.getfixturevalue("chromium")  # only now, so that a lesson is run without a browser as well
    with opened(chromium, tmp_path / f"{lesson}.html", viewport=PHONE) as tab:
        assert faults(tab) == []
        assert tab.locator("pre.code").count() > 3
        assert tab.locator("[data-widget]:not([data-started])").count() == 0
        for image in tab.locator("img").all():
            assert image.evaluate("image => image.complete && image.naturalWidth > 100 && image.alt !== ''")
