"""The threat model of marking as files that try: none changes a verdict or touches what is outside its process."""

import os
import sys
from pathlib import Path

import pytest

from scripts.course.checker import processes, repairing, source
from tests.exercises import planting

RIGHT = planting.reference_text("softplus")
SOFTPLUS = planting.exercise_named("softplus")
FAST = processes.Limits(seconds=1, megabytes=1024)
# Modules that a submission may import lead to all others.
REACH = "import dataclasses\nsys = dataclasses.sys\nos = sys.modules['os']\n"
IS_CONFINED = sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64")


def verdict_on(text, limits=FAST):
    return processes.judge(SOFTPLUS, text.encode(), Path("softplus.py"), 0, limits)


def wrong(text):
    """The reference with a wrong derivative, after `text`."""
    return REACH + text + "\n" + RIGHT.replace("0.5 *", "0.25 *")


def in_forward(text):
    return REACH + RIGHT.replace("        ctx.x = x\n", f"        ctx.x = x\n        {text}\n")


def test_the_reference_passes():
    assert verdict_on(RIGHT).passed and verdict_on(in_forward("pass")).passed
    assert verdict_on(in_forward("größe = α = x")).passed


CHEATS = {
    "import": "from tests.exercises.references.softplus import Softplus",
    "hidden import": "Softplus = getattr(sys, 'modules')['builtins'].__dict__['__imp' + 'ort__']('torch')",
    "the path": "sys.path.append({root!r}); sys.modules['importlib'].import_module('finetune')",
    "frames": "f = sys._getframe()\n"
              "while f: answer = f.f_globals.get('expected') or f.f_locals.get('check'); f = f.f_back\n"
              "Softplus = answer.expected",
    "another comparison": "import numpy as np\nnp.allclose = np.array_equal = np.isclose = lambda *a, **k: True",
    "a verdict": "os.write(4, b'{{\"status\": \"passed\"}}' * 100)",
    "an answer in advance": "os.write(4, b'{{\"dict\": [[\"result\", {{\"dict\": []}}]]}}\\n')",
    "exit": "sys.exit(0)",
    "at exit": "os.register_at_fork(before=print)\nos._exit(0)",
    "no pipes": "for n in range(20): sys.modules['io'].FileIO(n).close()",
    "threads": "sys.modules['_thread'].start_new_thread(print, ())",
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes(name):
    verdict = verdict_on(wrong(CHEATS[name].format(root=str(Path(__file__).resolve().parents[2]))))
    assert not verdict.passed
    if name in ("import", "hidden import", "the path"):
        assert verdict.status == "refused" and "import" in verdict.diagnosis, verdict


@pytest.mark.skipif(not IS_CONFINED, reason="only Linux has seccomp; elsewhere the README advises a container")
@pytest.mark.parametrize(
    "attack",
    [
        "open({outside!r}, 'w').write('changed')",
        "open({outside!r}).read()",
        "os.remove({outside!r})",
        "os.symlink({outside!r}, {outside!r} + '3')",
        "os.listdir('/')",
        "os.kill(os.getppid(), 9)",
        "os.fork()",
        "os.execv('/bin/sh', ['sh', '-c', 'echo > {outside}'])",
        "os.posix_spawn('/bin/sh', ['sh'], {{}})",
    ],
)
def test_nothing_outside_is_touched(tmp_path, attack):
    outside = tmp_path / "outside.txt"
    outside.write_text("as it was", encoding="utf-8")
    verdict = verdict_on(in_forward(attack.format(outside=str(outside))))
    assert verdict.status == "error" and "PermissionError" in verdict.diagnosis, verdict
    assert [path.name for path in tmp_path.iterdir()] == ["outside.txt"]
    assert outside.read_text(encoding="utf-8") == "as it was"


memory_is_limited = pytest.mark.skipif(sys.platform == "darwin", reason="macOS ignores the limit, and would swap")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("while True: pass", "timeout"),
        ("while True: print('x' * 10**6)", "timeout"),
        ("sys.modules['_signal'].signal(24, lambda *a: None)\n        while True: pass", "timeout"),
        pytest.param("np.ones((10**6, 10**4))", "memory", marks=memory_is_limited),
        ("x = np.ones(10**6); return x", "error"),
        ("return np.array([None, print])", "wrong"),
        ("return type('Anything', (), {'__eq__': lambda *a: True, '__array__': lambda *a: 1 / 0})()", "wrong"),
        ("x = []; x.append(x); return x", "error"),
        ("raise type('\\ud800', (Exception,), {'__str__': lambda self: '\\ud800' * 10**6})", "error"),
        ("raise BaseException", "error"),
        ("os.read(3, 1)", "timeout"),
    ],
)
def test_what_does_not_end_or_answer_gets_its_verdict(monkeypatch, text, status):
    monkeypatch.setattr(processes, "PATIENCE", 3)
    verdict = verdict_on(in_forward(text))
    assert verdict.status == status, verdict
    assert len(verdict.diagnosis) < 2000
    verdict.diagnosis.encode("utf-8")


