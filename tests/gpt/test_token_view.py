"""Marked tokens: whatever they contain stays text, and colors end where they should."""

import re

from hypothesis import given
from hypothesis import strategies as st

from gpt import Tokenizer
from gpt.console import printable
from gpt.tokenizer.token_view import LEVELS, MarkedToken, readable_pieces, to_terminal

TOKENIZER = Tokenizer.train("the cat sat on the mat, the cat 猫", vocab_size=270)


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


@given(st.text(max_size=20))
def test_pieces_of_a_text_join_to_it_and_cover_its_tokens(text):
    ids = TOKENIZER.encode(text, allowed_special=())
    pieces = list(readable_pieces(TOKENIZER, ids))
    assert "".join(piece for _, _, piece in pieces) == TOKENIZER.decode(ids)
    assert [stop for _, stop, _ in pieces[:-1]] == [start for start, _, _ in pieces[1:]]
    assert not ids or (pieces[0][0] == 0 and pieces[-1][1] == len(ids))
    assert all("\ufffd" not in piece for _, _, piece in pieces) or "\ufffd" in text


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=20))
def test_pieces_of_any_tokens_are_text(ids):
    pieces = list(readable_pieces(TOKENIZER, ids))
    assert [i for start, stop, _ in pieces for i in range(start, stop)] == list(range(len(ids)))
    assert all(text for _, _, text in pieces)


def test_a_character_of_several_tokens_is_one_piece():
    tokenizer = Tokenizer.train("x", vocab_size=257)
    ids = tokenizer.encode("a猫b")
    assert list(readable_pieces(tokenizer, ids)) == [(0, 1, "a"), (1, 4, "猫"), (4, 5, "b")]
    assert list(readable_pieces(tokenizer, ids[:3])) == [(0, 1, "a"), (1, 3, "\ufffd")]  # cut off
