"""The debugger in a page: what it shows is what ran, forward and back, and recording changes nothing."""

import base64
import contextlib
import html
import io
import json
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gpt.files import read_text, write_text
from minigrad import Tensor, manual_seed
from minigrad.inspection.line_recorder import LineRecorder, record_lines
from scripts.course.checker import catalogue, processes
from scripts.pages import exercise_steps, stepping
from scripts.pages.stepping import PACKAGES, debugger_data
from tests.scripts.looking import PHONE, click, faults, opened

slow = partial(pytest.param, marks=pytest.mark.slow)
ROOT = Path(__file__).resolve().parents[2]
STEP = ROOT / "scripts" / "step.py"


@pytest.fixture(scope="module")
def recording():
    with np.printoptions():  # the script prints arrays with fewer digits
        return debugger_data(record_lines(STEP, PACKAGES))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("debugger") / "step.html"
    with np.printoptions():
        write_text(path, stepping.step_page("step")[0])
    return path


def numbers(recording, value):
    """The array that a value of the recording is, or the data of its tensor."""
    value = recording["values"][value]
    if "parts" in value:
        return numbers(recording, value["parts"]["data"])
    kept = recording["arrays"][value["array"]]
    kind = {"4": "<f4", "8": "<f8"}[kept["data"][0]]
    return np.frombuffer(base64.b64decode(kept["data"][1:]), kind).reshape(kept["shape"])


def run_step(monkeypatch, trace=None):
    """The names of scripts/step.py after it ran."""
    names = {"__name__": "__main__", "__file__": str(STEP)}
    monkeypatch.setattr(sys, "argv", [str(STEP)])
    manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            exec(compile(read_text(STEP), str(STEP), "exec"), names)
        finally:
            sys.settrace(before)
    return names


@pytest.mark.slow
def test_recording_does_not_change_a_bit(monkeypatch):
    plain = run_step(monkeypatch)
    recorder = LineRecorder(str(STEP), PACKAGES, {str(STEP): read_text(STEP)})
    recorded = run_step(monkeypatch, recorder._trace)
    assert len(recorder.moments) > 5000
    for one, other in zip(plain["model"].parameters(), recorded["model"].parameters(), strict=True):
        assert one.data.tobytes() == other.data.tobytes() and one.grad.tobytes() == other.grad.tobytes()


def test_its_numbers_are_those_of_that_moment(recording, monkeypatch):
    seen = []  # of the script's own lines: the line, and copies of its arrays

    def trace(frame, event, _):
        if frame.f_code.co_filename != str(STEP) or frame.f_code.co_name != "<module>":
            return None
        if event in ("line", "return"):
            arrays = {n: v.data if isinstance(v, Tensor) else v for n, v in frame.f_locals.items()}
            seen.append((frame.f_lineno, {n: v.copy() for n, v in arrays.items() if isinstance(v, np.ndarray)}))
        return trace

    run_step(monkeypatch, trace)
    mine = [moment for moment in recording["moments"] if moment[0] == 0]
    seen = seen[-len(mine) :]
    held = {}
    for (line, arrays), (_, noted, changes, *_returned) in zip(seen, mine, strict=True):
        held.update(changes)
        assert line == noted
        for name, array in arrays.items():
            np.testing.assert_array_equal(numbers(recording, held[name]), array, err_msg=f"{name} at line {line}")
    assert len(seen) > 15 and {"x", "logits", "loss", "ids", "before", "wte"} <= held.keys()


def test_its_lines_are_those_of_the_files(recording):
    for file in recording["files"]:
        text = html.unescape(re.sub("<[^>]+>", "", "\n".join(file["lines"])))
        assert text == read_text(ROOT / file["path"])
    assert [name for name, _ in recording["marks"]] == ["forward", "loss", "backward", "clip", "step"]


def test_what_is_too_long_is_said_and_large_summarized(tmp_path):
    path = tmp_path / "long.py"
    write_text(path, "import numpy as np\n# start\nx = np.arange(6000.0).reshape(2, 50, 60)\ny = x\n")
    found = debugger_data(record_lines(path, []))
    (large,) = [kept for kept in found["arrays"] if kept["range"] == [0.0, 5999.0]]
    assert (large["shape"], large["corner"]) == ((2, 50, 60), (8, 8))
    text = "import numpy as np\n# start\nx = np.full(5000, -np.inf)\ny = np.array(['a'])\nz = 0"
    write_text(path, text)
    found = debugger_data(record_lines(path, []))
    assert [kept["range"] for kept in found["arrays"]] == [["-inf", "-inf"]] and {"text": "ndarray"} in found["values"]
    write_text(path, "for i in range(100_000):\n    i\n")
    with pytest.raises(ValueError, match="more than 60,000 lines, too many for a page"):
        record_lines(path, [])


