"""A model by its name: from the cache, or from a server, which stands in for Hugging Face's in this process."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gpt.weights import hub
from tests.gpt.small import GOLDEN
from tests.helpers import serving
from tests.scripts.running import ROOT, environment

FOLDER = GOLDEN / "gpt2-folder"
SHA = "0123456789abcdef" * 2 + "01234567"
NOT_READ = {"pytorch_model.bin": b"a pickle", "README.md": b"# a model", "onnx/model.safetensors": b"of something else"}
needs_library = pytest.mark.oracle("huggingface_hub")


class Hub(http.server.ThreadingHTTPServer):
    """As much of Hugging Face's hub as a download asks for."""

    daemon_threads = True

    def __init__(self, repositories):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories  # name -> {path: content}
        self.requests = []

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def log_message(self, *args):
        pass

    def answer(self):
        path = urlsplit(self.path).path
        self.server.requests.append((self.command, path))
        for name, files in self.server.repositories.items():
            if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
                siblings = [{"rfilename": path} for path in files]
                more = {"private": False, "downloads": 0, "likes": 0, "tags": []}  # which old versions insist on
                return self.reply_json({"id": name, "modelId": name, "sha": SHA, "siblings": siblings, **more})
            if path.startswith(f"/api/models/{name}/tree/"):
                rows = [{"type": "file", "path": p, "size": len(c), "oid": etag(c)} for p, c in files.items()]
                return self.reply_json(rows)
            for file, content in files.items():
                if path in (f"/{name}/resolve/{SHA}/{file}", f"/{name}/resolve/main/{file}"):
                    return self.reply_file(content)
        missing = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        self.reply(b"{}", 404, missing)

    def reply_json(self, content):
        self.reply(json.dumps(content).encode("utf-8"), headers={"Content-Type": "application/json"})

    def reply_file(self, content):
        self.reply(content, headers={"ETag": f'"{etag(content)}"', "X-Repo-Commit": SHA})

    def reply(self, body, status=200, headers=None):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def etag(content):
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def server():
    files = {path.name: path.read_bytes() for path in FOLDER.iterdir()} | NOT_READ
    with serving(Hub({"openai-community/gpt2": files, "someone/tiny": files})) as server:
        yield server


