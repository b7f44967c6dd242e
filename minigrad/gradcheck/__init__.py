"""Is a gradient right, and if not, what is wrong with it?

    check.py             gradcheck: backward beside finite differences, and the report
    jacobian.py          the Jacobian of a function, found in two ways that know nothing of each other
    comparison.py        both side by side: is a difference rounding, a kink, or a wrong gradient?
    diagnosis.py         what is wrong, found by trying: sign, factor, transposition, a missing sum, ...
    shape_diagnosis.py   a gradient of the wrong shape: what would make it fit?
"""

from .check import GradcheckError, gradcheck

__all__ = ["GradcheckError", "gradcheck"]
