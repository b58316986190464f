"""Fetching a preset's weights from the Hugging Face hub, and from releases on GitHub.

The transfer is huggingface_hub's: it retries, goes on after a broken connection, and puts a file in
place only when it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from diagd_cli.errors import OutputError, WeightsError
from diagd_cli.files.outputs import check_outputs
from diagd_cli.files.sizes import decimal
from diagd_cli.preset_files import option_word
from diagd_cli.sources import Source, WeightsFile
from diagd_cli.weights.join import join
from diagd_cli.weights.locate import (
    Role,
    cached,
    entry_of,
    locate,
    parts_of,
    release_folder,
    roles,
    verify,
)
from diagd_cli.weights.mirror import fetch_named
from diagd_cli.weights.refusals import explained
from diagd_cli.weights.release import Remote, download, look
from diagd_cli.weights.wanted import Wanted, endpoint

if TYPE_CHECKING:
    from diagd_cli.preset import Preset

Report = Callable[[str], None]


def pull(preset: Preset, folder: Path | None, token: str | None, report: Report) -> list[Path]:
    """Fetch what is missing of a preset's weights, and return the paths of all of them, their
    checksums verified.

    folder: files go to folder/REPOSITORY'S NAME/FILE; without it, to the cache of huggingface_hub,
        and those of releases below `release_folder`. A file that is published in parts is joined
        there.
    token: the hub's, by default $HF_TOKEN or that of `hf auth login`. report(line) is told what
        happens.

    Raises WeightsError.
    """
    paths: dict[Path, WeightsFile] = {}
    wanted: dict[Wanted, None] = {}  # one file may hold both models
    apart: dict[Wanted, Source] = {}  # what is published in parts
    _check_names(preset)
    for role in roles(preset):
        try:
            source, found = locate(preset, role, folder)
        except WeightsError as error:
            if named := fetch_named(preset, role, folder, report):
                paths |= named
                continue
            for each, source in _missing(preset, role, error, report).items():
                if not each.file.parts:
                    wanted[each] = None
                    continue
                apart[each] = source
                places = parts_of(preset, source, each.file, folder)
                wanted |= {p: None for p, at in zip(each.parts, places, strict=True) if at is None}
        else:
            report(f"The {role} weights are there: {', '.join(map(str, found))}")
            paths |= dict(zip(found, source.files, strict=True))
    if wanted or apart:
        report(f"Licence of {preset.name}: {preset.licence}")
        if preset.duties:
            report(f"Your duties: {preset.duties}")
    if wanted:
        paths |= _fetch(list(wanted), folder, token, report, preset)
    for each, source in apart.items():
        parts = [path for path in parts_of(preset, source, each.file, folder) if path]
        paths = {path: file for path, file in paths.items() if path not in parts}
        paths[_join(each, parts, folder, report)] = each.file
    for path, file in paths.items():
        _verify(path, file, preset)
    return list(paths)


def _check_names(preset: Preset) -> None:
    """Raise WeightsError for a file that would be written elsewhere than below its repository's
    name.
    """
    entries = filter(None, (getattr(preset, f"{role}_weights") for role in roles(preset)))
    for path in (
        PurePosixPath(name)
        for entry in entries
        for s in entry.sources
        if s.project
        for file in s.files
        for name in (file.file, *file.parts)
    ):
        if path.is_absolute() or ".." in path.parts:
            message = f"{preset.name} wants to write to {path}, out of its folder"
            raise WeightsError(message, "Do not trust this preset")


def _join(wanted: Wanted, parts: list[Path], folder: Path | None, report: Report) -> Path:
    """Make one file of its parts, and return its path."""
    place = _place(wanted, folder)
    assert place, "parts are a release's"
    report(f"Joining {wanted.file.file} of {len(parts)} parts")
    join(parts, place / wanted.file.file)
    report(f"The parts are no longer needed: {', '.join(map(str, parts))}")
    return place / wanted.file.file


def _missing(
    preset: Preset, role: Role, error: WeightsError, report: Report
) -> dict[Wanted, Source]:
    """The files of a role's first source, none where they are to be had neither from the hub nor
    from a release; `error` says what is not on disk.
    """
    try:
        source = entry_of(preset, role).sources[0]
    except WeightsError:  # the preset names none
        report(str(error))
        return {}
    if not source.project:
        names = ", ".join(file.file for file in source.files)
        own = "they come with the preset, or you put them beside it"
        get = f"download them from {source.where}, and name their folder with --weights-dir"
        report(f"The {role} weights, {names}, are not on the hub: {get if source.where else own}")
        return {}
    tag = source.release.partition("@")[2]
    return {Wanted(source.project, file, tag): source for file in source.files}


def _fetch(
    wanted: list[Wanted], folder: Path | None, token: str | None, report: Report, preset: Preset
) -> dict[Path, WeightsFile]:
    """Download the files, after a look at whether they are there and have room. Raises
    WeightsError.
    """
    from huggingface_hub import constants

    hub = Path(constants.HF_HUB_CACHE)
    _check_place(wanted, folder, hub, preset)
    remotes = {}
    for each in wanted:
        with explained(each, folder or hub, bool(token)):
            remotes[each] = look(each) if each.tag else Remote(_remote_size(each, token), "")
    targets = {each: folder or (release_folder() if each.tag else hub) for each in wanted}
    for target in dict.fromkeys(targets.values()):
        parts = [each for each in wanted if targets[each] == target]
        _check_room(target, sum(max(0, remotes[p].size - _present(p, folder)) for p in parts))
    paths = {}
    for each, remote in remotes.items():
        report(f"Fetching {each}, {decimal(remote.size)}" if remote.size else f"Fetching {each}")
        try:
            with explained(each, folder or hub, bool(token)):
                path = _fetch_one(each, remote, _place(each, folder), token)
        except KeyboardInterrupt:
            report("Files that are complete are kept; the same command goes on with the others")
            raise
        paths[path] = each.file
    return paths


def _fetch_one(wanted: Wanted, remote: Remote, place: Path | None, token: str | None) -> Path:
    """Fetch a file; place: the folder of its repository's files, None for the hub's cache."""
    from huggingface_hub import hf_hub_download

    name = wanted.file.file
    if wanted.tag and place:
        download(wanted, remote, place / name)
        return place / name
    path = hf_hub_download(wanted.repo, name, token=token, endpoint=endpoint(), local_dir=place)
    return Path(path)


def _place(wanted: Wanted, folder: Path | None) -> Path | None:
    """The folder of a repository's files, None for the hub's cache."""
    if wanted.tag and folder is None:
        folder = release_folder()
    return folder / wanted.folder if folder else None


def _check_place(wanted: list[Wanted], folder: Path | None, hub: Path, preset: Preset) -> None:
    """Raise DiagdError where a folder cannot be written to, or a file of the preset would be;
    before anything is fetched.
    """
    files: dict[Path, str] = {}
    for each in wanted:
        place = _place(each, folder)
        files[place / each.file.file if place else hub / "weights"] = "the weights"
    reads = [(preset.path, "the preset")] if preset.path else []
    try:
        check_outputs(list(files.items()), reads, instead="Name another folder with --weights-dir")
    except OutputError as error:
        raise WeightsError(error.message, "Name another folder with --weights-dir") from None


def _verify(path: Path, file: WeightsFile, preset: Preset) -> None:
    try:
        verify(path, file)
    except WeightsError as error:
        again = f"Delete it and run again: diagd weights pull {option_word(preset)}"
        hint = (
            f"{again}; if that changes nothing, the repository has another version of it than the "
            "preset"
        )
        raise WeightsError(error.message, hint) from None


def _remote_size(wanted: Wanted, token: str | None) -> int:
    """Bytes of a file on the hub; 0 where it does not say."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(wanted.repo, wanted.file.file, endpoint=endpoint())
    return get_hf_file_metadata(url, token=token).size or 0


def _present(wanted: Wanted, folder: Path | None) -> int:
    """Bytes of a file that lies where it would be put."""
    place = _place(wanted, folder)
    path = place / wanted.file.file if place else cached(wanted.repo, wanted.file.file)
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
