"""Lesson 4.3.4: loading real weights, and the chain of evidence

Your code, their weights. Loading is translation: names, and a layout that is transposed in OpenAI's files. How do you
know that the result is right? Three questions, each stricter than the one before: do the parts have the right sizes, do
they compute the right numbers, does it write sense? The folder here is a tiny GPT-2 that the transformers library
saved; for the real one: python scripts/verify_gpt2.py --model gpt2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpt import GPT, GPTConfig
from gpt.training.checkpoint import load_run
from gpt.weights import pretrained
from gpt.weights.verification import Comparison, load_trace, trace
from minigrad import nn, no_grad
from scripts.lessons.pictures import Lesson
from scripts.lessons.small_gpt import english, new_gpt, train, write

lesson = Lesson("434_real_weights", __doc__)
ROOT = Path(__file__).resolve().parents[2]
FOLDER, REFERENCE = ROOT / "tests/gpt/golden/gpt2-folder", ROOT / "tests/gpt/golden/gpt2-folder-trace.npz"

# %% The mapping
matches = list(pretrained.report(FOLDER))
for match in matches[:6]:
    print(match)
print(f"... {len(matches)} tensors, {sum(not m.problem for m in matches)} fit")
assert all(not match.problem for match in matches)
print("each shape that fits is a component verified: a wrong number of heads' channels, a missing bias would show here")

# %% Conv1D
there = np.arange(12.0).reshape(3, 4)  # a Conv1D of theirs: x (.., 3) @ there -> (.., 4)
layer = nn.Linear(3, 4, bias=False)
layer.weight.data[...] = there.T
x = np.ones((1, 3), np.float32)
assert np.allclose(layer(nn.Parameter(x)).data, x @ there)
expected = [m.expected for m in matches if m.expected]
transposed = [row.theirs for row in expected if row.transposed]
print(f"{len(transposed)} of the matrices are transposed: {', '.join(transposed[:4])} ...")
square = [
    m.name
    for m in matches
    if m.expected and m.expected.transposed and m.expected.our_shape[0] == m.expected.our_shape[1]
]
print(f"beware of {square[0]}: it is square, and fits untransposed, too")

# %% Structure
model = GPT.from_pretrained(FOLDER)
print(f"this model: {model.num_parameters():,} by counting, {model.config.num_parameters():,} by the formula")
assert model.num_parameters() == model.config.num_parameters()
assert GPTConfig().num_parameters() == 124_439_808
print(f"the real GPT-2: {GPTConfig().num_parameters():,}")

# %% Computation
reference, config = load_trace(REFERENCE)  # made by transformers, in float64
model.to(np.float64)
comparison = Comparison(trace(model, reference.ids, reference.targets), reference, config, tolerance=1e-7)
logits = comparison.activations()[-1]
print(f"logits differ by at most {logits.largest:.0e}; problem: {comparison.problem()}")
assert comparison.problem() is None
right = comparison.activations()

# Now the mistake that the shapes cannot see.
weight = model.transformer.h[0].attn.c_proj.weight
weight.data[...] = weight.data.T.copy()
broken = Comparison(trace(model, reference.ids, reference.targets), reference, config, tolerance=1e-7)
print(f"c_proj of block 0 untransposed: {model.num_parameters():,} parameters, as before, but")
print(f"  {broken.problem()}")
assert broken.problem() is not None and "h.0.attn " in f"{broken.problem()} "
wrong = broken.activations()
weight.data[...] = weight.data.T.copy()
with lesson.picture("difference", "Where two computations part: difference from the reference", size=(11, 4.2)) as axes:
    names = [row.name for row in right]
    axes.semilogy([max(row.relative, 1e-17) for row in right], "o", color="black", markersize=4, label="as loaded")
    axes.semilogy([max(row.relative, 1e-17) for row in wrong], "x", color="black", label="one matrix not transposed")
    axes.axhline(1e-7, linestyle=":", color="0.3", label="tolerance")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set(ylabel="largest difference, of the spread", xlabel="activation, in the order of computing")
    axes.legend(frameon=False)
print("the count verifies the structure, the logits verify the computation; agreeing texts alone would verify neither")

# %% Behaviour
ours = model.generate(reference.ids, len(reference.continuation[0]), temperature=0)
print("greedy continuation, ours:        ", ours[0])
print("greedy continuation, transformers:", reference.continuation[0])
assert ours == reference.continuation

# %% The vessel and the knowledge
demo = ROOT / "runs/demo"
tokenizer, train_ids, _ = english()
empty = new_gpt(len(tokenizer))
print(f"random weights: {write(empty, tokenizer, 'The', 20)}")
if (demo / "config.json").exists():
    full, its_tokenizer = load_run(demo)
    print(f"runs/demo:      {write(full, its_tokenizer, 'The', 30)}")
else:
    train(empty, train_ids, 400)
    print(f"400 steps:      {write(empty, tokenizer, 'The', 30)}")
    print("(python scripts/demo.py trains a better one in three minutes)")
with no_grad():
    assert empty(train_ids[None, :4]).shape == (1, 4, len(tokenizer))
print("the same lines of code; only the numbers differ. With GPT-2's, it writes as GPT-2 does:")
print('  python scripts/generate.py --model gpt2 --prompt "The"')

# %% [markdown]
# ## What next
#
# - read: gpt/weights/gpt2_huggingface.py: the table of names; gpt/weights/verification.py: where two computations
#   part
# - try: `python scripts/verify_gpt2.py --model tests/gpt/golden/gpt2-folder`
# - break: swap two blocks after loading, or set layer_norm_epsilon to 1e-3: what does problem() say?
# - lesson: `python scripts/lesson.py 441`
