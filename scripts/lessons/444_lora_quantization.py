"""Lesson 4.4.4: LoRA and quantization, or fine-tuning a large model on a small machine

Two problems, two solutions. Training holds twelve bytes for each parameter: learn a thin detour instead (LoRA). Weights
alone take two or four bytes each: store them in eight or four bits (quantization). Both at once are QLoRA.
Hu et al. 2022 (LoRA); Dettmers et al. 2022 and 2023 (LLM.int8(), QLoRA); Frantar et al. 2022 (GPTQ).
"""

from __future__ import annotations

import copy

import numpy as np

from finetune.adapters.lora import LoRAConfig, LoRALinear, adapter_parameters, apply_lora, merge_lora
from finetune.adapters.qlora import apply_qlora
from finetune.quantization import (
    QuantizationConfig,
    absmax,
    int8_product,
    memory,
    outlier_columns,
    quantize,
    zero_point,
)
from finetune.quantization.nf4 import nf4, nf4_levels
from finetune.quantization.rounding import relative_error
from gpt import GPTConfig, accounting
from gpt.training.standard_library import python_code
from minigrad import no_grad
from scripts.lessons.pictures import Lesson, bars
from scripts.lessons.small_gpt import english, new_gpt, smooth, train, validation_loss

lesson = Lesson("444_lora_quantization", __doc__)
rng = np.random.default_rng(0)

# %% The memory wall
N = 7_000_000_000
full = accounting.training_memory(N, weights="bfloat16", gradients="bfloat16")
for name, size in full.items():
    print(f"  {name:10} {size / N:2.0f} bytes x 7 billion = {size / 1e9:5.1f} GB")
assert sum(full.values()) == 12 * N == 84e9 and full["optimizer"] * 3 == 2 * sum(full.values())
print(f"together {sum(full.values()) / 1e9:.0f} GB, two thirds for Adam's moments; a consumer's GPU has 24")

# %% Low rank
print(f"768 x 768 is {768 * 768:,} numbers; through 8 dimensions it is {adapter_parameters(768, 768, r=8):,}")
assert 768 * 768 / adapter_parameters(768, 768, r=8) == 48
B, A = rng.standard_normal((6, 2)), rng.standard_normal((2, 6))
print(f"(6, 2) @ (2, 6) makes a 6 x 6 matrix, but of rank {np.linalg.matrix_rank(B @ A)}: it can do less.")
print("That is the bet of LoRA: what fine-tuning has to add to a weight matrix has few directions that matter.")

