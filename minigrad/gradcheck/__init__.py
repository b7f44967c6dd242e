"""Is a gradient right, and if not, what is wrong with it?

check.py             the formula as a loop; gradcheck: compare backward with finite differences
differences.py       the Jacobian by columns: move the inputs, and see how the outputs move; kinks and rounding
vjp.py               the Jacobian by rows: the function under test, and what its backward computes
comparison.py        where do the two differ, and is the difference a mistake?
report.py            the result: a report, or an error that shows the wrong number
diagnosis.py         find out what is wrong by trying: sign, factor, transposition, a missing sum, ...
shape_diagnosis.py   a gradient of the wrong shape: which change would make it fit?
source_repair.py     which small change of an op's source would make its gradient right?
mutations.py         every small mistake that somebody might make in a formula, one after the other
"""

from .check import gradcheck
from .report import GradcheckError

__all__ = ["GradcheckError", "gradcheck"]
