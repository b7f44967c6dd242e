"""Lesson 4.4.4: LoRA and quantization, or fine-tuning a large model on a small machine

Two problems, two solutions. Training holds much more than the weights: train a small low-rank update instead (LoRA).
The weights alone may be too large: store them in eight or four bits (quantization). QLoRA does both.
Hu et al. 2022 (LoRA); Biderman et al. 2024 (LoRA learns less and forgets less); Dettmers et al. 2022 and 2023
(LLM.int8(), QLoRA); Frantar et al. 2022 (GPTQ); Lin et al. 2024 (AWQ).
"""

import copy
import itertools
import timeit
from functools import partial
from typing import Any

import numpy as np

from finetune import LoRAConfig, apply_lora, merge_lora
from finetune.adapters.lora import LoRALinear, adapter_parameters
from finetune.adapters.qlora import apply_qlora
from finetune.quantization import QuantizationConfig, memory, output_error, quantize, search_scales
from finetune.quantization.awq import scale_block
from finetune.quantization.calibration import Reader
from finetune.quantization.gptq import gptq
from finetune.quantization.nf4 import nf4, nf4_levels
from finetune.quantization.rounding import absmax, int8_product, outlier_columns, relative_error, zero_point
from gpt import GPTConfig, accounting
from gpt.corpora.python_corpus import python_code
from gpt.weights.gguf_file import BLOCKS, GGUFTensor, dequantize
from minigrad import Tensor, no_grad, use_kernels
from scripts.course.lessons.small_gpt import english, new_gpt, train, train_once, validation_loss
from scripts.course.pictures import Lesson

