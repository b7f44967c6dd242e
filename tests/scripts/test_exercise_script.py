"""The exercises' script: the loop, the plain commands, what is refused, and marking a class."""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpt import Llama, LlamaConfig, Tokenizer
from gpt.files import read_text, sha256_of, write_text
from minigrad import manual_seed
from scripts import exercise
from scripts.course.checker import capstone, catalogue, processes, watching
from scripts.course.checker.checks import Verdict
from scripts.course.checker.workspace import Workspace
from tests.scripts.running import output_of, refusal, run_here

TANH = "        return (dout * (1 - ctx.out * ctx.out),)\n"


def workspace_in(folder):
    return Workspace(folder, catalogue.paths())


def write_tanh(folder, body=TANH, head=""):
    """A learner's file whose backward ends with `body`."""
    stub = catalogue.load(catalogue.paths()["tanh"]).stub
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "02_tanh.py"
    write_text(file, head + stub.partition("        # TODO")[0] + body)
    return file


def check(folder, capsys, *more, name="tanh"):
    capsys.readouterr()
    code = run_here(exercise.main, "check", name, "--workspace", folder, "--json", *more)
    return code, json.loads(capsys.readouterr().out)


def test_a_right_file_passes_and_opens_the_solution(tmp_path, capsys):
    assert "once yours passes" in refusal(exercise.main, capsys, "solution", "tanh", "--workspace", tmp_path)
    write_tanh(tmp_path)
    code, verdict = check(tmp_path, capsys)
    assert code == 0 and verdict["status"] == "passed" and verdict["cases"] > 20
    assert "class Tanh(Function):" in output_of(exercise.main, "solution", "tanh", "--workspace", tmp_path)
    page = write_tanh(tmp_path, "        return (dout * (1 - ctx.out),)\n").with_suffix(".html")  # changed since
    for is_shown in (False, False, True):
        output_of(exercise.main, "hint", "tanh", "--workspace", tmp_path)
        assert run_here(exercise.main, "check", "tanh", "--workspace", tmp_path, "--html") == 1
        assert ("your lines beside right ones" in read_text(page)) == is_shown
    assert "# A right answer" in output_of(exercise.main, "solution", "tanh", "--workspace", tmp_path)


def test_a_teacher_switches_solutions_off(tmp_path, capsys):
    where = ("tanh", "--workspace", tmp_path / "class")
    output_of(exercise.main, "stubs", where[-1], "--exercises", catalogue.HERE, "--no-solutions")
    write_tanh(where[-1])
    assert run_here(exercise.main, "check", *where) == 0
    assert "switched off" in refusal(exercise.main, capsys, "solution", *where)
    assert [run_here(exercise.main, "hint", *where) for _ in range(2)] == [0, 0]
    assert "the third hint is the line itself" in refusal(exercise.main, capsys, "hint", *where)


@pytest.mark.parametrize(
    "body, head, status, words",
    [
        ("        return (dout * (1 - ctx.out),)\n", "", "wrong", "square is missing"),
        ("        return (\n", "", "syntax", "cannot read"),
        ("        return (dout * ctx.nothing,)\n", "", "error", "AttributeError"),
        (TANH, "import minigrad.functional as F\n", "refused", "minigrad.functional"),
        (TANH, "from minigrad.functional.activation import Tanh as T\n", "refused", "yours to write"),
        ("        dout[...] = 0\n        return (dout,)\n", "", "wrong", ""),
    ],
)
def test_a_wrong_file_gets_its_diagnosis_and_its_line(tmp_path, capsys, body, head, status, words):
    file = write_tanh(tmp_path, body, head)
    code, verdict = check(tmp_path, capsys)
    assert code == 1 and verdict["status"] == status and words in verdict["diagnosis"], verdict
    assert verdict["code"] == read_text(file).splitlines()[verdict["line"] - 1].strip()


