"""The report of a run that is going on, served on this machine alone; an open page changes as the run goes on."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from data.errors import DataError
from data.page.shell import live, news
from train.errors import RecipeError
from train.report import render_runs
from train.run_directory import RunDirectory

HOST = "127.0.0.1"
ASKS_EVERY = 5.0  # seconds
# A strange page could have the name of its own host stand for this machine, and read what is served here.
OWN_NAMES = (HOST, "localhost")
WAITING = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="color-scheme" content="light dark"><title>Brickyard</title></head>
<body style="font: 16px/1.5 system-ui, sans-serif; margin: 32px"><p>{}</p></body></html>
"""


class LivePage:
    """The page as of the newest files; made again only when they have changed, and at most half of the time.

    Args:
        folders: of the runs.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self._lock = threading.Lock()
        self._stamp: object = None
        self._page = ""
        self._not_before = 0.0

    def text(self) -> str:
        """Raises RecipeError or DataError where there is nothing to show yet."""
        with self._lock:
            stamp = [self._stamp_of(RunDirectory(folder)) for folder in self.folders]
            began = time.monotonic()
            if stamp != self._stamp and began >= self._not_before:
                self._page = live(render_runs(self.folders), ASKS_EVERY)
                self._stamp, self._not_before = stamp, 2 * time.monotonic() - began
            return self._page

    @staticmethod
    def _stamp_of(run: RunDirectory) -> list[tuple[int, int] | None]:
        files = (run.metrics, run.events, run.plan, run.recipe)
        found = [file.stat() if file.exists() else None for file in files]
        return [(at.st_mtime_ns, at.st_size) if at else None for at in found]


class Server(ThreadingHTTPServer):
    """Answers with the page at `/`, and at `/news` with what of it an open one does not have.

    Raises:
        RecipeError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, folders: Sequence[Path], port: int) -> None:
        self.page = LivePage(folders)
        try:
            super().__init__((HOST, port), Answers)
        except OSError as error:
            raise RecipeError(f"--port {port}: {error.strerror}; choose another one (0: any that is free)") from None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"


class Answers(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in OWN_NAMES:
            return self.answer(403, "This page is for this machine alone.")
        if self.path not in ("/", "/news"):
            return self.answer(404, "There is nothing here.")
        try:
            page = self.server.page.text()
        except (RecipeError, DataError) as error:
            return self.answer(503, WAITING.format(html.escape(str(error))))
        return self.answer(200, news(page) if self.path == "/news" else page)

    def answer(self, code: int, text: str) -> None:
        content = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet: the console is for who started it."""
