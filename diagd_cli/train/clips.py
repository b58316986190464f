"""The clips of a training folder, and what lies beside them.

DATA/train/NAME.mp4 + NAME.jsonl, DATA/val/...        or all in DATA: every tenth clip, by name
hash, validates

Actions are optional. Where the preset's actions may lie in .npz files, a recording that holds the
frames too is a clip.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from diagd_cli.errors import ClipError
from diagd_cli.preset import Preset
from diagd_cli.tokens.actions import recorded_beside, steering

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
SPLITS = ("train", "val")
_MAKE = "Put MP4 files there, or make some with: diagd record --out DIR"


def find_clips(folder: Path, preset: Preset) -> dict[str, list[Path]]:
    """The clips of `train` and `val`, sorted by name. Raises ClipError where either has none."""
    if not is_flat(folder):
        return {split: _clips(folder / split, preset) for split in SPLITS}
    clips = _clips(folder, preset)
    if len(clips) == 1:
        raise ClipError(
            f"{folder} has one clip", "Training needs two or more: one of them validates"
        )
    order = {clip: int(hashlib.sha256(os.fsencode(clip.name)).hexdigest(), 16) for clip in clips}
    val = [clip for clip in clips if order[clip] % 10 == 0]
    if len(val) in (0, len(clips)):  # of few clips, perhaps none or all
        val = [min(clips, key=order.__getitem__)]
    return {"train": [clip for clip in clips if clip not in val], "val": val}


def is_flat(folder: Path) -> bool:
    """Whether the split is made by name hash."""
    return not any(os.path.isdir(folder / split) for split in SPLITS)


def _clips(folder: Path, preset: Preset) -> list[Path]:
    """The clips of one folder, sorted by name; hidden files are other programs'. Raises ClipError
    where it has none.
    """
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    except FileNotFoundError:
        split = folder.name in SPLITS and folder.parent.is_dir()
        hint = "Where there is train/ or val/, there must be both" if split else _MAKE
        raise ClipError(f"{folder} does not exist", hint) from None
    except OSError as error:
        raise ClipError(
            f"{folder} cannot be read: {(error.strerror or str(error)).lower()}",
            "Name a folder of clips",
        ) from None
    videos = [file for file in files if file.suffix.lower() in VIDEOS]
    names = {video.stem for video in videos}
    recordings = preset.actions is not None and ".npz" in preset.actions.suffixes
    alone = [
        file for file in files if recordings and file.suffix == ".npz" and file.stem not in names
    ]
    if not videos + alone:
        below = min(folder.glob("*/*.mp4"), default=None)
        hint = (
            f"There is {below}, but only the folder itself is searched, or its train/ and val/"
            if below
            else _MAKE
        )
        raise ClipError(f"No MP4 files in {folder}", hint)
    return sorted(videos + alone)


def describe_clips(split: str, clips: Sequence[Path]) -> str:
    """What a message calls the clips of a split: `the clips that validate (a.mp4, b.mp4)`."""
    names = list(dict.fromkeys(clip.name for clip in clips))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"the clips that {'validate' if split == 'val' else 'train'} ({shown})"


def chunks(frames: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Frames [F, H, W, 3], `length` of them at a time; fewer at the end."""
    frames = iter(frames)
    while some := list(islice(frames, length)):
        yield np.stack(some)


def action_rows(clip: Path, preset: Preset, frames: int) -> np.ndarray:
    """Token ids int64 [frames, A] of the action after each frame; the preset's rest where no file
    tells.

    Raises UsageError for a bad file, such as one that ends before the clip does (the last action
    may be missing).
    """
    if preset.actions is None:
        return np.zeros((frames, 0), dtype=np.int64)
    recorded = recorded_beside(clip, preset.actions, frames)
    return steering(None, recorded, 0, frames, 0, preset.actions.rest)