@pytest.mark.parametrize(
    "dx, dout", [("dout * (1 - ctx.out)", "[0.7]"), ("np.minimum(dout, 9) * (1 - ctx.out**2)", "[700.]")]
)
def test_what_the_failing_case_prints_is_shown(tmp_path, capfd, dx, dout):
    write_tanh(tmp_path, f"        print('dout is', dout)\n        return ({dx},)\n")
    code, verdict = check(tmp_path, capfd)
    assert code == 1 and verdict["printed"][0].startswith(f"dout is {dout}")
    assert run_here(exercise.main, "check", "tanh", "--workspace", tmp_path) == 1
    assert "In this case it prints:" in capfd.readouterr().out


WALK = "    breakpoint()\n    for source, slope in root.inputs:\n        source.grad = slope\n"


@pytest.mark.parametrize(
    "name, body, seen",
    [("tanh", "        breakpoint()\n        return (dout * (1 - ctx.out),)\n", "dout"), ("walk", WALK, "root")],
)
def test_debug_runs_the_failing_case_here(tmp_path, monkeypatch, name, body, seen):
    stops = []
    monkeypatch.setattr(sys, "breakpointhook", lambda: stops.append(sys._getframe(1).f_locals[seen]))
    exercise_ = catalogue.load(catalogue.paths()[name])
    text = exercise_.stub.partition("        # TODO" if name == "tanh" else "    # TODO")[0] + body
    write_text(tmp_path / exercise_.path.name, text)
    assert run_here(exercise.main, "check", name, "--workspace", tmp_path, "--debug") == 1
    assert len(stops) == 1 and (name == "walk" or stops[0].size == 1)


def test_list_start_and_hints(tmp_path, capsys):
    rows = json.loads(output_of(exercise.main, "list", "--workspace", tmp_path, "--json"))
    assert len(rows) >= 33 and rows[0]["name"] == "mul" and not any(row["passed"] for row in rows)
    said = output_of(exercise.main, "start", 10, "--workspace", tmp_path)
    assert "lesson 421, attention on raw embeddings" in said and "lesson.py 421" in said
    assert "TODO" in read_text(tmp_path / "10_softmax.py")
    capsys.readouterr()
    for level in (1, 2, 3, 3):
        said = json.loads(output_of(exercise.main, "hint", "--workspace", tmp_path, "--json"))
        assert (said["name"], said["level"]) == ("softmax", level)


def test_weeks_are_filled_in_the_order_of_the_course(tmp_path, capsys):
    weeks = json.loads(output_of(exercise.main, "list", "--workspace", tmp_path, "--json", "--pacing", 1))
    minutes = {name: int(catalogue.load(path).effort.split()[0]) for name, path in catalogue.paths().items()}
    assert [name for week in weeks for name in week] == list(minutes) and len(weeks) > 15
    assert all(sum(minutes[name] for name in week) == sum(week.values()) <= 60 for week in weeks)
    said = output_of(exercise.main, "list", "--workspace", tmp_path, "--pacing", 2)
    assert f"{sum(minutes.values())} minutes by the exercises' own" in said and "   1      102  mul, tanh, walk" in said
    text = read_text(catalogue.paths()["mul"])
    write_text(tmp_path / "01_mul.py", text.replace("2 min, easy", "easy"))
    error = refusal(exercise.main, capsys, "list", "--exercises", tmp_path, "--pacing", 2)
    assert "01_mul.py does not say how many minutes it takes: effort='easy'" in error


def check_assessed(folder, capsys, name):
    return check(folder, capsys, "--exercises", catalogue.ASSESSMENT, name=name)


