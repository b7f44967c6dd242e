"""Words without the library regex, as in a browser: the same as with it."""

import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt.tokenizer.pre_tokenization import PATTERNS, split_words, split_words_simply


def test_every_character_is_of_the_same_kind():
    """Characters that this Python's Unicode does not know yet may differ."""
    known = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    text = "".join(f"{c}1{c} " for c in known)
    assert split_words_simply(text) == split_words(text)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=st.text(st.sampled_from("aſé'sSt1²٣ \t\n\r\x1c\x85\xa0\u2003.·猫🦊\u0301"), max_size=12))
@example(text="'ſ'S \x85\n x")
def test_all_patterns_cut_alike(pattern, text):
    words = split_words_simply(text, pattern)
    assert words == split_words(text, pattern) and "".join(words) == text
