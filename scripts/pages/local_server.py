"""Web servers for one reader on this machine: a page with a function that answers its questions, and a site's folder.

They listen on 127.0.0.1 only. Other programs and other users of the machine can reach that too, and so can pages from
elsewhere in the reader's browser. Therefore an address that answers questions begins with a random token, and a request
that names another host (DNS rebinding) is refused.
"""

import json
import os
import secrets
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LONGEST = 1_000_000  # bytes of a question


class Server(ThreadingHTTPServer):
    """A server at 127.0.0.1. Raises OSError if another program has its port."""

    allow_reuse_address = os.name == "posix"  # on Windows it would let two servers listen at the same port

    def __init__(self, port: int, handler: Callable[..., BaseHTTPRequestHandler]):
        try:
            super().__init__(("127.0.0.1", port), handler)
        except OSError as error:
            raise OSError(f"port {port} cannot be used ({error.strerror}): choose another, or 0 for any") from None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the error of a request, unless the page was reloaded or closed before its answer had arrived."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def check_port(port: int) -> None:
    """Raise OSError if another program has a port, before the work whose result is to be served there."""
    Server(port, BaseHTTPRequestHandler).server_close()


class LocalServer(Server):
    """Serves `page` at `address`, and `answer(question)` at `address` + "look". `answer` runs in one thread at a time.

    A ValueError of `answer` becomes {"error": its sentence}.
    """

    def __init__(self, page: str, answer: Callable[[dict[str, Any]], dict[str, Any]], port: int = 0):
        super().__init__(port, _Handler)
        self.page = page.encode("utf-8")
        self.answer = answer
        self.lock = threading.Lock()
        self.path = f"/{secrets.token_urlsafe(16)}/"
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.address = f"http://{self.host}{self.path}"


class _Handler(BaseHTTPRequestHandler):
    server: LocalServer

    def do_GET(self) -> None:
        if self._allowed(""):
            self._send(200, "text/html; charset=utf-8", self.server.page)
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if not self._allowed("look") or self.headers.get_content_type() != "application/json":
            self.send_error(404)
        elif not size.isdigit() or int(size) > LONGEST:
            self.send_error(413)
        else:
            try:
                question = json.loads(self.rfile.read(int(size)))
                with self.server.lock:
                    answer = json.dumps(self.server.answer(question), allow_nan=False)
            except ValueError as error:
                answer = json.dumps({"error": str(error)})
            except (AttributeError, LookupError, OverflowError, RecursionError, TypeError) as error:
                answer = json.dumps({"error": f"this request cannot be read: {error}"})
            self._send(200, "application/json", answer.encode("utf-8"))

    def _allowed(self, name: str) -> bool:
        right_path = secrets.compare_digest(self.path.encode("utf-8"), (self.server.path + name).encode("utf-8"))
        return right_path and self.headers.get("Host") == self.server.host

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")):
            self.send_header(name, value)
        self.send_header("Referrer-Policy", "no-referrer")  # the address holds the token
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Print nothing: the terminal shows the address only."""


NOT_FOUND = """<!DOCTYPE html><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width"><title>%(code)d</title><p>%(message)s."""


class SiteFiles(SimpleHTTPRequestHandler):
    """Serves the files of a site as they are now: a site that is written again is not read from a browser's memory."""

    protocol_version = "HTTP/1.1"
    extensions_map = {".js": "text/javascript"}  # on Windows, Python asks the registry, which may say text/plain
    error_message_format = (
        f"{NOT_FOUND} The site is being written, and its lessons appear one by one: reload this page later."
    )

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Print nothing: the terminal shows the address only."""


def site_server(folder: Path, port: int) -> Server:
    """A server for a site's folder. It has its port at once, and answers after `answer`."""
    return Server(port, lambda *arguments: SiteFiles(*arguments, directory=str(folder)))


def answer(server: Server) -> None:
    """Print a server's address, and let it answer from a thread until the program ends."""
    print(f"open http://127.0.0.1:{server.server_address[1]}/   (Ctrl-C stops it)", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
