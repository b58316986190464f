"""One file of what was published in parts: pieces of a tar within gzip, which holds it.

It is read from front to back, and what the archive calls it does not matter: nothing is written but
the one file that was asked for.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from diagd_cli.errors import OutputError, WeightsError
from diagd_cli.files.atomic import atomic
from diagd_cli.files.sizes import decimal

DAMAGED = tarfile.TarError, EOFError, zlib.error, OSError
BLOCK = 1 << 20


class Joined(io.RawIOBase):
    """The bytes of several files, one after the other."""

    def __init__(self, paths: Sequence[Path]):
        self._rest = list(paths)
        self._file: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, none at the end of the last file."""
        while self._file or self._rest:
            self._file = self._file or self._rest.pop(0).open("rb")
            if data := self._file.read(size):
                return data
            self._file.close()
            self._file = None
        return b""

    def close(self) -> None:
        if self._file:
            self._file.close()
        super().close()


def join(parts: Sequence[Path], target: Path) -> None:
    """Write to `target` the one file with its suffix that the parts hold together, in this order.

    Raises WeightsError for parts that are damaged, or not all there, or hold none or several, and
    where there is no room.
    """
    with Joined(parts) as whole:
        try:
            with atomic(target) as part:
                _extract(whole, part, target, parts)
        except OutputError as error:
            hint = "Free some space, or name another folder with --weights-dir"
            raise WeightsError(error.message, hint) from None


def _extract(whole: Joined, part: Path, target: Path, parts: Sequence[Path]) -> None:
    """Raises as `join`; OSError where it cannot be written."""
    found = 0
    for archive, member in _members(whole, parts):
        # macOS puts files of this name beside those that are packed
        own = member.isfile() and not Path(member.name).name.startswith("._")
        if not own or Path(member.name).suffix != target.suffix:
            continue
        found += 1
        if found == 1:
            _copy(archive, member, part, parts)
    if found != 1:
        message = f"{_told(parts)} hold {found or 'no'} files of the kind {target.suffix}, not one"
        raise WeightsError(message, "They are parts of something else: correct the preset")


def _members(
    whole: Joined, parts: Sequence[Path]
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """(Archive, member) of each that it holds."""
    try:
        with tarfile.open(mode="r|gz", fileobj=whole) as archive:
            for member in archive:
                yield archive, member
    except DAMAGED as error:
        raise _damaged(parts, error) from None


def _copy(
    archive: tarfile.TarFile, member: tarfile.TarInfo, part: Path, parts: Sequence[Path]
) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < member.size:
        raise WeightsError(
            f"{part.parent} has {decimal(free)} free, what is joined takes {decimal(member.size)}",
            "Free some space, or name another folder with --weights-dir",
        )
    stream = archive.extractfile(member)
    assert stream is not None, "a regular file"
    left = member.size
    with part.open("wb") as file:
        while left:
            try:
                block = stream.read(min(BLOCK, left))
            except DAMAGED as error:
                raise _damaged(parts, error) from None
            if not block:
                raise _damaged(parts, EOFError("it ends too early"))
            left -= file.write(block)


def _damaged(parts: Sequence[Path], error: BaseException) -> WeightsError:
    message = f"{_told(parts)} are damaged, or not parts of one archive: {error}"
    return WeightsError(message, "Delete them, and run the same command again")


def _told(parts: Sequence[Path]) -> str:
    names = ", ".join(path.name for path in parts)
    return f"{names} in {parts[0].parent}"
