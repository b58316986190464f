"""Fetching a preset's weights from the Hugging Face hub, and saying in one line what to do where
that fails.

The transfer is huggingface_hub's: it retries, goes on after a broken connection, and puts a file in
place only when it is whole.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from diagd_cli.errors import OutputError, WeightsError
from diagd_cli.files.outputs import check_outputs
from diagd_cli.files.sizes import decimal
from diagd_cli.sources import WeightsFile
from diagd_cli.weights.locate import Role, cached, entry_of, locate, roles, verify

if TYPE_CHECKING:
    from diagd_cli.preset import Preset

Report = Callable[[str], None]

HUB = "https://huggingface.co"
REFUSED, FORBIDDEN, GONE = 401, 403, (404, 410)
ELSEWHERE = "fetch the files elsewhere and name their folder with --weights-dir"


@dataclass(frozen=True)
class Wanted:
    """A file that is not here yet."""

    repo: str
    file: WeightsFile

    @property
    def folder(self) -> str:
        """Where it is put, and found, below the folder of all weights: its repository's name."""
        return self.repo.split("/")[1]

    def __str__(self) -> str:
        return f"{self.file.file} of {self.repo}"


def pull(preset: Preset, folder: Path | None, token: str | None, report: Report) -> list[Path]:
    """Fetch what is missing of a preset's weights, and return the paths of all of them, their
    checksums verified.

    folder: files go to folder/REPOSITORY'S NAME/FILE; without it, to the cache of huggingface_hub.
    token: the hub's, by default $HF_TOKEN or that of `hf auth login`. report(line) is told what
        happens.

    Raises WeightsError.
    """
    paths: dict[Path, WeightsFile] = {}
    wanted: dict[Wanted, None] = {}  # one file may hold both models
    _check_names(preset)
    for role in roles(preset):
        try:
            source, found = locate(preset, role, folder)
        except WeightsError as error:
            wanted |= dict.fromkeys(_missing(preset, role, error, report))
        else:
            report(f"The {role} weights are there: {', '.join(map(str, found))}")
            paths |= dict(zip(found, source.files, strict=True))
    if wanted:
        report(f"Licence of {preset.name}: {preset.licence}")
        if preset.duties:
            report(f"Your duties: {preset.duties}")
        paths |= _fetch(list(wanted), folder, token, report, preset)
    for path, file in paths.items():
        _verify(path, file, preset)
    return list(paths)


def _check_names(preset: Preset) -> None:
    """Raise WeightsError for a file that would be written elsewhere than below its repository's
    name.
    """
    entries = filter(None, (getattr(preset, f"{role}_weights") for role in roles(preset)))
    for path in (
        PurePosixPath(file.file)
        for entry in entries
        for s in entry.sources
        if s.repo
        for file in s.files
    ):
        if path.is_absolute() or ".." in path.parts:
            message = f"{preset.name} wants to write to {path}, out of its folder"
            raise WeightsError(message, "Do not trust this preset")


def _missing(preset: Preset, role: Role, error: WeightsError, report: Report) -> list[Wanted]:
    """The files of a role's first source, none where they are not the hub's; `error` says what is
    not on disk.
    """
    try:
        source = entry_of(preset, role).sources[0]
    except WeightsError:  # the preset names none
        report(str(error))
        return []
    if not source.repo:
        names = ", ".join(file.file for file in source.files)
        own = "they come with the preset, or you put them beside it"
        get = f"download them from {source.where}, and name their folder with --weights-dir"
        report(f"The {role} weights, {names}, are not on the hub: {get if source.where else own}")
        return []
    return [Wanted(source.repo, file) for file in source.files]


def _fetch(
    wanted: list[Wanted], folder: Path | None, token: str | None, report: Report, preset: Preset
) -> dict[Path, WeightsFile]:
    """Download the files, after a look at whether they are there and have room. Raises
    WeightsError.
    """
    from huggingface_hub import constants, hf_hub_download

    target = folder or Path(constants.HF_HUB_CACHE)
    _check_place(wanted, target, folder is not None, preset)
    sizes = {}
    for each in wanted:
        with _explained(each, target, bool(token)):
            sizes[each] = _remote_size(each, token)
    _check_room(target, sum(max(0, size - _present(each, folder)) for each, size in sizes.items()))
    paths = {}
    for each, size in sizes.items():
        report(f"Fetching {each}, {decimal(size)}" if size else f"Fetching {each}")
        place = folder / each.folder if folder else None
        try:
            with _explained(each, target, bool(token)):
                path = hf_hub_download(
                    each.repo, each.file.file, token=token, endpoint=_endpoint(), local_dir=place
                )
        except KeyboardInterrupt:
            report("Files that are complete are kept; the same command goes on with the others")
            raise
        paths[Path(path)] = each.file
    return paths


def _check_place(wanted: list[Wanted], target: Path, chosen: bool, preset: Preset) -> None:
    """Raise DiagdError where a folder cannot be written to, or a file of the preset would be;
    before anything is fetched.
    """
    files = {target / each.folder / each.file.file: "the weights" for each in wanted}
    writes = list(files.items()) if chosen else [(target / "weights", "the weights")]
    reads = [(preset.path, "the preset")] if preset.path else []
    try:
        check_outputs(writes, reads, instead="Name another folder with --weights-dir")
    except OutputError as error:
        raise WeightsError(error.message, "Name another folder with --weights-dir") from None


