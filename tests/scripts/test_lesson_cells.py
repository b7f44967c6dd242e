"""Reading the cells of a lesson, running them, and figures that were measured before."""

import ast
import hashlib
import inspect
import re
import sys

import pytest

from scripts import lesson as lesson_script
from scripts.benchmarks import race
from scripts.course import pictures
from scripts.course.lessons.cells import Cell, Running, lessons, read_cells
from tests.helpers import change_json, read_json
from tests.scripts.test_lessons import LESSONS, ROOT

LESSON = '''\
"""Lesson 9.9.9: a title

The introduction names gpt/model/gpt2.py.
"""

from __future__ import annotations

from minigrad import Tensor
from minigrad.inspection import draw
from scripts.course.pictures import Lesson

lesson = Lesson("999_title", __doc__)

# %% [markdown]
# ## A heading
#
# Some *prose*.
#
# Predict: what is <1 + 1>? See [the model](../../gpt/model/gpt2.py).

# %%
print("secret <b>")
with lesson.picture("dots", "Two dots & more") as axes:
    axes.plot([1, 2], "o")
print("after the picture")
1 + 1

# %% [markdown]
# Answer: hidden.
#
# Shown again: `python scripts/exercise.py start softmax`, `python scripts/break.py no_mask`.

# %% A tensor
# More *prose*,
# in two lines.

# A comment of the code.
def f(y: Undefined) -> Undefined:
    return 1 / y


x = Tensor([1.0, 2.0], requires_grad=True)
x

# %% A graph
draw(x * x)

# %% [markdown]
# ## What next
'''


def write(folder, text=LESSON):
    path = folder / "999_title.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_cells_are_read_in_order(tmp_path):
    cells = read_cells(write(tmp_path))
    assert [cell.kind[0] for cell in cells] == ["p", "c", "p", "c", "p", "p", "c", "p", "c", "p"]
    assert cells[0].text == "# Lesson 9.9.9: a title\n\nThe introduction names gpt/model/gpt2.py."
    assert cells[2].paragraphs()[:2] == ["## A heading", "Some *prose*."]
    assert cells[5].paragraphs() == ["## A tensor", "More *prose*,\nin two lines."]
    for cell in cells:
        if cell.kind == "code":
            assert LESSON.splitlines()[cell.line - 1] == cell.text.splitlines()[0]


def test_cells_run_as_one_file_whose_lines_keep_their_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    path = write(tmp_path)
    options = ["--out-dir", str(tmp_path / "out")]
    running = Running(path, options)
    values = [running.execute(cell) for cell in read_cells(path) if cell.kind == "code"]
    assert values[:2] == [None, 2] and values[2] is running.module.x
    assert capsys.readouterr().out.startswith("secret <b>\npicture: ")
    assert sys.argv == [str(path), *options]
    with pytest.raises(ZeroDivisionError) as caught:
        running.module.f(0)
    last = caught.traceback[-1]
    assert str(last.path) == str(path) and "return 1 / y" in LESSON.splitlines()[last.lineno]


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("# Answer: hidden.", "# It is two.", "the last Predict: has no Answer:"),
        ("# Predict: what", "# What", "Answer: to nothing"),
        ("# Some *prose*.", "# Predict: a?", "before the last question was answered"),
        ("# Some *prose*.", "x = 2", "999_title.py:17: a [markdown] cell has comment lines only"),
        ('"""Lesson 9.9.9: a title\n\nThe introduction names gpt/model/gpt2.py.\n"""', "", "no docstring"),
    ],
)
def test_a_badly_written_lesson_is_refused(tmp_path, old, new, problem):
    assert old in LESSON
    with pytest.raises(ValueError) as caught:
        read_cells(write(tmp_path, LESSON.replace(old, new)))
    assert problem in str(caught.value)


@pytest.mark.parametrize("name", LESSONS)
def test_every_lesson_is_well_written(name):
    cells = read_cells(ROOT / "scripts" / "course" / "lessons" / f"{name}.py")
    assert cells[0].text.startswith("# Lesson ") or name == "00_gradients"
    assert "## What next" in cells[-1].text
    assert any(p.startswith("Predict:") for cell in cells if cell.kind == "prose" for p in cell.paragraphs())
    what_next = re.findall(r"^- (\w+): ((?:.|\n  )+)", cells[-1].text, re.MULTILINE)
    assert "exercise" in dict(what_next)
    for kind, text in what_next:
        assert kind in ("exercise", "read", "try", "break", "lesson")
        assert ("Expect:" in text) == (kind in ("try", "break")), text
    code = "\n".join(cell.text for cell in cells if cell.kind == "code")
    assert f'Lesson("{name}", __doc__)' in code


