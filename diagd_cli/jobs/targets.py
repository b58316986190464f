"""Which videos are to be made of which clips, and where they go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diagd_cli.errors import UsageError
from diagd_cli.jobs.settings import seeds_from
from diagd_cli.preset import Preset

# what an output ends in: by the preset, which may have no tokenizer, or make images
VIDEO, TOKENS, IMAGE = ".mp4", ".npz", ".png"
CONTINUED = "-continued"
SLASHES = ("/", os.sep)  # at the end of a folder's name


@dataclass(frozen=True)
class Target:
    """One video to make: the continuation of a clip by a seed; or an image of nothing, which has a
    name in place of the clip's.

    label: what is to be seen, for a preset with `labels`.
    """

    clip: Path
    output: Path
    seed: int
    label: int | None = None


def suffix_of(preset: Preset) -> str:
    """What outputs end in."""
    return TOKENS if not preset.pixels else IMAGE if preset.still else VIDEO


def of_nothing(
    preset: Preset,
    labels: Sequence[int] = (),
    output: Path | str | None = None,
    seed: int = 0,
    samples: int = 1,
) -> list[Target]:
    """What is made without a clip: of each label, or with none of anything, by seeds SEED, SEED+1,
    ...; called PRESET-LABEL.png where `output` says nothing. Raises UsageError.
    """
    for label in labels:
        preset.prefix_of(label)
    suffix, seeds = suffix_of(preset), seeds_from(seed, samples)
    asked: list[int | None] = [*dict.fromkeys(labels)] or [None]
    names = [preset.name if label is None else f"{preset.name}-{label}" for label in asked]
    paths = [Path(f"{name}{suffix}") for name in names]
    outputs = output_paths(paths, output, samples, suffix, ending="")
    each = [(path, label, own) for path, label in zip(paths, asked, strict=True) for own in seeds]
    return [
        Target(path, target, own, label)
        for (path, label, own), target in zip(each, outputs, strict=True)
    ]


def continuations(
    clips: Sequence[Path | str],
    output: Path | str | None = None,
    seed: int = 0,
    samples: int = 1,
    suffix: str = VIDEO,
) -> list[Target]:
    """Continuations of clips, by seeds SEED, SEED+1, ... each, at the paths of `output_paths`.
    Raises UsageError.
    """
    paths, seeds = [Path(clip) for clip in clips], seeds_from(seed, samples)
    pairs = [(clip, own) for clip in paths for own in seeds]
    return [
        Target(clip, target, own)
        for (clip, own), target in zip(
            pairs, output_paths(paths, output, samples, suffix), strict=True
        )
    ]


def output_paths(
    clips: list[Path],
    output: str | Path | None,
    samples: int = 1,
    suffix: str = VIDEO,
    ending: str = CONTINUED,
) -> list[Path]:
    """The paths of each clip's samples in turn: FILE, FOLDER/CLIP.mp4, or by default
    CLIP-continued.mp4 here.

    A folder is one that exists, ends with a slash, or has no dot in its name. Several samples of a
    clip are numbered: CLIP-1.mp4, CLIP-2.mp4, ...

    suffix: what they end in, in the place of .mp4.
    ending: of the default's name.

    Raises UsageError.
    """
    path = Path(output or "")
    if output is None:
        targets = [Path(f"{clip.stem}{ending}{suffix}") for clip in clips]
    elif str(output).endswith(SLASHES) or os.path.isdir(path) or not path.suffix:
        targets = [path / f"{clip.stem}{suffix}" for clip in clips]
    elif path.suffix.lower() != suffix:
        raise UsageError(
            f"-o {output} does not end in {suffix}",
            f"Name an {suffix} file or a folder, such as {path}/",
        )
    elif len(clips) > 1:
        raise UsageError(f"-o {output} is one file for {len(clips)} clips", "Name a folder")
    else:
        targets = [path]
    numbers = [f"-{n + 1}" for n in range(samples)] if samples > 1 else [""]
    targets = [
        target.with_name(f"{target.stem}{n}{target.suffix}") for target in targets for n in numbers
    ]
    taken: dict[Path, Path] = {}
    for clip, target in zip([clip for clip in clips for _ in numbers], targets, strict=True):
        if target in taken:
            pair = f"{taken[target]} and {clip} would both be written to {target}"
            raise UsageError(pair, "Rename one, or run them apart")
        taken[target] = clip
    return targets
