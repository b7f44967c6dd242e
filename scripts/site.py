"""Write the course as a site that needs nothing installed: lessons and exercises run in the browser, in Pyodide.

Everything is served from one place. Pyodide, the editor and the wheels come from a folder of files that are pinned by
their SHA-256 (scripts/pages/site/assets.json); nothing is fetched from elsewhere when a page is used, and nothing sent.

What takes seconds is written first, and --serve shows it from then on; lessons follow one by one, each a few seconds to
a minute. After Ctrl-C, the same command goes on. Lessons whose text and code have not changed are kept.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc_data import topics
from typing import Any

from start import command_line

import numpy as np

from gpt.corpora.python_corpus import BUNDLED, BUNDLED_CODE, documents, python_code
from gpt.files import atomic_write, read_text, write_text
from gpt.training.checkpoint import has_checkpoint
from gpt.training.loading import load_model
from gpt.training.run_state import read_state
from gpt.weights.gguf_file import GGUFError
from gpt.weights.pretrained import WEIGHTS
from gpt.weights.safetensors_file import SafetensorsFile, write_safetensors
from scripts.course.checker import capstone, catalogue
from scripts.course.checker.checks import Exercise
from scripts.course.lessons.cells import ONE_PAGE, lessons, read_cells, title
from scripts.course.lessons.concepts import ROOT, dotted, lessons_of, number
from scripts.export import export
from scripts.pages.explore_data import Looker
from scripts.pages.lesson_index import Index, answers_in, first_page
from scripts.pages.local_server import NOT_FOUND, Server, SiteFiles, answer, site_server
from scripts.pages.markup import markdown_to_html
from scripts.pages.pinned_files import SITE, copy_assets, fetch
from scripts.pages.site import smollm2, step, train
from scripts.pages.site.lesson import TRAVELS, made_from
from scripts.pages.site.source import LIBRARY, write_sources
from scripts.pages.stepping import STEPS, step_page, title_of
from scripts.shared.web_page import data_script, escaped, joined, page, page_of_data

EXAMPLES = """examples:
  python scripts/site.py --fetch --serve        fetch the pinned files (30 MB, once), write the site and serve it here
  python scripts/site.py OUT --assets DIR       for any web server, from files that --fetch has put into DIR
  python scripts/site.py OUT --only 00,421      with these lessons only
