"""A text whose tokens are marked: everything is text, colors end where they should, and levels show without color."""

import html
import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt.console import printable
from scripts.pages import marked_text
from scripts.pages.marked_text import LEVELS, MarkedToken, to_terminal

LEGEND = ["none", "some", "", "much", "all"]
TAGS = {"html", "head", "meta", "title", "link", "style", "body", "h1", "table", "tr", "th", "td", "p", "pre", "div"}
TAGS |= {"span", "script"}


class Page(HTMLParser):
    """A page as a browser reads it: the tags, and the text and the notes in <pre>."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags = []
        self.text = ""
        self.notes = []
        self._inside = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._inside = self._inside or tag == "pre"
        if tag == "span" and self._inside:
            self.notes.append(dict(attributes)["data-note"])

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "pre"

    def handle_data(self, data):
        self.text += data if self._inside else ""


@given(st.lists(st.tuples(st.text(), st.integers(0, LEVELS - 1), st.text()), max_size=5), st.text())
@example([("</pre><script>alert(1)</script>", 2, '"><b onclick="x">')], "</title><script>")
@example([("a\nb\x1b[2J", 0, "")], "\udc80")
@example([], "\x1b")
def test_a_page_shows_everything_as_text(parts, title):
    page = marked_text.html([MarkedToken(*part) for part in parts], title, LEGEND, [("na<me", "va&lue"), (title, 1)])
    seen = Page(page)
    marked = [part for part in parts if part[1] or part[2]]
    assert seen.tags.count("span") == len([text for text in LEGEND if text]) + len(marked)
    assert set(seen.tags) <= TAGS and seen.tags.count("script") == 1
    shown = "".join(
        printable(text).replace("\n", "\u21b5\n") if level or note else printable(text) for text, level, note in parts
    )
    assert seen.text.removeprefix("\n") == html.unescape(html.escape(shown)) or "\r" in page
    assert seen.notes == [printable(note) for _, _, note in marked]
    assert "na&lt;me" in page and "va&amp;lue" in page and "\x1b" not in page


@given(st.lists(st.tuples(st.text(), st.integers(0, LEVELS - 1)), max_size=5))
def test_colors_end_where_they_should(parts):
    text = to_terminal([MarkedToken(*part) for part in parts], color=True)
    plain = re.sub("\x1b\\[[0-9;]*m", "", text)
    assert plain == "".join(printable(part[0]) for part in parts) and "\x1b" not in plain
    for line in text.split("\n"):
        codes = re.findall("\x1b\\[[0-9;]*m", line)
        assert all(code != "\x1b[0m" for code in codes[::2]) and all(code == "\x1b[0m" for code in codes[1::2])
        assert len(codes) % 2 == 0


def test_levels_differ_in_the_terminal_with_and_without_colors():
    for color, different in ((True, 5), (False, 3)):
        assert len({to_terminal([MarkedToken("x", level)], color) for level in range(LEVELS)}) == different


def test_colors_are_for_terminals_that_want_them(monkeypatch):
    tokens = [MarkedToken("x", 4)]
    assert to_terminal(tokens) == "[[x]]"  # standard output is no terminal here
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in to_terminal(tokens)
    monkeypatch.setenv("NO_COLOR", "1")
    assert to_terminal(tokens) == "[[x]]"


@pytest.mark.parametrize("level", range(1, LEVELS))
def test_every_level_has_a_style_that_shows_without_color(level):
    page = marked_text.html([MarkedToken("x", level)], "t", LEGEND, [])
    assert f".l{level} {{ background: rgb" in page and f"border-bottom-width: {level}px" in page
