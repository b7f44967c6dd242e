"""Checks of what a model's files say. The readers of all formats share them, and one wording for each kind of damage.

The files may come from anybody. Every check raises ValueError without the file's name, which the reader adds
(`errors_at`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .files import shortened

# --- settings ---------------------------------------------------------------------------------------------------------


def number_setting(values: Mapping[str, Any], name: str, default: float, kind: type = float) -> Any:
    """A setting from a file that must be a number, or, if `kind` is int, an integer >= 1."""
    value = values.get(name, default)
    types, words = ((int,), "an integer >= 1 (and below 2**31)") if kind is int else ((int, float), "a number")
    if type(value) not in types or not abs(value) < 2**31 or (kind is int and value < 1):
        raise ValueError(f"{name} must be {words}, got {shortened(values.get(name))}")
    return value


def check_settings(values: Mapping[str, Any], known: Mapping[str, Sequence[Any]]) -> None:
    """Refuse, by its name, a setting of `known` that has none of its values there. It may be missing."""
    for name, supported in known.items():
        check_value(name, values.get(name, supported[0]), supported)


def check_value(name: str, given: Any, supported: Sequence[Any]) -> None:
    """Refuse, by its name, something that is none of the values that are supported."""
    if not any(type(given) is type(value) and given == value for value in supported):  # 1 is not True
        raise ValueError(f"{name} is {shortened(given)}; supported here: {', '.join(map(str, supported))}")


def check_known(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a setting that is not in `known`: the model might compute something else without it."""
    if unknown := set(names).difference(known):
        raise ValueError(f"the setting {shortened(min(unknown))} is not known here, and may change what is computed")


def check_unused(values: Mapping[str, Any], options: Iterable[str], of: str = "") -> None:
    """Refuse, by its name, an option that is switched on. of: what it is an option of."""
    for option in options:
        if values.get(option):
            raise ValueError(f"the option {option}{of} is {shortened(values[option])}, which is not supported here")


# --- tensors ----------------------------------------------------------------------------------------------------------


def check_tensor_name(name: str) -> None:
    """Refuse a name that an error message could not show."""
    if not name.isprintable() or len(name) > 1000:
        raise ValueError(f"{shortened(name)} cannot be the name of a tensor")


def check_places(places: Mapping[str, tuple[int, int]], start: int, size: int, alignment: int = 1) -> None:
    """Refuse tensors that do not fill a file of `size` bytes from `start` on, one after the other.

    Inserted or lost bytes would change all numbers after them. places: each tensor's first byte, a multiple of
    `alignment`, and the byte after its last.
    """
    end = start
    before = "the header"
    for name, (first, after) in sorted(places.items(), key=lambda item: item[1]):
        if first != end + -end % alignment:  # the next multiple of alignment
            raise ValueError(f"there is {'a hole' if first > end else 'an overlap'} between {before} and {name}")
        end, before = after, name
    if size not in (end, end + -end % alignment):
        raise ValueError(f"truncated or damaged: its header describes {end:,} bytes, but the file has {size:,}")