"""
CODE = 150_000  # characters of the standard library's code, for lesson 444
LESSON_434 = ("gpt2-folder/*", "gpt2-folder-trace.npz", "smollm2.npz")  # the files of tests/gpt/golden that it loads
DEMO = "runs/demo"
# About how many seconds a lesson runs, if not USUALLY: from this follows how long the rest takes.
SECONDS = {"one": 20, "00": 4, "01": 4, "421": 5, "423": 4, "432": 30, "445": 28, "446": 33, "453": 25, "455": 60}
USUALLY = 14
WITH_A_MODEL = "`make site WITH=smollm` or `python scripts/setup.py --with smollm site` brings one, in a minute or two"
NO_MODEL = "<h2>What comes next?</h2><p>The model that continues a story here is trained after the lessons.</p>"
NO_CHAT = "would answer here: <code>make site WITH=smollm</code> brings it (93 MB)"
STEP = "explain.html explain.js site/step.html site/step.js site/editor.html"
BEGINNING = "Once upon a time there was a little"
# The exercises on whose pages the capstone runs: what it builds, the model whose weights it takes, what that reads.
CAPSTONES = {"load_weights": ("GPT", "stories", BEGINNING), "llama": ("Llama", smollm2.NAME, capstone.QUESTION)}


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    add = parser.add_argument
    add("out", nargs="?", default="runs/site", metavar="OUT", help="folder for the site")
    add("--assets", default="runs/assets", metavar="DIR", help="folder with the pinned files")
    add("--fetch", action="store_true", help="fetch what is missing there: from Pyodide's releases or package indexes")
    add("--model", default=DEMO, metavar="RUN", help="the model to look into; the demo trains it if it is missing")
    add("--only", metavar="N,N,...", help="only the lessons with these numbers")
    add("--serve", action="store_true", help="serve the site at 127.0.0.1 until Ctrl-C")
    add("--port", type=command_line.whole_number(0, 65535), default=8000, help="of --serve")
    arguments = parser.parse_args(argv)
    out, assets = Path(arguments.out), Path(arguments.assets)
    if not arguments.serve:
        parser.refuse(["port"], "is for --serve")
    server = site_server(out, arguments.port) if arguments.serve else None  # first, because the port may be taken
    if arguments.fetch:
        fetch(assets)
    numbers = arguments.only.split(",") if arguments.only else None
    failed = write_site(out, assets, arguments.model, numbers, server)
    SiteFiles.error_message_format = NOT_FOUND  # nothing more appears
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"site: {out.as_posix()}/index.html ({size / 1e6:.0f} MB); any web server can serve this folder", flush=True)
    if failed:
        print(f"without {', '.join(failed)}, which failed: see above; the next call tries again", file=sys.stderr)
    while server:
        time.sleep(1)  # until Ctrl-C
    return int(bool(failed))


def write_site(out: Path, assets: Path, model: str, numbers: list[str] | None, server: Server | None) -> list[str]:
    """Write all files of the site, those that take seconds first, and return the names of those that failed.

    model: a run or folder. numbers: of the lessons; all if None. server: of the site, which answers before what takes
    long. Each file is whole whenever this is interrupted; the next call goes on.
    """
    print("writing the pages that need no long run ...", flush=True)
    copy_assets(assets, out)
    write_service(out, "unfinished")
    project(out / "project.zip")
    draw(out, "step/index.html", STEP, "One step, op by op", step.start())
    draw(out, "train/index.html", "site/train.html site/train.js", "Train a GPT", train.start())
    packed = write_chat(out)
    write_debugger(out)
    shutil.copyfile(SITE / "worker.js", out / "worker.js")
    exercises = [catalogue.load(path) for path in catalogue.paths().values()]
    for exercise in exercises:
        write_exercise(exercise, [each.name for each in exercises], packed, out)
    write_sources(out)
    wanted = [lesson for lesson in (ONE_PAGE, *lessons()) if numbers is None or number(lesson) in numbers]
    answers = None if is_untrained(model) else write_explorer(model, out)
    write_indexes(out, exercises, wanted, answers)
    if server:
        answer(server)
    failed = []
    for lesson in due(wanted, out):
        if run_lesson(lesson, out):
            failed.append(lesson.stem)
        write_indexes(out, exercises, wanted, answers)
    if answers is None:
        if train_demo(model):
            answers = write_explorer(model, out)
        else:
            failed.append("the model of the first page")
    write_indexes(out, exercises, answers=answers)
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "service.js")
    write_service(out, hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16])
    return failed


def write_service(out: Path, version: str) -> None:
    """The service worker. It keeps the files of a version, and none of the version "unfinished"."""
    write_text(out / "service.js", read_text(SITE / "service.js").replace('VERSION"', f'{version}"'))


def draw(out: Path, address: str, files: str, title: str, data: Any) -> None:
    """Write a page of the site that its scripts draw: see `page_of_data`."""
    write_text(out / address, page_of_data(files, title, data, address))


def put(out: Path, address: str, title: str, body: str, kind: str, *modules: str) -> None:
    """Write a page of the site. modules: names of its JavaScript in scripts/pages/site."""
    scripts = joined(*(SITE / f"{name}.js" for name in modules))
    write_text(out / address, page(title, body, kind, [scripts], address))


def write_chat(out: Path) -> dict[str, Any]:
    """The page that chats with SmolLM2, and the weights; if they are not installed, it says how to get them. Returns
    their size and hash, or what is missing.
    """
    try:
        packed = smollm2.pack(out / "models" / f"{smollm2.NAME}.zip")
    except (FileNotFoundError, GGUFError) as error:
        packed = {"missing": f"There is no model here ({error}). {WITH_A_MODEL}."}
        print(f"the site's chat page comes without a model ({error}): {WITH_A_MODEL}")
    draw(out, "chat/index.html", "site/chat.html site/chat.js", "Chat with SmolLM2", packed)
    return packed


def write_debugger(out: Path) -> None:
    """A page for each script that can be stepped through, and a list of them."""
    for name in STEPS:
        address = f"debugger/{name}.html"
        write_text(out / address, step_page(name, address)[0])
    rows = "".join(f'<li><a href="{name}.html">{name}</a>: {escaped(title_of(name))}</li>' for name in STEPS)
    body = f"""<main><h1>Line by line</h1>
<p>A debugger that also runs backwards: the lines of a small script and of the library, and what they change.</p>
<ul>{rows}</ul></main>"""
    put(out, "debugger/index.html", "Line by line", body, "source")


def is_untrained(source: str) -> bool:
    """Whether it is the demo's model, and `train_demo` has something to do."""
    if source != DEMO or not has_checkpoint(source):
        return source == DEMO
    state = read_state(source)
    return state.step < state.planned_steps


def train_demo(folder: str) -> bool:
    """Train the demo's model, or go on where that was interrupted. Returns whether it ran to its end."""
    script, *options = ["train.py", "--init-from", "resume"] if has_checkpoint(folder) else ["demo.py"]
    print("the model of the first page, two to three minutes:", flush=True)
    command = [sys.executable, str(ROOT / "scripts" / script), *options, "--out-dir", folder]
    return subprocess.run(command).returncode == 0


