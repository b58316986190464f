"""Finding a preset's weight files on disk, and telling whether they are the right ones. Nothing is
loaded here.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diagd_cli.errors import WeightsError
from diagd_cli.files.cache import cache_folder
from diagd_cli.files.url import Url, place
from diagd_cli.sources import Source, Weights, WeightsFile
from diagd_cli.weights.wanted import Wanted

if TYPE_CHECKING:
    from diagd_cli.preset import Preset

WEIGHTS_VARIABLE = "DIAGD_WEIGHTS"
# bytes; hashing a larger file at every start would take as long as loading it
ALWAYS_VERIFIED = 1 << 30
Role = Literal["transformer", "tokenizer", "inverse", "prompt"]
ROLES: tuple[Role, ...] = ("transformer", "tokenizer")  # without which nothing can be generated


def weights_folders(preset: Preset, chosen: Path | None = None) -> list[Path]:
    """Where weight files are looked for, in order: `chosen` or $DIAGD_WEIGHTS, beside the preset,
    with the shipped ones.
    """
    from diagd_cli.preset_files import preset_folder

    variable = os.environ.get(WEIGHTS_VARIABLE)
    named = place(variable) if variable else None
    first = chosen or (mirror(named) if isinstance(named, Url) else named)
    beside = preset.path.parent if preset.path else preset_folder()
    return list(dict.fromkeys([*([first] if first else []), beside, preset_folder()]))


def roles(preset: Preset) -> tuple[Role, ...]:
    """The models whose weights a preset should have: those without which nothing can be generated,
    and others it names.
    """
    own: tuple[Role, ...] = ROLES if preset.pixels else ROLES[:1]
    own = (*own, "inverse") if preset.inverse_weights else own
    return (*own, "prompt") if preset.prompt_weights else own


def entry_of(preset: Preset, role: Role) -> Weights:
    """The preset's entry for the weights of one model. Raises WeightsError where it has none."""
    weights = getattr(preset, f"{role}_weights")
    if weights is None:
        hint = f"Add {role}_weights with file and sha256"
        raise WeightsError(f"The preset {preset.name} names no {role} weights", hint)
    return weights


def locate(preset: Preset, role: Role, chosen: Path | None = None) -> tuple[Source, list[Path]]:
    """The first source whose files are all on disk, and their paths in its order. Raises
    WeightsError.

    A file is looked for in every folder of `weights_folders`, by its name, below its repository's
    name, and below the repository's full name; then in the cache of huggingface_hub, or where
    `release_folder` says.
    """
    weights = entry_of(preset, role)
    folders = weights_folders(preset, chosen)
    found = [
        (source, [_find(source, file, folders) for file in source.files])
        for source in weights.sources
    ]
    for source, paths in found:
        if None not in paths:
            return source, [path for path in paths if path]
    source, paths = max(found, key=lambda part: sum(path is not None for path in part[1]))
    missing = next(file for file, path in zip(source.files, paths, strict=True) if path is None)
    looked = ", ".join(str(folder) for folder in folders)
    of = f" of {source.project}" if source.project else ""
    hint = f"{_get(preset, source, missing)} their folder with --weights-dir or {WEIGHTS_VARIABLE}"
    raise WeightsError(
        f"The {role} weights of {preset.name} are missing: no {missing.url or missing.file}{of}",
        f"Looked in {looked}; {hint}",
    )


def locate_all(preset: Preset, chosen: Path | None = None) -> None:
    """Raise WeightsError, as `locate`, where something that a preset needs is not on disk; before
    other work is done for it, and before what it needs besides is fetched.
    """
    for role in roles(preset):
        if role != "inverse":
            locate(preset, role, chosen)


def _get(preset: Preset, source: Source, missing: WeightsFile) -> str:
    """How somebody gets the files of a source, up to the folder that he is to name."""
    from diagd_cli.preset_files import option_word

    pull = f"fetch them with: diagd weights pull {option_word(preset)}"
    if missing.url and not source.project:
        return f"{pull}; or name"
    if not source.project:
        return f"download them from {source.where}; and name" if source.where else "name"
    page, licence = _page(source), preset.licence.rstrip(".")
    if source.withdrawn:
        told = f"{page} no longer has them, {source.withdrawn} (licence: {licence})"
        return f"{told}; if you have them, name"
    entries = filter(None, (getattr(preset, f"{role}_weights") for role in roles(preset)))
    gates = dict.fromkeys(_page(own.sources[0]) for own in entries if own.sources[0].gated)
    first = ""
    if gates:
        first = f"; first accept the licence at {' and '.join(gates)}, and log in: hf auth login"
    return f"{pull} (from {page}; licence: {licence}{first}); or name"


def _page(source: Source) -> str:
    """Where somebody finds a source's files."""
    return Wanted(source.project, source.files[0], source.release.partition("@")[2]).page


def parts_of(
    preset: Preset, source: Source, file: WeightsFile, chosen: Path | None = None
) -> list[Path | None]:
    """Where a file's parts are on disk, None for those that are not; looked for as in `locate`."""
    folders = weights_folders(preset, chosen)
    return [_find(source, WeightsFile(file=part), folders) for part in file.parts]


def _find(source: Source, file: WeightsFile, folders: list[Path]) -> Path | None:
    if source.release:
        folders = [*folders, release_folder()]
    if file.url:
        folders = [*folders, mirror(file.url.parent)]
    for path in (folder / name for folder in folders for name in names_of(source, file)):
        if os.path.isfile(path):  # also false for a name that no file system takes
            return path
    return cached(source.repo, file.file) if source.repo else None


def names_of(source: Source, file: WeightsFile) -> list[str]:
    """What a file may be called, below a folder of weights."""
    if not source.project:
        return [file.name]
    name = source.project.split("/")[1]
    return [file.file, f"{name}/{file.file}", f"{source.project}/{file.file}"]


def mirror(url: Url) -> Path:
    """The folder of this machine for the files of a URL's folder."""
    return release_folder() / "url" / hashlib.sha256(url.address.encode()).hexdigest()[:16]


def release_folder() -> Path:
    """Where files of releases on GitHub are put when nobody says where."""
    return cache_folder() / "weights"


def cached(repo: str, file: str) -> Path | None:
    """The file in the cache of huggingface_hub, where it has been downloaded."""
    from huggingface_hub import try_to_load_from_cache

    try:
        path = try_to_load_from_cache(repo, file)
    # a name that no repository can have, or a cache that cannot be read
    except (ValueError, OSError):
        return None
    return Path(path) if isinstance(path, str) else None


def verify(path: Path, file: WeightsFile) -> None:
    """Raise WeightsError unless the file on disk has the checksum that the preset names; without
    one, do nothing.
    """
    kind, wanted = file.checksum
    if not kind:
        return
    try:
        seen = digest(path, kind)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise WeightsError(f"{path} cannot be read: {reason}", "Check its permissions") from None
    if seen != wanted:
        name = {"sha256": "SHA-256", "md5": "MD5"}[kind]
        message = (
            f"{path} is damaged or another version: {name} {seen[:12]}, where the preset says "
            f"{wanted[:12]}"
        )
        raise WeightsError(message, f"Fetch the file again, or put its {name} into the preset")


def digest(path: Path, kind: str = "sha256") -> str:
    """Checksum of a file, in hexadecimal."""
    hashed = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()
