"""Lesson 4.4.1: classification with a pretrained model

A language model outputs tokens; a classifier has to output a class. So the output layer is replaced: one small matrix
turns the hidden state of the last token into a logit per class. The rest of the model is pretrained. How much of it
should be trained: nothing, a part, or everything? This lesson measures what each choice costs, gains and forgets.
The task: which part of Python's documentation does a paragraph come from? Radford et al. 2018 (GPT-1), section 3.2.
"""

import copy
import time

import numpy as np

import minigrad.functional as F
from finetune.built_in.labelled_texts import documentation_texts
from finetune.built_in.tasks import made_up_word
from finetune.data.datasets import ShuffledBatches, batches_of
from finetune.evaluation.confusion import confusion_as_text, confusion_matrix, majority_baseline, predict
from finetune.objectives.classification import classification_loss, collate, encode_texts
from finetune.objectives.model_with_head import ModelWithHead, freeze
from gpt import GPT, GPTConfig
from gpt.training.evaluation import evaluate
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_loop import train_textbook
from minigrad import manual_seed, nn, no_grad, optim, use_kernels
from scripts.course.lessons.small_gpt import english, new_gpt, train, validation_loss, write
from scripts.course.pictures import Lesson

lesson = Lesson("441_classification", __doc__)

# %% A pretrained model continues text
# Asked about the subject of a text, it just continues.
tokenizer, train_ids, val_ids = english()
pretrained = new_gpt(len(tokenizer), lesson.seed)
with use_kernels("fast"):  # lesson 432 shows the steps
    train(pretrained, train_ids, 300, seed=lesson.seed)
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
classifier = ModelWithHead.from_language_model(pretrained, labels)
ids, lengths, classes = collate(items["test"][:4])  # (4, T), padded on the right
with no_grad():
    hidden = pretrained.hidden_states(ids).data  # (4, T, C)
    last = np.array([hidden[b, lengths[b] - 1] for b in range(4)])  # (4, C)
    by_hand = last @ classifier.score.weight.data.T  # (4, classes)
    scores = classifier(ids, lengths).data
    alone = np.concatenate([classifier([text], [len(text)]).data for text, _ in items["test"][:4]])
assert np.allclose(by_hand, scores, atol=1e-5)
assert len(set(lengths)) > 1 and np.allclose(alone, scores, atol=1e-5)  # padding changes nothing
print(f"hidden states {hidden.shape} -> of the last tokens {last.shape} -> scores {scores.shape}")

# %%
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
#
# ## What freezing saves
#
# A frozen weight (`requires_grad = False`) gets no gradient and is not changed. Adam keeps two numbers for each weight
# that it trains (lesson 432).
#
# Predict: for a head on a frozen model, for the last block with it, and for everything: how many numbers are in memory
# for training, and how many must be stored for each further task?


