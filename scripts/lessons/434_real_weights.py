"""Lesson 4.3.4: loading real weights, and the chain of evidence

Your code, their weights. Loading is translation: of names, and of a layout that is transposed in OpenAI's files. How do
you know that the result is right? By a chain of evidence: the parts have the right sizes, they compute the right
numbers, and the model writes sensible text. The folder used here is a tiny GPT-2 with random weights that Hugging
Face's transformers library saved. For the real one: python scripts/verify_gpt2.py --model gpt2.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gpt import GPT, GPTConfig
from gpt.console import printable
from gpt.training.evaluation import token_losses
from gpt.training.loading import load_model
from gpt.weights import pretrained
from gpt.weights.safetensors_file import SafetensorsFile
from gpt.weights.verification import Comparison, load_trace, trace
from minigrad import nn, no_grad
from scripts.lessons.small_gpt import english, new_gpt, train_once, validation_loss, write
from scripts.pages.pictures import Lesson

lesson = Lesson("434_real_weights", __doc__)
ROOT = Path(__file__).resolve().parents[2]
FOLDER, REFERENCE = ROOT / "tests/gpt/golden/gpt2-folder", ROOT / "tests/gpt/golden/gpt2-folder-trace.npz"

# %% The file: a header, then numbers
# A safetensors file starts with the length N of its header in 8 bytes. The next N bytes are JSON: for each tensor its
# dtype, its shape, and where its bytes are. Everything after that is the numbers, row by row. So one tensor can be read
# without the others, and nothing in the file can run as a program, as a pickle can.
data = (FOLDER / "model.safetensors").read_bytes()
size = int.from_bytes(data[:8], "little")
header = json.loads(data[8 : 8 + size])
entry = header["transformer.wte.weight"]
print(f"{len(data):,} bytes, of which {size:,} are the header; the entry of transformer.wte.weight is\n  {entry}")
start, end = entry["data_offsets"]
by_hand = np.frombuffer(data[8 + size + start : 8 + size + end], "<f4").reshape(entry["shape"])
with SafetensorsFile(FOLDER / "model.safetensors") as file:
    assert np.array_equal(file.read("transformer.wte.weight"), by_hand)
print(f"read by hand, its first numbers are {by_hand[0, :3]}, as in gpt/weights/safetensors_file.py")

# %% Names and shapes: the mapping is the verification
# Each shape that fits verifies a component: a missing bias or a wrong width would show here.
matches = list(pretrained.report(FOLDER))
for match in matches[:6]:
    print(match)
print(f"... {len(matches)} tensors, {sum(not m.problem for m in matches)} fit")
assert all(not match.problem for match in matches)

# %% Transposed: (in, out) there, (out, in) here
# Beware of square matrices: they also fit without transposing.
there = np.arange(12.0).reshape(3, 4)  # the weight of a Conv1D in transformers: x (.., 3) @ there -> (.., 4)
layer = nn.Linear(3, 4, bias=False)
layer.weight.data[...] = there.T
x = np.ones((1, 3), np.float32)
assert np.allclose(layer(nn.Parameter(x)).data, x @ there)
expected = [m.expected for m in matches if m.expected]
transposed = [row.theirs for row in expected if row.transposed]
print(f"{len(transposed)} of the matrices are transposed: {', '.join(transposed[:4])} ...")
square = [row.theirs for row in expected if row.transposed and row.our_shape[0] == row.our_shape[1]]
print(f"square: {square[0]}")

# %% Evidence 1, structure: the parameter count
model = GPT.from_pretrained(FOLDER)
print(f"this model: {model.num_parameters():,} by counting, {model.config.num_parameters():,} by the formula")
assert model.num_parameters() == model.config.num_parameters()
assert GPTConfig().num_parameters() == 124_439_808
print(f"the real GPT-2: {GPTConfig().num_parameters():,}")

# %% Evidence 2, computation: the same numbers at every layer
# One matrix, c_proj of block 0, is square. Suppose that a loader forgets to transpose it.
#
# Predict: which notices, the parameter count or the comparison of activations?
reference, config = load_trace(REFERENCE)  # made by transformers, in float64
model.to(np.float64)
comparison = Comparison(trace(model, reference.ids, reference.targets), reference, config, tolerance=1e-7)
logits = comparison.activations()[-1]
print(f"logits differ by at most {logits.largest:.0e}; problem: {comparison.problem()}")
assert comparison.problem() is None
right = comparison.activations()

# Now the mistake that shapes cannot show.
weight = model.transformer.h[0].attn.c_proj.weight
weight.data[...] = weight.data.T.copy()
broken = Comparison(trace(model, reference.ids, reference.targets), reference, config, tolerance=1e-7)
print(f"with c_proj of block 0 not transposed there are {model.num_parameters():,} parameters, as before, but")
print(f"  {broken.problem()}")
assert broken.problem() is not None and "h.0.attn " in f"{broken.problem()} "
wrong = broken.activations()
weight.data[...] = weight.data.T.copy()
with lesson.picture("difference", "Difference from the reference, activation by activation", size=(11, 4.2)) as axes:
    names = [row.name for row in right]
    axes.semilogy([max(row.relative, 1e-17) for row in right], "o", color="black", markersize=4, label="as loaded")
    axes.semilogy([max(row.relative, 1e-17) for row in wrong], "x", color="black", label="one matrix not transposed")
    axes.axhline(1e-7, linestyle=":", color="0.3", label="tolerance")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set(ylabel="largest difference (in standard deviations)", xlabel="activation, in the order of computation")

# %% [markdown]
# Answer: only the comparison, and it says where: the attention of block 0 is the first activation that differs. The
# parameter count verifies the structure; the logits verify the computation.

# %% The transformers library, as the source of weights
try:
    from transformers import GPT2LMHeadModel

    theirs = GPT2LMHeadModel.from_pretrained(FOLDER)  # the same call with "gpt2" downloads the real weights
except ImportError:  # of transformers, or of torch, which it needs
    print("(transformers is not installed: pip install transformers torch; then this part compares it with ours, live)")
else:
    state = theirs.state_dict()
    for name in ("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight"):
        ours_shape = dict(model.named_parameters())[name].shape
        print(f"  {name:36} theirs {tuple(state[name].shape)}, ours {ours_shape}")
    assert state["transformer.h.0.attn.c_attn.weight"].T.shape == model.transformer.h[0].attn.c_attn.weight.shape
    their_ids = theirs.dummy_inputs["input_ids"].new_tensor(reference.ids)  # their kind of tensor, PyTorch's
    their_logits = theirs(their_ids).logits.detach().numpy()
    with no_grad():
        our_logits = GPT.from_pretrained(FOLDER)(reference.ids).data
    print(f"  logits {our_logits.shape}: ours and theirs differ by at most")
    print(f"  {np.abs(our_logits - their_logits).max():.0e}")
    assert np.allclose(our_logits, their_logits, rtol=1e-4, atol=1e-4)

# %% Evidence 3, behavior: what it writes
ours = model.generate(reference.ids, len(reference.continuation[0]), temperature=0)
print("greedy continuation, ours:        ", ours[0])
print("greedy continuation, transformers:", reference.continuation[0])
assert ours == reference.continuation

# %% The architecture is the vessel, the weights are the knowledge
tokenizer, train_ids, val_ids = english()
vessel = new_gpt(len(tokenizer))
print(f"the same code with random weights: {write(vessel, tokenizer, 'The', 20)}")
random_loss = validation_loss(vessel, val_ids)
train_once(vessel, train_ids, 400)
print(f"after 400 steps of training:       {write(vessel, tokenizer, 'The', 30)}")
print(f"loss on text that it has not seen: {random_loss:.2f} -> {validation_loss(vessel, val_ids):.2f}")
assert validation_loss(vessel, val_ids) < random_loss - 1.5

# %% Coherent text: a real model, if it is installed
try:
    real, its_tokenizer = load_model("smollm2")
except (FileNotFoundError, ValueError) as error:  # without the package, or without the library that reads its file
    print(f"({error})")
    print("(so the last link of the chain, coherent generation, is missing in this run)")
else:
    assert real.num_parameters() == real.config.num_parameters()  # structure
    for prompt, expected in (("The capital of France is", "Paris"), ("The opposite of hot is", "cold")):
        new = real.generate([its_tokenizer.encode(prompt)], 16, temperature=0)[0]
        text = its_tokenizer.decode(new)
        print(f"SmolLM2, {real.num_parameters():,} parameters: {prompt}{' '.join(printable(text).split())!r}")
        assert expected in text, "the weights are loaded wrongly, or the text is not what this model writes"
    sentence = "The cat sat on the mat and looked out of the window at the birds in the garden."
    words = sentence.split()
    shuffled = " ".join(np.random.default_rng(0).permutation(words))
    losses = [token_losses(real, np.array(its_tokenizer.encode(text))).mean() for text in (sentence, shuffled)]
    print(f"its loss on an English sentence is {losses[0]:.2f}, and on the same words shuffled {losses[1]:.2f}")
    assert losses[0] < losses[1] - 1

# %% [markdown]
# The architecture is the vessel, the weights are the knowledge. With GPT-2's weights:
# `python scripts/generate.py --model gpt2 --prompt "The"`
#
# ## What next
#
# - exercise: `python scripts/exercise.py start attention`: which of your mistakes would the parameter count notice?
# - read: gpt/weights/gpt2_huggingface.py: the table of names; gpt/weights/verification.py: where two computations
#   differ first
# - try: `python scripts/verify_gpt2.py --model tests/gpt/golden/gpt2-folder`. Expect: "verified". The perplexity is
#   worse than chance, as it should be: these weights are random numbers in GPT-2's format.
# - break: swap two blocks after loading. Expect: problem() names h.0.ln_1, the first layer norm, as the first
#   activation that differs, and tells you to look at its weight, its bias, epsilon and the order of the blocks.
# - lesson: `python scripts/lesson.py 441`
