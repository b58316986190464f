"""VBench runs in an environment of its own: videos for it go out, one folder a decoding, and its
results come back.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from diagd_cli.clip.write import VideoWriter
from diagd_cli.errors import OutputError, UsageError
from diagd_cli.schedule.decoding import Decoding

# those of the paper's tables
DIMENSIONS = ("subject_consistency", "imaging_quality", "dynamic_degree")
CRF = 4  # of the H.264: what it loses cannot be seen


class _Video(BaseModel):
    video_path: str


_RESULTS = TypeAdapter(dict[str, tuple[float, list[_Video]]])


def folder_of(decoding: Mapping) -> str:
    """The folder of a decoding, from its facts: `ntp`, `spatial-k2`,
    `diagd-k2-d10-above-no-repair-tuned`.
    """
    method = decoding["method"]
    numbers = {"ntp": "", "diagd": f"-k{decoding['k']}-d{decoding['d']}"}
    numbers["exact"] = f"-{decoding['width']}" if decoding.get("width") else ""
    name = method + numbers.get(method, f"-k{decoding['k']}")
    if method in ("diagd", "spatial") and decoding["stand_in"] != Decoding.stand_in:
        name += f"-{decoding['stand_in']}"
    if method not in ("ntp", "exact"):
        name += ("" if decoding["repair"] else "-no-repair") + (
            "-zero-slots" if decoding["zero_slots"] else ""
        )
    return name + (
        f"-{re.sub(r'[^A-Za-z0-9._-]', '_', decoding['preset'])}" if "preset" in decoding else ""
    )


def video_name(index: int, clip: Path, seed: int) -> str:
    """The name of an exported video; the index keeps clips of one name apart."""
    return f"{index:04d}-{clip.stem}-{seed}.mp4"


def check_export(folder: Path, names: set[str]) -> None:
    """Raise OutputError where a decoding's folder holds anything but `names`: VBench would judge
    that too.
    """
    strangers = sorted(path.name for path in folder.glob("*") if path.name not in names)
    if strangers:
        message = f"{folder} holds {strangers[0]}, which is not of this evaluation"
        raise OutputError(message, "Name another folder with --export-vbench")


def export(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write the new frames uint8 [F, H, W, 3] of one continuation. Raises OutputError."""
    height, width = frames.shape[1:3]
    with VideoWriter(path, height, width, fps, crf=CRF) as writer:
        writer.write(frames)


def commands(root: Path, folders: Sequence[str]) -> list[str]:
    """What to run in VBench's environment, one line a folder and dimension."""
    return [
        f"vbench evaluate --mode custom_input --dimension {dimension} "
        f"--videos_path {shlex.quote(str(root / folder))} --output_path "
        f"{shlex.quote(str(root / 'results' / folder))}"
        for folder in folders
        for dimension in DIMENSIONS
    ]


def read_results(paths: Sequence[Path], folders: Sequence[str]) -> dict[str, dict[str, float]]:
    """Folder of a decoding -> dimension -> mean, from files {DIMENSION: [MEAN, [{"video_path":
    ...}, ...]]}.

    The folder is that of the videos which a file names. Raises UsageError for a file that is
    malformed or of others.
    """
    found: dict[str, dict[str, float]] = {}
    for path in paths:
        for dimension, (mean, videos) in _read(path).items():
            owners = {Path(video.video_path).parent.name for video in videos}
            if len(owners) != 1 or not owners <= set(folders):
                seen = ", ".join(sorted(owners)) or "none"
                message = f"{path}: {dimension} is of videos in {seen}"
                raise UsageError(
                    message, f"They must lie in one folder of --export-vbench: {', '.join(folders)}"
                )
            found.setdefault(owners.pop(), {})[dimension] = mean
    return found


def _read(path: Path) -> dict[str, tuple[float, list[_Video]]]:
    try:
        results = _RESULTS.validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}", "Check the name"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise UsageError(
            f"{path} is not a result of VBench: {what}", "Give a file NAME_eval_results.json"
        ) from None
    for dimension, (mean, _) in results.items():
        if not math.isfinite(mean):
            raise UsageError(f"{path}: {dimension} is {mean}", "Run VBench again on whole videos")
    return results