def python(code, home, endpoint, **variables):
    """Run code in a process of its own: huggingface_hub reads its variables when it is imported."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(**settings), capture_output=True, encoding="utf-8"
    )


FIND = """from gpt.weights import hub
for name in {}:
    try: print(hub.find(name))
    except OSError as error: print(type(error).__name__, '|', error)"""


def find(*names, home, endpoint, **variables):
    """The folders that `hub.find` gives in another process, one after the other, or with what it fails."""
    done = python(FIND.format(names), home, endpoint, **variables)
    assert done.returncode == 0 and done.stdout.count("\n") == len(names), done.stdout + done.stderr
    return done.stdout.splitlines()


NOWHERE = "http://127.0.0.1:9"  # nobody listens there


@needs_library
def test_a_name_is_downloaded_once(server, tmp_path):
    folder, again = find("gpt2", "gpt2", home=tmp_path, endpoint=server.endpoint)  # online, but there is nothing to ask
    assert again == folder
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()} == {
        name: content for name, content in server.repositories["openai-community/gpt2"].items() if name in hub.FILES
    }
    assert not any(path.endswith(tuple(NOT_READ)) for method, path in server.requests if method == "GET")
    asked = len(server.requests)
    for endpoint, offline in ((server.endpoint, "0"), (NOWHERE, "1")):
        names = ["gpt2", "openai-community/gpt2"]
        assert find(*names, home=tmp_path, endpoint=endpoint, HF_HUB_OFFLINE=offline) == [folder, folder]
    assert len(server.requests) == asked


@needs_library
def test_the_model_of_a_name_writes(server, tmp_path):
    arguments = ["--model", "someone/tiny", "--prompt", "the cat", "--max-new-tokens", "3", "--seed", "0"]
    done = python(f"from scripts.generate import main; main({arguments!r})", tmp_path, server.endpoint)
    assert done.returncode == 0 and done.stdout.startswith("the cat") and "Traceback" not in done.stderr
    code = "from gpt import GPT; print(GPT.from_pretrained('someone/tiny').num_parameters())"
    assert python(code, tmp_path, NOWHERE).stdout == "11776\n"


@needs_library
def test_what_cannot_be_found_is_said_in_one_sentence(server, tmp_path):
    names = ["someone/else", "a--b/c"]
    for name, text in zip(names, find(*names, home=tmp_path, endpoint=server.endpoint), strict=True):
        assert text.startswith(f"FileNotFoundError | there is no folder {name}, and no public model of that name")
    for offline in ("0", "1"):
        (text,) = find("gpt2", home=tmp_path, endpoint=NOWHERE, HF_HUB_OFFLINE=offline)
        assert text.startswith("ConnectionError | gpt2 is not in the local cache, and downloading it failed (")
        assert text.endswith("; go online, or give a folder")


def cache(home, repository, names):
    """A cache as transformers leaves it, with these files of the golden folder."""
    repository = home / "hub" / ("models--" + repository.replace("/", "--"))
    snapshot = repository / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(SHA, encoding="utf-8")
    for name in names:
        shutil.copy(FOLDER / name, snapshot)
    return snapshot


@needs_library
def test_what_transformers_has_cached_is_found_under_both_names(tmp_path):
    files = [path.name for path in FOLDER.iterdir()]
    cached = {name: cache(tmp_path, name, files) for name in ("gpt2", "openai-community/gpt2-medium", "a/b")}
    found = find("gpt2", "openai-community/gpt2", "gpt2-medium", "a/b", home=tmp_path, endpoint=NOWHERE)
    assert found == [str(cached[name]) for name in ("gpt2", "gpt2", "openai-community/gpt2-medium", "a/b")]


@needs_library
def test_a_cache_without_tokenizer_is_completed_if_possible(server, tmp_path):
    folder = cache(tmp_path, "someone/tiny", ["config.json", "model.safetensors"])
    partial = cache(tmp_path, "gpt2", ["config.json"])
    assert find("someone/tiny", home=tmp_path, endpoint=NOWHERE) == [str(folder)]
    completed, other = find("someone/tiny", "gpt2", home=tmp_path, endpoint=server.endpoint)
    assert completed == str(folder) and (folder / "tokenizer.json").exists() and other != str(partial)


@pytest.fixture
def no_library(tmp_path, monkeypatch):
    """An empty working folder, and no library that could download anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def test_a_folder_that_exists_wins_over_a_name(tmp_path, no_library):
    os.makedirs("gpt2")
    os.makedirs("someone/tiny")
    assert hub.find("gpt2") == Path("gpt2") and hub.find(tmp_path) == tmp_path
    assert hub.find("someone/tiny") == Path("someone/tiny")


@pytest.mark.parametrize("source", ["gpt3", "./gpt2", "../a/b", "a/b/c", "", "/a/b", "owner/", "a/b c", "a/..", "~/x"])
def test_what_can_be_no_name_is_refused_without_asking_anybody(source, no_library):
    with pytest.raises(FileNotFoundError, match="there is no folder .*; names that need none are gpt2, gpt2-medium"):
        hub.find(source)
    with pytest.raises(FileNotFoundError, match="there is no file models/tiny/some.gguf; names"):
        hub.find("models/tiny/some.gguf")
    with pytest.raises(FileNotFoundError, match="there is no run in runs/demo"):
        hub.find("runs/demo")


def test_without_the_library_the_way_out_is_named(no_library):
    with pytest.raises(FileNotFoundError, match="no folder gpt2; to fetch .*: pip install huggingface_hub"):
        hub.find("gpt2")
