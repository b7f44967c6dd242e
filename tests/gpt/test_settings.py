"""Settings that are declared once: what is refused, and what is read from JSON."""

from __future__ import annotations

import dataclasses
import importlib
import math
import re

import pytest

from gpt.settings import KINDS, Checked, declared, from_json, nested, setting
from gpt.training.run_state import RunState


@dataclasses.dataclass(frozen=True)
class Inner(Checked):
    steps: int = setting(10, "how many", ">= 1")
    kind: str = setting("plain", choices=("plain", "fancy"))


@dataclasses.dataclass(frozen=True)
class Base(Checked):
    size: int = setting(4, "items", ">= 1", metavar="SIZE")
    rate: float = setting(0.5, "", "> 0")
    share: float = setting(0.0, "", "in [0, 1)")
    most: int | None = setting(None, "", ">= 2")
    width: int = setting(None, "", ">= 1")
    tied: bool = True
    path: str = "x"
    names: tuple[str, ...] | str = ()
    inner: Inner = nested(Inner, steps=20)


@dataclasses.dataclass(frozen=True)
class Settings(Base):
    size: int = 8


WRONG = [
    ({"size": 0}, "size must be an integer >= 1, got 0"),
    ({"size": 2.0}, "size must be an integer >= 1, got 2.0"),
    ({"rate": 0}, "rate must be a number > 0, got 0"),
    ({"rate": "9" * 99}, "rate must be a number > 0, got '" + "9" * 59),
    ({"share": 1}, "share must be in [0, 1), got 1"),
    ({"most": 1}, "most must be an integer >= 2 or None, got 1"),
    ({"tied": 1}, "tied must be true or false, got 1"),
    ({"path": 3}, "path must be a text, got 3"),
    ({"names": ("a", 3)}, "names must be a list of names or a text, got ('a', 3)"),
    ({"inner": {"kind": "odd"}}, "kind must be one of plain, fancy, got 'odd'"),
    ({"inner": {"steps": "1"}}, "steps must be an integer >= 1, got '1'"),
    ({"inner": 3}, "the settings of Inner must be an object, got 3"),
    ({"sizes": 3, "other": 1}, "unknown setting other, sizes; Settings has inner, most, names, path, rate, share, "),
    ([], "the settings of Settings must be an object, got []"),
]


@pytest.mark.parametrize(("values", "words"), WRONG)
def test_a_wrong_setting_is_named(values, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        from_json(Settings, values)


def test_missing_settings_have_their_defaults():
    config = Settings(size=3, rate=2, share=0, most=2, width=5, names=("a",), inner=Inner(steps=1))
    assert from_json(Settings, dataclasses.asdict(config)) == config
    assert from_json(Settings, {"inner": {"kind": "fancy"}}) == Settings(inner=Inner(20, "fancy"))


def test_another_default_keeps_what_was_declared():
    assert declared(Settings, "size") == {"help": "items", "range": ">= 1", "metavar": "SIZE"}


def outside(declared_range):
    """A number that the range leaves out.

    >>> outside(">= 1"), outside("> 0"), outside("in [0, 1)"), outside("in [0, 0.5]"), outside("")
    (0.0, 0.0, 1.0, 1.5, nan)
    """
    if not declared_range:
        return math.nan
    if not declared_range.startswith("in "):
        return float(declared_range.split()[1]) - (">=" in declared_range)
    return float(declared_range[:-1].split()[-1]) + declared_range.endswith("]")


def settings_below(base):
    return [found for each in base.__subclasses__() for found in (each, *settings_below(each))]


for module in ("classification", "dpo", "grpo", "lora", "ppo", "reward"):
    importlib.import_module(f"finetune.stages.{module}")  # these import all others
OURS = [each for each in settings_below(Checked) if each.__module__ != __name__ and dataclasses.is_dataclass(each)]


@pytest.mark.parametrize("config", OURS, ids=lambda config: config.__name__)
def test_all_settings_are_checked(config):
    required = {"stage": None, "settings": {}} if config is RunState else {}
    for field in dataclasses.fields(config):
        kind = str(field.type).split(" | ")[0]
        more = declared(config, field.name)
        wrong = [[object()]] if kind in KINDS else []
        if kind in ("int", "float"):
            beyond = outside(more.get("range", ">= 0" if kind == "int" else ""))
            wrong += [True, int(beyond), 2.0] if kind == "int" else [True, beyond]
        wrong += [("none of them",) if kind.startswith("tuple") else "none of them"] if "choices" in more else []
        for value in wrong:
            with pytest.raises(ValueError, match=f"^{field.name} must be "):
                config(**{**required, field.name: value})
