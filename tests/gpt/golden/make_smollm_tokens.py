"""Writes smollm_tokens.json: awkward texts, and the ids that Hugging Face's library `tokenizers` gives them.

    PYTHONPATH=. python tests/gpt/golden/make_smollm_tokens.py          needs the extra `oracle`

The tokenizer is the small one of tests/gpt/smollm.py, built here from the parts of `tokenizers`.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.gpt.smollm import SPECIAL, metadata

TEXTS = [
    "", " ", "   ", "\n", "5", " 5", "  5", "   55 ", "x5y", "5x", "5 x", " 5  x", "\n 5", "\n\n5\n\n", "3.14", "-7",
    "1,000", "in 1984 and 2024", "٣٤ ３４ ४५ ²³ ½ Ⅷ 〇 一 𝟘𝟙 ①", "the²fox", " ²", "x\u0301 5\u0301", "5\u20e3",
    "e\u0301\u0301", "\u0301", "👩\u200d👩\u200d👧 👍🏽", "\u200d", "a\r\nb\r\n\r\n1\r\n", "\r", "\t7\t", "\u00a05",
    "\u30005 ", "\u2028 5", "\u0085", "we'll we're 'tis '5 's5 5's 5'll", "''", "  's", "foxes' 3",
    "<|im_start|>user\n5<|im_end|>\n", "5<|im_end|>5", " <|im_end|> 5", "<|im_start", "<repo_name>5 ", "\x00",
    "5\x005", "\x00\x01 \x02", "a\x04b", "5\x04\x065", "!\x04!", "\x13", "x\U00040000y", "\ufffd", "日本語5日",
    "  return the_quick_fox(x2)  # 10 \n", "= 5\n    y = 6\n", "1 2  3   4",
]  # fmt: skip


def reference():
    content = metadata()
    ids = {token: id for id, token in enumerate(content["tokenizer.ggml.tokens"])}
    merges = [tuple(line.split(" ")) for line in content["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(ids, merges))
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


if __name__ == "__main__":
    tokenizer = reference()
    lines = [json.dumps([text, tokenizer.encode(text).ids]) for text in TEXTS]
    path = Path(__file__).with_name("smollm_tokens.json")
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8", newline="\n")
