"""Paths as JSON can hold them."""

from __future__ import annotations

import os
from pathlib import Path


def path_text(path: Path | str) -> str:
    """A path, or a line with one, as JSON can hold it: bytes that are not UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")