# %%
def fine_tune(model: GPT, blocks: int | None, data: list, names: list[str], steps: int = 120) -> ModelWithHead:
    """A head on a copy of the model, after training. blocks: how many to train with it; None: everything."""
    manual_seed(lesson.seed)
    classifier = ModelWithHead.from_language_model(copy.deepcopy(model), names)
    freeze(classifier, blocks)
    rate = 1e-2 if blocks == 0 else 2e-3  # a new head alone can take larger steps
    config = TrainingConfig(max_iters=steps, learning_rate=rate, warmup_iters=steps // 10)
    batches = ShuffledBatches(data, 16, collate, lesson.seed)
    with use_kernels("fast"):  # the loop of pretraining with another loss
        prepared = prepare_training(classifier, config)  # optimizer, schedule
        train_textbook(classifier, batches, classification_loss, *prepared, steps, config.grad_clip)
    return classifier


ways = {"head only": 0, "last block": 1, "everything": None}
tuned = {}
print(f"{'trained':12}{'weights':>10}{'gradient + Adam':>17}{'stored per task':>17}{'seconds':>9}")
for name, blocks in ways.items():
    started = time.perf_counter()
    tuned[name] = fine_tune(pretrained, blocks, items["train"], labels)
    size = tuned[name].num_parameters(trainable_only=True)
    print(f"{name:12}{size:10,}{3 * size:17,}{size:17,}{time.perf_counter() - started:9.1f}")
assert tuned["head only"].num_parameters(trainable_only=True) == len(labels) * pretrained.config.n_embd
# Of its two blocks, the first is as it was.
blocks = zip(tuned["last block"].transformer.h, pretrained.transformer.h)
assert [np.array_equal(a.mlp.c_fc.weight.data, b.mlp.c_fc.weight.data) for a, b in blocks] == [True, False]
frozen, original = tuned["head only"].transformer.parameters(), pretrained.transformer.parameters()
assert all(new.grad is None and np.array_equal(new.data, old.data) for new, old in zip(frozen, original))

# %% [markdown]
# Answer: three numbers for each trained weight, and one to store. With everything trained, each task needs a model of
# its own; frozen, all tasks share one model and have a small matrix each. And there is a third saving: a frozen model
# gives the same states in each epoch. They can be computed once, and then the model is not needed for training at all.

# %% What freezing costs
# Controls: always the most frequent class; a bag of words, which is a matrix from the number of times each token is in
# a text to the classes; a head on a frozen model with random weights, and such a model with everything trained; and a
# head on the first token, which has seen only itself.
#
# Predict: which way of training is right most often? Which of the controls is hardest to beat? And with 22 texts?
untrained = new_gpt(len(tokenizer), lesson.seed)
few, tests = items["train"][::50], items["test"]


def accuracy(classifier: ModelWithHead, data: list) -> float:
    return evaluate(classifier, batches_of(data, 32, collate), classification_loss)["accuracy"]


def bag_of_words(data: list, tests: list, size: int) -> float:
    """The share of right answers from how often each of `size` tokens is in a text. No model, and no order."""
    counts, test_counts = (np.array([np.bincount(ids, minlength=size) for ids, _ in part]) for part in (data, tests))
    classes, true = (np.array([c for _, c in part]) for part in (data, tests))
    matrix = nn.Linear(size, int(classes.max()) + 1)
    optimizer = optim.AdamW(matrix.parameters(), lr=0.03, weight_decay=0.01)
    for _ in range(200):
        matrix.zero_grad()
        F.cross_entropy(matrix(counts.astype(np.float32)), classes).backward()
        optimizer.step()
    return float((matrix(test_counts.astype(np.float32)).data.argmax(axis=1) == true).mean())


def results_of_controls(data: list, steps: int) -> dict[str, float]:
    """The share of right answers on the test texts of what is compared with the three ways."""
    one, two = ([(text[:1], c) for text, c in part] for part in (data, tests))  # cut after the first token
    return {
        "most frequent": majority_baseline([c for _, c in data], [c for _, c in tests]),
        "bag of words": bag_of_words(data, tests, len(tokenizer)),
        "random, frozen": accuracy(fine_tune(untrained, 0, data, labels, steps), tests),
        "random, everything": accuracy(fine_tune(untrained, None, data, labels, steps), tests),
        "first token": accuracy(fine_tune(pretrained, 0, one, labels, steps), two),
    }


# %%
right, right_few = results_of_controls(items["train"], 120), results_of_controls(few, 60)
for name, blocks in ways.items():
    right[name] = accuracy(tuned[name], tests)
    classifier = fine_tune(pretrained, blocks, few, labels, steps=60)
    right_few[name] = accuracy(classifier, tests)
by_heart = accuracy(classifier, few)  # of the last one, in which everything is trained
print(f"right of {len(tests)} test texts, learned from {len(items['train']):5} texts{len(few):6} texts")
for name in right:
    print(f"  {name:30}{right[name]:14.0%}{right_few[name]:12.0%}")
print(f"right of the {len(few)} texts themselves, everything trained: {by_heart:.0%}")
assert right["everything"] > right["head only"] + 0.1 and right["head only"] > right["most frequent"] + 0.02
assert right["bag of words"] > right["head only"] + 0.1 and by_heart > right_few["everything"] + 0.2
assert max(abs(right[control] - right["head only"]) for control in ("random, frozen", "first token")) < 0.1
assert right["head only"] < right["last block"] < right["everything"]
for found in (right, right_few):
    assert found["random, everything"] > found["everything"] - 0.05
assert right_few["everything"] > right_few["head only"] - 0.05  # within the error of so few test texts

# %% [markdown]
# Answer: training everything is right more often than the head alone: that is what freezing costs. The control that is
# hardest to beat is the bag of words. The task is about keywords, and this small model has mixed them into 64 numbers.
# A model with random weights mixes them as well, and a head on it is right about as often; so is a head on the first
# token. And if everything is trained, it may begin with random weights: it is right as often as the pretrained model or
# more, with many texts and with few. So little pretraining has made no features for this task, and is worth nothing
# here. Below comes a task where it is.
#
# From 22 texts, full training learns all by heart, and knows much less of other texts. One often hears that few texts
# are a reason to freeze, because fewer weights overfit less. Compare the last column: here that does not help.

# %%
test_ids, true = zip(*tests)
taken_for = predict(tuned["everything"], test_ids).argmax(axis=1)
counts = confusion_matrix(true, taken_for, len(labels))
print("confusion matrix of the fully trained model:\n" + confusion_as_text(counts, labels))
assert (counts.sum(axis=1) == np.bincount(true)).all() and np.isclose(np.trace(counts) / len(true), right["everything"])

# %% Catastrophic forgetting
# Nothing in the new loss asks the model to keep its language.
#
# Predict: which of the three models can still write?
language = {name: validation_loss(classifier.language_model(), val_ids) for name, classifier in tuned.items()}
for name, classifier in tuned.items():
    sample = write(classifier.language_model(), tokenizer, "The value of", 20)
    print(f"  {name:11} loss {language_before:.2f} -> {language[name]:.2f}: {sample}")
assert np.isclose(language["head only"], language_before, atol=1e-6)  # a frozen model forgets nothing
assert language["everything"] > language["last block"] > language_before + 0.1

# %% [markdown]
# Answer: the frozen one, exactly as before. So this is the choice. Frozen: cheap in memory and in storage, and nothing
# is forgotten, but the features are what they are. Full: the most accurate of the three, but with three numbers per
# weight while it trains, a copy of the model for each task, and a language that is lost. Training the last block lies
# between them.

# %% Has reading made the features?
# A kind of text where a bag of words must fail: the words that decide are in no labelled text. 36 invented nouns are
# animals, tools or places. The text for pretraining never says which, but only animals eat, and only tools cut. Of each
# kind four nouns get a label; the other eight are tested, in a text as short as "a das".
#
# Predict: a bag of words, a random frozen model and a pretrained frozen one get a matrix each. Which of them can name
# the kind of a noun that no label mentioned?
KINDS = {"animal": ["eats", "sleeps", "runs"], "tool": ["cuts", "rusts", "bends"], "place": ["floods", "burns"]}
rng = np.random.default_rng(lesson.seed)
nouns = list(dict.fromkeys(made_up_word(rng, "train") for _ in range(100)))[:36]
vocabulary = [".", "a", *nouns, *sum(KINDS.values(), [])]
number = {word: i for i, word in enumerate(vocabulary)}
kind_of = {noun: i % 3 for i, noun in enumerate(nouns)}
story = [f"a {noun} {rng.choice(list(KINDS.values())[kind_of[noun]])} ." for noun in rng.choice(nouns, 4000)]
print(" ".join(story[:4]))

# %%
reader = new_gpt(len(vocabulary), lesson.seed, block_size=12, n_layer=1)
fresh = copy.deepcopy(reader)
with use_kernels("fast"):
    train(reader, np.array([number[word] for word in " ".join(story).split()]), 300, seed=lesson.seed)
labelled = [([number["a"], number[noun]], kind) for noun, kind in kind_of.items()]
known, new = labelled[:12], labelled[12:]
kinds = {"most frequent": 1 / 3, "bag of words": bag_of_words(known, new, len(number))}
for start, model in (("random", fresh), ("pretrained", reader)):
    for trained, blocks in (("frozen", 0), ("everything", None)):
        kinds[f"{start}, {trained}"] = accuracy(fine_tune(model, blocks, known, list(KINDS), steps=40), new)
for name, share in kinds.items():
    print(f"  {name:24}{share:6.0%}")
controls = max(share for name, share in kinds.items() if not name.startswith("pretrained"))
assert kinds["pretrained, frozen"] > controls + 0.2

# %% [markdown]
# Answer: only the pretrained one. To predict the next word, it had to find out which nouns behave alike, and the state
# of a noun that it has never seen labelled says so. **A pretrained transformer is a text feature extractor**: a matrix
# on its frozen states is enough, where the task needs what the text for pretraining has taught. The documentation above
# is the counterexample: a task of keywords, and a model that has read little. In large models the features are general.
# Without pretraining, GPT-1 lost 15 points on average (Radford et al. 2018, table 5).
#
# ## What next
#
# - exercise: `python scripts/exercise.py start cross_entropy`: the loss of this lesson
# - read: finetune/objectives/model_with_head.py, finetune/objectives/classification.py; then scripts/classify.py --help
# - break: take the first token in finetune/objectives/model_with_head.py, 0 for lengths - 1. Expect: `assert
#   np.allclose(by_hand, scores)` fails. What it would cost is measured above: hardly anything in this task.
# - lesson: `python scripts/lesson.py 442`
