"""The files of the site: those of others are pinned; in which order all are written; and what runs cells."""

import contextlib
import hashlib
import mimetypes
import re
import shutil
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from finetune.data.conversation import Conversation
from gpt.files import read_text, write_text
from gpt.training.loading import load_model
from gpt.training.run_state import RunState
from scripts import site
from scripts.course.checker import catalogue
from scripts.course.lessons.cells import lessons, read_cells
from scripts.course.lessons.concepts import ROOT, exercises
from scripts.pages import pinned_files
from scripts.pages.lesson_page import Ran
from scripts.pages.local_server import Server, SiteFiles
from scripts.pages.site import cells, chat, smollm2, source
from scripts.pages.site import lesson as lesson_of_site
from scripts.shared.web_page import page
from tests.gpt import gguf_files, smollm
from tests.helpers import serving
from tests.scripts.running import write_model
from tests.test_paths import broken_links


@pytest.fixture
def pinned(tmp_path, monkeypatch):
    """One pinned file, and where it comes from."""
    source = tmp_path / "source.js"
    source.write_bytes(b"right")
    entry = {"sha256": hashlib.sha256(b"right").hexdigest(), "url": source.as_uri()}
    known = {"files": {"a.js": entry}, "carriers": {"file:///a.whl": "0"}, "packages": {}, "info": {}}
    monkeypatch.setattr(pinned_files, "pinned", lambda: known)
    return source


def test_what_is_fetched_is_what_was_pinned(pinned, tmp_path, capsys):
    assets = tmp_path / "assets"
    with pytest.raises(ValueError, match="a.js is missing: python scripts/site.py --fetch --assets"):
        pinned_files.copy_assets(assets, tmp_path / "out")
    pinned_files.fetch(assets)
    pinned_files.copy_assets(assets, tmp_path / "out")
    assert (tmp_path / "out" / "pyodide" / "a.js").read_bytes() == b"right"
    (assets / "a.js").write_bytes(b"changed")
    with pytest.raises(ValueError, match="a.js is not the pinned file"):
        pinned_files.copy_assets(assets, tmp_path / "out")
    pinned.unlink()  # as without a network
    with pytest.raises(ConnectionError, match=r"download a.whl from .*Go online and try again, or put the file at"):
        pinned_files.fetch(assets)
    assert "Pyodide's releases cannot be reached (<urlopen error" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "suffix"), [("zip", ".whl"), ("gztar", ".tgz")])
def test_packages_carry_what_cannot_be_fetched(pinned, tmp_path, kind, suffix):
    write_text(tmp_path / "all" / "src" / "a.js", "another of this name")
    (tmp_path / "all" / "min").mkdir()
    pinned.rename(tmp_path / "all" / "min" / "a.js")
    package = Path(shutil.make_archive(tmp_path / "made", kind, tmp_path / "all")).rename(tmp_path / f"p{suffix}")
    pinned_files.pinned()["carriers"] = {package.as_uri(): hashlib.sha256(package.read_bytes()).hexdigest()}
    pinned_files.fetch(tmp_path / "assets")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "assets").iterdir()] == [("a.js", b"right")]


def test_another_file_is_refused_and_not_kept(pinned, tmp_path):
    pinned.write_bytes(b"wrong")
    with pytest.raises(ValueError, match="is not the file expected: SHA-256 .*; nothing was kept"):
        pinned_files.fetch(tmp_path / "assets")
    assert list((tmp_path / "assets").iterdir()) == []


def test_scripts_are_served_as_scripts(tmp_path):
    """The registry of Windows may call them text/plain, and browsers run no worker of that type."""
    (tmp_path / "worker.js").write_bytes(b"1")
    mimetypes.init()
    with (
        mock.patch.dict(mimetypes.types_map, {".js": "text/plain"}),
        serving(Server(0, lambda *given: SiteFiles(*given, directory=str(tmp_path)))) as server,
        urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}/worker.js") as response,
    ):
        assert mimetypes.guess_type("worker.js")[0] == "text/plain"
        assert response.headers["Content-Type"] == "text/javascript"
        assert response.headers["Cache-Control"] == "no-cache"


def fetched(address):
    with urllib.request.urlopen(address) as response:
        return response.read().decode("utf-8")


