"""The folder of what diagd keeps for later runs."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "DIAGD_CACHE"


def cache_folder() -> Path:
    """$DIAGD_CACHE, or `diagd` in the user's cache folder."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get(CACHE_VARIABLE) or Path(folder) / "diagd")
