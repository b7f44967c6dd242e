"""Write the course as a site that needs nothing installed: lessons and exercises run in the browser, in Pyodide.

Everything is served from one place. Pyodide, the editor and the wheels come from a folder of files that are pinned by
their SHA-256 (scripts/pages/site/assets.json); nothing is fetched from elsewhere when a page is used, and nothing sent.

What takes seconds is written first, and --serve shows it from then on; lessons follow one by one, each a few seconds to
a minute. After Ctrl-C, the same command goes on. Lessons whose text and code have not changed are kept.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import re
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
from urllib.parse import quote, unquote

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
from scripts.course.pictures import WIDGETS
from scripts.export import export
from scripts.pages.explore_data import Looker
from scripts.pages.lesson_index import answers_in, connect, first_page
from scripts.pages.local_server import NOT_FOUND, Server, SiteFiles, answer, site_server
from scripts.pages.markup import markdown_to_html, python_to_html
from scripts.pages.pinned_files import SITE, copy_assets, fetch
from scripts.pages.site import smollm2, step, train
from scripts.pages.stepping import STEPS, step_page, title_of
from scripts.shared.web_page import FOLDER, POLICY, data_script, escaped, joined, on_site, page, page_of_data

EXAMPLES = """examples:
  python scripts/site.py --fetch --serve        fetch the pinned files (30 MB, once), write the site and serve it here
  python scripts/site.py OUT --assets DIR       for any web server, from files that --fetch has put into DIR
  python scripts/site.py OUT --only 00,421      with these lessons only
"""
TRAVELS = (".py", ".json", ".md", ".html", ".js", ".css")  # the files of our packages that the browser gets
CODE = 150_000  # characters of the standard library's code, for lesson 444
LESSON_434 = ("gpt2-folder/*", "gpt2-folder-trace.npz", "smollm2.npz")  # the files of tests/gpt/golden that it loads
SAME_PLACE = POLICY.replace("script-src", "script-src 'self'") + "; connect-src 'self'; worker-src 'self'"
LIBRARY = ("minigrad", "gpt", "finetune")
DEMO = "runs/demo"
# About how many seconds a lesson runs, if not USUALLY: from this follows how long the rest takes.
SECONDS = {"00": 4, "01": 4, "421": 5, "423": 4, "432": 35, "445": 28, "446": 33, "451": 25, "452": 24, "453": 5}
USUALLY = 14
WITH_A_MODEL = "`make site WITH=smollm` or `python scripts/setup.py --with smollm site` brings one, in a minute or two"
RUNNING = ".lesson-"  # how the name of a folder begins in which a lesson runs
BEGINNING = "Once upon a time there was a little"
NO_MODEL = "<h2>What comes next?</h2><p>The model that continues a story here is trained after the lessons.</p>"
# The pages of the site that a script draws: where its .js and the .html are, a title, the data or what makes them.
TOOLS: dict[str, tuple[Path, str, Any]] = {
    "explore": (FOLDER / "explore", "Look inside a model", {"model": "stories", "text": BEGINNING}),
    "step": (FOLDER / "explain", "One step, op by op", step.start),
    "train": (SITE / "train", "Train a GPT", train.start),
}
# The exercises on whose pages the capstone runs: what it builds, the model whose weights it takes, what that reads.
CAPSTONES = {"load_weights": ("GPT", "stories", BEGINNING), "llama": ("Llama", smollm2.NAME, capstone.QUESTION)}
EDITOR = "".join(f'<script src="../pyodide/{name}.js"></script>\n' for name in ("ace", "mode-python"))
ON_THE_SITE = """<p>All of it runs in this browser; your data stays here. You need to know some Python, and what
a derivative is. <a href="../exercises/index.html">All exercises</a></p>"""


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
    for left in out.glob(RUNNING + "*"):  # by a process that was killed
        shutil.rmtree(left)
    write_service(out, "unfinished")
    project(out / "project.zip")
    for name in ("step", "train"):
        put(out, f"{name}/index.html", tool_page(name))
    packed = write_chat(out)
    write_debugger(out)
    shutil.copyfile(SITE / "worker.js", out / "worker.js")
    exercises = [catalogue.load(path) for path in catalogue.paths().values()]
    for exercise in exercises:
        put(out, f"exercises/{exercise.name}.html", exercise_page(exercise, [e.name for e in exercises], packed))
    write_sources(out)
    wanted = [lesson for lesson in (ONE_PAGE, *lessons()) if numbers is None or number(lesson) in numbers]
    answers = None if is_untrained(model) else write_explorer(model, out)
    write_indexes(out, exercises, wanted, answers)
    if server:
        answer(server)
    failed = []
    for lesson in due(wanted, out):
        if not lesson_page(lesson, out):
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


def put(out: Path, address: str, html: str) -> None:
    """Write a page of the site, with the header that all of them have."""
    write_text(out / address, on_site(html, address))


def tool_page(name: str) -> str:
    """A page of TOOLS. If scripts/pages/site has a form for it, NAME.html and NAME.js, the form is at the top."""
    drawn, title, data = TOOLS[name]
    form = SITE / f"{name}.html"
    has_form = form.exists() and drawn != SITE / name
    more = (EDITOR, SITE / f"{name}.js") if has_form else ()
    html = page_of_data(drawn.name, title, data() if callable(data) else data, SAME_PLACE, drawn.parent, *more)
    return html.replace("</header>", f"{read_text(form)}</header>", 1) if has_form else html


def write_chat(out: Path) -> dict[str, Any]:
    """The page that chats with SmolLM2, and the weights; if they are not installed, it says how to get them. Returns
    their size and hash, or what is missing.
    """
    try:
        packed = smollm2.pack(out / "models" / f"{smollm2.NAME}.zip")
    except (FileNotFoundError, GGUFError) as error:
        packed = {"missing": f"There is no model here ({error}). {WITH_A_MODEL}."}
        print(f"the site's chat page comes without a model ({error}): {WITH_A_MODEL}")
    put(out, "chat/index.html", page_of_data("chat", "Chat with SmolLM2", packed, SAME_PLACE, SITE))
    return packed


def write_debugger(out: Path) -> None:
    """A page for each script that can be stepped through, and a list of them."""
    for name in STEPS:
        ops = "../step/index.html" if name == "step" else ""
        html, _ = step_page(name, SAME_PLACE, EDITOR, ops, SITE / "live.js")
        put(out, f"debugger/{name}.html", html)
    rows = "".join(f'<li><a href="{name}.html">{name}</a>: {escaped(title_of(name))}</li>' for name in STEPS)
    body = f"""<main><h1>Line by line</h1>
