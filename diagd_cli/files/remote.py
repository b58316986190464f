"""Files behind URLs: fetched to a file of this machine before they are read. fsspec does the
transfer.

Whoever reads knows paths alone: a place that is a path is used as it is.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from diagd_cli.errors import (
    ClipError,
    DiagdError,
    MissingExtra,
    OutputError,
    UsageError,
    is_out_of_memory,
    one_line,
)
from diagd_cli.files.atomic import is_full
from diagd_cli.files.hidden import hidden_name, remove_leftovers
from diagd_cli.files.url import Place, Url

# Those that are made of another, which settings tell, and those within this process.
WRAPPERS = {
    *("async_wrapper", "asynclocal", "asyncwrapper", "blockcache", "cached", "data", "dir"),
    *("filecache", "generic", "libarchive", "local", "pyscript", "reference", "simplecache"),
    *("tar", "zip"),
}
# Libraries that tell of every failure in a log of their own, too, which goes to stderr unless
# somebody listens.
LOUD = (
    "adlfs",
    "aiobotocore",
    "azure",
    "botocore",
    "fsspec",
    "gcsfs",
    "google",
    "paramiko",
    "s3fs",
)


def filesystem(url: Url, failure: type[DiagdError] = ClipError) -> tuple[Any, str]:
    """The file system of a URL as fsspec makes it, once, and the name there. Nothing is sent yet.

    Raises UsageError for one that is not known or not a plain one, MissingExtra without fsspec, and
    `failure` where what it needs is not installed, or cannot be set up.
    """
    try:
        import fsspec
    except ImportError:
        raise MissingExtra("fsspec", "url", str(url)) from None
    for name in LOUD:
        if not logging.getLogger(name).handlers:
            logging.getLogger(name).addHandler(logging.NullHandler())
    known = {*fsspec.available_protocols(), *fsspec.registry} - WRAPPERS
    if url.scheme not in known:
        raise UsageError(
            f"{url}: {url.scheme}:// is not known, or no store of files",
            "Use s3://, gs://, another that fsspec has, or a path",
        )
    with explained(url, "opened", failure):
        return fsspec.core.url_to_fs(url.address)


@contextmanager
def explained(url: Url, done: str, failure: type[DiagdError]) -> Iterator[None]:
    """Turn whatever a file system raises into one line: the URL cannot be `done`."""
    try:
        yield
    except DiagdError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _refusal(url, done, failure, error) from (None if url.secrets else error)


def _refusal(url: Url, done: str, failure: type[DiagdError], error: Exception) -> DiagdError:
    kind = type(error).__name__
    reason = kind if url.is_told_by(str(error)) else one_line(error).rstrip(".")
    told = f"{url} cannot be {done}: {reason}"
    if isinstance(error, ImportError):
        return failure(told, "Install that where diagd is")
    if isinstance(error, FileNotFoundError):
        missing = f"{url} does not exist" if done == "read" else told
        return failure(missing, "Check the bucket and the name")
    if isinstance(error, PermissionError):
        hint = "Check the credentials, and what they allow: reading, writing, and listing, without "
        return failure(told, f"{hint}which a store calls missing what is forbidden")
    if is_full(str(error)):
        hint = f"Free some space in {tempfile.gettempdir()} and the cache, or set TMPDIR"
        return failure(told, f"{hint} and DIAGD_CACHE to another disk")
    if reason == kind and url.secrets:
        return failure(told, "Give credentials by the settings of the store's own library instead")
    return failure(told, "Check the URL, the credentials and the network, then run it again")


def found(url: Url, failure: type[DiagdError] = ClipError) -> dict | None:
    """What is known of a file, `size` in bytes among it; None where there is none. Raises
    `failure`.
    """
    fs, path = filesystem(url, failure)
    with explained(url, "read", failure):
        try:
            info: dict = fs.info(path)
        except FileNotFoundError as error:
            cause = error.__cause__  # fsspec's HTTP takes a network that is not there for it, too
            if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
                raise cause from None
            return None
    return info


def is_file(where: Place) -> bool:
    """Whether there is a file. Raises ClipError where that cannot be known."""
    if isinstance(where, Path):
        return os.path.isfile(where)  # also false for a name that no file system takes
    info = found(where)
    return info is not None and info.get("type") != "directory"


def fetch(url: Url, path: Path, failure: type[DiagdError] = ClipError) -> None:
    """Fetch a whole file. Raises `failure`."""
    if not _fetched(url, path, failure):
        raise failure(f"{url} does not exist", "Check the bucket and the name")


def _fetched(url: Url, path: Path, failure: type[DiagdError]) -> bool:
    """Fetch a file, if it is there."""
    if url.name in ("", ".", ".."):
        raise failure(f"{url} names no file", "Name one file")
    info = found(url, failure)
    if info is None:
        return False
    if info.get("type") == "directory":
        raise failure(f"{url} is a folder", "Name one file")
    fs, name = filesystem(url, failure)
    with explained(url, "read", failure):
        fs.get_file(name, str(path))
        size, got = info.get("size"), path.stat().st_size
        if size is not None and got != size:
            raise OSError(f"{got} of {size} bytes came")
    return True


@contextmanager
def local(
    where: Place, beside: Sequence[str] = (), failure: type[DiagdError] = ClipError
) -> Iterator[Path]:
    """A file of this machine to read: the path itself, or a copy of what a URL names, which is gone
    when the block ends.

    beside: suffixes of files beside it; the first that is there is fetched, too.

    Raises `failure`. What the block raises tells of the URL.
    """
    if isinstance(where, Path):
        yield where
        return
    with stage() as folder:
        path = folder / where.name
        fetch(where, path, failure)
        for suffix in beside:
            other = where.with_suffix(suffix)
            if other != where and _fetched(other, path.with_suffix(suffix), failure):
                break
        with named(where, path):
            yield path


@contextmanager
def named(where: Place, path: Path) -> Iterator[None]:
    """What the block raises of a copy tells of the URL that it is a copy of."""
    try:
        yield
    except DiagdError as error:
        if isinstance(where, Url):
            for copy, url in (str(path), str(where)), (str(path.parent), str(where.parent)):
                error.message = error.message.replace(copy, url)
                error.hint = error.hint.replace(copy, url)
            error.args = (error.message,)
        raise


def read_text(where: Place) -> str:
    """A file's text, UTF-8. Raises FileNotFoundError where there is none, OSError for a path, and
    OutputError for a URL.
    """
    if isinstance(where, Path):
        return where.read_text(encoding="utf-8")
    if found(where, OutputError) is None:
        raise FileNotFoundError(str(where))
    fs, name = filesystem(where, OutputError)
    with explained(where, "read", OutputError):
        return bytes(fs.cat_file(name)).decode("utf-8")


def check_readable(urls: Iterable[Url], failure: type[DiagdError] = ClipError) -> None:
    """Check that fsspec knows what it takes to read URLs; nothing is sent. Raises DiagdError."""
    for url in {url.scheme: url for url in urls}.values():
        filesystem(url, failure)


@contextmanager
def stage() -> Iterator[Path]:
    """A folder of this machine that is gone when the block ends."""
    _tidy()
    folder = hidden_name(Path(tempfile.gettempdir()) / "stage")
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(
            f"No folder can be made in {folder.parent}: {reason}", "Set TMPDIR to another disk"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=1)
def _tidy() -> None:
    remove_leftovers([Path(tempfile.gettempdir())])
