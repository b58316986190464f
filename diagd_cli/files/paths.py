"""Paths as JSON can hold them."""

from __future__ import annotations

import os

from diagd_cli.files.url import Place


def path_text(path: Place | str) -> str:
    """A path or URL, or a line with one, as JSON can hold it: bytes that are not UTF-8 are
    replaced.
    """
    return os.fsencode(str(path)).decode("utf-8", "replace")