def _verify(path: Path, file: WeightsFile, preset: Preset) -> None:
    try:
        verify(path, file)
    except WeightsError as error:
        again = f"Delete it and run again: diagd weights pull {preset.name}"
        hint = (
            f"{again}; if that changes nothing, the repository has another version of it than the "
            "preset"
        )
        raise WeightsError(error.message, hint) from None


def _endpoint() -> str | None:
    """Where the hub is, if not at its own address: read now, where huggingface_hub has read it when
    it was imported.
    """
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _remote_size(wanted: Wanted, token: str | None) -> int:
    """Bytes of a file on the hub; 0 where it does not say."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(wanted.repo, wanted.file.file, endpoint=_endpoint())
    return get_hf_file_metadata(url, token=token).size or 0


def _present(wanted: Wanted, folder: Path | None) -> int:
    """Bytes of a file that lies where it would be put."""
    path = (
        folder / wanted.folder / wanted.file.file
        if folder
        else cached(wanted.repo, wanted.file.file)
    )
    return path.stat().st_size if path and path.is_file() else 0


def _check_room(target: Path, needed: int) -> None:
    """Raise WeightsError unless the file system of a folder, which need not exist yet, has so many
    bytes free.
    """
    existing = next(path for path in (target, *target.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        message = f"{target} has {decimal(free)} free, the weights take {decimal(needed)}"
        raise WeightsError(message, "Free some space, or name another folder with --weights-dir")


# ---- failures ------------------------------------------------------------------------------------


@contextmanager
def _explained(wanted: Wanted, target: Path, has_token: bool) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line that says what to do."""
    from huggingface_hub.errors import HTTPError  # of the HTTP library that it uses

    try:
        yield
    except WeightsError:
        raise
    # RuntimeError: from its compiled transfer
    except (OSError, HTTPError, ValueError, RuntimeError) as error:
        raise _explain(error, wanted, target, has_token) from None


def _explain(error: Exception, wanted: Wanted, target: Path, has_token: bool) -> WeightsError:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    reason = re.sub(
        r"^\[Errno -?\d+\] ", "", next(iter(str(error).strip().splitlines()), type(error).__name__)
    )
    response = getattr(error, "response", None)
    status = None if response is None else response.status_code
    if isinstance(error, GatedRepoError):
        return _gated(wanted, has_token)
    if isinstance(error, RepositoryNotFoundError) or (
        status in GONE and not isinstance(error, EntryNotFoundError)
    ):
        hint = (
            f"If it was withdrawn, {ELSEWHERE}; if it is private, set HF_TOKEN to a token that may "
            "read it"
        )
        return WeightsError(
            f"The repository {wanted.repo} is not on the hub, or not for everyone", hint
        )
    if status in GONE:
        return WeightsError(f"There is no {wanted}", f"It was withdrawn or renamed; {ELSEWHERE}")
    if status == REFUSED:
        hint = "Set HF_TOKEN to a valid one, or run: hf auth login"
        return WeightsError(f"The hub does not know the token that was sent for {wanted}", hint)
    if status == FORBIDDEN:
        return WeightsError(
            f"The hub does not give {wanted} to everyone: {reason}", f"See {_page(wanted)}"
        )
    if status is not None:
        return WeightsError(
            f"The hub cannot give {wanted} now: {reason}", f"Try again later, or {ELSEWHERE}"
        )
    if isinstance(error, OfflineModeIsEnabled):
        return WeightsError(
            f"{wanted} is not fetched, as HF_HUB_OFFLINE is set", f"Unset it, or {ELSEWHERE}"
        )
    if "No space left" in str(error) or "quota exceeded" in str(error):
        hint = (
            "Free some space, or name another folder with --weights-dir; what is complete is kept"
        )
        return WeightsError(f"No room for {wanted} in {target}", hint)
    if isinstance(error, OSError) and error.filename:
        why = (error.strerror or str(error)).lower()
        return WeightsError(
            f"{error.filename} cannot be written: {why}", "Name another folder with --weights-dir"
        )
    hint = (
        "Check the connection and run the same command again, which keeps what is complete; or "
        f"{ELSEWHERE}"
    )
    return WeightsError(f"{wanted} was not fetched: {reason}", hint)


def _gated(wanted: Wanted, has_token: bool) -> WeightsError:
    """A licence must be accepted first, by the account whose token is sent."""
    from huggingface_hub import get_token

    with_token = "by the account of the token that is sent"
    first = "then set HF_TOKEN to your token, or run: hf auth login"
    hint = (
        f"Accept the licence at {_page(wanted)}, "
        f"{with_token if has_token or get_token() else first}"
    )
    return WeightsError(f"{wanted.repo} is given only to those who accept its licence", hint)


def _page(wanted: Wanted) -> str:
    return f"{_endpoint() or HUB}/{wanted.repo}"
