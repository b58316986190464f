"""Weights that lie behind a URL: each file is fetched once, into the cache of this machine.

It has its name there when it is whole and has the preset's checksum, however many processes fetch
it at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from diagd_cli.errors import WeightsError
from diagd_cli.files.hidden import hidden_name, remove_leftovers
from diagd_cli.files.remote import fetch, found, named
from diagd_cli.files.url import Url
from diagd_cli.sources import Source, WeightsFile
from diagd_cli.weights.locate import Role, entry_of, locate, mirror, names_of, roles, verify

if TYPE_CHECKING:
    from diagd_cli.preset import Preset


def fetch_missing(preset: Preset, url: Url) -> None:
    """Fetch what a preset's weights need of a URL's folder and `mirror` has not: of the first
    source whose files are all there. What is not there may be where `locate` looks else.

    Raises WeightsError.
    """
    for role in roles(preset):
        entry = getattr(preset, f"{role}_weights")
        sources = entry.sources if entry else ()
        if any(all(_has(source, file, url) for file in source.files) for source in sources):
            continue
        try:
            locate(preset, role)
        except WeightsError as error:
            if role != "inverse":  # which nobody may ask for
                raise WeightsError(f"{error.message} is in {url}", error.hint) from None


def fetch_named(
    preset: Preset, role: Role, folder: Path | None, report: Callable[[str], None]
) -> dict[Path, WeightsFile]:
    """The files of the first source of a model's weights, where a preset names all of them by URLs;
    they are fetched, into a folder or the mirror. None where it does not. Raises WeightsError.
    """
    try:
        files = entry_of(preset, role).sources[0].files
    except WeightsError:
        return {}
    paths = {}
    for file in files:
        if not file.url:
            return {}
        path = (folder or mirror(file.url.parent)) / file.name
        if not path.is_file():
            report(f"Fetching {file.url}")
            _fetch(file.url, path, file)
        paths[path] = file
    return paths


def _has(source: Source, file: WeightsFile, url: Url) -> bool:
    """Whether a file is in the mirror now."""
    folder = mirror(url)
    names = [name for name in names_of(source, file) if _is_below(name)]
    if any((folder / name).is_file() for name in names):
        return True
    for name in names:
        if found(url / name, WeightsError):
            _fetch(url / name, folder / name, file)
            return True
    return False


def _is_below(name: str) -> bool:
    """Whether a name that a preset gives leads nowhere else."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name)


def _fetch(url: Url, path: Path, file: WeightsFile) -> None:
    part = hidden_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers([path.parent])
        with named(url, part):
            fetch(url, part, WeightsError)
            verify(part, file)
        os.replace(part, path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "Set DIAGD_CACHE to a folder that may be written to"
        raise WeightsError(f"{path} cannot be written: {reason}", hint) from error
    finally:
        with suppress(OSError):
            part.unlink()
