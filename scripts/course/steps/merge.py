"""Byte-pair encoding: the first two merges that four words teach."""

from gpt.tokenizer.bpe_training import learn_merges

word_counts = {b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}

# merges
merges = learn_merges(word_counts, 2)  # the most frequent pair of neighbors becomes one token, again and again
print(merges)
