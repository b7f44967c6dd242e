"""What gradcheck tells: a report if nothing is wrong, a GradcheckError otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..backend import Array
from ..notebook import report_html
from .comparison import Kink
from .diagnosis import Diagnosis

_BANDS = [(1e-2, "wrong"), (1e-4, "suspicious"), (1e-7, "high, unless there are kinks"), (0.0, "right")]


def band(error: float) -> str:
    """What a relative error in float64 means: the bands of Stanford's CS231n, "Gradient checks".

    >>> band(2.0), band(3e-9)
    ('wrong', 'right')
    """
    return next((words for limit, words in _BANDS if error >= limit), "wrong")  # nan is wrong too


class GradcheckError(AssertionError):
    """A gradient is wrong, or cannot be checked; `diagnosis` says why.

    If a single number is wrong, the attributes locate it: `analytic` and `numeric` are the derivatives of
    `output_element` (None: a random mixture of the elements) of output `output_index` with respect to `element` of
    input `input_index`.
    """

    def __init__(self, message: str, diagnosis: Diagnosis):
        super().__init__(message)
        self.diagnosis = diagnosis
        self.input_index: int | None = None
        self.element: tuple[int, ...] | None = None
        self.output_index: int | None = None
        self.output_element: tuple[int, ...] | None = None
        self.analytic: float | None = None
        self.numeric: float | None = None
        self.relative_error: float | None = None


@dataclass
class InputReport:
    """One input: its largest relative error, and the rows (R, *shape) of both Jacobians.

    `numeric` is None if the input is so large that only random directions were checked.
    """

    name: str
    shape: tuple[int, ...]
    checked: str
    max_error: float
    analytic: Array
    numeric: Array | None


@dataclass
class Report:
    """The result of a check that found nothing wrong."""

    name: str
    method: str
    inputs: list[InputReport]
    kinks: list[Kink] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def max_error(self) -> float:
        """The largest relative error of all inputs."""
        return max((x.max_error for x in self.inputs), default=0.0)

    def __str__(self) -> str:
        method = "complex step" if self.method == "complex" else "central differences"
        lines = [
            f"gradcheck of {self.name}: largest relative error {self.max_error:.1e} ({band(self.max_error)}), {method}"
        ]
        lines += [f"  {x.name} {x.shape}: {x.checked}, {x.max_error:.1e}" for x in self.inputs]
        lines += [f"  {kink}" for kink in self.kinks[:5]]
        if len(self.kinks) > 5:
            lines.append(f"  and {len(self.kinks) - 5} more kinks")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        """For notebooks."""
        return report_html(self)
