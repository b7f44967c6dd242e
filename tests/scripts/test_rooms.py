"""What is started finds what it needs from any folder, and names of before the move work for one release."""

import subprocess
import sys

import pytest

from tests.scripts.running import ROOT

STARTED = [*(ROOT / "scripts").glob("*.py"), *(ROOT / "scripts/course").glob("[ls]*s/*.py")]
OLD = """
from scripts.checker.checks import Exercise
from scripts.lessons import cells
import scripts.course.checker.checks, scripts.course.lessons.cells
assert Exercise is scripts.course.checker.checks.Exercise and cells is scripts.course.lessons.cells
from scripts.checker.words import *
try:
    import scripts.checker.places
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize("arguments", [["scripts/gradcheck.py", "mul"], ["scripts/course/steps/softmax.py"]])
def test_it_starts_from_any_folder(arguments, tmp_path):
    command = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


def test_nothing_that_is_started_stands_beside_a_name_of_python():
    """Python would import it in the place of its own module (`site` is loaded before)."""
    assert {path.stem for path in STARTED} & sys.stdlib_module_names == {"site"}


def test_old_names_are_new_ones_and_say_so_once(tmp_path):
    teachers = tmp_path / "01_softplus.py"
    text = (ROOT / "scripts/course/exercises/assessment/01_softplus.py").read_text(encoding="utf-8")
    teachers.write_text(text.replace("scripts.course.", "scripts."), encoding="utf-8")
    for command in ["-c", OLD], ["scripts/exercise.py", "list", "--exercises", tmp_path]:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("scripts.checker has moved to scripts.course.checker; the old name works") == 1
        assert "give Kernel the function itself" in done.stdout or "softplus" in done.stdout
    command = [sys.executable, "scripts/exercise.py", "list", "--exercises", "scripts/exercises/assessment"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert "softplus" in done.stdout and "has moved to scripts/course/exercises/assessment" in done.stderr
