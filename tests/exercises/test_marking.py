"""Marking a class: what is found in submissions, credit for parts, the summary, and going on after an interruption."""

import csv
import json
import re
import shutil
import sys
import zipfile

import pytest

from gpt.files import read_json, read_text, write_text
from scripts import exercise
from scripts.course.checker import catalogue, comparing, diagnosing, gradebook, judging, marking, processes, repairing
from scripts.course.checker.checks import Verdict
from tests.exercises.planting import reference_text as reference
from tests.scripts.running import output_of, refusal, run_here

EXERCISES = {name: catalogue.ASSESSMENT / f"{name}.py" for name in ("01_softplus", "05_soft_cap")}
PATHS = {name.partition("_")[2]: path for name, path in EXERCISES.items()}
OVERFLOWS = reference("softplus").replace("np.logaddexp(0, x)", "np.log(1 + np.exp(x))")
BACKWARD = reference("softplus").replace("(1 + np", "(1 - np")
FORWARD = reference("softplus").replace("np.logaddexp(0, x)", "-np.logaddexp(0, x)")


def submit(folder, student, **files):
    for name, text in files.items():
        path = folder / student / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


@pytest.fixture
def exercises(tmp_path):
    folder = tmp_path / "exercises"
    folder.mkdir()
    for path in EXERCISES.values():
        shutil.copy(path, folder)
    return folder


def mark(tmp_path, exercises, capsys, *more):
    options = ["--exercises", exercises, "--out-dir", tmp_path / "marks", "--seed", 3, "--timeout", 1, *more]
    assert run_here(exercise.main, "mark", tmp_path / "class", *options) == 0
    rows = list(csv.DictReader(read_text(tmp_path / "marks" / "marks.csv").splitlines()))
    return {row["Student"]: row for row in rows}, capsys.readouterr().out


TELLS = "class UsesLibrary(Exception): pass\n\n"
TELLING = {  # submissions that tell their case, if what they say is shown
    "slip": BACKWARD,
    "wrong": FORWARD.replace("return -np", "print(x, 'LEAK'); return -np"),
    "raises": FORWARD.replace("return -np", "raise ValueError(f'LEAK {x}')\n        return np"),
    "unfinished": FORWARD.replace("return -np", "raise NotImplementedError(f'LEAK {x}')\n        return np"),
    "refused": TELLS + FORWARD.replace("return -np", "raise UsesLibrary(f'LEAK {x}')\n        return np"),
    "loops": FORWARD.replace("return -np", "print(x, 'LEAK')\n        while True: pass\n        return np"),
}


