"""Versions of what decides results."""

from __future__ import annotations

import platform
from importlib.metadata import version

from diagd_cli import __version__

LIBRARIES = ("torch", "numpy", "av")


def versions() -> dict[str, str]:
    """Versions of diagd, Python, and the libraries that decide results."""
    own = {"diagd": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in LIBRARIES}
