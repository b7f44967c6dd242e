"""Learn a vocabulary from a corpus: the merges of bpe.py, learned fast, and a number for each token.

The fast form counts pairs again only in the words that a merge has changed. The corpus is read as a stream.
"""

from __future__ import annotations

import heapq
import os
from collections import Counter, defaultdict
from collections.abc import Iterable

from ..console import progress_bar
from ..files import StrPath, read_pieces
from .bpe import Pair, merge, single_bytes
from .pre_tokenization import checked_special_tokens, count_words

# The first 256 tokens are the 256 bytes, so the vocabulary can represent any text, and even any binary file. GPT-2
# numbers the bytes that are visible characters in Latin-1 first ('!' is token 0), then the others. (False sorts first.)
BYTE_ORDER = sorted(range(256), key=lambda byte: byte == ord(" ") or not chr(byte).isprintable())


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
    smallest = len(build_vocabulary([], special_tokens))
    if vocab_size < smallest:
        needed = f"the 256 bytes and {smallest - 256} special tokens need {smallest}"
        raise ValueError(f"vocab_size {vocab_size} is too small: {needed}; a small model usually takes 1,000 to 5,000")
    word_counts = count_words([text] if isinstance(text, str) else text, special_tokens)
    if not word_counts:
        raise ValueError(f"{source} is empty: there is nothing to learn a vocabulary from; give some text")
    merges = learn_merges(word_counts, vocab_size - smallest)
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
    return dict(enumerate(dict.fromkeys(tokens)))  # fromkeys drops duplicates, keeps the order


class _Candidate(tuple[int, Pair]):
    """A pair, after its count when it was put on the heap. heapq serves the least first; we want the greatest."""

    __lt__ = tuple.__gt__


def learn_merges(word_counts: dict[bytes, int], wanted: int) -> list[Pair]:
    """Learn the merges of `learn_merges_textbook`, but count pairs again only in words that a merge has changed.

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

    # A heap gives the most frequent pair without a search through all of them.
    heap = [_Candidate((count, pair)) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    with progress_bar(wanted, "learning merges", "merge") as bar:
        while heap and len(merges) < wanted:
            count, best = heapq.heappop(heap)
            if pair_counts[best] != count:
                continue  # an old entry; a pair's present count was pushed as an entry of its own
            merges.append(best)
            bar.update(1)
            changes: Counter[Pair] = Counter()
            for index in words_with.pop(best):
                before = words[index]
                after = merge(words[index], best)
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
                        heapq.heappush(heap, _Candidate((pair_counts[pair], pair)))
    return merges
