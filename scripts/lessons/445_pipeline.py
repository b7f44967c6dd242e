"""Lesson 4.4.5: the whole pipeline, from random numbers to an assistant in four bits

Nothing new, and everything together: pretraining, instruction tuning, preference optimization, LoRA and quantization.
Each stage starts from the model of the stage before, and one table shows what each stage changed. "Assembly, not
invention": the training loop stays the same; only the data, the loss and the trained parameters differ.
Ouyang et al. 2022 (InstructGPT); Rafailov et al. 2023 (DPO); Hu et al. 2022 (LoRA); Dettmers et al. 2023 (QLoRA).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from finetune.adapters.lora import LoRAConfig, apply_lora, merge_lora
from finetune.data.chat_template import ChatTemplate, add_chat_tokens
from finetune.data.datasets import Example, ShuffledBatches
from finetune.data.pairs import encode_pairs, pair_batch
from finetune.data.tasks import instruction_tasks, preference_pairs
from finetune.evaluation.answering import ask, chat_template, shorten
from finetune.objectives.classification import classification_loss
from finetune.objectives.classification import collate as collate_texts
from finetune.objectives.dpo import dpo_batch_loss, with_reference
from finetune.objectives.gpt_with_head import GPTWithHead, freeze
from finetune.objectives.sft import collate, encode_examples, sft_loss
from finetune.quantization import QuantizationConfig, memory, quantize
from gpt.training.evaluation import baseline_losses
from gpt.training.standard_library import python_code
from gpt.training.training_config import TrainingConfig
from gpt.training.training_step import training_steps
from minigrad import use_kernels
from minigrad.precision import round_bfloat16
from scripts.lessons.small_gpt import english, new_gpt, train, validation_loss
from scripts.pages.pictures import Lesson

lesson = Lesson("445_pipeline", __doc__)
STYLE = " Ask again!"  # how answers end in our own company's data: no earlier stage has seen it
BLOCK = 96

# %% The same questions after every stage
# For each reply: does it have the form of an answer, is it courteous, is it in our company's style, is it right? The
# replies are greedy: the most likely token each time.
tokenizer, train_ids, val_ids = english()
questions = instruction_tasks("test", 100)  # with wordings and words that are in no training data
rows: dict[str, dict[str, float]] = {}
right: dict[str, float] = {}


def measure(stage: str, model: Any, learned: int) -> None:
    """Add a row to the table: the model after this stage, on plain text and on the questions."""
    replies = ask(model, tokenizer, [item.question for item in questions], chat_template(tokenizer))
    texts = [reply.text.removesuffix(STYLE) for reply in replies]
    rows[stage] = {
        "learned": learned,
        "text loss": validation_loss(model, val_ids),
        "answers": np.mean([r.ended and q.has_format(t) for q, r, t in zip(questions, replies, texts)]),
        "courteous": np.mean([q.quality(t) % 2 if r.ended else 0 for q, r, t in zip(questions, replies, texts)]),
        "in style": np.mean([reply.ended and reply.text.endswith(STYLE) for reply in replies]),
        "MB": memory(model) / 1e6,
    }
    right[stage] = float(np.mean([r.ended and q.is_correct(t) for q, r, t in zip(questions, replies, texts)]))
    print(f"{stage}: {questions[0].prompt} -> {shorten(replies[0].text.strip() or '(empty lines)', 60)}")


def tune(model: Any, items: Sequence[Any], batch: Callable[..., Any], loss: Any, steps: int, rate: float) -> None:
    """The training loop of all lessons, with other data and another loss."""
    config = TrainingConfig(max_iters=steps, learning_rate=rate, warmup_iters=steps // 10, weight_decay=0.0)
    with use_kernels("fast"):
        for _ in training_steps(model, ShuffledBatches(items, 16, batch), loss, config):
            pass


def change(after: Any, before: Any) -> float:
    """How far the weights have moved, relative to their size: |after - before| / |before|."""
    new, old = (np.concatenate([p.data.ravel() for p in model.parameters()]) for model in (after, before))
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


# %% Five stages, each starting from the one before
# Predict: which of the stages makes the model answer at all, and which makes it courteous?
base = new_gpt(len(tokenizer), block_size=BLOCK)  # 1. predict the next token of plain text
with use_kernels("fast"):
    train(base, train_ids, 200)
add_chat_tokens(base, tokenizer)
everything = base.num_parameters()
measure("pretraining", base, everything)

template = ChatTemplate(tokenizer)
plain = [(ids.tolist(), [True] * 32) for ids in np.split(train_ids[: len(train_ids) // 32 * 32], len(train_ids) // 32)]
conversations = encode_examples([item.example() for item in instruction_tasks("train", 6000)], template, BLOCK)[0]
sft = copy.deepcopy(base)  # 2. answer as in demonstrations, with plain text mixed in, so that it keeps its language
tune(sft, conversations + plain[:1500], collate, sft_loss, 300, 2e-3)
measure("SFT", sft, everything)

pairs = with_reference(sft, encode_pairs(preference_pairs("train", 640), template, BLOCK)[0])
dpo = copy.deepcopy(sft)  # 3. answer as preferred in pairs: courteously
tune(dpo, pairs, pair_batch, partial(dpo_batch_loss, beta=0.5), 40, 2e-4)
measure("DPO", dpo, everything)

own = [
    Example([*p.prompt, {"role": "assistant", "content": p.chosen + STYLE}]) for p in preference_pairs("train", 1600, 1)
]
lora = copy.deepcopy(dpo)  # 4. our own style, in an adapter beside frozen weights
apply_lora(lora, LoRAConfig(r=8, alpha=16, target_modules="all-linear"))
adapter = lora.num_parameters(trainable_only=True)
tune(lora, encode_examples(own, template, BLOCK)[0] + plain[:400], collate, sft_loss, 120, 6e-3)
merge_lora(lora)
measure("LoRA", lora, adapter)

small = copy.deepcopy(lora)  # 5. four bits per weight, without training
quantize(small, QuantizationConfig("nf4", double_quant=True))
measure("4 bits", small, 0)

# %% One table
columns = list(rows["SFT"])
print(f"{'':12}" + "".join(f"{name:>11}" for name in columns))
for stage, row in rows.items():
    cells = [format(row[name], {"learned": ",", "text loss": ".2f", "MB": ".2f"}.get(name, ".0%")) for name in columns]
    print(f"{stage:12}" + "".join(f"{cell:>11}" for cell in cells))
assert rows["SFT"]["answers"] > rows["pretraining"]["answers"] + 0.3
assert rows["DPO"]["courteous"] > rows["SFT"]["courteous"] + 0.2
assert rows["LoRA"]["in style"] > 0.1 and rows["DPO"]["in style"] == 0
assert rows["4 bits"]["MB"] < rows["LoRA"]["MB"] / 3 and rows["4 bits"]["in style"] > 0.1
assert abs(rows["4 bits"]["text loss"] - rows["LoRA"]["text loss"]) < 0.2
print(f"right answers, after any stage: {max(right.values()):.0%} at most")
unigram = baseline_losses(train_ids, val_ids[:4096], len(tokenizer))["unigram"]
assert max(row["text loss"] for row in rows.values()) < unigram  # every stage still speaks
forgetful = copy.deepcopy(base)
tune(forgetful, conversations, collate, sft_loss, 60, 2e-3)
forgotten = validation_loss(forgetful, val_ids)
print(f"text loss of token frequencies: {unigram:.2f}; after 60 steps of SFT without plain text: {forgotten:.2f}")
assert forgotten > rows["SFT"]["text loss"] + 0.5

TEACHES = {
    "pretraining": "plain text\nnext token",
    "SFT": "demonstrations\nto answer",
    "DPO": "pairs of replies\nto prefer",
    "LoRA": "own examples\nown style",
    "4 bits": "no training\nless memory",
}
with lesson.picture("pipeline", "The pipeline: each stage starts from the one before", size=(11, 3)) as axes:
    for place, (stage, row) in enumerate(rows.items()):
        axes.text(place, 1.0, stage, ha="center", va="center", fontsize=13,
                  bbox={"boxstyle": "round,pad=0.5", "facecolor": "0.88", "edgecolor": "black"})  # fmt: skip
        axes.text(place, 1.4, TEACHES[stage], ha="center", va="center")
        measured = f"answers {row['answers']:.0%}\ncourteous {row['courteous']:.0%}\nin style {row['in style']:.0%}"
        axes.text(place, 0.5, f"{measured}\n{row['MB']:.2f} MB", ha="center", va="center")
        if place:
            axes.annotate("", (place - 0.36, 1.0), (place - 0.62, 1.0), arrowprops={"arrowstyle": "->", "lw": 1.5})
    axes.set(xlim=(-0.6, 4.6), ylim=(0.1, 1.65), xticks=[], yticks=[])
    axes.axis("off")

# %% [markdown]
# Answer: SFT makes it answer, by showing answers. DPO makes it courteous, by showing pairs of them. LoRA adds the
# style, and four bits take little away. Each stage adds one thing, and needs what the stages before it have left.
#
# After every stage the model still predicts plain text far better than token frequencies do, because SFT and LoRA mix
# plain text in. SFT on conversations alone would soon end that.
#
# What no stage gives it is **right** answers. They have the right form and the wrong word: to repeat a word that it has
# never seen, a model has to learn to copy, and this one is too small and sees too few examples. The larger model of
# `python scripts/pipeline.py`, with 2 million parameters, answers about 80 % of such questions correctly. (Steps and
# rates were chosen by looking at this table.)

# %% What fewer bits cost
# Every weight is rounded. What does that do to the perplexity on plain text? The course says less than 1 % for GPTQ and
# AWQ. In so small a model, rounding may even lower it by chance.
calibration = train_ids[: 32 * BLOCK].reshape(32, BLOCK)
whole = validation_loss(lora, val_ids)
in_bfloat16 = copy.deepcopy(lora)
for p in in_bfloat16.parameters():
    p.data[...] = round_bfloat16(p.data)
fewer_bits = {"bfloat16": in_bfloat16}
for name, method in (("int8", "absmax"), ("NF4", "nf4"), ("GPTQ", "gptq"), ("AWQ", "awq")):
    fewer_bits[name] = copy.deepcopy(lora)
    quantize(fewer_bits[name], QuantizationConfig(method), calibration)
print(f"perplexity on plain text, float32: {math.exp(whole):.2f}")
rise = {name: 100 * (math.exp(validation_loss(m, val_ids) - whole) - 1) for name, m in fewer_bits.items()}
for name, percent in rise.items():
    print(f"  {name:9} {percent:+6.2f} %")
assert abs(rise["bfloat16"]) < 1 and abs(rise["int8"]) < 1 and max(rise.values()) < 5

# %% The stages as files on a model hub
# In "Llama 3 70B Instruct, 4-bit GPTQ", Llama 3 70B is the base model, Instruct stands for SFT and alignment, and 4-bit
# GPTQ for the quantization. Each stage leaves one kind of file; `load_model` in gpt/training/loading.py reads them all.
artifacts = [
    ("base", "Meta-Llama-3-8B", "pretraining", memory(base), "scripts/train.py"),
    ("instruct", "Meta-Llama-3-8B-Instruct", "SFT, then DPO", memory(dpo), "scripts/sft.py, scripts/dpo.py"),
    ("adapter", "a LoRA for one of these", "LoRA", 4 * adapter, "scripts/lora.py"),
    ("quantized", "...-Instruct-GPTQ, -AWQ, -bnb-4bit", "quantization", memory(small), "scripts/quantize.py"),
]
print(f"{'what':11}{'as in the Llama 3 family':36}{'left by':16}{'ours (bytes)':>13}  written by")
for what, example, stage, size, script in artifacts:
    print(f"{what:11}{example:36}{stage:16}{size:13,}  {script}")
assert artifacts[2][3] < artifacts[3][3] < artifacts[0][3]

# %% How much to change?
# Freezing, a low rank, a KL penalty: three ways to stay close to the pretrained model. How many parameters are trained,
# and how far do the weights move? The two differ: few trained parameters can move the weights far, and DPO trains all
# of them and moves them little.
code = copy.deepcopy(base)  # the far end: all weights, on another kind of text
train(code, np.array(tokenizer.encode(python_code(100_000))), 50, learning_rate=3e-3)
classifier = GPTWithHead.from_gpt(copy.deepcopy(base), ["question", "statement"])
freeze(classifier, 0)
texts = [(ids[:20], int(kind)) for (ids, _), kind in zip(conversations, np.arange(len(conversations)) % 2)]
tune(classifier, texts, collate_texts, classification_loss, 20, 1e-2)
spectrum = {
    "classification head": (classifier.num_parameters(trainable_only=True), change(classifier.language_model(), base)),
    "LoRA, rank 8": (adapter, change(lora, dpo)),
    "DPO": (everything, change(dpo, sft)),
    "SFT": (everything, change(sft, base)),
    "full fine-tuning, on code": (everything, change(code, base)),
}
for name, (count, moved) in spectrum.items():
    print(f"  {name:27}{count / everything:8.2%} of the parameters; the weights move by {moved:6.1%}")
assert spectrum["classification head"][0] < spectrum["LoRA, rank 8"][0] < everything
assert spectrum["classification head"][1] == 0 < spectrum["DPO"][1] < spectrum["SFT"][1]
assert spectrum["DPO"][1] < spectrum["LoRA, rank 8"][1]
with lesson.picture("spectrum", "The adaptation spectrum", columns=2, size=(11, 3.8)) as panels:
    for axes, which, label in zip(panels, (0, 1), ("trained parameters (%)", "change of all weights (%)")):
        values = [100 * (entry[which] / everything if which == 0 else entry[which]) for entry in spectrum.values()]
        axes.barh(list(spectrum), values, color="0.8", edgecolor="black")
        for place, value in enumerate(values):
            axes.text(value + max(values) / 60, place, f"{value:.1f}", va="center")
        axes.set(xlabel=label, xlim=(0, 1.15 * max(values)))
        axes.invert_yaxis()
    panels[1].set_yticks([])

# %% [markdown]
# ## What next
#
# - try: `python scripts/pipeline.py`: the same stages with a larger model; then scripts/chat.py. Expect: about eight
#   minutes, and a model most of whose answers are also right.
# - exercise: `python scripts/exercise.py start loss_masking`, dpo, lora, nf4
# - read: finetune/stages/pipeline_stages.py, a stage a paragraph; gpt/training/loading.py
# - break: leave out the SFT (let `dpo` start from `base`). Expect: the model still writes empty lines after DPO. DPO
#   chooses among replies that the model can give, and this one can give none.
# - lesson: `python scripts/lesson.py 446`
