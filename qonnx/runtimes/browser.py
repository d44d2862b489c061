"""A headless browser and a local server for it: pages that isolate themselves, so that WebAssembly may use threads."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping

from qonnx.errors import QonnxError

_DEBIAN = ("chromium", "chromium-headless-shell")
_NAMES = (*_DEBIAN, "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
NO_BROWSER = "no Chromium was found; install one (Debian: apt-get install chromium) or name it in QONNX_BROWSER"
_LARGEST = 1 << 30  # bytes that a page may post
_HOLD = 600  # seconds
_NOWHERE = os.path.join(os.devnull, "nothing")  # a path that cannot exist


def find_browser() -> str | None:
    """The Chromium that QONNX_BROWSER names, or the first one installed; None if there is none."""
    names = [named] if (named := os.environ.get("QONNX_BROWSER")) else _NAMES
    return next((path for name in names if (path := shutil.which(name))), None)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files of several folders by the first part of the path, and files that a page posts."""

    folders: Mapping[str, pathlib.Path]
    posted: Mapping[str, threading.Event]

    def translate_path(self, path: str) -> str:
        first, _, rest = path.split("?")[0].lstrip("/").partition("/")
        folder = self.folders.get(first)
        if folder is None:
            folder, rest = self.folders.get("", pathlib.Path(_NOWHERE)), f"{first}/{rest}".rstrip("/")
        found = (folder / rest).resolve()
        return str(found if found.is_relative_to(folder.resolve()) else _NOWHERE)

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def do_GET(self) -> None:
        """A file; /hold answers when the posted file is there, which keeps a page from being "loaded" until then."""
        if self.path == "/hold":
            next(iter(self.posted.values())).wait(_HOLD)
            self.send_error(404)
            return
        super().do_GET()

    def do_POST(self) -> None:
        """Keep a file under /post/NAME in the folder "post"."""
        name = pathlib.PurePosixPath(self.path).name
        length = int(self.headers.get("Content-Length", 0))
        if "post" not in self.folders or length > _LARGEST:
            self.send_error(403)
            return
        (self.folders["post"] / name).write_bytes(self.rfile.read(length))
        self.send_response(204)
        self.end_headers()
        if name in self.posted:
            self.posted[name].set()

    def log_message(self, *_) -> None:
        """A server for one page needs no log."""


_Handler.extensions_map = {**_Handler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}


@contextlib.contextmanager
def served(
    folders: Mapping[str, pathlib.Path], *, posted: str = "result.json"
) -> Iterator[tuple[str, threading.Event]]:
    """(address, event of the file `posted` having arrived) of a server on this machine's own interface."""
    event = threading.Event()
    handler = type("Handler", (_Handler,), {"folders": dict(folders), "posted": {posted: event}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", event
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def browsing(address: str, *more: str) -> Iterator[subprocess.Popen]:
    """A headless browser on `address`, with a profile of its own, ended with the block."""
    program = find_browser()
    if program is None:
        raise QonnxError(NO_BROWSER)
    with tempfile.TemporaryDirectory(prefix="qonnx-browser-", ignore_cleanup_errors=True) as profile:
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-sync"]
        command += [f"--user-data-dir={profile}", *more, address]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen) -> None:
    """End the browser with the children that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 15)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
