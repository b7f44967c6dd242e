"""Where NumPy and minigrad are not installed, each script says in one sentence what to type, and shows no traceback."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.scripts.running import ROOT

WITHOUT_HELP = ("setup", "start", "one_page")  # setup needs no package; one_page imports nothing that could say it
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("[a-z]*.py") if path.stem not in WITHOUT_HELP)


def without_packages(*arguments, cwd=ROOT):
    """Run this Python without what is installed in it; return its exit code and what it wrote."""
    command = [sys.executable, "-E", "-S", *arguments]
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    return done.returncode, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_says_what_to_type(script):
    for arguments, lacks in ([f"scripts/{script}.py"], "numpy and minigrad"), (["-m", f"scripts.{script}"], "numpy"):
        code, text = without_packages(*arguments, "--help")
        sentence = f"This Python, {sys.executable}, lacks {lacks}. In {ROOT}, type `"
        assert code == 1 and text.startswith(sentence) and text.endswith("activate`.\n") and text.count("\n") == 1, text


def test_it_says_to_make_an_environment_only_where_there_is_none(tmp_path):
    (tmp_path / "scripts").mkdir()
    for name in ("start", "train"):
        shutil.copy(ROOT / "scripts" / f"{name}.py", tmp_path / "scripts")
    for commands in (["scripts/setup.py install", "activate"], ["activate"]):
        _, text = without_packages(tmp_path / "scripts" / "train.py", cwd=tmp_path.parent)
        typed = re.findall("`([^`]+)`", text)
        assert len(typed) == len(commands) and all(t.endswith(c) for t, c in zip(typed, commands))
        (tmp_path / ".venv").mkdir(exist_ok=True)


def test_the_breakpoint_in_texts_is_below_the_word_forward():
    lines = (ROOT / "scripts" / "step.py").read_text(encoding="utf-8").splitlines()
    number = lines.index("# forward") + 2  # lines are counted from 1
    assert f" b {number} (a breakpoint)" in lines[3]
    assert f"`b {number}` (a breakpoint)" in (ROOT / ".github" / "FAQ.md").read_text(encoding="utf-8")
