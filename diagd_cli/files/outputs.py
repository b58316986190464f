"""What a command is going to write, looked at before it works: that it may be, can be, and destroys
nothing that is read.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from diagd_cli.errors import OutputError, UsageError
from diagd_cli.files.atomic import OTHER_FOLDER, write_failure
from diagd_cli.files.hidden import hidden_name, remove_leftovers
from diagd_cli.files.landing import rehearse
from diagd_cli.files.remote import found
from diagd_cli.files.url import Place, Url

Named = tuple[Place, str]  # a file and what it is, such as "the sidecar"
BLOCK = 4096  # bytes, which a disk that is full has not
CHOOSE = "Choose another output with -o"


def check_outputs(
    writes: Iterable[Named],
    reads: Iterable[Named] = (),
    *,
    force: bool = True,
    instead: str = CHOOSE,
) -> None:
    """Refuse a command before it works: one that would destroy what it reads, or cannot write all
    that it is to write.

    Files are told apart by what they are, not by name: links, and names that a file system takes
    for one, are seen through. What stdout and stderr are sent to counts too. Files that exist are
    refused without `force`. `instead` is the advice where outputs and inputs meet. Every folder is
    tried with the very names, and left as it was; only what killed runs left there is removed. Of
    URLs each bucket or machine is tried.
    Raises UsageError and OutputError.
    """
    writes, reads = list(writes), list(reads)
    _check_apart(writes, reads, instead)
    paths = [(path, what) for path, what in writes if not isinstance(path, Url)]
    for path, _ in writes if not force else paths:  # which of a URL is a request each
        check_free(path, force)
    by_folder: dict[Path, list[tuple[Path, str]]] = {}
    for path, what in paths:
        by_folder.setdefault(_existing_folder(path), []).append((path, what))
    for folder, named in by_folder.items():
        _rehearse(folder, named, instead)
    remove_leftovers(_target(path).parent for path, _ in paths)
    rehearse(path for path, _ in writes if isinstance(path, Url))


def check_free(path: Place, force: bool) -> None:
    """Check that a file may be put at `path`; in place of an existing one only with `force`.

    Raises OutputError where it exists already, is a directory or a device, or may not be replaced.
    """
    if isinstance(path, Url):
        if not force and found(path, OutputError) is not None:
            raise _exists(path)
        return
    try:
        status = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise write_failure(path, str(error.strerror)) from error
    if stat.S_ISDIR(status.st_mode):
        raise OutputError(
            f"{path} is a directory", f"Name a file in it, such as {path / 'out.mp4'}"
        )
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"{path} is not a regular file", "Name a file to write")
    if not force:
        raise _exists(path)
    _check_replaceable(path, status)


def _exists(path: Place) -> OutputError:
    hint = "Choose another name, or replace it with --force"
    return OutputError(f"{path} exists already", hint)


def _check_apart(writes: list[Named], reads: list[Named], instead: str) -> None:
    """Raise UsageError where an output is an input, or two outputs are one file."""
    inputs = {_identity(path): (path, what) for path, what in reads}
    inputs.pop(None, None)
    taken: dict[object, Named] = {}
    for path, what in writes:
        identity = _identity(path)
        if identity in inputs:
            read, kind = inputs[identity]
            which = "" if (read, kind) == (path, "the clip") else f": {kind} {read}"
            raise UsageError(f"{what[0].upper()}{what[1:]} {path} is an input too{which}", instead)
        name = None if isinstance(path, Url) else os.path.realpath(path)
        for key in filter(None, (identity, name)):
            if key in taken:
                raise _one_file(taken[key], (path, what), instead)
            taken[key] = (path, what)
    for identity, stream in _streams():
        if found := inputs.get(identity):
            raise UsageError(
                f"{found[0]}, {found[1]}, is what {stream} is sent to",
                f"Send {stream} to another file",
            )
        if found := taken.get(identity):
            raise UsageError(
                f"{found[0]} would be both {found[1]} and what {stream} is sent to", instead
            )


def _one_file(first: Named, second: Named, instead: str) -> UsageError:
    names = (
        f"{first[0]} would be"
        if first[0] == second[0]
        else f"{first[0]} and {second[0]} are one file,"
    )
    return UsageError(f"{names} both {first[1]} and {second[1]}", instead)


def _rehearse(folder: Path, named: list[tuple[Path, str]], instead: str) -> None:
    """Do in a hidden folder what is going to be done in `folder`: make the files' folders, and
    files of their names.

    Whatever a file system does not take is told by it: permissions, a full disk, names too long or
    with characters that it does not know, and names that are one to it.
    """
    stage, path = hidden_name(folder / "stage"), named[0][0]
    made: dict[str, tuple[Path, str]] = {}
    try:
        stage.mkdir()
        (stage / "block").write_bytes(bytes(BLOCK))
        (stage / "block").unlink()
        for path, what in named:
            trial = stage / _target(path).relative_to(folder)
            trial.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                raise _one_file(made.get(_folded(trial), named[0]), (path, what), instead) from None
            made[_folded(trial)] = (path, what)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            message = f"{path} cannot be written: the directory {folder} is not writable"
            raise OutputError(message, OTHER_FOLDER) from error
        raise write_failure(path, error.strerror or str(error)) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _folded(path: Path) -> str:
    """What names that a file system may take for one have in common."""
    return unicodedata.normalize("NFC", str(path).casefold())


def _check_replaceable(path: Path, status: os.stat_result) -> None:
    """Raise OutputError where a file may not be replaced although its folder may be written to."""
    folder, user = _target(path).parent.stat(), getattr(os, "geteuid", lambda: 0)()
    if folder.st_mode & stat.S_ISVTX and user not in (0, status.st_uid, folder.st_uid):
        raise OutputError(f"{path} cannot be replaced: it is another user's", "Choose another name")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
    except PermissionError as error:
        # it is marked as one that never changes; where only its mode forbids, we may
        if error.errno == errno.EPERM:
            raise write_failure(path, error.strerror or str(error)) from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise write_failure(path, error.strerror or str(error)) from error


def _existing_folder(path: Path) -> Path:
    """The nearest folder of a file that is there. Raises OutputError where it is a file."""
    folder = _target(path).parent
    while not os.path.exists(folder):
        folder = folder.parent
    if not os.path.isdir(folder):
        raise OutputError(f"{path} cannot be written: {folder} is not a directory", OTHER_FOLDER)
    return folder


def _streams() -> Iterator[tuple[tuple[int, int], str]]:
    """What tells the files that stdout and stderr are sent to."""
    for stream, name in (sys.stdout, "stdout"), (sys.stderr, "stderr"):
        with suppress(OSError, ValueError, AttributeError):
            status = os.fstat(stream.fileno())
            if stat.S_ISREG(status.st_mode):
                yield (status.st_dev, status.st_ino), name


def _identity(path: Place) -> tuple[int, int] | Url | None:
    """What tells whether two paths are one file; None where there is none."""
    if isinstance(path, Url):
        return path
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path))
