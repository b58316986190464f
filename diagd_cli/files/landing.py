"""Files behind URLs: written to a file of this machine, and put in their place when they are
complete. fsspec does the transfer.

Whoever writes knows paths alone: a place that is a path is used as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from diagd_cli.errors import DiagdError, OutputError, UsageError
from diagd_cli.files.hidden import hidden_name
from diagd_cli.files.remote import explained, filesystem, found, stage
from diagd_cli.files.url import Place, Url

READ_ONLY = {"http", "https"}  # which could be posted to, and keep no file of that name
SIDECAR = ".json"


@contextmanager
def landed(where: Place, begun: Callable[[], dict] | None = None) -> Iterator[Path]:
    """The path at which a file is written, and others beside it that differ in the suffix: the path
    itself, or one in a folder of this machine, whose files are put where the URL says when the
    block has ended well.

    begun: what the sidecar says until all are there. It is put first, and whole last: a run that is
        killed leaves no complete sidecar beside another's output, and no output without one.

    Raises OutputError. Each file is there whole, or not at all.
    """
    if isinstance(where, Path):
        yield where
        return
    with stage() as folder:
        yield folder / where.name
        files = sorted(folder.iterdir())
        last = [path for path in files if path.suffix == SIDECAR]
        first = [path for path in files if path not in last]
        urls = {where.with_name(path.name): path for path in (*first, *last)}
        if begun and last:
            sidecar = where.with_name(last[0].name)
            fresh = found(sidecar, OutputError) is None
            mark = folder / f".begun{SIDECAR}"
            mark.write_text(json.dumps(begun(), indent=2, ensure_ascii=False), encoding="utf-8")
            put(mark, sidecar)
        else:
            fresh = False
        try:
            for url, path in urls.items():
                put(path, url)
        except Exception:  # after Ctrl-C one may be on its way still, which the sidecar must tell
            for url in urls if fresh else ():
                with suppress(DiagdError):
                    remove(url)
            raise


def put(path: Path, url: Url) -> None:
    """Put a whole file in a URL's place: at once where a store shows only what is complete, else by
    a hidden name beside it. Raises OutputError.
    """
    fs, name = filesystem(url, OutputError)
    with explained(url, "written", OutputError):
        if not _renames(fs):
            fs.put_file(str(path), name)
            return
        folder, _, _ = name.rpartition("/")
        fs.makedirs(folder, exist_ok=True)
        part = f"{folder}/{hidden_name(Path(path.name)).name}"
        try:
            fs.put_file(str(path), part)
            fs.mv(part, name)
        except BaseException:
            with suppress(Exception):
                fs.rm_file(part)
            raise


def _renames(fs: Any) -> bool:
    """Whether a file system has folders, in which files grow and are renamed; stores of objects do
    neither, and fsspec would copy and remove.
    """
    from fsspec.spec import AbstractFileSystem

    return type(fs).mv is not AbstractFileSystem.mv


def remove(where: Place) -> None:
    """Remove a file, if it is there. Raises OutputError for one behind a URL, else OSError."""
    if isinstance(where, Path):
        where.unlink(missing_ok=True)
        return
    fs, name = filesystem(where, OutputError)
    with explained(where, "removed", OutputError), suppress(FileNotFoundError):
        fs.rm_file(name)


def rehearse(urls: Iterable[Url]) -> None:
    """Write an empty file of a hidden name to each bucket or machine, and remove it: credentials, a
    bucket and a network that are not there are told before the work. Raises DiagdError.
    """
    first: dict[str, Url] = {}
    for url in urls:
        first.setdefault(url.root, url)
    for url in first.values():
        if url.scheme in READ_ONLY:
            raise UsageError(
                f"{url} cannot be written: {url.scheme}:// is for reading", "Name another output"
            )
        fs, name = filesystem(url, OutputError)
        with explained(url, "written", OutputError):
            folder = fs._parent(name)
            while _renames(fs) and not fs.isdir(folder) and fs._parent(folder) != folder:
                if fs.exists(folder):
                    raise NotADirectoryError(f"{folder} is not a directory")
                folder = fs._parent(folder)
            trial = f"{folder.rstrip('/')}/{hidden_name(Path('trial')).name}"
            fs.pipe_file(trial, b"")
            with suppress(Exception):  # who may write need not be allowed to remove
                fs.rm_file(trial)
