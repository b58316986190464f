"""Several continuations of one clip, and what is said about each wherever it is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Comparison:
    """Continuations by several decodings, which begin with the same `context` frames.

    rows: the figures of each decoding: label, steps, seconds, speedup, completed. videos: of each, uint8 [F, H, W, 3].
    truth: the clip itself, uint8 [context + n, H, W, 3], None where it ends with the context. temporal: frames a latent
    frame. fps: frames a second.
    """

    rows: list[dict]
    videos: list[np.ndarray]
    truth: np.ndarray | None
    context: int
    temporal: int
    fps: float

    @property
    def new(self) -> int:
        """New frames of each continuation."""
        return len(self.videos[0]) - self.context

    @property
    def shown(self) -> list[np.ndarray]:
        """Every video, ground truth first where there is one."""
        return self.videos if self.truth is None else [self.truth, *self.videos]

    @property
    def names(self) -> list[str]:
        """What `shown` is called."""
        labels = [row["label"] for row in self.rows]
        return labels if self.truth is None else ["ground truth", *labels]

    def abouts(self) -> list[str]:
        """A line about each of `shown`: what it took."""
        lines = [f"{told(row)}, {duration(row['seconds']['decode'])}, {row['speedup']:.1f}x" for row in self.rows]
        return lines if self.truth is None else ["how the clip goes on", *lines]

    def count(self, frame: int) -> str:
        """Which frame that is, counted from 1 in the context and in what is new."""
        if frame < self.context:
            return f"context {frame + 1}/{self.context}"
        return f"frame {frame - self.context + 1}/{self.new}"


def told(row: dict) -> str:
    """How many steps a decoding took."""
    return f"{row['steps']:,} step{'' if row['steps'] == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as they are read: milliseconds where they are few."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
