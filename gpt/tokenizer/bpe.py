"""Byte-pair encoding (BPE): learn tokens from words, and cut words into these tokens.

At first each byte is a token. Training joins the most frequent pair of neighbors into a new token, again and again. The
list of these merges is the tokenizer: encoding repeats them on a word, and decoding joins the tokens. This page has all
of it. Before it, text is cut into words (pre_tokenization.py); after it, tokens are numbered (bpe_training.py).

>>> merges = learn_merges_textbook({b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}, 4)  # words and their counts
>>> merges
[(b's', b't'), (b'e', b'st'), (b'o', b'w'), (b'l', b'ow')]
>>> tokens = encode_word(b"lowest", {pair: rank for rank, pair in enumerate(merges)})  # a new word
>>> tokens, b"".join(tokens)
([b'low', b'est'], b'lowest')

Sennrich et al. 2016, "Neural machine translation of rare words with subword units", section 3.
"""

from collections import Counter

Pair = tuple[bytes, bytes]  # two neighboring tokens


def single_bytes(word: bytes) -> list[bytes]:
    """Cut a word into its bytes: b"low" becomes [b"l", b"o", b"w"]."""
    return [word[i : i + 1] for i in range(len(word))]


def merge(tokens: list[bytes], pair: Pair) -> list[bytes]:
    """Join every occurrence of a pair, from left to right: for the pair (b"a", b"a"), a a a becomes aa a."""
    merged: list[bytes] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token  # longer than pair[0] now, so it does not join again
        else:
            merged.append(token)
    return merged


def learn_merges_textbook(word_counts: dict[bytes, int], wanted: int) -> list[Pair]:
    """Learn merges: again and again, join the most frequent pair. Ties go to the lexicographically greatest pair.

    Any rule for ties would do that does not depend on the order of the words: the same corpus then always gives the
    same merges. `learn_merges` in bpe_training.py learns the same merges faster: it counts pairs again only in the
    words that the last merge has changed.
    """
    words = {word: single_bytes(word) for word in word_counts}  # each word, and its tokens so far
    merges: list[Pair] = []
    while len(merges) < wanted:
        pair_counts: Counter[Pair] = Counter()
        for word, tokens in words.items():
            for pair in zip(tokens, tokens[1:]):
                pair_counts[pair] += word_counts[word]  # once for each time the word occurs in the corpus
        if not pair_counts:
            break  # every word is one token
        best = max(pair_counts, key=lambda pair: (pair_counts[pair], pair))  # by count, then by the bytes
        merges.append(best)
        words = {word: merge(tokens, best) for word, tokens in words.items()}
    return merges


def encode_word(word: bytes, ranks: dict[Pair, int]) -> list[bytes]:
    """Cut a word into tokens: join the pair of the lowest rank (the one learned first) wherever it occurs; repeat."""
    tokens = single_bytes(word)
    while True:
        neighbors = zip(tokens, tokens[1:])
        learned = [pair for pair in neighbors if pair in ranks]
        if not learned:
            return tokens
        first = min(learned, key=lambda pair: ranks[pair])
        tokens = merge(tokens, first)
