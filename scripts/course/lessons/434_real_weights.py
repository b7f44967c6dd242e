"""Lesson 4.3.4: loading real weights, and the chain of evidence

Your code, their weights. Loading is translation: of names, and of a layout that is transposed in OpenAI's files. How do
you know that the result is right? By a chain of evidence: the parameter count, the shapes, the activations of every
layer, and the text that the model writes. Each link finds mistakes that the links before it miss. This lesson plants
six mistakes and shows which link finds which. They are planted in a tiny GPT-2 with random weights that Hugging Face's
transformers library saved; the real weights, at the end, are SmolLM2's. For GPT-2's own: python scripts/verify_gpt2.py
--model gpt2.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt import GPT, GPTConfig
from gpt.training.loading import load_model
from gpt.weights import pretrained
from gpt.weights.gpt2_huggingface import from_json
from gpt.weights.safetensors_file import SafetensorsFile
from minigrad import nn, no_grad
from scripts.course.lessons.small_gpt import english, new_gpt, train_once, validation_loss, write
from scripts.course.pictures import Lesson
from scripts.shared.verification import Comparison, load_trace, trace

lesson = Lesson("434_real_weights", __doc__)
rng = np.random.default_rng(lesson.seed)
ROOT = Path(__file__).resolve().parents[3]
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

# %%
del header["__metadata__"]  # notes of whoever wrote the file
numbers, by_hand = data[8 + size :], {}
for name, entry in header.items():
    start, end = entry["data_offsets"]
    by_hand[name] = np.frombuffer(numbers[start:end], "<f4").reshape(entry["shape"])  # "F32"
with SafetensorsFile(FOLDER / "model.safetensors") as file:
    theirs = {name: file.read(name) for name in file.entries}
assert theirs.keys() == by_hand.keys() and all(np.array_equal(theirs[name], by_hand[name]) for name in theirs)
first = by_hand["transformer.wte.weight"][0, :3]
print(f"read by hand, its first numbers are {first}, as in gpt/weights/safetensors_file.py")

# %% [markdown]
# ## Names: from Hugging Face's to ours
#
# V tokens, T positions, C channels, and one row per block for those with an N:
#
# | Hugging Face | shape there | in lesson 4.3.1 | in gpt/model/gpt2.py | shape here |
# |---|---|---|---|---|
# | wte.weight | (V, C) | tokens | transformer.wte | (V, C) |
# | wpe.weight | (T, C) | positions | transformer.wpe | (T, C) |
# | h.N.ln_1.weight, .bias | (C) | norm_1 | transformer.h.N.ln_1 | (C) |
# | h.N.attn.c_attn.weight | (C, 3C) | query, key, value of all heads | transformer.h.N.attn.c_attn | (3C, C) |
# | h.N.attn.c_proj.weight | (C, C) | attention.projection | transformer.h.N.attn.c_proj | (C, C) |
# | h.N.ln_2.weight, .bias | (C) | norm_2 | transformer.h.N.ln_2 | (C) |
# | h.N.mlp.c_fc.weight | (C, 4C) | feed_forward.wide | transformer.h.N.mlp.c_fc | (4C, C) |
# | h.N.mlp.c_proj.weight | (4C, C) | feed_forward.projection | transformer.h.N.mlp.c_proj | (C, 4C) |
# | ln_f.weight, .bias | (C) | norm | transformer.ln_f | (C) |
#
# The four linear layers also have a bias, which is a vector and needs no transposing. **The mapping is the
# verification**: each tensor that finds a place of its own name and shape proves one component of your architecture. A
# missing bias, a wrong width or a layer too many is a tensor without a place, or a place without a tensor.
#
# Predict: the last layer of a GPT-2 has a matrix of V x C. Under which name is it in the file?

# %%
matches = list(pretrained.report(FOLDER))
for match in matches[:6]:
    print(match)
print(f"... {len(matches)} tensors, {sum(not m.problem for m in matches)} fit")
assert all(not match.problem for match in matches)
print("names with lm_head:", [name for name in theirs if "lm_head" in name])
model = GPT.from_pretrained(FOLDER)
assert model.lm_head.weight is model.transformer.wte.weight and not any("lm_head" in name for name in theirs)

# %% [markdown]
# Answer: it has no entry. The output layer is tied to the embedding: it is the same matrix as wte.weight, which is
# stored once. A loader that looks for lm_head.weight must take wte.weight.

# %% Transposed: (in, out) there, (out, in) here
# OpenAI wrote GPT-2's linear layers as convolutions of width 1, `Conv1D`, which compute x @ W + b with W of shape
# (in, out). Our `nn.Linear`, as PyTorch's, computes x @ W.T + b with W of shape (out, in).
#
# Predict: a loader forgets to transpose. For which of the four layers of a block does no shape complain?
there = rng.standard_normal((3, 4))  # the weight of a Conv1D in transformers: x (.., 3) @ there -> (.., 4)
layer = nn.Linear(3, 4, bias=False)
layer.weight.data[...] = there.T
x = rng.standard_normal((1, 3)).astype(np.float32)
print("theirs", x @ there, " ours", layer(nn.Parameter(x)).data)
assert np.allclose(layer(nn.Parameter(x)).data, x @ there, atol=1e-5)
for row in [match.expected for match in matches if match.expected and match.expected.transposed][:4]:
    print(f"  {row.theirs:22} {row.their_shape} -> {row.our_shape}")

# %% [markdown]
# Answer: attn.c_proj, because C x C is square. Transposed or not, it fits.

# %% A loader in a dozen lines
# Translate the names, transpose four matrices, and hand them over.
CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
State = dict[str, np.ndarray]


def translate(theirs: State) -> State:
    """Their tensors under our names, in our layout."""
    state = {}
    for name, array in theirs.items():
        ours = "transformer." + name.removeprefix("transformer.")  # OpenAI's own files leave the prefix out
        state[ours] = array.T if name.endswith(CONV1D) else array  # (in, out) -> (out, in)
    return state


# %%
config = from_json(json.loads((FOLDER / "config.json").read_text(encoding="utf-8")))
naive = GPT(config).eval()  # without dropout, as it will be used
naive.load_state_dict(translate(theirs))
ids = rng.integers(0, config.vocab_size, (1, 8))
with no_grad():
    print(f"naive and real loader differ by {np.abs(naive(ids).data - model(ids).data).max():.0e}")
    assert np.array_equal(naive(ids).data, model(ids).data)

# %% [markdown]
# ## The chain: four links
#
# **The parameter count verifies the structure; comparing logits verifies the computation.** In full:
#
# 1. *count*: the tensors have as many numbers as the formula V C + T C + L (12 C^2 + 13 C) + 2 C says
# 2. *shapes*: each tensor has a place with its name and its shape
# 3. *activations*: on the same tokens, each layer computes what a reference computes, up to the logits
# 4. *generation*: the greedy continuation is that of the reference

# %%
reference, _ = load_trace(REFERENCE)  # the activations that transformers computed, in float64
Generate = Callable[[GPT, list[int]], list[int]]


def greedy(model: GPT, ids: list[int], context: int = 24) -> list[int]:
    """Continue by 8 tokens, the most likely one each time, reading the last `context` tokens."""
    new: list[int] = []
    for _ in range(8):
        with no_grad():
            new.append(int(model(np.array([(ids + new)[-context:]])).data[0, -1].argmax()))
    return new


def chain(state: State, config: GPTConfig, generate: Generate = greedy) -> dict[str, str]:
    """The problem that each link finds, or "". Without the right shapes there is no model to run."""
    count = sum(array.size for array in state.values())
    problems = {"count": "" if count == config.num_parameters() else f"{count:,}, not {config.num_parameters():,}"}
    model = GPT(config).eval()
    shapes = {name: p.shape for name, p in model.named_parameters()}
    wrong = [name for name in shapes | state if name not in state or shapes.get(name) != state[name].shape]
    problems["shapes"] = ", ".join(wrong)
    if not wrong:
        model.load_state_dict(state)
        model.to(np.float64)
        comparison = Comparison(trace(model, reference.ids, reference.targets), reference, config, tolerance=1e-7)
        problems["activations"] = comparison.problem() or ""
        texts = [generate(model, row) for row in reference.ids.tolist()]
        problems["generation"] = "" if texts == reference.continuation else "another continuation"
    return problems


# %%
right = translate(theirs)
print(chain(right, config))
assert not any(chain(right, config).values())

# %% Six mistakes
# Predict: which link is the first to find each of them?
#
# | mistake | |
# |---|---|
# | no bias | the loader leaves out one bias |
# | c_fc | it does not transpose a matrix of C x 4C |
# | c_proj | it does not transpose a matrix of C x C |
# | blocks | it exchanges two blocks |
# | GELU | the model computes GELU without the tanh |
# | context | the generation loop reads the last token only |
FC, PROJ = "transformer.h.0.mlp.c_fc.weight", "transformer.h.0.attn.c_proj.weight"
no_bias = {name: array for name, array in right.items() if name != "transformer.h.0.mlp.c_fc.bias"}
exchanged = {name.replace(".h.0.", ".h.X.").replace(".h.1.", ".h.0.").replace(".h.X.", ".h.1."): array
             for name, array in right.items()}  # fmt: skip
found = {
    "no bias": chain(no_bias, config),
    "c_fc": chain({**right, FC: right[FC].T}, config),
    "c_proj": chain({**right, PROJ: right[PROJ].T}, config),
    "blocks": chain(exchanged, config),
    "GELU": chain(right, dataclasses.replace(config, activation="gelu")),
    "context": chain(right, config, lambda model, ids: greedy(model, ids, context=1)),
}

# %%
LINKS = ("count", "shapes", "activations", "generation")
print(f"{'':9}" + "".join(f"{link:>13}" for link in LINKS))
for mistake, problems in found.items():
    marks = [("found" if problems[link] else "-") if link in problems else "(no model)" for link in LINKS]
    print(f"{mistake:9}" + "".join(f"{mark:>13}" for mark in marks))
for mistake, problems in found.items():
    print(f"{mistake}: {next(filter(None, problems.values())).partition(':')[0]}")
print(f"and where to look, for c_proj:{found['c_proj']['activations'].partition(':')[2]}")
first = {mistake: next(link for link in LINKS if problems[link]) for mistake, problems in found.items()}
assert list(first.values()) == ["count", "shapes", *["activations"] * 3, "generation"]
assert not found["GELU"]["generation"]  # the last link alone would miss it
assert "h.0.attn " in found["c_proj"]["activations"]  # and it says where

# %% [markdown]
# Answer: each link finds something that the links before it let pass. A count does not see a matrix that lies on its
# side; shapes do not see a square one, an exchanged order or another formula; activations see only the model, not the
# loop around it. And the other way around, a text that looks right proves little: with the wrong GELU the greedy
# continuation is the same.

# %% The transformers library, as the source of weights
# `GPT2LMHeadModel.from_pretrained` reads this folder, and with "gpt2" it downloads the real weights. Its logits for 16
# tokens are kept in the reference above. Where the library is installed, it is also asked again.
their_logits = {"kept": reference.activations["logits"]}
try:
    from transformers import GPT2LMHeadModel

    library = GPT2LMHeadModel.from_pretrained(FOLDER)
    their_ids = library.dummy_inputs["input_ids"].new_tensor(reference.ids)  # their kind of tensor, PyTorch's
    their_logits["asked now"] = library(their_ids).logits.detach().numpy()
except ImportError:  # of transformers, or of torch, which it needs
    print("(not asked again, because transformers is not installed: pip install transformers torch)")
with no_grad():
    our_logits = naive(reference.ids).data
for when, theirs_now in their_logits.items():
    print(f"logits {our_logits.shape}, ours and theirs ({when}): {np.abs(our_logits - theirs_now).max():.0e} apart")
    assert np.allclose(our_logits, theirs_now, rtol=1e-4, atol=1e-4)

# %% The architecture is the vessel, the weights are the knowledge
# Train a small GPT. Then keep all its numbers, but shuffle them inside each tensor: the architecture, the parameter
# count, and the mean and standard deviation of each tensor stay the same.
#
# Predict: of what the model has learned, how much is left?
tokenizer, train_ids, val_ids = english()
vessel = new_gpt(len(tokenizer), lesson.seed)
random_loss = validation_loss(vessel, val_ids)
print(f"random weights:             loss {random_loss:.2f}  {write(vessel, tokenizer, 'The', 20)}")
train_once(vessel, train_ids, 400)
trained_loss = validation_loss(vessel, val_ids)
print(f"after 400 steps:            loss {trained_loss:.2f}  {write(vessel, tokenizer, 'The', 30)}")
for p in vessel.parameters():
    p.data[...] = rng.permutation(p.data.ravel()).reshape(p.shape)
shuffled_loss = validation_loss(vessel, val_ids)
print(f"the same numbers, shuffled: loss {shuffled_loss:.2f}  {write(vessel, tokenizer, 'The', 20)}")
assert trained_loss < min(random_loss, shuffled_loss) - 1.5 and shuffled_loss > random_loss - 0.2

# %% [markdown]
# Answer: nothing. **The architecture is the vessel; the weights are the knowledge**: which number stands where.

# %% The same chain with real weights
# SmolLM2 is a Llama of 135 million parameters that has read two trillion tokens. transformers has read its file, too.
# What it computed is kept in tests/gpt/golden/smollm2.npz: the logits for a paragraph of "Alice in Wonderland", and how
# it goes on from some beginnings, taking the most likely token each time.
#
# Predict: how does a model that has read so much go on from "The capital of Norway is"?
kept = np.load(ROOT / "tests/gpt/golden/smollm2.npz")
beginnings, theirs_written = kept["prompts"][3:6].tolist(), kept["greedy"][3:6, :20].tolist()


def as_text() -> list[str]:
    """What transformers wrote with SmolLM2's weights; only the tokenizer is ours."""
    _, tokenizer = load_model("smollm2")
    return [tokenizer.decode(tokens) for tokens in theirs_written]


