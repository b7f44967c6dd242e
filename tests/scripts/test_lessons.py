"""The lessons run to their end, and the concept table tells the truth."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpt.files import read_text, write_text
from scripts import lesson
from scripts.course.lessons.concepts import Place, abilities, concepts, exercises, mental_models
from scripts.course.pictures import heatmap, picture
from tests.scripts.running import ROOT, output_of, run_process

LESSONS = sorted(path.stem for path in (ROOT / "scripts" / "course" / "lessons").glob("[0-9]*.py"))
EXERCISES = {path.stem.partition("_")[2] for path in (ROOT / "scripts" / "course" / "exercises").glob("[0-9]*.py")}
BRIDGES = {"00_gradients", "01_learning", "414_context"}  # what the course takes for granted: no rows of their own
PER_MODULE = {"41": 13, "42": 25, "43": 21, "44": 33, "45": 23}  # rows of the concept lists


@pytest.mark.parametrize("number, name", [("0.0", "00_gradients"), ("4.2.1", "421_raw_attention")])
def test_a_lesson_is_run_by_its_number_with_its_prose(number, name, tmp_path):
    """All of them: test_every_lesson_becomes_a_page_that_works."""
    output = output_of(lesson.main, number, "--out-dir", tmp_path)
    assert output.startswith("\nLesson ") and "\nWhat next\n---------\n" in output
    assert (tmp_path / name / "done.txt").exists()
    for path in re.findall(r"^picture: (.+?) \(", output, re.MULTILINE):
        assert Path(path).stat().st_size > 5000


def test_a_file_run_directly_prints_the_output_of_its_code(tmp_path):
    done = run_process("course/lessons/00_gradients", "--out-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "picture: " in done.stdout and "What next" not in done.stdout


def test_a_lesson_runs_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with picture(tmp_path, "x", "title", columns=2) as (left, right):
        heatmap(left, [[1.0, 2.0]], ["a"], ["b", "c"])
        right.plot([1, 2])
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_axes_get_a_legend_where_something_has_a_label(tmp_path):
    with picture(tmp_path, "x", "title", columns=2) as (left, right):
        left.plot([1, 2], label="a line")
        right.plot([1, 2])
    assert left.get_legend() is not None and right.get_legend() is None


# The concept table.


def test_every_concept_of_the_course_has_a_row():
    rows = concepts()
    assert len(rows) == sum(PER_MODULE.values()) == 85 + 30
    assert len({row.name for row in rows}) == len(rows)
    assert {row.lesson for row in rows} >= {f"{name}.py" for name in LESSONS if name not in BRIDGES}
    assert all(row.tests for row in rows)
    assert abilities().keys() == {f"{name}.py" for name in LESSONS}
    for module, count in PER_MODULE.items():
        assert sum(row.lesson.startswith(module) for row in rows) == count


def test_the_table_names_what_exists():
    for row in concepts():
        for place in row.code + row.tests:
            assert place.line() is not None, place
        assert row.exercise in ["", *exercises(ROOT / "scripts" / "course" / "lessons" / row.lesson)], row


def test_a_name_that_is_not_there_is_noticed():
    assert Place("gpt/model/gpt2.py", "GPT.forward").line() > Place("gpt/model/gpt2.py", "GPT").line() > 1
    assert Place("gpt/model/gpt2.py", "gpt2.py").line() == 1
    for wrong in ("Gpt", "GPT.backward", "forward"):
        assert Place("gpt/model/gpt2.py", wrong).line() is None


def test_every_mental_model_is_shown_by_an_assertion_of_a_lesson():
    models = mental_models()
    assert len(models) == len({model.sentence for model in models}) == 42
    for model in models:
        assert model.shown_by.startswith("assert "), model
        assert len(model.lines()) == 1, model
    assert not models[0]._replace(shown_by="assert True").lines()


def test_lessons_send_to_bugs_that_exist():
    bugs = re.findall(r'^    "(\w+)": Bug\(', read_text(ROOT / "scripts" / "break.py"), re.MULTILINE)
    assert len(bugs) == 9
    for name in LESSONS:
        text = read_text(ROOT / f"scripts/course/lessons/{name}.py")
        for mentioned in re.findall(r"break\.py (\w+(?:, \w+)*)", text):
            for bug in mentioned.split(", "):
                assert bug in [*bugs, "wrong_template", "mixed_groups", "all"], (name, bug)


# scripts/lesson.py


def test_the_path_ticks_what_is_done_and_marks_what_is_next(tmp_path):
    (tmp_path / "00_gradients").mkdir()
    write_text(tmp_path / "00_gradients" / "done.txt", "")
    shown = output_of(lesson.main, "--out-dir", tmp_path)
    assert "[x] 00 " in shown and "> [ ] 01 " in shown and shown.count(">") == 1
    assert "next: python scripts/lesson.py 01" in shown and "exercises: " in shown
    listed = ", ".join(re.findall(r" exercises: (.+)", shown)).split(", ")
    assert len(listed) == len(set(listed)) == len(EXERCISES)


def test_all_pages_mark_no_lesson_as_done(tmp_path, monkeypatch):
    """A page is read later or never: only the lesson that somebody asked for is done."""
    only = [path for path in lesson.lessons() if path.stem.startswith("00")]
    monkeypatch.setattr(lesson, "lessons", lambda: only)
    monkeypatch.setattr(lesson.subprocess, "run", lambda command: SimpleNamespace(returncode=lesson.main(command[2:])))
    assert lesson.main(["all", "--html", "--out-dir", str(tmp_path)]) == 0
    page = read_text(tmp_path / "00_gradients.html").partition("<script>")[0]
    assert page.count('<svg role="img"') == 2 and "--- " not in page
    assert not (tmp_path / "00_gradients" / "done.txt").exists()


def test_a_concept_is_found_with_its_places():
    shown = output_of(lesson.main, "find", "kv", "cach")
    line = Place("gpt/model/kv_cache.py", "KVCache").line()
    assert f"gpt/model/kv_cache.py:{line}" in shown and "433_efficiency.py" in shown
    assert "exercise.py start kv_cache" in shown


def test_the_answers_of_all_lessons_are_printed_in_their_order(monkeypatch):
    monkeypatch.setattr(lesson, "Running", None)  # nothing is run
    shown = output_of(lesson.main, "all", "--answers")
    source = "".join(read_text(ROOT / f"scripts/course/lessons/{name}.py") for name in LESSONS)
    parts = re.findall(r"^(?:# (\d+b?) |\*\*(Predict|Answer):\*\* \S)", shown, re.MULTILINE)
    assert [number for number, _ in parts if number] == [name.partition("_")[0] for name in LESSONS]
    words = [word for _, word in parts if word]
    assert words == ["Predict", "Answer"] * (len(words) // 2) and len(words) > 200
    assert len(words) == len(re.findall(r"^# (?:Predict|Answer): ", source, re.MULTILINE))
    assert output_of(lesson.main, "421", "--answers").rstrip("\n") in shown


def test_measure_is_for_lessons_with_measurements(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="421_.* has no long measurements to repeat"):
        lesson.main(["421", "--measure", "--out-dir", str(tmp_path)])
    commands = []
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(lesson.subprocess, "run", lambda command: commands.append(command) or done)
    assert lesson.main(["all", "--measure", "--out-dir", str(tmp_path)]) == 0
    measured = [path.stem for path in lesson.lessons() if lesson.is_measured(path)]
    assert measured == [command[2] for command in commands if "--measure" in command] and len(measured) < len(commands)
