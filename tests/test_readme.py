"""The code in README runs and prints what it says."""

import re
from pathlib import Path

import minigrad as mg

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_lines_of_the_first_screen(capsys):
    (code,) = re.findall("```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    try:
        exec(code, {})
    finally:
        mg.use_kernels("textbook")
    report, _, loss = capsys.readouterr().out.strip().rpartition("\n")
    assert "(right)" in report and float(loss) < 0.05