for beginning, text in zip(beginnings, lesson.measured("smollm2", as_text)):
    print(f"  {beginning!r}: {text!r}")

# %%
try:
    real, its_tokenizer = load_model("smollm2")
except (FileNotFoundError, ValueError) as error:  # without the package, or without the library that reads its file
    print(f"({error})\n(so our own code does not compute the same numbers in this run)")
else:
    with no_grad():
        ours = real(kept["ids"]).data[0, :, kept["columns"]].T  # (157 tokens, 200 of the 49,152 logits of each)
    apart = np.abs(ours - kept["logits"]).max() / kept["std"].mean()
    written = [real.generate([its_tokenizer.encode(text)], 20, temperature=0)[0] for text in beginnings]
    print(f"count      {real.num_parameters():,}, by the formula {real.config.num_parameters():,}")
    print(f"logits     {ours.shape}: at most {apart:.0e} of their standard deviation apart")
    print(f"generation the same tokens: {written == theirs_written}")
    assert real.num_parameters() == real.config.num_parameters() and apart < 1e-3 and written == theirs_written

# %% [markdown]
# Answer: with "Oslo", and in whole sentences, of which the second is wrong. The chain says nothing about that: count,
# logits and text show that our code computes what theirs does with these weights, not that the weights are right about
# the world. With GPT-2's weights: `python scripts/generate.py --model gpt2 --prompt "The"`
#
# ## What next
#
# - exercise: `python scripts/exercise.py start load_weights`: from Hugging Face's names to your own
# - read: gpt/weights/gpt2_huggingface.py: the table of names; scripts/shared/verification.py: where two computations
#   differ first
# - try: `python scripts/verify_gpt2.py --model tests/gpt/golden/gpt2-folder`. Expect: "verified". The perplexity is
#   worse than chance, as it should be: these weights are random numbers in GPT-2's format.
# - break: give `dataclasses.replace` above another layer_norm_epsilon=1e-6. Expect: count and shapes find nothing, and
#   h.0.ln_1, the first layer norm, is the first activation that differs.
# - lesson: `python scripts/lesson.py 435`
