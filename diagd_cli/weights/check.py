"""Checking a preset's weights: are they there, are they the right files, do they fit the preset.
Nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diagd_cli.errors import WeightsError
from diagd_cli.files.sizes import decimal
from diagd_cli.sources import WeightsFile
from diagd_cli.weights.locate import Role, locate, roles, verify

if TYPE_CHECKING:
    from diagd_cli.preset import Preset


@dataclass(frozen=True)
class Finding:
    """What was seen of one model's weights.

    good: None where it cannot be told.
    path: the file it is about, if one.
    """

    role: Role
    subject: Literal["files", "checksum", "content", "settings"]
    good: bool | None
    text: str
    path: Path | None = None


def check(preset: Preset, folder: Path | None) -> list[Finding]:
    """Where each model's files are, their checksums whatever their size, and whether names, shapes
    and settings fit.

    folder: where files are looked for first. A file that is missing or wrong is a finding, not an
        error.
    """
    return [finding for role in roles(preset) for finding in _role(preset, role, folder)]


def _role(preset: Preset, role: Role, folder: Path | None) -> Iterator[Finding]:
    from diagd_cli.weights.load import tensors
    from diagd_cli.weights.untold import deviations

    try:
        source, paths = locate(preset, role, folder)
    except WeightsError as error:
        yield Finding(role, "files", False, str(error))
        return
    for path, file in zip(paths, source.files, strict=True):
        yield Finding(role, "files", True, decimal(path.stat().st_size), path)
        yield _checksum(role, path, file)
    try:
        tensors(preset, role, paths)  # checks all before it gives the first
    except WeightsError as error:
        yield Finding(role, "content", False, str(error))
    else:
        yield Finding(role, "content", True, "names and shapes fit the preset")
        yield from (
            Finding(role, "settings", None, line) for line in deviations(preset, role, paths)
        )


def _checksum(role: Role, path: Path, file: WeightsFile) -> Finding:
    kind, value = file.checksum
    if not kind:
        return Finding(role, "checksum", None, "no checksum known", path)
    try:
        verify(path, file)
    except WeightsError as error:
        return Finding(role, "checksum", False, str(error), path)
    return Finding(role, "checksum", True, f"{kind.upper()} {value[:12]} as it should be", path)
