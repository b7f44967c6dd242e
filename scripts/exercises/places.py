"""How a learner's part gets into the GPT: as the kernel of an op, or in the place of a function of the library."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Kernel:
    """`use_kernels({op: what the learner wrote as `name`})`. adapt: to the arguments that the library's op gets.

    takes: ops that have to be taken apart for this one to be used (in_gpt.APART).
    """

    op: str
    name: str
    adapt: Callable[[Any], Any] = lambda written: written
    takes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Patch:
    """Another function in the place of library objects, named with dots. adapt: definitions -> what stands there."""

    targets: tuple[str, ...]
    adapt: Callable[[dict[str, Any]], Any]
