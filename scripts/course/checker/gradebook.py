"""Marks as files: an assignment's weights, marks.csv, and results.json for the teacher and for Gradescope.

Students may read Gradescope's results.json while the assignment is open, and hand in again. In an assessment it
therefore contains no case, no reason, and nothing that the submission itself says, because that could be a case that it
was given.
"""

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt.console import printable
from gpt.files import errors_at, read_text

from . import catalogue
from .checks import Verdict

PARTS = ("forward", "backward", "result", "extremes")
Results = dict[str, dict[str, Verdict]]  # by student and exercise
Weights = Mapping[str, float]  # by exercise: the points of a right solution


def read_assignment(file: Path, known: Mapping[str, Path]) -> dict[str, float]:
    """The weights in a text file with an exercise on each line: `softmax`, or `softmax 2`. "#" begins a comment."""
    weights: dict[str, float] = {}
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not (text := printable(line).partition("#")[0].strip()):
            continue
        match = re.fullmatch(r"(\S+)(?:\s+(\d{1,4}(?:\.\d+)?))?", text)
        with errors_at(f"{file}, line {number}"):
            if match is None or (weight := float(match[2] or 1)) == 0:
                raise ValueError(f"{text!r} is not an exercise with or without a weight above 0, such as `softmax 2`")
            catalogue.path_of(match[1], known)
            if match[1] in weights:
                raise ValueError(f"{match[1]} is listed twice: remove one")
            weights[match[1]] = weight
    if not weights:
        raise ValueError(f"{file} names no exercise: write one on each line, for example `softmax 2`")
    return weights


def points(verdict: Verdict) -> float:
    """1 for a file that passed; else the share of its parts (forward, backward, ...) that are right. nan where the
    checker itself failed: a person has to grade it.
    """
    if verdict.status == "unjudged":
        return math.nan
    return 1.0 if verdict.passed else sum(verdict.parts.values()) / max(len(verdict.parts), 1)


def scored(number: float) -> dict[str, float]:
    """A score as an entry of a JSON object; none where a person has to grade."""
    return {} if math.isnan(number) else {"score": round(number, 3)}


# --- what the teacher reads -------------------------------------------------------------------------------------------


def marks_csv(results: Results, weights: Weights) -> str:
    """marks.csv: a row for each student, with the points of each exercise and their sum.

    The columns are those that Canvas imports; ID and Section may be empty, but must be there: see header? in
    https://github.com/instructure/canvas-lms/blob/master/lib/gradebook_importer.rb. Moodle asks what each column of a
    file is: https://docs.moodle.org/en/Grade_import.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["Student", "ID", "SIS Login ID", "Section", *weights, "Total"])
    for who, verdicts in results.items():
        scores = [points(verdicts[name]) * weight for name, weight in weights.items()]
        table.writerow([_cell(who), "", _cell(who), "", *map(amount, scores), amount(sum(scores))])
    return text.getvalue()


def results_json(results: Results, weights: Weights) -> str:
    """results.json: all verdicts, by student and exercise, each with its points."""
    rows: dict[str, Any] = {}
    for who, verdicts in results.items():
        rows[who] = {name: scored(points(v) * weights[name]) | v.facts() for name, v in verdicts.items()}
    return json.dumps(rows, indent=1)


def _cell(text: str) -> str:
    """A text as a cell, quoted where a spreadsheet would take it for a formula."""
    text = plain(text)
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t") else text


def amount(number: float) -> str:
    """
    >>> amount(2), amount(1 / 3), amount(1200.5), amount(math.nan)
    ('2', '0.333', '1200.5', '')
    """
    return "" if math.isnan(number) else f"{round(number, 3):.12g}"


def plain(text: str) -> str:
    """The text without control characters and without what UTF-8 cannot hold, which names of folders may have."""
    return printable(text.encode("utf-8", "replace").decode())


# --- what the student reads -------------------------------------------------------------------------------------------


def withheld(verdict: Verdict) -> Verdict:
    """The verdict of an assessment while students can still hand in: what is wrong, but neither the case nor why."""
    if verdict.passed or verdict.status in ("missing", "syntax"):  # the file has not seen a case
        return verdict
    sentence = f"{verdict.status} (an assessment shows no case and no reason)"
    return Verdict(verdict.status, verdict.where, sentence, parts=verdict.parts)


def feedback(verdict: Verdict, weight: float) -> list[str]:
    """What a student reads about an exercise: sentences, and blocks of lines that begin with a heading."""
    if verdict.passed:
        return [f"Right in all {verdict.cases} cases."]
    texts = [f"{verdict.where}: {verdict.diagnosis}"]
    if verdict.parts:
        parts = [f"{part} {'right' if verdict.parts[part] else 'wrong'}" for part in PARTS if part in verdict.parts]
        most = f"{amount(weight)} point{'s' * (weight != 1)}"
        texts.append(f"{amount(points(verdict) * weight)} of {most}: {', '.join(parts)}.")
    blocks = {f"Line {verdict.line}": verdict.code, "A small case that fails": verdict.details,
              "It prints": "\n".join(verdict.printed)}  # fmt: skip
    texts += [f"{heading}:\n{block}" for heading, block in blocks.items() if block]
    return list(map(plain, texts))


def gradescope_json(verdicts: Mapping[str, Verdict], weights: Weights) -> str:
    """A student's results.json, as https://gradescope-autograders.readthedocs.io/en/latest/specs/ has it.

    Gradescope adds up the scores, and a test has passed if it has the highest one.
    """
    marked = []
    for name, weight in weights.items():
        output = {"output": "\n\n".join(feedback(verdicts[name], weight)), "output_format": "text"}
        marked.append({"name": name, "max_score": weight, **output, **scored(points(verdicts[name]) * weight)})
    return json.dumps({"tests": marked}, indent=1)
