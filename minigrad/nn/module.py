"""Module: a tree of parameters with a forward pass.

The parameters, buffers and children of a module are its attributes. They are found in `vars(module)`, in the order of
assignment. A dotted name, "transformer.h.0.attn.c_attn.weight", is the path from the root to the attribute.

>>> class Scale(Module):
...     def __init__(self):
...         self.weight = Parameter(np.array([2.0, 3.0]))
...
...     def forward(self, x):
...         return x * self.weight
>>> class Twice(Module):
...     def __init__(self):
...         self.first, self.second = Scale(), Scale()
...
...     def forward(self, x):
...         return self.second(self.first(x))
>>> model = Twice()
>>> model(np.array([1.0, 10.0])).data
array([ 4., 90.])
>>> [name for name, _ in model.named_parameters()]
['first.weight', 'second.weight']
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ParamSpec, Protocol, Self, TypeVar

import numpy as np

from .. import in_place
from ..backend import Array, as_array, device_and_dtype, device_of, is_array, to_device
from ..dtypes import is_floating
from ..notebook import outline_html
from ..tensor import Tensor


class Parameter(Tensor):
    """A tensor that a module learns: found by `parameters()`, updated by optimizers."""

    __slots__ = ()
    is_parameter = True

    def __init__(self, data: Any, requires_grad: bool = True):
        super().__init__(data, requires_grad)


class Module:
    """The base of all layers and models: subclass it, assign parameters and modules to attributes, define `forward`."""

    training = True
    # Empty, and shared by all modules. A module that registers a buffer or a hook gets a dictionary of its own.
    _buffers: Mapping[str, bool] = {}  # name -> is it saved?
    _forward_hooks: Mapping[Hook, Callable[..., Any]] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{type(self).__name__} must define forward")

    # Read it as __call__(self, *args, **kwargs). The types tell a type checker that a call takes and returns what
    # `forward` does.
    def __call__(self: _WithForward[P, R_co], *args: P.args, **kwargs: P.kwargs) -> R_co:
        output: Any = self.forward(*args, **kwargs)
        for hook in list(self._forward_hooks.values()):  # a list, because a hook may remove itself
            changed = hook(self, args, output)
            output = output if changed is None else changed
        return output

    def register_forward_hook(self, hook: Callable[[Module, tuple[Any, ...], Any], Any]) -> Hook:
        """Call `hook(module, args, output)` after each forward, in whatever thread it runs.

        What the hook returns becomes the output, unless it is None.
        """
        hooks = self.__dict__.setdefault("_forward_hooks", {})  # the module's own dictionary, not the class's
        handle = Hook(hooks)
        hooks[handle] = hook
        return handle

    # --- the tree ---

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below this one."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Module]]:
        """This module and all below it, each once, with dotted names. seen: the ids of modules that were listed."""
        seen = set() if seen is None else seen
        if id(self) in seen:  # one module in two places counts once
            return
        seen.add(id(self))
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their dotted names. A tied one appears once, under its first name."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))  # tied: the same Parameter is an attribute of two modules
                    yield (f"{prefix}.{name}" if prefix else name), value

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, tied ones once."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self, persistent_only: bool = False) -> Iterator[tuple[str, Array]]:
        """All buffers, or those that are saved, with their dotted names."""
        for prefix, module in self.named_modules():
            for name, persistent in module._buffers.items():
                if hasattr(module, name) and (persistent or not persistent_only):  # somebody may have deleted it
                    yield (f"{prefix}.{name}" if prefix else name), getattr(module, name)

    def register_buffer(self, name: str, array: Array, persistent: bool = True) -> None:
        """Add an array that moves with the module and (if `persistent`) is saved with it, but is not learned."""
        if not is_array(array):
            raise TypeError(f"a buffer is an array, not a {type(array).__name__}; of a Tensor, pass tensor.data")
        self.__dict__.setdefault("_buffers", {})[name] = persistent
        setattr(self, name, array)

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign an attribute. An array in the place of a Parameter is refused: optimizers would lose the parameter."""
        if isinstance(vars(self).get(name), Parameter) and not isinstance(value, Parameter | None):
            raise TypeError(
                f"{type(self).__name__}.{name} is a Parameter, which optimizers would lose: assign nn.Parameter(...), "
                f"not {type(value).__name__}, or change its numbers, as in `with no_grad(): layer.{name} *= 2`"
            )
        super().__setattr__(name, value)

    def get_submodule(self, name: str) -> Module:
        """The module with this dotted name; "" is this one. Raises AttributeError naming the part that is missing."""
        module = self
        for part in name.split(".") if name else []:
            child = getattr(module, part, None)
            if not isinstance(child, Module):
                raise AttributeError(f"no submodule {name!r}: {type(module).__name__} has no child {part!r}")
            module = child
        return module

    def set_submodule(self, name: str, module: Module) -> None:
        """Replace the module with this dotted name. Raises AttributeError if there is none."""
        if not name or not isinstance(module, Module):
            raise ValueError("set_submodule needs the name of a module below this one, and a module")
        self.get_submodule(name)
        parent, _, child = name.rpartition(".")
        setattr(self.get_submodule(parent), child, module)

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` on every module, children first."""
        for _, child in self.named_children():
            child.apply(fn)
        fn(self)
        return self

    # --- switches ---

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, in which dropout is active."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch to inference mode, without dropout: `train(False)`."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or unfreeze all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, *targets: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Move to a device, and cast floating-point arrays to a dtype, in place: `model.to("cuda", np.float64)`."""
        device, dtype = device_and_dtype(targets, device, dtype)
        if dtype is not None and not is_floating(dtype):
            raise TypeError(f"a module can only be cast to a floating-point dtype, not {dtype}")

        def move(array: Array) -> Array:
            if dtype is not None and is_floating(array.dtype):
                array = array.astype(dtype, copy=False)
            return array if device is None else to_device(array, device)

        for parameter in self.parameters():
            parameter.data = move(parameter.data)
            parameter.grad = None if parameter.grad is None else move(parameter.grad)
        for module in self.modules():
            for name in module._buffers:
                if hasattr(module, name):
                    setattr(module, name, move(getattr(module, name)))
        return self

    # --- saving and loading ---

    def state_dict(self) -> dict[str, Array]:
        """Parameters and persistent buffers by name: the arrays themselves, not copies. Tied weights appear once."""
        return {name: p.data for name, p in self.named_parameters()} | dict(self.named_buffers(persistent_only=True))

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> tuple[list[str], list[str]]:
        """Copy `state` into the parameters and buffers; returns (missing names, unexpected names).

        Raises ValueError, before anything is changed, for a shape that differs, numbers of another kind, or (if
        `strict`) names that are missing or unexpected.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        if strict and (missing or unexpected):
            both = {"missing": missing, "unexpected": unexpected}.items()
            problems = "; ".join(f"{what}: {_few(names)}" for what, names in both if names)
            raise ValueError(f"the state does not fit {type(self).__name__}; {problems}")
        values = {name: _fitting(name, state[name], array) for name, array in own.items() if name in state}
        parameters = dict(self.named_parameters())
        in_place.announce_update([parameters[name] for name in values if name in parameters])
        own = self.state_dict()  # again, because announce_update replaces read-only arrays
        in_place.announce(own[name] for name in values)  # the buffers too
        for name, array in values.items():
            # In place, so that the optimizer, tied modules and views keep the arrays that they hold.
            own[name][...] = to_device(array, device_of(own[name])).astype(own[name].dtype, copy=False)
        return missing, unexpected

    # --- looking at it ---

    def num_parameters(self, trainable_only: bool = False) -> int:
        """Count the numbers that the module learns; tied weights count once."""
        return sum(p.data.size for p in self.parameters() if p.requires_grad or not trainable_only)

    def extra_repr(self) -> str:
        """The text that `print(model)` shows for this module beside its parameters."""
        return ""

    def __repr__(self) -> str:
        return "\n".join(_describe(self, type(self).__name__, 0, set()))

    def _repr_html_(self) -> str:
        """For notebooks."""
        return outline_html(repr(self))


class ModuleList(Module):
    """Modules in a list; the names of their parameters contain their positions."""

    def __init__(self, modules: Iterable[Module] = ()):
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__} holds modules, not {type(module).__name__}")
        setattr(self, str(len(self)), module)
        return self

    def __len__(self) -> int:
        return sum(1 for _ in self.named_children())

    def __iter__(self) -> Iterator[Any]:
        return (child for _, child in self.named_children())

    def __getitem__(self, index: int | slice) -> Any:
        """The module there; for a slice, a list of the same kind with the same modules."""
        if isinstance(index, slice):
            part = type(self)()
            for module in list(self)[index]:
                part.append(module)
            return part
        return getattr(self, self._name(index))

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name(index), module)

    def _name(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"module {index} of {len(self)}")
        return str(index % len(self))


class Sequential(ModuleList):
    """Modules applied one after the other."""

    def __init__(self, *modules: Module):
        super().__init__(modules)

    def forward(self, x: Any) -> Tensor:
        for module in self:
            x = module(x)
        return x


@contextlib.contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """In the `with` block, the model is in inference mode, without dropout; afterwards each module in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(modes[0][1])  # the model comes first; new modules, put in meanwhile, get its mode
        for module, mode in modes:
            module.training = mode


class Hook:
    """The handle that `register_forward_hook` returns; `remove()` unregisters the hook."""

    def __init__(self, hooks: dict[Hook, Callable[..., Any]]):
        self._hooks = hooks

    def remove(self) -> None:
        self._hooks.pop(self, None)


P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class _WithForward(Protocol[P, R_co]):
    """For type checkers: a call of a module takes and returns what its `forward` does."""

    _forward_hooks: Mapping[Hook, Callable[..., Any]]

    def forward(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def _fitting(name: str, value: Any, own: Array) -> Array:
    """`value` as an array, or ValueError if it cannot be written into `own`."""
    try:
        array = as_array(value.data if isinstance(value, Tensor) else value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} in the state: {error}") from None
    if array.shape != own.shape:
        raise ValueError(f"{name} has shape {array.shape} in the state, {own.shape} in the model")
    if not np.can_cast(array.dtype, own.dtype, "same_kind"):
        raise ValueError(f"{name} is {array.dtype} in the state, {own.dtype} in the model")
    return array


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _describe(module: Module, label: str, depth: int, seen: set[int]) -> list[str]:
    """One line per module: its name, its own parameters' shapes, how many numbers they are."""
    own = [(name, value) for name, value in vars(module).items() if isinstance(value, Parameter)]
    shapes = ", ".join(f"{name} {value.shape}{' (tied)' if id(value) in seen else ''}" for name, value in own)
    count = sum(value.data.size for _, value in own if id(value) not in seen)
    seen.update(id(value) for _, value in own)
    notes = "  ".join(part for part in (module.extra_repr(), shapes) if part)
    total = module.num_parameters() if depth == 0 else count
    left = "  " * depth + label + (f"  {notes}" if notes else "")
    lines = [f"{left:<88}{total:>13,}" if total else left]
    for name, child in module.named_children():
        lines += _describe(child, f"{name}: {type(child).__name__}", depth + 1, seen)
    return lines


def empty_parameter(*shape: int) -> Parameter:
    """A parameter that is allocated but not filled: an initializer will write its values."""
    return Parameter(np.empty(shape, dtype=np.float32))
