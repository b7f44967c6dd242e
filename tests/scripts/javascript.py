"""Running the widgets' JavaScript: with Node, or else in a headless Chromium."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess

import pytest

from scripts.course.pictures import WIDGETS
from scripts.shared.web_page import joined

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Nothing that a browser does by itself: no updates, no checks of the network.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]


def missing(what):
    """Skip a test or a file, or, where a browser is required (in CI), fail."""
    if os.environ.get("MINIGRAD_REQUIRE_BROWSER"):
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing", allow_module_level=True)


def need_browser():
    """Without Playwright, skip the whole file that calls this."""
    if importlib.util.find_spec("playwright") is None:
        missing("playwright (the extra `browser`)")


@contextlib.contextmanager
def browser():
    """A headless Chromium: Debian's, or Playwright's own."""
    need_browser()
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        installed = next(filter(None, map(shutil.which, BROWSERS)), None)
        try:
            chromium = playwright.chromium.launch(executable_path=installed, args=QUIET)
        except Error:
            missing("Chromium")
        with contextlib.closing(chromium):
            yield chromium


def evaluate(widget, function, data):
    """What a JavaScript function makes of `data`, after the widget's scripts have run."""
    source = joined(WIDGETS / f"{widget}.js")
    node = shutil.which("node")
    if node is None:
        with browser() as chromium:
            return chromium.new_page().evaluate(f"(data) => {{ {source}\nreturn ({function})(data); }}", data)
    read = "JSON.parse(require('fs').readFileSync(0, 'utf-8'))"
    done = subprocess.run(
        [node, "-e", f"{source}\nconsole.log(JSON.stringify(({function})({read})))"],
        input=json.dumps(data),
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
