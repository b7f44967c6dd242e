"""What is started finds what it needs from any folder, and names of before the move work for one release."""

import subprocess
import sys

from tests.scripts.running import ROOT, run_process

STARTED = [*(ROOT / "scripts").glob("*.py"), *(ROOT / "scripts/course").glob("[ls]*s/*.py")]
OLD = """
from scripts.course.checker import checks as new
from scripts.checker import checks, words
assert checks is new
try:
    import scripts.checker.places
except RuntimeError as error:
    print(error)
"""


def test_it_starts_from_any_folder(tmp_path):
    for script, *words in ("scripts/gradcheck.py", "mul"), ("scripts/course/steps/softmax.py",):
        done = subprocess.run([sys.executable, ROOT / script, *words], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_nothing_that_is_started_stands_beside_a_name_of_python():
    """Python would import it in the place of its own module (`site` is loaded before)."""
    assert {path.stem for path in STARTED} & sys.stdlib_module_names == {"site"}


def test_old_names_are_new_ones_and_say_so_once(tmp_path):
    teachers = tmp_path / "01_softplus.py"
    text = (ROOT / "scripts/course/exercises/assessment/01_softplus.py").read_text(encoding="utf-8")
    teachers.write_text(text.replace("scripts.course.", "scripts."), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", OLD], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.stderr.count("has moved to scripts.course.checker") == 1 and "give Kernel the function" in done.stdout
    folders = {tmp_path: "scripts.course.checker", "scripts/exercises/assessment": "scripts/course/exercises"}
    for folder, new in folders.items():
        done = run_process("exercise", "list", "--exercises", folder)
        assert "softplus" in done.stdout and done.stderr.count(f"has moved to {new}") == 1, done
