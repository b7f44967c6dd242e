"""Byte-pair encoding: learn a vocabulary of subwords from text, and cut words into these subwords.

Read it from top to bottom: bytes, words, one merge, the training loop (first the textbook form, then the same result
without visiting every word in every round), and the encoder. "The merge table is the tokenizer": everything else
follows from the list of merges that `train_bpe` returns.

Everything but `split_words` is plain Python; its patterns need the library `regex`, which is loaded at the first text.

Simplified: there is one process, and the distinct words of the corpus (but not the corpus) must fit into memory.

Sennrich et al. 2016, "Neural machine translation of rare words with subword units", section 3 (the algorithm);
Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.2 (bytes, and the pattern).
"""

from __future__ import annotations

import functools
import heapq
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..console import progress_bar
from ..files import StrPath, read_pieces

Pair = tuple[bytes, bytes]

# ---------------------------------------------------------------------------------------------------------------------
# Bytes. The first 256 tokens are the 256 bytes, so the vocabulary can represent any text, and even any binary file.

# GPT-2 numbers the bytes that are visible characters in Latin-1 first ('!' is token 0), then the others.
_VISIBLE = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
_INVISIBLE = [byte for byte in range(256) if byte not in _VISIBLE]
BYTE_ORDER = _VISIBLE + _INVISIBLE

# In vocab.json and merges.txt each byte is one visible character; the invisible ones borrow U+0100, U+0101, ...
BYTE_TO_CHARACTER = {byte: chr(byte) for byte in _VISIBLE}
BYTE_TO_CHARACTER |= {byte: chr(256 + i) for i, byte in enumerate(_INVISIBLE)}
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}


def visible(token: bytes) -> str:
    """Spell a token as GPT-2's files do, one visible character per byte (`bytes_to_unicode` in OpenAI's code).

    >>> visible(b" the"), visible("é".encode())
    ('Ġthe', 'Ã©')
    """
    return "".join(map(BYTE_TO_CHARACTER.__getitem__, token))


def from_visible(text: str) -> bytes:
    """The inverse of `visible`. Raises KeyError for a character that does not represent a byte.

    >>> from_visible("Ġthe")
    b' the'
    """
    return bytes(map(CHARACTER_TO_BYTE.__getitem__, text))


# ---------------------------------------------------------------------------------------------------------------------
# Words. No token crosses the border between words, so merges depend only on the words of a text and their counts.

# GPT-2's pattern: contractions; a run of letters, of digits or of other signs, each with the space before it; spaces.
# The last space before a word belongs to the word: that is what (?!\S) leaves behind.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# SmolLM's: each digit is a word of its own, without the space before it, so numbers are spelled and not learned by
# heart. All spaces before a digit are then a word without it: (?![^\s\p{N}]) is "not before a sign that takes a space".
SMOLLM_PATTERN = r"'(?:[sdmt]|ll|ve|re)|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
# Llama 3's and Qwen2's: any one sign may begin a word, a run of signs includes the line breaks that follow it, and
# numbers are cut after every three digits (Llama 3) or after each digit (Qwen2).
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")
NORMALIZED = {"qwen2": "NFC"}  # é, written as e and an accent, becomes one character first
PATTERNS = {"gpt2": GPT2_PATTERN, "smollm": SMOLLM_PATTERN, "llama3": LLAMA3_PATTERN, "qwen2": QWEN2_PATTERN}


def split_words(text: str, pattern: str = "gpt2") -> list[str]:
    """Cut a text into words (pre-tokens) with one of PATTERNS. Joined together, they are the text again.

    >>> split_words("He's 42,  isn't  he?")
    ['He', "'s", ' 42', ',', ' ', ' isn', "'t", ' ', ' he', '?']
    >>> split_words("He's 42,  isn't  he?", "smollm")
    ['He', "'s", ' ', '4', '2', ',', ' ', ' isn', "'t", ' ', ' he', '?']
    """
    return _compiled(pattern).findall(text)


@functools.cache
def _compiled(pattern: str) -> Any:
    # The standard library's `re` has no \p{L} (any letter) and no \p{N} (any digit or other number).
    try:
        import regex  # type: ignore[import-untyped]
    except ImportError:
        raise ImportError("cutting a text into words needs the library regex: pip install regex") from None
    return regex.compile(PATTERNS[pattern])


