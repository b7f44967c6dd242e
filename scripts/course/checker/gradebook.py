"""Marks as files: an assignment's weights, marks.csv, grades.csv for Canvas and Moodle, results.json for Gradescope.

Students may read results.json while the assignment is open, and hand in again. In an assessment it therefore contains
no case, no reason, and nothing that the submission itself says, because that could be a case that it was given.
"""

from __future__ import annotations

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


def weighted(verdicts: Mapping[str, Verdict], weights: Weights) -> dict[str, float]:
    """The points of each exercise of an assignment."""
    return {name: points(verdicts[name]) * weight for name, weight in weights.items()}


# --- what the teacher reads -------------------------------------------------------------------------------------------


def tables(results: Results, weights: Weights) -> dict[str, str]:
    """marks.csv and grades.csv by name: a row for each student, with the points of each exercise and their sum.

    marks.csv also has the points of an exercise's parts, and what is wrong. The columns of grades.csv are Canvas'.
    """
    parts = {name: [part for part in PARTS if any(part in v[name].parts for v in results.values())]
             for name in weights}  # fmt: skip
    marks: list[dict[str, Any]] = []
    grades: list[dict[str, Any]] = []
    for who, verdicts in results.items():
        row: dict[str, Any] = {"student": _cell(who)}
        scores = weighted(verdicts, weights)
        total, most = sum(scores.values()), sum(weights.values())
        for name, score in scores.items():
            row[name] = amount(score)
            row |= {f"{name}_{p}": int(verdicts[name].parts.get(p, 0)) if row[name] else "" for p in parts[name]}
        row |= {"points": amount(total), "of": amount(most), "percent": amount(float(f"{100 * total / most:.3g}"))}
        for name, verdict in verdicts.items():
            said = verdict.status if verdict.passed else f"{verdict.status}: {verdict.diagnosis}"
            row[f"{name}_verdict"] = _cell(" ".join(said.split()))
        marks.append(row)
        known = {"Student": _cell(who), "ID": "", "SIS Login ID": _cell(who), "Section": ""}
        grades.append(known | {name: row[name] for name in weights} | {"Total": row["points"]})
    return {"marks.csv": _csv(marks), "grades.csv": _csv(grades)}


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


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


def results_json(verdicts: Mapping[str, Verdict], weights: Weights) -> str:
    """results.json, as https://gradescope-autograders.readthedocs.io/en/latest/specs/ has it."""
    shared = {"output_format": "text", "visibility": "visible"}
    scores = weighted(verdicts, weights)
    marked = []
    for name, weight in weights.items():
        status = "passed" if verdicts[name].passed else "failed"
        marked.append({"name": name, **scored(scores[name]), "max_score": weight, "status": status,
                       "output": "\n\n".join(feedback(verdicts[name], weight)), **shared})  # fmt: skip
    said = f"{sum(verdict.passed for verdict in verdicts.values())} of {len(marked)} passed"
    return json.dumps({**scored(sum(scores.values())), "output": said, **shared, "tests": marked}, indent=1)


def scored(number: float) -> dict[str, float]:
    """A score as an entry; none where a person has to grade."""
    return {} if math.isnan(number) else {"score": round(number, 3)}
