"""A head on the last real token, as a run's checkpoint and as transformers' GPT2ForSequenceClassification."""

import shutil

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minigrad.functional as F
from finetune.objectives.model_with_head import HEAD_FORMAT, ModelWithHead, freeze, load_classifier, save_classifier
from gpt.training.checkpoint import load_checkpoint, save_checkpoint
from tests.finetune.golden.make_llama_tuning import FOLDER
from tests.finetune.small import small_tokenizer
from tests.gpt.small import assert_same, golden_arrays, gradients_of, random_ids, small_gpt, small_llama
from tests.helpers import read_json, write_json

LABELS = ["ham", "spam", "eggs"]


both_models = pytest.mark.parametrize("make", [small_gpt, small_llama])


# --- the head ---------------------------------------------------------------------------------------------------------


@both_models
def test_scores_are_of_the_last_real_token_whatever_the_padding(make):
    """As if each text stood alone, without padding."""
    base = make(dtype="float64")
    model = ModelWithHead.from_language_model(base, LABELS)
    ids, lengths = random_ids((3, 8)), np.array([8, 3, 1])
    scores = model(ids, lengths).data
    hidden = [base.hidden_states(row[None, :n]).data[0, -1] for row, n in zip(ids, lengths)]
    assert_allclose(scores, hidden @ model.score.weight.data.T, rtol=1e-10)
    other = np.where(np.arange(8) >= lengths[:, None], 5, ids)  # other padding, even of a real token
    assert_allclose(model(other, lengths).data, scores, rtol=1e-12)


@both_models
def test_the_body_is_shared_and_still_a_language_model(make):
    base, ids = make(), random_ids((2, 5))
    expected = base(ids).data
    model = ModelWithHead.from_language_model(base, LABELS)
    assert_array_equal(model.language_model()(ids).data, expected)
    base.final_norm.weight.data *= 2
    assert not np.array_equal(model.language_model()(ids).data, expected)
    with pytest.raises(ValueError, match="was removed with the old head"):
        ModelWithHead.from_language_model(make(tied=False), LABELS).language_model()


@pytest.mark.parametrize(
    "make, blocks, trained",
    [
        (small_gpt, 0, ["score.weight"]),
        (small_gpt, 1, ["transformer.h.1.", "transformer.ln_f.", "score.weight"]),
        (small_gpt, 2, ["transformer.h.", "transformer.ln_f.", "score.weight"]),
        (small_gpt, None, ["transformer.", "score.weight"]),
        (small_llama, 1, ["model.layers.1.", "model.norm.", "score.weight"]),
    ],
)
def test_what_is_trained(make, blocks, trained):
    model = ModelWithHead.from_language_model(make(), LABELS)
    freeze(model, 1)
    freeze(model, blocks)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names == {name for name, _ in model.named_parameters() if name.startswith(tuple(trained))}
    F.cross_entropy(model(random_ids((2, 4)), [4, 4]), np.array([0, 1])).backward()
    assert gradients_of(model).keys() == names


def test_bad_input_is_refused():
    model = ModelWithHead.from_language_model(small_gpt(), LABELS)
    with pytest.raises(ValueError, match="the model has 2 blocks: 3 of them cannot be trained"):
        freeze(model, 3)
    for lengths in ([5], [0, 5], [5, 6], [[5, 5]]):
        with pytest.raises(ValueError, match=r"need as many lengths in 1\.\.T as rows"):
            model(random_ids((2, 5)), lengths)
    with pytest.raises(IndexError, match="outside"):
        model(np.array([[37]]), [1])
    for labels in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="needs labels, all different"):
            ModelWithHead(model.transformer, labels)


# --- in a run's folder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [small_gpt(), small_llama(), small_llama(tied=False)])
def test_checkpoint_and_back(tmp_path, base):
    model = ModelWithHead.from_language_model(base, LABELS)
    save_checkpoint(tmp_path, model, format=HEAD_FORMAT)
    loaded = load_checkpoint(tmp_path, format=HEAD_FORMAT).model
    assert loaded.labels == LABELS and loaded.config == model.config
    assert_same(loaded, model)


# --- as transformers' folder ------------------------------------------------------------------------------------------


def test_scores_are_those_of_transformers():
    model = load_classifier(FOLDER / "classifier").to("float64")
    golden = golden_arrays(FOLDER / "expected")
    assert model.labels == ["no", "yes", "perhaps"] and not model.training
    found = model(golden["ids"], golden["lengths"]).data
    assert_allclose(found, golden["scores"], atol=1e-5)  # angles in float32


def test_damaged_folders_are_refused(tmp_path):
    folder = tmp_path / "classifier"
    shutil.copytree(FOLDER / "classifier", folder)
    config = read_json(folder / "config.json")
    for labels in ([], {}, {"0": "a", "2": "b"}, {"0": 1}):
        write_json(folder / "config.json", {**config, "id2label": labels})
        with pytest.raises(ValueError, match=r"config\.json: id2label must name the classes"):
            load_classifier(folder)
    write_json(folder / "config.json", {**config, "id2label": {"0": "a", "1": "b"}})
    with pytest.raises(ValueError, match=r"score\.weight has the shape \(3, 16\) instead of \(2, 16\)"):
        load_classifier(folder)


def test_a_tokenizer_without_an_end_cannot_go_to_transformers(tmp_path):
    tokenizer = small_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="has no end of text"):
        save_classifier(ModelWithHead.from_language_model(small_gpt(), LABELS), tmp_path / "new", tokenizer)
    assert not (tmp_path / "new").exists()


@pytest.mark.oracle
@pytest.mark.parametrize(
    "make, changes, labels",
    [
        (small_gpt, {}, ["a", "b"]),
        (small_gpt, {}, ["reward"]),
        (small_llama, {}, LABELS),
        (small_llama, {"tied": False}, LABELS),
    ],
)
def test_transformers_computes_the_same_with_what_is_saved(make, changes, labels, tmp_path):
    import torch
    import transformers

    tokenizer = small_tokenizer()
    model = ModelWithHead.from_language_model(make(vocab_size=len(tokenizer), **changes), labels).eval()
    save_classifier(model, tmp_path, tokenizer)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    kind = "GPT2" if make is small_gpt else "Llama"
    assert type(theirs).__name__ == f"{kind}ForSequenceClassification" and theirs.num_labels == len(labels)
    problem = "regression" if len(labels) == 1 else "single_label_classification"
    assert list(theirs.config.id2label.values()) == labels and theirs.config.problem_type == problem
    ids, lengths = random_ids((3, 6), vocab_size=len(tokenizer) - 1), np.array([6, 2, 4])
    real = np.arange(6) < lengths[:, None]
    ids[~real] = tokenizer.eos_token_id
    with torch.no_grad():
        expected = theirs.double()(torch.tensor(ids), attention_mask=torch.tensor(real).long()).logits
    assert_allclose(model.to("float64")(ids, lengths).data, expected.numpy(), atol=1e-5)
    theirs.float().save_pretrained(tmp_path / "again")
    again = load_classifier(tmp_path / "again")
    assert again.labels == labels and again.config == load_classifier(tmp_path).config
    assert_same(again, model.to("float32"))