<p>A debugger that also runs backwards: the lines of a small script and of the library, and what they change.</p>
<ul>{rows}</ul></main>"""
    put(out, "debugger/index.html", page("Line by line", body, "source"))


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
    put(out, "explore/index.html", tool_page("explore"))
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


def home_page(out: Path, answers: dict[str, Any] | None, coming: list[Path], exercises: int) -> str:
    """The first page. It knows the model's answers to the first words, so that it answers before Python is there."""
    course = [[path.stem, f"{dotted(path)} {title(path)}", answers_in(read_cells(path))] for path in lessons()]
    count = f"{len(course)} lessons" + f" ({len(coming)} of them still being written)" * bool(coming)
    begin = first_page(out / "lessons")
    first = begin.stem, f"{dotted(begin)} {title(begin)}"
    chats = (out / "models" / f"{smollm2.NAME}.zip").exists()
    chat = "answers in this tab" if chats else "would answer here: <code>make site WITH=smollm</code> brings it (93 MB)"
    body = read_text(SITE / "home.html").format(lessons=count, exercises=exercises, first=first, chat=chat)

    def unless_missing(link: re.Match[str]) -> str:
        return link[0] if (out / link[1]).exists() else '<a class="soft">Being written: '

    body = re.sub(r'<a href="([\w/.]+)">', unless_missing, body)
    if answers is None:
        body = re.sub(r'(?<=<section class="try">).*?(?=</section>)', NO_MODEL, body, flags=re.DOTALL)
    body += data_script({"lessons": course, **(answers or {})})
    return page("minigrad: a language model to read", body, "home", [joined(SITE / "home.js")], SAME_PLACE)