@pytest.fixture
def building(tmp_path, monkeypatch):
    """Writes a site with two lessons. A lesson does not run: what runs in its place gets its number and the folder."""
    for name in ("copy_assets", "project", "write_chat", "write_debugger", "write_sources"):
        monkeypatch.setattr(site, name, lambda *given: None)
    mul = {"mul": site.catalogue.paths()["mul"]}
    monkeypatch.setattr(site.catalogue, "paths", lambda: mul)
    monkeypatch.setattr(site, "DEMO", str(tmp_path / "demo"))
    monkeypatch.setattr(site, "is_untrained", lambda folder: not Path(folder).exists())
    monkeypatch.setattr(site, "made_from", lambda lesson: "version 1")
    monkeypatch.setattr(site, "train_demo", lambda folder: write_model(Path(folder), block_size=64))

    def write(running, *options):
        def run_lesson(lesson, out):
            if failed := running(lesson.stem[:2]):
                return failed
            body = f"<!--nav--><!--/nav-->{site.made_from(lesson)}"
            write_text(out / "lessons" / f"{lesson.stem}.html", page("A lesson", body, "lesson"))

        monkeypatch.setattr(site, "run_lesson", run_lesson)
        return site.main([str(tmp_path / "site"), "--model", site.DEMO, "--only", "00,01", *options])

    return write


def test_a_site_is_served_and_grows_while_it_is_written(building, monkeypatch, capsys):
    printed, seen = [], []

    def look(number="the end"):
        printed.append(capsys.readouterr().out)
        address = re.search("http://.*/", "".join(printed))[0]
        home, lessons, service = (fetched(f"{address}{place}") for place in ("", "lessons/", "service.js"))
        with pytest.raises(urllib.error.HTTPError) as missing:
            fetched(f"{address}none.html")
        assert ("being written" in missing.value.read().decode("utf-8")) == (number != "the end")
        assert ("Being written: Look" in home) == ("trained after" in home) == ("minigrad unfinished" in service)
        seen.append((number, lessons.count("(being written)"), 'id="story"' in home))
        if number == "the end":
            raise KeyboardInterrupt  # in place of waiting for it

    monkeypatch.setattr(site, "time", mock.Mock(monotonic=mock.Mock(side_effect=[0, 0, 90]), sleep=lambda _: look()))
    with pytest.raises(KeyboardInterrupt):
        building(look, "--serve", "--port", "0")
    assert seen == [("00", 3, False), ("01", 1, False), ("the end", 0, True)]
    assert "lesson 2 of 2, about 2 minutes left: 01 from" in "".join(printed)


def test_lessons_are_kept_until_what_they_are_made_from_changes(building, monkeypatch):
    ran = []
    for version in ("version 1", "version 1", "version 2"):
        monkeypatch.setattr(site, "made_from", lambda lesson, version=version: f"{version} of {lesson.stem[0]}")
        building(ran.append)
    assert ran == ["00", "01"] * 2


@pytest.mark.parametrize("trouble", [mock.Mock(side_effect=KeyboardInterrupt), lambda: 3])
def test_what_was_written_before_trouble_stays(building, tmp_path, capsys, trouble):
    ran = []
    lessons = tmp_path / "site" / "lessons"
    with contextlib.suppress(KeyboardInterrupt):
        assert building(lambda number: trouble() if number == "01" else 0) == 1
        assert "without 01_learning, which failed: see above" in capsys.readouterr().err
    assert {path.name for path in lessons.iterdir()} == {"00_gradients.html", "index.html"}
    assert building(ran.append) == 0 and ran == ["01"]


def test_the_fingerprint_is_of_a_lesson_and_of_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(lesson_of_site, "ROOT", tmp_path)
    lesson, source = tmp_path / "lesson.py", tmp_path / "minigrad" / "tensor.py"
    found = set()
    for path, text in ((lesson, "1"), (source, "2"), (source, "3"), (lesson, "4"), (lesson, "4")):
        write_text(path, text)
        found.add(lesson_of_site.made_from(lesson))
    assert len(found) == 4


@pytest.mark.parametrize(("step", "script"), [(None, "demo.py"), (7, "train.py"), (8, None)])
def test_an_interrupted_demo_is_trained_to_its_end(monkeypatch, step, script):
    run = mock.Mock(return_value=mock.Mock(returncode=0))
    monkeypatch.setattr(site.subprocess, "run", run)
    monkeypatch.setattr(site, "has_checkpoint", lambda folder: step is not None)
    monkeypatch.setattr(site, "read_state", lambda folder: RunState(None, {}, planned_steps=8, step=step))
    assert site.is_untrained("runs/other") is False and site.is_untrained(site.DEMO) == (script is not None)
    assert site.train_demo(site.DEMO) and Path(run.call_args[0][0][1]).name == (script or "train.py")


