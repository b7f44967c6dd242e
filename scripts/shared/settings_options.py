"""Options of a command that are made from settings (gpt/settings.py), and settings that are made from options."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from gpt.settings import declared, nested_in
from scripts.shared.command_line import whole_number


def add_settings(options: Any, make: Any, without: tuple[str, ...] = (), **changes: dict[str, Any]) -> None:
    """An option --like-this for each setting `like_this` that has a help; settings inside settings form a group.

    make: the dataclass of the settings, or a function that makes it with other defaults. without: settings without an
    option. changes: other arguments of `add_argument` than those that follow from what is declared.
    """
    config = make()
    for field in dataclasses.fields(config):
        name, kind = field.name, str(field.type)
        how = {"default": getattr(config, name), **declared(type(config), name), **changes.get(name, {})}
        least = how.pop("range", ">= 0").split()[1].strip("[(,")  # of ">= 1" or "in [1, 9]"
        if "help" not in how or name in without:
            continue
        if kind.startswith("int"):
            how.setdefault("type", whole_number(int(least)))
        elif kind == "float":
            how["type"] = float
        elif kind == "bool":
            how["action"] = "store_true"
        elif kind.startswith("tuple"):
            how |= {"nargs": "+", "action": _Names}
        options.add_argument(how.pop("flag", "--" + name.replace("_", "-")), dest=name, **how)
    for name, inner in nested_in(config).items():
        add_settings(options.add_argument_group(name), inner, without, **changes)


class _Names(argparse.Action):
    """An option with several names, which become a tuple. The default may be a word for all of them: `all-linear`."""

    def __call__(self, parser: Any, options: Any, values: Any, flag: str | None = None) -> None:
        setattr(options, self.dest, self.default if values == [self.default] else tuple(values))


def build(make: Any, options: dict[str, Any]) -> Any:
    """Settings, including those inside them, made of the options of the same names. make: as in `add_settings`."""
    config = make()
    values = {field.name: options[field.name] for field in dataclasses.fields(config) if field.name in options}
    return make(**values, **{name: build(inner, options) for name, inner in nested_in(config).items()})
