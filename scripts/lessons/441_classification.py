"""Lesson 4.4.1: classification with a pretrained model

A language model outputs tokens; a classifier has to output a class. So the output layer is replaced: one small matrix
turns the hidden state of the last token into a logit per class. The rest of the model is pretrained. How much of it
should be trained: nothing, a part, or everything? This lesson measures what each choice gains and what it forgets.
The task: which part of Python's documentation does a paragraph come from? Radford et al. 2018 (GPT-1), section 3.2.
"""

from __future__ import annotations

import copy
import time

import numpy as np

from finetune.data.datasets import ShuffledBatches, batches_of
from finetune.data.labelled_texts import documentation_texts
from finetune.evaluation.confusion import confusion_as_text, confusion_matrix, majority_baseline, predict
from finetune.objectives.classification import classification_loss, collate, encode_texts
from finetune.objectives.gpt_with_head import GPTWithHead, freeze
from gpt import GPT, GPTConfig
from gpt.training.evaluation import evaluate
from gpt.training.training_config import TrainingConfig
from gpt.training.training_step import training_steps
from minigrad import manual_seed, nn, no_grad, use_kernels
from scripts.lessons.small_gpt import english, new_gpt, smooth, train, validation_loss, write
from scripts.pages.pictures import LINES, Lesson, bars, heatmap

lesson = Lesson("441_classification", __doc__)

# %% A pretrained model continues text
# Asked about the subject of a text, it just continues.
tokenizer, train_ids, val_ids = english()
pretrained = new_gpt(len(tokenizer), block_size=48)
with use_kernels("fast"):  # lesson 432 shows the steps
    train(pretrained, train_ids, 500)
language_before = validation_loss(pretrained, val_ids)
texts = {split: documentation_texts(split) for split in ("train", "test")}
labels = sorted({text.label for text in texts["train"]})
first = next(text for text in texts["test"] if len(text.text) > 100)
print(f"a paragraph on {first.label}: {first.text[:80]}...")
print(write(pretrained, tokenizer, "This text is about", 20))

# %% One matrix, (classes, C)
# Every token of a text has a state of C numbers. The class is read off one of them.
#
# Predict: off which token, and why?
items = {name: encode_texts(part, labels, tokenizer, pretrained.config.block_size)[0] for name, part in texts.items()}
classifier = GPTWithHead.from_gpt(pretrained, labels)
ids, lengths, classes = collate(items["test"][:4])  # (4, T), padded on the right
with no_grad():
    hidden = pretrained.hidden_states(ids).data  # (4, T, C)
    last = np.array([hidden[b, lengths[b] - 1] for b in range(4)])  # (4, C)
    by_hand = last @ classifier.score.weight.data.T  # (4, classes)
    scores = classifier(ids, lengths).data
    longer = np.pad(ids, ((0, 0), (0, pretrained.config.block_size - ids.shape[1])))
    assert np.allclose(classifier(longer, lengths).data, scores, atol=1e-5)  # padding changes nothing
assert np.allclose(by_hand, scores, atol=1e-5)
print(f"hidden states {hidden.shape} -> of the last tokens {last.shape} -> scores {scores.shape}")

changed = ids.copy()
changed[:, 0] = (changed[:, 0] + 1) % len(tokenizer)
with no_grad():
    moved = np.abs(pretrained.hidden_states(changed).data - hidden).max(axis=2)
assert all(moved[b, lengths[b] - 1] > 0 for b in range(4))
print("change the first token; the state of the last one moves by", moved[range(4), lengths - 1])

gpt2 = GPTConfig()
head = nn.Linear(gpt2.n_embd, 2, bias=False).weight.data.size
assert head == 2 * 768 == 1_536 and gpt2.num_parameters() == 124_439_808
print(f"two classes on GPT-2: 2 x 768 = {head:,} new parameters, {head / gpt2.num_parameters():.4%} of the model")