def write_explorer(source: str, out: Path) -> dict[str, Any]:
    """The model and the page that looks into it. Returns its answers to the first words, for the first page."""
    looker = write_model(source, out / "models" / "stories.zip")
    beginning = {"model": "stories", "text": BEGINNING}
    draw(out, "explore/index.html", "explore.html explore.js", "Look inside a model", beginning)
    first = looker.look({"text": BEGINNING})
    answers = [first] + [looker.look({"ids": [*first["ids"], word["id"]]}) for word in first["alternatives"]]
    kept = [{name: answer[name] for name in ("text", "ids", "tokens", "alternatives")} for answer in answers]
    return {"context": looker.longest, "text": BEGINNING, "answers": kept}


def write_model(source: str, path: Path) -> Looker:
    """The model in 16 bits and its tokenizer, as a zip of a folder that `load_model` and transformers read."""
    with tempfile.TemporaryDirectory() as folder, atomic_write(path) as written:
        export(source, folder)
        weights = Path(folder) / WEIGHTS
        with SafetensorsFile(weights) as file:
            halves = {name: file.read(name).astype(np.float16) for name in file.entries}
        write_safetensors(weights, halves, {"format": "pt"})
        written.write(train.zipped(folder))
        return Looker(*load_model(folder))


def write_home(out: Path, answers: dict[str, Any] | None, coming: Sequence[Path], exercises: int) -> None:
    """The first page. It knows the model's answers to the first words, so that it answers before Python is there."""
    course = [[path.stem, f"{dotted(path)} {title(path)}", answers_in(read_cells(path))] for path in lessons()]
    begin = first_page(out / "lessons")
    chats = (out / "models" / f"{smollm2.NAME}.zip").exists()

    def link(address: str) -> str:
        return f'<a href="{address}">' if (out / address).exists() else '<a class="soft">Being written: '

    body = read_text(SITE / "home.html").format(
        begin=link(f"lessons/{begin.stem}.html"),
        first=f"{dotted(begin)}{':' * (begin == ONE_PAGE)} {title(begin)}",
        story=read_text(SITE / "story.html") if answers else NO_MODEL,
        lessons=f"{len(course)} lessons" + f" ({len(coming)} of them still being written)" * bool(coming),
        exercises=exercises,
        chat="answers in this tab" if chats else NO_CHAT,
        look=link("explore/index.html"),
    )
    body += data_script({"lessons": course, **(answers or {})})
    put(out, "index.html", "minigrad: a language model to read", body, "home", "home")


def write_indexes(out: Path, exercises: list[Exercise], wanted: Sequence[Path] = (), answers: Any = None) -> None:
    """The lists of lessons and exercises, each with what this reader has done, and the first page.

    They say which of the lessons in `wanted` are not there yet.
    """
    coming = [lesson for lesson in wanted if not (out / "lessons" / f"{lesson.stem}.html").exists()]
    Index(out / "lessons", is_site=True, coming=coming).write()
    write_exercise_list(exercises, out)
    write_home(out, answers, coming, len(exercises))


def write_exercise_list(exercises: list[Exercise], out: Path) -> None:
    """The list of all exercises in their groups, with a filter."""
    groups: dict[str, list[str]] = {}
    for place, exercise in enumerate(exercises, 1):
        links = [lesson_link(path, dotted(path)) for path in lessons_of(exercise.name)]
        text = f'<a href="{exercise.name}.html">{exercise.name}</a>: {escaped(exercise.title)}'
        taught = f"lesson{'s' * (len(links) > 1)} {', '.join(links)}"
        about = f'<span class="soft">{escaped(exercise.effort)}; {taught}</span>'
        groups.setdefault(exercise.group, []).append(f'<li value="{place}">{text}. {about}</li>')
    html = "".join(f"<section><h2>{name}</h2><ol>{''.join(rows)}</ol></section>" for name, rows in groups.items())
    body = read_text(SITE / "exercises.html").format(groups=html)
    put(out, "exercises/index.html", "The exercises", body, "exercise", "exercises")


def lesson_link(lesson: Path, text: str) -> str:
    """A link from the page of an exercise, or from their list, to a lesson."""
    return f'<a href="../lessons/{lesson.stem}.html">{escaped(text)}</a>'


