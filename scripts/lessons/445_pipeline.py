"""Lesson 4.4.5: the whole pipeline, from random numbers to an assistant in four bits

Nothing new, and everything at once: pretraining, instruction tuning, preferences, LoRA and quantization, each starting
from what the one before has left, on a model trained here in seconds. One table tells what each of them changed.
"Assembly, not invention": the loop is the same throughout; only data, loss, and what may move are others.
Ouyang et al. 2022 (InstructGPT); Rafailov et al. 2023 (DPO); Hu et al. 2022 (LoRA); Dettmers et al. 2023 (QLoRA).
"""

from __future__ import annotations

import copy
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
from finetune.objectives.dpo import dpo_batch_loss, with_reference
from finetune.objectives.sft import collate, encode_examples, sft_loss
from finetune.quantization import QuantizationConfig, memory, quantize
from gpt.training.standard_library import python_code
from gpt.training.trainer import Trainer, TrainingConfig
from scripts.lessons.pictures import Lesson
from scripts.lessons.small_gpt import english, new_gpt, train, validation_loss

lesson = Lesson("445_pipeline", __doc__)
STYLE = " Ask again!"  # how our own company wants its answers to end: nothing that the stages before have seen
BLOCK = 96

# %% The measuring
tokenizer, train_ids, val_ids = english()
questions = instruction_tasks("test", 100)  # wordings and words that no stage sees
rows: dict[str, dict[str, float]] = {}
samples: dict[str, str] = {}


def measure(stage: str, model: Any, learned: int) -> None:
    """Add a row to the table: what the model, as this stage has left it, makes of text and of questions."""
    replies = ask(model, tokenizer, [item.question for item in questions], chat_template(tokenizer))
    texts = [reply.text.removesuffix(STYLE) for reply in replies]
    rows[stage] = {
        "learned": learned,
        "text loss": validation_loss(model, val_ids),
        "answers": np.mean([r.ended and q.has_format(t) for q, r, t in zip(questions, replies, texts)]),
        "courteous": np.mean([q.quality(t) % 2 if r.ended else 0 for q, r, t in zip(questions, replies, texts)]),
        "in style": np.mean([reply.ended and reply.text.endswith(STYLE) for reply in replies]),
        "right": np.mean([r.ended and q.is_correct(t) for q, r, t in zip(questions, replies, texts)]),
        "MB": memory(model) / 1e6,
    }
    samples[stage] = shorten(replies[0].text.strip() or "(empty lines)", 60)
    print(f"{stage}: to {questions[0].prompt!r} it says: {samples[stage]}")