def test_marking_a_class(tmp_path, exercises, capsys):
    """Right, half right, a zip, one that is not a zip, one with a checker of its own, and all that tell their case."""
    class_ = tmp_path / "class"
    submit(class_, "ada", softplus=reference("softplus"), soft_cap=reference("soft_cap"), judging="raise SystemExit")
    submit(class_, "dan", softplus=OVERFLOWS)
    for who, text in TELLING.items():
        submit(class_, who, softplus=text, soft_cap="def broken(:\n")
    with zipfile.ZipFile(class_ / "kim.zip", "w") as archive:
        archive.writestr("deep/05_soft_cap.py", reference("soft_cap"))
        archive.writestr("../softplus.py", reference("softplus"))
    (class_ / "zoe.zip").write_bytes(b"no zip")
    rows, said = mark(tmp_path, exercises, capsys)
    assert {who: (row["softplus"], row["soft_cap"], row["Total"]) for who, row in rows.items()} == {
        "ada": ("1", "1", "2"), "dan": ("0.667", "0", "0.667"), "kim": ("1", "1", "2"), "zoe": ("0", "0", "0"),
        "slip": ("0.333", "0", "0.333"), "wrong": ("0.333", "0", "0.333"), "raises": ("0", "0", "0"),
        "unfinished": ("0", "0", "0"), "refused": ("0", "0", "0"), "loops": ("0", "0", "0"),
    }  # fmt: skip
    results = read_json(tmp_path / "marks" / "results.json")
    right = {who: [part for part, is_right in results[who]["softplus"]["parts"].items() if is_right] for who in rows}
    assert (right["slip"], right["wrong"], right["dan"]) == (["forward"], ["backward"], ["forward", "backward"])
    assert results["dan"]["softplus"]["score"] == 0.667 and results["zoe"]["soft_cap"]["status"] == "missing"
    pages = {who: read_text(tmp_path / "marks" / f"{who}.html") for who in rows}
    assert "2 of 2 passed" in pages["ada"] and "grow with x" in pages["slip"] and "never ends" in pages["loops"]
    assert "nothing to mark" in pages["zoe"] and "forward right, backward right, extremes wrong" in pages["dan"]
    assert "softplus: 2 of 10 passed" in said and "2 of 10 students passed everything" in said
    assert said.count("judged again alone") == 1
    check_feedback_shows_no_case(tmp_path, pages)

    # The same class with weights, the second exercise first: nothing is judged again.
    write_text(tmp_path / "week1.txt", "# week 1\nsoft_cap 3  # the difficult one\n\nsoftplus\n")
    rows, said = mark(tmp_path, exercises, capsys, "--assignment", tmp_path / "week1.txt")
    assert "; 20 of 20 have a verdict" in said
    marks = read_text(tmp_path / "marks" / "marks.csv").splitlines()
    assert marks[0] == "Student,ID,SIS Login ID,Section,soft_cap,softplus,Total" and len(marks) == 11
    assert marks[1:4] == ["ada,,ada,,3,1,4", "dan,,dan,,0,0.667,0.667", "kim,,kim,,3,1,4"]
    assert [test["score"] for test in gradescope(tmp_path, "dan")] == [0, 0.667]
    assert "nothing to mark" in gradescope(tmp_path, "zoe")[0]["output"]


def check_feedback_shows_no_case(tmp_path, pages):
    """Gradescope's file gives no reason either; the page does. The control: the teacher's record has all of it."""
    record = read_text(tmp_path / "marks" / "results.jsonl")
    assert record.count("LEAK") >= 4 and "right dx" in record
    softplus = catalogue.load(PATHS["softplus"])
    answers = [line.strip() for line in softplus.blanks.splitlines() if line.strip()]
    secret = [*answers, *(why for _, _, why in softplus.slips), "LEAK", "x ", "dout", "right dx"]
    for who in TELLING:
        test, broken = gradescope(tmp_path, who)
        assert "an assessment shows no case and no reason" in test["output"], test
        assert not [part for part in secret if part in test["output"]], test
        assert set(re.findall(r"[\d.]*\d", test["output"])) <= {"0", "0.333", "0.667", "1"}, test
        assert "A small case" not in pages[who] and "It prints" not in pages[who]
        assert "Line 1:\ndef broken(:" in broken["output"]  # this one has not seen a case