def split_special(text: str, special_tokens: Iterable[str]) -> list[str]:
    """Cut a text at its special tokens: entries 0, 2, 4, ... are text, entries 1, 3, 5, ... are special tokens.

    If two special tokens begin at the same place, the longer one wins.

    >>> split_special("one<|end|>two", ["<|end|>"])
    ['one', '<|end|>', 'two']
    """
    longest_first = sorted(special_tokens, key=len, reverse=True)
    if not longest_first:
        return [text]
    return re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)


def independent_chunks(pieces: Iterable[str], special_tokens: Iterable[str] = (), size: int = 1 << 16) -> Iterator[str]:
    """Regroup a stream of strings, which may be cut anywhere, into chunks that can be split into words independently.

    Chunks have about `size` characters, or more where no cut is safe. Joined together, they are the stream.

    >>> list(independent_chunks(["to be o", "r not to", " be"], size=8))
    ['to be or not', ' to be']
    """
    special_tokens = list(special_tokens)
    waiting: list[str] = []
    length, wanted = 0, size
    for piece in pieces:
        for start in range(0, len(piece), size):
            waiting.append(piece[start : start + size])
            length += len(waiting[-1])
            if length < wanted:
                continue
            text = "".join(waiting)
            cut = _last_safe_cut(text, special_tokens)
            if cut:
                yield text[:cut]
            waiting, length = [text[cut:]], len(text) - cut
            wanted = max(size, 2 * length)  # or the same text would be searched again and again
    if length:
        yield "".join(waiting)


def _last_safe_cut(text: str, special_tokens: list[str]) -> int:
    """The last position where the text after it cannot change the words before it; 0 if there is none.

    Such a position is between a word and a space, or between a letter or digit and a line break: in the patterns a
    space is only at the start of a word, and a line break only follows other signs. A special token that began before
    the cut must be complete, because special tokens are cut first.
    """
    longest = max(map(len, special_tokens), default=0)
    cut = len(text) - max(longest, 1)
    while cut > 0 and not (
        text[cut] == " " and not text[cut - 1].isspace() or text[cut] == "\n" and text[cut - 1].isalnum()
    ):
        cut -= 1
    end = 0
    for part in split_special(text, special_tokens):
        start, end = end, end + len(part)
        if part in special_tokens and start < cut < end:
            return end
    return max(cut, 0)