def test_the_terminal_shows_prose_and_waits_for_a_guess(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", asked.append)
    monkeypatch.setattr(sys, "argv", [])
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    path = write(tmp_path)
    lesson_script.show(Running(path, ["--out-dir", str(tmp_path / "out")]), read_cells(path))
    shown = capsys.readouterr().out
    order = ["Lesson 9.9.9: a title\n=====", "A heading\n---------", "Predict:", "\nafter the picture\n", "\n2\n"]
    order.append("Answer: ")
    places = [shown.index(part) for part in order]
    assert places == sorted(places) and len(asked) == 5  # before each of four sections, and after the question
    lines = path.read_text(encoding="utf-8").splitlines()
    numbered = [line.partition(" | ") for line in shown.splitlines() if " | " in line]
    assert len(numbered) > 3 and all(lines[int(number) - 1] == text for number, _, text in numbered)


@pytest.mark.parametrize("columns", [40, 100])
def test_prose_wraps_between_words_in_a_terminal(columns):
    for path in lessons():
        for cell in read_cells(path):
            for paragraph in cell.paragraphs() if cell.kind == "prose" else []:
                made = lesson_script.wrapped(paragraph, columns)
                assert re.findall(r"\w+", made) == re.findall(r"\w+", paragraph)
                for line in made.splitlines():
                    kept = line.startswith(("|", "    ")) or len(line.split()) < 3
                    assert len(line) <= columns or kept, line
    assert lesson_script.wrapped("- a b\n- c\n  d", 5) == "- a b\n- c d"
    assert lesson_script.wrapped("- aa bb", 5) == "- aa\n  bb"


def test_code_wraps_behind_its_numbers():
    assert lesson_script.numbered(12, "", 80) == ["  12 |"]
    made = lesson_script.numbered(12, "    x = f(a,  b) + " + "g(c) + " * 5, 40)
    assert made[0].startswith("  12 |     x = f(a,  b)")
    assert all(line.startswith("     |         g") for line in made[1:])
    assert max(map(len, made)) <= 40


@pytest.mark.parametrize(
    "code, purpose",
    [
        ("print(x)", "print"),
        ("for n in x:\n    print(n)\n    assert n", "check"),
        ("with no_grad():\n    y = f(x)\n    assert y", ""),
        ("with lesson.picture('a', 'b') as axes:\n    z = 1\n    axes.plot(z)", "plot"),
        ("lesson.widget('gpt', data)", "plot"),
        ("lesson.measured('gpt', f)", ""),
        ("if x:\n    print(x)\nelse:\n    y = 1", ""),
        ("x = print(1)", ""),
    ],
)
def test_what_a_statement_is_for(code, purpose):
    assert Cell("code", code, 1).purpose() == purpose


RATES = (1, 2.5)


def measure():
    return {"seconds": [*RATES]}


def helper():
    """A function that another table uses."""


def test_figures_are_kept_until_their_function_changes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "MEASURED", tmp_path / "measured")
    monkeypatch.setattr(pictures.np, "set_printoptions", lambda **_: None)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # of other tests: this is no notebook

    def lesson(*arguments):
        monkeypatch.setattr(sys, "argv", ["999_title.py", "--out-dir", str(tmp_path / "out"), *arguments])
        return pictures.Lesson("999_title", "title")

    with pytest.raises(ValueError, match="nothing has measured figures yet: python scripts/lesson.py 999 --measure"):
        lesson().measured("figures", measure)
    assert lesson("--measure").measured("figures", measure) == measure()
    assert lesson().measured("figures", measure) == measure()
    assert "to measure it again: python scripts/lesson.py 999 --measure" in capsys.readouterr().out
    change_json(tmp_path / "measured" / "999_title_figures.json", code="another")
    with pytest.raises(ValueError, match="measure changed after 999_title_figures.json was measured"):
        lesson().measured("figures", measure)
    lesson("--measure").measured("figures", measure)
    with pytest.raises(ValueError, match="measure, helper changed after"):
        lesson().measured("figures", measure, helper)
    monkeypatch.setattr(sys.modules[__name__], "RATES", (1, 3))
    with pytest.raises(ValueError, match="RATES changed after"):
        lesson().measured("figures", measure)


def test_measured_tables_are_of_the_functions_as_they_are():
    found = set()
    for path in lessons():
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        functions = {node.name: ast.get_source_segment(source, node) + "\n" for node in tree.body
                     if isinstance(node, ast.FunctionDef)}  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "measured":
                name, *used = node.args
                parts = [functions[one.id] if isinstance(one, ast.Name) else inspect.getsource(getattr(race, one.attr))
                         for one in used]  # fmt: skip
                code = hashlib.sha256("".join(parts).encode()).hexdigest()
                kept = pictures.MEASURED / f"{path.stem}_{name.value}.json"
                assert read_json(kept)["code"] == code, kept.name
                found.add(kept)
    assert found == set(pictures.MEASURED.glob("*.json"))
