"""How does text become numbers?

bpe.py                byte-pair encoding from scratch, on a page: learn merges, encode, decode
pre_tokenization.py   text to words, before that: patterns, special tokens, streams of text
bpe_training.py       a vocabulary from a corpus: the same merges, learned fast, and ids
tokenizer.py          Tokenizer: text to ids and back, with our own vocabulary or GPT-2's
vocabulary.py         how files spell tokens; build a vocabulary from any file format, and check it
vocabulary_files.py   vocab.json and merges.txt, and the vocabulary of a GGUF file
tokenizer_json.py     tokenizer.json, the format of Hugging Face's `tokenizers`
token_text.py         tokens as readable text: while they arrive, and each on its own
"""

from .bpe_training import train_bpe
from .tokenizer import Tokenizer

__all__ = ["Tokenizer", "train_bpe"]
