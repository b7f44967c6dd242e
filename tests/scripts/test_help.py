"""--help and unknown options of every script; that each starts as a process is looked at by .ci/run."""

import io
import runpy
import sys

import pytest

from tests.scripts.running import ROOT

# start.py is not a command, and one_page.py reads its only argument itself.
WITHOUT_OPTIONS = ("start", "one_page")
SCRIPTS = sorted(path for path in (ROOT / "scripts").glob("[a-z]*.py") if path.stem not in WITHOUT_OPTIONS)


pytestmark = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@pytest.fixture
def call(script, monkeypatch, capsys):
    """Call the script with arguments: its exit status, and what it prints."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(), "utf-8"))

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", ["", *arguments])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(f"scripts/{script.name}", run_name="__main__")
        return caught.value.code, "".join(capsys.readouterr())

    return called


def test_help_is_real_help(script, call):
    code, text = call("--help")
    assert code in (None, 0) and f"scripts/{script.name}" in text
    assert "default: None" not in text and text.encode("cp1252")


def test_an_unknown_option_is_named_as_it_is_called_here(script, call):
    _, known = call("--help")
    for name in ("--foo", "--lr"):
        if name == "--foo" or "--learning-rate" not in known:
            code, text = call(name, "some")
            assert code == 2 and f"unrecognized arguments: {name}" in text
