"""A small tokenizer of SmolLM2's kind, as the metadata of a GGUF file has it."""

from gpt.tokenizer.bpe_training import BYTE_ORDER, train_bpe_from_text
from gpt.tokenizer.tokenizer import Tokenizer
from gpt.tokenizer.vocabulary import visible

END, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = [END, IM_START, IM_END, "<repo_name>"]  # come first there, not last
# The bytes of which SmolLM2's vocabulary has no token.
TOKENLESS = bytes.fromhex("04 06 13 14 16 1d c0 c1 f1 f2 f5 f6 f7 f8 f9 fa fb fc fd fe ff")
CORPUS = (
    "We'll see: the quick brown fox doesn't jump over the lazy dog, and the dog doesn't mind the fox.\n\n"
    "In the café's naïve owners' words “déjà vu” — 日本語 too, 😀😀 👩‍👩‍👧!!!\n"
    "    if x == y:\n        return the_quick_fox(x)  # the end\n"
) * 3
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def metadata(**changes):
    """A tokenizer as a GGUF file describes it; `changes` replace entries (with "__" for the dots in their names)."""
    _, merges = train_bpe_from_text(CORPUS, 400)
    tokens = [*SPECIAL, *(visible(bytes([byte])) for byte in BYTE_ORDER if byte not in TOKENLESS)]
    tokens += [visible(first + second) for first, second in merges]
    content = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)),
        "tokenizer.ggml.merges": [f"{visible(first)} {visible(second)}" for first, second in merges],
        "tokenizer.ggml.eos_token_id": SPECIAL.index(IM_END),
        "tokenizer.chat_template": TEMPLATE,
    }
    return content | {f"tokenizer.{key.replace('__', '.')}": value for key, value in changes.items()}


def smollm_tokenizer():
    return Tokenizer.from_gguf(metadata())
