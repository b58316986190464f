"""Writing files so that each is complete or not there, and several that belong together all are or
none is.

Everything goes to a hidden temporary file beside its target, which takes the target's name once it
is complete. A failure or Ctrl-C removes the temporary file and leaves whatever was at the target as
it was.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diagd_cli.errors import OutputError
from diagd_cli.files.hidden import hidden_name

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

STDOUT = Path("-")  # the name of a stream that is written to standard output

OTHER_FOLDER = "Choose a folder that you may write to"
_FULL = {  # what no reading of a file can meet
    errno.ENOSPC: "Free some space, or write to another disk",
    errno.EDQUOT: "Free some of your quota, or write to another disk",
    errno.EFBIG: "The file system or a limit (ulimit -f) allows no larger file: write elsewhere",
}
_ADVICE = {
    **_FULL,
    errno.EACCES: OTHER_FOLDER,
    errno.EPERM: OTHER_FOLDER,
    errno.EROFS: OTHER_FOLDER,
    errno.EBADF: "It is closed: send it to a file or pipe that can hold it",
    errno.EPIPE: "What read it has ended; keep it open until the last frame",
    errno.ENAMETOOLONG: "Choose a shorter name",
}


def write_failure(path: str | Path, reason: str) -> OutputError:
    """An OutputError for `reason`, the system's or ffmpeg's words."""
    name = "Standard output" if path == STDOUT else path
    for code, hint in _ADVICE.items():
        if os.strerror(code) in reason:
            return OutputError(f"{name} cannot be written: {os.strerror(code).lower()}", hint)
    return OutputError(f"{name} cannot be written: {reason}", "Check the name and the folder")


def is_full(reason: str) -> bool:
    """Whether `reason`, the system's or ffmpeg's words, is that no more can be written to a
    disk.
    """
    return any(os.strerror(code) in reason for code in _FULL)


class Held:
    """Files of one set that are complete and wait for their names."""

    def __init__(self) -> None:
        self.parts: dict[Path, Path] = {}  # temporary files by target
        self.names: dict[Path, Path] = {}  # the targets as they were given
        self.folders: list[Path] = []  # that have been made for them

    def at(self, path: str | Path) -> Path:
        """Where a file of the set is to be read before it has its name."""
        return self.parts.get(_target(path), Path(path))


_held: ContextVar[Held | None] = ContextVar("held", default=None)


@contextmanager
def together() -> Iterator[Held]:
    """Whatever the block writes, on its own thread, appears when it has ended well: all of it, or
    nothing.

    A file that was written later appears earlier: one that tells of others should be written last,
    so that a killed run leaves no file of which nothing tells. Raises OutputError. A set within a
    set is a part of that one.
    """
    outer = _held.get()
    if outer is not None:
        yield outer
        return
    held = Held()
    token = _held.set(held)
    try:
        try:
            yield held
        finally:
            _held.reset(token)
        replace_all(held.parts, held.names)
        held.folders.clear()
    finally:
        for part in held.parts.values():
            with suppress(OSError):
                part.unlink()
        remove_folders(held.folders)


def replace_all(parts: dict[Path, Path], names: dict[Path, Path]) -> None:
    """Move each temporary file to its target, the last one first; where one cannot be, all is again
    as it was.

    parts: temporary files by target.
    names: targets as messages call them.

    Raises OutputError.
    """
    done: list[tuple[Path, Path | None]] = []
    try:
        for target, part in reversed(parts.items()):
            try:
                done.append((target, _kept(target) if len(parts) > 1 else None))
                os.replace(part, target)
            except OSError as error:
                raise write_failure(
                    names.get(target, target), error.strerror or str(error)
                ) from error
    except BaseException:
        for target, kept in reversed(done):
            _give_back(target, kept, written=not parts[target].exists())
        raise
    for _, kept in done:
        if kept:
            with suppress(OSError):
                kept.unlink()


@contextmanager
def set_aside(*paths: Path) -> Iterator[None]:
    """Nothing is at `paths` any more when the block begins; where it fails, what was there is, and
    nothing else.

    Raises OutputError.
    """
    cleared: dict[Path, Path | None] = {}
    folders: list[Path] = []
    try:
        for path, target in zip(paths, map(_target, paths), strict=True):
            try:
                folders += make_folders(target.parent)
                if target.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                kept = cleared[target] = hidden_name(target) if target.exists() else None
                if kept:
                    os.rename(target, kept)
            except OSError as error:
                raise write_failure(path, error.strerror or str(error)) from error
        yield
    except BaseException:
        for target, kept in cleared.items():
            _give_back(target, kept, written=True)
        remove_folders(folders)
        raise
    for kept in filter(None, cleared.values()):
        with suppress(OSError):
            kept.unlink()


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name when the block ends well, and is
    removed otherwise.

    Folders that are missing are created. The block should do nothing but write the file: an OSError
    in it becomes an OutputError.
    """
    with temporary(Path(path)) as part:
        try:
            yield part
        except OSError as error:
            raise write_failure(path, error.strerror or str(error)) from error


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """`atomic`, but what the block raises passes unchanged."""
    target, held, folders = _target(path), _held.get(), []
    part = hidden_name(target)
    try:
        try:
            folders = make_folders(target.parent)
        except OSError as error:
            raise write_failure(path, error.strerror or str(error)) from error
        yield part
        if held is None:
            replace_all({target: part}, {target: path})
    except BaseException:
        with suppress(OSError):
            part.unlink()
        remove_folders(folders)
        raise
    if held is not None:
        before = held.parts.pop(target, None)  # which this one replaces
        if before:
            before.unlink()
        held.parts[target], held.names[target] = part, path
        held.folders += folders


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8; `path` is complete or untouched. Raises OutputError."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    """Write a value as indented JSON with a final newline, atomically. Raises OutputError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_npz(path: str | Path, /, **arrays: ArrayLike) -> None:
    """Write named arrays as a compressed .npz file, atomically. Raises OutputError."""
    # given a name, numpy would add a suffix to it
    with atomic(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # mypy takes one for `allow_pickle`


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; returns those that were not there, the deepest last. Raises
    OSError.
    """
    missing = [folder]
    while not missing[-1].exists():
        missing.append(missing[-1].parent)
    made: list[Path] = []
    try:
        for path in reversed(missing[:-1]):
            path.mkdir(exist_ok=True)
            made.append(path)
        folder.mkdir(exist_ok=True)  # raises where it is a file
    except BaseException:
        remove_folders(made)
        raise
    return made


def remove_folders(folders: list[Path]) -> None:
    """Remove folders that are empty, the last one first."""
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


def _target(path: str | Path) -> Path:
    """What is replaced: the file that a link points to, not the link."""
    return Path(os.path.realpath(path))


def _kept(target: Path) -> Path | None:
    """Another name for what is at the target, under which it outlives its replacement; None where
    nothing is there.
    """
    if not target.is_file():
        return None
    kept = hidden_name(target)
    try:
        os.link(target, kept)  # so that the target is there at every moment
    except OSError:  # a file system without hard links, or another's file
        os.rename(target, kept)
    return kept


def _give_back(target: Path, kept: Path | None, written: bool) -> None:
    """Have at the target what was there before; `written`: something else may be there now."""
    with suppress(OSError):
        if kept:
            os.replace(kept, target)
        elif written:
            target.unlink()
    if kept:
        with suppress(OSError):  # two names of one file are both there still
            kept.unlink()
