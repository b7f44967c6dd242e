"""Marking a class: what is found in submissions, credit for parts, the summary, and going on after an interruption."""

import csv
import json
import shutil
import zipfile

import pytest

from scripts import exercise
from scripts.checker import catalogue, marking, processes
from scripts.checker.checks import Verdict
from tests.exercises.planting import reference_text as reference
from tests.scripts.running import run_here

EXERCISES = {name: catalogue.ASSESSMENT / f"{name}.py" for name in ("01_softplus", "05_soft_cap")}
PATHS = {name.partition("_")[2]: path for name, path in EXERCISES.items()}
OVERFLOWS = reference("softplus").replace("np.logaddexp(0, x)", "np.log(1 + np.exp(x))")
BACKWARD = reference("softplus").replace("(1 + np", "(1 - np")
FORWARD = reference("softplus").replace("np.logaddexp(0, x)", "-np.logaddexp(0, x)")


def submit(folder, student, **files):
    for name, text in files.items():
        path = folder / student / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


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
    rows = list(csv.DictReader((tmp_path / "marks" / "marks.csv").read_text(encoding="utf-8").splitlines()))
    return {row["student"]: row for row in rows}, capsys.readouterr().out


def test_marking_a_class(tmp_path, exercises, capsys):
    """Right, wrong, half right, a zip, one that never ends, one that is not a zip, one that brings its own checker."""
    class_ = tmp_path / "class"
    submit(class_, "ada", softplus=reference("softplus"), soft_cap=reference("soft_cap"))
    submit(class_, "bob", softplus=BACKWARD)
    submit(class_, "cyd", softplus=FORWARD)
    submit(class_, "dan", softplus=OVERFLOWS)
    submit(class_, "eve", softplus=reference("softplus"), soft_cap="while True: pass", judging="raise SystemExit")
    submit(class_, "fay", softplus=BACKWARD)
    with zipfile.ZipFile(class_ / "kim.zip", "w") as archive:
        archive.writestr("deep/05_soft_cap.py", reference("soft_cap"))
        archive.writestr("../softplus.py", reference("softplus"))
    (class_ / "zoe.zip").write_bytes(b"no zip")
    rows, said = mark(tmp_path, exercises, capsys)
    assert {who: (row["softplus"], row["soft_cap"], row["points"]) for who, row in rows.items()} == {
        "ada": ("1", "1", "2"), "bob": ("0.333", "0", "0.333"), "cyd": ("0.333", "0", "0.333"),
        "dan": ("0.667", "0", "0.667"), "eve": ("1", "0", "1"), "fay": ("0.333", "0", "0.333"),
        "kim": ("0", "1", "1"), "zoe": ("0", "0", "0"),
    }  # fmt: skip
    parts = ("forward", "backward", "extremes")
    assert [rows["bob"][f"softplus_{part}"] for part in parts] == ["1", "0", "0"]
    assert [rows["cyd"][f"softplus_{part}"] for part in parts] == ["0", "1", "0"]
    assert [rows["dan"][f"softplus_{part}"] for part in parts] == ["1", "1", "0"]
    pages = {who: (tmp_path / "marks" / f"{who}.html").read_text(encoding="utf-8") for who in rows}
    assert "2 of 2 passed" in pages["ada"] and "grow with x" in pages["bob"] and "never ends" in pages["eve"]
    assert "cannot be opened" in pages["zoe"] and "forward right, backward right, extremes wrong" in pages["dan"]
    assert "softplus: 2 of 8 passed" in said and "2 of 8: " in said and "1 of 8 students passed everything" in said
    assert said.count("judged again alone") == 1


def test_the_same_marks_whatever_runs_beside_it(tmp_path, exercises, capsys):
    for number, text in enumerate((reference("softplus"), BACKWARD, FORWARD, OVERFLOWS)):
        submit(tmp_path / "class", f"student{number}", softplus=text)
    alone, _ = mark(tmp_path, exercises, capsys, "--jobs", 1)
    shutil.rmtree(tmp_path / "marks")
    crowded, _ = mark(tmp_path, exercises, capsys, "--jobs", 4)
    assert alone == crowded


def test_an_interrupted_run_goes_on(tmp_path, exercises, capsys, monkeypatch):
    submit(tmp_path / "class", "ada", softplus=reference("softplus"), soft_cap=reference("soft_cap"))
    submit(tmp_path / "class", "bob", softplus=BACKWARD, soft_cap=reference("soft_cap"))
    whole, said = mark(tmp_path, exercises, capsys)
    assert "; 0 of 4 have a verdict" in said
    record = tmp_path / "marks" / "results.jsonl"
    lines = record.read_text(encoding="utf-8").splitlines()
    record.write_text("\n".join([*lines[:3], lines[3][:40]]), encoding="utf-8")  # killed while it wrote the third
    again, said = mark(tmp_path, exercises, capsys)
    assert "; 2 of 4 have a verdict" in said and again == whole
    submit(tmp_path / "class", "bob", softplus=reference("softplus"))
    changed, said = mark(tmp_path, exercises, capsys)
    assert "; 3 of 4 have a verdict" in said and changed["bob"]["softplus"] == "1"


def found(folder, student="ada"):
    """By exercise: the content that is marked, or why there is none."""
    files = marking.collect(folder / student, PATHS)
    return {file.exercise: file.problem or file.content.decode() for file in files}


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
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert set(found(tmp_path, "ada.zip")) == {"softplus", "soft_cap"}
        path.write_bytes(whole[:place])
        assert "cannot be opened" in found(tmp_path, "ada.zip")["softplus"]


def test_what_is_too_large_is_not_read(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "ada.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("softplus.py", " " * 2 * marking.LARGEST_FILE)
    assert "are the most" in found(tmp_path, "ada.zip")["softplus"]
    monkeypatch.setattr(marking, "LARGEST_ZIP", 10)
    assert "cannot be opened" in found(tmp_path, "ada.zip")["softplus"]


def test_the_readmes_example_is_an_exercise(tmp_path):
    text = (catalogue.HERE / "README.md").read_text(encoding="utf-8")
    file = tmp_path / "01_swish.py"
    file.write_text(text.partition("```python\n")[2].partition("```")[0], encoding="utf-8")
    swish = catalogue.load(catalogue.paths(tmp_path)["swish"])
    right = swish.completed()
    assert processes.judge(swish, right.encode(), file).passed
    verdict = processes.judge(swish, right.replace("s + ctx.x * s * (1 - s)", "s").encode(), file, credit=True)
    assert verdict.parts == {"extremes": False, "forward": True, "backward": False}
    assert "product rule" in verdict.diagnosis


def test_a_mistake_of_the_checker_stops_nothing(monkeypatch):
    monkeypatch.setattr(marking.processes, "judge", lambda *a, **k: 1 / 0)
    verdict = marking.judge(marking.File("ada", "softplus", "softplus.py", b""), PATHS["softplus"], 0, marking.Limits())
    assert verdict.status == "error" and "the checker itself failed (ZeroDivisionError" in verdict.diagnosis


def test_cells_and_pages_hold_no_formulas_and_no_control_characters():
    verdict = Verdict("error", "forward", "\x1b[2J\ud800", "\x00", printed=["\x07</pre><script>alert(1)</script>"])
    results = {"=cmd()": {"softplus": verdict}}
    only = {"softplus": PATHS["softplus"]}
    text = marking.table(results, only) + marking.page("=cmd()", results["=cmd()"], 0) + marking.summary(results, only)
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert "'=cmd()" in text and not set("\x1b\x00\x07") & set(text)
    text.encode("utf-8")
    json.dumps(verdict.facts())
