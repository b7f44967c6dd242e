"""Settings: a dataclass declares each one once, with its default, help and range; here they are checked and read.

>>> @dataclasses.dataclass(frozen=True)
... class Example(Checked):
...     rate: float = setting(0.1, "learning rate", "> 0")
>>> Example(rate=0)
Traceback (most recent call last):
ValueError: rate must be a number > 0, got 0

The options of the commands are made from the same declarations.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections import ChainMap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

# What a value may be by its annotation: in words, and its types. Other annotations are not checked.
KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("an integer", (numbers.Integral,)),
    "float": ("a number", (numbers.Real,)),
    "bool": ("true or false", (bool,)),
    "str": ("a text", (str,)),
    "tuple[str, ...]": ("a list of names", (tuple,)),
    "dict[str, Any]": ("an object", (dict,)),
    "None": ("None", (type(None),)),
}


def setting(default: Any, help: str = "", range: str = "", choices: Sequence[str] = (), **more: str) -> Any:
    """A field of a settings dataclass. A subclass that gives only another default keeps the rest.

    help: of the option in commands; without it, there is none. range: ">= 1", "> 0" or an interval such as "in [0, 1)".
    more: other parts of the option, such as `metavar`.
    """
    declared = {"help": help, "range": range, "choices": tuple(choices), **more}
    return dataclasses.field(default=default, metadata={name: value for name, value in declared.items() if value})


def nested(config_class: type, **defaults: Any) -> Any:
    """A field of a settings dataclass that holds settings of another one, with other defaults than its own."""
    return dataclasses.field(default_factory=partial(config_class, **defaults))


def nested_in(config_class: Any) -> dict[str, Any]:
    """The fields that hold settings of another dataclass, by name, as functions that make these."""
    makers = {field.name: field.default_factory for field in dataclasses.fields(config_class)}
    return {name: make for name, make in makers.items() if dataclasses.is_dataclass(getattr(make, "func", make))}


def declared(config_class: type, name: str) -> Mapping[str, Any]:
    """What was declared of a setting with `setting`, in the class or in one that it inherits from."""
    classes = (vars(each).get("__dataclass_fields__", {}) for each in config_class.__mro__)
    return ChainMap(*(dict(fields[name].metadata) for fields in classes if name in fields))


class Checked:
    """The base class of settings: they are checked when they are made."""

    def __post_init__(self: Any) -> None:
        """Raise ValueError, naming the setting, unless each has a type of its annotation and lies in its range.

        A setting may have its default None, although it is not in the annotation. Integers without a range are >= 0.
        """
        for field in dataclasses.fields(self):
            value, kinds = getattr(self, field.name), str(field.type).split(" | ")
            if (value is None and field.default is None) or not KINDS.keys() >= set(kinds):
                continue
            more = declared(type(self), field.name)
            range = more.get("range", ">= 0" if kinds[0] == "int" else "")
            if not any(_fits(value, KINDS[kind][1], range) for kind in kinds):
                numbers = range if range.startswith("in") else f"{KINDS[kinds[0]][0]} {range}".rstrip()
                words = " or ".join([numbers, *(KINDS[kind][0] for kind in kinds[1:])])
                raise ValueError(f"{field.name} must be {words}, got {value!r:.60}")
            choices = more.get("choices")
            if choices and not set(value if isinstance(value, tuple) else [value]) <= set(choices):
                raise ValueError(f"{field.name} must be one of {', '.join(choices)}, got {value!r:.60}")


def _fits(value: Any, types: tuple[type, ...], range: str) -> bool:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        return False
    if isinstance(value, tuple):
        return all(isinstance(name, str) for name in value)
    return not isinstance(value, numbers.Real) or _within(value, range)


def _within(value: Any, range: str) -> bool:
    """Whether a finite number lies in a range such as ">= 1" or "in [0, 1)". An empty one holds all."""
    if not range.startswith("in"):
        sign, least = range.split() if range else (">", "-inf")
        return float(least) < value < math.inf or (sign == ">=" and value == float(least))
    low, high = map(float, range[4:-1].split(", "))
    return low < value < high or (value == low and range[3] == "[") or (value == high and range[-1] == "]")


def from_json(make: Any, values: Any) -> Any:
    """Settings from JSON, which may come from anybody. make: their dataclass, or what `nested_in` has for a field.

    Missing settings have their defaults: they are newer than the file. Raises ValueError, naming the setting, for one
    that is unknown, of another type, or out of range.
    """
    config_class = getattr(make, "func", make)
    names = {field.name for field in dataclasses.fields(config_class)}
    inner = nested_in(config_class)
    if not isinstance(values, Mapping):
        raise ValueError(f"the settings of {config_class.__name__} must be an object, got {values!r:.60}")
    if unknown := ", ".join(sorted(set(values) - names)):
        raise ValueError(f"unknown setting {unknown}; {config_class.__name__} has {', '.join(sorted(names))}")
    try:
        return make(**{name: from_json(inner[name], v) if name in inner else v for name, v in values.items()})
    except TypeError as error:
        raise ValueError(str(error)) from None