def test_a_class_gets_stubs_without_solutions(tmp_path, capsys):
    exercises = [catalogue.load(path) for path in catalogue.paths(catalogue.ASSESSMENT).values()]
    assert "6 stubs" in output_of(exercise.main, "stubs", tmp_path / "class")
    assert len(list((tmp_path / "class").iterdir())) == len(exercises) == 6
    for each in exercises:
        text = read_text(tmp_path / "class" / each.path.name)
        secret = [*each.blanks.splitlines(), "EXERCISE", "BLANKS", "SLIPS", "hints", *(why for _, _, why in each.slips)]
        assert "TODO" in text and not [line for line in secret if line.strip() and line.strip() in text]
        assert check_assessed(tmp_path / "class", capsys, each.name)[1]["status"] == "unfinished"
    file = tmp_path / "class" / "01_softplus.py"
    write_text(file, exercises[0].completed())
    assert check_assessed(tmp_path / "class", capsys, "softplus")[1]["status"] == "passed"
    assert "01_softplus.py exists" in refusal(exercise.main, capsys, "stubs", tmp_path / "class")
    assert read_text(file) == exercises[0].completed()


@pytest.mark.slow
def test_nothing_tells_the_solution_of_an_assessment(tmp_path, capsys):
    softplus = catalogue.load(catalogue.paths(catalogue.ASSESSMENT)["softplus"])
    session = watching.Session(Workspace(tmp_path, catalogue.paths(catalogue.ASSESSMENT)))
    capsys.readouterr()
    assert session.press("h") and capsys.readouterr().out.startswith("there are no hints for softplus")
    for old, new, reason in [*softplus.slips, ("np.logaddexp(0, x)", "np.log(1 + np.exp(x))", "np.logaddexp")]:
        write_text(tmp_path / "01_softplus.py", softplus.completed(old, new))
        _, verdict = check_assessed(tmp_path, capsys, "softplus")
        assert verdict["status"] == "wrong" and verdict["details"] and reason not in verdict["diagnosis"]


def test_reset_keeps_the_learners_file(tmp_path, monkeypatch):
    file = write_tanh(tmp_path)
    mine = read_text(file)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert run_here(exercise.main, "reset", "tanh", "--workspace", tmp_path) == 1
    assert read_text(file) == mine
    assert run_here(exercise.main, "reset", "tanh", "--workspace", tmp_path, "--yes") == 0
    assert "NotImplementedError" in read_text(file)
    assert read_text(tmp_path / "02_tanh.old1.txt") == mine


@pytest.mark.parametrize("name, wrong", [("passed", 5), ("hints", ["mul"]), ("current", ["mul"])])
def test_a_record_that_was_edited_is_refused_in_one_sentence(tmp_path, capsys, name, wrong):
    write_text(tmp_path / "progress.json", json.dumps({name: wrong}))
    error = refusal(exercise.main, capsys, "list", "--workspace", tmp_path)
    assert f"{tmp_path / 'progress.json'} is damaged: {name} is " in error


def test_the_loop_checks_when_the_file_is_saved(tmp_path, capsys):
    workspace = workspace_in(tmp_path)
    workspace.start("tanh")
    session = watching.Session(workspace)
    said = capsys.readouterr().out
    assert session.name == "tanh" and "Checking tanh" in said and "TODO" in said
    assert not session.saved()
    time.sleep(0.02)
    write_tanh(tmp_path)
    assert session.saved()
    session.check()
    said = capsys.readouterr().out
    assert "correct in all" in said and "next: walk, the diamond" in said
    answers = {"h": "Hint 1 of 3", "l": "[x]  2 tanh", "c": "1 of", "r": "y or n", "n": "Nothing was", "?": "q quit"}
    for key, words in answers.items():
        assert session.press(key) and words in capsys.readouterr().out, key
    assert session.press("n") and session.name == "walk"
    assert not session.press("q")


@pytest.mark.parametrize("act", [Workspace.start, Workspace.check, Workspace.hint, Workspace.reset])
def test_what_another_terminal_has_noted_survives(tmp_path, act):
    mine, other = (workspace_in(tmp_path) for _ in range(2))
    write_tanh(tmp_path)
    assert mine.passed == [] and other.check("tanh").passed and other.hint("tanh")[0] == 1
    act(mine, "mul")
    for each in (mine, other, workspace_in(tmp_path)):
        assert each.passed == ["tanh"] and each.state["hints"]["tanh"] == 1 and each.current() == "mul"
    other.reset("tanh")
    assert mine.passed == [] and "tanh" not in mine.state["hints"] and mine.current() == "tanh"


