"""One training step of a GPT so small that every array fits on the screen. Step into the marked lines in a debugger.

VS Code: open this file, set a breakpoint below "# forward", press F5; F11 steps into a call, F10 over, Shift+F11 out.
pdb:     python -m pdb scripts/step.py   then: b 36 (a breakpoint), c (go there), s (into), n (over), r (out), p x
A page:  python scripts/step.py --html   records every line and what it changed; it steps back in time, too
"""

import sys

from start import command_line  # which says what to do where NumPy or minigrad is not installed

import numpy as np

import minigrad.functional as F
from gpt import GPT, GPTConfig
from minigrad import manual_seed, optim

if len(sys.argv) > 1:
    from scripts.pages.stepping import main

    command_line.run(main)

np.set_printoptions(precision=3, suppress=True)
manual_seed(0)

# A vocabulary of 8 tokens, 4 numbers per token, 3 tokens of context, one block with 2 heads.
config = GPTConfig(vocab_size=8, n_embd=4, block_size=3, n_layer=1, n_head=2)
model = GPT(config)
optimizer = optim.AdamW(model.parameters(), lr=0.1)
print(model, "\n")

ids = np.array([[3, 1, 4]])  # (B=1, T=3): what the model reads
targets = np.array([[1, 4, 1]])  # (1, 3): the same text, one token later

# forward
block = model.transformer.h[0]
x = model.transformer.wte(ids)  # (1, 3, 4): rows 3, 1 and 4 of the table. Step in: Embedding.forward is one line
x = x + model.transformer.wpe(np.arange(3))  # position embeddings. Step in: x + y is F.add, which records the op
x = x + block.attn(block.ln_1(x))  # tokens attend to each other. Step in, down to ScaledDotProductAttention
x = x + block.mlp(block.ln_2(x))  # each token separately. Step in: Linear, then Gelu
x = model.transformer.ln_f(x)  # Step in: LayerNorm.forward, with its backward directly below
logits = model.lm_head(x)  # (1, 3, 8): a logit for each of the 8 tokens, at each of the 3 positions

# loss
loss = F.cross_entropy(logits.reshape(3, 8), targets.reshape(3))  # Step in: -ln(softmax[target]), as log-softmax
print("logits", logits)
print("loss", loss, " a uniform guess has ln 8 =", np.log(8).round(4))

# backward
loss.backward()  # Step in: the walk over the graph, which calls each Function.backward in turn
wte = model.transformer.wte.weight  # used as embedding and as head: its gradient is the sum of both
print("\nd loss / d wte, a row per token: 3 was an input, never a target; 2 was only one of the logits\n", wte.grad)

# clip
before = wte.data.copy()
norm = optim.clip_grad_norm_(model.parameters(), 1.0)  # Step in: one factor scales all gradients

# step
optimizer.step()  # Step in: Adam.update. Its first step changes every number by about lr, whatever its gradient
print("\ngradient norm", norm, "\nwte moved by\n", wte.data - before)

# Did it help?
print("\nloss before", loss.item(), " after", model.loss(ids, targets).item())
