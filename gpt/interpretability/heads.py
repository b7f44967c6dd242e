"""Attention heads: what each looks at, and what the model can no longer do when it is switched off."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from minigrad import Tensor, no_grad, switches, use_kernels
from minigrad.backend import to_numpy
from minigrad.functional.attention import ScaledDotProductAttention
from minigrad.inspection.observers import watching
from minigrad.nn.module import evaluating

from ..model.language_model import Ids, LanguageModel
from .activations import hooked

Head = tuple[int, int]  # layer, number in the layer


class _Patterns(switches.Observer):
    """Keeps the attention weights of every layer. `after` is called after each op."""

    def __init__(self) -> None:
        self.found: list[np.ndarray] = []

    def after(self, phase: str, ctx: Any, arrays: list[Any], results: tuple[Any, ...]) -> None:
        if phase == "forward" and issubclass(ctx.function, ScaledDotProductAttention):
            probs = to_numpy(ctx.probs)  # (B, H, T, S); with grouped queries (B, K, H / K, T, S)
            self.found.append(probs.reshape(len(probs), -1, *probs.shape[-2:]).copy())


@contextlib.contextmanager
def recorded_attention() -> Iterator[list[np.ndarray]]:
    """In the block, append the attention weights (B, H, T, S) of each layer that runs to a list.

    Textbook attention computes them, because the fast kernels never have them as a whole.
    """
    watcher = _Patterns()
    with use_kernels({"scaled_dot_product_attention": ScaledDotProductAttention}), watching(watcher):
        yield watcher.found


def attention_patterns(model: LanguageModel, ids: Ids) -> np.ndarray:
    """The attention weights of all heads: ids (B, T) -> (L, B, H, T, T). Row t is what token t attends to."""
    with no_grad(), evaluating(model), recorded_attention() as found:
        model.hidden_states(ids)
    return np.array(found)


def ablated(
    model: LanguageModel, heads: Iterable[Head] = (), attention: Iterable[int] = (), mlps: Iterable[int] = ()
) -> contextlib.AbstractContextManager[None]:
    """In the block, switch off heads (layer, head), the attention of whole layers, and the MLPs of layers.

    What is switched off adds zeros to the residual stream ("zero ablation"). Raises ValueError for what the model does
    not have.
    """
    n_layer, n_head = model.config.n_layer, model.config.n_head
    off: dict[int, list[int]] = {}
    for layer, head in heads:
        if not 0 <= layer < n_layer or not 0 <= head < n_head:
            raise ValueError(f"there is no head {layer}.{head}: the model has {n_layer} layers of {n_head} heads")
        off.setdefault(layer, []).append(head)
    for layer in (*attention, *mlps):
        if not 0 <= layer < n_layer:
            raise ValueError(f"there is no layer {layer}: the model has {n_layer}")
    projections = model.part_names("projection")
    changes: dict[str, Callable[..., Any]] = {projections[layer]: _Without(off[layer], n_head) for layer in off}
    changes |= {model.part_names("attention")[layer]: _nothing for layer in attention}
    changes |= {model.part_names("mlp")[layer]: _nothing for layer in mlps}
    return hooked(model, changes)


@dataclasses.dataclass
class _Without:
    """A hook of W_O: compute it again, with zeros where these heads are in its input (B, T, H D)."""

    off: list[int]
    n_head: int

    def __call__(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        # It starts again from the input, so it also leaves out what the other hooks of this kind leave out.
        off = [head for hook in module._forward_hooks.values() if isinstance(hook, _Without) for head in hook.off]
        return module.forward(without_heads(args[0], off, self.n_head))  # a call of `module` would call this hook again


def without_heads(x: Tensor, off: list[int], n_head: int) -> Tensor:
    """x (B, T, H D), which has the heads side by side, with zeros for the heads `off`."""
    keep = np.ones(n_head)
    keep[off] = 0
    mask = np.repeat(keep, x.shape[-1] // n_head)  # (H D): each head has D neighboring channels
    return x * Tensor(mask, dtype=x.dtype, device=x.device)


def _nothing(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output * 0
