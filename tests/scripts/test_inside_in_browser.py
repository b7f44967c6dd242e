"""The page of a recorded step and the explorer in a headless Chromium: keys, clicks, and the numbers that they show."""

import contextlib
import re
import threading

import numpy as np
import pytest

from scripts import explain
from scripts.explore import explorer_page
from scripts.pages.explain_data import explain_data, inside_attention
from scripts.pages.explore_data import Looker
from scripts.pages.local_server import LocalServer
from scripts.shared.web_page import page_of_data
from tests.finetune.small import small_chat_model
from tests.helpers import serving
from tests.scripts.javascript import need_browser
from tests.scripts.looking import PHONE, click, faults, opened, press

need_browser()


def number(text):
    return float(text.replace("\u2212", "-"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    recording, ids = explain.take_step(explain.tiny_gpt(), "pretraining", [[3, 1, 4, 1]], 0.1)
    path = tmp_path_factory.mktemp("inside") / "step.html"
    data = explain_data(recording, "One step", ids, list("01234567"))
    path.write_text(page_of_data("explain.html explain.js", "One step", data), encoding="utf-8")
    return path, recording


@pytest.fixture
def recording(recorded):
    return recorded[1]


@pytest.fixture
def tab(chromium, recorded):
    """The page of the recorded step."""
    with opened(chromium, recorded[0]) as page:
        yield page


def grids(tab):
    tables = tab.locator("#card figure").all()
    return [[number(text or "-inf") for text in table.locator("td").all_inner_texts()] for table in tables]


def close(shown, array):
    return np.allclose(shown, np.asarray(array, np.float64).reshape(-1), rtol=0.006, atol=1e-12)


def cards_of(recording):
    """Of each card a part of its heading and the values: forward, backward, and Adam's updates."""
    inside = {call: [half.values() for half in inside_attention(call, recording)] for call in recording.calls}
    yield from (("", (*call.inputs, *inside[call][0], *call.outputs)) for call in recording.calls)
    back = sorted(recording.calls, key=lambda call: call.order)
    yield from ((": backward", (*call.douts, *inside[call][1], *call.dinputs)) for call in back)
    for u in recording.updates:
        heading = f"AdamW {u.name.removeprefix('transformer.')}: update"
        yield heading, (u.before, u.gradient, u.clipped, u.state["exp_avg"], u.state["exp_avg_sq"], u.after)


def call_of(recording, op):
    return next(call for call in recording.calls if call.function.__name__ == op)


def test_each_card_shows_the_numbers_of_the_run(tab, recording):
    for heading, values in cards_of(recording):
        assert heading in tab.inner_text("#card h2")
        for shown, value in zip(grids(tab), [value for value in values if value is not None], strict=True):
            masked = np.isinf(shown)  # an empty cell: what a mask hides, or its weight or gradient
            wanted = np.where(masked, 0, np.asarray(value.array, np.float64).reshape(-1))
            assert masked.sum() in (0, 6) and close(np.where(masked, 0, shown), wanted), heading
        press(tab, "ArrowRight")
    press(tab, "Home")
    assert tab.inner_text("#card h2").startswith("1 of ")


def answer_of(tab, figure, place):
    tab.locator("#card figure").nth(figure).locator("td").nth(place).click()
    return tab.inner_text("#answer")


def test_a_click_shows_the_derivatives_and_a_sum_that_adds_up(tab, recording):
    call = call_of(recording, "Linear")
    tab.locator("#timeline button").nth(call.number).click()
    text = answer_of(tab, 3, 5)  # out[0,0,5]
    total, terms = re.search(r"out\[0,0,5\] = (\S+) = (.*)$", text, re.MULTILINE).groups()
    products = re.findall(r"(\S+) (?:× (\S+) )?\(", terms)
    assert np.isclose(sum(number(a) * number(b or "1") for a, b in products), number(total), rtol=0.02)
    assert tab.locator("#card figure").nth(1).locator("td.lit").count() == np.count_nonzero(call.jacobian[1][5])
    # back: the shares of a gradient, exact
    press(tab, "End")
    tab.locator("#timeline button", has_text="c_attn").nth(1).click()
    text = answer_of(tab, 1, 0)
    total, terms = re.search(r"dx\[0,0,0\] = (\S+) = (.*)$", text, re.MULTILINE).groups()
    shares = re.findall(r"(?:^|\+ )(\S+) \((?:\S+) (?:from|more)", terms)
    assert len(shares) >= 6 and np.isclose(sum(map(number, shares)), number(total), rtol=0.05)


def test_a_tied_weight_adds_up_its_uses_and_says_what_adam_did(tab, recording):
    update = next(update for update in recording.updates if update.name == "transformer.wte.weight")
    tab.locator("#timeline button", has_text="AdamW wte").click()
    for place, text in ((0, tab.inner_text("#answer")), (5, answer_of(tab, 0, 5))):
        assert "(Linear, step" in text and "(Embedding, step" in text
        lines = dict(re.findall(r"^(\S+)\t(.*)$", text, re.MULTILINE))
        assert list(lines) == ["gradient", "clipped", "decayed", "m", "v", "m\u0302", "v\u0302", "step", "after"]
        for name, line in lines.items():  # formula = the same with numbers = result: the numbers add up
            *_, numbers, result = line.replace("\u2212", "-").split(" = ")
            numbers = re.sub(r" \([A-Z]\w+, step \d+\)", "", numbers).replace("²", "**2").replace("^", "**")
            computed = eval(numbers.replace("×", "*"), {"min": min})
            assert np.isclose(computed, float(result), rtol=0.003), (name, line)
        for name, value in {"gradient": update.gradient, "clipped": update.clipped, "after": update.after}.items():
            assert close([number(lines[name].split(" = ")[-1])], value.array.reshape(-1)[place]), name


def test_numbers_inside_attention_say_where_they_come_from(tab, recording):
    call = call_of(recording, "ScaledDotProductAttention")
    click(tab, "the attention weights")
    assert tab.locator("#inside").bounding_box()["y"] < 200  # they are in sight
    head = tab.locator("#card figure").nth(4).locator("table").nth(1)  # the weights of head 1
    assert head.locator("caption").inner_text() == "head 1"
    assert head.locator("th").all_inner_texts() == ["key →\nquery ↓", "3", "1", "4", "3", "1", "4"]
    assert head.locator("td.masked").count() == 3 and tab.locator(".legend .masked").count() == 1
    for figure, (name, array) in ((3, ("scores", 0)), (4, ("probs", 1))):
        wanted = list(inside_attention(call, recording)[0].values())[array].array[0, 1, 2, 1]
        text = answer_of(tab, figure, 9 + 7).replace("\u2212", "-")  # head 1, query 2, key 1
        assert text.startswith(f"{name}[0,1,2,1] = ")
        result, numbers = re.match(r"\S+ = (\S+) = ([^:]*):", text).groups()
        computed = eval(re.sub(r"e\^(\S+?)(?=[ )]|$)", r"exp(\1)", numbers.replace("×", "*")), {"exp": np.exp})
        assert close([float(result)], wanted) and np.isclose(computed, wanted, rtol=0.02)
    assert tab.locator("#card td.lit").count() == 3  # the scores of query 2
    assert "hides" in answer_of(tab, 4, 1)


def test_the_arrow_keys_go_on_stepping_after_a_click_anywhere(tab):
    places = ["#card td >> nth=1", "#card th >> nth=1", "#card summary >> nth=0", "#card pre >> nth=0", "#next", "h1"]
    places += ["#card figcaption button >> nth=0", "#first button >> nth=0", "#timeline button >> nth=3"]
    places += ["#minimap g >> nth=4"]
    step = lambda: int(tab.inner_text("#card h2").split(" of ")[0])  # noqa: E731
    for place in places:
        tab.locator(place).click()
        before = step()
        press(tab, "ArrowRight", "ArrowRight", "ArrowLeft")
        assert step() == before + 1, place
    press(tab, "Home")
    cells = tab.locator("#card td")
    # with the keyboard alone they move from number to number
    cells.first.focus()
    press(tab, "ArrowRight", "Enter", "ArrowRight", "Enter")
    assert tab.inner_text("#card h2").startswith("1 of ")
    assert "chosen" in cells.nth(2).get_attribute("class")


def test_search_minimap_and_play(tab, recording):
    press(tab, "/")
    tab.keyboard.type("attn.c_proj backward")
    shown = tab.locator("#timeline button:visible").all_inner_texts()
    assert len(shown) == 1 and "c_proj" in shown[0]
    press(tab, "Enter")
    assert "attn.c_proj: backward" in tab.inner_text("#card h2")
    press(tab, "ArrowRight")
    assert "MergeHeads: backward" in tab.inner_text("#card h2")
    assert tab.locator("#minimap rect").count() == len(recording.calls) + len(recording.updates)
    assert tab.locator("#minimap g[data-key='4'] text").text_content() == "Linear h.0.attn.c_attn"
    tab.click("#minimap g[data-key='0']")
    assert "Embedding" in tab.inner_text("#card h2")
    press(tab, "Home")
    click(tab, "Play")
    tab.locator("#card h2", has_text="LayerNorm").wait_for(timeout=60_000)
    click(tab, "Pause")
    assert tab.locator("#card math").count() > 0
    assert "def forward" in tab.locator("#card pre.code").first.inner_text()


def test_every_card_fits_its_screen_and_can_be_read(chromium, recorded, look):
    path, recording = recorded
    with opened(chromium, path, **look, has_touch=True) as tab:
        assert "Loss: 2.0770" in tab.inner_text("#facts")
        for _ in range(2 * len(recording.calls) + 1):
            assert faults(tab) == []
            tab.locator("#next").tap()
        tab.locator("#card td").nth(-1).tap()
        assert "decayed − step" in tab.inner_text("#answer")
        assert len(tab.pdf()) > 10_000


def test_every_control_can_be_reached_and_used_by_keyboard(chromium, recorded):
    with opened(chromium, recorded[0]) as tab:
        controls = "button:not(#timeline button), summary, input, #minimap g, #timeline [aria-pressed=true]"
        wanted = tab.locator(controls).count()
        reached = 0
        for _ in range(3 * wanted):  # grids, which Tab enters once, are on the way as well
            press(tab, "Tab")
            reached += tab.evaluate("controls => document.activeElement.matches(controls)", controls)
            if tab.evaluate("document.activeElement === document.querySelector('#minimap g:last-child')"):
                break
        assert reached == wanted
        press(tab, "Enter")
        assert "CrossEntropy" in tab.inner_text("#card h2")
        tab.locator("#timeline [aria-pressed=true]").focus()
        press(tab, "ArrowLeft", "ArrowLeft")
        assert tab.evaluate("document.activeElement.textContent").startswith("17 ")


# The explorer.


@pytest.fixture(scope="module")
def explorer():
    """A running server with a small model, and the model."""
    looker = Looker(*small_chat_model(n_layer=2, n_embd=32, block_size=32))
    with serving(LocalServer(explorer_page("a small model", "the cat sat"), looker.look)) as server:
        yield server, looker


def asked(tab, action):
    """Do something on the page and wait for the answer that it asks for."""
    with tab.expect_response("**/look"):
        action()
    tab.wait_for_selector("main[aria-busy=false]", state="attached")


def test_the_colors_of_surprise_are_what_the_page_says(chromium, explorer, look):
    def answer(question):
        found = explorer[1].look(question)
        return {**found, "surprise": [None, *range(1, len(found["tokens"]))]}

    server = LocalServer(explorer_page("a small model", "the cat sat"), answer)
    with serving(server), opened(chromium, server.address, **look) as tab:
        tab.locator("#tokens button").first.wait_for()
        assert "The bluer a token, the less the model expected it" in tab.inner_text("main")
        color = "places => places.map((place) => getComputedStyle(place).backgroundColor)"
        shades = tab.locator("#tokens button").evaluate_all(color)[1:]
    red, _, blue, alpha = np.array([re.findall(r"[\d.]+", shade) for shade in shades], float).T
    assert len(shades) > 3 and (blue > red).all() and (np.diff(alpha) > 0).all()


def test_the_explorer_branches_switches_off_and_changes(chromium, explorer):
    server, looker = explorer
    with opened(chromium, server.address, viewport=PHONE) as tab:
        tab.locator("#tokens button").first.wait_for()
        text = "the cat sat on a mat"
        asked(tab, lambda: (tab.fill("#text", text), click(tab, "Read it")))
        asked(tab, lambda: tab.locator("#tokens button").nth(2).click())
        wanted = looker.look({"text": text, "position": 2})
        assert tab.locator("#tokens button").count() == len(wanted["tokens"])
        numbers = tab.locator("#alternatives td:nth-child(3)")
        assert numbers.all_inner_texts() == [f"{100 * a['p']:.1f}\u00a0%" for a in wanted["alternatives"]]
        # a head and an MLP off: the distribution changes, and the page says what is off
        asked(tab, lambda: switch(tab, "off head 1.1").click())
        asked(tab, lambda: switch(tab, "off MLP 0").click())
        off = looker.look({"text": text, "position": 2, "heads": [[1, 1]], "mlps": [0]})
        assert numbers.all_inner_texts() == [f"{100 * a['p']:.1f}\u00a0%" for a in off["alternatives"]]
        before = tab.locator("#alternatives td:nth-child(4)").first.inner_text()
        assert before == f"{100 * off['alternatives'][0]['before']:.1f}\u00a0%"
        assert f"changed by {off['change'][2]:.3f} nats" in tab.inner_text("#told")
        assert tab.locator("#off button").all_inner_texts() == ["head 1.1 ×", "MLP 0 ×", "All on"]
        asked(tab, lambda: switch(tab, "MLP 0 on").click())
        assert tab.locator("#off button").all_inner_texts() == ["head 1.1 ×", "All on"]
        off = looker.look({"text": text, "position": 2, "heads": [[1, 1]]})
        # another continuation
        first = off["alternatives"][0]
        asked(tab, lambda: tab.locator("#alternatives button").first.click())
        assert tab.locator("#tokens button").count() == 4
        assert tab.input_value("#text") == looker.tokenizer.decode([*wanted["ids"][:3], first["id"]])
        # a number changed
        asked(tab, lambda: click(tab, "All on"))
        assert "Everything is on" in tab.locator("#off").text_content()
        tab.get_by_text("Change a number").click()
        asked(tab, lambda: click(tab, "Change it"))
        assert "changed by" in tab.inner_text("#told") and tab.inner_text("#number") == "10.0000"


def switch(tab, name):
    return tab.get_by_role("button", name=f"switch {name}", exact=True)


def test_thumbnails_choose_a_head_and_the_map_shows_its_weights(chromium, explorer):
    server, looker = explorer
    wanted = looker.look({"text": "the cat sat", "layer": 1})
    with opened(chromium, server.address) as tab:
        asked(tab, lambda: click(tab, "layer 1", exact=True))
        click(tab, "head 1.1", exact=True)
        titles = [cell.get_attribute("title") for cell in tab.locator("#map td").all()]
        shown = [float(re.search(r"([\d.]+)\s%$", title)[1]) / 100 for title in titles]
        weights = np.array(wanted["attention"][1])
        assert np.allclose(shown, weights[np.tril_indices(len(weights))], atol=1e-3)
        best = max(range(len(weights)), key=lambda i: weights[-1, i])
        assert f"looks most at {wanted['tokens'][best].replace(' ', '·')} (" in tab.inner_text("#most")
        # a thumbnail's opacity is the square root of the weights
        pixels = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 3)"
        alphas = tab.locator("#heads canvas").nth(1).evaluate(pixels)
        assert np.allclose(np.array(alphas).reshape(weights.shape) / 255, weights**0.5, atol=0.01)


def test_a_reload_keeps_the_text_and_the_choices(chromium, explorer):
    with opened(chromium, explorer[0].address) as tab:
        asked(tab, lambda: (tab.fill("#text", "a mat on the cat"), press(tab, "Control+Enter")))
        asked(tab, lambda: tab.locator("#tokens button").nth(1).click())
        asked(tab, lambda: switch(tab, "off head 1.1").click())
        asked(tab, tab.reload)
        assert tab.input_value("#text") == "a mat on the cat"
        assert tab.locator("#tokens button").nth(1).get_attribute("aria-pressed") == "true"
        assert tab.locator("#off button").all_inner_texts() == ["head 1.1 ×", "All on"]
        assert tab.inner_text("#head") == "Head 1.1 (off)"


def test_nothing_is_empty_or_looks_new_while_it_computes(chromium, explorer):
    gate = threading.Semaphore(0)
    looker = explorer[1]
    questions = []

    def answer(question):
        questions.append(question)
        assert gate.acquire(timeout=60)
        return looker.look(question)

    server = LocalServer(explorer_page("a small model", "the cat sat"), answer)
    with serving(server), opened(chromium, server.address) as tab:
        assert "is reading the text" in tab.inner_text("#state")
        assert not tab.locator("main").is_visible()
        gate.release()
        tab.locator("#tokens button").first.wait_for()
        assert tab.inner_text("#state") == ""
        # three clicks while the model computes: two questions, and the last one has all three changes
        for head in ("0.1", "1.1", "1.0"):
            switch(tab, f"off head {head}").click()
        assert tab.locator("main").get_attribute("aria-busy") == "true"
        assert tab.locator("#off button").all_inner_texts() == ["head 0.1 ×", "head 1.1 ×", "head 1.0 ×", "All on"]
        gate.release(2)
        tab.locator("main[aria-busy=false]").wait_for()
        assert len(questions) == 3 and questions[-1]["heads"] == [[0, 1], [1, 1], [1, 0]]
        # tokens of the text before are not asked about any more, and what is being typed stays
        tab.fill("#text", "a mat")
        click(tab, "Read it")
        tab.locator("#tokens button").first.click()
        tab.fill("#text", "half a sen")
        gate.release()
        tab.locator("main[aria-busy=false]").wait_for()
        assert len(questions) == 4 and tab.input_value("#text") == "half a sen"
        assert tab.locator("#tokens button").first.inner_text() == "a"
        # what cannot be answered: a sentence, and the numbers are marked as old until the next answer
        gate.release(9)
        asked(tab, lambda: (tab.fill("#text", "the " * 60), click(tab, "Read it")))
        assert "the model reads 1 to 32" in tab.inner_text("#state")
        assert tab.locator("main.old").is_visible()
        asked(tab, lambda: tab.locator("#tokens button").first.click())
        assert tab.inner_text("#state") == "" and tab.locator("main.old").count() == 0


def test_a_server_that_is_gone_is_said(chromium, explorer):
    context = chromium.new_context()
    with contextlib.closing(context):
        tab = context.new_page()
        with serving(LocalServer(explorer_page("a small model", "the cat sat"), explorer[1].look)) as server:
            tab.goto(server.address)
            tab.locator("#tokens button").first.wait_for()
        context.set_offline(True)
        tab.locator("#tokens button").first.click()
        tab.get_by_text("The server does not answer").wait_for()
        assert tab.locator("main.old").is_visible()


def test_the_explorer_can_be_read_and_reached_by_everybody(chromium, look):
    looker = Looker(*small_chat_model(n_layer=9, n_embd=32, block_size=32))

    def answer(question):
        found = looker.look(question)
        found["surprise"] = [None, *[99.0] * (len(found["tokens"]) - 1)]  # the strongest shades
        for of_layer in found["lens"]:
            of_layer[0]["p"] = 1.0
        return found

    server = LocalServer(explorer_page("a small model", "the cat sat on the mat"), answer)
    with serving(server), opened(chromium, server.address, **look) as tab:
        tab.locator("#tokens button").first.wait_for()
        asked(tab, lambda: switch(tab, "off head 1.1").click())
        # not wait_for_function: asked again, it evaluates a string, which the page's own policy forbids
        tab.evaluate("Promise.allSettled(document.getAnimations().map(animation => animation.finished))")
        assert faults(tab) == []
        assert all(heading.inner_text() for heading in tab.locator("h1, h2, h3, h4").all())
        # the predictions stay in sight beside the last switch and the map
        for place in ("#layers tbody tr:last-child", "#map"):
            tab.locator(place).evaluate("place => place.scrollIntoView({ block: 'end' })")
            assert tab.locator("#alternatives tr").first.evaluate(IN_SIGHT)
        # every control has the focus once, and a key does what a click does
        controls = tab.locator("button, textarea, summary").count()
        tab.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        tab.locator("#text").focus()
        reached = set()
        for _ in range(controls):
            reached.add(tab.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
            press(tab, "Tab")
        assert len(reached) == controls
        switch(tab, "off MLP 1").focus()
        asked(tab, lambda: press(tab, "Space"))
        assert switch(tab, "off MLP 1").evaluate("place => place === document.activeElement")
        assert switch(tab, "off MLP 1").get_attribute("aria-pressed") == "true"


IN_SIGHT = "place => { const box = place.getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight; }"