# %% LoRA
tokenizer, train_ids, val_ids = english()
base = new_gpt(len(tokenizer))
train(base, train_ids, 300)
code = np.array(tokenizer.encode(python_code(150_000)))
code_train, code_val = code[: len(code) * 9 // 10], code[len(code) * 9 // 10 :]
print(f"a small GPT has learned English (loss {validation_loss(base, val_ids):.2f}); on Python code it has", end=" ")
print(f"{validation_loss(base, code_val):.2f}. Now it is to learn that.")

x = train_ids[None, :16]
adapted = copy.deepcopy(base)
layers = apply_lora(adapted, LoRAConfig(r=8, alpha=16, target_modules="all-linear"))
with no_grad():
    untouched = np.abs(adapted(x).data - base(x).data).max()
print(f"B is zero at first, so the adapters change nothing: logits differ by {untouched}")
assert untouched == 0 and all((layer.lora_B.data == 0).all() for layer in layers.values())

tuned = copy.deepcopy(base)
curves, gaps = {}, {}
for name, model, rate in (("full fine-tuning", tuned, 1e-3), ("LoRA, rank 8", adapted, 5e-3)):
    curves[name] = train(model, code_train, 200, learning_rate=rate, weight_decay=0.0)
    learned, *found = (validation_loss(model, ids) for ids in (code_train, code_val, val_ids))
    gaps[name] = found[0] - learned
    print(f"  {name}: {model.num_parameters(trainable_only=True):,} of {base.num_parameters():,} numbers are learned;")
    print(f"    loss on that code {learned:.2f}, on other code {found[0]:.2f}, on English {found[1]:.2f}")
at_first = validation_loss(base, code_val) - validation_loss(base, code_train)
print(f"from the code it saw to other code the loss rises by {at_first:.2f} before training,", end=" ")
print(f"{gaps['LoRA, rank 8']:.2f} with LoRA, {gaps['full fine-tuning']:.2f} with full fine-tuning:")
print("few directions are hard to learn by heart with")
assert gaps["LoRA, rank 8"] < gaps["full fine-tuning"]
assert adapted.num_parameters(trainable_only=True) == 16_384
assert validation_loss(adapted, code_val) < validation_loss(base, code_val) - 0.5
print("The share is large only because the model is tiny: for GPT-2, rank 8 beside every layer is", end=" ")
print(f"{accounting.lora_parameters(GPTConfig(), 8, accounting.LAYERS) / GPTConfig().num_parameters():.1%}.")

with no_grad():
    before = adapted(x).data
merged = copy.deepcopy(adapted)
merge_lora(merged)  # W + scaling * B A: one matrix again
with no_grad():
    difference = np.abs(merged(x).data - before).max()
print(f"merged, the model is a plain one again, as fast as before; its logits differ by {difference:.0e}")
assert difference < 1e-3 and not any(isinstance(m, LoRALinear) for m in merged.modules())

old, spectra = dict(base.named_parameters()), []
for name, p in tuned.named_parameters():
    if p.ndim == 2 and ".h." in name:  # the matrices of the blocks
        spectra.append(np.linalg.svd(p.data - old[name].data, compute_uv=False) ** 2)
kept = np.mean([s[:8].sum() / s.sum() for s in spectra])
print(f"what full fine-tuning changed: the 8 strongest of 64 directions hold {kept:.0%} of it (12 % if all were alike)")
assert kept > 0.2
with lesson.picture("lora", "Full fine-tuning and LoRA on Python code", columns=2, size=(10, 3.8)) as (left, right):
    for (name, losses_), line in zip(curves.items(), ("-", "--")):
        left.plot(smooth(losses_), line, color="black", label=name)
    left.set(xlabel="step", ylabel="loss (nats per token), smoothed")
    left.legend(frameon=False)
    right.plot(range(1, 65), np.mean([s.cumsum() / s.sum() for s in spectra], axis=0), color="black")
    right.plot([1, 64], [1 / 64, 1], ":", color="black")
    right.axvline(8, color="0.6")
    right.text(9, 0.08, "rank 8")
    right.set(xlabel="directions kept", ylabel="share of the change (squared)", title="the change of full fine-tuning")

# %% Absmax by hand
weights = np.array([[0.5, -1.3, 2.4, -0.1]], np.float32)
scale = np.abs(weights).max() / 127
levels = np.rint(weights / scale)
print(f"weights {weights[0]}\nscale   2.4 / 127 = {scale:.4f}\nlevels  {levels[0]}\nback    {(levels * scale)[0]}")
assert (levels == absmax(weights).levels()).all() and (levels == [[26, -69, 127, -5]]).all()
assert np.abs(levels * scale - weights).max() <= scale / 2  # at most half a step
positive = rng.uniform(0, 4, (1, 64)).astype(np.float32)
errors = {q.__name__: relative_error(q(positive, bits=4).dequantize(), positive) for q in (absmax, zero_point)}
print(f"64 numbers from 0 to 4, in 4 bits: error {errors['absmax']:.1%} with absmax, which wastes the levels below 0,")
print(f"and {errors['zero_point']:.1%} with a zero-point, a grid from the smallest to the largest number")
assert errors["zero_point"] < errors["absmax"] / 1.5

# %% Outliers
row = (0.05 * rng.standard_normal((1, 64))).astype(np.float32)
spoiled = row.copy()
spoiled[0, 20] = 8.0
usual = np.arange(64) != 20
rounded = {"no outlier": absmax(row), "outlier, one scale": absmax(spoiled), "outlier, groups": absmax(spoiled, 8, 16)}
off = {name: relative_error(q.dequantize()[:, usual], row[:, usual]) for name, q in rounded.items()}
print("error of the 63 usual weights in 8 bits: " + ", ".join(f"{name} {error:.1%}" for name, error in off.items()))
assert off["no outlier"] < off["outlier, groups"] < off["outlier, one scale"]
inputs, matrix = rng.standard_normal((32, 128)), rng.standard_normal((64, 128)) / 11
inputs[:, 5] *= 20  # one feature of large models is like that in nearly every token
naive, split = (relative_error(int8_product(inputs, matrix, t), inputs @ matrix.T) for t in (np.inf, 6.0))
print(
    f"inputs rounded, too: the product is off by {naive:.2%}, and {split:.2%} with "
    f"column {outlier_columns(inputs)[0]} in floats"
)
assert split < naive / 2

sample = rng.standard_normal((256, 64)).astype(np.float32)
uniform, quantiles = (relative_error(q.dequantize(), sample) for q in (absmax(sample, 4, 64), nf4(sample)))
print(f"bell-shaped weights in 4 bits, groups of 64: equal steps are off by {uniform:.1%}, NF4 by {quantiles:.1%}")
assert quantiles < uniform
with lesson.picture("rounding", "Rounding, outliers and NF4", columns=3, size=(13, 3.8)) as (left, middle, right):
    left.plot(row[0, :16], rounded["no outlier"].dequantize()[0, :16], "o", mfc="none", color="black", label="alone")
    left.plot(row[0, :16], rounded["outlier, one scale"].dequantize()[0, :16], "x", color="black", label="beside an 8")
    left.set(
        xlabel="weight",
        ylabel="after rounding to 8 bits",
        title="an outlier makes steps of 0.06",
        xticks=[-0.05, 0, 0.05],
    )
    left.legend(frameon=False)
    bars(middle, {name.replace(", ", ",\n"): 100 * error for name, error in off.items()}, "error of usual weights (%)")
    right.hist((sample / np.abs(sample).max(axis=1, keepdims=True)).ravel(), 60, color="0.8", density=True)
    right.vlines(nf4_levels(), 0, 0.5, color="black", label="NF4's 16 levels")
    right.vlines(np.arange(-7, 8) / 7, 1.35, 1.5, color="0.4", label="equal steps")
    right.set(
        xlabel="weight / largest of its group", ylabel="density", title="levels where the weights are", ylim=(0, 1.9)
    )
    right.legend(frameon=False, loc="upper right", ncols=2, fontsize=8)

# %% A whole model
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
}
for name, config in settings.items():
    model = copy.deepcopy(base)
    report = quantize(model, config, calibration)
    quantized[name] = validation_loss(model, val_ids), max(layer.error or 0.0 for layer in report.layers)
    print(f"{name:14}{memory(model) / 1e6:7.2f}{quantized[name][0]:9.4f}{quantized[name][1]:28.3%}")
