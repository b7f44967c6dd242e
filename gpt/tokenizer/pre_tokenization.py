"""Pre-tokenization: cut a text into words, before byte-pair encoding cuts words into tokens.

No token crosses the border between two words, so merges depend only on the words of a text and their counts. A pattern
says where words end. Special tokens, such as <|endoftext|>, are cut out first. A stream of text is regrouped into
chunks whose words are those of the whole stream.

Simplified: the distinct words of a corpus (but not the corpus) must fit into memory.

Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.2 (GPT-2's pattern).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

# ---------------------------------------------------------------------------------------------------------------------
# Words.

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
    """Cut a text into words with one of PATTERNS. Joined together, they are the text again.

    >>> split_words("He's 42,  isn't  he?")
    ['He', "'s", ' 42', ',', ' ', ' isn', "'t", ' ', ' he', '?']
    >>> split_words("He's 42,  isn't  he?", "smollm")
    ['He', "'s", ' ', '4', '2', ',', ' ', ' isn', "'t", ' ', ' he', '?']
    """
    # The standard library's `re` has no \p{L} (any letter) and no \p{N} (any digit or other number).
    try:
        import regex  # type: ignore[import-untyped]
    except ImportError:
        return split_words_simply(text, pattern)
    return regex.findall(PATTERNS[pattern], text)


class _Stand(dict[int, int]):
    """For each character beyond ASCII one of its kind: a letter, a number, a space, or another sign."""

    def __missing__(self, code: int) -> int:
        kind = unicodedata.category(chr(code))[0]
        self[code] = ord({"L": "é", "N": "²", "Z": "\xa0"}.get(kind, "¡"))
        return self[code]


# Ignoring case, ſ is an s. U+0085, the next line, is a space.
_STAND = _Stand({**{code: code for code in range(128)}, ord("ſ"): ord("ſ"), 0x85: 0xA0})
_SPACES = r"\t-\r \xa0"
_MEMBERS = {r"\p{L}": "A-Za-zéſ", r"\p{N}": "0-9²", r"\s": _SPACES}


def split_words_simply(text: str, pattern: str = "gpt2") -> list[str]:
    """`split_words` with the standard library alone, as in a browser, which has no library regex.

    Each character is replaced by one that stands for its kind; where the words of that text end, these end, too.
    """
    plain = text.translate(_STAND)
    return [text[word.start() : word.end()] for word in _simple(PATTERNS[pattern]).finditer(plain)]


@functools.cache
def _simple(pattern: str) -> re.Pattern[str]:
    """The pattern for a text of characters that stand for their kinds."""
    parts = re.split(r"(\[[^]]*\])", pattern)  # every second one is a set, where members need no brackets of their own
    for i, part in enumerate(parts):
        for name, members in _MEMBERS.items():
            part = part.replace(name, members if i % 2 else f"[{members}]")
        parts[i] = part.replace(r"\S", f"[^{_SPACES}]")
    return re.compile("".join(parts))


def count_words(pieces: Iterable[str], special_tokens: Collection[str] = ()) -> Counter[bytes]:
    """Count the words of a stream of text, as UTF-8 bytes. Special tokens separate words and are not counted.

    >>> count_words(["low low", "er<|end|>low"], ["<|end|>"])
    Counter({b'low': 2, b' lower': 1})
    """
    counts: Counter[str] = Counter()
    for chunk in independent_chunks(pieces, special_tokens):
        for part in split_special(without_surrogates(chunk), special_tokens)[::2]:
            counts.update(split_words(part))
    return Counter({word.encode("utf-8"): count for word, count in counts.items()})


# ---------------------------------------------------------------------------------------------------------------------
# Special tokens.


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


def checked_special_tokens(special_tokens: Iterable[str] | None) -> list[str]:
    """Return special tokens as a list without repetitions. Raises TypeError or ValueError for an unusable token."""
    if isinstance(special_tokens, (str, bytes)):
        raise TypeError(f"special_tokens must be a list of strings, as in [{special_tokens!r}]; got one string")
    tokens = list(dict.fromkeys(special_tokens or ()))
    for token in tokens:
        if not isinstance(token, str) or not token or without_surrogates(token) != token:
            raise ValueError(f"a special token must be a string of at least one valid character; got {token!r}")
    return tokens


def without_surrogates(text: str) -> str:
    """Join surrogate pairs, and replace lone surrogates, which UTF-8 cannot encode, by U+FFFD (as tiktoken does).

    A surrogate is half of a character in UTF-16. It comes into a text when somebody cuts the text at the wrong place.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# ---------------------------------------------------------------------------------------------------------------------
# Streams: text that arrives in pieces, which may be cut anywhere, even inside a word.


def independent_chunks(
    pieces: Iterable[str], special_tokens: Collection[str] = (), size: int = 1 << 16
) -> Iterator[str]:
    """Regroup a stream of strings into chunks that can be split into words independently.

    Chunks have about `size` characters, or more where no cut is safe. Joined together, they are the stream.

    >>> list(independent_chunks(["to be o", "r not to", " be"], size=8))
    ['to be or not', ' to be']
    """
    waiting = ""
    wanted = size
    for piece in pieces:
        for start in range(0, len(piece), size):
            waiting += piece[start : start + size]
            if len(waiting) < wanted:
                continue
            if cut := _last_safe_cut(waiting, special_tokens):
                yield waiting[:cut]
            waiting = waiting[cut:]
            wanted = max(size, 2 * len(waiting))  # or the same text would be searched again and again
    if waiting:
        yield waiting


def _last_safe_cut(text: str, special_tokens: Collection[str]) -> int:
    """Return the last position where the text after it cannot change the words before it; 0 if there is none.

    Such a position is between a word and a space, or between a letter or digit and a line break: in the patterns a
    space is only at the start of a word, and a line break only follows other signs. A special token that began before
    the cut must be complete, because special tokens are cut first.
    """
    cut = len(text) - max(map(len, special_tokens), default=1)
    while cut > 0 and not (
        text[cut] == " " and not text[cut - 1].isspace() or text[cut] == "\n" and text[cut - 1].isalnum()
    ):
        cut -= 1
    end = 0
    for part in split_special(text, special_tokens):
        start = end
        end = end + len(part)
        if part in special_tokens and start < cut < end:
            return end
    return max(cut, 0)