def write_sources(out: Path) -> None:
    """The library's files, and a list of them: the tables of contents of its folders."""
    contents = []
    write_source(ROOT / "minigrad" / "for_pytorch_users.md", out)
    for package in LIBRARY:
        for path in sorted((ROOT / package).rglob("*.py")):
            write_source(path, out)
            if path.name == "__init__.py":
                contents.append(_contents(path.parent))
    body = f"<main><h1>The source</h1>{''.join(contents)}</main>"
    put(out, "source/index.html", page("The source", body, "source"))


def _contents(folder: Path) -> str:
    """The table of contents of a folder, which its __init__.py begins with, with links to the files that it names."""
    name = folder.relative_to(ROOT).as_posix()
    first, _, rest = (ast.get_docstring(ast.parse(read_text(folder / "__init__.py"))) or "").partition("\n")

    def link(found: re.Match[str]) -> str:
        path = ROOT / found[0] if found[0].startswith(LIBRARY) else folder / found[0]
        where = path.relative_to(ROOT).as_posix()
        if path.is_dir():
            return f'<a href="#{where}">{found[0]}</a>'
        return f'<a href="{where}.html">{found[0]}</a>' if path.is_file() else found[0]

    linked = re.sub(r"(?<![\w/.])[\w/]+(\.py|/)", link, escaped(rest.strip("\n")))
    return f'<h2 id="{name}">{name}/</h2>\n<p>{escaped(first)}</p>\n<pre>{linked}</pre>\n'


def write_indexes(out: Path, exercises: list[Exercise], wanted: Sequence[Path] = (), answers: Any = None) -> None:
    """The lists of lessons and exercises, each with what this reader has done, and the first page.

    They say which of the lessons in `wanted` are not there yet.
    """
    coming = [lesson for lesson in wanted if not (out / "lessons" / f"{lesson.stem}.html").exists()]
    connect(out / "lessons", is_site=True, coming=coming)
    linked = re.compile(rf"(?<=[:,] )({'|'.join(exercise.name for exercise in exercises)})\b(?=[,<])")
    html = linked.sub(r'<a href="../exercises/\1.html">\1</a>', read_text(out / "lessons/index.html"))
    html = html.replace(POLICY, SAME_PLACE).replace('<div class="next">', f'{ON_THE_SITE}<div class="next">')
    html = html.replace("</body>", f"<script>{joined(SITE / 'passed.js')}</script></body>")
    put(out, "lessons/index.html", html)
    put(out, "exercises/index.html", exercises_page(exercises))
    put(out, "index.html", home_page(out, answers, coming, len(exercises)))


def exercises_page(exercises: list[Exercise]) -> str:
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
    return page("The exercises", body, "exercise", [joined(SITE / "exercises.js")], SAME_PLACE)


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


