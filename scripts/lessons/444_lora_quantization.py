"""Lesson 4.4.4: LoRA and quantization, or fine-tuning a large model on a small machine

Two problems, two solutions. Training needs about twelve bytes per parameter: train a small low-rank update instead
(LoRA). The weights alone need two or four bytes each: store them in eight or four bits (quantization). QLoRA does both.
Hu et al. 2022 (LoRA); Biderman et al. 2024 (LoRA learns less and forgets less); Dettmers et al. 2022 and 2023
(LLM.int8(), QLoRA); Frantar et al. 2022 (GPTQ); Lin et al. 2024 (AWQ).
"""

from __future__ import annotations

import copy
import itertools
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np

from finetune.adapters.lora import LoRAConfig, LoRALinear, adapter_parameters, apply_lora, merge_lora
from finetune.adapters.qlora import apply_qlora
from finetune.quantization import QuantizationConfig, memory, quantize
from finetune.quantization.nf4 import nf4, nf4_levels
from finetune.quantization.rounding import absmax, int8_product, outlier_columns, relative_error, zero_point
from gpt import GPTConfig, accounting
from gpt.training.standard_library import python_code
from minigrad import no_grad, use_kernels
from minigrad.kernels.cpu import threads
from scripts.lessons.small_gpt import english, new_gpt, smooth, train, train_once, validation_loss
from scripts.pages import drawings
from scripts.pages.pictures import Lesson, bars

lesson = Lesson("444_lora_quantization", __doc__)
rng = np.random.default_rng(0)

# %% Twelve bytes for each parameter
# Weights and gradients in bfloat16, Adam's two moments in float32. A consumer GPU has 24 GB.
N = 7_000_000_000
full = accounting.training_memory(N, weights="bfloat16", gradients="bfloat16")
for name, size in full.items():
    print(f"  {name:10} {size / N:2.0f} bytes x 7 billion = {size / 1e9:5.1f} GB")
total = sum(full.values())
assert total == 84e9
print(f"together {total / 1e9:.0f} GB, {full['optimizer'] / total:.0%} of it Adam's moments")

# %% A large matrix as the product of two thin ones
# Predict: a matrix of 768 x 768 is replaced by (768, 8) @ (8, 768). How many times fewer numbers are that?
thin = adapter_parameters(768, 768, r=8)
fewer = f"{thin:,}, {768 * 768 / thin:.0f} times fewer"
print(f"a 768 x 768 matrix has {768 * 768:,} numbers; as (768, 8) @ (8, 768) {fewer}")
assert thin == np.zeros((768, 8)).size + np.zeros((8, 768)).size == 768 * 768 / 48
B, A = rng.standard_normal((6, 2)), rng.standard_normal((2, 6))
assert np.linalg.matrix_rank(B @ A) == 2
print(f"rank of (6, 2) @ (2, 6): {np.linalg.matrix_rank(B @ A)}")

# %% [markdown]
# Answer: 48 times, 12,288 in place of 589,824. A product through 8 dimensions has rank 8 at most. LoRA's assumption:
# the change that fine-tuning makes to a weight matrix needs few directions.

