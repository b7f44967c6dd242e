"""The explorer's numbers: one forward pass of a model on the reader's text, with parts switched off or changed."""

import codecs
import functools
import os
from typing import Any, NamedTuple

import numpy as np

import minigrad.functional as F
from gpt import LanguageModel, Tokenizer
from gpt.interpretability import ablated, patched, record_activations
from gpt.interpretability.heads import Head, recorded_attention
from gpt.interpretability.lens import read_stream
from gpt.model.kv_cache import KVCache
from minigrad import Tensor, no_grad
from minigrad.backend import to_numpy

ALTERNATIVES = 10
LONGEST_TEXT = 512  # tokens: the attention of all heads of a longer one would not fit into a small machine's memory
LARGEST_MAP = 64  # rows and columns of an attention map; a cell of a longer text's map stands for several tokens

Off = tuple[tuple[Head, ...], tuple[int, ...], tuple[int, ...]]  # heads, attention and MLPs that are switched off


class Edit(NamedTuple):
    """A number of the residual stream after a layer, and the value that takes its place."""

    layer: int
    position: int
    channel: int
    value: float


class Run(NamedTuple):
    """What was computed for each of T tokens."""

    log_probs: np.ndarray  # (T, V)
    streams: np.ndarray  # (T, L, C): the residual stream after each layer
    patterns: np.ndarray  # (T, L, H, longest): where each head looks


class Looker:
    """A model and its tokenizer, asked about texts. Questions and answers are what JSON can hold."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.longest = min(model.config.block_size, LONGEST_TEXT)
        # The last result of each is kept: another token or another layer of the same run needs no new forward pass.
        self._kept_run = functools.lru_cache(maxsize=1)(self._run)
        self._kept_log_probs = functools.lru_cache(maxsize=1)(self._log_probs)
        # Where nothing is changed, what a text begins with is not read again: the last ids, their run, their cache.
        self._before: Any = (), None
        self._cache = KVCache.for_model(model, 1, self.longest)

    def look(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question. Raises ValueError for one that has no answer.

        text, or ids: what the model reads. position, layer: what to show. heads [(layer, head)], attention [layer],
        mlps [layer]: switched off. edit {layer, position, channel, value}: a number of the residual stream after a
        layer, which becomes another one.
        """
        ids = self._ids(question)
        position = _number(question, "position", len(ids), len(ids) - 1)
        layer = _number(question, "layer", self.model.config.n_layer)
        heads = tuple(tuple(head) for head in question.get("heads", ()))
        off = heads, tuple(question.get("attention", ())), tuple(question.get("mlps", ()))
        edit = self._edit(question["edit"], len(ids)) if question.get("edit") else None
        run = self._kept_run(ids, off, edit)
        after = run.log_probs
        patterns = run.patterns[:, layer, :, : len(ids)].swapaxes(0, 1)  # (H, T, T)
        if np.isnan(after).any():
            raise ValueError("the model's numbers overflow with this change; try a smaller value")
        before = self._kept_log_probs(ids) if edit or any(off) else None
        lens = F.log_softmax(Tensor(read_stream(self.model, run.streams[position])), -1).data  # (L, V)
        answer = {
            "ids": ids,
            "text": self.tokenizer.decode(ids),
            "tokens": [self._text(i) for i in ids],
            "surprise": [None, *(-after[np.arange(len(ids) - 1), ids[1:]]).tolist()],
            "alternatives": self._best(after[position], ALTERNATIVES, None if before is None else before[position]),
            "lens": [self._best(of_layer, 3) for of_layer in lens],
            "attention": attention_maps(patterns).round(4).tolist(),
            "looks": patterns[:, position, : position + 1].round(4).tolist(),  # (H, position + 1)
            "numbers": run.streams[position, layer].tolist(),
            "position": position,
            "layer": layer,
        }
        if before is not None:
            answer["change"] = (np.exp(before) * (before - after)).sum(axis=1).tolist()  # KL(before || after) in nats
        return answer

    def _run(self, ids: tuple[int, ...], off: Off, edit: Edit | None) -> Run:
        # Until this run is complete, nothing is kept, as Stop may interrupt it.
        read, known = self._before
        self._before = ((), None)
        is_plain = edit is None and not any(off)
        # How many tokens need not be read; the last one is always read, for what follows it.
        same = min(len(os.path.commonprefix([ids, read])), len(ids) - 1) if is_plain else 0
        self._cache.cut(same)
        names = self.model.part_names()
        changed = ablated(self.model, *off), patched(self.model, self._changes(edit) if edit else {})
        with changed[0], changed[1], recorded_attention() as patterns, record_activations(self.model, names) as found:
            log_probs = self._log_probs(ids[same:], self._cache if is_plain else None)
        streams = np.array([to_numpy(found[name])[0] for name in names]).swapaxes(0, 1)
        looks = np.zeros((len(log_probs), len(names), self.model.config.n_head, self.longest), np.float32)
        for layer, weights in enumerate(patterns):  # (1, H, T, S)
            looks[:, layer, :, : len(ids)] = weights[0].swapaxes(0, 1)
        run = Run(log_probs, streams, looks)
        run = Run(*(np.concatenate([old[:same], new]) for old, new in zip(known, run, strict=True))) if same else run
        if is_plain:
            self._before = ids, run
        return run

    def _ids(self, question: dict[str, Any]) -> tuple[int, ...]:
        given = question.get("ids")
        ids = self.tokenizer.encode(question["text"]) if given is None else given
        if not 1 <= len(ids) <= self.longest:
            raise ValueError(f"the text has {len(ids)} tokens; the model reads 1 to {self.longest} of them here")
        return tuple(ids)

    def _log_probs(self, ids: tuple[int, ...], cache: KVCache | None = None) -> np.ndarray:
        with no_grad():
            return to_numpy(F.log_softmax(self.model(np.array([ids]), cache)[0], -1).data)

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
        """A token as text; bytes that are not a whole character look like <0xE2>."""
        return self.tokenizer.decode([i], errors="as <0xE2>") if i < len(self.tokenizer) else f"<{i}>"

    def _edit(self, edit: dict[str, Any], length: int) -> Edit:
        layer = _number(edit, "layer", self.model.config.n_layer)
        place = _number(edit, "position", length), _number(edit, "channel", self.model.config.n_embd)
        return Edit(layer, *place, float(edit["value"]))

    def _changes(self, edit: Edit) -> dict[str, Any]:
        """An edit as `patched` takes it."""

        def change(output: Tensor) -> Tensor:
            array = output.data.copy()
            array[0, edit.position, edit.channel] = edit.value
            return Tensor(array)

        return {self.model.part_names()[edit.layer]: change}


def attention_maps(patterns: np.ndarray) -> np.ndarray:
    """Attention weights (H, T, T) with at most 64 rows and columns: of a longer text, the largest of k x k weights."""
    heads, length, _ = patterns.shape
    k = -(-length // LARGEST_MAP)
    missing = -length % k
    padded = np.pad(patterns, ((0, 0), (0, missing), (0, missing)))
    return padded.reshape(heads, -1, k, padded.shape[-1] // k, k).max(axis=(2, 4))


def _bytes_as_hex(error: Any) -> tuple[str, int]:
    return "".join(f"<0x{byte:02X}>" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("as <0xE2>", _bytes_as_hex)


def _number(question: dict[str, Any], name: str, count: int, default: int = 0) -> int:
    """A whole number from 0 to count - 1."""
    number: int = default if question.get(name) is None else question[name]
    if not 0 <= number < count:
        raise ValueError(f"{name} must be 0 to {count - 1}, got {number!r}")
    return number
