"""Exercises: you implement the mathematics, and a checker says exactly what is wrong.

python scripts/exercise.py shows your progress and watches the current exercise: it checks your file whenever you save
it. Your files are in --workspace. See scripts/course/exercises/README.md, also for teachers.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

from start import command_line

EXAMPLES = """commands:
  (none)            the loop: check on save; keys n next, h hint, l list, c check all, r reset, q quit
  list              list all exercises and those that you passed
  start NAME        make an exercise the current one, and write its file
  check [NAME]      check an exercise once; --all: check every file in the workspace; --debug: also run the failing
                    case in this process, where breakpoint() and an editor's debugger work; --html: also write a page
                    that steps through the case, forward and back, and beside a right solution where one is shown
  hint [NAME]       show the next of three hints: the idea, the shapes, the line; not for assessments
  solution NAME     show a right answer and the library's, once yours passes or after the third hint
  reset NAME        restore the stub; your file is kept beside it
  run [NAME]        train the GPT with your part, if it has a place there; --all: with all that you passed, and a page
  capstone          your own GPT, built from block, gpt, training_loop and load_weights: it trains, takes real weights
                    and, with llama, becomes a Llama; compared with ours at each step
  stubs FOLDER      for teachers: write the files that a class completes, without solutions (of the assessment, of
                    --exercises, or of --assignment); --no-solutions: nothing shows solutions in that folder
  mark FOLDER       for teachers: mark a folder of submissions (subfolders or zips), see the README

examples:
  python scripts/exercise.py start softmax
  python scripts/exercise.py check softmax --json
  python scripts/exercise.py stubs handout
  python scripts/exercise.py mark submissions --exercises scripts/course/exercises/assessment
  python scripts/exercise.py mark submissions --assignment week1.txt
  python scripts/exercise.py list --pacing 2

exit code: 0 passed, 1 not passed or not possible, 2 wrong arguments
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    add, number = parser.add_argument, command_line.whole_number
    add("command", nargs="?", choices=list(COMMANDS), default="watch", metavar="COMMAND", help="what to do (see below)")
    add("name", nargs="?", default=None, metavar="NAME", help="an exercise, or its number (the current one)")
    add("--workspace", default="my_exercises", metavar="DIR", help="folder for your files")
    add("--exercises", metavar="DIR", help="folder with other exercises, for example a teacher's")
    add("--assignment", default=None, metavar="FILE", help="stubs, mark: exercises and weights, one on each line")
    add("--no-solutions", action="store_true", help="stubs: neither solutions nor third hints are shown in the folder")
    add("--pacing", type=number(1), default=None, metavar="HOURS", help="list: fill weeks of so many hours")
    add("--all", action="store_true", help="check: every file; run: every part that you passed")
    add("--html", action="store_true", help="check: also write a page that steps through the case")
    add("--debug", action="store_true", help="check: also run the failing case in this process")
    add("--json", action="store_true", help="print the result as JSON")
    add("--manual", action="store_true", help="the loop checks when you press Enter, not on save")
    add("--yes", action="store_true", help="reset without asking")
    add("--seed", type=number(0), default=0, help="the same file and seed give the same verdict")
    add("--out-dir", default=None, metavar="DIR", help="output folder of run, capstone and mark (below runs/)")
    add("--jobs", type=number(1), default=None, help="mark: number of files judged in parallel (one per core)")
    add("--timeout", type=number(1), default=5, help="mark: seconds of computing (not waiting) for each file")
    add("--memory", type=number(64), default=2048, help="mark: megabytes for each file (on Linux)")
    arguments = parser.parse_args(argv)
    if importlib.util.find_spec("hypothesis") is None:
        raise ValueError('the exercises need Hypothesis: pip install "hypothesis>=6.100"')
    if arguments.command in ("solution", "start", "stubs", "mark") and arguments.name is None:
        parser.error(f"{arguments.command} needs a {'folder' if arguments.command in ('stubs', 'mark') else 'name'}")
    command, used = COMMANDS[arguments.command]
    others = parser.given.keys() - {"command", "exercises", "seed", *used}
    parser.refuse(others, f"does not go with {arguments.command}")
    if arguments.all and arguments.name is not None:
        parser.error(f"{arguments.command} takes a NAME or --all, not both")
    return command(arguments)


