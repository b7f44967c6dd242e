"""The part that all optimizers share: parameters in groups with settings, a state for each, and how they are saved.

The rules that change the parameters are in optim.py.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from . import in_place, switches
from .backend import Array, device_of, to_device
from .tensor import Tensor


def with_fast_twin(step: Callable[[Any], None]) -> Callable[[Any], None]:
    """Decorate an optimizer's `step`: if a fast kernel for its class is selected, that gets all `updates` instead."""

    @functools.wraps(step)
    def run(optimizer: ParameterGroups) -> None:
        update_all = switches.kernel_for(type(optimizer), [p.grad for p in optimizer._parameters()])
        if update_all is None:
            step(optimizer)
        else:
            update_all(optimizer, optimizer.updates())

    return run


class ParameterGroups:
    """Parameters in groups, each with its own settings ("lr", "weight_decay", ...), and a state for each parameter.

    params: tensors, or dictionaries with "params" and settings that differ from the defaults. Raises ValueError for
    settings out of range, a parameter given twice, or no parameters; TypeError for anything that is not a leaf tensor.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], defaults: dict[str, Any]):
        groups: list[Any] = [params] if isinstance(params, Tensor) else list(params)
        if groups and not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        # by the parameter's place among those of all groups; empty before its first step
        self.state: dict[int, dict[str, Any]] = defaultdict(dict)
        for group in groups:
            self.add_param_group(group)
        if not self._parameters():
            raise ValueError("the optimizer got no parameters")

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Add parameters with settings of their own."""
        self._check(group)
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        group = {**self.defaults, **group, "params": params}
        known = {id(p) for p in self._parameters()}
        for p in params:
            if not isinstance(p, Tensor) or not p.is_leaf:
                what = "the result of an op" if isinstance(p, Tensor) else type(p).__name__
                raise TypeError(f"an optimizer updates leaf tensors, not {what}")
            if id(p) in known:
                raise ValueError(f"a parameter of shape {p.shape} is given twice")
            known.add(id(p))
        self.param_groups.append(group)

    def _check(self, group: dict[str, Any]) -> None:
        """Raise ValueError for settings that the optimizer does not have, or that are out of range."""
        unknown = set(group) - set(self.defaults) - {"params"}
        if unknown:
            known = ", ".join(self.defaults)
            raise ValueError(f"{type(self).__name__} has no setting {', '.join(sorted(unknown))}; it has {known}")
        settings = {**self.defaults, **group}
        for name in ("lr", "weight_decay", "eps", "momentum"):
            if name in settings and not settings[name] >= 0:
                raise ValueError(f"{name} must be >= 0, got {settings[name]}")
        if settings.get("nesterov") and not settings.get("momentum"):
            raise ValueError("nesterov=True needs a momentum > 0, got 0")
        for beta in settings.get("betas", ()):
            if not 0 <= beta < 1:
                raise ValueError(f"betas must be in [0, 1), got {settings['betas']}")

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def __repr__(self) -> str:
        """The rule, and a line for each group: its settings, and how many tensors it has."""
        groups = [{**group, "params": f"{len(group['params'])} tensors"} for group in self.param_groups]
        return "\n  ".join([type(self).__name__, *(", ".join(f"{k}={v}" for k, v in g.items()) for g in groups)])

    def updates(self) -> list[tuple[Tensor, Array, dict[str, Any], dict[str, Any]]]:
        """(parameter, gradient, state, group) for each parameter that has a gradient, and so is about to change."""
        in_groups = [(p, group) for group in self.param_groups for p in group["params"]]
        updates = [(p, p.grad, self.state[i], group) for i, (p, group) in enumerate(in_groups) if p.grad is not None]
        in_place.announce_update([p for p, _, _, _ in updates])  # a backward() that needs the old values will raise
        return updates

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for p in self._parameters():
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """{"state": {position: {name: array or number}}, "param_groups": settings with parameters' positions}."""
        groups = []
        position = 0
        for group in self.param_groups:
            positions = list(range(position, position + len(group["params"])))
            groups.append({**group, "params": positions})
            position += len(positions)
        return {"state": {position: dict(state) for position, state in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy settings and state from `state_dict`.

        Raises ValueError, before it changes anything, for other groups or shapes, and for unknown or invalid settings.
        """
        groups = state_dict["param_groups"]
        ours, theirs = [len(g["params"]) for g in self.param_groups], [len(g["params"]) for g in groups]
        if ours != theirs:
            raise ValueError(f"the optimizer has groups of {ours} parameters, its saved state of {theirs}")
        for group in groups:
            self._check(group)
        parameters = dict(enumerate(self._parameters()))
        loaded: dict[int, dict[str, Any]] = defaultdict(dict)
        for key, saved in state_dict["state"].items():
            if int(key) not in parameters:
                raise ValueError(f"the optimizer has {len(parameters)} parameters, its saved state names {key}")
            loaded[int(key)] = {name: _loaded(name, value, parameters[int(key)]) for name, value in saved.items()}
        for group, saved in zip(self.param_groups, groups, strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
        self.state = loaded


def _loaded(name: str, value: Any, p: Tensor) -> Any:
    """A number as it is; an array as a copy in p's dtype and on p's device."""
    if not hasattr(value, "shape"):
        return value
    if tuple(value.shape) != p.shape:
        raise ValueError(f"a saved {name} has shape {tuple(value.shape)}, its parameter {p.shape}")
    return to_device(value, device_of(p.data)).astype(p.dtype)
