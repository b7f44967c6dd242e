"""Why a result is wrong: the explanations in the order in which they are believed.

The first of these that holds is the reason. Its kind is in brackets:

     1. The learner's code draws random numbers [random].
     2. The exercise's own check remarks on the run, beside the results [remark].
     3. A slip that the exercise names gives the learner's results [slip].
     4. gradcheck is certain that a gradient is cut off [gradcheck].
     5. A change of the right solution that people often make gives the learner's results (searching.py) [changes].
     6. The exercise's own check puts a sentence in place of a result [remark].
     7. A change of the learner's file makes it right (repairing.py) [repair].
     8. A rare change of the right solution gives the learner's results; tried only where 7 finds nothing [changes].
     9. The file is right when it runs for the first time [remembers].
    10. gradcheck has another diagnosis, not one of VAGUE [gradcheck].
    11. A right solution's value in the place of one statement's makes the file right (grafting.py) [graft].
    12. Two changes of the learner's file make it right [repair].
    13. What is left is where the numbers differ, and the right step that the learner lacks (steps.py) [finding].

A vague diagnosis is better than a wrong one: each must hold in all cases that are tried. The reason is data; words.py
makes a sentence of it.
"""

import copy
import inspect
import itertools
import re
from typing import Any, NamedTuple

from minigrad import Tensor
from minigrad.gradcheck.check import GradcheckError, gradcheck
from minigrad.gradcheck.diagnosis import Diagnosis

from .checks import Case
from .grafting import graft
from .repairing import Repairs
from .searching import Search
from .steps import Apart, Runs, stands
from .trial import Finding, Trial

MOST_STEPPED = 2  # wrong cases, besides the one that is looked at, whose steps are compared
VAGUE = {"", "partial", "incomplete", "unknown", "source", "shape", "factor"}  # too vague to show alone


class Reason(NamedTuple):
    """Why a result is wrong.

    case: the case in which it is shown. line: of the learner's file. step: the first right one that the learner lacks.

    kind         fact
    "random"     None
    "remark"     a sentence of the exercise's check
    "slip"       a sentence of the exercise
    "changes"    a list of changes of the right solution
    "repair"     a list of changes of the learner's file
    "remembers"  None: something is kept from one call to the next
    "graft"      a Graft: where the value of a right step belongs
    "gradcheck"  the gradient's name, and a Diagnosis
    "finding"    None: how the results differ is the diagnosis
    """

    kind: str
    case: Case
    fact: Any = None
    line: int | None = None
    step: Apart | None = None


