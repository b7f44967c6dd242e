"""Record what the modules of a model compute, and replace it while the model runs.

    with record_activations(model, ["transformer.h.0.mlp"]) as found:
        model(ids)
    found["transformer.h.0.mlp"]                                             # (B, T, C)

    with patched(model, {"transformer.h.0.mlp": lambda x: 0 * x}):
        logits = model(ids)

Names are those of `model.named_modules()`. Both use forward hooks, whose result, if any, replaces a module's output.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from minigrad import Tensor, nn
from minigrad.backend import Array, module_of

Change = Callable[[Any], Any]  # from an output to what takes its place


@contextlib.contextmanager
def record_activations(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Array]]:
    """In the block, keep the latest output of each named module. Raises AttributeError for other names."""
    found: dict[str, Array] = {}

    def keep(name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        found[name] = output.data.copy()

    with hooked(model, {name: partial(keep, name) for name in names}):
        yield found


def patched(model: nn.Module, changes: Mapping[str, Array | Change]) -> contextlib.AbstractContextManager[None]:
    """In the block, let the outputs of the named modules be other ones: an array, or a function of the output.

    A function gets the output as a Tensor, so gradients flow through what it computes. Raises AttributeError for a name
    that the model does not have, ValueError for an array of another shape than the output.
    """

    def replace(name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        change = changes[name]
        new = change(output) if callable(change) else module_of(output.data).asarray(change, output.dtype)
        new = new if isinstance(new, Tensor) else Tensor(new)
        if new.shape != output.shape:
            raise ValueError(f"{name} computes {output.shape}, and cannot be replaced by {new.shape}")
        return new

    return hooked(model, {name: partial(replace, name) for name in changes})


@contextlib.contextmanager
def hooked(model: nn.Module, hooks: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """In the block, the named modules call these forward hooks."""
    modules = {name: model.get_submodule(name) for name in hooks}  # all names are looked up before a hook is set
    with contextlib.ExitStack() as stack:
        for name, hook in hooks.items():
            stack.callback(modules[name].register_forward_hook(hook).remove)
        yield
