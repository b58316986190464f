"""Files of releases on GitHub.

The transfer is huggingface_hub's, too: it retries, and goes on after a broken connection. Here it
goes on after a broken command as well, and a file is put in place only when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagd_cli.weights.wanted import Wanted

SECONDS = 30  # to wait for an answer


@dataclass(frozen=True)
class Remote:
    """What a server says of a file: its bytes, 0 where it does not say, and what changes when the
    file does.
    """

    size: int
    version: str


class SentOn(urllib.request.HTTPRedirectHandler):
    """Asks for headers alone where it is sent on, too, which urllib forgets before Python 3.13."""

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        """What is asked for instead."""
        request = super().redirect_request(*arguments)
        if request:
            request.method = "HEAD"
        return request


def look(wanted: Wanted) -> Remote:
    """Ask for a file without its content. Raises OSError, and OfflineModeIsEnabled where
    HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    if constants.HF_HUB_OFFLINE:
        raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    request = urllib.request.Request(wanted.address, method="HEAD")
    with urllib.request.build_opener(SentOn).open(request, timeout=SECONDS) as answer:
        headers = answer.headers
    told = headers.get("ETag") or headers.get("Last-Modified") or ""
    return Remote(int(headers.get("Content-Length") or 0), told)


def download(wanted: Wanted, remote: Remote, path: Path) -> None:
    """Fetch a file to `path`. What an earlier command has left of the same version is gone on with.

    Raises OSError, and what huggingface_hub raises.
    """
    from huggingface_hub.file_download import http_get

    path.parent.mkdir(parents=True, exist_ok=True)
    version = hashlib.sha256(f"{remote.version} {remote.size}".encode()).hexdigest()[:12]
    part = path.with_name(f"{path.name}.{version}.incomplete")
    for old in path.parent.glob(f"{path.name}.*.incomplete"):
        if old != part:
            old.unlink()
    with part.open("ab") as file:
        http_get(
            wanted.address,
            file,
            resume_size=file.tell(),
            expected_size=remote.size or None,
            displayed_filename=path.name,
        )
    os.replace(part, path)
