"""The clips of a training folder, and what lies beside them.

    DATA/train/NAME.mp4 + NAME.jsonl, DATA/val/...        or all in DATA: every tenth clip, by name hash, validates

Actions are optional. Where the preset's actions may lie in .npz files, a recording that holds the frames too is a clip.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from diagd_cli.config import Preset
from diagd_cli.errors import ClipError
from diagd_cli.tokens.actions import steering

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
SPLITS = ("train", "val")
_MAKE = "Put MP4 files there, or make some with: diagd record --out DIR"


def find_clips(folder: Path, preset: Preset) -> dict[str, list[Path]]:
    """The clips of `train` and `val`, sorted by name. Raises ClipError where either has none."""
    if any((folder / split).is_dir() for split in SPLITS):
        found = {split: _clips(folder / split, preset) for split in SPLITS}
        for split, clips in found.items():
            if not clips:
                raise ClipError(f"No MP4 files in {folder / split}", _MAKE)
        return found
    clips = _clips(folder, preset)
    if not clips:
        raise ClipError(f"No MP4 files in {folder}", _MAKE)
    if len(clips) == 1:
        raise ClipError(f"{folder} has one clip", "Training needs two or more: one of them validates")
    order = {clip: int(hashlib.sha256(clip.name.encode()).hexdigest(), 16) for clip in clips}
    val = [clip for clip in clips if order[clip] % 10 == 0]
    if len(val) in (0, len(clips)):  # of few clips, perhaps none or all
        val = [min(clips, key=order.__getitem__)]
    return {"train": [clip for clip in clips if clip not in val], "val": val}


def is_flat(folder: Path) -> bool:
    """Whether the split is made by name hash."""
    return not any((folder / split).is_dir() for split in SPLITS)


def _clips(folder: Path, preset: Preset) -> list[Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    videos = [file for file in files if file.suffix.lower() in VIDEOS]
    names = {video.stem for video in videos}
    recordings = preset.actions is not None and ".npz" in preset.actions.suffixes
    alone = [file for file in files if recordings and file.suffix == ".npz" and file.stem not in names]
    return sorted(videos + alone)


def chunks(frames: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Frames [F, H, W, 3], `length` of them at a time; fewer at the end."""
    frames = iter(frames)
    while some := list(islice(frames, length)):
        yield np.stack(some)


def action_rows(clip: Path, preset: Preset, frames: int) -> np.ndarray:
    """Token ids int64 [frames, A] of the action after each frame; the preset's rest where no file tells.

    Raises UsageError for a bad file, ClipError where it ends before the clip does (the last action may be missing).
    """
    if preset.actions is None:
        return np.zeros((frames, 0), dtype=np.int64)
    file = next((f for f in (clip.with_suffix(s) for s in preset.actions.suffixes) if f.is_file()), None)
    recorded = preset.actions.read(file) if file else None
    if recorded is not None and len(recorded) < frames - 1:
        message = f"{file} has {len(recorded)} actions, {clip.name} has {frames} frames"
        raise ClipError(message, "Write one action a frame, or remove the file")
    return steering(None, recorded, 0, frames, 0, preset.actions.rest)
