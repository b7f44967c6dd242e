"""--help of every script; that each also starts as a process, on a Windows console, is looked at by .ci/run."""

import io
import runpy
import sys

import pytest

from tests.scripts.running import ROOT

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_is_real_help(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["", "--help"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(f"scripts/{script.name}", run_name="__main__")
    text = capsys.readouterr().out
    assert caught.value.code in (None, 0) and f"scripts/{script.name}" in text
    assert "default: None" not in text and text.encode("cp1252")
