"""As much of a W&B server as its client needs to begin a run, to sync one, and to save a workspace."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUCKET = {
    "id": "run",
    "name": "run",
    "displayName": "run",
    "config": None,
    "sweepName": None,
    "historyLineCount": 0,
    "project": {"id": "project", "name": "brickyard", "entity": {"id": "entity", "name": "nobody"}},
}
USER = {"id": "user", "entity": "nobody", "username": "nobody", "teams": {"edges": []}}


class WandbServer(ThreadingHTTPServer):
    """Serves in a thread until the process ends.

    Args:
        falls_silent: answers what begins a run, and nothing after that.

    Attributes:
        views: workspaces that it was given.
        rows: of runs' histories that it was given.
    """

    daemon_threads = True

    def __init__(self, falls_silent: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.falls_silent = falls_silent
        self.views: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def data(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """What a query is answered."""
        if "upsertBucket" in query:
            return {"upsertBucket": {"bucket": BUCKET, "inserted": True}}
        if "RunResumeStatus" in query:
            return {"model": None}
        if self.falls_silent:
            threading.Event().wait()
        if "viewer" in query:
            return {"viewer": USER}
        if "upsertView" in query:
            self.views.append(variables)
            return {"upsertView": {"view": {"id": "view", "name": "nw-view"}, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        return None


class Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self) -> None:
        request = self.read()
        if "query" in request:
            data = self.server.data(request["query"], request.get("variables") or {})
            return self.answer({"data": data}, 200 if data else 400)
        if self.server.falls_silent:
            threading.Event().wait()
        for line in request.get("files", {}).get("wandb-history.jsonl", {}).get("content", []):
            self.server.rows.append(json.loads(line))
        return self.answer({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def read(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass
