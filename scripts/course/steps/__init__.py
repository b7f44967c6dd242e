"""What happens in it, line by line? Small scripts for `python scripts/step.py --html NAME`, or for a debugger.

In the order of the course:

    one_page.py         all of it: the step of a GPT in one file
    softmax.py          from scores to probabilities, and the gradient
    cross_entropy.py    how surprised a model is by the right token
    layer_norm.py       each row brought to mean 0 and variance 1
    attention.py        three tokens, each looking at itself and those before it
    kv_cache.py         two new tokens, each read alone
    merge.py            the first two merges of byte-pair encoding
    lora.py             a training step of a low-rank update
    gptq.py             a weight rounded column by column
    dpo.py              the loss of a pair of replies
    ppo.py              the loss of four tokens of a reply
"""
