"""Reading a file that may be a stranger's, and of any size."""

from __future__ import annotations

from pathlib import Path


def read_bounded(path: Path, most: int) -> bytes:
    """All of a file's bytes. Raises ValueError, which says why, for a file that cannot be read or
    has more than `most` bytes, of which no more are read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise ValueError((error.strerror or str(error)).lower()) from None
    if len(content) > most:
        raise ValueError(f"it has more than {most} bytes")
    return content
