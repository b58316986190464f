"""Sizes of files in words."""

from __future__ import annotations

UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def decimal(size: int) -> str:
    """A number of bytes as people read it, in powers of 1000: `512 bytes`, `28.9 MB`."""
    value, unit = float(size), 0
    while value >= 1000 and unit + 1 < len(UNITS):
        value, unit = value / 1000, unit + 1
    if unit:
        return f"{value:,.1f} {UNITS[unit]}"
    return "1 byte" if size == 1 else f"{size} bytes"