@pytest.mark.parametrize("older", [Verdict("wrong"), Verdict("passed")])
def test_an_older_verdict_does_not_take_a_newer_pass_away(tmp_path, monkeypatch, older):
    def while_another_terminal_passes(*arguments):
        monkeypatch.undo()
        write_tanh(tmp_path)
        assert workspace_in(tmp_path).check("tanh").passed
        return older

    mine = workspace_in(tmp_path)
    monkeypatch.setattr(processes, "judge", while_another_terminal_passes)
    assert mine.check("tanh") is older and mine.has_passed("tanh")
    write_tanh(tmp_path, body="        return (dout,)\n")
    assert not mine.check("tanh").passed and "tanh" not in mine.state["passed"]


def test_several_at_the_same_moment_lose_nothing(tmp_path):
    names = list(catalogue.paths())[:5]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: workspace_in(tmp_path).hint(name), names))
    assert workspace_in(tmp_path).state["hints"] == dict.fromkeys(names, 1)


def test_the_loop_reads_letters_until_the_learner_quits(tmp_path, monkeypatch):
    """Lines that arrive together are all read; the end of the input quits as well."""
    for typed, hints in ((b"h\nLIST\n\nq\r\nh\n", 1), (b"h\n\nh", 2)):
        reading, writing = os.pipe()
        os.write(writing, typed)
        os.close(writing)
        with open(reading, encoding="utf-8") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            text = output_of(exercise.main, "--workspace", tmp_path, "--manual")
        assert text.count("Checking mul ...") == 2 and text.count("Hint") == hints
        assert "the sign of dy is flipped" in text


