"""A GPT whose language-model head is replaced by a small one: a classifier, or (with a single label) a reward model.

A causal model's last token has seen all others, so that its hidden state stands for the whole text: one matrix turns it
into a score per class. Radford et al. 2018 (GPT-1), section 3.2. For two classes on GPT-2 that is 2 x 768 = 1,536 new
parameters beside 124 million old ones.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt import GPT, GPTConfig, Tokenizer
from gpt.checkpoint import ModelKind, Shapes, check_size
from gpt.config import INIT_STD
from gpt.huggingface import Row, fill, rows, their_tensors, write_folder
from gpt.huggingface_config import from_gpt_config, read_config, to_gpt_config
from gpt.huggingface_weights import Weights
from gpt.model import Transformer
from minigrad import Tensor, nn
from minigrad.backend import module_of
from minigrad.functional.indexing import check_indices


class GPTWithHead(nn.Module):
    """transformer, the GPT's own, and score, a (labels, C) matrix on the hidden state of a text's last token.

    Raises ValueError for labels that are none, or not all different.
    """

    def __init__(self, transformer: Transformer, labels: Sequence[str]):
        if not labels or len(set(labels)) != len(labels):
            raise ValueError(f"a head needs labels, all different, got {list(labels)!r:.80}")
        self.config = transformer.config
        self.labels = list(labels)
        self.transformer = transformer
        with nn.init.skipped():
            self.score = nn.Linear(self.config.n_embd, len(labels), bias=False)
        nn.init.normal_(self.score.weight, std=INIT_STD)

    @classmethod
    def from_gpt(cls, model: GPT, labels: Sequence[str]) -> GPTWithHead:
        """A head of random weights on a language model's transformer, which is shared with it, not copied."""
        return cls(model.transformer, labels).to(model.transformer.wte.weight.dtype)

    def forward(self, ids: Any, lengths: Any) -> Tensor:
        """ids (B, T), padded on the right, and the number of real tokens of each row (B) -> scores (B, labels).

        Raises IndexError for ids outside the vocabulary, ValueError for lengths outside 1..T.
        """
        ids, lengths = np.asarray(ids), np.asarray(lengths)
        check_indices("ids", ids, self.config.vocab_size, "the vocabulary")
        if ids.ndim != 2 or lengths.shape != ids.shape[:1] or (lengths < 1).any() or (lengths > ids.shape[1]).any():
            raise ValueError(f"ids of shape {ids.shape} need as many lengths in 1..T as rows, got {lengths!r:.80}")
        xp = module_of(self.score.weight.data)
        hidden = self.transformer(xp.asarray(ids))  # (B, T, C); no token looks at the padding after it
        last = hidden[xp.arange(len(ids)), xp.asarray(lengths) - 1]  # (B, C)
        return self.score(last)

    def language_model(self) -> GPT:
        """The language model on this transformer, with its own tied head: what is left of the ability to write."""
        with nn.init.skipped():
            model = GPT(self.config)
        model.transformer = self.transformer
        model.lm_head.weight = self.transformer.wte.weight
        return model


def freeze(model: GPTWithHead, trained_blocks: int | None) -> None:
    """Train the head, and of the transformer the last `trained_blocks` blocks; None: all of it.

    With any block, the norm after the last one learns too. Raises ValueError for more blocks than there are.
    """
    blocks = list(model.transformer.h)
    if trained_blocks is not None and not 0 <= trained_blocks <= len(blocks):
        raise ValueError(f"the model has {len(blocks)} blocks: {trained_blocks} of them cannot be trained")
    model.transformer.requires_grad_(trained_blocks is None)
    if trained_blocks:
        for part in [*blocks[-trained_blocks:], model.transformer.ln_f]:
            part.requires_grad_()


# --- in a run's folder ------------------------------------------------------------------------------------------------


def _config(model: GPTWithHead) -> dict[str, Any]:
    return {**model.config.to_dict(), "labels": model.labels}


def _build(config: dict[str, Any], shapes: Shapes) -> GPTWithHead:
    labels = config.pop("labels", None)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"labels must be a list of names, got {labels!r:.60}")
    gpt_config = GPTConfig.from_dict(config)
    check_size(gpt_config.num_parameters() + len(labels) * gpt_config.n_embd, shapes)
    with nn.init.skipped():
        return GPTWithHead(Transformer(gpt_config), labels)


HEAD_KIND = ModelKind("minigrad-gpt-with-head", _config, _build)


# --- as a Hugging Face folder -----------------------------------------------------------------------------------------


def save_classifier(model: GPTWithHead, folder: str | os.PathLike[str], tokenizer: Tokenizer) -> None:
    """Write a folder that transformers loads as GPT2ForSequenceClassification.

    transformers finds a text's last token by the id of the padding, for which the end of text is taken. Raises
    ValueError for a tokenizer without one, and what `huggingface.write_folder` raises.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("the tokenizer has no end of text, which transformers needs to tell padding from text")
    labels = {
        "num_labels": len(model.labels),
        "id2label": {str(number): label for number, label in enumerate(model.labels)},
        "label2id": {label: number for number, label in enumerate(model.labels)},
        "problem_type": "regression" if len(model.labels) == 1 else "single_label_classification",
        "pad_token_id": end,
    }
    config = from_gpt_config(model.config, "GPT2ForSequenceClassification", end=end, **labels)
    write_folder(folder, config, their_tensors(model, _rows(model.config, len(model.labels))), tokenizer)


def load_classifier(folder: str | os.PathLike[str]) -> GPTWithHead:
    """The GPT2ForSequenceClassification in a folder, in evaluation mode.

    Raises FileNotFoundError, or ValueError naming the file, the setting or the tensor that does not fit.
    """
    values = read_config(folder)
    where = str(Path(folder) / "config.json")
    config, labels = to_gpt_config(values, where), _labels(values, where)
    with Weights(folder) as weights:
        model = fill(lambda: GPTWithHead(Transformer(config), labels), weights, _rows(config, len(labels)))
    return model.eval()


def _rows(config: GPTConfig, labels: int) -> list[Row]:
    """GPT-2's table of names and shapes, and the head's row."""
    shape = (labels, config.n_embd)
    return [*rows(config), Row("score.weight", shape, "score.weight", shape, False)]


def _labels(values: dict[str, Any], where: str) -> list[str]:
    """The names of the classes; transformers leaves them out where they are the two of LABEL_0 and LABEL_1."""
    names = values.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    expected = [str(number) for number in range(len(names))] if isinstance(names, dict) else []
    if not expected or set(names) != set(expected) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{where}: id2label must name the classes 0, 1, ..., got {names!r:.60}")
    return [names[number] for number in expected]
