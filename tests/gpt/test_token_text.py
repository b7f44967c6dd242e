"""Tokens as text: the pieces join to the whole."""

from hypothesis import given
from hypothesis import strategies as st

from gpt import Tokenizer
from gpt.tokenizer.token_text import readable_pieces

TOKENIZER = Tokenizer.train("the cat sat on the mat, the cat 猫", vocab_size=270)


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