def test_arrows_and_function_keys_are_not_letters_on_windows(monkeypatch):
    """There each of them is two characters: "\xe0Q" is Page Down, and must not quit."""
    typed = list("\xe0Q\0;N\r")
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(getwch=lambda: typed.pop(0)))
    assert [watching.windows_key() for _ in range(4)] == ["\xe0", "\0", "N", "\r"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_arrows_and_function_keys_are_not_letters(monkeypatch):
    keyboard, terminal = os.openpty()
    with open(keyboard, "wb", buffering=0) as fingers, open(terminal, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with watching.without_enter():
            keys = watching.reading_keys()
            for typed, key in ((b"\x1bOQ", "\x1b"), (b"\x1b[H", "\x1b"), (b"N", "n"), (b"\n", "\n")):  # F2, Home
                fingers.write(typed)
                assert keys.get(timeout=60) == key
        fingers.close()
        assert keys.get(timeout=60) == "q"


def test_run_puts_the_learners_part_into_the_gpt(tmp_path, capsys, monkeypatch):
    from scripts.course.checker import in_gpt

    monkeypatch.setattr(in_gpt, "STEPS", {False: 3, True: 3})
    write_tanh(tmp_path)
    assert check(tmp_path, capsys)[0] == 0
    assert "your parts in it: tanh" in output_of(exercise.main, "run", "tanh", "--workspace", tmp_path)
    assert run_here(exercise.main, "run", "--all", "--workspace", tmp_path, "--out-dir", tmp_path / "page") == 0
    page = read_text(tmp_path / "page" / "my_gpt.html")
    assert f"1 of {len(catalogue.paths())} parts are mine" in page
    assert 'class="part mine used" title="a first backward' in page and "<polyline" in page


def pass_parts(folder, *names, edits=None):
    """A workspace in which these exercises are noted as passed. edits: of an exercise's right solution."""
    folder.mkdir(exist_ok=True)
    passed = {}
    for name in names:
        each = catalogue.load(catalogue.paths()[name])
        text = each.completed()
        for old, new in (edits or {}).get(name, {}).items():
            assert old in text
            text = text.replace(old, new)
        write_text(folder / each.path.name, text)
        passed[name] = sha256_of(folder / each.path.name)
    write_text(folder / "progress.json", json.dumps({"passed": passed}))
    return folder


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Few steps, and a small Llama instead of SmolLM2; GPT-2 cannot be had."""
    manual_seed(0)
    tokenizer = Tokenizer.train("what is the capital of france", 280, ("<|im_start|>", "<|im_end|>"))
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 16, "n_inner": 24, "block_size": 128}
    llama = Llama(LlamaConfig(vocab_size=len(tokenizer), **shape))
    for parameter in llama.parameters():
        parameter.data *= 5  # so that it does not attend to all tokens alike
    llama.save_pretrained(tmp_path / "llama", tokenizer)

    def find(source):
        if source == "gpt2":
            raise FileNotFoundError("there is no network")
        return tmp_path / "llama" if source == "smollm2" else source

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(capstone.hub, "find", find)
    monkeypatch.setattr(capstone, "STEPS", 10)


PARTS = (*capstone.PROGRAMS["GPT"], "llama")


def test_the_capstone_trains_takes_weights_and_becomes_a_llama(tmp_path, models):
    folder = pass_parts(tmp_path / "mine", *PARTS)
    said = output_of(exercise.main, "capstone", "--workspace", folder, "--out-dir", tmp_path / "out")
    assert "largest difference" in said and "gpt2 is skipped: there is no network" in said
    assert said.count("small_gpt: the 4 states of a text") == 2 and "llama: the 4 states of a text" in said
    assert "(this model has learned too little" in said and said.endswith("\nYou have written a Llama.\n")
    for name, function in (("my_gpt", "train"), ("my_llama", "llama_block")):
        assert f"def {function}(" in read_text(tmp_path / "out" / f"{name}.py")


def capstone_refusal(folder, capsys):
    return refusal(exercise.main, capsys, "capstone", "--workspace", folder, "--out-dir", folder / "out")


def test_the_capstone_says_what_to_write_next(tmp_path, models, capsys):
    folder = pass_parts(tmp_path / "mine", "block", "gpt")
    assert "exercise.py start training_loop" in capstone_refusal(folder, capsys)
    pass_parts(folder, *PARTS[:-1])
    assert "exercise.py start llama" in capstone_refusal(folder, capsys)


def test_the_capstone_says_what_it_lacks_and_what_ran(tmp_path, models, capsys, monkeypatch):
    folder = pass_parts(tmp_path / "mine", *PARTS)
    with monkeypatch.context() as here:
        here.setitem(sys.modules, "jinja2", None)  # as if it were not installed
        assert "pip install jinja2" in capstone_refusal(folder, capsys) and not (folder / "out").exists()
    monkeypatch.setattr(capstone.hub, "find", lambda source: Path(source).resolve(strict=True))  # no SmolLM2
    said = output_of(exercise.main, "capstone", "--workspace", folder, "--out-dir", tmp_path / "out")
    assert "smollm2 is skipped" in said and "You have written a GPT." in said and "written a Llama" not in said


@pytest.mark.parametrize(
    "name, edit, words",
    [
        ("block", {"x = x + attention": "x = attention"}, "small_gpt: your block 0 differs first from ours"),
        ("training_loop", {"gradients = {": "gradients = gradients if step else {"}, "your loss[2] has wrong values"),
        ("load_weights", {"name.removeprefix": "1 / 0 or name.removeprefix"}, "ZeroDivisionError"),
        ("llama", {"100_000": "10_000"}, "llama: your block 0 differs first from ours"),
        pytest.param("llama", {"D = len": "while True: pass\n    D = len"}, "no end after 2 s", marks=pytest.mark.slow),
    ],
)
def test_the_capstone_names_what_is_wrong(tmp_path, models, capsys, monkeypatch, name, edit, words):
    monkeypatch.setattr(capstone, "LIMITS", capstone.LIMITS._replace(seconds=2))
    assert words in capstone_refusal(pass_parts(tmp_path / "mine", *PARTS, edits={name: edit}), capsys)