lesson = Lesson("444_lora_quantization", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% The memory wall
# A consumer GPU has 24 GB. The weights of a model with 7 billion parameters are 14 GB in bfloat16. Training also holds
# a gradient for each, in bfloat16 here, and Adam's two moments in float32.
#
# Predict: can this GPU fine-tune the whole model? Which part takes the most memory?
N = 7_000_000_000

# %%
full = accounting.training_memory(N, weights="bfloat16", gradients="bfloat16")
for name, size in full.items():
    print(f"  {name:10} {size / N:2.0f} bytes x 7 billion = {size / 1e9:5.1f} GB")
total = sum(full.values())
print(f"together {total / 1e9:.0f} GB, {full['optimizer'] / total:.0%} of it Adam's moments; "
      f"with a float32 copy of the weights {(total + 4 * N) / 1e9:.0f} GB")  # fmt: skip
assert total == 84e9 and 3 * full["optimizer"] == 2 * total

# %% [markdown]
# Answer: no. It takes 84 GB, 12 bytes for each parameter, and two thirds of them are Adam's moments. This is the
# *memory wall*: the model that the GPU can use is far larger than the one that it can train. And 12 is the usual count,
# but a low one. Lesson 433 has shown why the weights that add up small steps stay in float32. With this copy, it is 16
# bytes.

# %% A large matrix as the product of two thin ones
# Predict: a matrix of 768 x 768 is replaced by (768, 8) @ (8, 768). How many times fewer numbers are that?

# %%
thin = adapter_parameters(768, 768, r=8)
print(f"a 768 x 768 matrix: {768 * 768:,} numbers; (768, 8) @ (8, 768): {thin:,}, {768 * 768 / thin:.0f} times fewer")
assert thin == np.zeros((768, 8)).size + np.zeros((8, 768)).size == 768 * 768 / 48

# %% [markdown]
# Answer: 48 times, 12,288 in place of 589,824. A product through 8 dimensions has rank 8 at most. LoRA's assumption:
# the change that fine-tuning makes to a weight matrix needs few directions.

# %% A frozen model with a trainable low-rank update
# LoRA, low-rank adaptation, puts an *adapter* beside a weight matrix W of shape (out, in):
#
#     h = W x + (alpha / r) B A x            A (r, in), B (out, r); alpha / r scales the update
#
# W is frozen: only A and B are trained. B is zero at first, so the model starts as it was. At the end W + (alpha / r) B
# A is merged into one matrix: a plain model again, with no extra cost. An adapter is a narrow detour beside the road:
# most of the traffic still takes the road.
#
# A small GPT has learned English; now it learns Python code.
tokenizer, train_ids, val_ids = english()
base = new_gpt(len(tokenizer), lesson.seed)
untrained = {name: p.data.copy() for name, p in base.named_parameters()}
train_once(base, train_ids, 300)
code = np.array(tokenizer.encode(python_code(150_000)))
code_train, code_val = code[: len(code) * 9 // 10], code[len(code) * 9 // 10 :]
print(f"before: loss on English {validation_loss(base, val_ids):.2f}, on code {validation_loss(base, code_val):.2f}")

# %%
x = train_ids[None, :16]
adapted = copy.deepcopy(base)
layers = apply_lora(adapted, LoRAConfig(r=8, alpha=16, slices=("q", "v")))  # beside W_Q and W_V
with no_grad():
    untouched = np.abs(adapted(x).data - base(x).data).max()
print(f"new adapters: logits differ by {untouched}")
assert untouched == 0 and all((layer.lora_B.data == 0).all() for layer in layers.values())

# %% [markdown]
# Predict: with 3 % of the parameters, how much of the code will LoRA learn, and how much of its English will it forget?

# %%
tuned, careful = copy.deepcopy(base), copy.deepcopy(base)
old = {name: p.data.copy() for name, p in base.named_parameters()}
moved, after = {}, {}
ways = [("full fine-tuning", tuned, 1e-3), ("the same, a tenth of the rate", careful, 1e-4)]
for name, model, rate in (*ways, ("LoRA, rank 8, W_Q and W_V", adapted, 1e-2)):
    with use_kernels("fast"):
        train(model, code_train, 200, learning_rate=rate, weight_decay=0.0, seed=lesson.seed)
    now = {key.replace(".base.", "."): p.data for key, p in model.named_parameters()}
    moved[name] = max(np.abs(now[key] - weight).max() for key, weight in old.items())
    after[name] = validation_loss(model, code_val), validation_loss(model, val_ids)
    share = model.num_parameters(trainable_only=True) / base.num_parameters()
    print(f"{name}, {share:.1%} of the parameters: loss on code {after[name][0]:.2f}, "
          f"on English {after[name][1]:.2f}; W changed by up to {moved[name]:.2f}")  # fmt: skip
full_change, _, frozen_change = moved.values()
assert frozen_change == 0 < full_change
in_full, in_careful, in_lora = after.values()
assert in_full[0] < in_lora[0] < (in_full[0] + validation_loss(base, code_val)) / 2 and in_lora[1] < in_full[1]
assert in_careful[0] < in_lora[0] and in_careful[1] < in_lora[1]

# %%
merged = copy.deepcopy(adapted)
merge_lora(merged)  # W + (alpha / r) B A is one matrix again
with no_grad():
    difference = np.abs(merged(x).data - adapted(x).data).max()
print(f"merged: logits differ by {difference:.0e}")
assert difference < 1e-3 and not any(isinstance(m, LoRALinear) for m in merged.modules())
layer = layers["transformer.h.0.attn.c_attn"]  # one B and one A for W_Q, and one of each for W_V, below each other
products = [B @ A for B, A in zip(np.split(layer.lora_B.data, 2), np.split(layer.lora_A.data, 2))]
changed = np.split(merged.transformer.h[0].attn.c_attn.weight.data - old["transformer.h.0.attn.c_attn.weight"], 3)
for name, change, product in zip(("W_Q", "W_K", "W_V"), changed, (products[0], np.zeros((64, 64)), products[1])):
    rank = np.linalg.matrix_rank(change, tol=1e-4)
    print(f"  {name}: a change of rank {rank}, up to {np.abs(change).max():.3f}; B A up to {np.abs(product).max():.3f}")
    assert np.allclose(change, 16 / 8 * product, atol=1e-5) and rank <= 8  # alpha = 16, r = 8

# %% [markdown]
# Answer: most of it, but less than full fine-tuning; and it forgets less of its English. But that is not a merit of low
# rank: full fine-tuning at a tenth of the rate learns more of the code than LoRA, and forgets less. What is forgotten
# depends on how far a model moves. (LoRA also learned less and forgot less in a model of 7 billion parameters: Biderman
# et al. 2024, who plot the one against the other.)
#
# What LoRA does have: every weight of the base model is what it was, to the last bit. The update stands beside it. It
# can be merged, exchanged, or removed, and then all of the English is back. A frozen backbone (lesson 441) forbids
# every change below the head. **LoRA is the surgical version of 'freeze the backbone'**: it changes each layer, in a
# few directions only.
#
# ## Why does LoRA work?
#
# LoRA assumes that fine-tuning changes a matrix in few directions. Full fine-tuning was free to use all of them, so its
# change can be looked at. The singular value decomposition writes a change D as a sum of directions, strongest first:
#
#     D = Σ_k s_k u_k v_kᵀ             the share of the first r: Σ_{k ≤ r} s_k² / Σ_k s_k²
#
# Predict: each change has 64 directions. What share do the 8 strongest hold? And in a random matrix of the same size?

# %%
changes = {name: p.data - old[name] for name, p in tuned.named_parameters() if p.ndim == 2 and ".h." in name}


def spectra_of(matrices: Any) -> list[np.ndarray]:
    return [np.linalg.svd(matrix, compute_uv=False) ** 2 for matrix in matrices]


controls = {
    "the change": spectra_of(changes.values()),
    "its numbers, shuffled": spectra_of(rng.permutation(c.ravel()).reshape(c.shape) for c in changes.values()),
    "a random matrix": spectra_of(rng.standard_normal(c.shape) for c in changes.values()),
}
held = {name: np.mean([s[:8].sum() / s.sum() for s in found]) for name, found in controls.items()}
for name, share in held.items():
    print(f"  {name:24}{share:4.0%} in its 8 strongest directions")
kept = held.pop("the change")
assert kept > max(held.values()) + 0.2

# %% [markdown]
# A share of squares is not yet a loss. So keep only r directions of each change of full fine-tuning, the strongest ones
# or random ones (the mean of five draws), and measure the loss on code. (Embeddings, norms and biases keep their change
# in every row.)


# %%
def loss_with(r: int, strongest: bool) -> float:
    """The loss on code with r directions of the change of each matrix."""
    model = copy.deepcopy(tuned)
    for name, p in model.named_parameters():
        if name in changes:
            u, s, v = np.linalg.svd(changes[name], full_matrices=False)
            chosen = np.arange(r) if strongest else rng.permutation(len(s))[:r]
            p.data = old[name] + (u[:, chosen] * s[chosen]) @ v[chosen]
    return validation_loss(model, code_val)


print("directions    strongest   random")
truncated = {r: (loss_with(r, True), np.mean([loss_with(r, False) for _ in range(5)])) for r in (0, 1, 8, 64)}
for r, (strongest, random) in truncated.items():
    print(f"{r:10}{strongest:13.2f}{random:9.2f}")
gained, by_chance = (truncated[0][0] - loss for loss in truncated[8])
everything = truncated[0][0] - truncated[64][0]
assert gained > 0.75 * everything and by_chance < 0.5 * everything

# %%
for rate in (1e-3, 3e-3):  # the control: the same steps, but from random weights, also at the rate that is better there
    scratch = new_gpt(len(tokenizer), lesson.seed)
    with use_kernels("fast"):
        train(scratch, code_train, 200, learning_rate=rate, weight_decay=0.0, seed=lesson.seed)
    moves = spectra_of(p.data - untrained[name] for name, p in scratch.named_parameters() if name in changes)
    concentrated, reached = np.mean([s[:8].sum() / s.sum() for s in moves]), validation_loss(scratch, code_val)
    print(f"from random weights, rate {rate}: {concentrated:.0%} in 8 directions, loss on code {reached:.2f}")
    assert in_full[0] < reached - 0.05 and concentrated > max(held.values()) + 0.2

# %% [markdown]
# Answer: most of it. In a random matrix it is a little over a quarter, and shuffled numbers are no different. The 8
# strongest directions also do nearly all of the work; 8 random ones do not. That is why a small rank is enough. It is
# not special to fine-tuning: a model that starts from random weights also moves in few directions. But the same steps
# reach a lower loss from pretrained weights. **Finetuning is a refinement, not a revolution**: it uses
# what the model has, and moves it in few directions.

# %% LoRA against full fine-tuning, with few examples
# Now there are only 1,000 or 8,000 tokens of code, and 100 steps. Each method tries three learning rates, on five
# seeds (0 to 4).
#
# Predict: which method learns the examples by heart? And which is better on other code, at its best rate and at its
# worst?
METHODS: dict[str, tuple[LoRAConfig | None, tuple[float, ...]]] = {  # and the learning rates that are tried
    "full": (None, (3e-4, 1e-3, 3e-3)),
    "LoRA r = 8, W_Q and W_V": (LoRAConfig(r=8, alpha=16, slices=("q", "v")), (3e-3, 1e-2, 3e-2)),
    "LoRA r = 8, all layers": (LoRAConfig(r=8, alpha=16, target_modules="all-linear"), (1e-3, 3e-3, 1e-2)),
}


def losses_on(model: Any, **texts: np.ndarray) -> dict[str, float]:
    return {name: round(validation_loss(model, ids), 4) for name, ids in texts.items()}


def tuned_on_little() -> list[dict[str, Any]]:
    """Losses of a model of English after 100 steps on a little code: on other code, on this code, on English."""
    code = np.array(tokenizer.encode(python_code(200_000)))
    rows = []
    for seed in range(5):
        base = new_gpt(len(tokenizer), seed)
        train(base, train_ids, 400, seed=seed)
        rows.append({"method": "before", **losses_on(base, other=code[-4096:], own=code[:1000], english=val_ids)})
        for amount, (method, (config, rates)) in itertools.product((1_000, 8_000), METHODS.items()):
            for rate in rates:
                model = copy.deepcopy(base)
                if config is not None:
                    apply_lora(model, config)
                train(model, code[:amount], 100, rate, seed=seed, weight_decay=0.0)
                losses = losses_on(model, other=code[-4096:], own=code[:amount], english=val_ids)
                rows.append({"method": method, "tokens": amount, "rate": rate, "seed": seed, **losses})
    return rows


# %%
runs = lesson.measured("few_examples", tuned_on_little)
start = [np.mean([run[text] for run in runs if run["method"] == "before"]) for text in ("other", "english")]
print(f"before: loss on code {start[0]:.2f}, on English {start[1]:.2f}; after 100 steps, mean of 5 seeds:")
print(f"{'tokens':>7}  {'method':25}{'rate':>6}{'other code':>12}{'own code':>10}{'English':>9}")
best, worst = {}, {}
for amount, method in itertools.product((1_000, 8_000), METHODS):
    found = {}
    for rate in METHODS[method][1]:
        of_rate = [run for run in runs if (run["method"], run.get("tokens"), run.get("rate")) == (method, amount, rate)]
        found[rate] = np.array([[run[text] for text in ("other", "own", "english")] for run in of_rate])
        other, own, on_english = found[rate].mean(axis=0)
        print(f"{amount:7,}  {method:25}{rate:6g}{other:12.2f}{own:10.2f}{on_english:9.2f}")
    best[amount, method] = min(found.values(), key=lambda losses: losses[:, 0].mean())
    worst[amount, method] = max(losses[:, 0].max() for losses in found.values())
for amount, method in itertools.product((1_000, 8_000), list(METHODS)[1:]):  # with every seed:
    assert (best[amount, method][:, :2] > best[amount, "full"][:, :2]).all()
assert max(worst[1_000, method] for method in list(METHODS)[1:]) < worst[1_000, "full"] - 0.5

# %%
more, low_rank, live = np.array(tokenizer.encode(python_code(200_000))), list(METHODS)[1], []  # now, with one seed
with use_kernels("fast"):
    for method, rate in (("full", 3e-4), ("full", 3e-3), (low_rank, 1e-2), (low_rank, 1e-1)):  # the best, and ten times
        model = copy.deepcopy(base)
        if method == low_rank:
            apply_lora(model, LoRAConfig(r=8, alpha=16, slices=("q", "v")))
        train(model, more[:1_000], 100, rate, seed=lesson.seed, weight_decay=0.0)
        live.append(losses_on(model, other=more[-4096:], own=more[:1_000]))
        print(f"now    {method:25}{rate:6g}{live[-1]['other']:12.2f}{live[-1]['own']:10.2f}")
(full_best, full_wild), (lora_best, lora_wild) = live[:2], live[2:]
assert all(full_best[text] < lora_best[text] for text in ("other", "own"))
assert full_wild["other"] - full_best["other"] > lora_wild["other"] - lora_best["other"] + 0.3

# %% [markdown]
# Answer: a low rank is a constraint, and it acts as one: with every seed, LoRA learns less of these examples by heart.
# At ten times its best rate full fine-tuning overfits, and its loss on other code rises far; LoRA's rises less. That
# is what regularization means. It is often said that LoRA therefore matches or exceeds full fine-tuning on few
# examples. In this tiny model it does not: full fine-tuning, at a small rate, is better on new code with every seed.

# %% Quantization: the largest absolute value becomes 127
# Quantization stores a number as a small integer, its *level*, times a *scale* that many numbers share. *Absmax*, in 8
# bits, with levels from -127 to 127:
#
#     scale = max |w| / 127        level = round(w / scale)        w ≈ scale · level
#
# Where all numbers are positive, this wastes the negative levels. A *zero-point* puts the grid from the smallest to the
# largest number: w ≈ scale · (level - zero).
#
# Predict: the weights are 0.5, -1.3, 2.4 and -0.1. What is the scale, and how large can the error of a weight be?

# %%
weights = np.array([[0.5, -1.3, 2.4, -0.1]], np.float32)
scale = np.abs(weights).max() / 127
levels = np.rint(weights / scale)
print(f"weights {weights[0]}\nscale   2.4 / 127 = {scale:.4f}\nlevels  {levels[0]}\nback    {(levels * scale)[0]}")
assert (levels == absmax(weights).levels()).all() and (levels == -absmax(-weights).levels()).all()
assert np.abs(levels * scale - weights).max() <= scale / 2 and (levels == [[26, -69, 127, -5]]).all()
positive = rng.uniform(0, 4, (1, 64)).astype(np.float32)
errors = {q.__name__: relative_error(q(positive, bits=4).dequantize(), positive) for q in (absmax, zero_point)}
print(f"64 numbers from 0 to 4, in 4 bits: error {errors['absmax']:.1%} absmax, {errors['zero_point']:.1%} zero-point")
assert errors["zero_point"] < errors["absmax"] / 1.5
assert np.abs(zero_point(positive, bits=4).dequantize() - positive).max() < 0.51 * positive.max() / 15

# %% [markdown]
# Answer: 2.4 / 127 = 0.019, and the error is at most half a step, 0.0095.
#
# ## One outlier
#
# Predict: 64 weights of about 0.05 are rounded in 8 bits. One of them becomes 8. What happens to the others?

# %%
row = (0.05 * rng.standard_normal((1, 64))).astype(np.float32)
spoiled = row.copy()
spoiled[0, 20] = 8.0
usual = np.arange(64) != 20
rounded = {"no outlier": absmax(row), "outlier, one scale": absmax(spoiled), "outlier, groups": absmax(spoiled, 8, 16)}
off = {name: relative_error(q.dequantize()[:, usual], row[:, usual]) for name, q in rounded.items()}
print("error of the 63 normal weights in 8 bits: " + ", ".join(f"{name} {error:.1%}" for name, error in off.items()))
assert off["no outlier"] < off["outlier, groups"] < off["outlier, one scale"]

# %% [markdown]
# Answer: the step becomes 8 / 127 = 0.06, larger than most of them, so they are rounded to 0 or to one step. The
# remedies: a scale for each small group of weights, as in the last figure; and, where inputs are rounded as well,
# LLM.int8(), which keeps the few columns with large inputs in floating point.

# %%
inputs, matrix = rng.standard_normal((32, 128)), rng.standard_normal((64, 128)) / 11
inputs[:, 5] *= 20  # in large models, some features are this large in nearly every token
naive, split = (relative_error(int8_product(inputs, matrix, t), inputs @ matrix.T) for t in (np.inf, 6.0))
print(f"inputs in 8 bits as well: error of the product {naive:.2%}")
print(f"with column {outlier_columns(inputs)[0]} in floating point: {split:.2%}")
assert split < naive / 2

# %% In a file: blocks of 32
# The files of llama.cpp (GGUF) store a row of weights in blocks of 32, each with a scale of its own. A block of the
# kind Q4_1 has a scale and a minimum, in float16, and for each number a code from 0 to 15:
#
#     w ≈ scale · code + minimum
#
# Predict: how many bits does a number take, with its share of scale and minimum? And in Q8_0, which has codes of 8 bits
# and no minimum?

# %%
numbers = row[0, :32]
least, step = np.float16(numbers.min()), np.float16((numbers.max() - numbers.min()) / 15)
codes = np.clip(np.round((numbers - np.float32(least)) / np.float32(step)), 0, 15).astype(np.uint8)
block = np.zeros((1, 1), BLOCKS["Q4_1"])
block["scale"], block["minimum"] = step, least
block["codes"] = codes[:16] | codes[16:] << 4  # a byte holds two codes
back = dequantize(GGUFTensor("block", (1, 32), "Q4_1", block.view(np.uint8)))[0]
print(f"32 numbers from {numbers.min():.3f} to {numbers.max():.3f}: 16 levels, {step:.4f} apart")
print(f"  {numbers[0]:.4f} -> code {codes[0]} -> {step:.4f} x {codes[0]} + {least:.4f} = {back[0]:.4f}")
for kind, layout in BLOCKS.items():
    print(f"  {kind}: {layout.itemsize} bytes for 32 numbers, {layout.itemsize * 8 / 32} bits each")
assert np.array_equal(back, np.float32(step) * codes + np.float32(least)), "a number is not scale · code + minimum"
assert np.abs(back - numbers).max() < 0.51 * float(step), "an error is larger than half a step"
assert [BLOCKS[kind].itemsize for kind in ("Q4_1", "Q8_0")] == [2 + 2 + 16, 2 + 32]

# %% [markdown]
# Answer: 5 bits, and 8.5. The scale costs half a bit per number, and so does the minimum. With a scale for only 32
# numbers, an outlier spoils 31 others. Lesson 451 reads such a file.

# %% NF4: levels where the weights are
# Trained weights are distributed like a bell curve: many are small, few are large. Four bits have 16 levels. If these
# are equally far apart, the outer ones are hardly used. NF4 (4-bit NormalFloat) puts them at *quantiles* of the normal
# distribution: 8 above 0, 7 below, and 0 itself. If the level 1 stands for 1.85 standard deviations, each level between
# the ends is the nearest one for about the same share of all weights, 6 to 7 %.
#
# Predict: the scale is the largest of 64 weights, which is usually more than 1.85 standard deviations. Which levels are
# then used more, and which less?
sample = rng.standard_normal((256, 64)).astype(np.float32)
scaled = (sample / np.abs(sample).max(axis=1, keepdims=True)).ravel()  # absmax: each row has its scale
grids = {"equal steps": np.arange(-7, 8) / 7, "NF4": nf4_levels()}

# %%
used = {}
for name, numbers in {"equal steps": scaled, "NF4": scaled, "NF4, 1 is 1.85": sample.ravel() / 1.85}.items():
    levels = grids[name.partition(",")[0]]
    nearest = np.abs(numbers[:, None] - levels).argmin(axis=1)
    used[name] = np.bincount(nearest, minlength=len(levels)) / len(numbers)
    print(f"{name:15} levels {levels[8:]}, used by {used[name][8:]} of the weights")
uniform, quantiles = (relative_error(q.dequantize(), sample) for q in (absmax(sample, 4, 64), nf4(sample)))
print(f"normally distributed weights, 4 bits, groups of 64: error {uniform:.1%} with equal steps, NF4 {quantiles:.1%}")
assert quantiles < uniform and used["NF4"].std() < used["equal steps"].std() / 2
assert grids["NF4"][7] == 0 and all(0.05 < share < 0.08 for share in used["NF4, 1 is 1.85"][1:-1])

# %% [markdown]
# Answer: the inner ones more, up to 9 %, and the outer ones less, down to 4 %. That is still far more even than equal
# steps, of which the outer ones are used by 1 % and the inner ones by 14 %, and the error is smaller.
#
# The picture shows why: NF4's levels, the lower lines, are close together where the bell is high and far apart where it
# is low. Equal steps, the upper lines, are as close at the ends as in the middle.

# %%
with lesson.picture("rounding", "NF4: levels where the weights are") as axes:
    axes.hist(scaled, 60, alpha=0.4, density=True)
    axes.vlines(grids["NF4"], 0, 0.5, label="NF4's 16 levels")
    axes.vlines(grids["equal steps"], 1.35, 1.5, color="C1", label="equal steps")
    axes.set(xlabel="weight / largest of its group", ylabel="density")

# %% [markdown]
# ## An eighth of the bytes: how much faster?
#
# A product of a few rows waits for the weights to come from memory, so with an eighth of the bytes it should be faster.
# In llama.cpp it is: its loop makes floats of the codes inside the processor. NumPy makes one pass over an array for
# each operation: here to look the floats up, to multiply them and to apply the scales. We take a piece of the matrix
# that fits in the cache.
#
# Predict: how much faster than float32 is a piece of int4 on one core?

# %%
matrix, x = rng.standard_normal((12_288, 768), dtype=np.float32), rng.standard_normal((4, 768), dtype=np.float32)
packed = absmax(matrix, bits=4, group_size=64)
piece = slice(0, 128)
works = {"float32": (len(matrix), lambda: x @ matrix.T), "int4": (128, lambda: packed.times_rows(x, piece))}
with use_kernels("fast"):
    for name, (rows, work) in works.items():
        cost = 1e9 * min(timeit.repeat(work, number=1, repeat=9)) / (768 * rows)
        print(f"  {name:8} {cost:5.2f} ns per weight, for 4 rows of x")
assert packed.levels(piece).nbytes == matrix[piece].nbytes == 8 * packed.codes[piece].nbytes

# %% [markdown]
# Answer: far from eight times, if at all; it depends on the machine, so only the bytes are asserted here. The lookup
# writes four bytes for each weight, as many as float32 reads. A small piece stays in the cache, but takes several calls
# of NumPy.

# %% GPTQ: correct the error of one weight in the others
# What matters is not each weight, but the output W x on real inputs. GPTQ rounds one column after the other to the grid
# of absmax, and changes the columns that are left so as to correct the output for the error e of the rounded one. With
# H = Σ x xᵀ over the inputs, and H_q⁻¹ the inverse of its rows and columns from q on (derived in gptq.py):
#
#     change of the columns from q on = -e · (first row of H_q⁻¹) / (first element of H_q⁻¹)
#
# Predict: two inputs are nearly always equal, and both have the weight 0.4. The grid is -8, ..., 0, 1, ..., 7. Both are
# rounded to 0. Is there something better?
weight = np.array([[7.0, 0.4, 0.4, 0.0]])
noise = rng.standard_normal((4, 10_000))
inputs = np.stack([noise[0], noise[1], noise[1] + 0.1 * noise[2], noise[3]])
hessian = inputs @ inputs.T

# %%
for name, rounded in {"absmax": absmax(weight, 4, 4), "GPTQ": gptq(weight, hessian, group_size=4)}.items():
    error = output_error(weight, rounded.dequantize(), hessian)
    print(f"{name:7} {weight[0]} -> {rounded.dequantize()[0]}: error of the output {error:.2%}")
assert error < output_error(weight, absmax(weight, 4, 4).dequantize(), hessian) / 2

# %% [markdown]
# Answer: round one down and the other up. Their sum, 0.8, is what the output sees, and 0 + 1 is closer to it than 0 +
# 0.
#
# ## AWQ: scale up the weights that matter
#
# AWQ (activation-aware weight quantization) starts from the fact that some inputs are much larger than others, and so
# are the effects of errors in their columns. For any s > 0 per column,
#
#     x Wᵀ = (x / s) (W diag(s))ᵀ          exactly
#
# A column that is scaled up by s before rounding has an error that is s times smaller in the output. AWQ takes
# s = mean |x|^α, and searches the best α between 0 (no scaling) and 1.
#
# Predict: the weights are 1 and 0.4, in 4 bits, so a step is 1/7. The second input is 20 times as large as the first.
# Which of the two should be exact?

# %%
weight = np.array([[1.0, 0.4]], np.float32)  # (O, I): one output
x = np.array([[0.1, 2.0], [-0.1, 2.0]])  # (N, I): two inputs of the layer
magnitude = np.abs(x).mean(axis=0)  # (I)
tried = {}
for alpha in np.linspace(0, 1, 21):
    s = magnitude**alpha  # (I)
    s = s / np.sqrt(s.max() * s.min())  # a common factor changes nothing: the product of the two is 1
    rounded = absmax(weight * s, bits=4).dequantize() / s  # / s, as if the input were divided
    error = ((x @ (rounded - weight).T) ** 2).sum() / ((x @ weight.T) ** 2).sum()  # of the output
    tried[alpha] = error, s, rounded
best = min(tried, key=lambda alpha: tried[alpha][0])
for name, alpha in {"absmax": 0.0, "AWQ": best}.items():
    error, s, rounded = tried[alpha]
    print(f"{name:7} s = {s}: {weight[0]} -> {rounded[0]}, error of the output {error:.2%}")
assert error < tried[0.0][0] / 10
scales, _ = search_scales(weight, x.T @ x, magnitude, partial(absmax, bits=4))  # the library's search
assert np.allclose(scales, s), "the library's search finds other scales than the one by hand"

# %% [markdown]
# Answer: the second one. AWQ pays with a small error of the first, whose input is small.
#
# In a model, dividing the input costs nothing: what produces it, mostly a norm, is divided by s instead.
#
# Predict: the layers of a block are scaled, and not yet rounded. By how much does the output of the block change?

# %%
calibration = train_ids[: 64 * 32].reshape(64, 32)
plain_block = copy.deepcopy(base.blocks[0])
plain_block.ln_1.weight.data[5] *= 20  # as in large models, one input of attention is far larger than the others
scaled_block = copy.deepcopy(plain_block)
moments = Reader(base, calibration).inputs_of(scaled_block, base.names.inputs)  # of the inputs of each layer
alphas = scale_block(scaled_block, base.names.inputs, moments, partial(absmax, bits=4))
stream = Tensor(rng.standard_normal((1, 32, 64)).astype(np.float32))
apart = np.abs(scaled_block(stream).data - plain_block(stream).data).max()
print(f"α of attention's first layer {alphas['attn.c_attn']:.2f}; the block's output changes by {apart:.0e}")
assert apart < 1e-4, "W is multiplied by s, but the input is not divided by s: the block computes something else"

# %% [markdown]
# Answer: by rounding in float32 only.
#
# ## A whole model in fewer bits
#
# The loss of such a small model hardly changes; the errors of its layers tell the methods apart. (Perplexities in per
# cent: lesson 445.)

# %%
plain = validation_loss(base, val_ids)
print(f"{'':14}{'MB':>7}{'loss':>9}{'worst layer output error':>28}")
print(f"{'float32':14}{memory(base) / 1e6:7.2f}{plain:9.4f}")
quantized: dict[str, tuple[float, float]] = {}
settings = {
    "absmax, 8 bit": QuantizationConfig("absmax"),
    "absmax, 4 bit": QuantizationConfig("absmax", bits=4),
    "NF4": QuantizationConfig("nf4", double_quant=True),
    "GPTQ, 4 bit": QuantizationConfig("gptq"),
    "AWQ, 4 bit": QuantizationConfig("awq"),
}
for name, config in settings.items():
    model = copy.deepcopy(base)
    report = quantize(model, config, calibration)
    quantized[name] = validation_loss(model, val_ids), max(layer.error or 0.0 for layer in report.layers)
    assert all(layer.error < layer.nearest_error for layer in report.layers if config.method in ("gptq", "awq"))
    print(f"{name:14}{memory(model) / 1e6:7.2f}{quantized[name][0]:9.4f}{quantized[name][1]:28.3%}")
assert abs(quantized["absmax, 8 bit"][0] - plain) < 0.01
assert max(quantized[name][1] for name in ("NF4", "GPTQ, 4 bit", "AWQ, 4 bit")) < quantized["absmax, 4 bit"][1]

# %% QLoRA: both at once
# QLoRA freezes the base model in NF4, and trains LoRA adapters in floating point beside it. *Double quantization*
# stores the scales of NF4 in 8 bits as well: 4.13 bits per weight in place of 4.5. The gradient flows through the
# frozen 4-bit weights, which are turned into floats for each product, but only the adapters are updated.
#
# Predict: full fine-tuning of 7 billion parameters takes 84 GB. How much do LoRA and QLoRA take?

# %%
adapter = accounting.lora_parameters(GPTConfig(n_layer=32, n_embd=4096, n_head=32), r=16, layers=accounting.LAYERS)
lora = accounting.training_memory(N + adapter, adapter, weights="bfloat16", gradients="bfloat16")
qlora = accounting.qlora_memory(N * accounting.nf4_bits() / 8, adapter, "bfloat16")
totals = {"full": full, "LoRA": lora, "QLoRA": qlora}
print("7 billion parameters, rank 16: " + ", ".join(f"{n} {sum(m.values()) / 1e9:.1f} GB" for n, m in totals.items()))
assert round(sum(qlora.values()) / 1e9) == 4 and round(sum(full.values()) / sum(qlora.values())) == 21

# %%
small = copy.deepcopy(base)
apply_qlora(small, LoRAConfig(r=8, alpha=16, target_modules="all-linear"))
train(small, code_train, 100, learning_rate=5e-3, weight_decay=0.0, seed=lesson.seed)
print(f"ours, 100 steps: loss on code {validation_loss(base, code_val):.2f} -> {validation_loss(small, code_val):.2f}; "
      f"the model takes {memory(small) / memory(base):.0%} of the bytes")  # fmt: skip
assert validation_loss(small, code_val) < validation_loss(base, code_val) - 0.3

# %% [markdown]
# Answer: LoRA needs no gradients and moments for the frozen weights, but still two bytes for each of them: it would fit
# into 24 GB. QLoRA takes about 4 GB, a twentieth of full fine-tuning.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start lora`, absmax, nf4
# - line by line: `python scripts/step.py --html lora`, `python scripts/step.py --html gptq`
# - read: finetune/adapters/lora.py; finetune/quantization/rounding.py, nf4.py and gptq.py; finetune/adapters/qlora.py
# - read: `python scripts/lora.py --help` and `python scripts/quantize.py --help`, for a model that you trained
# - break: in finetune/adapters/lora.py let lora_B start like lora_A. Expect: `assert untouched == 0` fails: the
#   adapters change the model before they have learned anything.
# - lesson: `python scripts/lesson.py 445`