def unrun(lesson, out):
    lesson_of_site.SiteLesson(out, lesson).write(lesson, map(Ran, read_cells(lesson)), exercises(lesson))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The whole site: with empty files in the place of Pyodide, and with lessons that nobody has run."""
    out, model = tmp_path_factory.mktemp("site"), write_model(tmp_path_factory.mktemp("model"), block_size=64)
    for name in pinned_files.pinned()["files"]:
        write_text(out / "pyodide" / name, "")
    with (
        mock.patch.object(site, "copy_assets"),
        mock.patch.object(site, "documents", dict),
        mock.patch.object(site, "run_lesson", unrun),
        mock.patch.object(lesson_of_site, "made_from", lambda lesson: "this version"),
        mock.patch.object(site, "made_from", lambda lesson: "this version"),
    ):
        for lesson in lessons():
            unrun(lesson, out)
        site.write_site(out, out, str(model), None, None)
    return out


def test_every_link_of_the_site_leads_somewhere(written):
    pages = [*written.rglob("*.html"), *written.glob("*.js")]
    files = set(written.rglob("*"))
    missing = {path: broken_links(path, path.read_text(encoding="utf-8"), files) for path in pages}
    assert len(pages) > 300 and not {path: links for path, links in missing.items() if links}


def test_source_pages_lead_on_and_names_to_their_definitions(written):
    assert {*source.reading_order()} == {path for name in source.LIBRARY for path in (ROOT / name).rglob("*.py")}
    text = (written / "source/minigrad/functional/activation.py.html").read_text(encoding="utf-8")
    around = re.findall(r">(← [^<]+|[^<]+ →)</a>", text)
    assert around == ["← minigrad/functional/linalg.py", "minigrad/functional/error_function.py →"] * 2
    assert "What does each operation compute, and what is its gradient?</p>" in text
    line = read_text(ROOT / "minigrad/autograd.py").partition("class Function")[0].count("\n") + 1
    assert f'<a href="../../../source/minigrad/autograd.py.html#L{line}">Function</a>' in text
    assert not re.search(r"<a [^>]*>(x|out|dim)</a>", text)


def test_lessons_and_exercises_link_to_each_other(written):
    def links(folder, other):
        pages = [path for path in (written / folder).glob("*.html") if path.stem != "index"]
        texts = {path.stem: path.read_text(encoding="utf-8").partition("</nav>")[2] for path in pages}
        return {(name, to) for name in texts for to in re.findall(rf'href="../{other}/(\w+).html"', texts[name])}

    there, back = links("lessons", "exercises"), links("exercises", "lessons")
    assert there == {(lesson, exercise) for exercise, lesson in back}
    assert {exercise for exercise, _ in back} == set(catalogue.paths())
    assert re.search(r"lessons <a [^>]*>4\.1\.4</a>, <a", (written / "exercises/index.html").read_text("utf-8"))


def test_solutions_of_assessments_do_not_travel(written):
    with zipfile.ZipFile(written / "project.zip") as archive:
        names = archive.namelist()
    wanted = {"minigrad/autograd.py", "scripts/course/lessons/README.md", "tests/gpt/golden/gpt2-folder/config.json"}
    wanted.add("pydoc_data/topics.py")  # which one_page.py reads, and Pyodide lacks
    assert wanted <= set(names)
    assert not [name for name in names if "assessment" in name]


def test_a_cell_sees_the_sources_of_the_cells_before(monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    cells.run("00_gradients", "import inspect\ndef f():\n    return 1", 1)
    assert "return 1" in cells.run("00_gradients", "inspect.getsource(f)", 2)["html"]
    assert 'File "cell 3", line 2, in' in cells.run("00_gradients", "\n1 / 0", 3)["error"]


@pytest.mark.oracle("gguf")
def test_a_packed_chat_model_is_that_of_the_gguf_file(tmp_path, monkeypatch):
    model = gguf_files.block_llama(vocab_size=len(smollm.metadata()["tokenizer.ggml.tokens"]))
    path = gguf_files.write_llama(tmp_path / "a.gguf", model, "Q4_1", **smollm.metadata())
    monkeypatch.setattr(smollm2.hub, "find", lambda name: path)
    smollm2.pack(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "a")
    (expected, _), (found, _) = load_model(path), smollm2.load(tmp_path / "a")
    assert found.config.block_size == smollm2.CONTEXT
    np.testing.assert_equal(found.state_dict(), expected.state_dict())


def test_an_answer_says_where_it_was_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "talks", [Conversation(*load_model(write_model(tmp_path, block_size=64)))])
    monkeypatch.setattr(chat, "LONGEST_ANSWER", 3)
    assert chat.answer("Hi", 0) == {"forgotten": 0, "cut": 3}


def test_without_its_package_the_chat_page_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2.hub, "SMOLLM2_PACKAGE", "no_such_package")
    site.write_chat(tmp_path)
    assert "`make site WITH=smollm` or `python scripts/setup.py" in (tmp_path / "chat" / "index.html").read_text(
        "utf-8"
    )
    site.write_home(tmp_path, None, [], 53)
    assert "<code>make site WITH=smollm</code>" in (tmp_path / "index.html").read_text("utf-8")
