"""What the commands do, without a command line: plain records in, files and records out, and a Progress on the way."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "generation": ("Generation", "Video", "generate"),
    "settings": ("Machine", "Settings", "Steering", "choose"),
}
_MODULE = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = list(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
