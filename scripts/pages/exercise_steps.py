"""A learner's file and a right solution in the debugger, side by side, in the smallest case that fails."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from minigrad.inspection.line_recorder import MOST_MOMENTS, LineRecorder
from scripts.course.checker import judging, source
from scripts.course.checker.checks import Exercise, Verdict
from scripts.pages.stepping import FILES, PACKAGES, debugger_data
from scripts.shared.web_page import page_of_data

SOLUTION = Path("a right solution")


def exercise_page(exercise: Exercise, verdict: Verdict, path: Path, is_beside: bool = True) -> str:
    """The page of a verdict. is_beside: with a right solution (Workspace.withheld has the rule).

    Raises ValueError where there is nothing to step through.
    """
    if verdict.shown is None and not verdict.passed:
        raise ValueError(f"there is no case to step through yet: {verdict.diagnosis}")
    check, case, douts = verdict.shown or (exercise.checks[0], exercise.checks[0].telling, None)
    whole = next(each for each in exercise.checks if each.name == check.name)  # with its `call`
    text, _ = source.read(path.read_bytes(), path)  # as the checker reads it
    mine = recorded(path, text, whole, case, douts)
    data = debugger_data(mine)
    if not is_beside:
        return page_of_data(FILES, f"{exercise.name}: your lines", data)
    right = recorded(SOLUTION, exercise.completed(), whole, case, douts)
    places, differs, name = beside(mine, right)
    before = [line for call, line, *_ in mine.moments[: differs or 0] if call == mine.moments[differs or 0][0]]
    line = before[-1] if before else None  # of the same call, which made the difference
    more = {"recording": debugger_data(right), "places": places, "differs": differs, "line": line, "name": name}
    return page_of_data(FILES, f"{exercise.name}: your lines beside right ones", data | {"beside": more})


def recorded(path: Path, text: str, check: Any, case: Any, douts: Any) -> LineRecorder:
    """A file's functions, recorded as they run in a case. What they raise ends the recording."""
    definitions, problem = source.define(text, path)
    if problem is not None:
        raise ValueError(problem.diagnosis)
    recorder = LineRecorder(str(path), PACKAGES, {str(path): text})
    with recorder.tracing():
        judging.run_once(check, case, douts, definitions)
    if len(recorder.moments) == MOST_MOMENTS:
        raise ValueError(f"{path.name} runs over {MOST_MOMENTS:,} lines in this case: is there a loop that never ends?")
    return recorder


def beside(mine: LineRecorder, right: LineRecorder) -> tuple[list[int], int | None, str]:
    """For each of my moments the right one at the same point; my first one in which a name holds something else; it.

    Points are the same where the same name of the same function gets a value for the same time.
    """
    points: dict[Any, tuple[int, int]] = {}
    for i, key, value in assignments(right):
        points.setdefault(key, (i, value))
    places = [0] * len(mine.moments)
    place = 0
    differs = None
    name = ""
    found = {}
    for i, key, value in assignments(mine):
        if key in points:
            found[i] = points[key][0]
            if differs is None and not alike(mine, value, right, points[key][1]):
                differs = i
                name = "returns" if key[1] == "return" else key[1]
    for i in range(len(mine.moments)):
        place = places[i] = found.get(i, place)
    return places, differs, name


def assignments(recorder: LineRecorder) -> Any:
    """(moment, (function, name, how many times before), value) for each name that got a value, or was returned."""
    counts: Counter[Any] = Counter()
    for i, (call, _, changes, *returned) in enumerate(recorder.moments):
        function = recorder.calls[call]["name"]
        for name, value in [*changes.items(), *(("return", value) for value in returned)]:
            counts[function, name] += 1
            yield i, (function, name, counts[function, name]), value


def alike(mine: LineRecorder, value: int, right: LineRecorder, other: int) -> bool:
    """Whether two values are the same, as far as a debugger shows them."""
    if -1 in (value, other):
        return value == other
    one, two = mine.values[value], right.values[other]
    if "array" in one and "array" in two:
        a, b = mine.contents[one["array"]], right.contents[two["array"]]
        return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
    if "parts" in one and "parts" in two:
        return all(alike(mine, one["parts"][k], right, two["parts"][k]) for k in one["parts"].keys() & two["parts"])
    return one.get("text") == two.get("text") or "text" not in one or "text" not in two
