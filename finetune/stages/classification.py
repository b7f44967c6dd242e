"""Classification: a language model gets a new head, which names the class of a text instead of the next token.

The idea: what the model computes at the last token of a text represents the whole text, and one matrix, the head, maps
it to a number for each class (finetune/objectives/classification.py):

    loss = -ln p(class | text)

Training only the head leaves the rest of the model as it is. Training more of it makes the classifier more accurate,
but the model forgets how to write. So this page also measures the model's loss as a language model, before and after.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from gpt import Tokenizer
from gpt.console import show
from gpt.corpora.corpus import load_corpus
from gpt.settings import Checked, nested, setting
from gpt.training.batches import sequential_batches
from gpt.training.evaluation import evaluate, mean_loss
from gpt.training.loading import load_model
from gpt.training.plots import plot_run
from gpt.training.run import Run
from gpt.training.training_config import TrainingConfig
from gpt.training.training_loop import one_step, train

from ..built_in.labelled_texts import documentation_texts, question_texts
from ..data.datasets import Labelled, ShuffledBatches, batches_of, read_labelled, show_data
from ..evaluation.confusion import majority_baseline, show_predictions
from ..objectives.classification import classification_loss, collate, encode_texts
from ..objectives.model_with_head import HEAD_FORMAT, ModelWithHead, freeze

DOCUMENTATION, QUESTIONS = "python-docs", "questions"  # the built-in sets
TRAINED_HELP = "what is trained: the head only, the head and the last N blocks, or the whole model"
LANGUAGE_HELP = "text whose last tenth measures what the model forgets (what it learned from, or english)"
LANGUAGE_TOKENS = 8192  # tokens on which forgetting is measured


@dataclasses.dataclass(frozen=True)
class ClassifyConfig(Checked):
    """The settings of a classification run. Of a file in `data`, the last fifth is held out.

    language: the text on which forgetting is measured. trained_blocks: what is trained.

        0       the head only
        N       the head and the last N blocks
        None    the whole model
    """

    stage = "classify"

    init_from: str = "runs/demo"
    data: str = setting(DOCUMENTATION, "python-docs, questions, or a CSV, TSV or JSON Lines file")
    out_dir: str = "runs/classify"
    batch_size: int = setting(16, "texts per batch", "in [1, 65536]")
    seed: int = 1337
    training: TrainingConfig = nested(
        TrainingConfig, max_iters=300, learning_rate=3e-3, warmup_iters=20, weight_decay=0.01, eval_interval=50
    )
    trained_blocks: int | None = setting(0, TRAINED_HELP, flag="--train", metavar="head|N|all")
    language: str = setting("english", LANGUAGE_HELP)


COLUMNS = """\
             loss  -ln of the probability of the right class, in nats (ln of the number of classes: guessing)
         accuracy  share of texts that are classified right
          texts/s  texts learned from, per second
   language loss  the loss as a language model, on up to 8,192 tokens of held-out text: can it still write?"""


def train_classifier(run: Run, config: ClassifyConfig) -> None:
    """Train a classifier on a language model's body, and measure what the body forgets."""
    # Load texts with their labels, and the model, whose new head has one output for each label. A resumed run finds
    # both in its folder.
    if run.is_new:
        texts, test_texts = load_data(config.data, config.seed)
        labels = sorted({text.label for text in (*texts, *test_texts)})
        language_model, tokenizer = load_model(config.init_from, trainable=True)
        model = ModelWithHead.from_language_model(language_model, labels)
        show(f"starting from the weights in {config.init_from}, with a head for {', '.join(labels)}")
        run.begin(model, tokenizer, HEAD_FORMAT)
        run.keep_data(train=texts, test=test_texts)
    else:
        model, tokenizer = run.load(HEAD_FORMAT)
        texts, test_texts = run.load_data(read_labelled)
    # A short run tests on fewer, a third as many as it learns from, or 40 (gpt/training/run_state.py): on every k-th
    # text, because the texts can be sorted by label.
    k = math.ceil(len(test_texts) / run.state.max_eval_items)
    test_texts = test_texts[::k]

    # What is trained: the head, and perhaps more. Everything else is frozen.
    freeze(model, config.trained_blocks)
    trained = model.num_parameters(trainable_only=True)
    head = model.score.weight.data.size
    show(f"model: {model.num_parameters():,} parameters, of which {trained:,} are trained; the head has {head:,}")

    # The data: texts as tokens, each with the number of its class, in shuffled batches.
    block_size = model.config.block_size
    items, cut = encode_texts(texts, model.labels, tokenizer, block_size)
    test_items, _ = encode_texts(test_texts, model.labels, tokenizer, block_size)
    batches = ShuffledBatches(items, config.batch_size, collate, config.seed)
    baseline = majority_baseline([label for _, label in items], [label for _, label in test_items])
    show_data(f"texts of {len(model.labels)} classes", items, test_items)
    if cut:
        show(f"{cut:,} texts are longer than the model's {block_size} tokens: their end is cut off")
    show(f"to beat: {baseline:.1%} accuracy, by always naming the most frequent class")
    run.explain_columns(COLUMNS, "texts")

    # The test: held-out texts to classify. And can the model, with its old output layer, still write?
    held_out_ids = _language_ids(config.language, tokenizer)[: run.state.max_eval_items * block_size]

    def language_loss() -> float:
        return mean_loss(model.language_model(), sequential_batches(held_out_ids, 16, block_size), run.team)

    def validate() -> dict[str, float]:
        metrics = evaluate(model, batches_of(test_items, 32, collate), classification_loss, run.team)
        # The log calls the loss val_loss: `pop` removes it from `metrics` before the others are copied.
        return {"val_loss": metrics.pop("loss"), **metrics, "language_loss": language_loss()}

    run.measure_before(lambda: {"language_loss": language_loss()})

    # Training: each step makes the right label of each text more likely.
    run.prepare(model, config.training)  # the optimizer, and the schedule of its learning rate
    model.train()
    train(run, batches, one_step(run, classification_loss), validate)  # the loop: gpt/training/training_loop.py

    # The report: which classes are taken for which others, and what the model has forgotten.
    if not run.interrupted:
        run.after = run.state.last_validation
        show_predictions(model, test_texts, test_items, baseline, run.out_dir)
        before, after = run.before["language_loss"], run.after["language_loss"]
        meaning = "what it has forgotten"
        if config.trained_blocks == 0:
            meaning = "only the head was trained, and nothing is forgotten"
        what = f"loss as a language model on held-out text ({config.language})"
        show(f"\n{what}: {before:.3f} before, {after:.3f} after: {meaning}\n")
        run.report(plot_run(run.out_dir, "Learning to classify", "text", shares=("accuracy",)))


def load_data(data: str, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Training and test texts: those of a built-in set, or those of a file, shuffled, with the last fifth held out."""
    if data == DOCUMENTATION:
        return documentation_texts("train"), documentation_texts("test")
    if data == QUESTIONS:
        return question_texts("train", 2000, seed), question_texts("test", 400, seed)
    texts = read_labelled(data)
    texts = [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]
    held_out = max(len(texts) // 5, 1)
    if len(texts) < 4:
        raise ValueError(f"{data} has {len(texts)} texts: too few to learn from some and test on others")
    if len({text.label for text in texts}) < 2:
        raise ValueError(f"{data} has only the label {texts[0].label!r}: a classifier needs two")
    return texts[:-held_out], texts[-held_out:]


def _language_ids(corpus: str, tokenizer: Tokenizer) -> np.ndarray:
    """The tokens of the last tenth of a corpus, which pretraining on it holds out."""
    text = load_corpus(corpus).text
    ids = tokenizer.encode(text[round(len(text) * 0.9) :], allowed_special=())
    if len(ids) < 2:
        raise ValueError(f"{corpus} is too short to measure on its last tenth what is forgotten: give more text")
    return np.array(ids[:LANGUAGE_TOKENS])
