"""A GPT with a small new head instead of its language-model head: a classifier, or a reward model with one label.

In a causal model, the last token attends to all others, so its hidden state represents the whole text. One matrix maps
it to a score per class. Radford et al. 2018 (GPT-1), section 3.2. For two classes on GPT-2 these are 2 x 768 = 1,536
new parameters beside 124 million old ones. A Llama's head is replaced in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt import Tokenizer
from gpt.files import StrPath
from gpt.model.language_model import Ids, LanguageModel, architecture_of, from_settings, to_settings
from gpt.model.structure import StructuredModel
from gpt.model_config import INIT_STD, Settings
from gpt.training.checkpoint import ModelFormat, Shapes, check_size
from gpt.weights.pretrained import ARCHITECTURES, open_weights, read_config, write_folder
from gpt.weights.tensor_table import HEAD, Row, fill, their_tensors
from minigrad import Tensor, nn
from minigrad.backend import Array, module_of
from minigrad.functional.indexing import check_indices


class ModelWithHead(StructuredModel):
    """A language model's body, under its own name (`transformer`, or `model` in a Llama), and `score`, a linear layer
    from the hidden state of a text's last token to one output per label.

    Raises ValueError if there are no labels, or if two are the same.
    """

    def __init__(self, body: Any, labels: Sequence[str]):
        if not labels or len(set(labels)) != len(labels):
            raise ValueError(f"a head needs labels, all different, got {list(labels)!r:.80}")
        self.config = body.config
        self.labels = list(labels)
        self.names = architecture_of(body.config).names
        setattr(self, self.names.body, body)
        with nn.init.skipped():
            self.score = nn.Linear(self.config.n_embd, len(labels), bias=False)
        nn.init.normal_(self.score.weight, std=INIT_STD)

    @classmethod
    def from_language_model(cls, model: LanguageModel, labels: Sequence[str]) -> ModelWithHead:
        """Put a head with random weights on a language model's body, which is shared, not copied."""
        like = next(model.body.parameters())
        return cls(model.body, labels).to(like.dtype, device=like.device)

    def forward(self, ids: Ids, lengths: Sequence[int] | Array) -> Tensor:
        """ids (B, T), padded on the right, and the number of real tokens in each row (B) -> scores (B, labels).

        Raises IndexError for ids outside the vocabulary, ValueError for lengths outside 1..T.
        """
        ids, lengths = np.asarray(ids), np.asarray(lengths)
        check_indices("ids", ids, self.config.vocab_size, "the vocabulary")
        if ids.ndim != 2 or lengths.shape != ids.shape[:1] or (lengths < 1).any() or (lengths > ids.shape[1]).any():
            raise ValueError(f"ids of shape {ids.shape} need as many lengths in 1..T as rows, got {lengths!r:.80}")
        xp = module_of(self.score.weight.data)
        hidden = self.body(xp.asarray(ids))  # (B, T, C): no token attends to the padding after it
        last = hidden[xp.arange(len(ids)), xp.asarray(lengths) - 1]  # (B, C): of the last real tokens
        return self.score(last)

    def language_model(self) -> LanguageModel:
        """The language model on this body, with its tied head: it shows how well the body can still write.

        Raises ValueError for a Llama whose head was not tied, because it has been removed.
        """
        if not self.config.tied:
            raise ValueError("the model's output layer was not its embedding, and was removed with the old head")
        with nn.init.skipped():
            model = architecture_of(self.config)(self.config)
        setattr(model, self.names.body, self.body)
        model.lm_head.weight = self.embedding.weight
        return model


def freeze(model: ModelWithHead, trained_blocks: int | None) -> None:
    """Train only the head and the last `trained_blocks` blocks of the body; None: the whole body.

    If any block is trained, so is the norm after the last one. Raises ValueError for more blocks than there are.
    """
    blocks = model.blocks
    if trained_blocks is not None and not 0 <= trained_blocks <= len(blocks):
        raise ValueError(f"the model has {len(blocks)} blocks: {trained_blocks} of them cannot be trained")
    model.body.requires_grad_(trained_blocks is None)
    if trained_blocks:
        for part in [*blocks[-trained_blocks:], model.final_norm]:
            part.requires_grad_()


# --- in a run's folder ------------------------------------------------------------------------------------------------


def _build(config: dict[str, Any], shapes: Shapes) -> ModelWithHead:
    labels, of_body = config.pop("labels", []), from_settings(config)
    old_head = 0 if of_body.tied else of_body.vocab_size * of_body.n_embd  # tied, it is the embedding
    check_size(of_body.num_parameters() - old_head + len(labels) * of_body.n_embd, shapes)
    with nn.init.skipped():
        return _new(of_body, labels)


def _new(config: Settings, labels: list[str]) -> ModelWithHead:
    """A model of this shape, whose weights are set later."""
    return ModelWithHead.from_language_model(architecture_of(config)(config), labels)


HEAD_FORMAT = ModelFormat("minigrad-gpt-with-head", lambda m: {**to_settings(m.config), "labels": m.labels}, _build)


# --- as a Hugging Face folder -----------------------------------------------------------------------------------------


def save_classifier(model: ModelWithHead, folder: StrPath, tokenizer: Tokenizer) -> None:
    """Write a folder that transformers loads as GPT2ForSequenceClassification or LlamaForSequenceClassification.

    transformers finds a text's last token by the id of the padding, for which the end of text is taken. Raises
    ValueError for a tokenizer without one, and what `write_folder` raises.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("the tokenizer has no end of text, which transformers needs to tell padding from text")
    names = {str(number): label for number, label in enumerate(model.labels)}
    numbers = {label: number for number, label in enumerate(model.labels)}
    problem = "regression" if len(model.labels) == 1 else "single_label_classification"
    settings = {"num_labels": len(names), "id2label": names, "label2id": numbers, "problem_type": problem}
    table = _table(model.config)
    kind = f"{table.NAME.replace('-', '')}ForSequenceClassification"  # GPT2..., Llama...
    config = table.to_json(model.config, kind, end=end, pad_token_id=end, **settings)
    write_folder(folder, config, their_tensors(model, _rows(model.config, len(model.labels))), tokenizer)


def load_classifier(folder: StrPath) -> ModelWithHead:
    """The GPT2ForSequenceClassification or LlamaForSequenceClassification in a folder, in evaluation mode.

    Raises FileNotFoundError, or ValueError naming the file, the setting or the tensor that does not fit.
    """
    values, config = read_config(folder, *ARCHITECTURES)
    labels = _labels(values, str(Path(folder) / "config.json"))
    with open_weights(folder, values["model_type"]) as weights:
        return fill(lambda: _new(config, labels), weights, _rows(config, len(labels))).eval()


def _table(config: Settings) -> Any:
    """The module with the table of names of this architecture's tensors and settings."""
    return ARCHITECTURES[architecture_of(config).model_type]


def _rows(config: Settings, labels: int) -> list[Row]:
    """The table of names and shapes, with the row of this head in the place of the language model's."""
    rows = [row for row in _table(config).rows(config) if row.ours != HEAD]
    return [*rows, Row("score.weight", "score.weight", (labels, config.n_embd))]


def _labels(values: dict[str, Any], where: str) -> list[str]:
    """The names of the classes; transformers leaves them out where they are the two of LABEL_0 and LABEL_1."""
    names = values.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    expected = [str(number) for number in range(len(names))] if isinstance(names, dict) else []
    if not expected or set(names) != set(expected) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{where}: id2label must name the classes 0, 1, ..., got {names!r:.60}")
    return [names[number] for number in expected]
