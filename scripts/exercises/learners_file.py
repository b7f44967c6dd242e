"""The beginning of the file that a learner gets for an exercise."""

from __future__ import annotations

NUMPY = "import numpy as np"
OP = f"{NUMPY}\n\nfrom minigrad.autograd import Function"


def beginning(statement: str | None, *imports: str) -> str:
    """The exercise's statement, which is the docstring of its own file, and the imports that the learner needs.

    An exercise puts its unfinished functions and classes behind it.
    """
    return "\n\n".join([f'"""{statement}"""', *imports]) + "\n\n"