def reason(trial: Trial, found: Finding, case: Case, first: Finding | None, witnesses: list[Case]) -> Reason:
    """The first explanation that holds, in the order above.

    found: what is wrong in `case`. case: the smallest case that fails. first: what is wrong in the telling case, which
    the exercise's author chose to show mistakes (`trial.check.telling`); None if nothing is. witnesses: cases in which
    an explanation must hold as well.
    """
    # Random numbers: it runs, and does not without them. Otherwise it is only prepared to draw some.
    without = re.sub(r"\brandom\b", "no_random", trial.text)
    if (
        without != trial.text
        and found.kind != "error"
        and trial.recorded(without, case, trial.douts(case), 0)[0].raised
    ):
        return Reason("random", case)

    # A remark that a check's `call` appends to the results, where those of the right solution end with None. In the
    # exercise `walk`, right is [1.0, 2.0, None], and results is [1.0, 2.0, "a node hands its gradient on before ..."].
    right: Any = found.shown.get("right")
    results = found.answer.value
    has_remarks = isinstance(right, list) and len(right) > 0
    if has_remarks and right[-1] is None and results[-1]:
        return Reason("remark", case, results[-1])

    # A slip that the exercise names. It comes before gradcheck, and is returned below, with its line.
    # The first case must fit. It is the telling one, which the witnesses begin with, or `case` if that one is right.
    cases = [case, *witnesses] if first is None else witnesses
    search = Search(trial, found, cases)
    explanation = search.slip()

    # What gradcheck knows for certain.
    gradient = ""
    diagnosis = Diagnosis("", "")
    if explanation is None and first is not None and first.where.startswith("backward"):
        gradient, diagnosis = ask_gradcheck(trial, first, trial.check.telling)
    if diagnosis.kind == "cut off":
        return Reason("gradcheck", case_of_gradcheck(trial, found, case, diagnosis), (gradient, diagnosis))

    # A change of the right solution that people often make; or what a check's `call` says in place of the result.
    # In the exercise `online_softmax`, right is ["in tiles", an array], and results is [a sentence, an array].
    if explanation is None:
        explanation = search.changes(usual=True)
    if explanation is None and has_remarks and isinstance(right[found.number], str):
        return Reason("remark", case, results[found.number])

    # A change of the learner's file. Steps are compared in the telling case, if it shows the same.
    seen, seen_case = found, case
    if first is not None and (first.where, first.gradient) == (found.where, found.gradient):
        seen = first
        seen_case = trial.check.telling
    runs = Runs(trial, seen_case, search.is_backward)
    repairs = Repairs(runs, seen, witnesses)
    is_right_at_first = repairs.is_right_at_first()
    repaired = None if is_right_at_first else repairs.change(runs)

    # A change of the right solution that people rarely make, only where no change of the file helps. 3, 5 and 8 return
    # together, below 7, which finds their line.
    if explanation is None and repaired is None:
        explanation = search.changes(usual=False)
    all_runs = [runs, *itertools.islice(repairs.other_runs(fails=True), MOST_STEPPED)]
    if explanation is not None:
        # a repair names the learner's own line, and so does a graft of the changed step (not of a slip)
        said = explanation.said
        kind, changed = ("slip", 0) if isinstance(said, str) else ("changes", said[0].line)
        known = repaired or graft(repairs, all_runs, changed)
        return Reason(kind, case, said, known and known.line)
    if repaired is not None:
        return Reason("repair", case, [repaired], repaired.line)

    # Something is remembered: in the recorded run, the first one, the file was right.
    if is_right_at_first:
        return Reason("remembers", case)

    # What else gradcheck says; then a value that makes it right.
    grafted = graft(repairs, all_runs)
    is_raised_elsewhere = grafted is not None and found.kind == "error" and grafted.line != found.answer.line
    is_of_dtype = found.difference is not None and found.difference.kind == "dtype"
    if is_raised_elsewhere or is_of_dtype:
        grafted = None  # it would hide what is known already
    line = grafted and grafted.line
    if diagnosis.kind not in VAGUE and found.kind != "error":
        return Reason("gradcheck", case_of_gradcheck(trial, found, case, diagnosis), (gradient, diagnosis), line)
    if grafted is not None:
        return Reason("graft", seen_case, grafted, line)

    # Two changes of the learner's file.
    if found.kind != "error" and (two := repairs.two_changes()):
        return Reason("repair", seen_case, two, two[0].line)

    # Nothing explains it. What is left says where the numbers differ, and how.
    step, step_case = first_lacking(all_runs)
    if step is None or found.kind == "error" or found.difference is not None and found.difference.says_what:
        return Reason("finding", case)
    line = next((mine.line for mine in runs.yours if mine.name == step.name != "return"), None)
    return Reason("finding", step_case, None, line, step)


def first_lacking(all_runs: list[Runs]) -> tuple[Apart | None, Case]:
    """The first right step that the learner lacks in any of some cases, and the case: elsewhere it may be there by
    chance. Not a step whose formula stands in the file: what goes into it is wrong. Nor one for which another case
    shows that the learner has another way. In a loop, what comes first in the text may be lacking from the second round
    on only, because of what comes after it.
    """
    replaced = set[int]().union(*(runs.replaced for runs in all_runs))
    lacking = []
    for runs in all_runs:
        steps = [step for step in runs.right if step.line not in replaced and not stands(runs.trial, step.line)]
        lacking += [(step, runs.case) for step in steps[:1]]  # the first one in time
    return min(lacking, key=lambda one: one[0].line, default=(None, all_runs[0].case))


def case_of_gradcheck(trial: Trial, found: Finding, case: Case, diagnosis: Diagnosis) -> Case:
    """The case that was found if gradcheck says the same there, else the telling one."""
    return case if ask_gradcheck(trial, found, case)[1].kind == diagnosis.kind else trial.check.telling


def ask_gradcheck(trial: Trial, first: Finding, case: Case) -> tuple[str, Diagnosis]:
    """The gradient that gradcheck finds wrong in a case, and its diagnosis; of the kind "" if it finds nothing."""
    wanted = [gradient is not None for gradient in trial.reference.run(case, trial.douts(case)).value]

    def fn(*tensors: Any) -> Any:
        return trial.written.apply(*tensors, **copy.deepcopy(case.options))

    names = trial.names[: len(case.arguments)]
    fn.__signature__ = inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names])  # type: ignore[attr-defined]
    inputs = [Tensor(a, requires_grad=True) if wanted[i] else a for i, a in enumerate(case.arguments)]
    try:
        gradcheck(fn, inputs)
    except GradcheckError as error:
        gradient = first.gradient if error.input_index is None else f"d{names[error.input_index]}"
        return gradient, error.diagnosis
    except Exception:
        return "", Diagnosis("", "")  # what the learner's code raised has been reported already
    return "", Diagnosis("", "")
