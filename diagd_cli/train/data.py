"""Training data: a folder of MP4s, with per-frame actions beside them, as one memory-mapped array of frames.

    data/train/NAME.mp4 + NAME.jsonl      data/val/NAME.mp4 + NAME.jsonl

Frames are decoded once into `data/cache`; so are their tokens, once a tokenizer is trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diagd_cli.clip.write import atomic
from diagd_cli.errors import ClipError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Episodes:
    """Frames of all episodes of a split, end to end.

    frames: uint8 [N, H, W, 3] (memory-mapped). starts: int64 [E+1], episode e is frames[starts[e] : starts[e+1]].
    actions: int64 [N], the action taken after each frame was seen. key: a hash of the files and the size.
    """

    frames: np.ndarray
    starts: np.ndarray
    actions: np.ndarray
    key: str

    def __len__(self) -> int:
        return len(self.frames)


def load_episodes(
    folder: Path, split: str, height: int, width: int, actions: list[str], progress: Progress = lambda done, total: None
) -> Episodes:
    """Decode (or find in the cache) every clip of `folder/split`. Frames must already be height x width.

    Raises ClipError when there is no clip, or a clip is of another size or an action is unknown.
    """
    clips = sorted((folder / split).glob("*.mp4"))
    if not clips:
        raise ClipError(f"No MP4 files in {folder / split}", "Make some with: diagd record --out DIR")
    names = "\n".join(f"{c.name} {c.stat().st_size}" for c in clips)
    key = hashlib.sha256(f"{names} {height}x{width}".encode()).hexdigest()[:16]
    cached = folder / "cache" / f"{split}-{key}.npy"
    counts = [len(_read_actions(c, actions)) for c in clips]
    starts = np.concatenate([[0], np.cumsum(counts)])
    if not cached.exists():
        _decode_all(clips, starts, height, width, cached, progress)
    labels = np.concatenate([_read_actions(c, actions) for c in clips])
    return Episodes(np.load(cached, mmap_mode="r"), starts, labels, key)


def _read_actions(clip: Path, names: list[str]) -> np.ndarray:
    """Action ids int64 [F] from the JSONL beside the clip, one line a frame."""
    try:
        lines = [json.loads(line) for line in clip.with_suffix(".jsonl").read_text().splitlines() if line.strip()]
        return np.array([names.index(line["action"]) for line in lines], dtype=np.int64)
    except FileNotFoundError:
        raise ClipError(f"{clip.name} has no actions beside it", f"Expected {clip.with_suffix('.jsonl')}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ClipError(
            f"Bad action file {clip.with_suffix('.jsonl')}: {error}", f"Known: {', '.join(names)}"
        ) from None


def _decode_all(clips: list[Path], starts, height: int, width: int, target: Path, progress: Progress) -> None:
    from diagd_cli.clip.read import read_clip

    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic(target) as part:
        frames = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(int(starts[-1]), height, width, 3))
        for i, clip in enumerate(clips):
            decoded = read_clip(clip, context=int(starts[i + 1] - starts[i]), start=0).frames
            if decoded.shape[1:3] != (height, width):
                size = "{1}x{0}".format(*decoded.shape[1:3])
                raise ClipError(f"{clip} is {size}, the preset needs {width}x{height}", "Record or resize it")
            frames[starts[i] : starts[i + 1]] = decoded
            progress(i + 1, len(clips))
        frames.flush()