def project(path: Path) -> None:
    """A zip of our packages and scripts, of the built-in English and code, and of what lesson 434 loads."""
    with atomic_write(path) as written, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in (*LIBRARY, "scripts"):
            for source in sorted((ROOT / folder).rglob("*")):
                if source.suffix in TRAVELS and "assessment" not in source.parts:
                    archive.write(source, source.relative_to(ROOT).as_posix())
        for source in (path for name in LESSON_434 for path in sorted((ROOT / "tests/gpt/golden").glob(name))):
            archive.write(source, source.relative_to(ROOT).as_posix())
        archive.writestr("pydoc_data/topics.py", read_text(topics.__file__))  # what Pyodide leaves out of the library
        archive.writestr(BUNDLED.name, json.dumps(documents()))
        archive.writestr(BUNDLED_CODE.name, python_code(CODE).replace(sys.base_prefix, "/usr"))  # no folder of ours


def due(wanted: list[Path], out: Path) -> Iterator[Path]:
    """The lessons whose page is missing, or was made from another text or other code; before each, what is left."""
    pages = {lesson: out / "lessons" / f"{lesson.stem}.html" for lesson in wanted}
    old = [lesson for lesson, path in pages.items() if not path.exists() or made_from(lesson) not in read_text(path)]
    seconds, begun = [SECONDS.get(lesson.stem.partition("_")[0], USUALLY) for lesson in old], time.monotonic()
    for done, lesson in enumerate(old):
        ran, left = sum(seconds[:done]), sum(seconds[done:])
        minutes = round((time.monotonic() - begun) * left / max(ran, 1) / 60)
        said = f", about {minutes} minute{'s' * (minutes > 1)} left" * bool(done and minutes)
        print(f"lesson {wanted.index(lesson) + 1} of {len(wanted)}{said}: {number(lesson)} {title(lesson)}", flush=True)
        yield lesson


def run_lesson(lesson: Path, out: Path) -> int:
    """Run a lesson and write its page, in a process of its own. Returns the exit status."""
    command = [sys.executable, "-m", "scripts.pages.site.lesson", str(lesson), str(out.resolve())]
    return subprocess.run(command, stdout=subprocess.DEVNULL, cwd=ROOT).returncode


def write_exercise(exercise: Exercise, names: list[str], packed: dict[str, Any], out: Path) -> None:
    """The page of an exercise: its statement, an editor, and the checker. packed: what `write_chat` has returned."""
    name = exercise.name
    statement = markdown_to_html(exercise.stub.partition('"""')[2].partition('"""')[0])
    place = names.index(name)
    links = [lesson_link(each, f"{dotted(each)}, {title(each).partition(', ')[0]}") for each in lessons_of(name)]
    back = f'<a href="{names[place - 1]}.html">← {names[place - 1]}</a>' if place else "<span></span>"
    on = f'<a href="{names[place + 1]}.html">{names[place + 1]} →</a>' if place + 1 < len(names) else "<span></span>"
    data: dict[str, Any] = {"name": name, "file": exercise.path.name, "stub": exercise.stub}
    whole = ""
    modules = ["exercise"]
    if name in CAPSTONES and not (name == "llama" and "missing" in packed):
        kind, model, text = CAPSTONES[name]
        data |= {"kind": kind, "parts": capstone.PROGRAMS[kind], "model": model, "text": text, **packed}
        named = ", ".join(f'<a href="{part}.html">{part}</a>' for part in data["parts"])
        whole = read_text(SITE / "capstone.html").format(kind=kind, parts=named)
        modules.append("capstone")
    body = f"""<main>
<p class="kind">minigrad: exercise {place + 1} of {len(names)}, {escaped(exercise.effort)}</p>
<h1>{escaped(name)}: {escaped(exercise.title)}</h1>
<p class="soft">Lessons: {"; ".join(links)}</p>
{statement}<div id="editor" class="code-editor"></div>
<div class="tools">
<button type="button" class="primary" id="check" title="Shift+Enter or Ctrl+Enter in the editor">Check</button>
<button type="button" id="stop" disabled>Stop</button> <button type="button" id="hint">Hint</button>
<button type="button" id="steps">Line by line</button> <button type="button" id="solution">Solution</button>
<button type="button" id="reset">Start over</button> <span class="soft">Shift+Enter checks; Esc, Tab leaves</span></div>
<pre class="output" id="said" aria-live="polite"></pre>
<p id="passed" hidden>✓ Passed. {on}</p>{whole}
<details><summary>Take your work with you</summary>
<p>Your code and progress stay in this browser. The zip contains both: load it in another browser, or unpack it in a
clone of the project, where <code>python scripts/exercise.py</code> continues with it.</p>
<p><button type="button" id="download">Download all</button>
<label>Load a zip: <input type="file" id="upload" accept=".zip"></label></p></details></main>
<footer><nav aria-label="exercises">{back}<a href="index.html">All exercises</a>{on}</nav></footer>
{data_script(data)}{read_text(SITE / "editor.html")}"""
    put(out, f"exercises/{name}.html", f"Exercise {name}", body, "exercise", *modules)


if __name__ == "__main__":
    command_line.run(main)