assert abs(quantized["absmax, 8 bit"][0] - plain) < 0.01
print("a model this small hardly suffers; what its layers put out tells the methods apart")
assert quantized["GPTQ, 4 bit"][1] < quantized["absmax, 4 bit"][1]
print("same grid, better choice: GPTQ lets the weights not yet rounded make up for those that are")

# %% QLoRA
adapter = accounting.lora_parameters(GPTConfig(n_layer=32, n_embd=4096, n_head=32), r=16, layers=accounting.LAYERS)
lora = accounting.training_memory(N + adapter, adapter, weights="bfloat16", gradients="bfloat16")
qlora = accounting.qlora_memory(N * accounting.nf4_bits() / 8, adapter, "bfloat16")
totals = {"full": full, "LoRA": lora, "QLoRA": qlora}
print("7 billion parameters, rank 16: " + ", ".join(f"{n} {sum(m.values()) / 1e9:.1f} GB" for n, m in totals.items()))
assert round(sum(qlora.values()) / 1e9) == 4 and round(sum(full.values()) / sum(qlora.values())) == 21
small = copy.deepcopy(base)
apply_qlora(small, LoRAConfig(r=8, alpha=16, target_modules="all-linear"))
train(small, code_train, 100, learning_rate=5e-3, weight_decay=0.0)
print(f"ours, 100 steps around 4-bit weights: loss on code {validation_loss(base, code_val):.2f} ->", end=" ")
print(f"{validation_loss(small, code_val):.2f}, the weights in {memory(small) / memory(base):.0%} of the bytes")
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
    axes.text(2.45, 25, "a consumer's GPU: 24 GB", ha="right")
    axes.set(ylabel="gigabytes", ylim=(0, 95))
    axes.legend(frameon=False)

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start lora, absmax, nf4`
# - read: finetune/adapters/lora.py; finetune/quantization/rounding.py, nf4.py and gptq.py; finetune/adapters/qlora.py
# - try: `python scripts/lora.py --help` and `python scripts/quantize.py --help`, on a model that you trained
# - break: in finetune/adapters/lora.py let lora_B start like lora_A: which line of this lesson notices?
# - lesson: `python scripts/lesson.py 445`
