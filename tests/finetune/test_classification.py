"""Classification: loss, batches, measures, the built-in sets, and what a run forgets."""

import numpy as np
import pytest

import minigrad.functional as F
from finetune.built_in.labelled_texts import PARTS, documentation_texts, question_texts
from finetune.built_in.task_templates import TASK_TYPES
from finetune.data.datasets import Labelled
from finetune.evaluation.confusion import (
    confusion_as_text,
    confusion_matrix,
    draw_confusion,
    majority_baseline,
    predict,
)
from finetune.objectives.classification import classification_loss, collate, encode_texts
from finetune.objectives.model_with_head import ModelWithHead
from finetune.stages.classification import ClassifyConfig, load_data, train_classifier
from gpt.training.run import start
from gpt.training.training_config import TrainingConfig
from tests.finetune.small import small_chat_model, small_tokenizer
from tests.gpt.small import save_model, small_gpt

ITEMS = [([1, 2, 3], 0), ([4], 1), ([5, 6], 1)]


@pytest.fixture
def model():
    return ModelWithHead.from_language_model(small_gpt(dtype="float64"), ["a", "b"])


# --- loss and batches -------------------------------------------------------------------------------------------------


def test_loss_is_the_sum_over_texts_each_by_itself(model):
    loss, count, metrics = classification_loss(model, collate(ITEMS))
    alone = [classification_loss(model, collate([item])) for item in ITEMS]
    assert count == 3 and metrics["accuracy"] == sum(m["accuracy"] for _, _, m in alone)
    assert loss.item() == pytest.approx(sum(part.item() for part, _, _ in alone), rel=1e-12)
    scores = model(*collate(ITEMS)[:2])
    expected = -F.log_softmax(scores, -1).data[np.arange(3), [0, 1, 1]].sum()
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_texts_become_tokens_cut_to_what_the_model_reads():
    tokenizer = small_tokenizer()
    texts = [Labelled("a", "x"), Labelled("the cat sat on a mat", "y"), Labelled("<|endoftext|>", "y")]
    items, cut = encode_texts(texts, ["x", "y"], tokenizer, block_size=3)
    assert [len(ids) for ids, _ in items] == [1, 3, 3] and [label for _, label in items] == [0, 1, 1] and cut == 2
    assert tokenizer.eos_token_id not in items[2][0]  # a text is text, whatever it says


def test_predictions_do_not_depend_on_the_batch(model):
    texts = [ids for ids, _ in ITEMS]
    probabilities = predict(model, texts)
    assert probabilities.shape == (3, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(predict(model, texts, batch_size=1), probabilities, rtol=1e-10)
    assert model.training


# --- measures ---------------------------------------------------------------------------------------------------------


def test_confusion_and_baseline():
    counts = confusion_matrix([0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 2, 2], 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    table = confusion_as_text(counts, ["ham", "a very long name of a class", "eggs"]).splitlines()
    assert table[0].split() == ["true,", "and", "taken", "for", "ham", "a", "very", "long", "eggs"]
    assert table[3].split() == ["eggs", "1", "0", "2"] and len({len(line) for line in table}) == 1
    assert majority_baseline(np.array([2, 2, 0], np.int64), [2, 0, 0, 0]) == 0.25


def test_confusion_as_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    assert draw_confusion(np.array([[3, 1], [0, 4]]), ["a", "b"], tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


# --- the built-in sets ------------------------------------------------------------------------------------------------


def test_paragraphs_are_labelled_with_the_part_they_are_from(monkeypatch):
    paragraphs = {part: [f"{part} {i} is one of many lines of text" for i in range(500)] for part in PARTS}
    texts = {f"{place}a": "\n\n".join(["too short", *paragraphs[part]]) for part, place in PARTS.items()}
    monkeypatch.setattr("finetune.built_in.labelled_texts.documents", lambda: texts)
    train, test = documentation_texts("train"), documentation_texts("test")
    assert not {item.text for item in train} & {item.text for item in test} and documentation_texts("test") == test
    assert len(train) + len(test) == 4 * 400 and 0.2 < len(test) / 1600 < 0.3
    assert all(item.text in paragraphs[item.label] for item in train + test)
    monkeypatch.setattr("finetune.built_in.labelled_texts.documents", dict)
    with pytest.raises(FileNotFoundError, match="not installed here; give a file"):
        documentation_texts("train")


def test_questions_are_held_out_and_say_what_they_ask_for():
    train, test = question_texts("train", 900, seed=1), question_texts("test", 90, seed=1)
    assert {item.label for item in train} == {item.label for item in test} == set(TASK_TYPES)
    assert all("last" in item.text for item in test if item.label == "last")
    assert not {item.text for item in train} & {item.text for item in test}


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run's folder with a small, untrained model."""
    return save_model(tmp_path_factory.mktemp("base"), *small_chat_model())


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pets.csv"
    pets = ["dog ran to", "cat sat on"]
    rows = [f"the {pets[i % 2]} a {word},{i % 2}" for i, word in enumerate("abcdefghij" * 4)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    (path.parent / "english.txt").write_text("the cat sat on a mat and the dog ran to a house. " * 40, encoding="utf-8")
    return path


def classify(base, csv, out_dir, blocks, **changes):
    training = TrainingConfig(max_iters=40, learning_rate=0.02, warmup_iters=4, eval_interval=20)
    settings = {"batch_size": 8, "trained_blocks": blocks, "language": str(csv.parent / "english.txt"), **changes}
    return start(train_classifier, ClassifyConfig(str(base), str(csv), str(out_dir), training=training, **settings))


@pytest.mark.usefixtures("no_pictures")
def test_a_frozen_model_forgets_nothing_and_a_trained_one_does(base, csv, tmp_path, capsys):
    frozen, full = classify(base, csv, tmp_path / "head", 0), classify(base, csv, tmp_path / "all", None)
    trained = [run.model.num_parameters(trainable_only=True) for run in (frozen, full)]
    assert trained[0] == 2 * 16 < trained[1]
    before = frozen.before["language_loss"]
    assert before == full.before["language_loss"] == frozen.after["language_loss"]
    assert abs(full.after["language_loss"] - before) > 0.01
    assert full.after["accuracy"] == 1.0
    output = capsys.readouterr().out
    assert "only the head was trained, and nothing is forgotten" in output and "what it has forgotten" in output
    assert "true, and taken for" in output and "to beat: " in output
    assert (tmp_path / "all" / "data" / "train.jsonl").exists()


def test_files_that_make_no_classifier_are_refused(base, csv, tmp_path):
    for text, words in {"x,1\n": "has 1 texts: too few", "x,1\n" * 8: "has only the label '1'"}.items():
        path = tmp_path / "few.csv"
        path.write_text("text,label\n" + text, encoding="utf-8")
        with pytest.raises(ValueError, match=words):
            classify(base, path.rename(csv.parent / "few.csv"), tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


def test_data_is_split_the_same_way_for_the_same_seed(csv):
    train, test = load_data(str(csv), seed=1)
    assert len(train) == 32 and len(test) == 8 and load_data(str(csv), seed=1) == (train, test)
    assert load_data(str(csv), seed=2)[1] != test
