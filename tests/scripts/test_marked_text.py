"""The page of a text whose tokens are marked: everything is text, and levels show without color."""

import html
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt.console import printable
from gpt.tokenizer.token_view import LEVELS, MarkedToken
from scripts.pages import marked_text

LEGEND = ["none", "some", "", "much", "all"]
TAGS = {"html", "head", "meta", "title", "link", "style", "body", "h1", "table", "tr", "th", "td", "p", "pre", "div"}
TAGS |= {"span", "script"}


class Page(HTMLParser):
    """A page as a browser reads it: the tags, and the text and the notes in <pre>."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.notes, self._inside = [], "", [], False
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


@pytest.mark.parametrize("level", range(1, LEVELS))
def test_every_level_has_a_style_that_shows_without_color(level):
    page = marked_text.html([MarkedToken("x", level)], "t", LEGEND)
    assert f".l{level} {{ background: rgb" in page and f"border-bottom-width: {level}px" in page