def gradescope(tmp_path, who):
    """The tests in a student's results.json, if they have the fields that Gradescope publishes."""
    results = read_json(tmp_path / "marks" / "gradescope" / who / "results.json")
    for test in results["tests"]:
        assert test.keys() == {"name", "score", "max_score", "output", "output_format"}
        assert test["output_format"] == "text" and 0 <= test["score"] <= test["max_score"]
    assert results.keys() == {"tests"}
    return results["tests"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("softplus\nsofmax 2\n", "line 2: there is no exercise 'sofmax'; did you mean"),
        *[(f"\nsoftplus {weight}\n", f"line 2: 'softplus {weight}' is not an exercise with or without a weight above 0")
          for weight in ("two", "-1", "nan", "0", "2 3", "12345")],
        ("softplus\n\nsoftplus 2\n", "line 3: softplus is listed twice"),
        ("", "names no exercise"),
        ("soft\x00plus\n", "line 1: there is no exercise"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)  # fmt: skip
def test_a_damaged_assignment_is_refused_in_one_sentence(tmp_path, capsys, text, words):
    file = tmp_path / "week1.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    submit(tmp_path / "class", "ada")
    for command in (("stubs", tmp_path / "new"), ("mark", tmp_path / "class", "--out-dir", tmp_path / "new")):
        said = refusal(exercise.main, capsys, *command, "--assignment", file)
        assert words in said and str(file) in said
    assert not (tmp_path / "new").exists()


def test_an_assignment_mixes_course_and_assessment(tmp_path):
    write_text(tmp_path / "week1.txt", "\ufeffsoftmax 2\r\nsoftplus\r\n")
    assert "2 stubs" in output_of(exercise.main, "stubs", tmp_path / "class", "--assignment", tmp_path / "week1.txt")
    assert sorted(path.name for path in (tmp_path / "class").iterdir()) == ["01_softplus.py", "10_softmax.py"]


def test_a_wrong_file_of_the_course_is_explained_at_once():
    verdict = Verdict("wrong", "forward of Mul", "the sign is flipped", "x = [1.0]", 3, "return -x", printed=["1"])
    said = json.loads(gradebook.gradescope_json({"mul": verdict}, {"mul": 2}))["tests"][0]["output"].split("\n\n")
    assert said[:2] == ["forward of Mul: the sign is flipped", "Line 3:\nreturn -x"]
    assert said[2:] == ["A small case that fails:\nx = [1.0]", "It prints:\n1"]


def test_an_interrupted_run_goes_on(tmp_path, exercises, capsys):
    submit(tmp_path / "class", "ada", softplus=reference("softplus"), soft_cap=reference("soft_cap"))
    submit(tmp_path / "class", "bob", softplus=BACKWARD, soft_cap=reference("soft_cap"))
    whole, said = mark(tmp_path, exercises, capsys)
    assert "; 0 of 4 have a verdict" in said
    record = tmp_path / "marks" / "results.jsonl"
    lines = read_text(record).splitlines()
    write_text(record, "\n".join([*lines[:3], lines[3][:40]]))  # killed while it wrote the third
    again, said = mark(tmp_path, exercises, capsys)
    assert "; 2 of 4 have a verdict" in said and again == whole
    passed = read_text(record).replace('"status": "passed"', '"status": "unjudged"', 1)
    write_text(record, passed)  # the checker failed at one of them
    assert "; 3 of 4 have a verdict" in mark(tmp_path, exercises, capsys)[1]
    submit(tmp_path / "class", "bob", softplus=reference("softplus"))
    changed, said = mark(tmp_path, exercises, capsys)
    assert "; 3 of 4 have a verdict" in said and changed["bob"]["softplus"] == "1"


def found(folder, student="ada"):
    """By exercise: the content that is marked, or why there is none."""
    return {file.exercise: file.problem or file.content.decode() for file in marking.collect(folder / student, PATHS)}


def test_the_file_at_the_top_counts_and_a_backup_never_beats_it(tmp_path):
    submit(tmp_path, "ada/backup", **{"01_softplus": "old", "soft_cap": "only"})
    submit(tmp_path, "ada/answers/deep", softplus="mine")
    assert found(tmp_path) == {"softplus": "mine", "soft_cap": "only"}
    submit(tmp_path, "ada", softplus="top")
    assert found(tmp_path)["softplus"] == "top"


def test_a_file_with_nearly_the_right_name_is_suggested(tmp_path):
    submit(tmp_path, "ada", **{"softplus (1)": "", "Soft_Cap": ""})
    assert "'softplus (1).py'" in found(tmp_path)["softplus"] and "'Soft_Cap.py'" in found(tmp_path)["soft_cap"]


def test_links_are_not_followed(tmp_path):
    submit(tmp_path, "bob", softplus="of bob")
    (tmp_path / "ada").mkdir()
    try:
        (tmp_path / "ada" / "softplus.py").symlink_to(tmp_path / "bob" / "softplus.py")
        (tmp_path / "ada" / "deep").symlink_to(tmp_path / "bob")
        (tmp_path / "eve").symlink_to(tmp_path / "bob")
    except OSError:
        pytest.skip("this system makes no links")
    assert "no file" in found(tmp_path)["softplus"] and "a link" in found(tmp_path, "eve")["softplus"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_damaged_anywhere_stops_nothing(tmp_path, method):
    path = tmp_path / "ada.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("softplus.py", reference("softplus"))
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert set(found(tmp_path, "ada.zip")) == {"softplus", "soft_cap"}
        path.write_bytes(whole[:place])
        assert "nothing to mark: File is not a zip file" in found(tmp_path, "ada.zip")["softplus"]


def test_what_is_too_large_is_not_read(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "ada.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("softplus.py", " " * 2 * marking.LARGEST_FILE)
    assert "at most" in found(tmp_path, "ada.zip")["softplus"]
    monkeypatch.setattr(marking, "LARGEST_ZIP", 10)
    assert "larger than 0 MB" in found(tmp_path, "ada.zip")["softplus"]


def test_the_readmes_example_is_an_exercise(tmp_path):
    text = read_text(catalogue.HERE / "README.md")
    file = tmp_path / "01_swish.py"
    write_text(file, text.partition("```python\n")[2].partition("```")[0])
    swish = catalogue.load(catalogue.paths(tmp_path)["swish"])
    right = swish.completed()
    assert processes.judge(swish, right.encode(), file).passed
    verdict = processes.judge(swish, right.replace("s + ctx.x * s * (1 - s)", "s").encode(), file, credit=True)
    assert verdict.parts == {"extremes": False, "forward": True, "backward": False}
    assert "product rule" in verdict.diagnosis


GRADED = (diagnosing.reason, repairing.results, judging.smallest_failing)  # in spite of a failure there
UNGRADED = (judging.parts, judging.drawn, comparing.difference, comparing.of_numbers, comparing.close)


@pytest.mark.parametrize("function", [*GRADED, *UNGRADED])
def test_a_mistake_of_the_checker_is_not_the_students(monkeypatch, function):
    """It is said to be the checker's. What is known is graded, and the rest gets no points, instead of 0."""
    text = BACKWARD.replace("(1 - np.tanh(ctx.x / 2))", "abs(ctx.x)")
    monkeypatch.setattr(sys.modules[function.__module__], function.__name__, lambda *a, **k: 1 / 0)
    verdict = marking.judge(PATHS, 0, marking.Limits(), marking.File("a", "softplus", text.encode()))
    assert "the checker itself failed (ZeroDivisionError: division by zero; test_marking.py:" in verdict.diagnosis
    results, weights = {"a": {"softplus": verdict}, "b": {"softplus": Verdict("passed")}}, {"softplus": 1.0}
    row = next(csv.DictReader(gradebook.marks_csv(results, weights).splitlines()))
    told = json.loads(gradebook.gradescope_json({"softplus": gradebook.withheld(verdict)}, weights))
    of_all = json.loads(gradebook.results_json(results, weights))["a"]["softplus"]
    scores = [row["softplus"], row["Total"], told["tests"][0].get("score"), of_all.get("score")]
    assert scores == (["0.333", "0.333", 0.333, 0.333] if function in GRADED else ["", "", None, None])
    assert verdict.status == ("wrong" if function in GRADED else "unjudged")
    assert ("NOT GRADED" in marking.summary(results, {"softplus": PATHS["softplus"]})) == (function not in GRADED)


def test_cells_and_pages_hold_no_formulas_or_control_characters():
    verdict = Verdict("error", "forward", "\x1b[2J\ud800", "\x00", printed=["\x07</pre><script>alert(1)</script>"])
    results = {"=cmd()": {"softplus": verdict}}
    only, weights = {"softplus": PATHS["softplus"]}, {"softplus": 1.0}
    table = gradebook.marks_csv(results, weights)
    text = table + marking.page("=cmd()", results["=cmd()"], weights) + marking.summary(results, only)
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert table.count("'=cmd()") == 2 and not set("\x1b\x00\x07") & set(text)
    text += json.loads(gradebook.gradescope_json(results["=cmd()"], weights))["tests"][0]["output"]
    text.encode("utf-8")
    gradebook.results_json(results, weights).encode("ascii")
