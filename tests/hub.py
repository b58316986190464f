"""A small Hugging Face hub on this machine: enough of its protocol for huggingface_hub to fetch
files, and to fail to; and the releases of GitHub.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "1234567890abcdef1234567890abcdef12345678"


@dataclass
class Hub:
    """What it serves: {"owner/name": {"file": bytes}}, of a release "owner/name@tag". `asked`:
    (method, "owner/name/file", range, token) of each request.

    gated: repositories that want a token that is in `members`. size: bytes that it says every file
        has. breaks: bytes of a body after which the connection breaks, once. stalls: a file whose
        body stops in the middle, until `go_on` is set.
    failing: the status of every answer.
    """

    files: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    size: int | None = None
    breaks: int | None = None
    stalls: str | None = None
    failing: int | None = None
    asked: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def sent(self) -> list[str]:
        """The files that were asked for, not their headers only."""
        return [name for method, name, *_ in self.asked if method == "GET"]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """The hub at work, at `hub.url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        body = self._answer()
        if body is None:
            return
        hub, end = self.hub, len(body)
        if hub.breaks is not None:
            end, hub.breaks = hub.breaks, None
        stalls = hub.stalls is not None and self.path.endswith(f"/{hub.stalls}")
        self.wfile.write(body[: end // 2 if stalls else end])
        if stalls:
            self.wfile.flush()
            hub.stalled.set()
            hub.go_on.wait(30)

    def _answer(self) -> bytes | None:
        """Send the headers; the body, where there is one to send."""
        hub = self.hub
        path = re.sub(r"/releases/download/([^/]+)/", r"@\1/resolve/main/", self.path)
        path, moved = path.removeprefix("/blobs"), path.startswith("/blobs")
        owner, name, file = re.fullmatch(r"/([^/]+)/([^/]+)/resolve/main/(.+)", path).groups()
        repo, token = (
            f"{owner}/{name}",
            (self.headers["Authorization"] or "").removeprefix("Bearer "),
        )
        if "@" in repo and not moved:  # GitHub keeps the files of releases elsewhere
            return self._send_on(f"{hub.url}/blobs{self.path}")
        hub.asked.append((self.command, f"{repo}/{file}", self.headers["Range"], token or None))
        if hub.failing:
            return self._refuse(hub.failing)
        if repo in hub.gated and token not in hub.members:
            return self._refuse(403 if token else 401, "GatedRepo")
        if repo not in hub.files:
            return self._refuse(404, "RepoNotFound")
        if file not in hub.files[repo]:
            return self._refuse(404, "EntryNotFound")
        whole = hub.files[repo][file]
        start = int(re.match(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-")[1])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()}"')
        self.send_header("Content-Length", str((hub.size or len(whole)) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        return whole[start:]

    def _send_on(self, url: str) -> None:
        self.send_response(302)
        self.send_header("Location", url)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments) -> None:
        pass
