"""The explorer's numbers: one forward pass of a model on the reader's text, with parts switched off or changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import minigrad.functional as F
from gpt import LanguageModel, Tokenizer
from gpt.interpretability import ablated, patched, record
from gpt.interpretability.heads import recorded_attention
from gpt.interpretability.lens import read_stream
from minigrad import Tensor, no_grad
from minigrad.backend import to_numpy

ALTERNATIVES = 10


class Looker:
    """A model and its tokenizer, asked about texts. Questions and answers are what JSON can hold."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer):
        self.model, self.tokenizer = model.eval(), tokenizer

    def look(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question. Raises ValueError for one that has no answer.

        text, or ids: what the model reads. position, layer, head: what to show. heads [(layer, head)], attention
        [layer], mlps [layer]: switched off. edit {layer, position, channel, value}: a number of the residual stream
        after a layer, which becomes another one.
        """
        model, layers = self.model, self.model.config.n_layer
        try:
            ids = self._ids(question)
            position = _number(question, "position", len(ids), len(ids) - 1)
            layer, head = _number(question, "layer", layers), _number(question, "head", model.config.n_head)
            heads = [(int(a), int(b)) for a, b in question.get("heads") or ()]
            attention, mlps = ([int(i) for i in question.get(name) or ()] for name in ("attention", "mlps"))
            edit = self._edited(question["edit"], len(ids)) if question.get("edit") else {}
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"this question cannot be read: {error}") from None
        stream = model.part_names()
        before = self._log_probs(ids) if edit or heads or attention or mlps else None
        changed = ablated(model, heads, attention, mlps), patched(model, edit)
        with changed[0], changed[1], recorded_attention() as patterns, record(model, stream) as found:
            after = self._log_probs(ids)
        logits = [read_stream(model, found[name][0, position]) for name in stream]
        answer = {
            "ids": ids,
            "text": self.tokenizer.decode(ids),
            "tokens": [self._text(i) for i in ids],
            "surprise": [None, *(-after[np.arange(len(ids) - 1), ids[1:]]).tolist()],
            "alternatives": self._best(after[position], ALTERNATIVES, None if before is None else before[position]),
            "lens": [self._best(F.log_softmax(Tensor(of_layer), -1).data, 3) for of_layer in logits],
            "attention": patterns[layer][0, head].round(4).tolist(),
            "numbers": to_numpy(found[stream[layer]])[0, position].tolist(),
            "position": position,
            "layers": layers,
            "heads": model.config.n_head,
        }
        if before is not None:
            answer["change"] = (np.exp(before) * (before - after)).sum(axis=1).tolist()  # KL(before || after) in nats
        return answer

    def _ids(self, question: dict[str, Any]) -> list[int]:
        given = question.get("ids")
        ids = self.tokenizer.encode(str(question.get("text", ""))) if given is None else [int(i) for i in given]
        if not 1 <= len(ids) <= self.model.config.block_size:
            raise ValueError(f"the text has {len(ids)} tokens; the model reads 1 to {self.model.config.block_size}")
        if not all(0 <= i < len(self.tokenizer) for i in ids):
            raise ValueError(f"the vocabulary has {len(self.tokenizer)} tokens, numbered from 0")
        return ids

    def _log_probs(self, ids: Sequence[int]) -> np.ndarray:
        with no_grad():
            return to_numpy(F.log_softmax(self.model(np.array([ids]))[0], -1).data)

    def _best(self, log_probs: np.ndarray, count: int, before: np.ndarray | None = None) -> list[dict[str, Any]]:
        """The most likely next tokens, and those that were the most likely before something was switched off."""
        ids = np.argsort(-log_probs)[:count].tolist()
        if before is not None:
            ids += [i for i in np.argsort(-before)[: count // 2].tolist() if i not in ids]
        found = [{"id": i, "text": self._text(i), "p": float(np.exp(log_probs[i]))} for i in ids]
        for entry in found if before is not None else ():
            entry["before"] = float(np.exp(before[entry["id"]]))  # type: ignore[index]
        return found

    def _text(self, i: int) -> str:
        return self.tokenizer.decode([i]) if i < len(self.tokenizer) else f"<{i}>"

    def _edited(self, edit: dict[str, Any], length: int) -> dict[str, Any]:
        layer = _number(edit, "layer", self.model.config.n_layer)
        place = _number(edit, "position", length), _number(edit, "channel", self.model.config.n_embd)
        value = float(edit["value"])
        if not np.isfinite(value):
            raise ValueError("the new value must be a finite number")

        def change(output: Tensor) -> Tensor:
            array = output.data.copy()
            array[0, place[0], place[1]] = value
            return Tensor(array)

        return {self.model.part_names()[layer]: change}


def _number(question: dict[str, Any], name: str, count: int, default: int = 0) -> int:
    """A whole number from 0 to count - 1."""
    number = default if question.get(name) is None else question[name]
    if not isinstance(number, int) or not 0 <= number < count:
        raise ValueError(f"{name} must be 0 to {count - 1}, got {number!r}")
    return number
