"""Which videos are to be made of which clips, and where they go."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diagd_cli.errors import UsageError
from diagd_cli.files.url import Place, Url, place
from diagd_cli.jobs.settings import seeds_from
from diagd_cli.preset import Preset

# what an output ends in: by the preset, which may have no tokenizer, or make images
VIDEO, TOKENS, IMAGE = ".mp4", ".npz", ".png"
CONTINUED = "-continued"
SLASHES = ("/", os.sep)  # at the end of a folder's name


@dataclass(frozen=True)
class Row:
    """A clip, and what it has of its own where that is not the command's.

    actions, prompt: as --actions and --prompt take them.
    frames: new ones.
    key: what tells it from others on every machine, JSON; of a clip alone its path as it was given.
    """

    clip: Place
    actions: str | None = None
    prompt: str | None = None
    seed: int | None = None
    frames: int | None = None
    output: Place | None = None
    key: str = ""

    @property
    def name(self) -> str:
        """What it is told from others by."""
        return self.key or row_key({"clip": self.clip.as_posix()})


def row_key(values: dict[str, object]) -> str:
    """The same text for the same values, whatever their order and the file that they are read
    from.
    """
    told = {name: value for name, value in values.items() if value is not None}
    return json.dumps(told, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of any set of rows, numbered from 1.

    A row's part follows from its SHA-256 alone: machines need not know of each other, and a row
    that is added moves none of the others.
    """

    number: int
    count: int

    def holds(self, row: Row) -> bool:
        """Whether a row is in this part."""
        digest = hashlib.sha256(row.name.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Reads I/N. Raises UsageError for what is none."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(
            f"The shard {text!r} is not I/N with I in 1..N", "The first of eight is 1/8"
        )
    return Shard(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Target:
    """One video to make: the continuation of a clip by a seed; or an image of nothing, which has a
    name in place of the clip's.

    frames, actions, prompt: None for the command's.
    drawn: the seed is one that nobody asked for, and a resumed run takes another for as good.
    label: what is to be seen, for a preset with `labels`.
    """

    clip: Place
    output: Place
    seed: int
    frames: int | None = None
    actions: str | None = None
    prompt: str | None = None
    drawn: bool = False
    label: int | None = None


def suffix_of(preset: Preset) -> str:
    """What outputs end in."""
    return TOKENS if not preset.pixels else IMAGE if preset.still else VIDEO


def of_nothing(
    preset: Preset,
    labels: Sequence[int] = (),
    output: Place | str | None = None,
    seed: int = 0,
    samples: int = 1,
    *,
    drawn: bool = False,
) -> list[Target]:
    """What is made without a clip: of each label, or with none of anything, by seeds SEED, SEED+1,
    ...; called PRESET-LABEL.png where `output` says nothing. Raises UsageError.

    drawn: as in `continuations`.
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
        Target(path, target, own, drawn=drawn, label=label)
        for (path, label, own), target in zip(each, outputs, strict=True)
    ]


def continuations(
    clips: Sequence[Place | str | Row],
    output: Place | str | None = None,
    seed: int = 0,
    samples: int = 1,
    suffix: str = VIDEO,
    *,
    drawn: bool = False,
    shard: Shard | None = None,
) -> list[Target]:
    """Continuations of clips, by seeds SEED, SEED+1, ... each, at the paths of `output_paths`, or
    where a row says.

    seed, drawn: of clips that have no seed of their own; whether nobody has asked for it.
    shard: leaves those of other shards out.

    Raises UsageError.
    """
    rows = [clip if isinstance(clip, Row) else Row(place(clip)) for clip in clips]
    outputs = iter(output_paths(rows, output, samples, suffix))
    targets = []
    for row in rows:
        mine = shard is None or shard.holds(row)
        first = seed if row.seed is None else row.seed
        own = (row.frames, row.actions, row.prompt, drawn and row.seed is None)
        for each in seeds_from(first, samples):
            target = Target(row.clip, next(outputs), each, *own)
            targets += [target] if mine else []
    return targets


def output_paths(
    clips: Sequence[Place | Row],
    output: str | Place | None,
    samples: int = 1,
    suffix: str = VIDEO,
    ending: str = CONTINUED,
) -> list[Place]:
    """The paths of each clip's samples in turn: a row's own output, FILE, FOLDER/CLIP.mp4, or by
    default CLIP-continued.mp4 here.

    Several samples of a clip are numbered: CLIP-1.mp4, CLIP-2.mp4, ...

    suffix: what they end in, in the place of .mp4.
    ending: of the default's name.

    Raises UsageError.
    """
    rows = [clip if isinstance(clip, Row) else Row(clip) for clip in clips]
    path, targets = place(output or ""), list[Place]()
    if output is None or is_folder(output):
        names = "{}" if output is not None else f"{{}}{ending}"
        targets = [row.output or path / (names.format(row.clip.stem) + suffix) for row in rows]
    elif path.suffix.lower() != suffix:
        raise UsageError(
            f"-o {path} does not end in {suffix}",
            f"Name an {suffix} file or a folder, such as {path}/",
        )
    elif len(rows) > 1:
        raise UsageError(f"-o {path} is one file for {len(rows)} clips", "Name a folder")
    else:
        targets = [path]
    numbers = [f"-{n + 1}" for n in range(samples)] if samples > 1 else [""]
    targets = [
        target.with_name(f"{target.stem}{n}{target.suffix}") for target in targets for n in numbers
    ]
    taken: dict[Place, Place] = {}
    for clip, target in zip([row.clip for row in rows for _ in numbers], targets, strict=True):
        if target in taken:
            pair = f"{taken[target]} and {clip} would both be written to {target}"
            raise UsageError(pair, "Rename one, or run them apart")
        taken[target] = clip
    return targets


def is_folder(output: str | Place) -> bool:
    """Whether an output is a folder: one that exists, ends with a slash, or has no dot in its
    name; a URL's existence is not asked for.
    """
    where = place(output)
    there = not isinstance(where, Url) and os.path.isdir(where)
    return str(output).endswith(SLASHES) or there or not where.suffix