def made_from(lesson: Path) -> str:
    """A fingerprint of what a lesson's page is made from: its text, our packages, and what draws pages."""
    digest, others = hashlib.sha256(lesson.read_bytes() + Path(__file__).read_bytes()), lessons()
    for folder in (*LIBRARY, "scripts/shared", "scripts/pages", "scripts/course"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in TRAVELS and path not in others:
                digest.update(path.read_bytes())
    return digest.hexdigest()


def run_lesson(lesson: Path, folder: Path) -> int:
    """Write a lesson's page into a folder. Returns the exit status."""
    command = [sys.executable, str(ROOT / "scripts" / "lesson.py"), lesson.stem, "--html", "--out-dir", str(folder)]
    environment = {**os.environ, "MINIGRAD_CACHE": str(folder)}  # it trains all its models, as a browser does
    return subprocess.run(command, stdout=subprocess.DEVNULL, env=environment).returncode


def lesson_page(lesson: Path, out: Path) -> bool:
    """Run a lesson and write its page, with what makes its cells run. Returns whether the lesson ran to its end."""
    fingerprint = made_from(lesson)
    with tempfile.TemporaryDirectory(dir=out, prefix=RUNNING) as name:  # as deep as out/lessons, for the page's links
        folder = Path(name)
        if run_lesson(lesson, folder):
            return False
        html = read_text(folder / f"{lesson.stem}.html")
        html = re.sub(r'href="([^"#:]+)(?=["#])', lambda link: f'href="{moved(link[1], folder, out)}', html)
        html = re.sub(r"<a [^>]*><code>python scripts[/]lesson\.py (\w+)</code></a>", _lesson_link, html)
        html = re.sub(r"<code>python scripts[/]exercise\.py start (\w+)</code>", r"\1", html)
        stepped = r'<a href="../debugger/\1.html">\1, line by line</a>'
        html = re.sub(r"<code>python scripts[/]step\.py --html (\w+)</code>", stepped, html)
        html = html.replace("<head>", f'<head>\n<meta name="made-from" content="{fingerprint}">', 1)
        script = joined(SITE / "cells.js", SITE / "passed.js", without=[WIDGETS / "common.js"])
        html = html.replace(POLICY, SAME_PLACE).replace("</body>", f"{EDITOR}<script>{script}</script>\n</body>")
        for path in folder.glob("*.html"):  # the lesson's page, and perhaps that of its drawing
            if path.name != "index.html":
                put(out, f"lessons/{path.name}", html if path.stem == lesson.stem else read_text(path))
    return True


def _lesson_link(command: re.Match[str]) -> str:
    """A link to the page of a lesson, in the place of the command that reads it."""
    found = [path for path in lessons() if path.stem.partition("_")[0] == command[1]]
    return f'<a href="{found[0].stem}.html">{found[0].stem}</a>' if found else command[0]


def moved(link: str, folder: Path, out: Path) -> str:
    """The address on the site of what a page in `folder` links to: an exercise's page, or a file of the project."""
    target = (folder / unquote(link)).resolve()
    if not target.is_relative_to(ROOT) or target.is_relative_to(out.resolve()):
        return link
    if target.parent == catalogue.HERE and target.suffix == ".py":
        return f"../exercises/{catalogue.name_of(target)}.html"
    return f"../{quote(write_source(target, out))}"


@functools.cache  # many lessons link to the same file
def write_source(path: Path, out: Path) -> str:
    """A file of the project as a page. Returns its address in the site."""
    title, source = path.relative_to(ROOT).as_posix(), read_text(path)
    code = python_to_html(source) if path.suffix == ".py" else escaped(source)
    rows = (
        f'<span class="row"><a id="L{i}" href="#L{i}" tabindex="-1">{i}</a>{line}\n</span>'
        for i, line in enumerate(code.split("\n"), 1)
    )
    shown = f'<h1>{title}</h1>\n<pre class="code" tabindex="0">{"".join(rows)}</pre>'
    if path.suffix == ".md":
        shown = markdown_to_html(source)
    put(out, name := f"source/{title}.html", page(title, f"<main>{shown}</main>", "source"))
    return name


def exercise_page(exercise: Exercise, names: list[str], packed: dict[str, Any]) -> str:
    """The page of an exercise: its statement, an editor, and the checker. packed: what `write_chat` has returned."""
    name = exercise.name
    statement = markdown_to_html(exercise.stub.partition('"""')[2].partition('"""')[0])
    place = names.index(name)
    links = [lesson_link(each, f"{dotted(each)}, {title(each).partition(', ')[0]}") for each in lessons_of(name)]
    back = f'<a href="{names[place - 1]}.html">← {names[place - 1]}</a>' if place else "<span></span>"
    on = f'<a href="{names[place + 1]}.html">{names[place + 1]} →</a>' if place + 1 < len(names) else "<span></span>"
    data: dict[str, Any] = {"name": name, "file": exercise.path.name, "stub": exercise.stub}
    whole = ""
    modules = [SITE / "exercise.js"]
    if name in CAPSTONES and not (name == "llama" and "missing" in packed):
        kind, model, text = CAPSTONES[name]
        data |= {"kind": kind, "parts": capstone.PROGRAMS[kind], "model": model, "text": text, **packed}
        named = ", ".join(f'<a href="{part}.html">{part}</a>' for part in data["parts"])
        whole = read_text(SITE / "capstone.html").format(kind=kind, parts=named)
        modules.append(SITE / "capstone.js")
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
{data_script(data)}{EDITOR}"""
    return page(f"Exercise {name}", body, "exercise", [joined(*modules)], SAME_PLACE)


if __name__ == "__main__":
    command_line.run(main)
