"""What tests of a vote start from: two folders of small videos, a key, and files of votes."""

import json
from pathlib import Path

import numpy as np

from diagd_cli.clip.write import VideoWriter
from diagd_cli.jobs.vote.records import Key, Pair, Votes

GREY = {"ntp": 60, "diagd": 180}  # the level of every pixel, so that a picture tells its folder


def make_folders(
    root: Path, names=("a.mp4", "b.mp4", "c.mp4"), frames: int = 12
) -> tuple[Path, Path]:
    """Folders ntp and diagd with videos of 64x48 pixels, 12 frames a second."""
    for folder, level in GREY.items():
        for name in names:
            with VideoWriter(root / folder / name, 48, 64, 12) as writer:
                writer.write(np.full((frames, 48, 64, 3), level, np.uint8))
    return root / "ntp", root / "diagd"


def make_key(lefts: str = "abab") -> Key:
    """A key of pairs 1, 2, ... whose left videos are of the folders in `lefts`."""
    pairs = {str(n): Pair(name=f"{n}.mp4", left=left) for n, left in enumerate(lefts, 1)}
    return Key(vote="0123", question="Which?", seed=0, a="ntp", b="diagd", pairs=pairs)


def make_votes(choices: dict, ballot: int = 0, **other) -> Votes:
    return Votes(
        format="diagd-votes", ballot=f"{ballot:016x}", choices=choices, **{"vote": "0123", **other}
    )


def write_votes(path: Path, votes: Votes, **changes) -> Path:
    path.write_text(json.dumps({**votes.model_dump(), **changes}))
    return path
