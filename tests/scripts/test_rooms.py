"""What is started finds what it needs from any folder, and stands beside no name of Python's own."""

import subprocess
import sys

from tests.scripts.running import ROOT

STARTED = [*(ROOT / "scripts").glob("*.py"), *(ROOT / "scripts/course").glob("[ls]*s/*.py")]


def test_it_starts_from_any_folder(tmp_path):
    for script, *words in ("scripts/gradcheck.py", "mul"), ("scripts/course/steps/softmax.py",):
        done = subprocess.run([sys.executable, ROOT / script, *words], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_nothing_that_is_started_stands_beside_a_name_of_python():
    """Python would import it in the place of its own module (`site` is loaded before)."""
    assert {path.stem for path in STARTED} & sys.stdlib_module_names == {"site"}