def test_whether_submissions_are_confined_is_known(monkeypatch):
    assert processes.is_confined() == IS_CONFINED
    monkeypatch.setattr(processes, "START", processes.START.replace("worker.main", "worker.MACHINES = {}; worker.main"))
    assert not processes.is_confined()


def test_the_worker_holds_no_answer():
    """From inside, no module of ours but the worker can be found, and no path to any."""
    text = "names = [n for n in sys.modules if n.split('.')[0] in ('minigrad', 'gpt', 'scripts', 'tests')]\n"
    verdict = verdict_on(REACH + text + "raise ValueError(f'{sorted(names)} {sys.path}')")
    assert verdict.diagnosis == "ValueError: ['minigrad', 'minigrad.autograd'] []"


def test_the_workers_environment_holds_no_secret(monkeypatch):
    ours = {"SOME_TOKEN": "a secret", "HOME": "/nowhere", "PYTHONPATH": "/nowhere", "LANG": "xx"}
    monkeypatch.setattr(os, "environ", ours | {name: os.environ[name] for name in os.environ.keys() & {"SYSTEMROOT"}})
    assert verdict_on(RIGHT).passed
    said = verdict_on(in_forward("raise ValueError(dict(os.environ))")).diagnosis
    assert "'OPENBLAS_NUM_THREADS': '1'" in said and "secret" not in said and "nowhere" not in said, said


def test_a_refused_import_is_told_what_may_be_imported():
    allowed = source.ALLOWED - {"__future__"}
    assert verdict_on("".join(f"import {name}\n" for name in allowed) + RIGHT).passed
    around = "__import__('os')", "().__class__.__base__.__subclasses__()"
    for text in ("import os", "from minigrad.tensor import Tensor", *around):
        said = verdict_on(f"{text}\n{RIGHT}")
        assert said.status == "refused" and all(f" {name}" in said.diagnosis for name in allowed), said


SAME = {  # answers whose words could differ from run to run, or say too little; and a part of what is said
    "return np.array([None, 1])": "got array of dtype object",
    "return {'x': {*'abcdefgh'}, 'y': object}": "got dict {'x': set, 'y': type}",
    "raise ValueError(f'{Softplus.forward} {object()}')": "<function Softplus.forward> <object object>",
    "raise ValueError({*'abcdefgh'})": "ValueError: {",
    "return 10**400": "must be an array or a number, got integer of more than 64 bits",
    "print(object(), {*'abcdefgh'}); return x": "",
}


@pytest.mark.parametrize("text", SAME)
def test_the_same_file_gets_the_same_words(text):
    first, second = (verdict_on(in_forward(text)).facts() | {"seconds": 0} for _ in range(2))
    assert first == second and SAME[text] in first["diagnosis"] and "0x" not in str(first)


def test_an_input_cannot_be_written_to():
    assert "writes to its input" in verdict_on(in_forward("x[...] = 0")).diagnosis


def test_a_long_file_is_judged_without_its_reason():
    verdict = verdict_on(wrong("\n".join(f"a{i} = {i} + 1" for i in range(1000))), processes.Limits(seconds=0.9))
    assert verdict.status == "wrong" and "wrong values" in verdict.diagnosis, verdict


def test_a_call_brings_its_helpers_along_and_no_answer(tmp_path):
    """`softplus` is a parameter of the call; that a right softplus has the same name must not send it to the worker."""
    file = tmp_path / "exercise_file.py"
    text = "def softplus(x): return 'right'\nclass Helper: pass\ndef helper(x): return Helper()\n"
    file.write_text(text + "def call(softplus, x): return softplus(helper(x))\n", encoding="utf-8")
    names = {}
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), names)
    sent = source.with_helpers(names["call"])
    assert "class Helper" in sent and "def helper" in sent and "right" not in sent


ENDLESS = "n = 9\nn ** n ** n"


def test_a_change_that_ends_the_process_costs_only_the_reason(monkeypatch):
    """In search of the reason, changes of the file are run: whatever they do, the verdict is the file's own."""
    monkeypatch.setattr(repairing.Repairs, "change", lambda repairs, runs: repairs.helps(ENDLESS, runs) or None)
    verdict = verdict_on(RIGHT.replace("0.5 *", "0.3 * abs(ctx.x) *"))
    assert verdict.status == "wrong" and "dx has wrong values" in verdict.diagnosis, verdict