def workspace_of(arguments: Any) -> Any:
    from scripts.course.checker import catalogue
    from scripts.course.checker.workspace import Workspace

    if Path(arguments.workspace).is_file():
        raise NotADirectoryError(f"--workspace {arguments.workspace} is a file: give a folder")
    folder = catalogue.HERE if arguments.exercises is None else Path(arguments.exercises)
    return Workspace(Path(arguments.workspace), catalogue.paths(folder), arguments.seed)


def name_in(workspace: Any, arguments: Any) -> str:
    """The exercise with the given name or number, or the current one. Raises ValueError if there is none."""
    from scripts.course.checker import catalogue

    name = arguments.name or workspace.current()
    if name is None:
        raise ValueError("every exercise has passed: give a name")
    numbered = dict(enumerate(workspace.paths, 1))
    name = numbered.get(int(name), name) if name.isdecimal() else name
    catalogue.path_of(name, workspace.paths)
    return str(name)


def say(arguments: Any, facts: Any, text: str) -> None:
    """Print a result as text, or its facts as JSON with --json."""
    print(json.dumps(facts) if arguments.json else text)


def watch(arguments: Any) -> int:
    from scripts.course.checker import watching

    return watching.watch(workspace_of(arguments), arguments.manual)


def show_list(arguments: Any) -> int:
    from scripts.course.checker import catalogue, showing

    workspace = workspace_of(arguments)
    if arguments.pacing is not None:
        weeks = catalogue.weeks(workspace.paths, 60 * arguments.pacing)
        say(arguments, weeks, showing.pacing_text(weeks, arguments.pacing))
        return 0
    passed = set(workspace.passed)
    hints = workspace.state["hints"]
    exercises = {name: workspace.exercise(name) for name in workspace.paths}
    facts = [{"name": name, "title": exercise.title, "effort": exercise.effort, "passed": name in passed,
              "hints": hints.get(name, 0)} for name, exercise in exercises.items()]  # fmt: skip
    say(arguments, facts, showing.list_text(workspace))
    return 0


def start(arguments: Any) -> int:
    from scripts.course.checker import showing
    from scripts.course.lessons.concepts import lessons_of

    workspace = workspace_of(arguments)
    name = name_in(workspace, arguments)
    file = workspace.start(name)
    facts = {"name": name, "file": str(file), "lessons": [each.stem for each in lessons_of(name)]}
    say(arguments, facts, showing.start_text(workspace.exercise(name), file))
    return 0


def check(arguments: Any) -> int:
    from scripts.course.checker import showing, watching

    workspace = workspace_of(arguments)
    if arguments.all and arguments.html:
        raise ValueError("--html is for one exercise: name it, and leave out --all")
    if arguments.all and arguments.json:
        verdicts = {name: workspace.check(name) for name in workspace.paths if workspace.file(name).exists()}
        print(json.dumps({name: verdict.facts() for name, verdict in verdicts.items()}))
        return 0 if all(verdict.passed for verdict in verdicts.values()) else 1
    if arguments.all:
        return 0 if watching.check_all(workspace) else 1
    name = name_in(workspace, arguments)
    if not arguments.json:
        print(f"Checking {name} ...", flush=True)
    verdict = workspace.check(name, arguments.debug)
    say(arguments, {"name": name, **verdict.facts()}, showing.verdict_text(name, verdict, workspace))
    if arguments.html:
        from gpt.files import write_text
        from scripts.pages.exercise_steps import exercise_page

        path = workspace.file(name).resolve().with_suffix(".html")
        withheld = workspace.withheld(name)
        write_text(path, exercise_page(workspace.exercise(name), verdict, path.with_suffix(".py"), not withheld))
        say(arguments, {"page": str(path)}, f"\nline by line: {path}" + (f"\n{withheld}" if withheld else ""))
    return 0 if verdict.passed else 1


def hint(arguments: Any) -> int:
    workspace = workspace_of(arguments)
    name = name_in(workspace, arguments)
    level, text = workspace.hint(name)
    say(arguments, {"name": name, "level": level, "hint": text}, f"{name}, hint {level} of 3: {text}")
    return 0