def without_surrogates(text: str) -> str:
    """Join surrogate pairs, and replace lone surrogates, which UTF-8 cannot encode, by U+FFFD (as tiktoken does)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def count_words(pieces: Iterable[str], special_tokens: Iterable[str] = ()) -> Counter[bytes]:
    """Count the words of a stream of text, as UTF-8 bytes. Special tokens separate words and are not counted.

    >>> count_words(["low low", "er<|end|>low"], ["<|end|>"])
    Counter({b'low': 2, b' lower': 1})
    """
    special_tokens = list(special_tokens)
    counts: Counter[str] = Counter()
    for chunk in independent_chunks(pieces, special_tokens):
        for part in split_special(without_surrogates(chunk), special_tokens)[::2]:
            counts.update(split_words(part))
    return Counter({word.encode("utf-8"): count for word, count in counts.items()})


# ---------------------------------------------------------------------------------------------------------------------
# The textbook form. A word is a list of tokens, at first its bytes. Each step joins one pair wherever it occurs.


def single_bytes(word: bytes) -> list[bytes]:
    """The tokens of a word before any merge.

    >>> single_bytes(b"low")
    [b'l', b'o', b'w']
    """
    return [word[i : i + 1] for i in range(len(word))]


def merge(tokens: list[bytes], pair: Pair) -> list[bytes]:
    """Join every occurrence of a pair, from left to right.

    >>> merge([b"l", b"o", b"w", b"l", b"o"], (b"l", b"o"))
    [b'lo', b'w', b'lo']
    >>> merge([b"a", b"a", b"a"], (b"a", b"a"))
    [b'aa', b'a']
    """
    merged = []
    i = 0
    while i < len(tokens):
        if i + 1 < len(tokens) and tokens[i] == pair[0] and tokens[i + 1] == pair[1]:
            merged.append(pair[0] + pair[1])
            i += 2  # both are used up: occurrences do not overlap
        else:
            merged.append(tokens[i])
            i += 1
    return merged


def learn_merges_textbook(word_counts: Mapping[bytes, int], wanted: int) -> list[Pair]:
    """Learn merges: again and again, join the most frequent pair of neighbors.

    Ties go to the lexicographically greatest pair. This is slow, because every round counts all words; `learn_merges`
    gives the same result faster. The example of Sennrich et al. (algorithm 1):

    >>> words = {b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}
    >>> learn_merges_textbook(words, 4)
    [(b's', b't'), (b'e', b'st'), (b'o', b'w'), (b'l', b'ow')]
    """
    words = {word: single_bytes(word) for word in word_counts}
    merges: list[Pair] = []
    while len(merges) < wanted:
        pair_counts: Counter[Pair] = Counter()
        for word, tokens in words.items():
            for pair in zip(tokens, tokens[1:]):
                pair_counts[pair] += word_counts[word]  # once for each time the word occurs in the corpus
        if not pair_counts:
            break  # every word is one token
        best = max(pair_counts, key=lambda pair: (pair_counts[pair], pair))
        merges.append(best)
        words = {word: merge(tokens, best) for word, tokens in words.items()}
    return merges


def encode_word(word: bytes, ranks: Mapping[Pair, int]) -> list[bytes]:
    """Cut one word into tokens: of all pairs of neighbors, join the pair that was learned first, and repeat.

    `ranks` numbers the merges in the order in which they were learned.

    >>> ranks = {(b"s", b"t"): 0, (b"e", b"st"): 1, (b"o", b"w"): 2, (b"l", b"ow"): 3}
    >>> encode_word(b"lowest", ranks)
    [b'low', b'est']
    """
    tokens = single_bytes(word)
    while len(tokens) > 1:
        first = min(zip(tokens, tokens[1:]), key=lambda pair: ranks.get(pair, len(ranks)))
        if first not in ranks:
            break  # none of the pairs was ever merged
        tokens = merge(tokens, first)
    return tokens


# ---------------------------------------------------------------------------------------------------------------------
# The same merges, faster. A merge changes few words, so only their pairs have to be counted again.


@dataclass(slots=True)
class _Candidate:
    """A pair, with its count at the time when it was put on the heap."""

    count: int
    pair: Pair

    def __lt__(self, other: _Candidate) -> bool:  # reversed: heapq serves the least first, and we want the greatest
        return (self.count, self.pair) > (other.count, other.pair)


def learn_merges(word_counts: Mapping[bytes, int], wanted: int) -> list[Pair]:
    """The result of `learn_merges_textbook`, but pairs are counted again only in words that a merge has changed.

    >>> words = {b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}
    >>> learn_merges(words, 4)
    [(b's', b't'), (b'e', b'st'), (b'o', b'w'), (b'l', b'ow')]
    """
    words = [single_bytes(word) for word in word_counts]
    counts = list(word_counts.values())
    pair_counts: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[int]] = defaultdict(set)  # may name words that have lost the pair since
    for index, tokens in enumerate(words):
        for pair in zip(tokens, tokens[1:]):
            pair_counts[pair] += counts[index]
            words_with[pair].add(index)

    heap = [_Candidate(count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    with progress_bar(wanted, "learning merges", "merge") as bar:
        while heap and len(merges) < wanted:
            candidate = heapq.heappop(heap)
            best = candidate.pair
            if pair_counts[best] != candidate.count:
                continue  # outdated: with its present count, the pair is on the heap a second time
            merges.append(best)
            bar.update(1)
            changes: Counter[Pair] = Counter()
            for index in words_with.pop(best):
                before, after = words[index], merge(words[index], best)
                if len(after) == len(before):
                    continue  # the word has lost the pair to an earlier merge
                words[index] = after
                # take the word out of the count, and put it in again as it is now
                for pair in zip(before, before[1:]):
                    changes[pair] -= counts[index]
                for pair in zip(after, after[1:]):
                    changes[pair] += counts[index]
                    words_with[pair].add(index)
            for pair, change in changes.items():
                if change:  # most pairs of a word stay: they were taken out and put in again
                    pair_counts[pair] += change
                    if pair_counts[pair]:
                        heapq.heappush(heap, _Candidate(pair_counts[pair], pair))
    return merges


# ---------------------------------------------------------------------------------------------------------------------
# From a corpus to a vocabulary.


def train_bpe(
    path: StrPath, vocab_size: int, special_tokens: Iterable[str] = ()
) -> tuple[dict[int, bytes], list[Pair]]:
    """Learn a byte-level BPE vocabulary from a UTF-8 file, which is read piece by piece.

    Returns `vocab` (id -> bytes: the 256 bytes in GPT-2's order, one token per merge, the special tokens) and `merges`
    in the order in which they were learned. Special tokens separate words and are never part of other tokens. If
    several pairs have the same count, the lexicographically greatest one (as a tuple of bytes) is merged. When every
    word of a small corpus is one token, nothing is left to merge, and the vocabulary is smaller than `vocab_size`.

    Raises ValueError for a vocabulary that is too small, an unusable special token, and a text that is empty or not
    UTF-8, and FileNotFoundError.
    """
    return train_bpe_from_text(read_pieces(path), vocab_size, special_tokens, source=os.fspath(path))


def train_bpe_from_text(
    text: str | Iterable[str], vocab_size: int, special_tokens: Iterable[str] = (), source: str = "the text"
) -> tuple[dict[int, bytes], list[Pair]]:
    """`train_bpe` on a string, or on a stream of strings that may be cut anywhere. `source` names it in errors.

    >>> vocab, merges = train_bpe_from_text("low low lower", 259, ["<|end|>"])
    >>> merges
    [(b'o', b'w'), (b'l', b'ow')]
    >>> vocab[0], vocab[255], vocab[256], vocab[257], vocab[258]
    (b'!', b'\\xad', b'ow', b'low', b'<|end|>')
    """
    special_tokens = checked_special_tokens(special_tokens)
    without_merges = build_vocabulary([], special_tokens)
    if vocab_size < len(without_merges):
        raise ValueError(
            f"vocab_size {vocab_size} is too small: the 256 bytes and {len(without_merges) - 256} special tokens "
            f"need {len(without_merges)}; a small model usually takes 1,000 to 5,000"
        )
    word_counts = count_words([text] if isinstance(text, str) else text, special_tokens)
    if not word_counts:
        raise ValueError(f"{source} is empty: there is nothing to learn a vocabulary from; give some text")
    merges = learn_merges(word_counts, vocab_size - len(without_merges))
    return build_vocabulary(merges, special_tokens), merges


def build_vocabulary(merges: Iterable[Pair], special_tokens: Iterable[str] = ()) -> dict[int, bytes]:
    """Number the tokens as GPT-2 does: bytes, results of merges, special tokens. Tokens with equal bytes share an id.

    >>> vocab = build_vocabulary([(b"o", b"w"), (b"l", b"ow")], ["<|end|>"])
    >>> len(vocab), vocab[257]
    (259, b'low')
    """
    tokens = [bytes([byte]) for byte in BYTE_ORDER]
    tokens += [first + second for first, second in merges]
    tokens += [token.encode("utf-8") for token in special_tokens]
    return dict(enumerate(dict.fromkeys(tokens)))


def checked_special_tokens(special_tokens: Iterable[str] | None) -> list[str]:
    """Special tokens as a list without repetitions. Raises TypeError or ValueError for an unusable token."""
    if isinstance(special_tokens, (str, bytes)):
        raise TypeError(f"special_tokens must be a list of strings, as in [{special_tokens!r}]; got one string")
    tokens = list(dict.fromkeys(special_tokens or ()))
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError(f"a special token must be a string; got {token!r} ({type(token).__name__})")
        if not token or without_surrogates(token) != token:
            raise ValueError(f"a special token must be a string of at least one valid character; got {token!r}")
    return tokens
