"""Which videos are to be made of which clips, and where they go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diagd_cli.errors import UsageError
from diagd_cli.jobs.settings import seeds_from

VIDEO, TOKENS = ".mp4", ".npz"  # what an output ends in: by the preset, which may have no tokenizer
SLASHES = ("/", os.sep)  # at the end of a folder's name


@dataclass(frozen=True)
class Target:
    """One video to make: the continuation of a clip by a seed."""

    clip: Path
    output: Path
    seed: int


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
    clips: list[Path], output: str | Path | None, samples: int = 1, suffix: str = VIDEO
) -> list[Path]:
    """The paths of each clip's samples in turn: FILE, FOLDER/CLIP.mp4, or by default
    CLIP-continued.mp4 here.

    A folder is one that exists, ends with a slash, or has no dot in its name. Several samples of a
    clip are numbered: CLIP-1.mp4, CLIP-2.mp4, ...

    suffix: what they end in, in the place of .mp4.

    Raises UsageError.
    """
    path = Path(output or "")
    if output is None:
        targets = [Path(f"{clip.stem}-continued{suffix}") for clip in clips]
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