# %% A frozen model with a trainable low-rank update
# h = W x + (alpha / r) B A x. W is frozen. B is zero at first, so the adapters change nothing at the start. At the end
# W + (alpha / r) B A is merged into one matrix: a plain model again, with no extra cost. A small GPT has learned
# English; now it learns Python code.
tokenizer, train_ids, val_ids = english()
base = new_gpt(len(tokenizer))
train_once(base, train_ids, 300)
code = np.array(tokenizer.encode(python_code(150_000)))
code_train, code_val = code[: len(code) * 9 // 10], code[len(code) * 9 // 10 :]
print(f"before: loss on English {validation_loss(base, val_ids):.2f}, on code {validation_loss(base, code_val):.2f}")

x = train_ids[None, :16]
adapted = copy.deepcopy(base)
layers = apply_lora(adapted, LoRAConfig(r=8, alpha=16, slices=("q", "v")))  # beside W_Q and W_V
with no_grad():
    untouched = np.abs(adapted(x).data - base(x).data).max()
print(f"new adapters: logits differ by {untouched}")
assert untouched == 0 and all((layer.lora_B.data == 0).all() for layer in layers.values())

tuned = copy.deepcopy(base)
curves = {}
for name, model, rate in (("full fine-tuning", tuned, 1e-3), ("LoRA, rank 8, W_Q and W_V", adapted, 1e-2)):
    curves[name] = train(model, code_train, 200, learning_rate=rate, weight_decay=0.0)
    share = model.num_parameters(trainable_only=True) / base.num_parameters()
    print(f"{name}, {share:.1%} of the parameters: loss on code {validation_loss(model, code_val):.2f}, "
          f"on English {validation_loss(model, val_ids):.2f}")  # fmt: skip
trained = sum(p.data.size for name, p in adapted.named_parameters() if "lora_" in name)
assert adapted.num_parameters(trainable_only=True) == trained < 0.1 * base.num_parameters()
assert validation_loss(adapted, code_val) < validation_loss(base, code_val) - 0.5
share = accounting.lora_parameters(GPTConfig(), 8, accounting.LAYERS) / GPTConfig().num_parameters()
print(f"in GPT-2, rank 8 beside every layer is {share:.1%} of the parameters")

merged = copy.deepcopy(adapted)
merge_lora(merged)  # W + (alpha / r) B A is one matrix again
with no_grad():
    difference = np.abs(merged(x).data - adapted(x).data).max()
print(f"merged: logits differ by {difference:.0e}")
assert difference < 1e-3 and not any(isinstance(m, LoRALinear) for m in merged.modules())

old, spectra = dict(base.named_parameters()), []
for name, p in tuned.named_parameters():
    if p.ndim == 2 and ".h." in name:  # the matrices of the blocks
        spectra.append(np.linalg.svd(p.data - old[name].data, compute_uv=False) ** 2)
kept = np.mean([s[:8].sum() / s.sum() for s in spectra])
print(f"the 8 strongest of 64 directions hold {kept:.0%} of the change made by full fine-tuning (equal shares: 12 %)")
assert kept > 0.2
with lesson.picture("lora", "Full fine-tuning and LoRA on Python code", columns=2, size=(10, 3.8)) as (left, right):
    for (name, losses_), line in zip(curves.items(), ("-", "--")):
        left.plot(smooth(losses_), line, color="black", label=name)
    left.set(xlabel="step", ylabel="loss (nats per token), smoothed")
    right.plot(range(1, 65), np.mean([s.cumsum() / s.sum() for s in spectra], axis=0), color="black")
    right.plot([1, 64], [1 / 64, 1], ":", color="black")
    right.axvline(8, color="0.6")
    right.text(9, 0.08, "rank 8")
    right.set(xlabel="directions kept", ylabel="share of the change (squared)", title="the change of full fine-tuning")

# %%
with lesson.picture("rank", "How well a matrix of low rank can be the change of a weight", size=(7, 3.8)) as axes:
    drawings.rank_error(axes, spectra, 64)

# %% LoRA against full fine-tuning, with few examples
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
    for seed in (0, 1, 2):
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


runs = lesson.measured("few_examples", tuned_on_little)
start = [np.mean([run[text] for run in runs if run["method"] == "before"]) for text in ("other", "english")]
print(f"before: loss on code {start[0]:.2f}, on English {start[1]:.2f}. Each method at its best rate, mean of 3 seeds:")
print(f"{'tokens':>7}  {'method':25}{'rate':>6}{'other code':>16}{'own code':>10}{'English':>9}")
best: dict[tuple[int, str], dict[str, Any]] = {}
for amount, method in itertools.product((1_000, 8_000), METHODS):
    for rate in METHODS[method][1]:
        of_rate = [run for run in runs if (run["method"], run.get("tokens"), run.get("rate")) == (method, amount, rate)]
        found = {text: np.array([run[text] for run in of_rate]) for text in ("other", "own", "english")}
        if (amount, method) not in best or found["other"].mean() < best[amount, method]["other"].mean():
            best[amount, method] = {"rate": rate, **found}
    row = best[amount, method]
    spread = f"{row['other'].mean():.2f} +- {row['other'].std(ddof=1):.2f}"
    print(f"{amount:7,}  {method:25}{row['rate']:6g}{spread:>16}{row['own'].mean():10.2f}{row['english'].mean():9.2f}")
for amount, method in itertools.product((1_000, 8_000), list(METHODS)[1:]):
    assert (best[amount, method]["own"] > best[amount, "full"]["own"]).all()  # with every seed
    assert (best[amount, method]["other"] > best[amount, "full"]["other"]).all()
same_rate = {
    method: np.mean([run["english"] for run in runs if run["method"] == method and run.get("rate") == 1e-3])
    for method in ("full", "LoRA r = 8, all layers")
}
assert same_rate["LoRA r = 8, all layers"] < same_rate["full"] - 0.5
print("at a rate of 0.001, loss on English: " + ", ".join(f"{name} {loss:.2f}" for name, loss in same_rate.items()))

# %% [markdown]
# A low rank is a constraint: with every seed, LoRA learns less of these examples by heart. But the course's claim that
# it matches or exceeds full fine-tuning does not hold in this tiny model. Full fine-tuning, at a small rate, is better
# on new code with every seed. Nor does LoRA always forget less, because that depends on the rate: at the same rate it
# forgets less, but its best rate is a larger one.

# %% Quantization: the largest absolute value becomes 127
# An 8-bit number is a level between -127 and 127, times a scale. The error is at most half a step. Where all numbers
# are positive, this wastes the negative levels; a zero-point puts the grid from the smallest to the largest number.
weights = np.array([[0.5, -1.3, 2.4, -0.1]], np.float32)
scale = np.abs(weights).max() / 127
levels = np.rint(weights / scale)
print(f"weights {weights[0]}\nscale   2.4 / 127 = {scale:.4f}\nlevels  {levels[0]}\nback    {(levels * scale)[0]}")
assert (levels == absmax(weights).levels()).all() and (levels == [[26, -69, 127, -5]]).all()
assert np.abs(levels * scale - weights).max() <= scale / 2  # the error is at most half a step
positive = rng.uniform(0, 4, (1, 64)).astype(np.float32)
errors = {q.__name__: relative_error(q(positive, bits=4).dequantize(), positive) for q in (absmax, zero_point)}
print(f"64 numbers from 0 to 4, in 4 bits: error {errors['absmax']:.1%} absmax, {errors['zero_point']:.1%} zero-point")
assert errors["zero_point"] < errors["absmax"] / 1.5

# %% One outlier makes all steps large
# The remedies: a scale for each small group of weights; and, for inputs, LLM.int8(), which keeps the few large columns
# in floating point. NF4 has its 16 levels where normally distributed weights are.
row = (0.05 * rng.standard_normal((1, 64))).astype(np.float32)
spoiled = row.copy()
spoiled[0, 20] = 8.0
usual = np.arange(64) != 20
rounded = {"no outlier": absmax(row), "outlier, one scale": absmax(spoiled), "outlier, groups": absmax(spoiled, 8, 16)}
off = {name: relative_error(q.dequantize()[:, usual], row[:, usual]) for name, q in rounded.items()}
print("error of the 63 normal weights in 8 bits: " + ", ".join(f"{name} {error:.1%}" for name, error in off.items()))
assert off["no outlier"] < off["outlier, groups"] < off["outlier, one scale"]
inputs, matrix = rng.standard_normal((32, 128)), rng.standard_normal((64, 128)) / 11
inputs[:, 5] *= 20  # in large models, some features are this large in nearly every token
naive, split = (relative_error(int8_product(inputs, matrix, t), inputs @ matrix.T) for t in (np.inf, 6.0))
print(f"inputs in 8 bits as well: error of the product {naive:.2%}")
print(f"with column {outlier_columns(inputs)[0]} in floating point: {split:.2%}")
assert split < naive / 2

sample = rng.standard_normal((256, 64)).astype(np.float32)
uniform, quantiles = (relative_error(q.dequantize(), sample) for q in (absmax(sample, 4, 64), nf4(sample)))
print(f"normally distributed weights, 4 bits, groups of 64: error {uniform:.1%} with equal steps, NF4 {quantiles:.1%}")
assert quantiles < uniform
with lesson.picture("rounding", "Rounding, outliers and NF4", columns=3, size=(13, 3.8)) as (left, middle, right):
    left.plot(row[0, :16], rounded["no outlier"].dequantize()[0, :16], "o", mfc="none", color="black", label="alone")
    left.plot(row[0, :16], rounded["outlier, one scale"].dequantize()[0, :16], "x", color="black", label="beside an 8")
    left.set(xlabel="weight", ylabel="after rounding to 8 bits", title="an outlier makes steps of 0.06")
    left.set_xticks([-0.05, 0, 0.05])
    bars(middle, {name.replace(", ", ",\n"): 100 * error for name, error in off.items()}, "error of normal weights (%)")
    right.hist((sample / np.abs(sample).max(axis=1, keepdims=True)).ravel(), 60, color="0.8", density=True)
    right.vlines(nf4_levels(), 0, 0.5, color="black", label="NF4's 16 levels")
    right.vlines(np.arange(-7, 8) / 7, 1.35, 1.5, color="0.4", label="equal steps")
    right.set(xlabel="weight / largest of its group", ylabel="density", ylim=(0, 1.9))
    right.set(title="levels where the weights are")
    right.legend(frameon=False, loc="upper right", ncols=2, fontsize=8)

# %%
few = row[:, :12].copy()
grids = {"no outlier": few, "one weight is 0.5": np.where(np.arange(12) == 5, np.float32(0.5), few)}
drawn = {name: (w[0], absmax(w, 4).dequantize()[0], np.abs(w).max() / 7) for name, w in grids.items()}
with lesson.picture("grid", "Twelve weights (dots) rounded to 4 bits (squares)", size=(10, 4)) as axes:
    drawings.quantization_grid(axes, drawn)

# %% [markdown]
# ## An eighth of the bytes, and still not faster
#
# A product of a few rows waits for the weights to come from memory, so with an eighth of the bytes it should be faster.
# In llama.cpp it is: its loop makes floats of the codes inside the processor. NumPy makes one pass over an array for
# each operation, here to look the floats up, to multiply them and to apply the scales.
#
# Predict: do pieces that fit in the cache help, and does a second core?

# %%
matrix, x = rng.standard_normal((12_288, 768), dtype=np.float32), rng.standard_normal((4, 768), dtype=np.float32)
packed = absmax(matrix, bits=4, group_size=64)
pieces = [slice(row, row + 128) for row in range(0, len(matrix), 128)]
works: dict[str, tuple[int, Callable[[], Any]]] = {  # and the rows of the matrix that each reads
    "float32 on one core": (len(matrix), lambda: x @ matrix.T),
    "int4 on one core": (128, lambda: packed.times_rows(x, pieces[0])),
    "of which the lookup": (128, lambda: packed.levels(pieces[0])),
    "float32 on all cores": (len(matrix), lambda: threads.matmul(x, matrix.T)),
    "int4 on all cores": (len(matrix), lambda: threads.parallel(lambda piece: packed.times_rows(x, piece), pieces)),
}
with use_kernels("fast"):
    for name, (rows, work) in works.items():
        cost = 1e9 * min(timeit.repeat(work, number=1, repeat=9)) / (768 * rows)
        print(f"  {name:21} {cost:5.2f} ns per weight, for 4 rows of x")
assert packed.levels(pieces[0]).nbytes == matrix[pieces[0]].nbytes == 8 * packed.codes[pieces[0]].nbytes

# %% [markdown]
# Answer: only on one core. The lookup writes four bytes for each weight, as many as float32 reads, and is half of the
# work. Small pieces stay in the cache, but each takes several calls of NumPy. Between two calls a thread needs Python's
# lock, and waking a thread that waits for the lock takes about as long as a piece: the second core gains nothing. Large
# pieces need few calls, but leave the cache, which costs as much. With more rows the product takes longer, and the
# lookup counts less. On two cores of an Intel Xeon, GPT-2 in int4 writes 1 text at 0.38 of the speed of float32, 4 at
# 0.65 and 16 at 0.87; in NF4 at 0.33, 0.6 and 0.8.

# %% A whole model in fewer bits; GPTQ and AWQ look at the inputs
# GPTQ uses the same grid as absmax, but adjusts the weights that are not yet rounded to compensate for the others. AWQ
# scales the columns with large inputs up before rounding. The loss of such a small model hardly changes; the errors of
# its layers tell the methods apart. (Perplexities in per cent: lesson 4.4.5.)
calibration = train_ids[: 64 * 32].reshape(64, 32)
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
    print(f"{name:14}{memory(model) / 1e6:7.2f}{quantized[name][0]:9.4f}{quantized[name][1]:28.3%}")
assert abs(quantized["absmax, 8 bit"][0] - plain) < 0.01
assert quantized["GPTQ, 4 bit"][1] < quantized["absmax, 4 bit"][1]

# %% QLoRA: both at once
# The base model in 4 bits, frozen; adapters beside it, trained.
adapter = accounting.lora_parameters(GPTConfig(n_layer=32, n_embd=4096, n_head=32), r=16, layers=accounting.LAYERS)
lora = accounting.training_memory(N + adapter, adapter, weights="bfloat16", gradients="bfloat16")
qlora = accounting.qlora_memory(N * accounting.nf4_bits() / 8, adapter, "bfloat16")
totals = {"full": full, "LoRA": lora, "QLoRA": qlora}
print("7 billion parameters, rank 16: " + ", ".join(f"{n} {sum(m.values()) / 1e9:.1f} GB" for n, m in totals.items()))
assert round(sum(qlora.values()) / 1e9) == 4 and round(sum(full.values()) / sum(qlora.values())) == 21  # the course
small = copy.deepcopy(base)
apply_qlora(small, LoRAConfig(r=8, alpha=16, target_modules="all-linear"))
train(small, code_train, 100, learning_rate=5e-3, weight_decay=0.0)
print(f"ours, 100 steps: loss on code {validation_loss(base, code_val):.2f} -> {validation_loss(small, code_val):.2f}; "
      f"the model takes {memory(small) / memory(base):.0%} of the bytes")  # fmt: skip
assert validation_loss(small, code_val) < validation_loss(base, code_val) - 0.3
with lesson.picture("memory", "Training memory of 7 billion parameters, without activations", size=(7, 4)) as axes:
    bottom = np.zeros(3)
    for part, shade, hatch in (("weights", "0.85", ""), ("gradients", "0.6", "//"), ("optimizer", "white", "..")):
        sizes = np.array([m[part] for m in totals.values()]) / 1e9
        axes.bar(list(totals), sizes, bottom=bottom, color=shade, hatch=hatch, edgecolor="black", label=part)
        bottom += sizes
    for place, total in enumerate(bottom):
        axes.text(place, total + 1.5, f"{total:.1f} GB", ha="center")
    axes.axhline(24, linestyle="--", color="black")
    axes.text(2.45, 25, "a consumer GPU: 24 GB", ha="right")
    axes.set(ylabel="gigabytes", ylim=(0, 95))

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start lora`, absmax, nf4
# - read: finetune/adapters/lora.py; finetune/quantization/rounding.py, nf4.py and gptq.py; finetune/adapters/qlora.py
# - read: `python scripts/lora.py --help` and `python scripts/quantize.py --help`, for a model that you trained
# - break: in finetune/adapters/lora.py let lora_B start like lora_A. Expect: `assert untouched == 0` fails: the
#   adapters change the model before they have learned anything.
# - lesson: `python scripts/lesson.py 445`
