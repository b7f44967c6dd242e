"""A head on the last real token, as a run's checkpoint and as transformers' GPT2ForSequenceClassification."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import minigrad.functional as F
from finetune.objectives.gpt_with_head import HEAD_KIND, GPTWithHead, freeze, load_classifier, save_classifier
from gpt import GPT, GPTConfig
from gpt.model.gpt2 import Transformer
from gpt.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from gpt.weights.safetensors_file import SafetensorsFile, write_safetensors
from minigrad import Tensor, no_grad
from tests.finetune.small import small_tokenizer
from tests.gpt.small import random_ids, small_gpt
from tests.helpers import read_json, write_json

GOLDEN = Path(__file__).parent / "golden"
LABELS = ["ham", "spam", "eggs"]


@pytest.fixture
def model():
    return GPTWithHead.from_gpt(small_gpt(dtype="float64"), LABELS)


@pytest.fixture
def golden():
    with np.load(GOLDEN / "classifier.npz") as file:
        return dict(file)


# --- the head ---------------------------------------------------------------------------------------------------------


def test_two_classes_on_gpt2_are_1536_parameters():
    transformer = Transformer.__new__(Transformer)  # 124 million numbers are not needed for this
    transformer.config = GPTConfig()
    assert GPTWithHead(transformer, ["yes", "no"]).score.weight.data.size == 1536


def test_scores_are_of_the_last_real_token_whatever_the_padding(model):
    ids, lengths = random_ids((3, 8)), np.array([8, 3, 1])
    scores = model(ids, lengths).data
    for row, length, got in zip(ids, lengths, scores):
        alone = model(row[None, :length], np.array([length])).data[0]
        np.testing.assert_allclose(got, alone, rtol=1e-10)
    other = np.where(np.arange(8) >= lengths[:, None], 5, ids)  # other padding, even of a real token
    np.testing.assert_allclose(model(other, lengths).data, scores, rtol=1e-12)


def test_the_transformer_is_shared_and_still_a_language_model():
    base = small_gpt()
    ids = random_ids((2, 5))
    expected = base(ids).data
    model = GPTWithHead.from_gpt(base, LABELS)
    assert model.transformer is base.transformer
    np.testing.assert_array_equal(model.language_model()(ids).data, expected)
    model.transformer.ln_f.weight.data *= 2
    assert not np.array_equal(model.language_model()(ids).data, expected)


@pytest.mark.parametrize(
    ("blocks", "trained"),
    [
        (0, ["score.weight"]),
        (1, ["transformer.h.1.", "transformer.ln_f.", "score.weight"]),
        (2, ["transformer.h.", "transformer.ln_f.", "score.weight"]),
        (None, ["transformer.", "score.weight"]),
    ],
)
def test_what_is_trained(model, blocks, trained):
    freeze(model, 1)
    freeze(model, blocks)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names == {name for name, _ in model.named_parameters() if name.startswith(tuple(trained))}
    F.cross_entropy(model(random_ids((2, 4)), [4, 4]), np.array([0, 1])).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == names


def test_bad_input_is_refused(model):
    with pytest.raises(ValueError, match="the model has 2 blocks: 3 of them cannot be trained"):
        freeze(model, 3)
    for lengths in ([5], [0, 5], [5, 6], [[5, 5]]):
        with pytest.raises(ValueError, match=r"need as many lengths in 1\.\.T as rows"):
            model(random_ids((2, 5)), lengths)
    with pytest.raises(IndexError, match="outside"):
        model(np.array([[37]]), [1])
    for labels in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="needs labels, all different"):
            GPTWithHead(model.transformer, labels)


# --- in a run's folder ------------------------------------------------------------------------------------------------


def test_checkpoint_and_back(tmp_path):
    model = GPTWithHead.from_gpt(small_gpt(), LABELS)
    save_checkpoint(tmp_path, model, kind=HEAD_KIND)
    loaded = load_checkpoint(tmp_path, kind=HEAD_KIND).model
    assert loaded.labels == LABELS and loaded.config == model.config
    for (name, a), (other, b) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == other
        np.testing.assert_array_equal(a.data, b.data)


def test_a_classifier_is_no_language_model(tmp_path):
    save_checkpoint(tmp_path, GPTWithHead.from_gpt(small_gpt(), LABELS), kind=HEAD_KIND)
    with pytest.raises(CheckpointError, match="does not describe a minigrad-gpt"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, small_gpt())
    with pytest.raises(CheckpointError, match="does not describe a minigrad-gpt-with-head"):
        load_checkpoint(tmp_path, kind=HEAD_KIND)


# --- as transformers' folder ------------------------------------------------------------------------------------------


def test_scores_are_those_of_transformers(golden):
    model = load_classifier(GOLDEN / "classifier").to("float64")
    assert model.labels == LABELS and not model.training
    np.testing.assert_allclose(model(golden["ids"], golden["lengths"]).data, golden["logits"], atol=1e-12)


def test_a_saved_folder_is_what_transformers_saves(tmp_path):
    tokenizer = small_tokenizer()
    model = GPTWithHead.from_gpt(GPT(GPTConfig(len(tokenizer), block_size=8, n_layer=1, n_head=2, n_embd=8)), LABELS)
    save_classifier(model, tmp_path, tokenizer)
    ours = read_json(tmp_path / "config.json")
    theirs = read_json(GOLDEN / "classifier" / "config.json")
    for name in ("architectures", "id2label", "label2id", "model_type", "activation_function"):
        assert ours[name] == theirs[name], name
    assert ours["pad_token_id"] == tokenizer.eos_token_id and ours["num_labels"] == 3
    assert ours["problem_type"] == "single_label_classification"
    places = tmp_path / "model.safetensors", GOLDEN / "classifier" / "model.safetensors"
    with SafetensorsFile(places[0]) as a, SafetensorsFile(places[1]) as b:
        assert a.metadata == b.metadata
        assert a.entries.keys() == {name for name in b.entries if ".h.1." not in name}
    loaded = load_classifier(tmp_path)
    ids = random_ids((2, 5))
    np.testing.assert_array_equal(loaded(ids, [5, 2]).data, model(ids, [5, 2]).data)


def test_damaged_folders_are_refused(tmp_path):
    folder = tmp_path / "classifier"
    shutil.copytree(GOLDEN / "classifier", folder)
    config = read_json(folder / "config.json")
    for labels in ([], {}, {"0": "a", "2": "b"}, {"0": 1}):
        write_json(folder / "config.json", {**config, "id2label": labels})
        with pytest.raises(ValueError, match=r"config\.json: id2label must name the classes"):
            load_classifier(folder)
    write_json(folder / "config.json", {**config, "id2label": {"0": "a", "1": "b"}})
    with pytest.raises(ValueError, match=r"score\.weight has the shape \(3, 8\) instead of \(2, 8\)"):
        load_classifier(folder)
    write_json(folder / "config.json", config)
    with SafetensorsFile(folder / "model.safetensors") as file:
        tensors = {name: file.read(name) for name in file.entries if name != "score.weight"}
    write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(ValueError, match=r"score\.weight is missing"):
        load_classifier(folder)


def test_a_tokenizer_without_an_end_cannot_go_to_transformers(tmp_path):
    tokenizer = small_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="has no end of text"):
        save_classifier(GPTWithHead.from_gpt(small_gpt(), LABELS), tmp_path / "new", tokenizer)
    assert not (tmp_path / "new").exists()


@pytest.mark.oracle
@pytest.mark.parametrize("labels", [["a", "b"], LABELS, ["reward"]])
def test_transformers_computes_the_same_with_what_is_saved(labels, tmp_path):
    import torch
    import transformers

    tokenizer = small_tokenizer()
    base = small_gpt(vocab_size=len(tokenizer))
    model = GPTWithHead.from_gpt(base, labels).eval()
    save_classifier(model, tmp_path, tokenizer)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "GPT2ForSequenceClassification" and theirs.num_labels == len(labels)
    assert list(theirs.config.id2label.values()) == labels
    ids, lengths = random_ids((3, 6), vocab_size=len(tokenizer) - 1), np.array([6, 2, 4])
    ids[np.arange(6) >= lengths[:, None]] = tokenizer.eos_token_id
    with torch.no_grad():
        expected = theirs.double()(torch.from_numpy(ids)).logits.numpy()
    with no_grad():
        np.testing.assert_allclose(model.to("float64")(ids, lengths).data, expected, atol=1e-10)
    again = tmp_path / "again"
    theirs.float().save_pretrained(again)
    assert load_classifier(again).labels == labels
    assert isinstance(load_classifier(again)(ids, lengths), Tensor)