# %% [markdown]
# Answer: off the last one. With a causal mask, it is the only token that has seen all others. Padding on the right
# changes nothing, because no token looks to its right.

# %% Frozen, partial, full


def fine_tune(model: GPT, blocks: int | None, data: list, steps: int = 150) -> tuple[GPTWithHead, list[float]]:
    """A head on a copy of the model, and the losses. blocks: how many to train; None: everything."""
    manual_seed(1)
    classifier = GPTWithHead.from_gpt(copy.deepcopy(model), labels)
    freeze(classifier, blocks)  # requires_grad = False: no gradient is computed, and none is applied
    rate = 1e-2 if blocks == 0 else 2e-3  # a new head alone can take larger steps
    config = TrainingConfig(max_iters=steps, learning_rate=rate, warmup_iters=steps // 10)
    batches = ShuffledBatches(data, 16, collate)
    with use_kernels("fast"):  # the loop of pretraining with another loss
        losses = [step.loss for step in training_steps(classifier, batches, classification_loss, config)]
    return classifier, losses


def accuracy(classifier: GPTWithHead, data: list) -> float:
    return evaluate(classifier, batches_of(data, 32, collate), classification_loss)["accuracy"]


ways = {"head only": 0, "last block": 1, "everything": None}
baseline = majority_baseline([c for _, c in items["train"]], [c for _, c in items["test"]])
print(f"{len(items['train']):,} paragraphs to learn from, {len(items['test'])} to test on, 4 classes")
print(f"always the most frequent class: {baseline:.0%} right; loss in writing, before: {language_before:.2f}")
print(f"\n{'trained':12}{'parameters':>11}{'seconds':>9}{'right, test':>13}{'loss in writing':>17}")
tuned, curves, right, language = {}, {}, {}, {}
for name, blocks in ways.items():
    started = time.perf_counter()
    tuned[name], curves[name] = fine_tune(pretrained, blocks, items["train"])
    seconds = time.perf_counter() - started
    right[name] = accuracy(tuned[name], items["test"])
    language[name] = validation_loss(tuned[name].language_model(), val_ids)
    size = tuned[name].num_parameters(trainable_only=True)
    print(f"{name:12}{size:11,}{seconds:9.1f}{right[name]:13.1%}{language[name]:17.2f}")
assert tuned["head only"].num_parameters(trainable_only=True) == len(labels) * pretrained.config.n_embd
assert min(right.values()) > baseline

# %% Has reading made the features?
# The head alone can only use features that the frozen model already has. How much do they owe to pretraining?


def by_reading() -> dict[str, list[list[float]]]:
    """Accuracies for seeds 0, 1 and 2, after 0, 500 and 1,500 steps of pretraining: of the head alone, and in full."""
    found: dict[str, list[list[float]]] = {"head only": [], "everything": []}
    for seed in (0, 1, 2):
        model = new_gpt(len(tokenizer), seed, block_size=48)
        for name in found:
            found[name].append([])
        for more in (0, 500, 1000):
            if more:
                train(model, train_ids, more, seed=seed + more)
            for name, of_seeds in found.items():
                tuned, _ = fine_tune(model, ways[name], items["train"])
                of_seeds[-1].append(round(accuracy(tuned, items["test"]), 3))
    return found


reading = {name: np.array(found) for name, found in lesson.measured("reading", by_reading, fine_tune).items()}
print("right, mean (least to most) of 3 seeds, after 0, 500 and 1,500 steps of pretraining:")
for name, found in reading.items():  # (seeds, steps)
    cells = [f"{column.mean():.0%} ({column.min():.0%} to {column.max():.0%})" for column in found.T]
    print(f"  {name:12}" + "".join(f"{cell:>20}" for cell in cells))
assert reading["head only"].min() > baseline + 0.05

# %% [markdown]
# The frozen model extracts features of the text: with each seed, the head alone is right more often than if it always
# named the most frequent class. But in a model this small, pretraining is not the reason. Random weights do as well,
# within the error of about 3 points that so few texts leave: a random mixture of all tokens is a bag of words. With all
# weights trained, pretraining does not pay here either, because the task is about keywords, and a thousand texts are
# enough to learn them. In large models it does: without pretraining, GPT-1 lost 15 points on average (Radford et al.
# 2018, table 5).
#
# And the first token, which has seen only itself: is it worse than the last?

# %%
cut_short = {name: [(text[:1], c) for text, c in part] for name, part in items.items()}
on_the_first, _ = fine_tune(pretrained, 0, cut_short["train"])
short = accuracy(on_the_first, cut_short["test"])
print(f"head on the last token {right['head only']:.0%}, on the first token {short:.0%}")
assert right["head only"] > max(baseline, short)

test_ids, true = zip(*items["test"])
taken_for = predict(tuned["everything"], test_ids).argmax(axis=1)
counts = confusion_matrix(true, taken_for, len(labels))
print("\nconfusion matrix of the fully trained model:\n" + confusion_as_text(counts, labels))
with lesson.picture("classes", "From which part of the documentation?", columns=2, size=(11, 4)) as (one, two):
    for (name, curve), line in zip(curves.items(), LINES):
        one.plot(smooth(curve), line, color="black", label=name)
    one.set(xlabel="step", ylabel="loss (nats per text), smoothed", title="learning to classify", ylim=(0, None))
    heatmap(two, counts, labels, labels, ".0f")
    two.set(title="test texts, everything trained", xlabel="predicted", ylabel="true")

# %% Catastrophic forgetting
# Nothing in the new loss asks the model to keep its language.
assert np.isclose(language["head only"], language_before, atol=1e-6)  # a frozen model forgets nothing
assert language["everything"] > language_before + 0.3
for name, classifier in tuned.items():
    sample = write(classifier.language_model(), tokenizer, "The value of", 20)
    print(f"  {name:11} loss +{language[name] - language_before:.2f}: {sample}")
with lesson.picture("forgetting", "What each choice gains and forgets", columns=2, size=(10, 3.8)) as (one, two):
    bars(one, {"majority": baseline, "first\ntoken": short, **right}, "accuracy on test texts", ".0%")
    bars(two, {"before": language_before, **language}, "loss in writing (nats per token)", ".2f")
    one.set(title="the task")
    two.set(title="the language: lower is better")

# %% Why freeze at all? Few texts and many parameters
few = items["train"][::50]
learned, on_others = {}, {}
print(f"{len(few)} texts:      right of these  right of others")
for name, blocks in ways.items():
    classifier, _ = fine_tune(pretrained, blocks, few, steps=60)
    learned[name], on_others[name] = accuracy(classifier, few), accuracy(classifier, items["test"])
    print(f"  {name:12}{learned[name]:14.0%}{on_others[name]:17.0%}")
assert learned["everything"] > on_others["everything"] + 0.2
gain, gain_few = (100 * (r["everything"] - r["head only"]) for r in (right, on_others))
print("points that full training gains over the head alone: "
      f"{gain:+.0f} with {len(items['train'])} texts, {gain_few:+.0f} with {len(few)}")  # fmt: skip
assert gain > gain_few

# %% [markdown]
# The fully trained model has learned the few texts by heart. It gains less from them than from all texts, and forgets
# the language in both cases. Frozen: fast, small, nothing is forgotten. Full: slower, more memory, and only worth it
# with enough texts. Training the last block only is a middle way.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start cross_entropy`: the loss of this lesson
# - read: finetune/objectives/gpt_with_head.py, finetune/objectives/classification.py; then scripts/classify.py --help
# - break: take the first token in finetune/objectives/gpt_with_head.py, 0 for lengths - 1. Expect: `assert
#   np.allclose(by_hand, scores)` fails. What it would cost is measured above: the head on the first token.
# - lesson: `python scripts/lesson.py 442`