@pytest.mark.parametrize("name", ["softmax", *(slow(name) for name in stepping.STEPS if name != "softmax")])
def test_every_script_has_a_page(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step.py"])
    assert stepping.main(["--html", name, "--out-dir", str(tmp_path)]) == 0
    assert f"{name}.html" in capsys.readouterr().out and (tmp_path / f"{name}.html").stat().st_size < 3_000_000


def test_forward_to_the_end_and_back_visits_the_same_states(chromium, tmp_path):
    page = tmp_path / "lora.html"
    write_text(page, stepping.step_page("lora")[0])
    with opened(chromium, page) as tab:
        states = tab.evaluate("""() => {
          const line = () => document.querySelector(".now").dataset.line;
          const state = () => [at("file").textContent, line(), at("names").textContent].join("|");
          const there = [state()], back = [];
          for (let last = -1; last !== now; there.push(state())) { last = now; step.into(); }
          for (let last = -1; last !== now; back.push(state())) { last = now; step.back(); }
          return [there.slice(0, -1), back];
        }""")  # fmt: skip
        there, back = states
        assert len(there) > 200 and there[:-1] == back[:-1][::-1] and there[0] == back[-1]


def test_steps_searches_and_changes(chromium, page):
    with opened(chromium, page) as tab:
        tab.keyboard.press("ArrowDown")
        line = tab.locator(".now").get_attribute("data-line")
        tab.keyboard.press("ArrowDown")
        assert tab.inner_text("#file") == "scripts/step.py"
        assert int(tab.locator(".now").get_attribute("data-line")) == int(line) + 1
        click(tab, "step", exact=True)
        tab.keyboard.press("F11")
        tab.keyboard.press("o")
        tab.get_by_label("Find a name").fill("adam_update")
        tab.keyboard.press("Enter")
        assert "Nothing here is called adam_update" in tab.inner_text("#state")
        tab.get_by_label("Find a name").fill("clip_grad_norm_")
        tab.keyboard.press("Enter")
        assert tab.inner_text("#file") == "minigrad/optim.py"
        tab.locator("#source .row").nth(0).click()
        assert "did not run" in tab.inner_text("#state")
        click(tab, "clip", exact=True)
        click(tab, "the next line that changes wte")
        assert "has changed it" in tab.inner_text("#state")
        assert tab.inner_text("#whose") == "Names in scale"
        tab.evaluate("go(moments.length - 1)")
        click(tab, "the last line that changes wte")
        click(tab, "the last line that changes wte")
        assert tab.inner_text("#file") == "minigrad/optim.py"
        assert "p.data -= lr * m_hat" in tab.inner_text(".ran")


def test_it_can_be_read(chromium, page, viewport):
    with opened(chromium, page) as tab:
        tab.set_viewport_size(viewport)
        assert faults(tab) == []


def test_a_phone_shows_what_a_line_has_changed(chromium, page):
    with opened(chromium, page, viewport=PHONE) as tab:
        for _ in range(3):
            tab.click("#over")
        places = [tab.locator(place).first.bounding_box() for place in (".now", ".new h3")]
        assert all(0 < box["y"] < PHONE["height"] - box["height"] for box in places)
        rows = "e => e.clientHeight / parseFloat(getComputedStyle(e).lineHeight)"
        assert tab.locator("#source").evaluate(rows) >= 14


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("softmax", "out * (dout - dot)", "out * dout - dot"),
        slow("layer_norm", "ctx.x_hat * (dx_hat", "(dx_hat"),
        slow("attention", "* scale + mask", "+ mask"),
        ("bpe_merge", "", ""),
    ],
)
def test_the_first_line_that_differs_from_a_right_solution(name, old, new, tmp_path):
    exercise = catalogue.load(catalogue.paths()[name])
    path = tmp_path / "answer.py"
    write_text(path, exercise.completed(old, new))
    made = exercise_steps.exercise_page(exercise, processes.judge(exercise, path.read_bytes(), path), path)
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', made, re.DOTALL)[1])
    line = data["beside"]["line"]
    assert line is None if not old else new in read_text(path).splitlines()[line - 1]