def tune(model: Any, items: Sequence[Any], batch: Callable[..., Any], loss: Any, steps: int, rate: float) -> None:
    """The project's one training loop, on other data, with another loss."""
    config = TrainingConfig(max_iters=steps, learning_rate=rate, warmup_iters=steps // 10, weight_decay=0.0)
    trainer = Trainer(model, ShuffledBatches(items, 16, batch), config, "runs/lessons", loss)
    model.train()
    for _ in range(steps):
        trainer.step()
    model.eval()


def change(after: Any, before: Any) -> float:
    """How far the weights have moved, relative to their size: |after - before| / |before|."""
    pairs = [(p.data, q.data) for p, q in zip(after.parameters(), before.parameters(), strict=True)]
    moved, size = (sum(float((array**2).sum()) for array in arrays) for arrays in
                   ([a - b for a, b in pairs], [b for _, b in pairs]))  # fmt: skip
    return float(np.sqrt(moved / size))


print("whether a reply has the form of an answer, is courteous, in our company's style, and right")

# %% Five stages
base = new_gpt(len(tokenizer), block_size=BLOCK)  # 1. the next token, from plain text
train(base, train_ids, 200)
add_chat_tokens(base, tokenizer)
everything = base.num_parameters()
measure("pretraining", base, everything)

template = ChatTemplate(tokenizer)
demonstrations = [item.example() for item in instruction_tasks("train", 6000)]
sft = copy.deepcopy(base)  # 2. to answer, from demonstrations; only the answers are learned from
tune(sft, encode_examples(demonstrations, template, BLOCK)[0], collate, sft_loss, 400, 2e-3)
measure("SFT", sft, everything)

pairs = with_reference(sft, encode_pairs(preference_pairs("train", 640), template, BLOCK)[0])
dpo = copy.deepcopy(sft)  # 3. to answer as is preferred, from pairs: courteously
tune(dpo, pairs, pair_batch, partial(dpo_batch_loss, beta=0.5), 40, 2e-4)
measure("DPO", dpo, everything)

own = [
    Example([*p.prompt, {"role": "assistant", "content": p.chosen + STYLE}]) for p in preference_pairs("train", 1600, 1)
]
lora = copy.deepcopy(dpo)  # 4. our own style, in an adapter beside frozen weights
apply_lora(lora, LoRAConfig(r=8, alpha=16, target_modules="all-linear"))
adapter = lora.num_parameters(trainable_only=True)
tune(lora, encode_examples(own, template, BLOCK)[0], collate, sft_loss, 150, 6e-3)
merge_lora(lora)
measure("LoRA", lora, adapter)

small = copy.deepcopy(lora)  # 5. nothing is learned: four bits for each weight
quantize(small, QuantizationConfig("nf4", double_quant=True))
measure("4 bits", small, 0)

# %% What each of them changed
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
print("SFT gives the form, DPO the manners, LoRA the style (at the cost of some form), and four bits take little away.")
print("Few answers are right: in seconds it learns how to answer and hardly what (scripts/pipeline.py does better).")
print("And look at the loss on plain text: what is not practised any more is forgotten.")
print("One seed; steps, rates and LoRA's rank and style were chosen on these same questions, among five settings.")

TEACHES = {
    "pretraining": "plain text\nnext token",
    "SFT": "demonstrations\nto answer",
    "DPO": "pairs of replies\nto be preferred",
    "LoRA": "own examples\nown style",
    "4 bits": "no data\nto be small",
}
with lesson.picture(
    "pipeline", "The pipeline: each stage starts from what the one before has left", size=(11, 3)
) as axes:
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

# %% On a model hub
artefacts = [
    ("base", "Meta-Llama-3-8B", "pretraining", memory(base), "scripts/train.py"),
    ("instruct", "Meta-Llama-3-8B-Instruct", "SFT, then DPO", memory(dpo), "scripts/sft.py, scripts/dpo.py"),
    ("adapter", "a LoRA, to put beside one of these", "LoRA", 4 * adapter, "scripts/lora.py"),
    ("quantized", "...-Instruct-GPTQ, -AWQ, -bnb-4bit", "quantization", memory(small), "scripts/quantize.py"),
]
print(f"{'what':11}{'as in the Llama 3 family':36}{'left by':16}{'ours (bytes)':>13}  written by")
for what, example, stage, size, script in artefacts:
    print(f"{what:11}{example:36}{stage:16}{size:13,}  {script}")
assert artefacts[2][3] < artefacts[3][3] < artefacts[0][3]
print("'Llama 3 70B Instruct, 4-bit GPTQ' is a path through this table, and each word of it a stage.")
print("One function reads all of ours: load_model in finetune/loading.py.")

# %% The adaptation spectrum
code = copy.deepcopy(base)  # the far end: all weights, on another kind of text
train(code, np.array(tokenizer.encode(python_code(100_000))), 100, learning_rate=3e-3)
spectrum = {
    "no adaptation: a prompt": (0, 0.0),
    "classification head": (2 * base.config.n_embd, 0.0),
    "LoRA, rank 8": (adapter, change(lora, dpo)),
    "DPO": (everything, change(dpo, sft)),
    "SFT": (everything, change(sft, base)),
    "full fine-tuning, on code": (everything, change(code, base)),
}
for name, (count, moved) in spectrum.items():
    print(f"  {name:27}{count / everything:7.1%} of the numbers are learned; all weights move by {moved:6.1%}")
assert spectrum["DPO"][1] < spectrum["SFT"][1]
print("Freezing, a low rank, a KL penalty: three ways to say 'not too far from what was there'. Take the first that")
print("does the job. Few numbers may still move far: compare LoRA's 150 large steps with DPO's 40 small ones.")
with lesson.picture("spectrum", "The adaptation spectrum", columns=2, size=(11, 3.8)) as panels:
    for axes, which, label in zip(panels, (0, 1), ("numbers that are learned (%)", "change of all weights (%)")):
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
# - try: `python scripts/pipeline.py`: the same road with a model that gets its answers right; then scripts/chat.py
# - exercise: `python scripts/exercise.py start loss_masking, dpo, lora, nf4`
# - read: finetune/stages/pipeline_stages.py, a stage a paragraph; finetune/loading.py
# - break: leave out the SFT (let `dpo` start from `base`): what does DPO make of a model that cannot answer?
# - lesson: `python scripts/lesson.py 451`
