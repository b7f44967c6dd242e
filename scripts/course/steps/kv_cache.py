"""Two new tokens with a KV cache: the prompt is read once, and then one token at a time."""

import numpy as np

from gpt import GPT, GPTConfig, KVCache
from minigrad import no_grad

model = GPT(GPTConfig(vocab_size=8, n_embd=4, block_size=6, n_layer=1, n_head=2)).eval()
cache = KVCache.for_model(model)

with no_grad():
    # prompt
    logits = model(np.array([[3, 1, 4]]), cache=cache)  # (1, 3, 8): the keys and values of three tokens are stored
    first = int(logits.data[0, -1].argmax())

    # one token
    logits = model(np.array([[first]]), cache=cache)  # (1, 1, 8): only the new token is read
    second = int(logits.data[0, -1].argmax())
print(first, second)
