"""Byte-pair encoding: the trainer against the textbook's, the tie rule, streams cut anywhere, every error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.files import read_pieces
from gpt.tokenizer.bpe import encode_word, learn_merges_textbook, merge, single_bytes
from gpt.tokenizer.bpe_training import BYTE_ORDER, learn_merges, train_bpe, train_bpe_from_text
from gpt.tokenizer.pre_tokenization import count_words, split_words
from gpt.tokenizer.vocabulary import from_visible, visible

END = "<|endoftext|>"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
# Small alphabets make words, pairs and ties collide, where text drawn from all of Unicode hardly ever does.
TIGHT_TEXT = st.text(st.sampled_from("ab'sl1 \n!<|>é\x1c\u2028"), max_size=60)
WORD_COUNTS = st.dictionaries(
    st.text("abc", min_size=1, max_size=12).map(str.encode), st.integers(1, 4), min_size=1, max_size=12
)


def test_bytes_are_numbered_and_spelled_as_in_gpt2():
    assert sorted(BYTE_ORDER) == list(range(256))
    assert [bytes([byte]) for byte in BYTE_ORDER[:3]] == [b"!", b'"', b"#"]
    assert BYTE_ORDER[220] == ord(" ") and BYTE_ORDER[198] == ord("\n") and BYTE_ORDER[255] == 0xAD
    assert visible(b"\x00 \n\xad\xff") == "ĀĠĊŃÿ"


@given(st.binary())
def test_visible_spelling_is_lossless(data):
    assert from_visible(visible(data)) == data
    assert not any(character.isspace() for character in visible(data))


@given(TEXT | TIGHT_TEXT)
def test_words_joined_are_the_text(text):
    assert "".join(split_words(text)) == text
    assert all(split_words(text))


@given(st.lists(st.sampled_from([b"a", b"b", b"aa"])), st.sampled_from([(b"a", b"a"), (b"a", b"b"), (b"aa", b"a")]))
def test_merge_keeps_the_bytes_and_leaves_the_pair_nowhere(tokens, pair):
    merged = merge(tokens, pair)
    assert b"".join(merged) == b"".join(tokens)
    assert pair not in zip(merged, merged[1:])


@given(WORD_COUNTS, st.integers(0, 30))
def test_incremental_training_equals_the_textbook(word_counts, wanted):
    merges = learn_merges(word_counts, wanted)
    assert merges == learn_merges_textbook(word_counts, wanted)
    assert len({first + second for first, second in merges}) == len(merges)  # no token is made twice


@given(WORD_COUNTS, st.text("abc", max_size=20).map(str.encode))
def test_encoding_a_word_is_applying_the_merges_in_their_order(word_counts, word):
    merges = learn_merges(word_counts, 20)
    tokens = single_bytes(word)
    for pair in merges:
        tokens = merge(tokens, pair)
    assert encode_word(word, {pair: rank for rank, pair in enumerate(merges)}) == tokens


def test_example_of_the_paper():
    words = {b"low": 5, b"lower": 2, b"widest": 3, b"newest": 6}
    spelled = [f"{first.decode()} {second.decode()}" for first, second in learn_merges(words, 100)]
    assert spelled[:6] == ["s t", "e st", "o w", "l ow", "w est", "n e"]
    assert len(spelled) == 12  # then every word is one token


def test_ties_go_to_the_lexicographically_greatest_pair():
    assert learn_merges({b"AB": 1, b"AC": 1, b"BZ": 1, b"Ca": 1}, 1) == [(b"C", b"a")]
    assert learn_merges({b"xa": 1, "xé".encode(): 1}, 1) == [(b"\xc3", b"\xa9")]  # bytes, not characters
    # Tuples are compared, not joined bytes: "BAA" < "BZZ", but "BA" > "B".
    merges = learn_merges({b"BA": 5, b"ZZ": 4, b"BAA": 1, b"BZZ": 1}, 4)
    assert merges == [(b"B", b"A"), (b"Z", b"Z"), (b"BA", b"A"), (b"B", b"ZZ")]


def test_layout_of_the_vocabulary(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(f"the cat{END}the cat{END}the end".encode())
    vocab, merges = train_bpe(path, 262, [END, "<|pad|>"])
    assert [vocab[id] for id in range(256)] == [bytes([byte]) for byte in BYTE_ORDER]
    assert [vocab[256 + i] for i in range(4)] == [first + second for first, second in merges]
    assert (vocab[260], vocab[261], len(vocab)) == (END.encode(), b"<|pad|>", 262)


def test_a_special_token_that_is_a_byte_keeps_its_id():
    vocab, _ = train_bpe_from_text("ab|ab", 257, ["|"])
    assert len(vocab) == 257 and list(vocab.values()).count(b"|") == 1


def test_lone_surrogates_in_a_text_do_not_stop_training():
    assert count_words(["a\ud800 \ud83d\ude00"]) == {b"a": 1, "\ufffd".encode(): 1, " 😀".encode(): 1}


@given(TEXT, st.integers(1, 7))
def test_files_are_read_piece_by_piece_without_loss(tmp_path_factory, text, piece_bytes):
    path = tmp_path_factory.mktemp("read") / "text.txt"
    path.write_bytes(text.encode())
    assert "".join(read_pieces(path, piece_bytes)) == text.removeprefix("\ufeff")


@pytest.mark.parametrize("piece_bytes", [1, 4, 1000])
@pytest.mark.parametrize("content, message", [
    (b"caf\xc3\xa9 \xff!", r"not UTF-8 text: invalid start byte at byte 6 \(0xff\)"),
    (b"caf\xc3\xa9 \xe2\x82", r"not UTF-8 text: unexpected end of data at byte 6 \(0xe2\)"),
])  # fmt: skip
def test_error_names_the_byte_that_is_not_utf8(tmp_path, content, message, piece_bytes):
    path = tmp_path / "latin.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"latin\.txt is {message}; convert the file"):
        list(read_pieces(path, piece_bytes))


def test_errors_of_training(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.txt is empty: there is nothing to learn"):
        train_bpe(tmp_path / "empty.txt", 300)


@pytest.mark.parametrize("text, size, special, error, words", [
    (END * 3, 300, [END], ValueError, "the text is empty"),
    ("text", 256, [END], ValueError, "vocab_size 256 is too small: the 256 bytes and 1 special tokens need 257"),
    ("text", 300, END, TypeError, r"special_tokens must be a list of strings, as in \['<"),
    ("text", 300, [7], ValueError, "a special token must be a string of .*; got 7"),
    ("text", 300, [""], ValueError, "at least one valid character; got ''"),
    ("text", 300, ["\ud800"], ValueError, "at least one valid character"),
])  # fmt: skip
def test_what_cannot_be_trained_on_is_refused(text, size, special, error, words):
    with pytest.raises(error, match=words):
        train_bpe_from_text(text, size, special)
