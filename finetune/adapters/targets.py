"""Which modules are adapted? They are found by name, as in PEFT: its configurations mean the same here."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gpt.files import errors_at
from gpt.model.structure import StructuredModel
from minigrad import Tensor, nn

OUTPUT_LAYERS = ("lm_head", "score")  # what "all-linear" leaves out


def target_names(model: nn.Module, targets: tuple[str, ...] | str | None) -> list[str]:
    """The full names of the linear layers that match `targets`, in the model's order.

    targets: the last parts of names ("c_attn", "mlp.c_proj"); or one string: "all-linear" for all but the output layer,
    or a regular expression for whole names; None: the layers that the model itself declares. Raises ValueError for a
    target that fits no module, or one that is not linear.
    """
    if targets is None:
        if not isinstance(model, StructuredModel):
            raise ValueError(f"a {type(model).__name__} does not say which layers to adapt: set target_modules")
        targets = model.names.lora_targets
    linear = {name: is_linear(module) for name, module in model.named_modules() if name}
    if targets == "all-linear":
        return [name for name, yes in linear.items() if yes and name not in OUTPUT_LAYERS]
    if isinstance(targets, str):
        with errors_at(f"the target {targets!r} is not a valid regular expression", caught=(re.error,)):
            fits = re.compile(targets).fullmatch
        names = [name for name in linear if fits(name)]
        unused = [] if names else [targets]
    else:
        names = [name for name in linear if any(ends_with(name, target) for target in targets)]
        unused = [target for target in targets if not any(ends_with(name, target) for name in names)]
    if unused:
        known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name, yes in linear.items() if yes))
        raise ValueError(f"the target {unused[0]!r} fits no module; linear layers here are {known}")
    for name in names:
        if not linear[name]:
            kind = type(model.get_submodule(name)).__name__
            raise ValueError(f"the target {name} is a {kind}; LoRA adapts linear layers")
    return names


def is_linear(module: nn.Module) -> bool:
    """Whether a module can have an adapter: it maps (..., in_features) to (..., out_features)."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def full_names(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The full names of all modules whose last parts are one of `names`."""
    return [full for full, _ in model.named_modules() if full and any(ends_with(full, name) for name in names)]


def ends_with(name: str, parts: str) -> bool:
    """Whether a dotted name ends with these whole parts.

    >>> ends_with("h.0.attn.c_proj", "c_proj"), ends_with("h.0.attn.c_proj", "proj")
    (True, False)
    """
    return name == parts or name.endswith(f".{parts}")


def is_inside(name: str, outer: Iterable[str]) -> bool:
    """Whether a module is one of the modules `outer`, or below one.

    >>> is_inside("h.0.attn", ["h.0"]), is_inside("h.01", ["h.0"])
    (True, False)
    """
    return any(name == above or name.startswith(f"{above}.") for above in outer)


def holders(model: nn.Module, weight: Tensor) -> dict[str, nn.Module]:
    """The modules that have this very tensor as an attribute, by name: more than one where weights are tied."""
    return {name: m for name, m in model.named_modules() if any(value is weight for value in vars(m).values())}


def tied_partners(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """{partner: module}: the partners that `names` do not match, but that share a weight with a module that they do."""
    full = full_names(model, names)
    shared = ((name, weight) for name in full for weight in model.get_submodule(name).parameters())
    return {other: name for name, weight in shared for other in holders(model, weight) if not is_inside(other, full)}


def check_modules_to_save(model: nn.Module, names: Iterable[str]) -> None:
    """Raise ValueError for a name that fits no module, or names one of two modules that share a weight."""
    for name in names:
        if not full_names(model, [name]):
            raise ValueError(f"modules_to_save names {name!r}, which is not a module of {type(model).__name__}")
    for partner, name in tied_partners(model, names).items():
        raise ValueError(f"{name} shares its weight with {partner}: name both in modules_to_save, or neither")
