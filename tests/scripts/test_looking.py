"""Reports as people see them: dark on a phone, light on a desk."""

import numpy as np

from scripts.course.checker import catalogue, marking, my_gpt
from scripts.course.checker.checks import Verdict
from scripts.pages import marked_text
from scripts.pages.marked_text import MarkedToken
from tests.scripts.javascript import need_browser
from tests.scripts.looking import PHONE, faults, opened

need_browser()


def reports():
    tokens = [MarkedToken("word ", level, f"note {level}") for level in range(5)]
    yield marked_text.html(tokens * 20, "How surprising?", ["", "some", "", "more", "most"], [("loss", "3.2 " * 20)])
    exercises = [catalogue.load(path) for path in catalogue.paths().values()]
    names = [each.name for each in exercises]
    losses = (5 / np.arange(1, 50)).tolist()
    yield my_gpt.html(exercises, names[:9], names[4:7], losses, losses, "text " * 40)
    wrong = Verdict("wrong", "backward", "a" * 90, "x = " + "1, " * 90, line=3, code="x = 1")
    yield marking.page("ada", {"softplus": wrong, "soft_cap": Verdict("passed")}, {"softplus": 1, "soft_cap": 2})


def test_reports_can_be_read(chromium, tmp_path, look):
    for number, html in enumerate(reports()):
        path = tmp_path / f"{number}.html"
        path.write_text(html, encoding="utf-8")
        with opened(chromium, path, **look) as tab:
            assert faults(tab) == []


def test_a_note_is_shown_at_a_tap_and_by_keyboard(chromium, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(next(reports()), encoding="utf-8")
    with opened(chromium, path, viewport=PHONE, has_touch=True) as tab:
        tab.locator(".marked .l3").first.tap()
        assert tab.locator("#note").inner_text() == "note 3"
        tab.keyboard.press("Tab")
        assert tab.locator("#note").inner_text() == "note 4"