def solution(arguments: Any) -> int:
    workspace = workspace_of(arguments)
    name = name_in(workspace, arguments)
    if withheld := workspace.withheld(name):
        raise ValueError(withheld)
    text = workspace.exercise(name).solution()
    say(arguments, {"name": name, "solution": text}, text)
    return 0


def reset(arguments: Any) -> int:
    workspace = workspace_of(arguments)
    name = name_in(workspace, arguments)
    if not arguments.yes:
        try:
            answer = input(f"Reset {name} to its stub? Your file is kept beside it. y or n: ")
        except EOFError:
            raise ValueError("reset needs an answer, and there is no input: add --yes") from None
        if answer.strip().lower()[:1] != "y":
            print("Nothing was changed.")
            return 1
    kept = workspace.reset(name)
    file = workspace.file(name)
    facts = {"name": name, "file": str(file), "kept": None if kept is None else str(kept)}
    say(arguments, facts, f"{file} is the stub again" + (f"; your file is kept as {kept}" if kept else ""))
    return 0


def run(arguments: Any) -> int:
    from scripts.course.checker import in_gpt

    workspace = workspace_of(arguments)
    names = workspace.passed if arguments.all else [name_in(workspace, arguments)]
    return in_gpt.run(workspace, names, Path(arguments.out_dir or "runs/exercises"), whole=arguments.all)


def capstone(arguments: Any) -> int:
    from scripts.course.checker import capstone

    return capstone.run(workspace_of(arguments), Path(arguments.out_dir or "runs/exercises"))


def assignment_of(arguments: Any) -> tuple[dict[str, Path], dict[str, float]]:
    """The exercises for a class, by name: their files and weights. Without --assignment, those of our assessment."""
    from scripts.course.checker import catalogue, gradebook

    if arguments.assignment is None:
        known = catalogue.paths(Path(arguments.exercises or catalogue.ASSESSMENT))
        return known, dict.fromkeys(known, 1.0)
    folders = [Path(arguments.exercises)] if arguments.exercises else [catalogue.HERE, catalogue.ASSESSMENT]
    known = {name: path for folder in folders for name, path in catalogue.paths(folder).items()}
    weights = gradebook.read_assignment(Path(arguments.assignment), known)
    return {name: known[name] for name in weights}, weights


def stubs(arguments: Any) -> int:
    from gpt.files import write_text
    from scripts.course.checker import catalogue

    folder = Path(arguments.name)
    files = {folder / path.name: catalogue.load(path).stub for path in assignment_of(arguments)[0].values()}
    if arguments.no_solutions:
        files[folder / "progress.json"] = json.dumps({"solutions": False}) + "\n"
    if existing := [file for file in files if file.exists()]:
        raise ValueError(f"{existing[0]} exists, and may be somebody's work: give a new folder")
    for file, stub in files.items():
        write_text(file, stub)
    print(f"{folder} contains {len(files) - arguments.no_solutions} stubs, without solutions and hints")
    return 0


def mark(arguments: Any) -> int:
    from scripts.course.checker import marking

    limits = marking.Limits(arguments.timeout, arguments.memory)
    return marking.mark(Path(arguments.name), *assignment_of(arguments), Path(arguments.out_dir or "runs/marks"),
                        arguments.seed, limits, arguments.jobs or 0)  # fmt: skip


# Each command with its options, beside --exercises and --seed.
COMMANDS = {
    "watch": (watch, ("workspace", "manual")),
    "list": (show_list, ("workspace", "json", "pacing")),
    "start": (start, ("workspace", "json", "name")),
    "check": (check, ("workspace", "json", "name", "all", "debug", "html")),
    "hint": (hint, ("workspace", "json", "name")),
    "solution": (solution, ("workspace", "json", "name")),
    "reset": (reset, ("workspace", "json", "name", "yes")),
    "run": (run, ("workspace", "name", "all", "out_dir")),
    "capstone": (capstone, ("workspace", "out_dir")),
    "stubs": (stubs, ("name", "assignment", "no_solutions")),
    "mark": (mark, ("name", "assignment", "out_dir", "jobs", "timeout", "memory")),
}

if __name__ == "__main__":
    command_line.run(main)
